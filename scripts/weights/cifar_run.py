"""The long CIFAR-10 run: a class-conditional teacher and its students on one thread, for as long as there is time.

    python scripts/weights/cifar_run.py go --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip --out ~/cifar10
    python scripts/weights/cifar_run.py status --out ~/cifar10
    python scripts/weights/cifar_run.py judge --data ... --test ... --out ~/cifar10
    python scripts/weights/cifar_run.py publish --data ... --test ... --out ~/cifar10

`go` starts the run or goes on with it, in the foreground; `scripts/weights/cifar_run.sh` does so in the background, in a clone of its own.
However it was stopped, the same command goes on from the last saved state. Where the folder holds nothing, on another machine, it goes on from the weights that come
with the course, as a warm restart that the record tells of. `publish` puts the best average so far into `cdedu/weights` and what was
measured along the way into `results/cifar10-run.json`; it reads the state on disk, so the run may be alive. Two cores can share the plan: `go
--only teacher cd` in one folder, `go --only l2 perceptual easy` in another, and `publish --others` with the second.

After 25,000 and 50,000 images, and then every 100,000, and where a part of the plan ends, 1,000 samples of the average are measured and
five sheets of pictures are kept. Batches begin small, when steps count for more than images; each part of the plan below starts from the average that the part
before it left.

The student is told the class and is not guided: then teacher and student aim at the same distribution and their distances can be held
against each other, a step costs six evaluations and not eight, and the student leaves as a plain diffusers pipeline. Another student
goes on from it with a guided teacher. The ablations start from the same teacher as the student, and are compared with it at equal evaluations.
"""

import argparse
import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid
from tqdm.auto import tqdm

from cdedu import checkpoints, training
from cdedu.data import Dataset, load_data, to_unit
from cdedu.evaluation import cifar_classifier, cifar_referee, features, frechet_distance, share_recognised
from cdedu.evaluation.comparison import Ruler
from cdedu.files import replacing
from cdedu.losses import Distance, perceptual
from cdedu.methods.guidance import GuidedDenoiser, guided_for
from cdedu.networks.classifiers import CifarClassifier
from cdedu.recipes import Recipe, get_recipe
from cdedu.records import Study, commit, hardware, read_record, write_record
from cdedu.runs import Run, generate
from cdedu.runtime import Runtime, fast_precision
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import Resume, State, distill, train_teacher
from scripts.studies.bench import RESULTS, command

NAME = "cifar10-small"
RECORD = RESULTS / "cifar10-run.json"
EARLY, EVERY = (25_000, 50_000), 100_000
"""Images after which there are looks."""
SAMPLES, SEEDS, POINTS = 1000, 5, 10
"""Samples of a look, evenly over seeds and classes; points of the solver's grid (19 evaluations)."""
JUDGED_POINTS = 18
"""Of the grid on which teachers are judged, EDM's own for CIFAR-10 (35 evaluations)."""
CHOICE_SEED, CHOICE_SAMPLES = 99, 300
"""The average to publish is chosen on noise that no figure is reported on."""
CURVE = 2_000
"""Images between two points of the training curve."""
PUBLISHED = ("teacher", "cd", "guided")
"""The series whose weights come with the course."""


STUDENT_STARTS = {"images": 300_000, "fd": 3.0}
"""What the teacher should have reached, so that ratios to it mean something: images seen, and the Fréchet distance of a look. Each
student's file says what its teacher had."""


@dataclass(frozen=True)
class Part:
    """A part of the plan: one model trained with one batch size."""

    series: str
    """``teacher``, or the name of a student."""
    until: int
    """Images that this model has seen when the part ends."""
    batch: int
    lr: float
    ema: float
    more_emas: tuple[float, ...]
    stage: dict[str, Any] = field(default_factory=dict)
    """What else differs from the recipe's student."""
    distance: Distance | None = None
    guidance: float | None = None
    """Weight with which a student's teacher is guided; none by default."""
    follows: str | None = None
    """The model from whose published weights it begins, where it has none of its own."""

    @property
    def role(self) -> str:
        """Of the model."""
        return "teacher" if self.series == "teacher" else "student"

    def folder(self, out: Path) -> Path:
        """Where it lives."""
        return out / (f"leg-{self.until}" if self.role == "teacher" else f"{self.series}-{self.until}")

    def state(self, out: Path) -> Path:
        """What it goes on from."""
        return self.folder(out) / f"{self.role}.state.safetensors"

    def model(self, out: Path) -> Path:
        """What it leaves when it is finished."""
        return self.folder(out) / f"{self.role}.safetensors"


