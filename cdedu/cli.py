"""The command line: ``cdedu train | distill | sample | evaluate``.

A run lives in ``runs/<recipe>/``: ``teacher.safetensors`` and ``student.safetensors`` to use, ``*.state.safetensors`` to resume
from. Every run leaves a record in ``results/runs/``, under a name of its own.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from cdedu import checkpoints, records
from cdedu.data import Dataset, load_data
from cdedu.recipes import Recipe, get_recipe, recipes
from cdedu.teacher import Teacher
from cdedu.training import Resume, State, distill, train_teacher

SAVE_EVERY = 30.0
"""Seconds between checkpoints."""


@dataclass(frozen=True)
class _Run:
    """What all training commands take."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe: toy or digits."""
    data: str | None = None
    """Another data set than the recipe's."""
    max_steps: int | None = None
    """Fewer or more steps than the recipe's."""
    batch: int | None = None
    """Another batch size than the recipe's."""
    lr: float | None = None
    """Another learning rate than the recipe's."""
    seed: int | None = None
    """Another seed than the recipe's."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    out: Path | None = None
    """Folder of the run; runs/<recipe> by default."""
    results: Path = Path("results/runs")
    """Folder of the results record."""
    resume: bool = False
    """Continue an interrupted run, to the same result as if it had not been interrupted."""
    overwrite: bool = False
    """Start anew where there is a run already."""


@dataclass(frozen=True)
class Train(_Run):
    """Train a teacher from scratch."""

    def __call__(self) -> None:
        recipe, data, device, folder = _prepare(self, "teacher")
        resume = _state_of(self, folder, recipe, "teacher")
        _drive(
            train_teacher(recipe, data, device=device, resume=resume),
            recipe,
            data,
            device,
            folder,
            self.results,
            resume,
        )


@dataclass(frozen=True)
class Distill(_Run):
    """Distil a consistency student from a teacher."""

    teacher: str | None = None
    """A teacher's file, or the name of one that comes with the course; the run's own by default, else the course's."""

    def __call__(self) -> None:
        recipe, data, device, folder = _prepare(self, "student")
        resume = _state_of(self, folder, recipe, "student")
        source = _model_source(self.teacher, folder, recipe, "teacher")
        teacher = checkpoints.load(source, device)
        if not isinstance(teacher, Teacher):
            raise ValueError(f"{source} is a student; distillation needs a teacher")
        if tuple(teacher.header["shape"]) != tuple(data.train.shape[1:]):  # type: ignore[index,arg-type]
            raise ValueError(f"{source} was trained on data of another shape than {recipe.data}'s")
        print(f"teacher: {source}")
        states = distill(recipe, teacher, data, device=device, resume=resume)
        _drive(states, recipe, data, device, folder, self.results, resume)


