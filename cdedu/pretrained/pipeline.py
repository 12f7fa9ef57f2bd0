"""A consistency student as a diffusers pipeline: a folder that ``ConsistencyModelPipeline.from_pretrained`` loads."""

import copy
import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from cdedu.checkpoints import Header
from cdedu.files import disk_errors
from cdedu.networks import UNet
from cdedu.networks.guided import WeightedUNet
from cdedu.pretrained.diffusers import RECIPE
from cdedu.recipes import Recipe
from cdedu.student import ConsistencyModel

NOISE_SCALE = 250.0
"""The scheduler of diffusers gives its network 250 ln σ, and nothing else."""


def check_license(license: str) -> None:
    """Raise a ValueError for a license that isn't a single word in the hub's spelling."""
    if not re.fullmatch(r"[\w.+-]+", license):
        raise ValueError(
            f"license = {license!r:.60}, but the hub spells it in one word, such as apache-2.0; give that"
        )


def export_pipeline(
    student: nn.Module,
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    metrics: dict[str, Any] | None = None,
    license: str | None = None,
    guidance: float | None = None,
    push_to_hub: str | None = None,
) -> Path:
    """Write network, scheduler and a model card; diffusers then draws the same samples as this package.

    The images are equal because the scheduler has the recipe's noise grid, and is told to clip (``clip_denoised``) only if the student
    came with a scheduler that does.

    Args:
        student: a :class:`~cdedu.student.ConsistencyModel` over a ``UNet2DModel``, with ``noise_scale=250``.
        folder: new or empty.
        recipe: for the grid and the card; by default the one in the student's checkpoint.
        metrics: measurements for the card: name → number, or a record's ``metrics``.
        license: of the weights, as the hub spells it (``apache-2.0``); the teacher's and the data's terms bind a student too.
        guidance: the weight to fix in a student that takes it as an input, since no pipeline of this kind passes it on.
        push_to_hub: upload to this repository, ``owner/name``, once the folder is written.

    Raises:
        ValueError: for a student that a pipeline can't hold, a license that the hub doesn't know, or invalid metrics.
        FileExistsError: if the folder is not empty; nothing is overwritten.
        OSError: if the folder can't be written, or the upload fails; in that case the folder stays.
    """
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline

    if license is not None:
        check_license(license)
    student, folder = _at(student, guidance), Path(folder)
    net = _unet(student)
    header = getattr(student, "header", None) or Header(())
    recipe = recipe or header.recipe
    if recipe is None:
        raise ValueError("export_pipeline: the student does not say its recipe; give it: recipe=...")
    folder = folder.absolute()  # "." has no name of its own
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty; nothing was written, choose another folder")
    levels = {"sigma_min": student.sigma_min, "sigma_max": recipe.sigma_max, "sigma_data": student.sigma_data}
    scheduler = CMStochasticIterativeScheduler(
        recipe.student.points, rho=recipe.rho, clip_denoised=student.clip is not None, **levels
    )
    size = net.config["sample_size"]
    shape = (net.config["in_channels"], *((size, size) if isinstance(size, int) else size))
    card = model_card(folder.name, recipe, replace(header, shape=shape), metrics, license)
    there = folder.is_dir()
    # A folder that is there is filled and not replaced: it may be the one that we are in.
    temporary = (folder if there else folder.parent) / f".{folder.name}.{os.getpid()}.tmp"
    training = net.training
    try:
        with disk_errors(folder):
            ConsistencyModelPipeline(net.eval(), scheduler).save_pretrained(temporary)
            (temporary / RECIPE).write_text(json.dumps(recipe.to_dict(), indent=1) + "\n", encoding="utf-8")
            (temporary / "README.md").write_text(card, encoding="utf-8")
            for name in sorted(os.listdir(temporary), key="model_index.json".__eq__) if there else ():
                os.replace(
                    temporary / name, folder / name
                )  # last the file by which diffusers knows a pipeline
            if not there:
                os.replace(temporary, folder)
    finally:
        net.train(training)
        shutil.rmtree(temporary, ignore_errors=True)
    if push_to_hub:
        _push(folder, push_to_hub)
    return folder


def second_index(recipe: Recipe) -> int:
    """The point of the grid, counted from σ_max, that lies nearest to the recipe's second noise level (in ln σ)."""
    return max(1, int((recipe.sigmas() / recipe.student.second_sigma).log().abs().argmin()))


