"""The command line: ``cdedu plan | train | distill | sample | evaluate | distance | captions | export | grade | race``.

A run lives in ``runs/<recipe>/``: ``teacher.safetensors`` and ``student.safetensors`` to use, ``*.state.safetensors`` to resume from.
Every run leaves a record in ``results/runs/`` under its own name.
"""

import io
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from cdedu import checkpoints, fitting, samples
from cdedu.checkpoints import WEIGHTS
from cdedu.course.command import GradeFolder, PlanRun, RaceEntries
from cdedu.data import SETS, TOYS, Dataset, load_data, to_unit
from cdedu.data.images import CIFAR10_SHORT
from cdedu.files import read_header, sha256
from cdedu.latents import DistillLatents, EvaluateLatents
from cdedu.limits import Count, Pixels, Positive, Range, Rate, Seed, Weight, check_memory, check_ranges
from cdedu.methods.guidance import Labelled
from cdedu.pretrained import export_pipeline, load_teacher, locate
from cdedu.recipes import Recipe, get_recipe, recipes
from cdedu.records import read_record
from cdedu.runs import Run, tracker_class, writable, write_run_record
from cdedu.runtime import Distributed, Runtime, fast_precision, pick_device
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill, train_teacher, within


@dataclass(frozen=True)
class _Command:
    """Options of all commands that work on a recipe and its data."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, such as toy, digits or cifar10-small; or a TOML file with your own."""
    data: str | None = None
    """Use this data set instead of the recipe's: a name, or a folder or zip of images."""
    test_data: Path | None = None
    """Held-out images, if --data is a folder or zip; by default a tenth of its images."""
    size: tuple[Pixels] | tuple[Pixels, Pixels] | None = None
    """Resize the images of a folder or zip to this height and width; a single number is both."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """What --size does to images of another aspect ratio: crop them, pad them with black, or stretch them."""
    channels: Literal[1, 3] = 3
    """Channels for the images of a folder or zip: 1 makes them all gray, 3 makes them all RGB."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    out: Path | None = None
    """Folder for the run; runs/<recipe> by default."""
    results: Path = Path("results/runs")
    """Folder for the results record."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the networks. auto picks what the GPU is good at; on a CPU, bf16 if a quick trial finds it faster, otherwise fp32."""
    compile: bool | None = None
    """Compile the networks; by default only image networks on CUDA, if Triton is installed."""


