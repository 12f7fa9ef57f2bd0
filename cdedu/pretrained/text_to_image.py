"""Text-to-image pipelines of diffusers as denoisers in σ, in the space of their latents, with prompts for labels.

::

    model = load_text_to_image("stable-diffusion-v1-5")
    model.pipeline.read(["a red fox in snow"])
    pictures = model.pipeline.draw(steps=20, guidance=7.5)

A folder is checked before anything is built from it: which classes it names, that their weights are safetensors, and that their number
matches the configurations. Nothing in it is run.
"""

import hashlib
import json
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cdedu.adapters import DiffusersDenoiser, Flow
from cdedu.checkpoints import Header
from cdedu.files import check_weights, read_json, regular
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.methods.latent import LatentConsistencyModel
from cdedu.networks import bounds
from cdedu.networks.lora import ADAPTER
from cdedu.networks.text import FluxTransformer, Prompts, TextNetwork, TextTransformer, TextUNet
from cdedu.noise import Generators, normal
from cdedu.pretrained.diffusers import check_keys, reason, schedule, sizes
from cdedu.samplers import Progress, sample_consistency, sample_euler

LARGEST = 2**20
"""An upper limit for every number in a configuration."""


@dataclass(frozen=True)
class Family:
    """The parts of a kind of pipeline."""

    name: str
    part: str
    """The folder of its network."""
    network: type[TextNetwork]
    classes: tuple[str, ...]
    """The classes that its parts may have."""


_TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
_WORDS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
_UNET = ("UNet2DConditionModel", "AutoencoderKL", *_TEXT[:2], *_WORDS[:2])
FAMILIES = {
    "StableDiffusionPipeline": Family("Stable Diffusion 1 or 2", "unet", TextUNet, _UNET),
    "LatentConsistencyModelPipeline": Family("latent consistency model", "unet", TextUNet, _UNET),
    "StableDiffusionXLPipeline": Family("SDXL", "unet", TextUNet, _UNET),
    "StableDiffusion3Pipeline": Family("Stable Diffusion 3", "transformer", TextTransformer, ("SD3Transformer2DModel", "AutoencoderKL", *_TEXT, *_WORDS)),
    "FluxPipeline": Family("FLUX", "transformer", FluxTransformer, ("FluxTransformer2DModel", "AutoencoderKL", *_TEXT, *_WORDS)),
}  # fmt: skip
"""The supported pipelines, by the name in their folder."""
DROPPED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no distillation needs. A pipeline that is published needs its safety checker: put it back there."""
_SCHEDULER = re.compile(r"[A-Z]\w+Scheduler")


def is_text_to_image(folder: str | Path) -> bool:
    """Whether a folder calls itself one of :data:`FAMILIES`."""
    try:
        return read_json(Path(folder) / "model_index.json").get("_class_name") in FAMILIES
    except (OSError, ValueError):
        return False


def check_folder(folder: str | Path) -> tuple[Family, dict[str, str]]:
    """The family of a folder and the classes of its parts, once all of it has been looked at.

    Raises:
        FileNotFoundError: if a part is missing.
        ValueError: for another family, code, a class that the family has not, weights that would have to be unpickled, numbers out of
            bounds, and weights that are not as many as the configuration wants.
    """
    folder = Path(folder)
    if single := single_file(folder):
        raise ValueError(single)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no text-to-image pipeline: a folder of diffusers with model_index.json in it"
        )
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"{folder}: the pipeline is a {bounds.shown(name)}; known are {', '.join(FAMILIES)}")
    check_keys(index, f"{folder}/model_index.json")
    if code := sorted(path.name for path in folder.rglob("*.py")):
        raise ValueError(
            f"{folder} brings code of its own ({code[0]:.80}), which is never run; use a folder without"
        )
    family, parts = FAMILIES[name], dict[str, str]()
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or value == [None, None] or part in DROPPED:
            continue
        if not re.fullmatch(r"\w+", part) or len(value) != 2 or not all(isinstance(v, str) for v in value):
            raise ValueError(
                f"{folder}/model_index.json: {part!r:.80} is {str(value):.80}, which is no part of a pipeline"
            )
        library, kind = value
        known = kind in family.classes or (part == "scheduler" and _SCHEDULER.fullmatch(kind))
        if library not in ("diffusers", "transformers") or not known:
            raise ValueError(
                f"{folder}: its {part} is {library:.40}.{kind:.60}; in a {name} it may be {', '.join(family.classes)}"
            )
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder} has no {part}/; download the folder whole")
        parts[part] = kind
    for part in (family.part, "vae", "scheduler", "text_encoder", "tokenizer"):
        if part not in parts:
            raise FileNotFoundError(f"{folder} has no {part}; a {name} needs one")
    for part, kind in parts.items():
        try:
            for path in sorted((folder / part).glob("*config.json")):
                check_keys(read_json(path), path.name)
            if part == "scheduler":
                _check_scheduler(read_json(folder / part / "scheduler_config.json"))
            elif kind not in _WORDS:
                _check_part(folder / part, kind)
        except FileNotFoundError:
            raise
        except Exception as error:  # what is in such a file can be wrong in any way
            raise ValueError(f"{folder / part} cannot be used: {reason(error)}") from None
    network, vae = (read_json(folder / part / "config.json") for part in (family.part, "vae"))
    takes, makes = network.get("in_channels", 4), vae.get("latent_channels", 4)
    if takes != makes * (4 if family.network is FluxTransformer else 1):
        raise ValueError(
            f"{folder}: its {family.part} takes {takes} channels, but its vae makes {makes}; use a model that draws from a text alone, "
            "no inpainting or editing"
        )
    return family, parts


def single_file(path: Path) -> str | None:
    """What to do with a model that is one file, as other programs have it; None for anything else."""
    kind = path.suffix.lower()
    if not path.is_file() or kind not in (".safetensors", ".ckpt"):
        return None
    try:
        names = set() if kind == ".ckpt" else {name.split(".")[0] for name in _names(path)}
    except Exception:  # damaged, which is told elsewhere
        return None
    if kind == ".safetensors" and not names & {"model", "first_stage_model", "conditioner", "double_blocks"}:
        return None
    how = f'StableDiffusionPipeline.from_single_file("{path.name}").save_pretrained("{path.stem}")'
    pickled = "; a .ckpt is a pickle, which runs what it holds: take its .safetensors" * (kind == ".ckpt")
    return (
        f"{path} is a model in a single file, and a folder of diffusers is wanted; make one with diffusers: {how}, or with "
        f"StableDiffusionXLPipeline, StableDiffusion3Pipeline or FluxPipeline{pickled}"
    )


def _check_scheduler(config: dict[str, Any]) -> None:
    """Raise for a number that no schedule has: all are looked at before diffusers makes a table of so many."""
    _check_numbers(config, LARGEST, "scheduler_config.json")
    steps = bounds.whole("num_train_timesteps", config.get("num_train_timesteps", 1000), 2, 100_000)
    if config.get("original_inference_steps") is not None:
        bounds.whole("original_inference_steps", config["original_inference_steps"], 1, steps)
    ranges = {"beta_start": (0, 1), "beta_end": (0, 1), "shift": (1e-3, 1e3), "base_shift": (-1e3, 1e3)}
    ranges |= {"max_shift": ranges["base_shift"], "shift_terminal": (0, 1)}
    for key, (low, high) in ranges.items():
        if config.get(key) is not None:
            bounds.number(key, config[key], low, high)
    if config.get("trained_betas") is not None:
        for beta in bounds.items("trained_betas", config["trained_betas"], 2, 100_000):
            bounds.number("trained_betas", beta, 0, 1)


def _check_sizes(kind: str, config: dict[str, Any]) -> None:
    """Raise for a number of an autoencoder or a network that is computed with here, and that none of them has."""
    if kind == "AutoencoderKL":
        for width in bounds.items("block_out_channels", config.get("block_out_channels", [64]), 1, bounds.LEVELS):  # fmt: skip
            bounds.whole("block_out_channels", width, *bounds.WIDTHS)
        channels = bounds.whole("latent_channels", config.get("latent_channels", 4), 1, 1024)
        for key in ("in_channels", "out_channels"):
            if config.get(key, 3) != 3:
                raise ValueError(f"{key} = {bounds.shown(config[key])}, but pictures have 3")
        bounds.number("scaling_factor", config.get("scaling_factor", 0.18215), 1e-6, 1e6)
        if config.get("shift_factor") is not None:
            bounds.number("shift_factor", config["shift_factor"], -1e6, 1e6)
        for key, low in {"latents_mean": -1e6, "latents_std": 1e-6}.items():
            if config.get(key) is not None:
                for number in bounds.items(key, config[key], channels, channels):
                    bounds.number(key, number, low, 1e6)
    elif kind in ("UNet2DConditionModel", "SD3Transformer2DModel") or "sample_size" in config:
        size = config.get("sample_size", None if kind.startswith("UNet") else 128)
        if size is None:
            raise ValueError(
                "config.json has no sample_size; write the height of its latents there, such as 64"
            )
        for side in bounds.items("sample_size", size, 2, 2) if isinstance(size, list) else [size]:
            bounds.whole("sample_size", side, *bounds.SIZES)


def weights_of(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant and the files of a part's weights: full precision where there is one.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if there are only files that would have to be unpickled.
    """
    every = sorted(path for path in folder.iterdir() if re.search(r"\.safetensors(\.|$)", path.name))
    for variant in (None, "fp16", "bf16"):
        marks = re.compile(
            rf"\.({variant or 'fp16|bf16|non_ema'})[.-]"
        )  # model.fp16-00001-of-00002.safetensors
        if own := [path for path in every if bool(marks.search(path.name)) == bool(variant)]:
            return variant, own
    if pickles := [
        path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    ]:
        raise ValueError(
            f"its weights are {pickles[0]:.80}, which would have to be unpickled; convert them to safetensors"
        )
    raise FileNotFoundError(f"there are no weights in {folder}; download the folder whole")


