"""Text-to-image students for diffusers: an adapter that ``load_lora_weights`` takes, or a whole pipeline, each with its scheduler and card."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cdedu.files import disk_errors
from cdedu.methods.text import TextStage
from cdedu.networks.lora import ADAPTER, adapter_of
from cdedu.networks.text import FluxTransformer, TextNetwork
from cdedu.pretrained.pipeline import check_license

_KIND = "A latent consistency model, "


def scheduler_of(model: Any, points: int = 50) -> Any:
    """The scheduler that a student of this teacher samples with: LCM's of a diffusion; the flow's own, made to put noise back, of a flow. That
    one keeps its shift, and shifts the levels that it is given (:func:`usage`)."""
    import diffusers

    config = model.pipeline.pipe.scheduler.config
    if model.pipeline.flow:
        others = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting")
        fixed = {"stochastic_sampling": True, "shift_terminal": None, **dict.fromkeys(others, False)}
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
    size: tuple[int, ...] | None = None,
    replace: bool = False,
    **facts: Any,
) -> Path:
    """Write a pipeline's student; diffusers then draws the same pictures as this package.

    Args:
        model: the teacher; a whole pipeline gets its other parts.
        student: from :func:`~cdedu.methods.text.distill_text`.
        folder: new or empty.
        stage, source, facts: for the card: how it was distilled, from what, and anything else to say. For a folder on this machine, the
            card only gives its last name.
        license: of the weights, as the hub spells it.
        size: height and width of the pictures that it was trained on; the pipeline's own by default.
        replace: replace an existing student (:func:`is_student`) once this one is written.

    Raises:
        FileExistsError: if the folder is not empty; nothing is overwritten.
        ValueError: for a license that the hub doesn't know.
        OSError: if it cannot be written.
    """
    folder = Path(folder).absolute()
    if license is not None:
        check_license(license)
    old = replace and is_student(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not old):
        raise FileExistsError(f"{folder} is there and not empty; nothing was written, choose another folder")
    network: TextNetwork = student.denoiser.network
    scheduler = scheduler_of(model, stage.points)
    temporary, before = (folder.parent / f".{folder.name}.{os.getpid()}.{what}" for what in ("tmp", "before"))
    try:
        with disk_errors(folder):
            temporary.mkdir(parents=True)
            if network.adapted:
                save_file(adapter_of(network), temporary / ADAPTER)
                os.chmod(temporary / ADAPTER, 0o644)
                scheduler.save_pretrained(temporary / "scheduler")
            else:
                _pipeline(model, network, scheduler, stage).save_pretrained(temporary)
            card = text_card(folder.name, model, stage, source, license, facts, size)
            (temporary / "README.md").write_text(card, encoding="utf-8")
            if old:
                os.replace(folder, before)
            elif folder.is_dir():
                folder.rmdir()
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
    return folder


def is_student(folder: str | Path) -> bool:
    """Whether a folder was written by :func:`export_text`, judging by its card."""
    try:
        return f"\n\n{_KIND}" in (Path(folder) / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


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


def usage(
    name: str,
    model: Any,
    stage: TextStage,
    source: str,
    steps: int = 4,
    size: tuple[int, ...] | None = None,
) -> str:
    """The lines that draw a picture in diffusers.

    A flow's scheduler shifts the levels that it is given, so they are given as they are before that.

    Args:
        name: of the student's folder.
        model, stage, source: its teacher, how it was distilled, and where the teacher comes from.
        steps: calls of the network.
        size: height and width, where they are not the pipeline's own.
    """
    pipeline = model.pipeline
    network, flow = pipeline.network, pipeline.flow
    parts = pipeline.pipe.components
    absent = [part for part in ("text_encoder_3", "tokenizer_3") if part in parts and parts[part] is None]
    without = "".join(f", {part}=None" for part in absent)  # diffusers wants to be told what is not there
    lines = ["import torch", "from diffusers import DiffusionPipeline"]
    if stage.lora:
        scheduler = "FlowMatchEulerDiscreteScheduler" if flow else "LCMScheduler"
        lines[1] += f", {scheduler}"
        lines += [
            f"\npipe = DiffusionPipeline.from_pretrained({_text(_public(source))}{without})",
            f"pipe.scheduler = {scheduler}.from_pretrained({_text(name + '/scheduler')})",
            f"pipe.load_lora_weights({_text(name)})",
        ]
    else:
        lines += [f"\npipe = DiffusionPipeline.from_pretrained({_text(name)}{without})"]
    call = f"num_inference_steps={steps}"
    if flow:
        call += f", sigmas={[round(t, 6) for t in _unshifted(pipeline, steps)]}"
    if stage.input:
        call += f", guidance_scale={sum(stage.guidance) / 2:g}"
    elif isinstance(network, FluxTransformer):
        call += f", guidance_scale={stage.guidance[0]}" * network.is_told
    else:
        call += ", guidance_scale=1.0"
    if size and tuple(size) != tuple(side * pipeline.scale for side in pipeline.shape[1:]):
        call += f", height={size[0]}, width={size[1]}"
    return "\n".join([*lines, f'image = pipe("a red fox in snow", {call}).images[0]', ""])


def _unshifted(pipeline: Any, steps: int) -> list[float]:
    """The levels of a flow's student as times, before its scheduler's shift s: t / (s − (s − 1) t)."""
    shift = float(pipeline.pipe.scheduler.config.get("shift") or 1.0)
    times = [sigma / (1 + sigma) for sigma in pipeline.levels(steps)]
    return [t / (shift - (shift - 1) * t) for t in times]


def _text(value: str) -> str:
    """A string as it stands in Python and in YAML."""
    return json.dumps(value, ensure_ascii=False)


def _hub_name(source: str) -> str | None:
    """The name of a model on the hub, or None for what is on this machine."""
    found = re.fullmatch(
        r"(?:https://huggingface\.co/)?([\w-][\w.-]*/[\w-][\w.-]*?)(?:/tree/main)?/?", source, re.ASCII
    )
    return found.group(1) if found and not Path(source).exists() else None


def _public(source: str) -> str:
    """A name on the hub as it is; of a path, which is nobody else's, the last name."""
    return _hub_name(source) or re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source


