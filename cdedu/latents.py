"""``cdedu distill latents`` and ``cdedu sample <pipeline> --prompt``: text-to-image on the command line."""

import json
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cdedu.checkpoints import load_state, sha256
from cdedu.data.dataset import to_uint8
from cdedu.files import read_header, replacing
from cdedu.limits import Count, Positive, Rate, Seed, Weight, Whole
from cdedu.methods.text import TextStage, distill_text, text_student
from cdedu.pretrained import locate
from cdedu.recipes import Network, Recipe
from cdedu.records import write_record
from cdedu.runs import Run, writable, write_run_record
from cdedu.runtime import Runtime, pick_device
from cdedu.training import State


@dataclass(frozen=True)
class TextRun(Run):
    """A run whose student is an adapter or a pipeline."""

    model: Any = None
    stage: TextStage = field(default_factory=TextStage)
    source: str = ""
    license: str | None = None

    @property
    def path(self) -> Path:
        """The student for use."""
        return self.folder / ("lora" if self.stage.lora else "pipeline")

    def _finish(self, state: State, losses: deque[float], first: int, seconds: float) -> None:
        from cdedu.pretrained.text_export import export_text

        told = {"data": self.data.name, "pictures": len(self.data.train)}
        export_text(
            self.model, state.result, self.path, self.stage, source=self.source, license=self.license, **told
        )
        files = {str(p.relative_to(self.path)): sha256(p) for p in sorted(self.path.rglob("*.safetensors"))}
        metrics = {
            "steps": state.step,
            "loss": sum(losses) / len(losses) if losses else state.loss,
            "steps_per_second": (state.step - first) / seconds,
            "peak_gpu_memory_mb": self._gpu_memory(),
        }
        record = write_run_record(
            self.results, f"{self.recipe.name}-student", self.recipe, self.data, device=str(self.runtime.device), seconds=seconds,
            metrics=metrics, weights=files, stage=asdict(self.stage), teacher=self.source, runtime=self.runtime.describe(),
        )  # fmt: skip
        self._save(state)
        print(f"{self.path} (record: {record})")

    def _picture(self, state: State) -> None:
        from cdedu.plotting import save_samples

        labels = torch.arange(min(16, len(self.model.pipeline.network.prompts) - 1))
        weight = sum(self.stage.guidance) / 2 if self.stage.input else None
        student = state.result
        x = self.model.pipeline.draw(
            labels,
            4,
            weight,
            torch.Generator().manual_seed(0),
            student,
            size=tuple(self.data.train.shape[2:]),
        )
        student.train()
        save_samples(
            self.folder / f"student-{state.step:07d}.png", x.float().cpu(), f"student, step {state.step:,}"
        )