def _check_part(folder: Path, kind: str) -> None:
    """Raise unless the weights of a part are as many as its configuration wants."""
    import diffusers
    import transformers

    config = read_json(folder / "config.json")
    check_keys(config, "config.json")  # before any library sees it
    _check_sizes(kind, config)
    files = weights_of(folder)[1]
    beside = {path.name for path in files}
    numbers = [size for path in files for size in sizes(path, beside)]
    _check_numbers(config, len(numbers))
    with bounds.without_memory():
        if hasattr(transformers, kind):
            made = getattr(transformers, kind)
            bare = made(made.config_class.from_dict(config))
        else:
            bare = getattr(diffusers, kind).from_config(config)
    wanted = sum(math.prod(p.shape) for p in bare.parameters())
    if wanted > sum(numbers) * 1.01 + 1000:
        raise ValueError(f"its weights are {sum(numbers):,} numbers, but its network has {wanted:,}")
    names = {name for path in files if path.suffix == ".safetensors" for name in _names(path)}
    if any(".proj_attn." in name for name in names):  # an early autoencoder, whose names diffusers translates
        return
    for name, parameter in bare.named_parameters():
        # transformers has put text models under a name of their own, and taken it off again.
        if not {name, f"text_model.{name}", name.removeprefix("text_model.")} & names and not _tied(
            name, bare
        ):
            raise ValueError(
                f"its weights lack the tensor {name:.80}, {tuple(parameter.shape)}, which would be left at random numbers"
            )


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _tied(name: str, network: nn.Module) -> bool:
    """Whether a tensor is another one's under a second name, as T5's two embeddings are."""
    return name in (getattr(network, "_tied_weights_keys", None) or ())


