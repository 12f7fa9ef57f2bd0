"""Speed, measured side by side: `make bench`. Writes `results/bench.json`.

Each ratio compares two calls that take turns in one process, so that a busy machine slows both. Nothing here passes or fails.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm

from cdedu import checkpoints
from cdedu.comparison import speed
from cdedu.data import load_data
from cdedu.recipes import get_recipe
from cdedu.records import write_record
from cdedu.training import State, distill, train_teacher


def import_seconds(statement: str) -> float:
    """Seconds that a fresh interpreter takes for an import, after `import torch`."""
    code = f"import torch, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def steps_per_second(states: Callable[[], Any], steps: int) -> float:
    """Training speed over ``steps`` steps, after three that are not counted."""
    start, counted = 0.0, 0
    for state in states():
        assert isinstance(state, State)
        if state.step == 3:
            start = time.perf_counter()
        counted = state.step - 3
        if counted == steps:
            break
    return counted / (time.perf_counter() - start)


def main() -> None:
    """Measure, print, record."""
    start = time.perf_counter()
    metrics: dict[str, Any] = {
        "import_seconds": statistics.median(import_seconds("import cdedu") for _ in range(5))
    }
    for name in tqdm(["toy", "digits"], desc="bench"):
        recipe, data = get_recipe(name), load_data(get_recipe(name).data)
        teacher, student = checkpoints.load(f"{name}-teacher"), checkpoints.load(f"{name}-student")
        shape = tuple(data.train.shape[1:])
        metrics[name] = {
            f"batch_{batch}": speed(recipe, teacher, student, shape, torch.device("cpu"), batch)
            for batch in (1, 256)
        }
        metrics[name]["teacher_steps_per_second"] = steps_per_second(
            lambda r=recipe, d=data: train_teacher(r, d), 30
        )
        metrics[name]["student_steps_per_second"] = steps_per_second(
            lambda r=recipe, t=teacher, d=data: distill(r, t, d), 30
        )
    write_record(
        "results/bench.json",
        metrics=metrics,
        command="make bench",
        seed=0,
        seconds=time.perf_counter() - start,
    )
    for name in ("toy", "digits"):
        for batch in (1, 256):
            row = metrics[name][f"batch_{batch}"]
            print(
                f"{name:8} batch {batch:3}: teacher, 35 evaluations {1e3 * row['teacher_seconds']:9.2f} ms   "
                f"student, 1 evaluation {1e3 * row['student_seconds']:8.2f} ms   ratio {row['ratio']:.1f}"
            )
        print(
            f"{name:8} training: teacher {metrics[name]['teacher_steps_per_second']:.1f} steps/s, "
            f"student {metrics[name]['student_steps_per_second']:.1f} steps/s"
        )
    print(f"import cdedu, beyond torch: {metrics['import_seconds']:.3f} s")


if __name__ == "__main__":
    main()
