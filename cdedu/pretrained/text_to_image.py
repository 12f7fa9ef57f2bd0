"""Text-to-image pipelines of diffusers as denoisers in σ, in the space of their latents, with prompts for labels.

::

    model = load_text_to_image("stable-diffusion-v1-5")
    model.pipeline.read(["a red fox in snow"])
    pictures = model.pipeline.draw(steps=20, guidance=7.5)

A folder is looked at before anything is made of it: which classes it names, that their weights are safetensors, and that these are as
many as the configurations want. Nothing in it is run.
"""

import hashlib
import json
import math
import re
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
from cdedu.networks.text import FluxTransformer, Prompts, TextNetwork, TextTransformer, TextUNet
from cdedu.noise import Generators, normal
from cdedu.pretrained.diffusers import reason, schedule, sizes
from cdedu.samplers import Progress, sample_consistency, sample_euler

LARGEST = 2**20
"""What no number of a configuration exceeds."""


@dataclass(frozen=True)
class Family:
    """What a kind of pipeline is made of."""

    name: str
    part: str
    """The folder of its network."""
    network: type[TextNetwork]
    classes: tuple[str, ...]
    """What its parts may be."""


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
"""The pipelines that are read, by the name that their folder gives."""
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
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no text-to-image pipeline: a folder of diffusers with model_index.json in it"
        )
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"{folder}: the pipeline is a {bounds.shown(name)}; known are {', '.join(FAMILIES)}")
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
        if kind in _WORDS or part == "scheduler":
            continue
        try:
            _check_part(folder / part, kind)
        except FileNotFoundError:
            raise
        except Exception as error:  # what is in such a file can be wrong in any way
            raise ValueError(f"{folder / part} cannot be used: {reason(error)}") from None
    return family, parts