def _check_numbers(value: Any, tensors: int, place: str = "config.json") -> None:
    """Raise for a number that no such network has, wherever in a configuration it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(inner, tensors, str(key)[:60])
    elif isinstance(value, list):
        for inner in bounds.items(place, value, 0, 1000):
            _check_numbers(inner, tensors, place)
    elif type(value) is int:
        bounds.whole(place, value, -LARGEST, tensors if "layers" in place else LARGEST)


def load_text_to_image(
    folder: str | Path,
    *,
    lora: str | Path | None = None,
    student: bool | None = None,
    dtype: torch.dtype = torch.float32,
    last: float = 0.999,
) -> Any:
    """Load a text-to-image pipeline as a denoiser in σ of its latents, in evaluation mode; ``model.pipeline`` reads texts and draws.

    ε and v become a :class:`~cdedu.adapters.DiffusersDenoiser`, a velocity a :class:`~cdedu.adapters.Flow`; of a student, within
    :class:`~cdedu.methods.latent.LatentConsistencyModel`. ``model.header`` holds the shape of a latent, and, once texts were read, how many
    there are, the empty one included, as ``classes``.

    Args:
        folder: as ``save_pretrained`` leaves it: Stable Diffusion 1 and 2, SDXL, their latent consistency models, Stable Diffusion 3, FLUX.
        lora: a safetensors file as ``load_lora_weights`` reads it, such as an LCM-LoRA, added to the network.
        student: whether it is a few-step student; by default, if its scheduler is LCM's or a flow's that samples stochastically.
        dtype: type of its weights.
        last: where a flow's walks begin.

    Raises:
        FileNotFoundError, ValueError: as :func:`check_folder`, and for a schedule that is no diffusion's.
        ImportError: without transformers, which reads texts.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ImportError('text-to-image needs more packages: pip install "cdedu[text]"') from None
    import diffusers

    folder = Path(folder)
    family, parts = check_folder(folder)
    index = read_json(folder / "model_index.json")
    absent = {
        name: None
        for name, value in index.items()
        if isinstance(value, list) and (value == [None, None] or name in DROPPED)
    }
    kind: Any = getattr(diffusers, index["_class_name"])
    takes = set(_parameters(kind))
    absent |= {
        name: None
        for name in ("text_encoder_3", "tokenizer_3", *DROPPED)
        if name in takes and name not in parts
    }
    if "requires_safety_checker" in takes:
        absent["requires_safety_checker"] = False  # type: ignore[assignment]
    with _quiet(diffusers, transformers):
        try:
            # One by one: some have weights of half precision alone.
            networks = {
                part: getattr(transformers if hasattr(transformers, name) else diffusers, name).from_pretrained(
                    folder / part, variant=weights_of(folder / part)[0], use_safetensors=True, dtype=dtype, local_files_only=True
                )
                for part, name in parts.items()
                if name not in _WORDS and part != "scheduler"
            }  # fmt: skip
            pipe = kind.from_pretrained(folder, local_files_only=True, **networks, **absent)
        except (FileNotFoundError, ImportError):
            raise
        except Exception as error:  # the libraries' kinds are many
            raise ValueError(f"{folder} cannot be read: {reason(error)}") from None
        if (found := next(networks[family.part].parameters()).dtype) != dtype:
            raise ValueError(
                f"{folder} was to be read in {dtype} and is in {found}: diffusers {diffusers.__version__} does not know dtype; "
                'pip install -U "cdedu[text]"'
            )
        if lora is not None:
            path = adapter_file(lora)
            try:
                pipe.scheduler = _add_lora(pipe, path)
            except FileNotFoundError:
                raise
            except Exception as error:  # as above
                raise ValueError(
                    f"{path} cannot be added to {folder}, which is {family.name}: {reason(error)}"
                ) from None
    pipeline = TextToImage(pipe, family, last)
    config = pipe.scheduler.config
    jumps = (
        "LCM" in type(pipe.scheduler).__name__
        or bool(config.get("stochastic_sampling"))
        or "LatentConsistency" in index["_class_name"]
    )
    if jumps if student is None else student:
        pipeline.model = pipeline.student()
    model = pipeline.model
    check_weights(dict(pipeline.network.named_parameters()))
    return model.eval().requires_grad_(False)