@dataclass(frozen=True)
class Sample:
    """Draw samples and write a picture of them."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe: toy or digits."""
    steps: int = 1
    """Steps of the student (1 or 2), or points of the teacher's noise grid (n points are 2n − 1 evaluations)."""
    model: Literal["student", "teacher"] = "student"
    """Which of the two."""
    weights: str | None = None
    """A file, or the name of weights that come with the course; the run's own by default, else the course's."""
    number: int = 64
    """How many samples."""
    seed: int = 0
    """Seed of the noise."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    out: Path | None = None
    """Where to write the picture; runs/<recipe>/<model>-<steps>.png by default."""

    def __call__(self) -> None:
        from cdedu.plotting import save_samples

        recipe, device = get_recipe(self.recipe), pick_device(self.device)
        if self.number < 1:
            raise ValueError(f"--number = {self.number}, but there must be at least one sample")
        folder = Path("runs") / self.recipe
        path = self.out or folder / f"{self.model}-{self.steps}.png"
        _writable(path.parent)
        source = _model_source(self.weights, folder, recipe, self.model)
        model = checkpoints.load(source, device)
        x = generate(model, recipe, self.steps, self.number, self.seed)
        save_samples(path, x.cpu(), f"{self.model}, {source}")
        print(f"{self.number} samples of {source} in {path}")


@dataclass(frozen=True)
class Evaluate:
    """Measure teacher and student against held-out data."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe: toy or digits."""
    teacher: str | None = None
    """A teacher's file or name; the run's own by default, else the course's."""
    student: str | None = None
    """A student's file or name; the run's own by default, else the course's."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the fastest there is."""
    results: Path = Path("results/runs")
    """Folder of the results record."""

    def __call__(self) -> None:
        from tqdm.auto import tqdm

        from cdedu.comparison import compare, table

        recipe, device = get_recipe(self.recipe), pick_device(self.device)
        _writable(self.results)
        folder = Path("runs") / self.recipe
        sources = {
            role: _model_source(getattr(self, role), folder, recipe, role) for role in ("teacher", "student")
        }
        start = time.perf_counter()
        data = load_data(recipe.data)
        models = [checkpoints.load(source, device) for source in sources.values()]
        for model, source in zip(models, sources.values(), strict=True):
            if tuple(model.header["shape"]) != tuple(data.train.shape[1:]):  # type: ignore[index,arg-type]
                raise ValueError(f"{source} was trained on data of another shape than {recipe.data}'s")
        metrics = compare(recipe, *models, data, progress=partial(tqdm, desc="evaluate"))
        print(table(metrics))
        _record(
            self.results,
            recipe,
            f"{recipe.name}-evaluate",
            data,
            device,
            time.perf_counter() - start,
            metrics,
            **sources,
        )


def generate(model: torch.nn.Module, recipe: Recipe, steps: int, number: int, seed: int) -> Tensor:
    """Samples of a student in ``steps`` steps, or of a teacher on ``steps`` points."""
    from cdedu.samplers import sample_consistency, sample_heun

    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shape = (number, *model.header["shape"])  # type: ignore[index,misc]
    x = recipe.sigma_max * torch.randn(shape, generator=generator).to(device)
    if isinstance(model, Teacher):
        return sample_heun(model, x, recipe.sigmas(steps))
    if steps not in (1, 2):
        raise ValueError(
            f"--steps = {steps}, but a student samples in 1 or 2 (a teacher in any number: --model teacher)"
        )
    return sample_consistency(model, x, (recipe.sigma_max, recipe.student.second_sigma)[:steps], generator)


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: for a device that is unknown or not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is not known; use cpu, cuda, cuda:1, mps or auto") from None
    there = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there.get(device.type, False):
        raise ValueError(f"--device {name} is not to be had on this machine; use --device cpu")
    return device


def _prepare(run: _Run, role: str) -> tuple[Recipe, Dataset, torch.device, Path]:
    """Everything that can go wrong goes wrong here, before any work."""
    recipe = get_recipe(run.recipe)
    stage_name = "teacher" if role == "teacher" else "student"
    changes = {"steps": run.max_steps, "batch": run.batch, "lr": run.lr}
    stage = replace(getattr(recipe, stage_name), **{k: v for k, v in changes.items() if v is not None})
    recipe = replace(recipe, **{stage_name: stage})
    recipe = replace(recipe, data=run.data or recipe.data, seed=recipe.seed if run.seed is None else run.seed)
    device = pick_device(run.device)
    data = load_data(recipe.data)
    wanted = 1 if recipe.network.kind == "mlp" else 3
    if data.train.ndim - 1 != wanted:
        raise ValueError(
            f"--data {recipe.data} does not suit recipe {recipe.name!r}, whose {recipe.network.kind} takes "
            f"{'points' if wanted == 1 else 'images'}; choose another recipe or other data"
        )
    folder = run.out or Path("runs") / recipe.name
    state = folder / f"{role}.state.safetensors"
    if run.resume and run.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if run.resume and not state.is_file():
        raise FileNotFoundError(f"there is nothing to resume: no {state}")
    if not (run.resume or run.overwrite) and (state.exists() or (folder / f"{role}.safetensors").exists()):
        raise FileExistsError(
            f"{folder} holds a {role} already; add --resume to go on, --overwrite to start anew, or --out"
        )
    _writable(folder)
    _writable(run.results)
    return recipe, data, device, folder


