"""The steps of `gpu_day.py` that need the package, each a process of its own: `python scripts/bench/gpu_steps.py teacher --out FOLDER`.

`teacher` and `student` train cifar10-small through the command line of the package; on SIGTERM they stop cleanly, and the average in
the saved state becomes weights for use, `FOLDER/run/<role>.safetensors`. `look` draws pictures and measures distances, `full` takes 200
steps of the full network's recipe. All write their records into `FOLDER/records`. Started again in the same folder, training goes on.
"""

import argparse
import math
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cdedu import checkpoints, cli
from cdedu.data import Dataset, load_data
from cdedu.files import read_header
from cdedu.recipes import Recipe, get_recipe
from cdedu.records import write_record
from cdedu.runtime import Runtime, fast_precision
from cdedu.training import check_finite, train_teacher
from scripts.bench.throughput import noise_data

NAME = "cifar10-small"
LARGEST = 16 << 20
"""Bytes of a file of weights; where fp32 would take more, it is stored in half precision."""
COMPILE_PAYS = 180.0
"""Seconds of a training step from which compiling it is taken to pay; an estimate."""
FULL_STEPS = 200


def train(role: str, given: argparse.Namespace) -> None:
    """Teacher or student by the command line, until it is done or told to stop; then the weights of its average."""
    run, resumed = given.out / "run", (given.out / "run" / f"{role}.state.safetensors").is_file()
    settle(run)
    words = ["train" if role == "teacher" else "distill", NAME, "--out", str(run)]
    if role == "student":
        words += ["--teacher", source("teacher", given)]
    start = source(role, given)
    if resumed:
        words += ["--resume"]
    elif start:
        words += ["--from-weights", str(checkpoints.find(start))]
    if given.tiny:
        words += ["--max-steps", "2", "--batch", "2", "--precision", "fp32"]
    if given.eager or given.seconds < COMPILE_PAYS:
        words += ["--compile", "False"]
    code = command(words + common(given))
    if not (run / f"{role}.state.safetensors").is_file():
        raise SystemExit(code or f"the {role} left no state")
    keep(run, role)
    if code not in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        raise SystemExit(code)


def look(given: argparse.Namespace) -> None:
    """Pictures of teacher and student, then their distances to the held-out images."""
    run, failed = given.out / "run", []
    device, number = ["--device", given.device], "8" if given.tiny else "64"
    settle(run)
    for role, steps in (("teacher", 3 if given.tiny else 18), ("student", 1), ("student", 2)):
        if weights := source(role, given):
            words = ["sample", NAME, "--model", role, "--weights", weights, "--steps", str(steps)]
            words += ["--number", number, "--out", str(run / f"{role}-{steps}.png"), *device]
            failed += [f"picture of the {role}"] * bool(command(words))
    teacher, student = source("teacher", given), source("student", given)
    if student:
        few = ["--samples", "4", "--seeds", "1"] if given.tiny else ["--samples", "1000", "--seeds", "3"]
        trial = ["--trial", str(given.tiny)]
        words = ["evaluate", NAME, "--teacher", teacher, "--student", student, *few, *trial]
        failed += ["distances"] * bool(command(words + common(given)))
    else:
        failed.append("distances: there is no student")
    if failed:
        raise SystemExit(f"look: without {'; '.join(failed)}")


def full(given: argparse.Namespace) -> None:
    """200 steps of the full network's teacher: whether it runs, and its loss stays a number. Nothing is kept of its weights."""
    recipe, steps, every = get_recipe("cifar10"), FULL_STEPS, 10
    if given.tiny:
        network = replace(recipe.network, width=16, depth=1, multipliers=(1, 2))
        recipe = replace(recipe, network=network, teacher=replace(recipe.teacher, batch=2))
        steps, every = 3, 1
    device = torch.device(given.device)
    compiled = device.type == "cuda" and not given.eager and given.seconds >= COMPILE_PAYS
    runtime = Runtime(device, "fp32" if given.tiny else fast_precision(device), compiled)
    data = load_data(given.data, given.test_data) if given.data else noise_data()
    losses: list[list[float]] = []
    start = time.perf_counter()
    for state in train_teacher(recipe, data, runtime=runtime):
        last = state.step == steps
        if state.step % every == 0 or last:
            losses.append([state.step, state.loss])
            if last:
                check_finite(state)
            seconds = time.perf_counter() - start
            record(given, "full", recipe, data, seconds, {
                "steps": state.step, "of": steps, "losses": losses, "finite": all(math.isfinite(v) for _, v in losses),
                "parameters": sum(p.numel() for p in state.model.parameters()),
                "images_per_second_with_start": state.step * recipe.teacher.batch / seconds,
                "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
            }, runtime=runtime.describe())  # fmt: skip
            print(f"step {state.step}: loss {losses[-1][1]:.4g}", flush=True)
            if not math.isfinite(losses[-1][1]):
                raise SystemExit(f"full: the loss became {losses[-1][1]} at step {state.step}")
        if last:
            break