def adapter_file(path: str | Path) -> Path:
    """The file of an adapter: the path itself, or the one in a folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several, and none has the name that diffusers looks for.
    """
    path = Path(path)
    if path.is_dir() and not (path / "model_index.json").is_file():
        found = sorted(path.glob("*.safetensors"))
        if len(found) > 1 and path / ADAPTER not in found:
            raise ValueError(
                f"{path} holds several adapters: {', '.join(one.name for one in found):.300}; give the path of one of them"
            )
        path = path / ADAPTER if path / ADAPTER in found else next(iter(found), path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise FileNotFoundError(f"{path} is no adapter; give a .safetensors file, or a folder with one")
    return regular(path, "adapter")


def _add_lora(pipe: Any, path: Path) -> Any:
    """Add an adapter to the networks; returns the scheduler that lies beside it, or the pipeline's own."""
    check_weights(load_file(path))
    if any("dora_scale" in name for name in _names(path)):
        raise ValueError("it is a DoRA, whose scales diffusers leaves out; use an adapter without dora_scale")
    more = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}
    with _heard("diffusers") as said:
        told = pipe.lora_state_dict(path.parent, weight_name=path.name, local_files_only=True, **more)
        pipe.load_lora_weights(path.parent, weight_name=path.name, local_files_only=True)
    parts = {name: getattr(pipe, name, None) for name in pipe._lora_loadable_modules}
    inside = {
        part: {name: p for name, p in network.named_parameters() if "lora_" in name}
        for part, network in parts.items()
        if network is not None
    }
    _check_consumed(
        told[0] if isinstance(told, tuple) else told,
        {f"{part}.{name}": p for part, own in inside.items() for name, p in own.items()},
    )
    if lost := [text for text in said if "Unsupported keys" in text]:
        raise ValueError(f"a part of it is not known: {lost[0]:.200}; use an adapter that was made for this model")  # fmt: skip
    pipe.fuse_lora(components=[part for part, own in inside.items() if own])
    pipe.unload_lora_weights()
    config = path.parent / "scheduler" / "scheduler_config.json"
    if not config.is_file() or (path.parent / "model_index.json").is_file():  # a pipeline's is no adapter's
        return pipe.scheduler
    found = read_json(config)
    if found.get("_class_name") not in ("LCMScheduler", "FlowMatchEulerDiscreteScheduler"):
        raise ValueError(f"{config}: {bounds.shown(found.get('_class_name'))} is no scheduler of an adapter")
    _check_scheduler(found)
    import diffusers

    return getattr(diffusers, found["_class_name"]).from_config(found)


def _check_consumed(tensors: dict[str, Any], inside: dict[str, Tensor]) -> None:
    """Raise unless the tensors of an adapter, under whatever names, are just those that the networks now have in them.

    diffusers leaves out what fits nothing, and fills at random what is absent, with no more than a word in its log.
    """
    left = Counter(_mark(p, p.dtype) for p in inside.values() if not p.is_meta)
    kinds = {p.dtype for p in inside.values()}
    lost = []
    for name, t in tensors.items():
        if not isinstance(t, Tensor) or t.numel() == 1 and "alpha" in name:
            continue
        mark = next((mark for kind in kinds if left[mark := _mark(t, kind)]), None)
        if mark is None:
            lost.append(name)
        else:
            left[mark] -= 1
    if lost:
        raise ValueError(
            f"{len(lost):,} of its {len(tensors):,} tensors fit nothing there, such as {lost[0]!r:.120}; use an adapter that was made "
            "for this kind of model"
        )
    absent = [name for name, p in inside.items() if p.is_meta or left[_mark(p, p.dtype)]]
    if absent or not inside:
        raise ValueError(
            f"it lacks the tensor {absent[0]:.120}; fetch the file again" if absent else "it holds no adapter"
        )


