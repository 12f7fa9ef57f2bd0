"""EDM's checkpoints as NVIDIA publishes them, and ECT's, which are of the same kind: pickles, read without running anything in them.

Such a file holds the source code of its own classes, and the ordinary way of opening it executes that code. Here every object
that the file asks for becomes a record of its name, arguments and state instead (:mod:`cdedu.pretrained.pickles`). A short list
says which names may occur; any other ends the reading. Tensors are opened last, one by one, after all names and shapes have been
found to fit the network.

The published weights are licensed CC BY-NC-SA 4.0, so what is distilled from them is too.

Source: Karras et al. 2022, tables 1 and 7; Geng et al. 2024 (ECT).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from cdedu.adapters import IDDPM, VE, VP
from cdedu.checkpoints import Header
from cdedu.files import check_weights, regular
from cdedu.networks import bounds
from cdedu.networks.bounds import number, shown, whole
from cdedu.pretrained.pickles import Laid, Record, laid, open_tensor, read_pickle, read_storage
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

Model = Teacher | ConsistencyModel | VP | VE | IDDPM


def is_edm(path: str | Path) -> bool:
    """Whether a file begins like a checkpoint of EDM; it may still be damaged, or refused by :func:`load_edm`."""
    try:
        with open(regular(path), "rb") as file:
            head = file.read(65_536)
    except (OSError, ValueError):
        return False
    return head.startswith(b"\x80") and b"_reconstruct_persistent_obj" in head


def load_edm(path: str | Path) -> Model:
    """The denoiser in one of EDM's pickles, or the student in one of ECT's, in evaluation mode and float32.

    A denoiser is a :class:`~cdedu.teacher.Teacher`, or :class:`~cdedu.adapters.VP`, :class:`~cdedu.adapters.VE` or
    :class:`~cdedu.adapters.IDDPM` for the baselines. Conditional ones take ``labels``, (B,) int64; without labels they see EDM's row
    of zeros. ``model.header`` holds shape and recipe as after :func:`cdedu.checkpoints.load`, so ``checkpoints.save(file, model,
    model.header.recipe, model.header.shape)`` makes a safetensors file of it.

    ECT's student is a :class:`~cdedu.student.ConsistencyModel` with the ε of its file (.003 in ECT's code): that is how ECT evaluates
    and samples it. ECT trains it with EDM's own coefficients, whose boundary is at 0. Its second of two steps starts at σ = .821.
    There ECT adds noise of σ, :func:`~cdedu.samplers.sample_consistency` of √(σ² − ε²), which differs by 7 parts in a million.

    Args:
        path: such as ``edm-cifar10-32x32-uncond-vp.pkl``, its ``-ve`` or ``-cond-`` sisters, ``edm-ffhq-64x64-*.pkl``,
            ``edm-imagenet-64x64-cond-adm.pkl``, the ``baseline-*.pkl`` beside them, or a ``network-snapshot-*.pkl`` of EDM's own
            training, or of ECT's (branches ``main`` and ``amp``; the networks of its branch ``imgnet`` are EDM2's).

    Raises:
        OSError: if the file cannot be read.
        ValueError: for a file that is no such checkpoint, is damaged, names anything else than such checkpoints do, or holds
            a network that is not known here.
    """
    with open(regular(path, "checkpoint"), "rb") as file:
        try:
            # Mapped rather than read: what it promises beyond its end is not there, and takes no memory.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                model = _denoiser(read_pickle(data, _NAMES)["ema"], Path(path), len(data))
        except Exception as error:  # a damaged pickle can raise anything
            why = str(error).strip().partition("\n")[0][:300]
            why = why if isinstance(error, ValueError) else f"{type(error).__name__}: {why}"
            raise ValueError(
                f"{path} is refused, and nothing in it was run: not a checkpoint of EDM, or damaged ({why})"
            ) from None
    return model.eval()


_NAMES = {
    "torch_utils.persistence._reconstruct_persistent_obj",
    "torch.storage._load_from_bytes",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.nn.modules.container.ModuleDict",
    "collections.OrderedDict",
    "builtins.set",
    "dnnlib.util.EasyDict",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "builtins.getattr",
}
"""What a checkpoint of EDM may name. ``getattr`` stands for a method of ECT's loss; like all others, it is never called."""