@cache
def _frozen(device: torch.device) -> CifarClassifier:
    return cifar_classifier().to(device)


def classifier_distance(a: Tensor, b: Tensor) -> Tensor:
    """In the layers of the classifier whose features also measure: the referee is the one to ask about this student."""
    return perceptual(_frozen(a.device).activations)(a, b)


LATE = (0.998, 0.9998)
# The students' learning rate is that of a pilot: after 8,000 images from the same teacher, 500 samples in one step stood at a Fréchet
# distance of 5.9 with 6e-4, and of 7.6 with the recipe's 2e-4 (the teacher: 3.3).
# The ablations are held against the student's look after 25,000 images, which are 150,000 evaluations; easy tuning needs no teacher,
# so it sees 1.5 times the images.
PLAN_OF_STUDENTS = (
    Part("cd", 74_000, 64, 6e-4, 0.999, LATE),
    Part("l2", 25_024, 64, 6e-4, 0.999, LATE, {"distance": "l2"}),
    Part("perceptual", 25_024, 64, 6e-4, 0.999, LATE, distance=classifier_distance),
    Part("easy", 37_504, 64, 6e-4, 0.999, LATE, {"method": "easy"}),
    # The guided teacher costs a call more at each end of its step: eight evaluations an image.
    Part("guided", 100_000, 64, 6e-4, 0.999, LATE, guidance=2.0, follows="cd"),
)
PLAN = (
    Part("teacher", 300_000, 32, 6e-4, 0.999, (0.998, 0.9995)),
    *PLAN_OF_STUDENTS,
    Part("teacher", 600_000, 64, 6e-4, 0.9993, (0.998, 0.9998)),
    Part("guided", 200_000, 64, 4e-4, 0.999, LATE, guidance=2.0),
    Part("cd", 200_000, 64, 6e-4, 0.999, LATE),
    Part("teacher", 1_500_000, 64, 6e-4, 0.9993, (0.998, 0.9998)),
    Part("cd", 500_000, 64, 4e-4, 0.9995, LATE),
    Part("teacher", 3_500_000, 128, 5e-4, 0.9995, LATE),
    Part("cd", 1_500_000, 128, 2e-4, 0.9995, LATE),
)


class Diary:
    """What the run leaves beside its weights: curve, looks, and when it was started where."""

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        if RECORD.is_file():  # a new folder goes on from what is published
            published = read_record(RECORD)["metrics"]
            for name, entries in {"starts": published["starts"], **published["curves"]}.items():
                if not (out / f"{name}.json").is_file():
                    self.write(name, entries)

    def write(self, name: str, entries: Any) -> None:
        """All of a file, whole or not at all."""
        with replacing(self.out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(entries), encoding="utf-8")

    def read(self, name: str) -> list[Any]:
        """All entries."""
        path = self.out / f"{name}.json"
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []

    def reached(self, images: int, seconds: float) -> None:
        """Of the last start: how far it has come, and the processor seconds it took, looks included."""
        starts = self.read("starts")
        starts[-1] |= {"reached": images, "processor_seconds": round(seconds)}
        self.write("starts", starts)

    def curves(self) -> dict[str, list[Any]]:
        """[images, mean loss] of each model, by file name."""
        names = [curve_of(series) for series in dict.fromkeys(part.series for part in PLAN)]
        return {name: entries for name in names if (entries := self.read(name))}

    def add(self, name: str, entry: Any, key: int = 0) -> None:
        """One entry; those at or beyond it, of an interrupted run that is made again from an older state, go."""
        kept = [e for e in self.read(name) if name == "starts" or e[key] < entry[key]]
        self.write(name, [*kept, entry])

    def looks(self) -> dict[str, Any]:
        """What was measured, by model and images."""
        path = self.out / "looks.json"
        if not path.is_file() and RECORD.is_file():
            old = read_record(RECORD)
            self.write("looks", {"runs": old["metrics"]["looks"], "settings": old["settings"]})
        return dict(json.loads(path.read_text(encoding="utf-8"))["runs"]) if path.is_file() else {}

    def looked(self, series: str) -> int:
        """Images of a model's last look."""
        return max((at for name, at in looks_of(self.looks()) if name == series), default=0)

    def judges(self) -> dict[str, Any]:
        """What :func:`judge` has found in this folder, by model."""
        path = self.out / "judges.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def study(self, data: Dataset) -> Study:
        """The looks so far, to add to."""
        self.looks()
        return Study(self.out / "looks.json", COMMAND, data=data.describe(), settings=settings(data))