def text_card(
    name: str,
    model: Any,
    stage: TextStage,
    source: str,
    license: str | None,
    facts: dict[str, Any],
    size: tuple[int, ...] | None = None,
) -> str:
    """A README for the folder."""
    head = ["library_name: diffusers", "pipeline_tag: text-to-image"]
    head += [f"base_model: {hub}"] if (hub := _hub_name(source)) else []
    head += [
        "tags: [consistency-model, distillation" + ", lora" * bool(stage.lora) + "]",
        *[f"license: {license}"] * bool(license),
    ]
    terms = license or "Not stated. The terms of the teacher and of the data bind a student too."
    what = "an adapter (LoRA)" if stage.lora else "a whole pipeline"
    rows = {"teacher": _public(source), **asdict(stage), **({"size": [*size]} if size else {}), **facts}
    weight = "as an input" if stage.input else "in its weights: the pipeline must not guide it again"
    network = model.pipeline.network
    if network.is_told:
        weight = "as its teacher has it, as a number that the network is told: keep it"
    return "\n\n".join(
        [
            "---\n" + "\n".join(head) + "\n---",
            f"# {name}\n\n{_KIND}{what}: pictures in one to eight evaluations of the network. It has its teacher's guidance {weight}.",
            "```python\n" + usage(name, model, stage, source, size=size) + "```",
            "## Training\n\n| | |\n|---|---|\n"
            + "\n".join(
                f"| {a} | {_cell(b if isinstance(b, str) else json.dumps(b))} |" for a, b in rows.items()
            ),
            f"## License\n\n{terms}\n",
        ]
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
