r"""Diffusion models of the diffusers library as denoisers in σ: DDPM, its relatives and EDM as teachers, consistency models as students.

A network of EDM or of a consistency model is told σ, as here. Any other lives on a *variance-preserving* scale (VP), in discrete time t = 0 … T−1. With :math:`\bar\alpha_t` the product of the
schedule's :math:`1 - \beta` up to t, its input is

.. math:: x^\text{VP}_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,z = \sqrt{\bar\alpha_t}\,(x_0 + \sigma_t z),
          \qquad \sigma_t = \sqrt{\frac{1 - \bar\alpha_t}{\bar\alpha_t}}, \qquad \sqrt{\bar\alpha_t} = \frac{1}{\sqrt{1 + \sigma_t^2}},

our noisy sample on another scale. That's the only difference between the two.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from cdedu.adapters import DiffusersDenoiser
from cdedu.checkpoints import Header
from cdedu.files import check_weights, read_json, regular
from cdedu.networks import UNet, bounds
from cdedu.pretrained.pickles import check_torch_file
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

RECIPE = "recipe.json"
"""The file in an exported folder that holds the recipe of its student."""


def load_diffusers(folder: str | Path) -> DiffusersDenoiser | Teacher | ConsistencyModel:
    """A pipeline saved by diffusers: a DDPM or EDM as a teacher, a consistency model as a student, in float32 and evaluation mode.

    ``model.header`` holds the shape of a sample and the number of labels, and the recipe of a student that was exported here; ``model.clip`` what the
    scheduler of a student says of clipping, which the samplers follow. Weights
    are read from safetensors files, or from older ones of torch that hold nothing else; nothing is executed. The folder is as
    ``save_pretrained`` leaves it, with ``unet/`` and ``scheduler/`` in it; or a ``checkpoint-…`` of diffusers' training script, of
    which the average ``unet_ema/`` is taken where there is one, and the scheduler of the folder around it.

    An ``EDMEulerScheduler`` or ``EDMDPMSolverMultistepScheduler`` makes a :class:`~cdedu.teacher.Teacher`, told ¼ ln σ. Where its
    ``prediction_type`` is ``v_prediction``, the network has EDM's F with the other sign; its last convolution is negated. The recipe in
    the header has the scheduler's σ_d and range of σ.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: for a network that is no ``UNet2DModel``, a scheduler that is no diffusion, and files that are damaged, too large
            for what they hold, or no numbers; flow matching is refused.
    """
    folder = Path(folder)
    unet = next((folder / name for name in ("unet_ema", "unet") if (folder / name).is_dir()), folder)
    scheduler = _scheduler(folder)
    unet_config, config = _read_json(unet / "config.json"), _read_json(scheduler / "scheduler_config.json")
    for part, values, key in ((unet, unet_config, "_class_name"), (scheduler, config, "_class_name")):
        if not isinstance(values.get(key), str):
            raise ValueError(f"{part}: {key} = {bounds.shown(values.get(key))}, but it must be a name")
    if unet_config["_class_name"] != "UNet2DModel":
        raise ValueError(f"{folder}: the network is a {unet_config['_class_name']:.80}, not a UNet2DModel")
    if not (size := unet_config.get("sample_size")):
        raise ValueError(f"{unet / 'config.json'} has no sample_size; write the height of its images there")
    facts = {"recipe": _read_json(folder / RECIPE)} if (folder / RECIPE).is_file() else {}
    try:
        check_keys(unet_config, "config.json")
        check_keys(config, "scheduler_config.json")
        bounds.check_unet(unet_config)
        height, width = size if isinstance(size, list) else (size, size)
        facts |= {"shape": [unet_config.get("in_channels", 3), height, width]}
        header = Header.from_dict(facts | {"classes": unet_config.get("num_class_embeds") or 0})
        levels = _levels(config)
        if levels:
            _check_told_sigma(unet_config, config)
            if config["_class_name"] != _CONSISTENCY:
                header.recipe = foreign(folder.absolute().name, header.classes, *levels)
    except Exception as error:  # what is in such a file can be wrong in any way
        raise ValueError(f"{folder} cannot be used: {reason(error)}") from None
    model: DiffusersDenoiser | Teacher | ConsistencyModel
    if levels:
        network = UNet(_read_unet(unet, unet_config))
        if config["_class_name"] == _CONSISTENCY:
            model = ConsistencyModel(network, *levels[:2], noise_scale=250.0)
            model.clip = 1.0 if config.get("clip_denoised", True) else None
        else:
            model = Teacher(network, levels[0])
            if config.get("prediction_type") == "v_prediction":
                for p in network.net.conv_out.parameters():  # type: ignore[union-attr]
                    p.data.neg_()
        model.sigma_max = levels[2]  # type: ignore[assignment]
    else:
        alphas, prediction = schedule(config, folder)
        net = _read_unet(unet, unet_config)
        try:
            model = DiffusersDenoiser(net, alphas, prediction)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
    model.header = header  # type: ignore[assignment]
    return model.eval()


_RUN = {"auto_map", "trust_remote_code", "kernel_config", "use_kernels", "custom_generate", "custom_pipeline"}
_PLAIN = ("eager", "sdpa")
"""The ways of attention that torch has itself."""


def check_keys(value: Any, place: str) -> None:
    """Raise for what would have a library fetch or run code, or unpack weights by another library, wherever in a configuration it stands."""
    if place == "adapter_config.json":
        raise ValueError(
            "there is an adapter_config.json, which would bring in another model; give an adapter as a file with --lora"
        )
    if isinstance(value, list):
        for inner in value:
            check_keys(inner, place)
    for key, inner in value.items() if isinstance(value, dict) else ():
        bare = str(key).strip("_").removesuffix("_internal")
        if bare in _RUN and inner:
            raise ValueError(
                f"{place} names code of its own ({key} = {bounds.shown(inner)}), which is never run; take {key} out of it"
            )
        if bare == "quantization_config" and inner:
            raise ValueError(
                f"{place} has a quantization_config: its weights are packed; use a folder whose weights are not"
            )
        if bare in ("attn_implementation", "experts_implementation") and inner and inner not in _PLAIN:
            raise ValueError(
                f"{place}: {key} = {bounds.shown(inner)}, which may be code from elsewhere and is never run; take it out of it, or write "
                f"{' or '.join(_PLAIN)}"
            )
        check_keys(inner, place)


def _scheduler(folder: Path) -> Path:
    """Where the scheduler's configuration is: in the folder, or around a checkpoint of a training that goes on."""
    for place in (folder / "scheduler", folder, folder.absolute().parent / "scheduler"):
        if (place / "scheduler_config.json").exists():
            return place
    if folder.name.startswith("checkpoint-") and (folder / "unet").is_dir():
        raise FileNotFoundError(
            f"{folder} is a checkpoint of a training and does not say its noise schedule; save it there first, "
            f'such as DDPMScheduler().save_pretrained("{folder / "scheduler"}")'
        )
    return folder / "scheduler" if (folder / "scheduler").is_dir() else folder


