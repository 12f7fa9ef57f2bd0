"""The long CIFAR-10 run: a class-conditional teacher on one thread, for as long as there is time.

    python scripts/cifar_run.py go --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip --out ~/cifar10/run
    python scripts/cifar_run.py status --out ~/cifar10/run
    python scripts/cifar_run.py publish --data ... --test ... --out ~/cifar10/run

`go` starts the run or goes on with it, in the foreground; `scripts/cifar_run.sh` does so in the background, in a clone of its own.
Stopped in any way it goes on where it was. Where the folder holds nothing, on another machine, it goes on from the weights that come
with the course, as a warm restart that the record tells of. `publish` puts the best average so far into `cdedu/weights` and what was
measured into `results/cifar10-run.json`; it reads the state on disk, so the run may be alive.

After 25,000 and 50,000 images, and then every 100,000, 1,000 samples of the average are measured and five sheets of pictures are
kept. Batches begin small, when
steps count for more than images; each of the legs below starts from the average that the one before it left.
"""

import argparse
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm.auto import tqdm

from cdedu import checkpoints
from cdedu.comparison import Ruler
from cdedu.data import Dataset, load_data
from cdedu.evaluation import cifar_referee, share_recognised
from cdedu.files import replacing
from cdedu.recipes import Recipe, get_recipe
from cdedu.records import Study, commit, hardware, read_record, write_record
from cdedu.runs import Run
from cdedu.runtime import Runtime, fast_precision
from cdedu.samplers import sample_heun
from cdedu.teacher import Teacher
from cdedu.training import State, train_teacher

ROOT = Path(__file__).resolve().parents[1]
NAME, LABEL = "cifar10-small", "cifar10-jpeg"
WEIGHTS, RECORD = f"{NAME}-teacher", ROOT / "results" / "cifar10-run.json"
EARLY, EVERY = (25_000, 50_000), 100_000
"""Images after which there are looks."""
SAMPLES, SEEDS, POINTS = 1000, 5, 10
"""Samples of a look, evenly over seeds and classes; points of the solver's grid (19 evaluations)."""
CHOICE_SEED, CHOICE_SAMPLES = 99, 300
"""The average to publish is chosen on noise that no figure is reported on."""
CURVE = 2_000
"""Images between two points of the training curve."""


@dataclass(frozen=True)
class Leg:
    """A part of the run with one batch size."""

    until: int
    """Images seen in all when it ends."""
    batch: int
    lr: float
    ema: float
    more_emas: tuple[float, ...]


LEGS = (
    Leg(300_000, 32, 6e-4, 0.999, (0.998, 0.9995)),
    Leg(1_500_000, 64, 6e-4, 0.9993, (0.998, 0.9998)),
    Leg(4_000_000, 128, 5e-4, 0.9995, (0.999, 0.9998)),
)


class Diary:
    """What the run leaves beside its weights: curve, looks, and when it was started where."""

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        for name in ("curve", "starts"):
            path = out / f"{name}.json"
            if not path.is_file():  # a new folder goes on from what is published
                old = read_record(RECORD)["metrics"][name] if RECORD.is_file() else []
                path.write_text(json.dumps(old))

    def read(self, name: str) -> list[Any]:
        """All entries."""
        return list(json.loads((self.out / f"{name}.json").read_text()))

    def add(self, name: str, entry: Any, key: int = 0) -> None:
        """One entry; those at or beyond it, of an interrupted run that is made again from an older state, go."""
        kept = [e for e in self.read(name) if name == "starts" or e[key] < entry[key]]
        with replacing(self.out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps([*kept, entry]))

    def study(self, data: Dataset, **fixed: Any) -> Study:
        """The looks so far."""
        path = self.out / "looks.json"
        if not path.is_file() and RECORD.is_file():
            path.write_text(
                json.dumps({"runs": read_record(RECORD)["metrics"]["looks"], "settings": settings()})
            )
        command = "python scripts/cifar_run.py go --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip"
        return Study(path, command, data=data.describe(), settings=settings(), **fixed)


def settings() -> dict[str, Any]:
    """What all looks have in common."""
    return {
        "early": list(EARLY),
        "every": EVERY,
        "samples": SAMPLES,
        "seeds": SEEDS,
        "points": POINTS,
        "label": LABEL,
    }


