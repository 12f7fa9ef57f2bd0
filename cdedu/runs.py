"""One run from the outside: progress bar, checkpoints, a clean stop, sample pictures, a results record."""

import os
import shlex
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdedu import checkpoints, records
from cdedu.data import Dataset
from cdedu.files import locked, replacing, sweep
from cdedu.noise import Generators, normal
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.training import Resume, State, check_finite

SAVE_EVERY = 30.0
"""Seconds between checkpoints, at least."""
SAVING_SHARE = 0.05
"""Share of the time that may be spent on saving; large checkpoints are saved less often."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""Signals that end a run cleanly."""


@dataclass(frozen=True)
class Run:
    """Where a run lives, and what its record says besides the metrics."""

    recipe: Recipe
    role: str
    data: Dataset
    folder: Path
    results: Path
    runtime: Runtime
    resume: Resume | None = None
    picture_every: int | None = None
    """Steps between pictures of samples."""
    log: str | None = None
    """The Accelerate tracker that receives the curves."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def state_path(self) -> Path:
        """What a resumed run starts from."""
        return self.folder / f"{self.role}.state.safetensors"

    @property
    def previous_path(self) -> Path:
        """The state before that, to go back to by hand if training went wrong without producing NaN."""
        return self.folder / f"{self.role}.previous.state.safetensors"

    @property
    def path(self) -> Path:
        """The model for use."""
        return self.folder / f"{self.role}.safetensors"

    @property
    def batch(self) -> int:
        return int(getattr(self.recipe, self.role).batch)

    def known(self) -> dict[str, Any]:
        """Other facts for its files: :attr:`facts`, and the labels of the data."""
        if not self.recipe.network.classes or self.data.train_labels is None:
            return self.facts
        names = {"class_names": list(self.data.classes)} if any(self.data.classes) else {}
        return self.facts | {"labels": self.data.label_count()} | names

    def drive(self, states: Iterator[State]) -> None:
        """Run the loop to its end, or until Ctrl-C, SIGTERM or SIGUSR1, which leave a checkpoint and exit with 128 + signal.

        SIGUSR1 is the early warning of a cluster's scheduler. The current step is finished first; several processes, which must stop at
        the same step, agree on it every :attr:`~cdedu.runtime.Runtime.look` steps.
        """
        with alone(self.folder) if self.runtime.main else nullcontext():
            self._drive(states)

    def _drive(self, states: Iterator[State]) -> None:
        from tqdm.auto import tqdm

        tracker = self._tracker()
        stop: list[int] = []
        previous = {s: signal.signal(s, lambda number, frame: stop.append(number)) for s in SIGNALS}
        look = self.runtime.look
        start = saved = time.perf_counter()
        saving, first, state, bar, told = 0.0, 0, None, None, (0, start)
        losses: deque[float] = deque(maxlen=100)
        try:
            for state in states:
                if bar is None:
                    first = state.step - 1
                    shown = {"desc": state.role, "disable": not self.runtime.main}
                    bar = tqdm(total=state.steps, initial=first, unit="step", mininterval=0.5, **shown)
                    told = (state.step, time.perf_counter())  # the first step compiles
                bar.update()
                if state.step % look == 0:
                    losses.append(state.loss)
                # Every hundred steps, and every half minute where those take longer; the speed is that of the steps in between.
                now, (then, at) = time.perf_counter(), told
                if state.step % 100 == 0 or (state.step % look == 0 and now - at > 30):
                    speed, told = (state.step - then) * self.batch / max(now - at, 1e-9), (state.step, now)
                    text = f"loss={sum(losses) / max(len(losses), 1):.4g}, {speed:,.0f} samples/s"
                    memory = self._gpu_memory()
                    bar.set_postfix_str(text if memory is None else f"{text}, {memory:,} MB")
                    if tracker:
                        mean = sum(losses) / len(losses)
                        tracker.log({"loss": mean, "images per second": speed}, step=state.step)
                if self.picture_every and state.step % self.picture_every == 0 and self.runtime.main:
                    self._picture(state)
                if state.step == state.steps:
                    break  # all that is left is to write the results
                agreed = self.runtime.world == 1 or state.step % look == 0
                stopping = self.runtime.any(bool(stop)) if agreed else False
                due = time.perf_counter() - saved > max(SAVE_EVERY, saving / SAVING_SHARE)
                if (stopping or due) and self.runtime.main:
                    begun = time.perf_counter()
                    self._save(state)
                    saved = time.perf_counter()
                    saving = saved - begun
                if stopping:
                    bar.close()
                    if self.runtime.main:
                        print(f"stopped after step {state.step}; add --resume to continue", file=sys.stderr)
                    self.runtime.wait()  # a process that ends early can take the one that saves with it
                    raise SystemExit(128 + (stop or [signal.SIGTERM])[0])
        except FloatingPointError:
            # On a GPU the trouble is noticed late, and these weights may be spoiled; then the older checkpoint is the good one.
            if state is not None and self.runtime.main:
                with suppress(FloatingPointError):
                    self._save(state)
            raise
        finally:
            if bar is not None:
                bar.close()
            if tracker:
                tracker.finish()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if state is None:
            done, last = self.resume[1] if self.resume else 0, getattr(self.recipe, self.role).steps
            if done > last and not self.path.is_file():
                raise ValueError(
                    f"{self.state_path} is at step {done:,}, beyond --max-steps {last:,}; give {done:,} or more, or use its weights as "
                    "they are: commands take this file, too, as --weights, --teacher or --student"
                )
            print("nothing to do: the run had already reached its last step")
        elif self.runtime.main:
            self._finish(state, losses, first, time.perf_counter() - start)
        self.runtime.wait()

    def images(self, state: State) -> int:
        """How many training images the weights have seen, including those before a warm restart."""
        before = self.facts.get("warm_restart", {}).get("images", 0)
        return int(before + state.step * self.batch)

    def _save(self, state: State) -> None:
        """Save the state to disk, unless its weights are not finite; the previous one is kept next to it."""
        check_finite(state)
        if self.state_path.is_file():
            with replacing(self.previous_path) as temporary:
                try:
                    temporary.hardlink_to(self.state_path)
                except OSError:  # a file system without links, such as a mounted drive
                    shutil.copyfile(self.state_path, temporary)
        how = {"precision": self.runtime.precision, "micro_batch": self.runtime.micro_batch}
        facts = {
            "images": self.images(state),
            "shape": list(self.data.train.shape[1:]),
            **how,
            **self.known(),
            "data": self.data.describe(),
        }
        checkpoints.save_state(self.state_path, state, **facts)

    def _finish(self, state: State, losses: deque[float], first: int, seconds: float) -> None:
        shape, images = tuple(self.data.train.shape[1:]), self.images(state)
        facts = {"step": state.step, "images": images, "data": self.data.describe(), **self.known()}
        checkpoints.save(self.path, state.result, self.recipe, shape, **facts)  # type: ignore[arg-type]
        metrics = {
            "steps": state.step,
            "images": images,
            "loss": sum(losses) / len(losses) if losses else state.loss,
            "steps_per_second": (state.step - first) / seconds,
            "images_per_second": (state.step - first) * self.batch / seconds,
            "peak_gpu_memory_mb": self._gpu_memory(),
        }
        name = f"{self.recipe.name}-{self.role}"
        weights = {"file": str(self.path), "sha256": checkpoints.sha256(self.path)}
        before = self._recorded(name, weights) if self.resume else []
        record = write_run_record(
            self.results,
            name,
            self.recipe,
            self.data,
            device=str(self.runtime.device),
            seconds=seconds,
            metrics=metrics,
            weights=weights,
            resumed_at=self.resume[1] if self.resume else None,
            runtime=self.runtime.describe(),
            **self.known(),
        )
        for old in before:
            old.unlink()
        # Last, so that a run cut short before this line can still be resumed to its end.
        self._save(state)
        print(f"{self.path} (record: {record})")

    def _recorded(self, name: str, weights: dict[str, str]) -> list[Path]:
        """Records of exactly this result, left by a run that was killed after writing its record and before its state."""
        found = []
        for path in self.results.glob(f"{name}-*.json"):
            with suppress(ValueError, TypeError, OSError):  # somebody else's file
                found += [path] if records.read_record(path).get("weights") == weights else []
        return found

    def _gpu_memory(self) -> int | None:
        if self.runtime.device.type != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated(self.runtime.device) / 2**20)

    def _tracker(self) -> Any:
        if not (self.log and self.runtime.main):
            return None
        make, name = tracker_class(self.log), f"{self.recipe.name}-{self.role}"
        tracker = make(name, *[str(self.folder / self.log)] * make.requires_logging_directory)
        getattr(tracker, "start", lambda: None)()  # earlier versions of Accelerate have started it
        if self.log != "tensorboard":  # which takes no nested values
            tracker.store_init_configuration(self.recipe.to_dict())
        return tracker

    def _picture(self, state: State) -> None:
        """Samples so far; labels take turns, and the guidance weight is in the middle of its range."""
        from cdedu.plotting import save_samples

        network, cond, was_training = self.recipe.network, {}, state.average.module.training
        if network.classes:
            cond["labels"] = torch.arange(64) % self.known().get("labels", network.classes)
        if network.guided:
            cond["guidance"] = sum(self.facts["guidance"]) / 2
        shape, steps = tuple(self.data.train.shape[1:]), 18 if state.role == "teacher" else 1
        x = generate(state.result, self.recipe, shape, steps, **cond)
        state.average.module.train(was_training)
        path = self.folder / f"{state.role}-{state.step:07d}.png"
        save_samples(path, x.cpu(), f"{state.role}, step {state.step:,}")


def tracker_class(name: str) -> Any:
    """One of Accelerate's trackers; a ValueError if its package is not installed."""
    from accelerate import tracking

    if name not in map(str, tracking.get_available_trackers()):
        raise ValueError(f"--log {name} needs the package {name}: pip install {name}")
    return tracking.LOGGER_TYPE_TO_CLASS[name]