_CONSISTENCY = "CMStochasticIterativeScheduler"
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


def _levels(config: dict[str, Any]) -> tuple[float, float, float] | None:
    """σ_d, ε and σ_max of a scheduler that counts in σ, which is EDM's or a consistency model's; None for another."""
    if config["_class_name"] not in (_CONSISTENCY, *_EDM):
        return None
    known = {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0} | config
    data, low, high = (
        bounds.number(key, known[key], 1e-6, 1e6) for key in ("sigma_data", "sigma_min", "sigma_max")
    )
    if low >= high:
        raise ValueError(f"sigma_min = {low} is not below sigma_max = {high}")
    return data, low, high


def _check_told_sigma(unet: dict[str, Any], scheduler: dict[str, Any]) -> None:
    """Raises a ValueError for a network that such a scheduler cannot stand around, or whose answer we would take for another."""
    name, outputs = scheduler["_class_name"], unet.get("out_channels", 3)
    if outputs != unet.get("in_channels", 3):
        raise ValueError(
            f"its network makes {outputs} channels of {unet.get('in_channels', 3)}, but the {name} takes as many as an image has"
        )
    if type(clip := scheduler.get("clip_denoised", True)) is not bool:
        raise ValueError(f"clip_denoised = {bounds.shown(clip)}, but it must be true or false")
    if name == _CONSISTENCY:
        return
    prediction, time = (
        scheduler.get("prediction_type", "epsilon"),
        unet.get("time_embedding_type", "positional"),
    )
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"prediction_type = {bounds.shown(prediction)}, but the {name} of diffusers knows epsilon and v_prediction alone"
        )
    if time != "positional":
        raise ValueError(
            f"time_embedding_type = {bounds.shown(time)}, but the {name} gives ¼ ln σ to a network of positional time; "
            "a fourier network takes the logarithm of that once more, and a learned one whole numbers"
        )
    if prediction == "v_prediction" and any("Skip" in kind for kind in unet["up_block_types"]):
        raise ValueError("its network adds to the last convolution, so its sign cannot be changed there")


def foreign(
    name: str, classes: int, sigma_data: float, low: float, high: float, noise_scale: float = 0.25
) -> Recipe:
    """The recipe of somebody else's teacher: what is known about its training."""
    usual = StudentStage()
    second = usual.second_sigma if low <= usual.second_sigma < high else math.sqrt(low * high)
    facts: dict[str, Any] = {
        "sigma_data": sigma_data,
        "sigma_min": low,
        "sigma_max": high,
        "noise_scale": noise_scale,
    }
    return Recipe(
        name, "", Network("foreign", classes=classes), student=replace(usual, second_sigma=second), **facts
    )


