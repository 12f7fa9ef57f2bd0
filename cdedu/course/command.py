"""``cdedu plan``, ``cdedu grade`` and ``cdedu race``."""

import secrets
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cdedu.limits import Count, Pixels, Positive, Range, Rate, Seed, Weight, Whole


@dataclass(frozen=True)
class PlanRun:
    """Estimate what a run needs before you rent a GPU: memory, images per second, hours, price."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, such as cifar10; a TOML file with your own; or a text-to-image model: sd15, sdxl, sd3 or flux."""
    gpu: str | None = None
    """Kind of GPU, such as t4, a100, a100-80, h100 or rtx4090; by default this machine's."""
    gpus: Count = 1
    """How many GPUs."""
    role: Literal["teacher", "student"] = "student"
    """Which of the two runs to plan."""
    share: Annotated[float, Range(0, 1, "low")] | None = None
    """Share of the GPU's peak speed that the run reaches; by default measured on this machine's GPU, and assumed to be .3 for any
    other."""
    price: Weight | None = None
    """Price of one GPU for one hour, in your currency."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of the networks; on a GPU without bf16, fp16 is used instead."""
    peak: Positive | None = None
    """Peak TFLOP/s in half precision, for a GPU that is not in the table; use the figure for dense matrices, not the sparse one."""
    memory: Positive | None = None
    """Memory in GB, for a GPU that is not in the table."""
    shape: tuple[Pixels, ...] | None = None
    """Shape of one sample, if the data are your own, such as 3 64 64."""
    lora: Whole | None = None
    """For a text-to-image model: rank of the adapter, 64 by default; 0 trains the whole network."""
    batch: Count | None = None
    """For a text-to-image model: pictures per step, 16 by default."""
    steps: Count | None = None
    """For a text-to-image model: number of optimizer steps, 1,000 by default."""
    checkpointing: bool = False
    """For a text-to-image model: save memory by computing activations twice."""
    target_rate: Rate | None = None
    """For a text-to-image model: rate of the target average, 0 by default; any other rate takes extra memory."""

    def __call__(self) -> None:
        from cdedu.course.plan import plan
        from cdedu.course.plan_text import MODELS, plan_text

        own = {
            name: getattr(self, name)
            for name in ("lora", "batch", "steps", "target_rate")
            if getattr(self, name) is not None
        }
        if self.recipe in MODELS:
            if self.shape or self.role == "teacher":
                raise ValueError(
                    f"{self.recipe}: only its student is planned, at the model's own size; leave --shape and --role out"
                )
            shared = {name: getattr(self, name) for name in ("share", "price", "precision", "peak", "memory")}
            print(
                plan_text(self.recipe, self.gpu, self.gpus, checkpointing=self.checkpointing, **own, **shared)
            )
            return
        if own or self.checkpointing:
            name = next(iter(own), "checkpointing")
            raise ValueError(
                f"--{name.replace('_', '-')} is for {', '.join(MODELS)}; what {self.recipe} takes is in its recipe"
            )
        options = {
            name: getattr(self, name) for name in ("share", "price", "precision", "peak", "memory", "shape")
        }
        print(plan(self.recipe, self.gpu, self.gpus, self.role, **options))


