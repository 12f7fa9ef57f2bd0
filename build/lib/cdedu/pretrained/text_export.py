"""Text-to-image students for diffusers: an adapter that ``load_lora_weights`` takes, or a whole pipeline, each with its scheduler and card."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cdedu.files import disk_errors
from cdedu.methods.text import TextStage
from cdedu.networks.lora import adapter_of
from cdedu.networks.text import TextNetwork

ADAPTER = "pytorch_lora_weights.safetensors"
"""The name that ``load_lora_weights`` looks for in a folder."""


def scheduler_of(model: Any, points: int = 50) -> Any:
    """The scheduler that a student of this teacher samples with: LCM's of a diffusion; the flow's own, made to put noise back, of a flow."""
    import diffusers

    config = model.pipeline.pipe.scheduler.config
    if model.pipeline.flow:
        fixed = {"stochastic_sampling": True, "use_dynamic_shifting": False}
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config, **fixed)
    return diffusers.LCMScheduler.from_config(config, original_inference_steps=points)


def export_text(
    model: Any,
    student: Any,
    folder: str | Path,
    stage: TextStage,
    *,
    source: str,
    license: str | None = None,
    **facts: Any,
) -> Path:
    """Write a student of a pipeline; diffusers draws from it what this package draws.

    Args:
        model: the teacher, whose other parts a whole pipeline gets.
        student: from :func:`~cdedu.methods.text.distill_text`.
        folder: new or empty.
        stage, source, facts: for the card: how it was distilled, from what, and what else there is to say.
        license: of the weights, as the hub spells it.

    Raises:
        FileExistsError: if the folder is not empty; nothing is overwritten.
        OSError: if it cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty; nothing was written, choose another folder")
    network: TextNetwork = student.denoiser.network
    scheduler, temporary = (
        scheduler_of(model, stage.points),
        folder.parent / f".{folder.name}.{os.getpid()}.tmp",
    )
    try:
        with disk_errors(folder):
            temporary.mkdir(parents=True)
            if network.adapted:
                save_file(adapter_of(network), temporary / ADAPTER)
                os.chmod(temporary / ADAPTER, 0o644)
                scheduler.save_pretrained(temporary / "scheduler")
            else:
                _pipeline(model, network, scheduler, stage).save_pretrained(temporary)
            card = text_card(folder.name, model, stage, source, license, facts)
            (temporary / "README.md").write_text(card, encoding="utf-8")
            if folder.is_dir():
                folder.rmdir()
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _pipeline(model: Any, network: TextNetwork, scheduler: Any, stage: TextStage) -> Any:
    import diffusers

    pipe, part = model.pipeline.pipe, model.pipeline.family.part
    parts = {**pipe.components, part: network.net, "scheduler": scheduler}
    kind = type(pipe)
    if stage.input:
        if kind is not diffusers.StableDiffusionPipeline:
            return kind(**parts)
        parts |= {"safety_checker": None, "feature_extractor": None}
        return diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    more = {"requires_safety_checker": False} if kind is diffusers.StableDiffusionPipeline else {}
    return kind(**parts, **more)


def usage(name: str, model: Any, stage: TextStage, source: str, steps: int = 4) -> str:
    """The lines that draw a picture in diffusers."""
    pipe, flow = type(model.pipeline.pipe).__name__, model.pipeline.flow
    lines = ["import torch", "from diffusers import DiffusionPipeline"]
    if stage.lora:
        scheduler = "FlowMatchEulerDiscreteScheduler" if flow else "LCMScheduler"
        lines[1] += f", {scheduler}"
        lines += [
            f'\npipe = DiffusionPipeline.from_pretrained("{source}")',
            f'pipe.scheduler = {scheduler}.from_pretrained("{name}/scheduler")',
            f'pipe.load_lora_weights("{name}")',
        ]
    else:
        lines += [f'\npipe = DiffusionPipeline.from_pretrained("{name}")']
    call = f"num_inference_steps={steps}"
    if flow:
        call += f", sigmas={[round(s / (1 + s), 4) for s in model.pipeline.levels(steps)]}"
    if stage.input:
        call += f", guidance_scale={sum(stage.guidance) / 2:g}"
    elif pipe != "FluxPipeline":
        call += ", guidance_scale=1.0"
    return "\n".join([*lines, f'image = pipe("a red fox in snow", {call}).images[0]', ""])


def text_card(
    name: str, model: Any, stage: TextStage, source: str, license: str | None, facts: dict[str, Any]
) -> str:
    """A README for the folder."""
    head = ["library_name: diffusers", "pipeline_tag: text-to-image", f"base_model: {source}"]
    head += [
        "tags: [consistency-model, distillation" + ", lora" * bool(stage.lora) + "]",
        *[f"license: {license}"] * bool(license),
    ]
    terms = license or "Not stated. The terms of the teacher and of the data bind a student too."
    what = "an adapter (LoRA)" if stage.lora else "a whole pipeline"
    rows = {"teacher": source, **asdict(stage), **facts}
    weight = "as an input" if stage.input else "in its weights: the pipeline must not guide it again"
    return "\n\n".join(
        [
            "---\n" + "\n".join(head) + "\n---",
            f"# {name}\n\nA latent consistency model, {what}: pictures in one to eight evaluations of the network. It has its teacher's guidance {weight}.",
            "```python\n" + usage(name, model, stage, source) + "```",
            "## Training\n\n| | |\n|---|---|\n"
            + "\n".join(
                f"| {a} | {json.dumps(b) if not isinstance(b, str) else b} |" for a, b in rows.items()
            ),
            f"## Licence\n\n{terms}\n",
        ]
    )
