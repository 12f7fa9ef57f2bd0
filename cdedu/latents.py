"""``cdedu distill latents`` and ``cdedu sample <pipeline> --prompt``: text-to-image on the command line."""

import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cdedu.checkpoints import load_state, same_data, sha256
from cdedu.data.dataset import to_uint8
from cdedu.files import read_header, replacing
from cdedu.limits import Count, Positive, Rate, Seed, Weight, Whole
from cdedu.methods.text import (
    TextStage,
    check_guidance,
    check_student,
    distill_text,
    text_student,
    usual_guidance,
)
from cdedu.pretrained import locate
from cdedu.pretrained.pipeline import check_license
from cdedu.pretrained.text_export import export_text, is_student
from cdedu.recipes import Network, Recipe
from cdedu.records import write_record
from cdedu.runs import Run, writable, write_run_record
from cdedu.runtime import Runtime, pick_device
from cdedu.training import State

OTHERWISE = "start over with --overwrite, or in another folder with --out"
"""What the user can do with a run that doesn't match the request."""


@dataclass(frozen=True)
class TextRun(Run):
    """A run whose student is an adapter or a pipeline."""

    model: Any = None
    stage: TextStage = field(default_factory=TextStage)
    source: str = ""
    license: str | None = None
    anew: bool = False
    """Forget the old state. The old student stays until a new one can take its place."""

    @property
    def path(self) -> Path:
        """The student for use."""
        return self.folder / ("lora" if self.stage.lora else "pipeline")

    def _drive(self, states: Iterator[State]) -> None:
        if self.anew and self.runtime.main:  # behind all checks, and nobody else is at work here
            for path in (self.state_path, self.previous_path):
                path.unlink(missing_ok=True)
        super()._drive(states)

    def _finish(self, state: State, losses: deque[float], first: int, seconds: float) -> None:
        told = {"data": self.data.name, "pictures": len(self.data.train)}
        size = tuple(self.model.pipeline.scale * side for side in self.data.train.shape[2:])
        options = {"source": self.source, "license": self.license, "size": size, "replace": True}
        export_text(self.model, state.result, self.path, self.stage, **options, **told)
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
        pipeline, size = self.model.pipeline, tuple(self.data.train.shape[2:])
        with visiting(self.runtime.device, pipeline.pipe.vae):
            x = pipeline.draw(labels, 4, weight, torch.Generator().manual_seed(0), student, size=size)
        student.train()
        save_samples(
            self.folder / f"student-{state.step:07d}.png", x.float().cpu(), f"student, step {state.step:,}"
        )


@contextmanager
def visiting(device: torch.device, *parts: nn.Module) -> Iterator[None]:
    """Context in which these parts of a pipeline are on the device; afterward they return to the CPU and free their memory."""
    try:
        for part in parts:
            part.to(device)
        yield
    finally:
        for part in parts:
            part.to("cpu")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def encoders(pipeline: Any, *, texts: bool = False) -> list[nn.Module]:
    """The parts of a pipeline that encode texts and, unless ``texts`` is set, those that encode pictures."""
    return [
        part
        for name, part in pipeline.pipe.components.items()
        if isinstance(part, nn.Module) and (name.startswith("text_encoder") or (name == "vae" and not texts))
    ]