def record(
    given: argparse.Namespace, name: str, recipe: Recipe, data: Dataset, seconds: float, metrics: dict[str, Any], **more: Any
) -> None:  # fmt: skip
    """A record that says what it is not."""
    write_record(
        given.out / "records" / f"{name}.json",
        metrics=metrics,
        command=f"python scripts/bench/gpu_day.py (step {name})",
        recipe=recipe.to_dict(),
        seed=recipe.seed,
        data=data.describe(),
        seconds=seconds,
        device=given.device,
        trial=given.tiny,
        says="that these steps ran, how fast, and what the loss was; nothing about quality",
        **more,
    )


def command(words: list[str]) -> Any:
    """The exit code of the package's command line, in this process."""
    print("cdedu", *words, flush=True)
    sys.argv = ["cdedu", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    except Exception:  # what comes after it can still be done
        traceback.print_exc()
        return 1
    return 0


def common(given: argparse.Namespace) -> list[str]:
    """Device, data and place of the records, as the command line takes them."""
    words = ["--device", given.device, "--results", str(given.out / "records")]
    words += ["--data", given.data] if given.data else []
    return words + (["--test-data", str(given.test_data)] if given.test_data else [])


def source(role: str, given: argparse.Namespace) -> str:
    """The newest weights there are: this run's, those that were given, those that come with the course; "" for none."""
    places = [given.out / "run", *([given.weights] if given.weights else []), checkpoints.WEIGHTS]
    names = [f"{role}.safetensors"] * (len(places) - 1) + [f"{NAME}-{role}.safetensors"]
    files = [place / name for place, name in zip(places, names, strict=True)]
    return next((str(path) for path in files if path.is_file()), "")


def keep(run: Path, role: str) -> Path:
    """The sampling average in a run's state as weights for use, unless there are some that are as old."""
    state, path = run / f"{role}.state.safetensors", run / f"{role}.safetensors"
    header = read_header(state)
    if path.is_file() and read_header(path).get("step", 0) >= header["step"]:
        return path
    model = checkpoints.load(state)
    if sum(p.numel() * p.element_size() for p in model.parameters()) > LARGEST - (1 << 16):
        model = model.half()
    known = ("recipe", "role", "precision", "micro_batch", "shape", "model")
    facts = {key: value for key, value in header.items() if key not in known}
    rate = getattr(model.header.recipe, role).ema
    checkpoints.save(path, model, model.header.recipe, model.header.shape, **facts, average=rate)
    print(f"{path}: the average after step {header['step']}", flush=True)
    return path


def settle(run: Path) -> None:
    """Weights of what a step that was killed has left: a state alone."""
    for role in ("teacher", "student"):
        if (run / f"{role}.state.safetensors").is_file():
            keep(run, role)


def end_with_parent() -> None:
    """Stop as on SIGTERM when the process that started this one is gone: nobody would do it at the limit."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """One step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("teacher", "student", "look", "full"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the day")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", help="a folder or zip of training images; by default CIFAR-10")
    parser.add_argument("--test-data", type=Path, help="held-out images")
    parser.add_argument(
        "--weights",
        type=Path,
        help="folder with teacher.safetensors and student.safetensors to continue from",
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="time for the step")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--tiny", action="store_true", help="just a few tiny steps")
    given = parser.parse_args()
    end_with_parent()
    {"look": look, "full": full}.get(given.step, lambda given: train(given.step, given))(given)


if __name__ == "__main__":
    main()