@dataclass(frozen=True)
class DistillLatents:
    """Distil a text-to-image pipeline of diffusers: an adapter (LoRA) or the whole network, by LCM's recipe. Also called as
    `cdedu distill latents`."""

    teacher: str
    """A folder that diffusers saved, or owner/name on the Hugging Face hub: Stable Diffusion 1, 2, 3, SDXL or FLUX."""
    data: str
    """Pictures with captions: a folder, a .parquet file, `canvases`, or owner/name on the hub."""
    lora: Whole = 64
    """Rank of the adapter; 0 trains the whole network."""
    steps: Count = 1000
    """Steps of the optimiser."""
    batch: Count = 16
    """Pictures a step."""
    micro_batch: Count | None = None
    """At most so many at once; gradients are accumulated over the batch."""
    lr: Positive = 1e-4
    """Learning rate."""
    guidance: tuple[Weight, ...] = (5.0, 15.0)
    """The teacher's guidance weight: one; or two, between which it is drawn for each picture."""
    guidance_input: bool = False
    """The student takes the guidance weight as an input, of a Stable Diffusion that is trained whole."""
    points: Count = 50
    """Steps of the solver's grid."""
    target_rate: Rate = 0.0
    """Of the target's average; LCM has .95 for whole networks."""
    ema: Rate = 0.95
    """Of the sampling average."""
    seed: Seed = 0
    """Of everything that is random."""
    size: tuple[Count, Count] | None = None
    """Height and width of the pictures; the pipeline's own by default."""
    checkpointing: bool = False
    """Compute activations twice to save memory."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the networks."""
    compile: bool | None = False
    """Compile the networks."""
    cache: Path = Path("runs/latents-cache")
    """Where latents and embeddings are kept, so that each is computed once."""
    out: Path = Path("runs/latents")
    """Folder of the run."""
    results: Path = Path("results/runs")
    """Folder of the results record."""
    picture_every: Count | None = None
    """Write a picture of samples every so many steps."""
    license: str | None = None
    """Of the weights, for the model card."""
    resume: bool = False
    """Continue an interrupted run, to the same result as if it had not been interrupted."""
    overwrite: bool = False
    """Start anew where there is a run already."""
    launch: ClassVar[Callable[..., Runtime]]
    """Makes the runtime of a command, as for all others; the command line sets it."""

    def __call__(self) -> None:
        from cdedu.data.captioned import Pairs, encoded
        from cdedu.pretrained.text_to_image import load_text_to_image

        stage = TextStage(self.lora, self.steps, self.batch, self.lr, self.guidance, self.guidance_input, self.points, self.target_rate, self.ema, self.seed)  # fmt: skip
        runtime = self.launch(self, Recipe("latents", data="", network=Network("foreign")))
        writable(self.out)
        writable(self.results)
        frozen = self.lora and runtime.precision == "bf16"  # weights that are trained stay in float32
        model = load_text_to_image(
            locate(self.teacher), student=False, dtype=torch.bfloat16 if frozen else torch.float32
        )
        pipeline = model.pipeline
        size = self.size or tuple(side * pipeline.scale for side in pipeline.shape[1:])
        if any(side % (2 * pipeline.scale if pipeline.flow else pipeline.scale) for side in size):
            raise ValueError(
                f"--size {size[0]} {size[1]}, but this autoencoder takes multiples of {pipeline.scale}"
            )
        pairs = Pairs(self.data, size)
        pipeline.pipe.to(runtime.device)
        bar = lambda parts: tqdm(parts, desc="encode", unit="file", disable=not runtime.main)  # noqa: E731
        with runtime.first():
            data, prompts = encoded(
                pairs, self.cache, pipeline.encode, pipeline.embed, pipeline.encoders(), progress=bar
            )
        pipeline.use(prompts)
        recipe = stage.recipe("latents", data, model)
        run = TextRun(
            recipe, "student", data, self.out, self.results, runtime, picture_every=self.picture_every,
            facts={"stage": asdict(stage) | {"steps": None}, "teacher": self.teacher}, model=model, stage=stage, source=self.teacher, license=self.license,
        )  # fmt: skip
        there = run.state_path.is_file() or run.path.exists()
        if self.overwrite:
            run.state_path.unlink(missing_ok=True)
            shutil.rmtree(run.path, ignore_errors=True)
        elif there and not self.resume:
            raise ValueError(
                f"there is a run in {self.out}; add --resume to go on with it, or --overwrite, or give another --out"
            )
        if self.resume and run.state_path.is_file():
            begun = read_header(run.state_path).get("stage")
            if begun != run.facts["stage"]:
                raise ValueError(
                    f"{run.state_path} was begun with {begun}; resume with the same, or give another --out"
                )
            run = replace(run, resume=load_state(run.state_path, recipe, "student"))
        student = text_student(model, stage)
        if self.checkpointing:
            student.denoiser.network.net.enable_gradient_checkpointing()
        run.drive(distill_text(model, data, stage, runtime=runtime, resume=run.resume, student=student))


def draw_prompts(
    folder: str | Path,
    prompts: tuple[str, ...],
    out: Path,
    *,
    steps: int | None,
    guidance: float | None,
    lora: str | None,
    seed: int,
    number: int,
    batch: int,
    device: torch.device,
    role: str | None = None,
    sheet: bool = True,
) -> None:
    """Pictures of prompts, which take turns, on one sheet or in a folder; each has a noise of its own. ``@file`` is a text for each line."""
    from cdedu.plotting import save_samples
    from cdedu.pretrained.text_to_image import load_text_to_image

    if len(prompts) == 1 and prompts[0].startswith("@"):
        path = Path(prompts[0][1:])
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of texts {path}; give one text a line")
        prompts = tuple(
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        )
    as_student = None if role is None and lora is None else role != "teacher"
    model = load_text_to_image(folder, lora=lora and locate(lora), student=as_student)
    model.pipeline.pipe.to(device)
    model.pipeline.read(prompts)
    labels = torch.arange(number or len(prompts)) % len(prompts)
    k = steps or (25 if model is model.pipeline.denoiser else 4)
    parts = []
    for some in tqdm(labels.split(batch), unit="batch", disable=len(labels) <= batch):
        first = len(parts) * batch
        noise = [torch.Generator().manual_seed(seed + first + i) for i in range(len(some))]
        parts.append(
            model.pipeline.draw(
                some, k, guidance, noise, progress=lambda levels: tqdm(levels, unit="call", leave=False)
            )
            .float()
            .cpu()
        )
    x = torch.cat(parts)
    if sheet:
        save_samples(out, x, ", ".join(prompts)[:80])
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_pictures(x, [prompts[i] for i in labels], out)