_DDPMPP = {"embedding_type": "positional", "channel_mult_noise": 1, "resample_filter": [1, 1]}
_DDPMPP |= {"encoder_type": "standard", "decoder_type": "standard"}
_NCSNPP = {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
_KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "SongUNet": {"ddpmpp": _DDPMPP, "ncsnpp": _DDPMPP | _NCSNPP | {"encoder_type": "residual"}},
    "DhariwalUNet": {"adm": {}},
}
"""Which arguments of EDM's networks make it which of ours."""

_SONG = {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16]}
_ADM = {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8]}
_ALWAYS = {"label_dim": 0, "dropout": 0.1, "channel_mult_emb": 4, "label_dropout": 0, "augment_dim": 0}
_DEFAULTS = {"SongUNet": _ALWAYS | _SONG | _DDPMPP, "DhariwalUNet": _ALWAYS | _ADM}
"""The values that hold where a file says nothing."""


_PRECONDITIONINGS = ("EDMPrecond", "ECMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")


def _denoiser(record: Any, path: Path, size: int) -> Model:
    """The model of a record; ``size`` is that of its file in bytes, more than which its tensors cannot have."""
    wrapper, state = _persistent(record)
    if wrapper == "Precond":
        raise ValueError(
            "its network is EDM2's, whose layers keep the magnitude of what they see; those of EDM and of ECT on CIFAR-10 are known"
        )
    if wrapper not in _PRECONDITIONINGS:
        known = ", ".join(_PRECONDITIONINGS)
        raise ValueError(f"its preconditioning {shown(wrapper)} is not known here; known are {known}")
    kind, net = _persistent(state["_modules"]["model"])
    variances = wrapper == "iDDPMPrecond"
    network, shape = _architecture(kind, net["_init_kwargs"], 2 if variances else 1)
    with bounds.without_memory():
        built = network.build(shape)
    _fill(built, dict(_tensors(state["_modules"].pop("model"))), size, variances)

    def value(key: str, low: float, high: float) -> float:
        return number(key, state[key], low, high)

    more: dict[str, Any] = {}
    model: Model
    if wrapper == "EDMPrecond":
        model = Teacher(built, value("sigma_data", 1e-6, 1e6))
    elif wrapper == "ECMPrecond":
        model = ConsistencyModel(built, value("sigma_data", 1e-6, 1e6), value("sigma_min", 1e-6, 0.8))
        more = {"student": StudentStage(method="easy", second_sigma=0.821), "sigma_min": model.sigma_min}
    elif wrapper == "VPPrecond":
        betas = value("beta_d", 1e-6, 100), value("beta_min", 0, 100)
        model = VP(built, *betas, whole("M", state["M"], 2, 1_000_000), value("epsilon_t", 1e-12, 1))
    elif wrapper == "VEPrecond":
        model = VE(built, value("sigma_min", 1e-12, 1e6), value("sigma_max", 1e-12, 1e6))
    else:
        steps = whole("M", state["M"], 2, 100_000)
        model = IDDPM(built, steps, value("C_1", 1e-12, 0.99), value("C_2", 0, 100))
    sigma_data = getattr(model, "sigma_data", 0.5)
    recipe = Recipe(path.stem, data="", network=network, sigma_data=sigma_data, **more)
    model.header = Header(shape, recipe, network.classes, network.classes, facts={"source": path.name})
    return model


def _persistent(record: Any) -> tuple[Any, Any]:
    """Name and state of an object that came with its own source code."""
    name = record.name if type(record) is Record else ""
    if name != "torch_utils.persistence._reconstruct_persistent_obj":
        raise ValueError(f"a network is missing where {name or shown(record)!r} stands")
    return record.args[0]["class_name"], record.args[0]["state"]