@dataclass(frozen=True)
class _Run(_Command):
    """Options of all training commands."""

    max_steps: Count | None = None
    """Number of steps, instead of the recipe's."""
    batch: Count | None = None
    """Batch size, instead of the recipe's."""
    block: Count | None = None
    """How many samples share a random generator. With several processes or --micro-batch, each part must hold whole blocks."""
    lr: Positive | None = None
    """Learning rate, instead of the recipe's."""
    seed: Seed | None = None
    """Seed, instead of the recipe's."""
    micro_batch: Count | None = None
    """Compute at most this many samples at once; gradients are accumulated over the batch."""
    ema: Rate | None = None
    """Rate of the sampling average, instead of the recipe's. A shorter run needs a lower one, about 1 - 10 / steps."""
    picture_every: Count | None = None
    """Write a picture of samples every this many steps."""
    log: Literal["tensorboard", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow"] | None = None
    """Send training curves to one of Accelerate's trackers; TensorBoard's are written to the run's folder."""
    from_weights: Path | None = None
    """Start from these weights with a fresh optimizer and a short warm-up; the record says so. Add --resume to continue such a run."""
    resume: bool = False
    """Continue an interrupted run; the result is the same as if it had never been interrupted."""
    go_on: bool = False
    """Resume if there is something to resume, otherwise start: for jobs that a scheduler restarts again and again."""
    overwrite: bool = False
    """Start over if there is a run already."""


@dataclass(frozen=True)
class Train(_Run):
    """Train a teacher from scratch."""

    def __call__(self) -> None:
        command = _resuming(self, "teacher")
        run, options = _begun(command, _prepare(command, "teacher"))
        run.drive(train_teacher(run.recipe, run.data, **options))


@dataclass(frozen=True)
class Distill(_Run):
    """Distill a consistency student from a teacher."""

    teacher: str | None = None
    """The teacher: a file, the name of one that comes with the course, a folder saved by diffusers, an EDM pickle, a .pt file of openai's
    consistency models, a name on the Hugging Face hub, or a URL. By default the run's own or, without one, the course's."""
    network: Literal["recipe", "teacher"] = "recipe"
    """The student's network if the teacher is not of this package's form: the recipe's network with random weights, whose student can be
    exported, or a copy of the teacher's own network."""
    guidance: tuple[Weight, ...] = ()
    """Guide a teacher whose last label means "no label". Give one weight, or two to get a student that takes any weight between them as
    an input."""

    def __call__(self) -> None:
        command = _resuming(self, "student")
        run = _prepare(command, "student")
        source = _model_source(self.teacher, run.folder, run.recipe, "teacher")
        recipe, teacher, student = fitting.teacher_and_student(source, run.recipe, run.data, self.network)
        if run.runtime.main and student is not None and self.network == "recipe":
            print(
                f"The student has the recipe's network, with random weights; it learns σ from {recipe.sigma_min:g} to "
                f"{recipe.sigma_max:g}, as far as both teacher and recipe go."
            )
        weights, facts = None, {"teacher": {"source": source, "sha256": _digest(source)}}
        if self.guidance:
            recipe, teacher, student, weights = fitting.guided(
                self.guidance, recipe, teacher, student, source, run.data
            )
            facts["guidance"] = [*self.guidance]
        run, options = _begun(command, replace(run, recipe=recipe, facts=facts))
        if recipe.student.distance == "lpips" and recipe.student.method == "distillation":
            from cdedu.losses import lpips

            x = to_unit(run.data.train[:1]).to(run.runtime.device)
            try:  # whether it can be used at all: on RGB images, with its weights at hand
                with run.runtime.first():
                    lpips(x, x)
            except RuntimeError as error:
                raise OSError(str(error)) from None
        if run.runtime.main:
            print(f"teacher: {source}")
        run.drive(distill(recipe, teacher, run.data, student=student, guidance=weights, **options))


@dataclass(frozen=True)
class Sample:
    """Draw samples and write them as one picture, as many single pictures, or as one file."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, such as toy, digits or cifar10-small, or a TOML file with one; or a model itself: its file, or a diffusers
    folder."""
    steps: Annotated[int, Range(1, 10_000)] | None = None
    """Number of steps for a student, 1 by default; or of points on the noise grid for a teacher, 18 by default (n points take 2n − 1
    evaluations)."""
    model: Literal["student", "teacher"] | None = None
    """Which of the two to draw from; by default the student, or the teacher if there is no student yet."""
    weights: str | None = None
    """A file, or the name of weights that come with the course. By default the run's own or, without any, the course's."""
    label: str | None = None
    """Draw only this class, by name or number; by default the classes take turns."""
    guidance: Weight | None = None
    """Guidance weight, for a student that takes it as an input or a teacher whose last label means "no label". For text-to-image it is
    diffusers' guidance_scale, 1 for none; for FLUX.1 dev, the number that its network takes."""
    number: Count | None = None
    """How many samples; by default 64, six of each where ten classes take turns, or one per text. Each has its own number and noise, so the first few of many are the same as if
    you drew only a few."""
    batch: Count | None = None
    """How many to draw at once; by default 64, or 4,096 for points. This doesn't change any sample."""
    seed: Seed = 0
    """Seed for the noise."""
    format: Literal["sheet", "png", "npz"] = "sheet"
    """A sheet to look at, with the first 256 pictures or 2,000 points; or a folder with every sample as a PNG file; or one .npz file for
    the evaluator of openai's guided-diffusion. If interrupted, the last two continue with the same command."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    out: Path | None = None
    """Output file or, for png, folder. By default runs/<recipe>/<model>-<steps>.png, a folder of that name without the ending, or a
    .npz."""
    prompt: tuple[str, ...] = ()
    """What a text-to-image pipeline should draw; several texts take turns, once each by default. `@file` reads one text per line."""
    lora: str | None = None
    """An adapter that turns such a pipeline into a student: a folder or a .safetensors file."""

    def __call__(self) -> None:
        from cdedu.plotting import save_samples

        device = pick_device(self.device)
        _check_out(self.out, self.format)
        if self.prompt or self.lora or self._reads_text():
            return self._pictures(device)
        known = self.recipe in recipes or self.recipe.endswith(".toml")
        a_file = "/" in self.recipe or self.recipe.endswith((".safetensors", ".pkl", ".pt"))
        if not known and (a_file or Path(self.recipe).exists()):
            recipe, source, folder, name = None, self.recipe, Path("runs") / Path(self.recipe).stem, ""
        else:
            recipe = get_recipe(self.recipe)
            folder = Path("runs") / recipe.name
            wanted = self.model or ("student" if self.weights else _role_there_is(folder, recipe))
            source = _model_source(self.weights, folder, recipe, wanted)
            source = source if self.weights else _for_pictures(source, recipe)
            name = Path(source).name.removesuffix(".safetensors").removeprefix(f"{recipe.name}-")
        model = load_teacher(source).to(device)
        if hasattr(model, "pipeline"):
            raise ValueError(
                f'{source} needs --prompt: say what to draw, such as --prompt "a red fox in snow"'
            )
        if recipe:
            fitting.same_kind(model, source, recipe)
        recipe = recipe or model.header.recipe or Recipe("unknown", data="")
        role = "student" if fitting.is_student(model) else "teacher"
        if self.model not in (None, role):
            raise ValueError(f"{source} is a {role}, not a {self.model}; leave --model out")
        steps = (1 if role == "student" else 18) if self.steps is None else self.steps
        if role == "teacher" and steps < 2:
            raise ValueError(
                f"{source} is a teacher, whose walk has at least 2 points; give --steps, such as 18"
            )
        ending = {"sheet": ".png", "png": "", "npz": ".npz"}[self.format]
        path = self.out or folder / f"{name or role}-{steps}{ending}"
        writable(path.parent)
        recipe, shape = within(recipe, model), tuple(model.header.shape)
        built_in = None if fitting.takes_guidance(model) else max(model.header.guidance, default=None)
        model, cond = fitting.conditioned(model, source, self.guidance, self.label)
        turns = len(cond.get("labels", ()))
        few = 1 < turns <= 16  # classes: each has columns of its own
        names = [CIFAR10_SHORT.get(name, name) for name in model.header.class_names]
        columns = [*names, *map(str, range(turns))][:turns] if few else []
        number = self.number or (64 // turns * turns if few else 64)
        batch = self.batch or (64 if len(shape) > 1 else 4096)
        _check_batch(min(batch, number), shape, device, "lower --batch")
        drawn = partial(samples.draw, model, recipe, shape, steps, seed=self.seed, **cond)
        if self.format == "sheet":
            shown = min(number, 256 if len(shape) > 1 else 2000)
            parts = [x for _, x in samples.batches(drawn, 0, shown, batch)]
            save_samples(path, torch.cat(parts), f"{role}, {source}", columns)
            rest = f" (of {number:,}; --format png or npz for all)" * (shown < number)
            print(f"{shown} samples of {source}{rest} in {path}")
            return
        labels = cond.get("labels")
        about = {
            "model": source, "sha256": _digest(source), "steps": steps, "seed": self.seed,
            "guidance": built_in if self.guidance is None else self.guidance,
            "labels": labels.tolist() if labels is not None else None, "shape": shape, "recipe": recipe.to_dict(),
        }  # fmt: skip
        write = samples.write_folder if self.format == "png" else partial(samples.write_npz, labels=labels)
        done = write(path, drawn, shape, number, batch, about)
        print(f"{number} samples of {source} in {path}" + f", {done} of them from before" * (done > 0))

    def _reads_text(self) -> bool:
        """Whether to sample a text-to-image pipeline on this machine: a folder, or one that comes with the course."""
        from cdedu.pretrained.text_to_image import is_text_to_image

        return any(is_text_to_image(where / self.recipe) for where in (Path(), WEIGHTS))

    def _pictures(self, device: torch.device) -> None:
        """Sample a text-to-image pipeline."""
        from cdedu.latents import draw_prompts

        for name in ("weights", "label"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"--{name} is not for text-to-image; the pipeline comes first, and --prompt says what to draw"
                )
        if self.format == "npz":
            raise ValueError(
                "--format npz: pictures of prompts are written as a sheet or as PNG files; choose one of these"
            )
        if not self.prompt:
            what = "--lora" if self.lora else self.recipe
            raise ValueError(f'{what} needs --prompt: say what to draw, such as --prompt "a red fox in snow"')
        folder = Path("runs") / Path(self.recipe).name
        path = self.out or folder / ("pictures.png" if self.format == "sheet" else "pictures")
        writable(path.parent)
        draw_prompts(
            locate(self.recipe), self.prompt, path, steps=self.steps, guidance=self.guidance, lora=self.lora, seed=self.seed, number=self.number,
            batch=self.batch or 16, device=device, role=self.model, sheet=self.format == "sheet",
        )  # fmt: skip
        print(f"{path}: pictures by {self.recipe}")


@dataclass(frozen=True)
class Evaluate(_Command):
    """Measure teacher and student against held-out data."""

    teacher: str | None = None
    """A teacher's file or name, or a diffusers folder. By default the run's own or, without one, the course's."""
    student: str | None = None
    """A student's file or name, or a diffusers folder. By default the run's own or, without one, the course's."""
    guidance: Weight | None = None
    """Guidance weight, for a teacher whose last label means "no label" and for a student that takes it as an input."""
    samples: Annotated[int, Range(2)] | None = None
    """How many samples to compare; by default as many as there are held-out data."""
    inception: bool = False
    """Also compute FID, Inception score, precision and recall by the standard protocol (downloads Inception's weights)."""
    seeds: Count | None = None
    """How many sampling seeds to take medians over; 5, or 1 in a trial."""
    trial: bool | None = None
    """Use few evaluations, to see that everything works; on by default for images of 32 x 32 and larger on the CPU."""

    def __call__(self) -> None:
        from tqdm.auto import tqdm

        from cdedu.evaluation.comparison import compare, samplers, table
        from cdedu.evaluation.inception import check, score

        recipe = get_recipe(self.recipe)
        runtime = _runtime(self, recipe)
        writable(self.results)
        folder = self.out or Path("runs") / recipe.name
        sources = {r: _model_source(getattr(self, r), folder, recipe, r) for r in ("teacher", "student")}
        start = time.perf_counter()
        with runtime.first():
            data = _data(self, self.data or recipe.data)
            models = [load_teacher(source) for source in sources.values()]
        for (role, source), model in zip(sources.items(), models, strict=True):
            fitting.is_a(role, model, source, f"--{role}")
        most = min(len(data.test), len(data.train))
        if self.samples and self.samples > most and not self.inception:
            raise ValueError(
                f"--samples {self.samples:,}, but {data.name} has {most:,} to compare with; leave it out for all"
            )
        for model, source in zip(models, sources.values(), strict=True):
            fitting.same_shape(model, source, data)
        recipe = within(within(recipe, models[0]), models[1])
        labelled = any(model.header.classes for model in models)
        if labelled and data.test_labels is None:
            raise ValueError(f"{sources['teacher']} needs labels, which {data.name} does not have")
        if self.inception:
            check(data)
            number = self.samples or 50_000
            check_memory(
                number * data.train[0].numel(), f"--samples {number:,}", runtime.device, "give fewer"
            )
        called: list[Any] = []
        for model, source in zip(models, sources.values(), strict=True):
            cond: dict[str, Any] = {}
            if labelled or self.guidance is not None:
                fitting.same_labels(model, source, data)
                weight = self.guidance if not called or fitting.takes_guidance(model) else None
                model, cond = fitting.conditioned(model, source, weight)
            fast = runtime.freeze(model)
            with_labels = cond.pop("labels", None) is not None
            called.append(Labelled(fast, data.test_labels, **cond) if with_labels else fast)
        slow = runtime.device.type == "cpu" and data.train[0].numel() >= 3 * 32 * 32
        trial = slow if self.trial is None else self.trial
        seeds = self.seeds or (1 if trial else 5)
        bar = partial(tqdm, disable=not runtime.main)
        metrics = compare(
            recipe, *called, data, seeds, self.samples, partial(bar, desc="evaluate"), trial, runtime
        )
        if self.inception:
            every, scores = samplers(recipe, *called), {}
            for name in bar(("teacher_heun_35", "student_1", "student_2"), desc="inception"):
                scores[name] = score(every[name][1], recipe, data, runtime, self.samples or 50_000)
            metrics["inception"] = scores
        if runtime.main:
            print(table(metrics))
            facts = {
                "device": str(runtime.device),
                "seconds": time.perf_counter() - start,
                "protocol": {recipe.name: metrics.pop("protocol")},
                "metrics": metrics,
            }
            facts["runtime"] = runtime.describe()
            facts["sha256"] = {role: _digest(source) for role, source in sources.items()}
            record = write_run_record(
                self.results, f"{recipe.name}-evaluate", recipe, data, **facts, **sources
            )
            print(f"record: {record}")
        runtime.wait()


@dataclass(frozen=True)
class Export:
    """Write a student as a diffusers pipeline, which ConsistencyModelPipeline.from_pretrained loads."""

    weights: tyro.conf.Positional[str]
    """A student's file, or the name of one that comes with the course."""
    folder: tyro.conf.Positional[Path]
    """Folder to write; must be new or empty."""
    record: Path | None = None
    """A results record, such as `cdedu evaluate` leaves; its figures go into the model card."""
    guidance: Weight | None = None
    """The guidance weight to fix in a student that takes it as an input."""
    license: str | None = None
    """License of the weights, for the model card, such as apache-2.0. The teacher's and the data's terms bind a student too."""
    push_to_hub: str | None = None
    """Also upload the folder to this repository, owner/name."""

    def __call__(self) -> None:
        student = load_teacher(self.weights)
        writable(self.folder if self.folder.is_dir() else self.folder.absolute().parent)
        metrics = _figures_of(self.record, student, self.weights) if self.record else None
        options = {"metrics": metrics, "license": self.license, "push_to_hub": self.push_to_hub}
        export_pipeline(student, self.folder, guidance=self.guidance, **options)
        print(
            f"{self.weights} in {self.folder}, to be loaded by ConsistencyModelPipeline.from_pretrained; its README.md says how"
        )


@dataclass(frozen=True)
class Captions:
    """Score pictures by their captions: the CLIP score, and with --real the FID to a folder of real pictures."""

    folder: tyro.conf.Positional[Path]
    """Folder of pictures, at any depth."""
    captions: tyro.conf.Positional[Path]
    """A JSON file that maps the name of each picture to its caption, or a file in COCO's format."""
    real: Path | None = None
    """A folder of real pictures; the FID is comparable if there are 30,000 or more."""

    def __call__(self) -> None:
        from cdedu.evaluation import captions

        pairs = captions.captioned(self.folder, self.captions)
        if self.real:
            captions.picture_files(self.real)  # a wrong folder is named before the long work
        score = captions.clip_score(pairs, *captions.clip_encoders())
        print(f"{len(score)} pictures, CLIP score {score.mean():.2f} ({captions.CLIP})")
        if self.real:
            encode = captions.inception_encoder()
            fid = captions.folder_distance(self.folder, self.real, encode, size=299)
            print(f"Fréchet distance in Inception's features {fid:.2f}; comparable from 30,000 pictures on")


@dataclass(frozen=True)
class Distance:
    """Measure how far samples are from a reference: the Fréchet distance between two sets of pictures. In Inception's features, this is
    FID."""

    samples: tyro.conf.Positional[Path]
    """A folder of pictures, or a .npz file with arr_0, such as `cdedu sample --format npz` writes."""
    reference: tyro.conf.Positional[Path]
    """Another set of pictures; or a .npz file with the statistics of one, mu and sigma."""
    features: Literal["inception", "ours"] = "inception"
    """Inception's features, as in the literature; or ours, those of the course's frozen classifiers, for 8 × 8 digits or 32 × 32 color
    pictures."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""

    def __call__(self) -> None:
        from cdedu.evaluation import distance

        found = distance.between(self.samples, self.reference, self.features, pick_device(self.device))
        counts = " and ".join("unknown" if m.n is None else f"{m.n:,}" for m in found[1:])
        name = "FID" if self.features == "inception" else "Fréchet distance in our own features"
        print(f"{name} {found[0]:.4g}; pictures: {counts}")


def _resuming(command: _Run, role: str) -> _Run:
    """The command, with ``resume`` set if ``go_on`` found a state."""
    if not command.go_on:
        return command
    folder = command.out or Path("runs") / get_recipe(command.recipe).name
    return replace(command, resume=(folder / f"{role}.state.safetensors").is_file())


def _prepare(command: _Run, role: str) -> Run:
    """Everything that can go wrong goes wrong here, before any work starts."""
    if command.resume and command.overwrite:
        raise ValueError("--resume continues a run and --overwrite starts over; give one of them")
    recipe = get_recipe(command.recipe)
    usual, folder = getattr(recipe, role), command.out or Path("runs") / recipe.name
    state = folder / f"{role}.state.safetensors"
    begun = read_header(state) if command.resume and state.is_file() else None
    runtime = _runtime(command, recipe, begun)
    changes = {
        "steps": command.max_steps,
        "batch": command.batch,
        "lr": command.lr,
        "ema": command.ema,
    }
    if command.from_weights:
        changes["warmup"] = max(usual.warmup, 500)
    if command.batch is None and runtime.device.type == "cpu":
        changes["batch"] = recipe.cpu_batch or None
    stage = _changed(usual, **changes)
    changes = {"data": command.data or None, "seed": command.seed, "block": command.block}
    recipe = _changed(recipe, **{role: stage}, **changes)
    if command.size and recipe.network.kind not in ("mlp", "set"):
        recipe.network.check((command.channels, *_height_width(command.size)))  # before anything is decoded
    with runtime.first():
        data = _data(command, recipe.data)
    if command.data and recipe.teacher.label_dropout and data.train_labels is not None:
        # Other pictures have other classes; the last label still means none.
        recipe = replace(recipe, network=replace(recipe.network, classes=data.label_count() + 1))
    wanted = {"mlp": "points", "set": "clouds of points"}.get(recipe.network.kind, "images")
    if ["points", "clouds of points", "images"].index(wanted) != data.train.ndim - 2:
        raise ValueError(
            f"--data {recipe.data} does not suit recipe {recipe.name!r}, whose {recipe.network.kind} takes {wanted}; "
            "choose another recipe or other data"
        )
    recipe.network.check(tuple(data.train.shape[1:]))
    block = min(recipe.block or stage.batch, stage.batch)
    if command.micro_batch and command.micro_batch < block:
        raise ValueError(
            f"--micro-batch {command.micro_batch}, but {block} samples share a random generator and are computed together; give at least "
            f"{block}, or another --block, which is another seed"
        )
    part = min(stage.batch, max(command.micro_batch or stage.batch, recipe.block or stage.batch))
    shape = tuple(data.train.shape[1:])
    _check_batch(part, shape, runtime.device, "lower --batch, or split it with --micro-batch and --block")
    if command.log:
        tracker_class(command.log)
    extras = {"picture_every": command.picture_every, "log": command.log}
    run = Run(recipe, role, data, folder, command.results, runtime, **extras)
    if command.resume and not run.state_path.is_file():
        raise FileNotFoundError(f"there is nothing to resume: no {run.state_path}")
    if not (command.resume or command.overwrite) and (run.state_path.exists() or run.path.exists()):
        raise FileExistsError(
            f"{folder} holds a {role} already; add --resume to continue, --overwrite to start over, or choose another --out"
        )
    writable(folder)
    writable(command.results)
    if stage.batch != usual.batch and command.batch is None and runtime.main:
        print(
            f"On the CPU this is a trial: batches of {stage.batch} instead of the recipe's {usual.batch} "
            f"(--batch {usual.batch} for those)"
        )
    return run


def _height_width(size: tuple[int] | tuple[int, int] | None) -> tuple[int, int] | None:
    return size and (size[0], size[-1])


def _data(command: _Command, name: str) -> Dataset:
    """The data set named by a command, or by its recipe."""
    if name == command.data and (name in SETS or name in TOYS) and Path(name).exists():
        print(
            f"--data {name} is the data set of the course; for what is called so here, give ./{name}",
            file=sys.stderr,
        )
    size = _height_width(command.size)
    return load_data(name, command.test_data, size, command.fit, command.channels)


def _check_batch(part: int, shape: tuple[int, ...], device: torch.device, remedy: str) -> None:
    """Refuse what no machine could do: a batch takes at least its samples and their noise, at 4 bytes per number."""
    check_memory(8 * part * math.prod(shape), f"a batch of {part:,} samples", device, remedy)


def _check_out(out: Path | None, kind: str) -> None:
    """Refuse a file where samples become a folder, and vice versa, and an ending that means something else."""
    if out is None:
        return
    if kind == "png" and (out.is_file() or out.suffix in (".png", ".npz")):
        raise ValueError(
            f"--out {out} is a file, but --format png writes a folder of pictures; give a folder"
        )
    if kind != "png" and out.is_dir():
        raise ValueError(
            f"--out {out} is a folder, but --format {kind} writes one file; give a file, or --format png"
        )
    known = {"npz": (".npz",), "sheet": (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")}
    if kind != "png" and out.suffix.lower() not in known[kind]:
        raise ValueError(
            f"--out {out}: --format {kind} writes a file that ends in {' or '.join(known[kind])}"
        )


def _changed(thing: Any, **changes: Any) -> Any:
    """A copy with the changes that were given."""
    return replace(thing, **{key: value for key, value in changes.items() if value is not None})


def _begun(command: _Run, run: Run) -> tuple[Run, dict[str, Any]]:
    """The run and the inputs of its loop, once the recipe is final: what an interrupted run left, or weights to start from."""
    model = None
    if command.resume:
        checkpoints.same_data(run.state_path, run.data)
        resume = checkpoints.load_state(run.state_path, run.recipe, run.role)
        before = read_header(run.state_path)
        _same_run(command, run, before)
        begun = before.get("warm_restart")
        if command.from_weights and not begun:
            raise ValueError(f"{run.state_path} is of a run that began without --from-weights; leave it out")
        run = replace(run, resume=resume, facts=run.facts | ({"warm_restart": begun} if begun else {}))
    if command.from_weights:
        source, model = str(command.from_weights), checkpoints.load(command.from_weights)
        if not isinstance(model, Teacher | ConsistencyModel):
            raise ValueError(
                f"{source} holds a {type(model).__name__}; --from-weights takes a model of this package's form"
            )
        fitting.is_a(run.role, model, source, "--from-weights")
        fitting.fits(model, source, run.recipe, run.data)
        seen = {"step": model.header.step, "images": model.header.images}  # type: ignore[union-attr]
        begun = {"from": source, "sha256": _digest(source), **seen}
        run = replace(run, facts={"warm_restart": begun} | run.facts)
    return run, {"resume": run.resume, "start": model, "runtime": run.runtime}


def _same_run(command: _Run, run: Run, before: dict[str, Any]) -> None:
    """Refuse to continue with a teacher, guidance or precision other than the run began with: the result would match neither."""
    then, now = (facts.get("teacher", {}) for facts in (before, run.facts))
    places = [("precision", before.get("precision"), run.runtime.precision)]
    if then:  # earlier versions do not say
        places.append(("teacher", then["sha256"], now.get("sha256")))
        places.append(("guidance", before.get("guidance"), run.facts.get("guidance")))
    for what, old, new in places:
        if old != new and not (what == "precision" and old is None):
            old, new = (then["source"], now.get("source")) if what == "teacher" else (old, new)
            same = " (the file has changed)" if old == new else ""
            raise ValueError(
                f"{run.state_path} began with --{what} {old}, now it is {new}{same}; leave the option as it was, or start another run "
                f"from its weights: --from-weights {run.state_path} --out ANOTHER_FOLDER"
            )


def _role_there_is(folder: Path, recipe: Recipe) -> Literal["student", "teacher"]:
    """What can be sampled, from this run or the course: the student or, so far, only a teacher."""
    for where, stem in ((folder, f"{folder}/"), ("the course", f"{WEIGHTS}/{recipe.name}-")):
        if Path(f"{stem}student.safetensors").is_file():
            return "student"
        if Path(f"{stem}teacher.safetensors").is_file():
            print(f"{where} has no student of {recipe.name} yet; these are its teacher's samples")
            return "teacher"
    return "student"


def _digest(source: str) -> str:
    """SHA-256 of the weights file; in a folder, of the first one."""
    path = locate(source)
    files = [file for kind in ("safetensors", "bin") for file in sorted(path.rglob(f"*.{kind}"))]
    return sha256(files[0] if path.is_dir() else path)


def _figures_of(path: Path, model: Any, source: str) -> dict[str, Any]:
    """The metrics of a record, if as far as it says they belong to these weights."""
    record = read_record(path)
    theirs, measured = record.get("recipe"), record.get("sha256")
    if isinstance(measured, dict) and measured.get("student") != _digest(source):
        raise ValueError(
            f"{path} was measured on {record.get('student')}, whose weights are not those of {source}; measure these"
        )
    ours = model.header.recipe
    if isinstance(theirs, dict) and ours and theirs.get("name") != ours.name:
        raise ValueError(
            f"{path} is of recipe {theirs.get('name')!r}, but {source} of {ours.name!r}; measure these weights"
        )
    return dict(record["metrics"])


def _runtime(command: _Command, recipe: Recipe, begun: dict[str, Any] | None = None) -> Runtime:
    """A single process, or one of several if torchrun or accelerate launch started us.

    A resumed run continues in the precision that it began in, and with batch parts that fit into memory; the header of its state says
    both.
    """
    device, precision = pick_device(command.device), command.precision
    world = os.environ.get("WORLD_SIZE") or "1"
    if not world.isdecimal() or int(world) < 1:
        raise ValueError(
            f"WORLD_SIZE = {world!r}, but it is a number of processes; unset it, or start with torchrun"
        )
    several = int(world) > 1
    if several and not os.environ.get("MASTER_ADDR"):
        raise ValueError(
            f"WORLD_SIZE = {world}, but nothing says where the other processes are; start with torchrun, or unset it"
        )
    if precision == "auto" and begun is not None:
        # Earlier versions did not note it; on a CPU it was fp32.
        precision = begun.get("precision", "fp32" if device.type == "cpu" else "auto")
    if precision == "auto":
        # Toys and digits, which take minutes anyway, are the same on every CPU; several processes might find differently.
        small = recipe.network.kind == "mlp" or recipe.data.endswith("digits")
        precision = "fp32" if device.type != "cuda" and (small or several) else fast_precision(device)
    compiled = command.compile
    if compiled is None:
        pays = device.type == "cuda" and recipe.network.kind not in ("mlp", "set")
        reason = _cannot_compile(device) if pays else None
        compiled = pays and reason is None
        if reason:
            print(f"networks are not compiled: {reason}", file=sys.stderr)
    elif compiled and (reason := _cannot_compile(device)):
        raise ValueError(f"--compile True: {reason}; leave it out")
    parts = getattr(command, "micro_batch", None) or (begun or {}).get("micro_batch")
    if several:
        return Distributed(precision, compiled, parts, cpu=device.type == "cpu")
    return Runtime(device, precision, compiled, parts)


DistillLatents.launch = staticmethod(_runtime)


def _cannot_compile(device: torch.device) -> str | None:
    """What torch.compile is missing on this machine, or None."""
    from torch.utils._triton import has_triton

    cuda = device.type == "cuda"
    if cuda and not has_triton():
        return "there is no Triton for this GPU (pip install triton)"
    variable, language = ("CC", "C") if cuda else ("CXX", "C++")  # Triton starts its kernels by a little C
    compilers = ["gcc", "clang"] if cuda else ["g++", "clang++", "cl"]
    compilers = [os.environ[variable]] if variable in os.environ else compilers
    if any(map(shutil.which, compilers)):
        return None
    return f"there is no {language} compiler ({' or '.join(compilers)})"


def _model_source(wanted: str | None, folder: Path, recipe: Recipe, role: str) -> str:
    if wanted:
        return wanted
    own = folder / f"{role}.safetensors"
    return str(own) if own.is_file() else f"{recipe.name}-{role}"


def _for_pictures(source: str, recipe: Recipe) -> str:
    """Of the course's students the one to draw with: where one has a guided teacher, that one."""
    guided = f"{recipe.name}-guided"
    if source != f"{recipe.name}-student" or not (WEIGHTS / f"{guided}.safetensors").is_file():
        return source
    print(f"{guided}: the course's student of a guided teacher; its unguided one: --weights {source}")
    return guided


Grade = Annotated[GradeFolder, tyro.conf.subcommand("grade")]
Plan = Annotated[PlanRun, tyro.conf.subcommand("plan")]
Race = Annotated[RaceEntries, tyro.conf.subcommand("race")]
Latents = Annotated[DistillLatents, tyro.conf.subcommand("distill-latents")]
Scores = Annotated[EvaluateLatents, tyro.conf.subcommand("evaluate-latents")]
Command = (
    Plan
    | Train
    | Distill
    | Latents
    | Sample
    | Evaluate
    | Scores
    | Distance
    | Captions
    | Export
    | Grade
    | Race
)


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def main() -> None:
    """Entry point: errors in the input end with exit code 2 and one or two lines, never with a traceback."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by whoever started us, as in cdedu ... >&-
            setattr(sys, name, io.StringIO())
        else:
            stream.reconfigure(errors="backslashreplace")  # a σ, where there is none
    words = sys.argv[1:]
    if words[:2] in (
        ["distill", "latents"],
        ["evaluate", "latents"],
    ):  # with options of their own, and no recipe
        words = [f"{words[0]}-latents", *words[2:]]
    command = tyro.cli(
        Command,
        args=words,
        prog="cdedu",
        description=f"Consistency distillation. Recipes: {', '.join(recipes)}.",
    )  # type: ignore[call-overload]
    try:
        check_ranges(command, _option)
        if empty := [f.name for f in fields(command) if getattr(command, f.name) == ""]:
            raise ValueError(f"{_option(empty[0])} is empty; give it a value, or leave it out")
        command()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except (FloatingPointError, MemoryError) as error:
        code, what = 1, str(error)
    except (ValueError, OSError, ImportError) as error:
        code, what = 2, str(error)
    except RuntimeError as error:
        first, code = (str(error).splitlines() or [""])[0], 1
        if (
            isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in first
        ):  # the latter on a CPU
            what = f"memory ran out ({first:.200}); use --micro-batch in training, a lower --batch elsewhere, a smaller network, or --device cpu"
        elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            what = f"the networks could not be compiled ({first:.200}); add --compile False"
        else:
            raise
    else:
        return
    print(f"cdedu: {what}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