def write_pictures(x: Tensor, prompts: list[str], folder: Path) -> None:
    """Pictures as PNG files, with ``captions.json`` beside them, which ``cdedu captions`` scores."""
    from PIL import Image

    names = [f"{i:05d}.png" for i in range(len(x))]
    for name, picture in zip(names, to_uint8(x.float().cpu()), strict=True):
        with replacing(folder / name) as temporary:
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary, format="png")
    with replacing(folder / "captions.json") as temporary:
        temporary.write_text(json.dumps(dict(zip(names, prompts, strict=True)), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class EvaluateLatents:
    """Measure a text-to-image teacher and its student by what a referee reads in their pictures. Also called as `cdedu evaluate latents`.

    The pictures are the captioned digits that come with the course. For other pictures, `cdedu sample ... --format png` draws a folder,
    and `cdedu captions` scores it.
    """

    teacher: str = "captioned-teacher"
    """A pipeline of diffusers, or the one that comes with the course."""
    student: str | None = None
    """A whole student's pipeline."""
    lora: str | None = None
    """An adapter over the teacher."""
    steps: tuple[Count, ...] = (1, 2, 4)
    """Network evaluations of the student."""
    teacher_steps: tuple[Count, ...] = (4, 50)
    """Steps of the teacher, each of them two evaluations."""
    guidance: Weight = 4.0
    """The teacher's guidance weight, and that of a student which takes it as an input."""
    each: Count = 2
    """Pictures of each of the 240 captions."""
    seeds: Count = 3
    """Draws of all of them; medians are printed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    results: Path = Path("results/runs")
    """Folder of the results record."""

    def __call__(self) -> None:
        from cdedu.pretrained.text_to_image import load_text_to_image

        device = pick_device(self.device)
        writable(self.results)
        start, rows = time.perf_counter(), dict[str, Any]()
        teacher = load_text_to_image(locate(self.teacher), student=False)
        models = [("teacher", teacher, self.teacher_steps, self.guidance)]
        for name, lora in ((self.student, None), (self.teacher if self.lora else None, self.lora)):
            if name is not None:
                model = load_text_to_image(locate(name), lora=lora and locate(lora), student=True)
                told = getattr(model.pipeline.network.net.config, "time_cond_proj_dim", None)
                models.append(
                    (
                        "student" if lora is None else "lora",
                        model,
                        self.steps,
                        self.guidance if told else None,
                    )
                )
        for role, model, counts, weight in models:
            model.pipeline.pipe.to(device)
            for k in counts:
                rows[f"{role}_{k}"] = row = score_canvases(model, k, weight, self.each, self.seeds)
                print(
                    f"{role}, {k} steps: "
                    + ", ".join(f"{name} {m['median']:.3g}" for name, m in row.items()),
                    flush=True,
                )
        weights = {role: model.pipeline.digest() for role, model, *_ in models}
        path = write_record(
            self.results / f"latents-evaluate-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S-%f')}.json", metrics=rows,
            command=shlex.join(["cdedu", *sys.argv[1:]]), seconds=time.perf_counter() - start, device=str(device), weights=weights,
            settings=asdict(self) | {"results": None, "device": None},
        )  # fmt: skip
        print(f"record: {path}")


def score_canvases(
    model: Any, steps: int, guidance: float | None, each: int = 2, seeds: int = 3, batch: int = 240
) -> dict[str, dict[str, float]]:
    """What the referee reads in pictures of all captions: the share that is right in each attribute and in ``all``, and the Fréchet
    distance ``fd`` in its features to as many canvases of held-out digits; median, least and greatest over sampling seeds."""
    from cdedu.data.canvases import NAMES, canvases, caption, combinations
    from cdedu.evaluation import canvas_referee, frechet_distance, spread

    referee, wanted = canvas_referee(), combinations().repeat(each, 1)
    labels = model.pipeline.read([caption(a) for a in combinations()]).repeat(each)
    runs = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        parts = [model.pipeline.draw(part, steps, guidance, generator) for part in labels.split(batch)]
        x = torch.cat(parts).float().cpu()
        right = referee.read(x) == wanted
        real = canvases(len(x), seed=10_000 + seed, held_out=True).images
        with torch.no_grad():
            fd = frechet_distance(referee.features(real), referee.features(x))
        shares = {name: float(right[:, i].float().mean()) for i, name in enumerate(NAMES)}
        runs.append({"fd": fd, **shares, "all": float(right.all(1).float().mean())})
    return {name: spread([run[name] for run in runs]) for name in runs[0]}