def _mark(t: Tensor, kind: torch.dtype) -> tuple[Any, ...]:
    numbers = t.detach().to("cpu", kind).contiguous().reshape(-1).view(torch.uint8).numpy()
    return tuple(t.shape), kind, hashlib.sha256(numbers.data).digest()


class _heard(logging.Handler):  # noqa: N801
    """What a library logs as a warning, in a list in place of the terminal."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self.log, self.texts = logging.getLogger(name), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self.before = self.log.handlers, self.log.level
        self.log.handlers = [self]
        self.log.setLevel(logging.WARNING)
        return self.texts

    def __exit__(self, *_: object) -> None:
        self.log.handlers, level = self.before
        self.log.setLevel(level)


def _parameters(kind: Any) -> Iterable[str]:
    from inspect import signature

    return signature(kind.__init__).parameters


class _quiet:  # noqa: N801
    """The libraries' bars and remarks left out."""

    def __init__(self, *libraries: Any) -> None:
        self.logs = [library.utils.logging for library in libraries]

    def __enter__(self) -> None:
        self.before = [log.get_verbosity() for log in self.logs]
        for log in self.logs:
            log.set_verbosity_error()
            log.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        for log, level in zip(self.logs, self.before, strict=True):
            log.set_verbosity(level)
            log.enable_progress_bar()


_NO_MATTER = ("transformers_version", "dtype", "torch_dtype", "architectures")
"""Of a configuration, what changes nothing that is computed; a precision shows in the weights."""


def _add_weights(found: Any, network: nn.Module) -> None:
    for name, t in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