_SCHEDULE = "num_train_timesteps beta_start beta_end beta_schedule trained_betas".split()
"""The fields of a scheduler that make its noise levels."""


def schedule(config: dict[str, Any], folder: Path) -> tuple[Tensor, str]:
    """The schedule and what the network predicts, if the scheduler is a diffusion in discrete time."""
    import diffusers

    name, prediction = config["_class_name"], config.get("prediction_type", "epsilon")
    if "Flow" in name or "flow" in str(prediction) or config.get("use_flow_sigmas"):
        raise ValueError(
            f"{folder}: {name:.80} is flow matching, not a diffusion, and is not read from files. In Python its network v(x_t, t) is "
            "the denoiser x_t − t·v at σ = t/(1 − t), with x_t = (1 − t)·x, and `distill` takes any denoiser"
        )
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"{folder}: {name:.80} ends without any signal (zero terminal SNR), where σ is infinite; "
            "a denoiser in σ cannot start there. Use a model of the same family whose schedule is not rescaled"
        )
    known = [*diffusers.DDPMScheduler._compatibles, "DDIMInverseScheduler"]
    if name not in known or config.get("timestep_type") == "continuous" or "beta_schedule" not in config:
        raise ValueError(
            f"{folder}: the scheduler {name:.80} has no discrete schedule of β, as {', '.join(known[:3])} and so on have"
        )
    try:
        own = {key: config[key] for key in _SCHEDULE if config.get(key) is not None}
        bounds.whole("num_train_timesteps", own.get("num_train_timesteps", 1000), 2, 100_000)
        for key in own.keys() & {"beta_start", "beta_end"}:
            bounds.number(key, own[key], 0, 1)
        for beta in bounds.items("trained_betas", own.get("trained_betas", [0, 1]), 2, 100_000):
            bounds.number("trained_betas", beta, 0, 1)
        if not isinstance(prediction, str):
            raise ValueError(f"prediction_type = {bounds.shown(prediction)}, but it must be a name")
        return getattr(diffusers, name).from_config(own).alphas_cumprod, prediction
    except Exception as error:
        raise ValueError(f"{folder}: the scheduler {name} cannot be used: {reason(error)}") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; is {path.parent} a folder that diffusers saved?")
    return read_json(path)


def _read_unet(folder: Path, config: dict[str, Any]) -> nn.Module:
    """The UNet in float32, whatever precision its file has."""
    from diffusers import UNet2DModel

    names = [
        path
        for path in sorted(folder.glob("diffusion_pytorch_model*"))
        if path.suffix in (".bin", ".json", ".safetensors")
    ]
    safe = [path for path in names if ".safetensors" in path.suffixes]
    names = safe or names
    half = [p.name for p in names if ".fp16." in p.name]
    variant = "fp16" if half and len(half) == len(names) else None
    try:
        counts = [size for path in names for size in sizes(path, {p.name for p in names})]
        levels = len(config["block_out_channels"])
        if config.get("layers_per_block", 1) * levels > len(counts):
            raise ValueError(f"its weights are {len(counts)} tensors, too few for its configuration")
        with bounds.without_memory():
            bare = UNet2DModel.from_config(config)
        if bounds.size_of(bare) > sum(counts):
            raise ValueError(
                f"its weights are {sum(counts):,} numbers, but its network has {bounds.size_of(bare):,}"
            )
        unet, found = UNet2DModel.from_pretrained(
            folder,
            output_loading_info=True,
            variant=variant,
            use_safetensors=bool(safe),
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            local_files_only=True,
        )
        if found["missing_keys"]:  # diffusers would leave it at random numbers
            raise ValueError(f"its weights lack the tensor {min(found['missing_keys'])!r:.80}")
        check_weights(unet.state_dict())
    except Exception as error:  # the library's kinds are many
        raise ValueError(f"{folder} cannot be read: {reason(error)}") from None
    if variant:
        warnings.warn(f"{folder} holds weights in half precision; they are used in float32", stacklevel=3)
    return unet


def sizes(path: Path, beside: set[str]) -> list[int]:
    """How many numbers each tensor of a file of weights has; an index has none, but must name files beside it."""
    path = regular(path, "file of weights")
    if path.suffix == ".json":
        for name in read_json(path)["weight_map"].values():
            if name not in beside:
                raise ValueError(f"{path.name} names {bounds.shown(name)}, which does not lie beside it")
        return []
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    return [math.prod(shape) for shape in check_torch_file(path).values()]


def reason(error: Exception) -> str:
    """An error in one line, with its kind where its words alone say nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason is given"]
    text = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return (
        f"{text:.300}"
        if isinstance(error, OSError | ValueError | RuntimeError)
        else f"{type(error).__name__}: {text:.300}"
    )
