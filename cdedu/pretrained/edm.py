"""EDM's checkpoints as NVIDIA publishes them: pickles, read without running anything in them.

Such a file holds the source code of its own classes, and the ordinary way of opening it executes that code. Here every object
that the file asks for becomes a record of its name, arguments and state instead. A short list says which names may occur;
any other ends the reading. Tensors are opened last, one by one, after all names have been found to fit the network.

The published weights are licensed CC BY-NC-SA 4.0, so what is distilled from them is too.

Source: Karras et al. 2022, tables 1 and 7.
"""

import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.adapters import VE, VP
from cdedu.checkpoints import Header
from cdedu.recipes import Network, Recipe
from cdedu.teacher import Teacher


def is_edm(path: str | Path) -> bool:
    """Whether a file begins like a checkpoint of EDM; it may still be damaged, or refused by :func:`load_edm`."""
    try:
        with open(path, "rb") as file:
            head = file.read(65_536)
    except OSError:
        return False
    return head.startswith(b"\x80") and b"_reconstruct_persistent_obj" in head


def load_edm(path: str | Path) -> Teacher | VP | VE:
    """The denoiser in one of EDM's pickles, in evaluation mode and float32.

    It is a :class:`~cdedu.teacher.Teacher`, or :class:`VP` or :class:`VE` for the baselines. Conditional ones take
    ``labels``, (B,) int64; without labels they see EDM's row of zeros. ``model.header`` holds shape and recipe as after
    :func:`cdedu.checkpoints.load`, so ``checkpoints.save(file, model, model.header.recipe,
    model.header.shape)`` makes a safetensors file of a ``Teacher``.

    Args:
        path: such as ``edm-cifar10-32x32-uncond-vp.pkl``, its ``-ve`` or ``-cond-`` sisters, ``edm-ffhq-64x64-*.pkl``,
            ``edm-imagenet-64x64-cond-adm.pkl``, or a ``network-snapshot-*.pkl`` of EDM's own training.

    Raises:
        OSError: if the file cannot be read.
        ValueError: for a file that is no such checkpoint, is damaged, names anything else than such checkpoints do, or holds
            a network that is not known here.
    """
    with open(path, "rb") as file:
        try:
            model = _denoiser(_Recorder(file).load()["ema"], Path(path))
        except Exception as error:  # a damaged pickle can raise anything
            why = str(error).strip().partition("\n")[0]
            why = why if isinstance(error, ValueError) else f"{type(error).__name__}: {why}"
            raise ValueError(
                f"{path} is refused, and nothing in it was run: not a checkpoint of EDM, or damaged ({why})"
            ) from None
    return model.eval()