class TextToImage:
    """Everything around a pipeline's network: its texts, its latents, and how it draws.

    Args:
        pipe: a pipeline of diffusers of one of :data:`FAMILIES`.
        family: which.
        last: as in :class:`~cdedu.adapters.Flow`.
    """

    def __init__(self, pipe: Any, family: Family, last: float = 0.999) -> None:
        self.pipe, self.family, self.told_cuts = pipe, family, False
        self.network = family.network(getattr(pipe, family.part))
        config: Any = getattr(pipe, family.part).config
        size = config.sample_size if "sample_size" in config else 128
        height, width = size if isinstance(size, list | tuple) else (size, size)
        self.scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        self.shape = (int(pipe.vae.config.latent_channels), int(height), int(width))
        self.flow = issubclass(family.network, TextTransformer | FluxTransformer)
        if self.flow:
            self.denoiser: Any = Flow(self.network, last)
        else:
            name = type(pipe.scheduler).__name__.replace("LCM", "DDIM")  # whose schedule of β is a DDPM's
            alphas, prediction = schedule(
                dict(pipe.scheduler.config) | {"_class_name": name}, Path(family.name)
            )
            self.denoiser = DiffusersDenoiser(self.network, alphas, prediction)
        self.points = int(pipe.scheduler.config.get("original_inference_steps") or 50)
        self.header = Header(self.shape)
        self.model = self._around(self.denoiser)

    def digest(self) -> str:
        """A hash of the network's weights."""
        found = hashlib.sha256()
        _add_weights(found, self.network.net)
        return found.hexdigest()[:16]

    def encoders(self) -> str:
        """A hash of all that latents of pictures and embeddings of texts depend on: the weights of autoencoder and text encoders, their
        precision and configurations, and the words."""
        found = hashlib.sha256()
        zeros = self.pipe.config.get("force_zeros_for_empty_prompt")
        found.update(f"{type(self.pipe).__name__} {zeros}".encode())
        for name, part in sorted(self.pipe.components.items()):
            if name.startswith("tokenizer") and part is not None:
                told = [type(part).__name__, part.model_max_length, sorted(part.get_vocab().items())]
                found.update(json.dumps([name, told], default=str).encode())
            elif name == "vae" or (name.startswith("text_encoder") and part is not None):
                told = part.config if name == "vae" else part.config.to_dict()
                told = {k: told[k] for k in sorted(told) if k[0] != "_" and k not in _NO_MATTER}
                found.update(json.dumps([name, told, part.dtype], default=str).encode())
                _add_weights(found, part)
        return found.hexdigest()[:16]

    def _around(self, model: Any) -> Any:
        model.header, model.pipeline = self.header, self
        return model

    def student(self, denoiser: nn.Module | None = None) -> Any:
        """A consistency function over its denoiser, or over another one of its form."""
        return self._around(LatentConsistencyModel(denoiser or self.denoiser))

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Embeddings of texts: (K, L, C), and (K, P) or None. Of an empty text SDXL's are zeros where its pipeline says so."""
        pipe, words = self.pipe, list(texts)
        for text in words:
            if not isinstance(text, str):
                raise ValueError(f"{text!r:.60} is no text")
        device = next(pipe.text_encoder.parameters()).device
        self._tell_cuts(words)
        with _quiet(__import__("diffusers"), __import__("transformers")):
            if self.flow:
                more: dict[str, Any] = (
                    {}
                    if self.family.network is FluxTransformer
                    else {"prompt_3": None, "do_classifier_free_guidance": False}
                )
                found = pipe.encode_prompt(
                    prompt=words, prompt_2=None, device=device, num_images_per_prompt=1, **more
                )
            else:
                found = pipe.encode_prompt(
                    prompt=words, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
                )
        hidden, pooled = found[0], None
        if len(found) == 4:
            pooled = found[2]
        elif len(found) == 3:
            pooled = found[1]
        if pipe.config.get("force_zeros_for_empty_prompt"):
            for row in (i for i, text in enumerate(words) if text == ""):
                hidden[row] = 0
                pooled[row] = 0  # type: ignore[index]
        return hidden, pooled

    def _tell_cuts(self, texts: Sequence[str]) -> None:
        """Warn, the first time, that a text goes on where no encoder reads any more."""
        words = [getattr(self.pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        # The pipelines of flows give T5 so many, whatever its tokenizer says.
        most = {"T5": 512 if self.family.network is FluxTransformer else 256}
        ways = [
            (one, most.get(type(one).__name__[:2], one.model_max_length)) for one in words if one is not None
        ]
        for text in () if self.told_cuts else texts:
            counts = [(len(one(text, truncation=False)["input_ids"]), limit) for one, limit in ways]
            if all(n > limit for n, limit in counts):
                n, limit = max(counts, key=lambda pair: pair[1])
                self.told_cuts = True
                warnings.warn(
                    f"{text!r:.60} has {n} tokens, of which the first {limit} are read; shorten it (told once; others may be as long)",
                    stacklevel=4,
                )
                return

    def read(self, texts: Sequence[str]) -> Tensor:
        """Set the texts that labels stand for, with the empty text as the last label; returns the labels 0 … K−1."""
        if not texts:
            raise ValueError("no text is given")
        hidden, pooled = self.embed([*texts, ""])
        self.use(Prompts(hidden, pooled, (*texts, "")))
        return torch.arange(len(texts))

    def use(self, prompts: Prompts) -> None:
        """Set texts whose embeddings already exist."""
        self.network.prompts = prompts
        self.header.classes, self.header.labels = len(prompts), len(prompts) - 1

    def _scales(self) -> tuple[Any, Any]:
        """Shift and scale of the latents: numbers of the autoencoder, or of an SDXL that has them, one for each channel."""
        config, vae = self.pipe.vae.config, self.pipe.vae
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if "XL" in type(self.pipe).__name__ and mean is not None and std is not None:
            shift, width = (torch.tensor(v, device=vae.device).view(-1, 1, 1) for v in (mean, std))
            return shift, config.scaling_factor / width
        return config.get("shift_factor") or 0.0, config.scaling_factor

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (B, 3, H, W) in [−1, 1]: the means of the autoencoder, on the scale that the network knows."""
        vae, (shift, scale) = self.pipe.vae, self._scales()
        images = images.expand(-1, vae.config.in_channels, -1, -1)
        mean = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mean
        return ((mean - shift) * scale).to(mean.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [−1, 1] of latents."""
        vae, (shift, scale) = self.pipe.vae, self._scales()
        latents = (latents.to(vae.dtype) / scale + shift).to(vae.dtype)
        return vae.decode(latents, return_dict=False)[0].clamp(-1, 1)

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        r"""Where a walk begins, of z: :math:`\sqrt{1+\sigma^2}\,z`, or :math:`(1+\sigma)\,z` for a flow. On the network's own scale that is z."""
        return noise * (1 + sigma if self.flow else math.sqrt(1 + sigma**2))

    def shifted(self, t: Tensor) -> Tensor:
        """Times of a flow with its scheduler's shift s, which leaves more of them near the noise: s t / (1 + (s − 1) t)."""
        shift = float(self.pipe.scheduler.config.get("shift") or 1.0)
        return shift * t / (1 + (shift - 1) * t)

    def levels(self, steps: int) -> list[float]:
        """The noise levels for a number of calls: LCM's by its scheduler's rule, out of the ``points`` that the student knows, or equal
        steps of a flow's t with its scheduler's shift."""
        if not 1 <= steps <= 1000:
            raise ValueError(f"steps = {steps}, but a picture takes 1 to 1,000")
        if self.flow:
            t = self.shifted(1 - torch.arange(steps, dtype=torch.float64) / steps).clamp(
                max=self.denoiser.last
            )
            return (t / (1 - t)).tolist()
        import diffusers

        points, known = self.points, self.denoiser.log_sigmas.exp()
        if steps > points:
            # The least number that divides the schedule: with another one the grid would begin below its top.
            points = next(n for n in range(steps, len(known) + 1) if len(known) % n == 0)
        lcm = diffusers.LCMScheduler.from_config(self.pipe.scheduler.config, original_inference_steps=points)
        lcm.set_timesteps(steps)
        return [float(known[int(t)]) for t in lcm.timesteps]

    @torch.no_grad()
    def draw(
        self,
        labels: Tensor | None = None,
        steps: int = 4,
        guidance: float | None = None,
        generator: Generators = None,
        model: nn.Module | None = None,
        progress: Progress | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Draw images (B, 3, H, W) in [−1, 1] for labels, by default each text once.

        Args:
            steps: network evaluations; for a guided teacher, each is a call with both texts.
            guidance: the weight w that a teacher is guided with, or that a student takes as an input.
            generator: draws all noise; one, or one for each picture.
            model: a teacher or student of this pipeline; by default the one it was loaded as.
            size: height and width of a latent; by default the network's own.

        Raises:
            ValueError: if no text has been read.
        """
        model = self.model if model is None else model
        if self.network.prompts is None:
            raise ValueError("no text was read; call model.pipeline.read([...]) first")
        if labels is None:
            labels = torch.arange(len(self.network.prompts) - 1)
        device = next(self.network.parameters()).device
        shape = (len(labels), self.shape[0], *(size or self.shape[1:]))
        levels, cond = self.levels(steps), {"labels": labels.to(device)}
        x = self.start(normal(shape, generator).to(device), levels[0])
        inner = model.module if hasattr(model, "module") else model
        if isinstance(inner, LatentConsistencyModel):
            if guidance is not None:
                cond["guidance"] = guidance  # type: ignore[assignment]
            latents = sample_consistency(model, x, levels, generator, progress=progress, **cond)
        else:
            guided = (
                model if guidance is None else GuidedDenoiser(model, guidance, len(self.network.prompts) - 1)
            )
            grid = torch.tensor(levels, dtype=torch.float64)
            alone = len(levels) == 1  # no grid, but a guess
            latents = (
                guided(x, levels[0], **cond)
                if alone
                else sample_euler(guided, x, grid, progress=progress, **cond)
            )
        return self.decode(latents)