def _architecture(kind: Any, arguments: Any, outputs: int) -> tuple[Network, tuple[int, int, int]]:
    """Our name of EDM's network, and the shape of its images, for each of whose channels it has so many outputs."""
    if type(kind) is not str or kind not in _KINDS:
        raise ValueError(f"its network {shown(kind)} is not known here")
    options = _DEFAULTS[kind] | arguments
    size, c_in, c_out = (
        whole(key, options.pop(key), *bounds.SIZES)
        for key in ("img_resolution", "in_channels", "out_channels")
    )
    for key in options.keys() - _DEFAULTS[kind].keys():
        raise ValueError(f"its network {kind} has an option {key!r:.80}, which is not known here")
    ours = [name for name, fixed in _KINDS[kind].items() if fixed.items() <= options.items()]
    if not ours or outputs * c_in != c_out or options["channel_mult_emb"] != 4:
        raise ValueError(f"its network {kind} is none of {', '.join(_KINDS[kind])}")
    multipliers = tuple(bounds.items("channel_mult", options["channel_mult"], 1, bounds.LEVELS))
    attention = tuple(bounds.items("attn_resolutions", options["attn_resolutions"], 0, 16))
    width, blocks, dropout = (options[key] for key in ("model_channels", "num_blocks", "dropout"))
    network = Network(ours[0], width, blocks, multipliers, attention, dropout, options["label_dim"])
    bounds.check_network(network, (c_in, size, size))
    return network, (c_in, size, size)


def _tensors(record: Any) -> Iterator[tuple[str, Any]]:
    """Names and unopened tensors of a module and its children, each taken out of its place: nothing is met or kept twice."""
    left = [("", record)]
    while left:
        prefix, module = left.pop()
        # A ModuleDict has no source code of its own.
        state = _persistent(module)[1] if module.args else module.state
        inner = []
        for part in ("_parameters", "_buffers", "_modules"):
            while state[part]:
                name, child = state[part].popitem()
                if type(name) is not str or len(prefix) + len(name) > 200:
                    raise ValueError(f"a part of its network is called {shown(name)}, which is no name")
                if child is not None and part == "_modules":
                    inner.append((f"{prefix}{name}.", child))
                elif child is not None:
                    yield prefix + name, child
        left += reversed(inner)


def _fill(network: nn.Module, records: dict[str, Any], size: int, variances: bool = False) -> None:
    """Give a network without memory the tensors of the file, all of them but those that it has no use for.

    With ``variances`` those are the second half of the outputs.
    """
    wanted = network.state_dict()
    for name in sorted(records.keys() - wanted.keys()):
        # Augmentation is for training; without a bias, leaving it out is the same as no augmentation. Plain means need no filter.
        if name.endswith(("map_augment.weight", "resample_filter")):
            del records[name]
    places = {name: laid(record) for name, record in records.items()}
    for name in [n for n in places if variances and n.endswith(_LAST)]:
        places[name] = _first_half(places[name])
    bounds.check_fits(network, {name: tuple(place.size) for name, place in places.items()})
    if 2 * bounds.size_of(network) > size:  # two bytes a number, at least
        raise ValueError(f"its network has {bounds.size_of(network):,} numbers, more than the file holds")
    records.clear()
    tensors = {}
    for name in wanted:
        place = places.pop(name)
        tensors[name] = open_tensor(place, read_storage(_bytes(place.storage)))
    check_weights(tensors)
    network.load_state_dict(tensors, assign=True)


_LAST = ("out_conv.weight", "out_conv.bias", "aux_conv.weight", "aux_conv.bias")


def _first_half(place: Laid) -> Laid:
    """A tensor without the second half of its rows, where it has two halves."""
    rows = place.size[0]
    return place if rows % 2 else place._replace(size=(rows // 2, *place.size[1:]))


def _bytes(record: Any) -> Any:
    if type(record) is not Record or record.name != "torch.storage._load_from_bytes":
        raise ValueError(f"{shown(record)} stands where the numbers of a tensor should")
    return record.args[0]