def _state_of(run: _Run, folder: Path, recipe: Recipe, role: str) -> Resume | None:
    return checkpoints.load_state(folder / f"{role}.state.safetensors", recipe, role) if run.resume else None


def _model_source(wanted: str | None, folder: Path, recipe: Recipe, role: str) -> str:
    if wanted:
        return wanted
    own = folder / f"{role}.safetensors"
    return str(own) if own.is_file() else f"{recipe.name}-{role}"


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}; choose another folder") from None


def _drive(
    states: Iterator[State],
    recipe: Recipe,
    data: Dataset,
    device: torch.device,
    folder: Path,
    results: Path,
    resume: Resume | None,
) -> None:
    """Run the loop with a progress bar, checkpoints, and a clean stop on Ctrl-C and SIGTERM."""
    from tqdm.auto import tqdm

    stop: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.append(number)  # the step under way is finished first, so that the state is whole

    previous = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    start = saved = time.perf_counter()
    state: State | None = None
    losses: list[float] = []
    bar = None
    try:
        for state in states:
            if bar is None:
                bar = tqdm(
                    total=state.steps, initial=state.step - 1, desc=state.role, unit="step", mininterval=0.5
                )
            losses.append(state.loss)
            bar.update()
            if state.step % 100 == 0:
                bar.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.4g}")
            if state.step == state.steps:
                break  # all that is left is to write the results
            if stop or time.perf_counter() - saved > SAVE_EVERY:
                checkpoints.save_state(_state_path(folder, state), state)
                saved = time.perf_counter()
            if stop:
                bar.close()
                print(f"stopped after step {state.step}; add --resume to go on", file=sys.stderr)
                raise SystemExit(128 + stop[0])
    except FloatingPointError:
        if state is not None:
            checkpoints.save_state(_state_path(folder, state), state)
        raise
    finally:
        if bar is not None:
            bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if state is None:
        print("nothing to do: the run had already reached its last step")
        return
    path = folder / f"{state.role}.safetensors"
    checkpoints.save(path, state.result, recipe, data.train.shape[1:], step=state.step, data=data.describe())  # type: ignore[arg-type]
    tail = losses[-100:]
    metrics = {
        "steps": state.step,
        "loss": sum(tail) / len(tail),
        "steps_per_second": len(losses) / (time.perf_counter() - start),
    }
    facts = {
        "weights": {"file": str(path), "sha256": checkpoints.sha256(path)},
        "resumed_at": resume[1] if resume else None,
    }
    record = _record(
        results,
        recipe,
        f"{recipe.name}-{state.role}",
        data,
        device,
        time.perf_counter() - start,
        metrics,
        **facts,
    )
    # Last, so that a run cut short before this line can still be resumed to its end.
    checkpoints.save_state(_state_path(folder, state), state)
    print(f"{path} (record: {record})")


def _state_path(folder: Path, state: State) -> Path:
    return folder / f"{state.role}.state.safetensors"


def _record(
    folder: Path,
    recipe: Recipe,
    name: str,
    data: Dataset,
    device: torch.device,
    seconds: float,
    metrics: dict[str, object],
    **more: object,
) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%f")
    return records.write_record(
        folder / f"{name}-{stamp}.json",
        metrics=metrics,
        command=shlex.join(["cdedu", *sys.argv[1:]]),
        recipe=recipe.to_dict(),
        seed=recipe.seed,
        data=data.describe(),
        seconds=seconds,
        device=str(device),
        **more,
    )


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)


def main() -> None:
    """Entry point: errors in the input end with exit code 2 and one or two lines, never with a traceback."""
    command = tyro.cli(
        Command, prog="cdedu", description=f"Consistency distillation. Recipes: {', '.join(recipes)}."
    )  # type: ignore[call-overload]
    try:
        command()
    except (ValueError, OSError) as error:
        print(f"cdedu: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except FloatingPointError as error:
        print(f"cdedu: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