def generate(
    model: torch.nn.Module,
    recipe: Recipe,
    shape: tuple[int, ...],
    steps: int,
    number: int = 64,
    seed: int = 0,
    **cond: Any,
) -> Tensor:
    """Samples (number, \\*shape) of a student in ``steps`` steps, or of a teacher on ``steps`` points, under a condition.

    One generator draws them all; see :func:`cdedu.samples.draw` for many samples, each with its own generator.
    """
    generator = torch.Generator().manual_seed(seed)
    return walk(model, recipe, (number, *shape), steps, generator, **cond)


def walk(
    model: torch.nn.Module,
    recipe: Recipe,
    shape: tuple[int, ...],
    steps: int,
    generator: Generators,
    **cond: Any,
) -> Tensor:
    """Like :func:`generate`, with a given generator, or one per sample; ``shape`` (B, ...) is that of all samples."""
    from cdedu.samplers import sample_consistency, sample_heun

    device = next(model.parameters()).device
    x = recipe.sigma_max * normal(shape, generator).to(device)
    cond = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in cond.items()}
    if isinstance(model, ConsistencyModel | DenoiserStudent):
        return sample_consistency(model, x, recipe.student_sigmas(steps), generator, **cond)
    return sample_heun(model, x, recipe.sigmas(steps), **cond)


def write_run_record(folder: Path, name: str, recipe: Recipe, data: Dataset, **more: Any) -> Path:
    """Write the record of a command-line run, under a unique name; ``more`` as in :func:`~cdedu.records.write_record`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%f")
    return records.write_record(
        folder / f"{name}-{stamp}.json",
        command=shlex.join(["cdedu", *sys.argv[1:]]),
        recipe=recipe.to_dict(),
        seed=recipe.seed,
        data=data.describe(),
        **more,
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Context in which no other run works in this folder; half-written files of killed runs are removed. A dead process holds no lock.

    Raises:
        BlockingIOError: if another run is at work there.
    """
    what = f"run is at work in {folder}; wait for its end, or choose another folder with --out"
    with locked(folder / ".lock", what):
        sweep(folder)
        yield


def writable(folder: Path) -> None:
    """Make sure, before any work, that a folder can be written to; an OSError names it and the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}; choose another folder") from None