COMMAND = command(__file__, "go --out ~/cifar10 --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip")


def curve_of(series: str) -> str:
    """The name of a model's curve."""
    return "curve" if series == "teacher" else f"curve-{series}"


def settings(data: Dataset) -> dict[str, Any]:
    """What all looks have in common."""
    shared = {"early": list(EARLY), "every": EVERY, "samples": SAMPLES, "seeds": SEEDS, "points": POINTS}
    return shared | {"label": data.name}


def draw(
    model: nn.Module, recipe: Recipe, seed: int, number: int, steps: int = 1, points: int = POINTS
) -> tuple[Tensor, Tensor]:
    """Samples (number, 3, 32, 32), the ten classes in turn, and their labels; of a student in so many steps."""
    labels, steps = torch.arange(number) % 10, steps if isinstance(model, ConsistencyModel) else points
    return generate(model, recipe, (3, 32, 32), steps, number, seed, labels=labels).cpu(), labels


def draws(
    model: nn.Module, recipe: Recipe, steps: int = 1, points: int = POINTS
) -> list[tuple[Tensor, Tensor]]:
    """What a model is measured by: samples and labels of each seed."""
    seeds = tqdm(range(SEEDS), desc="a look")
    return [draw(model, recipe, seed, SAMPLES // SEEDS, steps, points) for seed in seeds]


def look(model: nn.Module, recipe: Recipe, ruler: Ruler, sheets: Path, steps: int = 1) -> dict[str, Any]:
    """What the average is worth now, and its sheets; of a student in one step, and below ``two_steps`` in two."""
    drawn = draws(model, recipe, steps)
    sheets.mkdir(parents=True, exist_ok=True)
    for seed, (x, _) in enumerate(drawn):
        grid = make_grid(x[:100].clamp(-1, 1), nrow=10, normalize=True, value_range=(-1, 1), pad_value=1.0)
        picture = Image.fromarray((255 * grid).round().byte().permute(1, 2, 0).numpy())
        with replacing(sheets / f"seed-{seed}.jpg") as temporary:
            picture.save(temporary, "JPEG", quality=90)
    x, labels = (torch.cat(column) for column in zip(*drawn, strict=True))
    found: dict[str, Any] = ruler.measure(x)
    found["recognised"] = share_recognised(cifar_referee(), x, labels)
    if isinstance(model, ConsistencyModel) and steps == 1:
        found["two_steps"] = look(model, recipe, ruler, sheets / "two-steps", 2)
    return found


def part_recipe(part: Part, seen: int) -> Recipe:
    """The recipe of a part that begins after so many images."""
    recipe = get_recipe(NAME)
    changes = {k: getattr(part, k) for k in ("batch", "lr", "ema", "more_emas")} | part.stage
    if seen:
        changes["warmup"] = 500  # the optimiser begins anew
    stage = replace(getattr(recipe, part.role), steps=-(-(part.until - seen) // part.batch), **changes)
    return replace(
        recipe, **{part.role: stage}, seed=recipe.seed + seen
    )  # other noise than before the restart


def published(series: str) -> Path:
    """Where the course keeps the weights of a series; those of the ablations stay in the run's folder."""
    return checkpoints.WEIGHTS / f"{NAME}-{'student' if series == 'cd' else series}.safetensors"


def begin(out: Path, series: str) -> tuple[Path | None, int]:
    """The weights from which a part starts, and how many images they have seen: the last part's here, or the published ones."""
    parts = [part for part in PLAN if part.series == series]
    known = [part.model(out) for part in parts] + [published(series)]
    seen = {path: int(checkpoints.read_header(path)["images"]) for path in known if path.is_file()}
    best = max(seen, key=lambda path: seen[path], default=None)
    if best is None:
        first = next((published(part.follows) for part in parts if part.follows), None)
        return (first if first and first.is_file() else None), 0
    return best, seen[best]


def current(out: Path, diary: Diary, only: Collection[str] = ()) -> Part | None:
    """The part that is under way or comes next, of some models or of all."""
    for part in PLAN:
        if only and part.series not in only:
            continue
        seen = max(begin(out, part.series)[1], diary.looked(part.series))
        if not part.model(out).is_file() and (part.state(out).is_file() or seen < part.until):
            return part
    return None


def teacher_for(part: Part, out: Path, diary: Diary, data: Dataset) -> Teacher | None:
    """The frozen teacher of a student: its best average when the part began. The first parts of all students share one."""
    if part.role == "teacher":
        return None
    common = part == next(p for p in PLAN if p.series == part.series)
    path = out / f"teacher-of-{'students' if common else part.until}.safetensors"
    if not path.is_file():
        images = diary.looked("teacher")
        reached = {"images": images, "fd": diary.looks()[str(images)]["fd"] if images else float("inf")}
        if reached["images"] < STUDENT_STARTS["images"] or reached["fd"] > STUDENT_STARTS["fd"]:
            print(
                f"the teacher has reached {reached}, the student was to start at {STUDENT_STARTS}", flush=True
            )
        state = last_state(out, "teacher")
        if state is None:
            with replacing(path) as temporary:
                shutil.copyfile(published("teacher"), temporary)
        else:
            keep_best(state, path, data, reached=reached)
    return checkpoints.load(path)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Inside, no other process runs in the folder; the system lets go of the lock when a process dies."""
    with open(out / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"cifar_run: the run in {out} is alive already (process {pid(out)})") from None
        (out / "pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
        try:
            yield
        finally:
            (out / "pid").unlink(missing_ok=True)


def beginning(part: Part, out: Path) -> tuple[Recipe, Resume | None, nn.Module | None, dict[str, Any]]:
    """How a part goes on or begins: its recipe; a state on disk, or a model whose weights it takes over; what a file says of it."""
    path = part.state(out)
    if not path.is_file():
        weights, at = begin(out, part.series)
        recipe, facts = part_recipe(part, at), {"images": at}
        if weights is None:
            return recipe, None, None, facts
        facts["warm_restart"] = {"from": weights.name, "sha256": checkpoints.sha256(weights), "images": at}
        return recipe, None, checkpoints.load(weights), facts
    header = checkpoints.read_header(path)
    recipe = Recipe.from_dict(header["recipe"])
    known = ("images", "label", "distance", "precision", "warm_restart", "teacher", "guidance")
    facts = {key: header[key] for key in known if key in header}
    return recipe, checkpoints.load_state(path, recipe, part.role), None, facts


def go(out: Path, data: Dataset, only: Collection[str] = ()) -> None:
    """From where it stands to the end of the plan, or of what it holds for some models."""
    diary = Diary(out)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast, ruler = fast_precision(device), Ruler(data, SAMPLES)
    while (part := current(out, diary, only)) is not None:
        recipe, resume, start, facts = beginning(part, out)
        at, precision = facts.pop("images"), facts.pop("precision", fast)
        now = {"label": data.name}
        if part.distance is not None:
            now["distance"] = part.distance.__name__
        if resume and any(facts.get(key) != now.get(key) for key in ("label", "distance")):
            raise SystemExit(
                f"cifar_run: {part.state(out)} was made with {facts.get('label')} and the distance {facts.get('distance')}, not "
                f"with {now['label']} and {now.get('distance')}; go on with those, or move the folder away"
            )
        if (
            resume and resume[1] >= getattr(recipe, part.role).steps
        ):  # stopped between the state and the weights
            keep_best(part.state(out), part.model(out), data)
            continue
        facts |= now
        runtime = Runtime(device, precision, compile=device.type == "cuda", channels_last=True)
        run = Run(recipe, part.role, data, part.folder(out), out / "records", runtime, resume, facts=facts)
        diary.add("starts", {"model": part.series, "images": at, "date": datetime.now(UTC).isoformat(timespec="seconds"),
                             "commit": commit(), "resumed": resume is not None, "precision": precision,
                             **hardware(str(device))})  # fmt: skip
        print(
            f"{part.series}: {at:,} images seen; on to {part.until:,} in batches of {part.batch}, {precision}",
            flush=True,
        )
        options: dict[str, Any] = {"runtime": runtime, "resume": resume, "start": start}
        teacher = teacher_for(part, out, diary, data)
        if teacher is None:
            states = train_teacher(recipe, data, **options)
        else:
            header = {"images": teacher.header.images, **teacher.header.facts}
            known = {key: header[key] for key in ("images", "average", "reached") if key in header}
            asked: nn.Module = teacher
            student = None
            if part.guidance is not None:
                known["guidance"] = part.guidance
                facts["guidance"] = (part.guidance,)
                asked = GuidedDenoiser(teacher, part.guidance, null=recipe.network.classes - 1)
                student = ConsistencyModel.from_teacher(teacher, recipe.sigma_min)
            facts.setdefault("teacher", known)
            states = distill(recipe, asked, data, student=student, distance=part.distance, **options)
        run.drive(watched(states, run, part, diary, ruler))


def watched(states: Iterator[State], run: Run, part: Part, diary: Diary, ruler: Ruler) -> Iterator[State]:
    """The states as they come, with a point of the curve and a look now and then."""
    losses: list[float] = []
    window, began = None, time.process_time()
    study, prefix = diary.study(run.data), "" if part.role == "teacher" else f"{part.series}/"
    for state in states:
        images = run.images(state)
        losses.append(state.loss)
        window = (images - 1) // CURVE if window is None else window
        if images // CURVE > window:
            diary.add(curve_of(part.series), [images, sum(losses) / len(losses)])
            diary.reached(images, time.process_time() - began)
            losses.clear()
            window = images // CURVE
        looked = max((at for series, at in looks_of(study.runs) if series == part.series), default=0)
        if marks(images) > marks(looked) or images >= part.until > looked:
            sheets = diary.out / "sheets" / f"{prefix}{images:07d}"
            study.run(f"{prefix}{images}", partial(look, state.result, run.recipe, ruler, sheets))
        yield state


def looks_of(runs: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(series, images) of each look."""
    for key in runs:
        series, _, images = key.rpartition("/")
        yield series or "teacher", int(images)


def marks(images: int) -> int:
    """How many looks are due by then."""
    return images // EVERY + sum(images >= early for early in EARLY)


def pid(out: Path) -> int | None:
    """Of the process that runs, if one does."""
    if not (out / "lock").is_file():
        return None
    with open(out / "lock", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # somebody holds it
            return int((out / "pid").read_text(encoding="utf-8") or 0)
    return None


def status(out: Path) -> None:
    """Where it stands, in a few lines."""
    if not out.is_dir():
        raise SystemExit(f"cifar_run: there is no folder {out}; start a run there with go")
    diary, alive = Diary(out), pid(out)
    print(f"process {alive} is at work" if alive else "nothing is running; start it with go")
    for name, curve in diary.curves().items():
        recent = [loss for images, loss in curve if images > curve[-1][0] - 20_000]
        print(
            f"{name}: {curve[-1][0]:,} images seen, loss {sum(recent) / len(recent):.3f} over the last 20,000"
        )
    for key, row in diary.looks().items():
        for steps, values in (("", row), (" in two steps", row.get("two_steps", {}))):
            shown = [f"{k} {v:.3f}" for k, v in values.items() if k != "two_steps"]
            print(f"  {key}{steps}: {', '.join(shown)}" if shown else "", end="\n" * bool(shown))


def last_state(out: Path, series: str) -> Path | None:
    """The state on disk that has seen the most images."""
    states = [part.state(out) for part in PLAN if part.series == series]
    return next((path for path in reversed(states) if path.is_file()), None)


def averages(path: Path) -> tuple[dict[float, nn.Module], Recipe, dict[str, Any]]:
    """The averages in a state on disk, by their rates; its recipe and header."""
    header = checkpoints.read_header(path)
    recipe, role = Recipe.from_dict(header["recipe"]), header["role"]
    model: nn.Module = Teacher(recipe.network.build((3, 32, 32)), recipe.sigma_data, recipe.noise_scale)
    if role == "student":
        model = ConsistencyModel.from_teacher(model, recipe.sigma_min)
    state = training.begin(recipe, role, model, Runtime())
    state.restore(*checkpoints.load_state(path, recipe, role))
    rates = (getattr(recipe, role).ema, *getattr(recipe, role).more_emas)
    models = [average.module.eval() for average in (state.average, *state.more)]
    return dict(zip(rates, models, strict=True)), recipe, header


def keep_best(
    state: Path, target: Path, data: Dataset, **more: Any
) -> tuple[dict[str, Any], dict[float, float]]:
    """The best average of a state as a model of its own, in half precision, and the distances by which it was chosen. An average's rate
    rises as (1 + s)/(10 + s) over the steps s, so after fewer than 4,500 steps those of .998 and more are still one."""
    models, recipe, header = averages(state)
    ruler, choice = Ruler(data, CHOICE_SAMPLES), {}
    for rate, model in tqdm(models.items(), desc="averages"):
        choice[rate] = ruler.measure(draw(model, recipe, CHOICE_SEED, CHOICE_SAMPLES)[0])["fd"]
    best = min(choice, key=lambda rate: choice[rate])
    known = (
        "step",
        "images",
        "label",
        "labels",
        "class_names",
        "warm_restart",
        "teacher",
        "guidance",
        "distance",
    )
    facts = {k: header[k] for k in known if k in header} | {"average": best, "data": data.describe(), **more}
    checkpoints.save(target, models[best].half(), recipe, (3, 32, 32), **facts)
    return facts, choice


def gather(diary: Diary, others: list[Path], data: Dataset) -> None:
    """Take over what was measured in other folders, of the models that have seen more images there."""
    runs = diary.study(data).runs
    for other in map(Diary, others):
        looks = other.looks()
        new = {series for series, at in looks_of(looks) if at > diary.looked(series)}
        rows = zip(looks_of(looks), looks.items(), strict=True)
        runs |= {key: look for (series, _), (key, look) in rows if series in new}
        for series in new & {part.series for part in PLAN}:
            diary.write(curve_of(series), other.read(curve_of(series)))
        starts = [start for start in diary.read("starts") if start.get("model") not in new]
        diary.write("starts", starts + [start for start in other.read("starts") if start.get("model") in new])
        diary.write("looks", {"runs": runs, "settings": settings(data)})
        diary.write("judges", other.judges() | diary.judges())


def judge(out: Path, data: Dataset, also: Collection[Path] = ()) -> None:
    """Put finished students, the published models, the teacher with its guidance and real images before two judges: the classifier, in
    whose layers one student's distance was measured, and the referee, which had no part in any training. Distances in the features of
    each, and the shares recognized; in one step of a student, and on EDM's grid of a teacher. ``also`` are earlier teachers' files."""
    diary = Diary(out)
    found: dict[str, Any] = {}
    real = Ruler(data, SAMPLES).real
    judges = {"classifier": cifar_classifier(), "referee": cifar_referee()}
    known = {name: features(model, real) for name, model in judges.items()}

    def verdict(x: Tensor, seen: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
        return {
            name: {
                "fd": frechet_distance(known[name], features(model, x)),
                "recognised": share_recognised(model, seen, labels),
            }
            for name, model in judges.items()
        }

    ablations = {f"{p.series}/{p.until}": p.model(out) for p in PLAN if p.series not in PUBLISHED}
    paths = ablations | {series: published(series) for series in PUBLISHED}
    ready: dict[str, Any] = {key: checkpoints.load(path) for key, path in paths.items() if path.is_file()}
    for earlier in map(checkpoints.load, also):
        ready[f"teacher/{earlier.header.images}"] = earlier
    counts = {key: model.header.images for key, model in ready.items()}
    if "guided" in ready:
        ready["teacher-guided"] = guided_for(ready["guided"], ready["teacher"])
    for key, model in tqdm(ready.items()):
        pairs = draws(model, get_recipe(NAME), points=JUDGED_POINTS)
        x, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
        found[key] = verdict(x, x, labels) | {"images": counts.get(key, counts["teacher"])}
        if not isinstance(model, ConsistencyModel):
            found[key]["evaluations"] = 2 * JUDGED_POINTS - 1
    some = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))[:SAMPLES]
    if data.train_labels is None:
        raise ValueError("these images have no labels, so nobody can say whether their class is recognized")
    asked = data.train[some], data.train_labels[some]
    if data.test_labels is not None:  # both judges learned from the training images
        asked = data.test[:SAMPLES], data.test_labels[:SAMPLES]
    found["real"] = verdict(to_unit(data.train[some]), to_unit(asked[0]), asked[1])
    diary.write("judges", found)
    print(json.dumps(found, indent=1))


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Verdicts old and new; those on a published model that has since learned more stay under its images."""
    earlier = {
        f"{series}/{old[series]['images']}": old[series]
        for series in PUBLISHED
        if series in old and old[series]["images"] != new.get(series, old[series])["images"]
    }
    return old | earlier | new


def publish(out: Path, data: Dataset, others: list[Path] | None = None) -> None:
    """The best averages so far, here and in other folders, among the weights of the course, and the record."""
    old = read_record(RECORD) if RECORD.is_file() else None
    chosen: dict[str, Any] = dict(old["metrics"]["chosen"]) if old else {}
    folders = (out, *(others or []))
    found = {series: [state for f in folders if (state := last_state(f, series))] for series in PUBLISHED}
    if not any(part.state(f).is_file() for f in folders for part in PLAN):
        raise SystemExit(f"cifar_run: there is no state in {out}; start the run with go")
    seen = {state: checkpoints.read_header(state)["images"] for states in found.values() for state in states}
    states = {series: max(ones, key=seen.__getitem__) for series, ones in found.items() if ones}
    for series, state in states.items():
        if seen[state] < chosen.get(series, {}).get("images", 0):
            raise SystemExit(
                f"cifar_run: the {series} in {state.parent.parent} has seen {seen[state]:,} images, the published one "
                f"{chosen[series]['images']:,}; publish from the folder that went on from it"
            )
    for series, state in states.items():
        facts, choice = keep_best(state, published(series), data)
        checkpoints.write_hashes(published(series).stem)
        chosen[series] = {
            "images": facts["images"],
            "average": facts["average"],
            "distances": {str(rate): value for rate, value in choice.items()},
            "sha256": checkpoints.sha256(published(series)),
        }
        print(f"{published(series)}: {facts['images']:,} images, average {facts['average']}")
    diary = Diary(out)
    gather(diary, others or [], data)
    study = diary.study(data)
    write_record(
        RECORD,
        metrics={
            "chosen": chosen,
            "looks": study.runs,
            "starts": diary.read("starts"),
            "curves": diary.curves(),
            "judges": merged(old["metrics"].get("judges", {}) if old else {}, diary.judges()),
        },
        command=COMMAND,
        recipe=get_recipe(NAME).to_dict(),
        plan=[vars(part) | {"distance": part.distance and part.distance.__name__} for part in PLAN],
        data=data.describe(),
        settings=settings(data),
        student_starts=STUDENT_STARTS,
    )


def main() -> None:
    """One of the four commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("go", "status", "judge", "publish"))
    parser.add_argument("--data")
    parser.add_argument("--test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sorted({part.series for part in PLAN}),
        default=(),
        help="these models of the plan",
    )
    parser.add_argument(
        "--others", type=Path, nargs="+", default=[], help="folders of other models to publish with it"
    )
    parser.add_argument(
        "--also",
        type=Path,
        nargs="+",
        default=[],
        help="files of earlier teachers to judge beside the others",
    )
    arguments = parser.parse_args()
    out = arguments.out.expanduser()
    if arguments.what == "status":
        return status(out)
    if not arguments.data:
        parser.error("give --data, and --test for held-out images")
    try:
        if arguments.what == "judge":
            return judge(out, load_data(arguments.data, arguments.test), arguments.also)
        if arguments.what == "publish":
            return publish(out, load_data(arguments.data, arguments.test), arguments.others)
        out.mkdir(parents=True, exist_ok=True)
        with alone(out):
            go(out, load_data(arguments.data, arguments.test), arguments.only)
    except (ValueError, OSError) as error:
        raise SystemExit(f"cifar_run: {error}") from None


if __name__ == "__main__":
    main()