@dataclass(frozen=True)
class DistillLatents:
    """Distill a diffusers text-to-image pipeline by LCM's recipe, into an adapter (LoRA) or a whole network. Also called as `cdedu
    distill latents`."""

    teacher: str
    """A folder saved by diffusers, or owner/name on the Hugging Face hub: Stable Diffusion 1, 2, 3, SDXL or FLUX."""
    data: str
    """Pictures with captions: a folder, a .parquet file, `canvases`, or owner/name on the hub."""
    lora: Whole = 64
    """Rank of the adapter; 0 trains the whole network."""
    steps: Count = 1000
    """Number of optimizer steps."""
    batch: Count = 16
    """Pictures per step."""
    micro_batch: Count | None = None
    """The most pictures to compute at once; gradients are accumulated over the batch. Doesn't change any picture's noise."""
    lr: Positive = 1e-4
    """Learning rate."""
    guidance: tuple[Weight, ...] = ()
    """The teacher's guidance weight (diffusers' guidance_scale; 1 for none), or two to draw from for each picture. By default 6 to 16 for
    Stable Diffusion 1 and 2 and SDXL (LCM's 5 to 15, the way diffusers counts), 7 for Stable Diffusion 3, and for FLUX.1 dev the 3.5 that
    its network takes as an input."""
    guidance_input: bool = False
    """Make the guidance weight an input of the student. Only for a Stable Diffusion that is trained whole."""
    points: Count = 50
    """Number of steps in the solver's grid; must divide the schedule's 1,000 times, unless the teacher is a flow."""
    target_rate: Rate = 0.0
    """Rate of the target average; LCM uses .95 for whole networks."""
    ema: Rate = 0.95
    """Rate of the sampling average."""
    seed: Seed = 0
    """Seed for everything random."""
    size: tuple[Count, Count] | None = None
    """Height and width of the pictures; the pipeline's own by default."""
    checkpointing: bool = False
    """Save memory by computing activations twice."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the networks."""
    compile: bool | None = False
    """Compile the networks."""
    cache: Path = Path("runs/latents-cache")
    """Folder for latents and embeddings, so that each is computed only once."""
    out: Path = Path("runs/latents")
    """Folder for the run."""
    results: Path = Path("results/runs")
    """Folder of the results record."""
    picture_every: Count | None = None
    """Folder for the results record."""
    license: str | None = None
    """License of the weights, for the model card."""
    resume: bool = False
    """Continue an interrupted run; the result is the same as if it had never been interrupted."""
    overwrite: bool = False
    """Start over if there is a run already."""
    launch: ClassVar[Callable[..., Runtime]]
    """Makes the command's runtime, as for all other commands; set by the command line."""

    def __call__(self) -> None:
        from cdedu.data.captioned import Pairs, encoded
        from cdedu.pretrained.text_to_image import load_text_to_image

        stage = TextStage(
            self.lora, self.steps, self.batch, self.lr, self.guidance or TextStage.guidance, self.guidance_input, self.points,
            self.target_rate, self.ema, self.seed,
        )  # fmt: skip
        state = self._place()
        begun = read_header(state) if self.resume else None
        runtime = self.launch(self, Recipe("latents", data="", network=Network("foreign")), begun)
        writable(self.out)
        writable(self.results)
        frozen = self.lora and runtime.precision == "bf16"  # weights that are trained stay in float32
        model = load_text_to_image(
            locate(self.teacher), student=False, dtype=torch.bfloat16 if frozen else torch.float32
        )
        pipeline = model.pipeline
        if not self.guidance and not self.guidance_input:
            stage = replace(stage, guidance=usual_guidance(model))
        check_student(model, stage)
        size = self.size or tuple(side * pipeline.scale for side in pipeline.shape[1:])
        check_size(pipeline, size)
        pairs = Pairs(self.data, size)
        facts = {
            "stage": asdict(stage) | {"steps": None},
            "teacher": {"source": self.teacher, "sha256": pipeline.digest()},
        }
        if begun is not None:
            same_run(state, begun, runtime.precision, facts)
        bar = lambda parts: tqdm(parts, desc="encode", unit="file", disable=not runtime.main)  # noqa: E731
        with runtime.first(), visiting(runtime.device, *encoders(pipeline)):
            data, prompts = encoded(
                pairs, self.cache, pipeline.encode, pipeline.embed, pipeline.encoders(), progress=bar
            )
        pipeline.use(prompts)
        recipe = stage.recipe("latents", data, model)
        run = TextRun(
            recipe, "student", data, self.out, self.results, runtime, picture_every=self.picture_every,
            facts=facts, model=model, stage=stage, source=self.teacher, license=self.license, anew=self.overwrite,
        )  # fmt: skip
        if begun is not None:
            same_data(state, data, OTHERWISE)
            run = replace(run, resume=load_state(state, recipe, "student", OTHERWISE))
        student = text_student(model, stage)
        if self.checkpointing:
            student.denoiser.network.net.enable_gradient_checkpointing()
        run.drive(distill_text(model, data, stage, runtime=runtime, resume=run.resume, student=student))

    def _place(self) -> Path:
        """The file of the run's state, once it is known that the folder may be used: before anything is loaded, and nothing is touched."""
        if self.resume and self.overwrite:
            raise ValueError("--resume continues a run and --overwrite starts over; give one of them")
        if self.license is not None:
            check_license(self.license)
        state = self.out / "student.state.safetensors"
        students = [path for path in (self.out / "lora", self.out / "pipeline") if path.exists()]
        if self.resume and not state.is_file():
            raise FileNotFoundError(f"there is nothing to resume: no {state}; leave --resume out to start")
        if not (self.resume or self.overwrite) and (students or state.is_file()):
            raise FileExistsError(
                f"there is a run in {self.out}; add --resume to continue it, or --overwrite, or choose another --out"
            )
        mine = self.out / ("lora" if self.lora else "pipeline")
        if mine in students and not is_student(mine):
            raise FileExistsError(
                f"{mine} is not a student that this command wrote, so it is not overwritten; move it away, or choose another --out"
            )
        return state


def same_run(path: Path, begun: dict[str, Any], precision: str, facts: dict[str, Any]) -> None:
    """Refuse to continue with a stage, teacher or precision other than the run began with: the result would match neither."""
    now = json.loads(json.dumps(facts))  # a state holds lists where we have tuples
    then = {what: begun.get(what) if isinstance(begun.get(what), dict) else {} for what in now}
    places = [("--precision", begun.get("precision"), precision)]
    for name, value in now["stage"].items():
        option = {"input": "guidance-input"}.get(name, name).replace("_", "-")
        places.append((f"--{option}", then["stage"].get(name), value))
    places.append(("--teacher", *(side["teacher"].get("sha256") for side in (then, now))))
    for option, old, new in places:
        if old == new:
            continue
        if option == "--teacher":
            old, new = (side["teacher"].get("source") for side in (then, now))
        same = " (its weights have changed)" if old == new else ""
        raise ValueError(
            f"{path} began with {option} {_words(old)}, now it is {_words(new)}{same}; resume with the same, or {OTHERWISE}"
        )