@dataclass(frozen=True)
class GradeFolder:
    """Grade a folder of submissions: a table, and a page for each student."""

    notebook: tyro.conf.Positional[Path]
    """The exercise notebook that you handed out."""
    submissions: tyro.conf.Positional[Path]
    """A folder with one notebook or one folder per student."""
    out: Path
    """Folder for the table and the pages. Students who are already there and unchanged are not graded again."""
    seed: Seed | None = None
    """Seed of the data that answers are tried on: a large number, which you keep to yourself. By default drawn once and kept in OUT."""
    hidden: Path | None = None
    """A Python file with additional tests."""
    jobs: Annotated[int, Range(1, 256)] | None = None
    """Number of grading processes; by default one per core."""
    seconds: Annotated[int, Range(1, 86_400)] = 120
    """Time limit in seconds for one submission."""
    memory: Annotated[int, Range(1, 2**20)] = 1024
    """Memory limit in MB for one submission, on top of the libraries."""
    own_risk: bool = False
    """Grade even without Linux namespaces to isolate submissions; they could then read and change your files."""
    book: tuple[Literal["canvas", "moodle"], ...] = ()
    """Also write the totals in a form that Canvas's gradebook or Moodle's grading worksheet can import."""
    again: bool = False
    """Grade everybody again."""

    def __call__(self) -> None:
        if sys.platform == "win32":
            raise ValueError("grading runs on Linux and macOS; on Windows use WSL")
        from cdedu.course.grading import Limits, grade_folder

        grades = grade_folder(
            self.notebook,
            self.submissions,
            self.out,
            seed=self.seed,
            hidden=self.hidden,
            jobs=self.jobs,
            limits=Limits(wall_seconds=self.seconds, memory_mb=self.memory),
            own_risk=self.own_risk,
            again=self.again,
            books=self.book,
        )
        print(
            f"{len(grades)} students: {self.out / 'grades.csv'}, {self.out / 'report.txt'}, {self.out / 'feedback'}"
        )
        for protection in sorted({g.protection for g in grades if g.protection}):
            print(protection)


@dataclass(frozen=True)
class RaceEntries:
    """Race ways to distill the teacher of digits, all with the same budget of network evaluations. Prints a table with a row for each
    entry."""

    entries: tyro.conf.Positional[tuple[str, ...]]
    """Python files that define train(teacher, data, budget, generator), folders of such files, or names of the course's own methods, such
    as cd."""
    budget: Annotated[int, Range(1000, 10**8)] = 24_000
    """Network evaluations for each entry: per picture, a forward pass counts 1 and a backward pass 2."""
    training_seed: Seed = 0
    """Seed of the generator that entries get."""
    seed: Seed | None = None
    """First sampling seed of the ruler; by default drawn at random, so that no entry can know it."""
    draws: Count = 5
    """How many times samples are drawn and measured."""
    seconds: Annotated[int, Range(1, 86_400)] | None = None
    """Processor time for an entry that spends the whole budget; by default 3 seconds plus 2.5 times what its evaluations take."""
    jobs: Annotated[int, Range(1, 256)] = 1
    """How many entries run at once."""
    out: Path | None = None
    """Write a .csv table for spreadsheets, with the reason for each entry that got no row."""
    own_risk: bool = False
    """Race even without Linux namespaces to isolate entries; they could then read and change your files."""

    def __call__(self) -> None:
        if sys.platform == "win32":
            raise ValueError("the race runs on Linux and macOS; on Windows use WSL")
        from cdedu.course.race import Race, found_in, run, table
        from cdedu.data import load_data
        from cdedu.evaluation.protocol import protocol_of

        names = found_in(self.entries)  # before the models are loaded
        usual = protocol_of(load_data("digits"), draws=self.draws)
        first = secrets.randbits(31) if self.seed is None else self.seed
        protocol = replace(usual, first_seed=first, name="own")
        with Race(self.budget, self.training_seed, protocol, self.seconds, self.own_risk) as race:
            print(race.judge.protection)
            rows, refused = run(race, names, self.jobs, self.out)
            scale = race.scale() if rows else {}
        if rows:
            known = ", ".join(f"{what} {fd:,.0f}" for what, fd in scale.items())
            print(
                f"\n{table(rows)}\n\nFréchet distance, median and range: {protocol.line}.\nFor scale, the same distance of {known}."
            )
        for row in rows:
            print(f"\n{row.name} printed:\n{row.printed}\n" if row.printed else "", end="", flush=True)
        for reason in refused.values():
            print(f"no row: {reason}", file=sys.stderr)
        if not rows:
            raise ValueError("no entry has got a row")
