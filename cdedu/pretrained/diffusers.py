r"""Diffusion models of the diffusers library as denoisers in σ: DDPM and its relatives as teachers, consistency models as students.

Such a network lives on a *variance-preserving* scale (VP), in discrete time t = 0 … T−1. With :math:`\bar\alpha_t` the product of the
schedule's :math:`1 - \beta` up to t, its input is

.. math:: x^\text{VP}_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,z = \sqrt{\bar\alpha_t}\,(x_0 + \sigma_t z),
          \qquad \sigma_t = \sqrt{\frac{1 - \bar\alpha_t}{\bar\alpha_t}}, \qquad \sqrt{\bar\alpha_t} = \frac{1}{\sqrt{1 + \sigma_t^2}},

our noisy sample on another scale. Nothing else separates the two.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.adapters import DiffusersDenoiser
from cdedu.checkpoints import Header
from cdedu.networks import UNet
from cdedu.student import ConsistencyModel

RECIPE = "recipe.json"
"""Where an exported folder keeps the recipe of its student."""


def load_diffusers(folder: str | Path) -> DiffusersDenoiser | ConsistencyModel:
    """A pipeline saved by diffusers: a DDPM as a teacher, a consistency model as a student, in float32 and evaluation mode.

    ``model.header`` holds the shape of a sample and the number of labels, and the recipe of a student that was exported here. Weights
    are read from safetensors files, or by ``torch.load(weights_only=True)`` from older ones; nothing is executed. The folder is as
    ``save_pretrained`` leaves it, with ``unet/`` and ``scheduler/`` in it.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: for a network that is no ``UNet2DModel``, or a scheduler that is no diffusion; flow matching is refused.
    """
    folder = Path(folder)
    unet, scheduler = (p if (p := folder / name).is_dir() else folder for name in ("unet", "scheduler"))
    unet_config, config = _read_json(unet / "config.json"), _read_json(scheduler / "scheduler_config.json")
    if unet_config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"{folder}: the network is a {unet_config.get('_class_name')}, not a UNet2DModel")
    size = unet_config.get("sample_size")
    if not size:
        raise ValueError(f"{unet / 'config.json'} has no sample_size; write the height of its images there")
    if config.get("_class_name") == "CMStochasticIterativeScheduler":
        network, levels = UNet(_read_unet(unet)), (config["sigma_data"], config["sigma_min"])
        model = ConsistencyModel(network, *levels, noise_scale=250.0)
        model.sigma_max = float(config["sigma_max"])
    else:
        alphas, prediction = _schedule(config, folder)
        model = DiffusersDenoiser(_read_unet(unet), alphas, prediction)
    height, width = size if isinstance(size, list) else (size, size)
    facts = {"recipe": _read_json(folder / RECIPE)} if (folder / RECIPE).is_file() else {}
    facts |= {"shape": [unet_config["in_channels"], height, width]}
    model.header = Header.from_dict(facts | {"classes": unet_config.get("num_class_embeds") or 0})
    return model.eval()


def _schedule(config: dict[str, Any], folder: Path) -> tuple[Tensor, str]:
    """The schedule and what the network predicts, if the scheduler is a diffusion in discrete time."""
    import diffusers

    name, prediction = str(config.get("_class_name")), config.get("prediction_type", "epsilon")
    if "Flow" in name or "flow" in prediction or config.get("use_flow_sigmas"):
        raise ValueError(
            f"{folder}: {name} is flow matching, not a diffusion; its velocity has no noise level σ that this package knows"
        )
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"{folder}: {name} ends without any signal (zero terminal SNR), where σ is infinite; "
            "a denoiser in σ cannot start there"
        )
    known = [*diffusers.DDPMScheduler._compatibles, "DDIMInverseScheduler"]
    if name not in known or config.get("timestep_type") == "continuous" or "beta_schedule" not in config:
        raise ValueError(
            f"{folder}: the scheduler {name} has no discrete schedule of β, as {', '.join(known[:3])} and so on have"
        )
    return getattr(diffusers, name).from_config(config).alphas_cumprod, prediction


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; is {path.parent} a folder that diffusers saved?")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _read_unet(folder: Path) -> nn.Module:
    """The UNet in float32, whatever precision its file has."""
    from diffusers import UNet2DModel

    half = [p.name for p in folder.glob("*.fp16.*")]
    plain = [p for p in folder.glob("diffusion_pytorch_model*") if p.name not in half]
    variant = "fp16" if half and not plain else None
    try:
        unet = UNet2DModel.from_pretrained(
            folder, variant=variant, torch_dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]
        raise ValueError(f"{folder} cannot be read: {reason}") from None
    if variant:
        warnings.warn(f"{folder} holds weights in half precision; they are used in float32", stacklevel=3)
    return unet