def weights_of(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant and the files of a part's weights: full precision where there is one.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if there are only files that would have to be unpickled.
    """
    every = sorted(path for path in folder.iterdir() if ".safetensors" in path.suffixes)
    for variant in (None, "fp16", "bf16"):
        marks = {variant} if variant else {"fp16", "bf16", "non_ema"}
        if own := [path for path in every if bool(marks & set(path.name.split("."))) == bool(variant)]:
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
    if "auto_map" in config or "_custom" in str(config.get("_class_name")):
        raise ValueError("it names code of its own (auto_map), which is never run")
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
    """A text-to-image pipeline: a denoiser in σ over its latents, in evaluation mode; ``model.pipeline`` reads texts and draws.

    ε and v become a :class:`~cdedu.adapters.DiffusersDenoiser`, a velocity a :class:`~cdedu.adapters.Flow`; of a student, within
    :class:`~cdedu.methods.latent.LatentConsistencyModel`. ``model.header`` holds the shape of a latent, and, once texts were read, how many
    there are, the empty one included, as ``classes``.

    Args:
        folder: as ``save_pretrained`` leaves it: Stable Diffusion 1 and 2, SDXL, their latent consistency models, Stable Diffusion 3, FLUX.
        lora: a safetensors file as ``load_lora_weights`` reads it, such as an LCM-LoRA, added to the network.
        student: whether it is one that jumps; by default if its scheduler is LCM's, or a flow's that samples stochastically.
        dtype: of its weights.
        last: where walks of a flow begin.

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
    variants = {
        weights_of(folder / part)[0]
        for part, kind in parts.items()
        if kind not in _WORDS and part != "scheduler"
    }
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
            pipe = kind.from_pretrained(
                folder, variant=variants.pop() if len(variants) == 1 else None, use_safetensors=True, dtype=dtype,
                local_files_only=True, low_cpu_mem_usage=False, **absent,
            )  # fmt: skip
            if lora is not None:
                pipe.scheduler = _add_lora(pipe, Path(lora))
        except (FileNotFoundError, ImportError):
            raise
        except Exception as error:  # the libraries' kinds are many
            raise ValueError(f"{folder} cannot be read: {reason(error)}") from None
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


def _add_lora(pipe: Any, path: Path) -> Any:
    """Add an adapter to the network; returns the scheduler that lies beside it, or the pipeline's own."""
    beside = path if path.is_dir() else path.parent
    if path.is_dir():
        path = next(iter(sorted(path.glob("*.safetensors"))), path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise FileNotFoundError(f"{path} is no adapter; give a .safetensors file, or a folder with one")
    regular(path, "adapter")
    check_weights(load_file(path))
    pipe.load_lora_weights(path.parent, weight_name=path.name, local_files_only=True)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    config = beside / "scheduler" / "scheduler_config.json"
    if not config.is_file():
        return pipe.scheduler
    found = read_json(config)
    if found.get("_class_name") not in ("LCMScheduler", "FlowMatchEulerDiscreteScheduler"):
        raise ValueError(f"{config}: {bounds.shown(found.get('_class_name'))} is no scheduler of an adapter")
    _check_numbers(found, LARGEST)
    import diffusers

    return getattr(diffusers, found["_class_name"]).from_config(found)


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
    """What stands around the network of a pipeline: its texts, its latents, and how it draws.

    Args:
        pipe: a pipeline of diffusers of one of :data:`FAMILIES`.
        family: which.
        last: as in :class:`~cdedu.adapters.Flow`.
    """

    def __init__(self, pipe: Any, family: Family, last: float = 0.999) -> None:
        self.pipe, self.family = pipe, family
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

    def read(self, texts: Sequence[str]) -> Tensor:
        """Make these the texts that labels mean, and the empty text the last label; returns the labels 0 … K−1."""
        if not texts:
            raise ValueError("no text is given")
        hidden, pooled = self.embed([*texts, ""])
        self.use(Prompts(hidden, pooled, (*texts, "")))
        return torch.arange(len(texts))

    def use(self, prompts: Prompts) -> None:
        """Texts whose embeddings are there already."""
        self.network.prompts = prompts
        self.header.classes, self.header.labels = len(prompts), len(prompts) - 1

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (B, 3, H, W) in [−1, 1]: the means of the autoencoder, on the scale that the network knows."""
        config = self.pipe.vae.config
        images = images.expand(-1, config.in_channels, -1, -1)
        vae = self.pipe.vae
        mean = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mean
        return (mean - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [−1, 1] of latents."""
        config = self.pipe.vae.config
        latents = latents.to(self.pipe.vae.dtype) / config.scaling_factor + (
            config.get("shift_factor") or 0.0
        )
        return self.pipe.vae.decode(latents, return_dict=False)[0].clamp(-1, 1)

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        r"""Where a walk begins, of z: :math:`\sqrt{1+\sigma^2}\,z`, or :math:`(1+\sigma)\,z` for a flow. On the network's own scale that is z."""
        return noise * (1 + sigma if self.flow else math.sqrt(1 + sigma**2))

    def shifted(self, t: Tensor) -> Tensor:
        """Times of a flow with its scheduler's shift s, which leaves more of them near the noise: s t / (1 + (s − 1) t)."""
        shift = float(self.pipe.scheduler.config.get("shift") or 1.0)
        return shift * t / (1 + (shift - 1) * t)

    def levels(self, steps: int) -> list[float]:
        """The noise levels of so many calls: LCM's by its scheduler's rule, out of the ``points`` that the student knows, or equal steps of a flow's t with its scheduler's shift."""
        if not 1 <= steps <= 1000:
            raise ValueError(f"steps = {steps}, but a picture takes 1 to 1,000")
        if self.flow:
            t = self.shifted(1 - torch.arange(steps, dtype=torch.float64) / steps).clamp(
                max=self.denoiser.last
            )
            return (t / (1 - t)).tolist()
        import diffusers

        points = max(self.points, steps)
        lcm = diffusers.LCMScheduler.from_config(self.pipe.scheduler.config, original_inference_steps=points)
        lcm.set_timesteps(steps)
        known = self.denoiser.log_sigmas.exp()
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
        """Images (B, 3, H, W) in [−1, 1] of labels, by default each text once.

        Args:
            steps: network evaluations; of a guided teacher, calls with both texts.
            guidance: the weight w, which a teacher is guided with, or a student takes as an input.
            generator: of all noise; one, or one for each picture.
            model: a teacher or student of this pipeline, the one that it was loaded as by default.
            size: height and width of a latent, the network's own by default.

        Raises:
            ValueError: if no text was read.
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