_NAMES = {
    "torch_utils.persistence": {"_reconstruct_persistent_obj"},
    "torch.storage": {"_load_from_bytes"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.nn.modules.container": {"ModuleDict"},
    "collections": {"OrderedDict"},
    "builtins": {"set"},
    "dnnlib.util": {"EasyDict"},
    "numpy": {"dtype"},
    "numpy.core.multiarray": {"scalar"},
    "numpy._core.multiarray": {"scalar"},
}
"""What a checkpoint of EDM may name, by module."""


class _Record(dict[Any, Any]):
    """What the file wanted made: with which arguments, state and items. Its class has the name that the file gave."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Recorder(pickle.Unpickler):
    """Makes nothing but records. Their classes are made anew for each file, so that no file can change what the next one meets."""

    def find_class(self, module: str, name: str) -> type[_Record]:
        if name not in _NAMES.get(module, ()):
            raise ValueError(f"it names {f'{module}.{name}'!r:.100}, which no such checkpoint needs")
        return type(name, (_Record,), {})


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


def _denoiser(record: _Record, path: Path) -> Teacher | VP | VE:
    wrapper, state = _persistent(record)
    kind, net = _persistent(state["_modules"]["model"])
    network, shape = _architecture(kind, net["_init_kwargs"])
    with torch.device("meta"):
        built = network.build(shape)
    _fill(built, dict(_tensors(state["_modules"].pop("model"))))
    if wrapper == "EDMPrecond":
        model = Teacher(built, float(state["sigma_data"]))
    elif wrapper == "VPPrecond":
        betas = float(state["beta_d"]), float(state["beta_min"])
        model = VP(built, *betas, int(state["M"]), float(state["epsilon_t"]))
    elif wrapper == "VEPrecond":
        model = VE(built, float(state["sigma_min"]), float(state["sigma_max"]))
    else:
        raise ValueError(f"its preconditioning {wrapper!r:.80} is not known here")
    recipe = Recipe(path.stem, data="", network=network, sigma_data=getattr(model, "sigma_data", 0.5))
    model.header = Header(shape, recipe, network.classes, network.classes, facts={"source": path.name})
    return model


def _persistent(record: _Record) -> tuple[str, dict[str, Any]]:
    """Name and state of an object that came with its own source code."""
    if type(record).__name__ != "_reconstruct_persistent_obj":
        raise ValueError(f"a network is missing where {type(record).__name__!r:.80} stands")
    return record.args[0]["class_name"], record.args[0]["state"]


def _architecture(kind: str, arguments: dict[str, Any]) -> tuple[Network, tuple[int, int, int]]:
    """Our name of EDM's network, and the shape of its images."""
    if kind not in _KINDS:
        raise ValueError(f"its network {kind!r:.80} is not known here")
    options = _DEFAULTS[kind] | arguments
    size, c_in, c_out = (int(options.pop(key)) for key in ("img_resolution", "in_channels", "out_channels"))
    for key in options.keys() - _DEFAULTS[kind].keys():
        raise ValueError(f"its network {kind} has an option {key!r:.80}, which is not known here")
    ours = [name for name, fixed in _KINDS[kind].items() if fixed.items() <= options.items()]
    if not ours or c_in != c_out or options["channel_mult_emb"] != 4:
        raise ValueError(f"its network {kind} is none of {', '.join(_KINDS[kind])}")
    width, blocks, classes = (int(options[key]) for key in ("model_channels", "num_blocks", "label_dim"))
    multipliers, attention = (tuple(map(int, options[key])) for key in ("channel_mult", "attn_resolutions"))
    network = Network(ours[0], width, blocks, multipliers, attention, float(options["dropout"]), classes)
    return network, (c_in, size, size)


def _tensors(record: _Record, prefix: str = "") -> Iterator[tuple[str, _Record]]:
    """Names and unopened tensors of a module and its children, each taken out of its place: nothing is met or kept twice."""
    # A ModuleDict has no source code of its own.
    state = _persistent(record)[1] if record.args else record.state
    for part in ("_parameters", "_buffers"):
        while state[part]:
            name, tensor = state[part].popitem()
            if tensor is not None:
                yield prefix + name, tensor
    while state["_modules"]:
        name, child = state["_modules"].popitem()
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def _fill(network: nn.Module, records: dict[str, _Record]) -> None:
    """Give a network without memory the tensors of the file, all of them but those that it has no use for."""
    wanted = network.state_dict()
    for name in records.keys() ^ wanted.keys():
        # Augmentation is for training; without a bias, leaving it out is the same as no augmentation. Plain means need no filter.
        if name in wanted or not name.endswith(("map_augment.weight", "resample_filter")):
            raise ValueError(f"tensor {name!r:.80} is in only one of file and network")
    tensors = {}
    for name, place in wanted.items():
        tensors[name] = _open(records.pop(name))
        has, wants = tuple(tensors[name].shape), tuple(place.shape)
        if has != wants:
            raise ValueError(f"tensor {name!r} has shape {has}, its network wants {wants}")
    network.load_state_dict(tensors, assign=True)


def _open(record: _Record) -> Tensor:
    if type(record).__name__ == "_rebuild_parameter":
        record = record.args[0]
    storage, offset, size, stride = record.args[:4]
    stored = torch.load(BytesIO(storage.args[0]), map_location="cpu", weights_only=True)
    # The public way, untyped(), warns; this is what torch's own reader uses.
    whole = torch.empty(0, dtype=stored.dtype).set_(stored._untyped_storage)
    return whole.as_strided(size, stride, offset).float()
