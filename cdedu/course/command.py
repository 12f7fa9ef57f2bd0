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
    """Estimate what a run needs before you rent a GPU: memory, images a second, hours, price."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, such as cifar10; a TOML file with one of your own; or a text-to-image model: sd15, sdxl, sd3 or flux."""
    gpu: str | None = None
    """Kind of GPU, such as t4, a100, a100-80, h100 or rtx4090; this machine's by default."""
    gpus: Count = 1
    """How many of them."""
    role: Literal["teacher", "student"] = "student"
    """Which of the two runs."""
    share: Annotated[float, Range(0, 1, "low")] | None = None
    """Share of the GPU's peak that the run reaches; by default measured on this machine's GPU, and taken to be .3 for any other."""
    price: Weight | None = None
    """Of one GPU for one hour, in your currency."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Of the networks; fp16 in place of bf16 on a GPU that has none."""
    peak: Positive | None = None
    """TFLOP/s in half precision, not the figure for sparse matrices, of a GPU that is not in the table."""
    memory: Positive | None = None
    """GB of a GPU that is not in the table."""
    shape: tuple[Pixels, ...] | None = None
    """Of one sample of your own data, such as 3 64 64."""
    lora: Whole | None = None
    """Of a text-to-image model: rank of the adapter, 64 by default; 0 trains the whole network."""
    batch: Count | None = None
    """Of a text-to-image model: pictures a step, 16 by default."""
    steps: Count | None = None
    """Of a text-to-image model: steps of the optimizer, 1,000 by default."""
    checkpointing: bool = False
    """Of a text-to-image model: compute activations twice to save memory."""
    target_rate: Rate | None = None
    """Of a text-to-image model: of the target's average, 0 by default; with any other it takes memory of its own."""

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
    """The exercises as they were handed out."""
    submissions: tyro.conf.Positional[Path]
    """A folder with one notebook a student, or one folder a student."""
    out: Path
    """Where the table and the pages go. Who is there already and unchanged is not graded again."""
    seed: Seed | None = None
    """Of the data on which answers are tried: a large number, which you keep to yourself. Drawn once and kept in OUT by default."""
    hidden: Path | None = None
    """A Python file with further tests."""
    jobs: Annotated[int, Range(1, 256)] | None = None
    """Processes that grade; one a core by default."""
    seconds: Annotated[int, Range(1, 86_400)] = 120
    """For one submission."""
    memory: Annotated[int, Range(1, 2**20)] = 1024
    """MB for one submission, on top of the libraries."""
    own_risk: bool = False
    """Grade also where there are no Linux namespaces to hold submissions back: they could read and change your files."""
    book: tuple[Literal["canvas", "moodle"], ...] = ()
    """Write the totals as Canvas's gradebook or Moodle's grading worksheet imports them, too."""
    again: bool = False
    """Grade everybody anew."""

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
    """Race ways to distill the teacher of digits with one budget of network evaluations: a table, a row for each entry."""

    entries: tyro.conf.Positional[tuple[str, ...]]
    """Files of Python that define train(teacher, data, budget, generator), folders of them, or the course's own methods by name, such
    as cd."""
    budget: Annotated[int, Range(1000, 10**8)] = 24_000
    """Network evaluations of each entry: 1 a picture for a forward pass, 2 for a backward pass."""
    training_seed: Seed = 0
    """Of the generator that entries get."""
    seed: Seed | None = None
    """First sampling seed of the ruler; drawn by chance by default, so that no entry can know it."""
    draws: Count = 5
    """How often samples are drawn and measured."""
    seconds: Annotated[int, Range(1, 86_400)] | None = None
    """Processor time of an entry that spends the whole budget; 3 seconds and 2.5 times what its evaluations take by default."""
    jobs: Annotated[int, Range(1, 256)] = 1
    """Entries that run at once."""
    out: Path | None = None
    """A table for spreadsheets (.csv), with the reasons of those that got no row."""
    own_risk: bool = False
    """Race also where there are no Linux namespaces to hold entries back: they could read and change your files."""

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