@torch.no_grad()
def draw(model: Teacher, recipe: Recipe, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """Samples (number, 3, 32, 32), the ten classes in turn, and their labels."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(number) % 10
    x = recipe.sigma_max * torch.randn(number, 3, 32, 32, generator=generator)
    pairs = zip(x.split(100), labels.split(100), strict=True)
    return torch.cat([sample_heun(model, a, recipe.sigmas(POINTS), labels=y) for a, y in pairs]), labels


def look(model: Teacher, recipe: Recipe, ruler: Ruler, sheets: Path) -> dict[str, float]:
    """What the average is worth now."""
    drawn = [draw(model, recipe, seed, SAMPLES // SEEDS) for seed in tqdm(range(SEEDS), desc="a look")]
    sheets.mkdir(parents=True, exist_ok=True)
    for seed, (x, _) in enumerate(drawn):
        grid = make_grid(x[:100].clamp(-1, 1), nrow=10, normalize=True, value_range=(-1, 1), pad_value=1.0)
        picture = Image.fromarray((255 * grid).round().byte().permute(1, 2, 0).numpy())
        with replacing(sheets / f"seed-{seed}.jpg") as temporary:
            picture.save(temporary, "JPEG", quality=90)
    x, labels = (torch.cat(column) for column in zip(*drawn, strict=True))
    return ruler.measure(x) | {"recognised": share_recognised(cifar_referee(), x, labels)}


def leg_recipe(leg: Leg, seen: int) -> Recipe:
    """The recipe of a leg that begins after so many images."""
    recipe = get_recipe(NAME)
    changes = {k: getattr(leg, k) for k in ("batch", "lr", "ema", "more_emas")}
    stage = replace(recipe.teacher, steps=-(-(leg.until - seen) // leg.batch), **changes)
    return replace(recipe, teacher=stage, seed=recipe.seed + seen)  # other noise than before the restart


def begin(out: Path, leg: Leg) -> tuple[Path | None, int]:
    """The weights from which a leg starts, and how many images they have seen: the last leg's here, or the published ones."""
    known = [out / f"leg-{other.until}" / "teacher.safetensors" for other in LEGS]
    if WEIGHTS in json.loads((checkpoints.WEIGHTS / "hashes.json").read_text()):
        known.append(checkpoints.WEIGHTS / f"{WEIGHTS}.safetensors")
    seen = {path: int(checkpoints.read_header(path)["images"]) for path in known if path.is_file()}
    best = max(seen, key=lambda path: seen[path], default=None)
    return best, seen[best] if best else 0


def current(out: Path) -> Leg | None:
    """The leg that is under way or comes next."""
    for leg in reversed(LEGS):
        if (out / f"leg-{leg.until}" / "teacher.state.safetensors").is_file():
            done = (out / f"leg-{leg.until}" / "teacher.safetensors").is_file()
            return leg if not done else next((n for n in LEGS if n.until > leg.until), None)
    seen = begin(out, LEGS[0])[1]
    return next((leg for leg in LEGS if leg.until > seen), None)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Inside, no other process runs in the folder; the system lets go of the lock when a process dies."""
    with open(out / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"cifar_run: the run in {out} is alive already (process {pid(out)})") from None
        (out / "pid").write_text(f"{os.getpid()}\n")
        yield


def go(out: Path, data: Dataset) -> None:
    """From where it stands to the end of the last leg."""
    diary = Diary(out)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "bf16" if device.type == "cuda" else fast_precision(device)
    ruler = Ruler(data, SAMPLES)
    while (leg := current(out)) is not None:
        folder = out / f"leg-{leg.until}"
        state_path = folder / "teacher.state.safetensors"
        facts: dict[str, Any] = {"label": LABEL}
        resume = start = None
        if state_path.is_file():
            header = checkpoints.read_header(state_path)
            recipe = Recipe.from_dict(header["recipe"])
            precision = header["precision"]
            facts |= {k: header[k] for k in ("warm_restart",) if k in header}
            resume = checkpoints.load_state(state_path, recipe, "teacher")
            seen = facts.get("warm_restart", {}).get("images", 0)
            at = seen + resume[1] * leg.batch
        else:
            path, seen = begin(out, leg)
            recipe, at = leg_recipe(leg, seen), seen
            if path is not None:
                start = checkpoints.load(path)
                facts["warm_restart"] = {
                    "from": path.name, "sha256": checkpoints.sha256(path), "images": seen,
                }  # fmt: skip
        runtime = Runtime(device, precision, compile=device.type == "cuda", channels_last=True)
        run = Run(recipe, "teacher", data, folder, out / "records", runtime, resume, facts=facts)
        diary.add("starts", {"images": at, "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(),
                             "resumed": resume is not None, "precision": precision, **hardware(str(device))})  # fmt: skip
        print(f"{at:,} images seen; on to {leg.until:,} in batches of {leg.batch}, {precision}", flush=True)
        states = train_teacher(recipe, data, runtime=runtime, resume=resume, start=start)
        run.drive(watched(states, run, diary, ruler))


def watched(states: Iterator[State], run: Run, diary: Diary, ruler: Ruler) -> Iterator[State]:
    """The states as they come, with a point of the curve and a look now and then."""
    losses: list[float] = []
    study = diary.study(run.data)
    for state in states:
        images = run.images(state)
        losses.append(state.loss)
        if len(losses) * state.recipe.teacher.batch >= CURVE:
            diary.add("curve", [images, sum(losses) / len(losses)])
            losses.clear()
        looked = max((int(key) for key in study.runs), default=0)
        if marks(images) > marks(looked):
            sheets = diary.out / "sheets" / f"{images:07d}"
            study.run(str(images), partial(look, state.result, run.recipe, ruler, sheets))
        yield state


def marks(images: int) -> int:
    """How many looks are due by then."""
    return images // EVERY + sum(images >= early for early in EARLY)


def pid(out: Path) -> int | None:
    """Of the process that runs, if one does."""
    path = out / "pid"
    if not path.is_file():
        return None
    number = int(path.read_text())
    try:
        os.kill(number, 0)
    except OSError:
        return None
    return number


def status(out: Path) -> None:
    """Where it stands, in a few lines."""
    diary, alive = Diary(out), pid(out)
    print(f"process {alive} is at work" if alive else "nothing is running; start it with go")
    curve = diary.read("curve")
    if curve:
        recent = [loss for images, loss in curve if images > curve[-1][0] - 20_000]
        print(f"{curve[-1][0]:,} images seen, loss {sum(recent) / len(recent):.3f} over the last 20,000")
    looks = json.loads((out / "looks.json").read_text())["runs"] if (out / "looks.json").is_file() else {}
    for images, row in looks.items():
        print(f"  {int(images):>9,}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))


def averages(path: Path) -> tuple[dict[float, Teacher], Recipe, dict[str, Any]]:
    """The averages in a state on disk, by their rates; its recipe and header."""
    tensors, header = checkpoints.read_tensors(path)
    recipe, models = Recipe.from_dict(header["recipe"]), {}
    for i, rate in enumerate((recipe.teacher.ema, *recipe.teacher.more_emas), 1):
        prefix = f"average{i if i > 1 else ''}.module."
        model = Teacher(recipe.network.build((3, 32, 32)), recipe.sigma_data, recipe.noise_scale)
        model.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        models[rate] = model.eval()
    return models, recipe, header


def publish(out: Path, data: Dataset) -> None:
    """The best average so far among the weights of the course, and the record."""
    states = [out / f"leg-{leg.until}" / "teacher.state.safetensors" for leg in LEGS]
    path = next((path for path in reversed(states) if path.is_file()), None)
    if path is None:
        raise SystemExit(f"cifar_run: there is no state in {out}; start the run with go")
    models, recipe, header = averages(path)
    ruler, diary, choice = Ruler(data, CHOICE_SAMPLES), Diary(out), {}
    for rate, model in tqdm(models.items(), desc="averages"):
        choice[rate] = ruler.measure(draw(model, recipe, CHOICE_SEED, CHOICE_SAMPLES)[0])["fd"]
    best = min(choice, key=lambda rate: choice[rate])
    facts = {
        k: header[k]
        for k in ("step", "images", "label", "labels", "class_names", "warm_restart")
        if k in header
    }
    target = checkpoints.WEIGHTS / f"{WEIGHTS}.safetensors"
    checkpoints.save(
        target, models[best].half(), recipe, (3, 32, 32), **facts, average=best, data=data.describe()
    )
    checkpoints.write_hashes()
    study = diary.study(data)
    write_record(
        RECORD,
        metrics={
            "images": facts["images"],
            "looks": study.runs,
            "curve": diary.read("curve"),
            "starts": diary.read("starts"),
            "averages": {str(rate): value for rate, value in choice.items()},
            "chosen": best,
        },
        command=study.command,
        recipe=recipe.to_dict(),
        seed=recipe.seed,
        data=data.describe(),
        settings=settings(),
        weights={"file": target.name, "sha256": checkpoints.sha256(target)},
    )
    print(f"{target}: {facts['images']:,} images, average {best}")


def main() -> None:
    """One of the three commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("go", "status", "publish"))
    parser.add_argument("--data")
    parser.add_argument("--test")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.expanduser()
    if arguments.what == "status":
        return status(out)
    if not arguments.data:
        parser.error("give --data, and --test for held-out images")
    data = load_data(arguments.data, arguments.test)
    if arguments.what == "publish":
        return publish(out, data)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        go(out, data)


if __name__ == "__main__":
    main()