def model_card(
    name: str,
    recipe: Recipe,
    header: Header,
    metrics: dict[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """A README for the folder: what this is, how to sample, what it was trained on, what was measured."""
    k, stage = second_index(recipe), recipe.student
    data = header.facts.get("data", {"name": recipe.data})
    head = ["library_name: diffusers", "pipeline_tag: unconditional-image-generation"]
    head += ["tags: [consistency-model, distillation]", *[f"license: {license}"] * bool(license)]
    terms = license or "Not stated. The terms of the teacher and of the data bind a student too."
    facts = {
        "method": stage.method,
        "teacher": header.facts.get("teacher", {}).get("source", "not recorded"),
        "data": ", ".join(f"{key} {value}" for key, value in data.items()),
        "steps": header.step or stage.steps,
        "batch": stage.batch,
        "learning rate": stage.lr,
        "noise grid": f"{stage.points} points from {recipe.sigma_max:g} to {recipe.sigma_min:g}",
        "distance": stage.distance,
        "seed": recipe.seed,
    }
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# {name}\n\nA consistency model: images in one evaluation of the network, better ones in two.",
        "```python\n" + _usage(name, header.shape, k, bool(recipe.network.classes)) + "```",
        f"`timesteps` are points of the noise grid, counted from the top and listed in reverse: [{k}, 0] means "
        f"σ = {recipe.sigma_max:g}, then {recipe.sigmas()[k]:.3g}.",
        "## Training\n\n| | |\n|---|---|\n" + "\n".join(f"| {a} | {b} |" for a, b in facts.items()),
        "## Measured\n\n" + _measured(metrics),
        f"## License\n\n{terms}",
        "## Recipe\n\n```json\n" + json.dumps(recipe.to_dict(), indent=1) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _usage(name: str, shape: tuple[int, ...], k: int, labelled: bool) -> str:
    """How to sample in diffusers. The call of its pipeline makes squares; other forms take its parts one by one."""
    begin = f'from diffusers import ConsistencyModelPipeline\n\npipe = ConsistencyModelPipeline.from_pretrained("{name}")\n'
    if len(set(shape[1:])) < 2:
        labels = ", class_labels=[0] * 16" if labelled else ""
        return (
            f"{begin}one = pipe(batch_size=16{labels}).images\n"
            f"two = pipe(batch_size=16{labels}, num_inference_steps=None, timesteps=[{k}, 0]).images\n"
        )
    labels = ", class_labels=torch.zeros(16, dtype=torch.long)" if labelled else ""
    return (
        f"import torch\n{begin}scheduler = pipe.scheduler\n"
        f"scheduler.set_timesteps(1)  # or for two steps: scheduler.set_timesteps(timesteps=[{k}, 0])\n"
        f"x = scheduler.init_noise_sigma * torch.randn(16, {', '.join(map(str, shape))})\n"
        "for t in scheduler.timesteps:\n"
        "    with torch.no_grad():\n"
        f"        guess = pipe.unet(scheduler.scale_model_input(x, t), t{labels}).sample\n"
        "    x = scheduler.step(guess, t, x).prev_sample\n"
        "images = (x / 2 + 0.5).clamp(0, 1)\n"
    )


def _measured(metrics: dict[str, Any] | None) -> str:
    if not metrics:
        return "Nothing was recorded."
    if "samplers" in metrics:
        from cdedu.evaluation.comparison import table

        try:
            return f"Medians over {metrics['seeds']} sampling seeds, {metrics['n']} samples each.\n\n{table(metrics)}"
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                "export_pipeline: these metrics are not as `cdedu evaluate` records them"
            ) from None
    rows = "\n".join(f"| {name} | {value} |" for name, value in metrics.items())
    return f"| | |\n|---|---|\n{rows}"


def _at(student: nn.Module, guidance: float | None) -> nn.Module:
    """The student at one guidance weight, where it takes one."""
    network = getattr(student, "network", None)
    if not isinstance(network, WeightedUNet):
        if guidance is None:
            return student
        raise ValueError(
            f"export_pipeline: guidance = {guidance:g}, but the student takes no guidance weight"
        )
    if guidance is None:
        raise ValueError(
            "export_pipeline: the student takes the guidance weight as an input, which no pipeline passes on; "
            "fix it: guidance=2.0, or --guidance 2 on the command line"
        )
    low, high = getattr(getattr(student, "header", None), "guidance", None) or (0.0, math.inf)
    if not low <= guidance <= high:
        raise ValueError(
            f"export_pipeline: guidance = {guidance:g}, but the student knows weights from {low:g} to {high:g}"
        )
    fixed = copy.copy(student)
    fixed._modules = {"network": network.at(guidance)}
    return fixed


def _unet(student: nn.Module) -> nn.Module:
    """The diffusers network inside, if the pipeline's scheduler can be its surroundings."""
    if not isinstance(student, ConsistencyModel):
        raise ValueError(
            f"export_pipeline: {type(student).__name__} is not of the form that a ConsistencyModelPipeline computes; "
            "distil a student with the recipe's own network (on the command line: without --network teacher)"
        )
    if not isinstance(student.network, UNet):
        raise ValueError(
            f"export_pipeline: the network is a {type(student.network).__name__}, not a diffusers UNet2DModel; "
            "train with a recipe whose network is a unet, such as cifar10-small"
        )
    if student.noise_scale != NOISE_SCALE or student.angle:
        time = "arctan(σ/σ_d)" if student.angle else "ln σ"
        raise ValueError(
            f"export_pipeline: the network was trained on {student.noise_scale:g} {time}, but the pipeline will give it "
            f"{NOISE_SCALE:g} ln σ; train with noise_scale = {NOISE_SCALE:g}"
        )
    if student.clip not in (None, 1.0):
        raise ValueError(
            f"export_pipeline: clip = {student.clip!r}, but a pipeline clips to [−1, 1] or not at all"
        )
    return student.network.net


def _push(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # the hub's client has many kinds
        reason = str(error).splitlines()[0]
        raise OSError(f"{folder} is written, but could not be uploaded to {repository}: {reason}") from None