def _words(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value!s:.100}"


def check_size(pipeline: Any, size: tuple[int, ...]) -> None:
    """Raise a ValueError for a picture size that the network can't take."""
    unit, most = pipeline.scale * (2 if pipeline.flow else 1), None
    config: Any = pipeline.network.net.config
    if config.get("pos_embed_max_size"):
        most = pipeline.scale * config.patch_size * config.pos_embed_max_size
    if any(side % unit or (most and side > most) for side in size):
        limit = f" up to {most}" if most else ""
        near = [min(max(unit, round(side / unit) * unit), most or side + unit) for side in size]
        raise ValueError(
            f"--size {size[0]} {size[1]}, but this {pipeline.family.name} takes multiples of {unit}{limit}; give --size {near[0]} {near[1]}"
        )


def read_texts(words: tuple[str, ...]) -> tuple[str, ...]:
    """The texts as given; a single ``@file`` stands for one text per line."""
    if len(words) != 1 or not words[0].startswith("@"):
        return words
    path = Path(words[0][1:])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of texts {path}; give one text a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); save it so"
        ) from None
    if texts := tuple(line.strip() for line in lines if line.strip()):
        return texts
    raise ValueError(f"{path} holds no text; give one a line")


def check_weight(model: Any, guidance: float | None) -> None:
    """Raise a ValueError for a guidance weight that a pipeline would ignore, or for a missing one that it needs."""
    network, name = model.pipeline.network, "--guidance"
    if guidance is not None:
        check_guidance([guidance], name)
    takes = bool(getattr(network.net.config, "time_cond_proj_dim", None))
    jumps = model is not model.pipeline.denoiser
    if takes and guidance is None:
        raise ValueError(
            "this student takes the guidance weight as an input; give --guidance, such as --guidance 8.5"
        )
    if jumps and guidance is not None and not takes and not network.is_told:
        raise ValueError(
            f"{name} {guidance:g}, but this student has its guidance in its weights; leave {name} out, or draw with the teacher: --model teacher"
        )


def draw_prompts(
    folder: str | Path,
    prompts: tuple[str, ...],
    out: Path,
    *,
    steps: int | None,
    guidance: float | None,
    lora: str | None,
    seed: int,
    number: int | None,
    batch: int,
    device: torch.device,
    role: str | None = None,
    sheet: bool = True,
) -> None:
    """Pictures of prompts, which take turns, on one sheet or in a folder; each has its own noise. ``@file`` stands for one text per
    line."""
    from cdedu.plotting import save_samples
    from cdedu.pretrained.text_to_image import load_text_to_image

    prompts = read_texts(prompts)
    as_student = None if role is None and lora is None else role != "teacher"
    model = load_text_to_image(folder, lora=lora and locate(lora), student=as_student)
    check_weight(model, guidance)
    pipeline = model.pipeline
    if pipeline.network.is_told and guidance is not None:
        pipeline.network.told, guidance = guidance, None
    with visiting(device, *encoders(pipeline, texts=True)):
        pipeline.read(prompts)
    for part in (pipeline.network, pipeline.pipe.vae):
        part.to(device)
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
    """Pictures as PNG files, with a ``captions.json`` for ``cdedu captions`` to score."""
    from PIL import Image

    names = [f"{i:05d}.png" for i in range(len(x))]
    for name, picture in zip(names, to_uint8(x.float().cpu()), strict=True):
        with replacing(folder / name) as temporary:
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary, format="png")
    with replacing(folder / "captions.json") as temporary:
        temporary.write_text(json.dumps(dict(zip(names, prompts, strict=True)), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class EvaluateLatents:
    """Measure a text-to-image teacher and its student by what a referee network sees in their pictures. Also called as `cdedu evaluate
    latents`.

    The pictures are the captioned digits that come with the course. For other pictures, draw a folder with `cdedu sample ... --format
    png` and score it with `cdedu captions`.
    """

    teacher: str = "captioned-teacher"
    """A diffusers pipeline, or the one that comes with the course."""
    student: str | None = None
    """The pipeline of a whole student."""
    lora: str | None = None
    """An adapter for the teacher."""
    steps: tuple[Count, ...] = (1, 2, 4)
    """The student's numbers of network evaluations."""
    teacher_steps: tuple[Count, ...] = (4, 50)
    """The teacher's number of steps; each takes two evaluations."""
    guidance: Weight = 4.0
    """Guidance weight of the teacher, and of a student that takes it as an input."""
    each: Count = 2
    """Pictures for each of the 240 captions."""
    seeds: Count = 3
    """How many times to draw them all; medians are printed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    results: Path = Path("results/runs")
    """Folder of the results record."""

    def __call__(self) -> None:
        from cdedu.pretrained.text_to_image import load_text_to_image

        check_guidance([self.guidance], "--guidance")
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
    """What the referee sees in pictures of all captions: the share that is right for each attribute and for ``all`` of them, and the
    Fréchet distance ``fd`` in its features to as many canvases of held-out digits; median, minimum and maximum over sampling seeds."""
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
