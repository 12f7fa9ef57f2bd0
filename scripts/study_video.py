"""Chapter 16: `python scripts/study_video.py`. Writes `results/video.json` and `results/points3d.json`.

Clips of moving digits, distilled as clips and frame by frame, from teachers of the same size and with the same number of network
evaluations; and clouds of points. An evaluation is one call for one item, a clip or a frame: both networks cost nearly the same, as the
frames of a clip are channels of its first and last layer only. A student's training costs 6 evaluations an item (Heun). Some fifteen
minutes on one core. What is finished is in the record; started again, the study goes on from there.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu import records
from cdedu.checkpoints import WEIGHTS
from cdedu.data import Dataset, points, video
from cdedu.evaluation import spread
from cdedu.training import distill

PATHS = {"video": Path("results/video.json"), "points": Path("results/points3d.json")}
PLANS = {
    "video": {"steps": 800, "batch": 64, "seeds": 3, "n": 600},
    "points": {"steps": 800, "batch": 64, "seeds": 5, "n": 150},
}
STEPS = {"one": 1, "two": 2, "four": 4}
Measure = Callable[[Tensor], dict[str, float]]


def noise(shape: tuple[int, ...]) -> tuple[Tensor, torch.Generator]:
    """The same for everybody."""
    g = torch.Generator().manual_seed(100)
    return 80 * torch.randn(shape, generator=g), g


def walks(teacher: Any, recipe: Any, shape: tuple[int, ...], measure: Measure) -> dict[str, Any]:
    """A teacher at 35 evaluations and at as few as its students: DDIM with 1, 2 and 4, Heun with 5."""
    z, _ = noise(shape)
    out = {"heun_35": measure(cdedu.sample_heun(teacher, z, recipe.sigmas(18)))}
    out["heun_5"] = measure(cdedu.sample_heun(teacher, z, recipe.sigmas(3)))
    with torch.no_grad():
        out["ddim_1"] = measure(teacher(z, 80.0))
    for n in (2, 4):
        out[f"ddim_{n}"] = measure(cdedu.sample_euler(teacher, z, recipe.sigmas(n)))
    return out


def student(
    seed: int, recipe: Any, teacher: nn.Module, data: Dataset, shape: tuple[int, ...], keep: str, measures: dict[str, tuple[Callable[[nn.Module], Any], Measure]]
) -> dict[str, Any]:  # fmt: skip
    """One distillation, measured with 1, 2 and 4 steps; ``measures`` has for each row what makes a sampler's denoiser of the student.

    The student of seed 0 comes with the course under the name ``keep``, in half precision.
    """
    start = time.process_time()
    for state in distill(replace(recipe, seed=seed), teacher, data):
        pass
    if not seed:
        small = copy.deepcopy(state.result).half()
        cdedu.save(WEIGHTS / f"{keep}.safetensors", small, recipe, data.train.shape[1:], step=state.step)
    out: dict[str, Any] = {"cpu_seconds": round(time.process_time() - start, 1)}
    for row, (wrap, measure) in measures.items():
        for name, steps in STEPS.items():
            z, g = noise(shape)
            out.setdefault(row, {})[name] = measure(cdedu.sample_consistency(wrap(state.result), z, recipe.student_sigmas(steps), g))  # fmt: skip
    return out


def summary(runs: list[dict[str, Any]], rows: list[str]) -> dict[str, Any]:
    """Median, least and greatest over seeds."""
    out: dict[str, Any] = {"seeds": len(runs), "cpu_seconds": spread([run["cpu_seconds"] for run in runs])}
    for row in rows:
        out[row] = {name: {key: spread([run[row][name][key] for run in runs]) for key in runs[0][row][name]} for name in STEPS}  # fmt: skip
    return out


def study_video(study: records.Study, plan: dict[str, int], kind: str) -> None:
    """Clips as ``clips``, or by their ``frames``."""
    data = video.moving_digits()
    ruler, shape = video.ClipRuler(data), (plan["n"], *data.test.shape[1:])
    stage = replace(video.RECIPE.student, steps=plan["steps"], batch=plan["batch"])
    recipe = replace(video.RECIPE, student=stage)
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(plan["n"] * shape[1], generator=g)
    fixed: dict[str, Callable[[], dict[str, float]]] = {
        "floor": lambda: ruler.measure(
            data.train[8 * torch.arange(600) + torch.randint(8, (600,), generator=g)]
        ),
        "shuffled": lambda: ruler.measure(video.as_frames(data.test)[order].reshape(shape)),
        "still": lambda: ruler.measure(data.test[:, :1].expand(shape)),
    }
    metrics = study.metrics
    metrics.update(plan | {name: study.run(name, make) for name, make in fixed.items()})
    items, wrap = (data, lambda model: model) if kind == "clips" else (video.single_frames(data), video.FrameByFrame)  # fmt: skip
    teacher, measures = cdedu.load(f"{kind}-teacher"), {kind: (wrap, ruler.measure)}
    if kind == "clips":
        metrics["teacher"] = study.run("teacher", partial(walks, teacher, recipe, shape, ruler.measure))
    for seed in range(plan["seeds"]):
        study.run(f"{kind}/{seed}", partial(student, seed, recipe, teacher, items, shape, f"{kind}-student", measures))  # fmt: skip
        done = [study.runs[key] for s in range(plan["seeds"]) if (key := f"{kind}/{s}") in study.runs]
        found = summary(done, [kind])
        metrics[kind] = found | found.pop(kind)
        study.write(metrics)
        print(kind, seed, {k: {m: round(v, 2) for m, v in row.items()} for k, row in done[-1][kind].items()}, flush=True)  # fmt: skip


def study_points(study: records.Study, plan: dict[str, int]) -> None:
    """Clouds as sets."""
    data, teacher = points.clouds(), points.load_points("points-teacher")
    real, shape = data.test[: plan["n"]], (plan["n"], *data.test.shape[1:])
    measure = partial(points.measure, real=real)
    stage = replace(points.RECIPE.student, steps=plan["steps"], batch=plan["batch"])
    recipe = replace(points.RECIPE, student=stage)
    order = torch.randperm(plan["n"] * shape[1], generator=torch.Generator().manual_seed(0))
    metrics = study.metrics
    metrics.update(plan)
    metrics["floor"] = study.run("floor", lambda: measure(data.train[: plan["n"]]))
    mixed = data.train[: plan["n"]].reshape(-1, 3)[order].reshape(shape)
    metrics["shuffled"] = study.run("shuffled", lambda: measure(mixed))
    metrics["teacher"] = study.run("teacher", partial(walks, teacher, recipe, shape, measure))
    for seed in range(plan["seeds"]):
        rows = {"cloud": (lambda model: model, measure)}
        study.run(
            f"student/{seed}", partial(student, seed, recipe, teacher, data, shape, "points-student", rows)
        )
        done = [study.runs[key] for s in range(plan["seeds"]) if (key := f"student/{s}") in study.runs]
        found = summary(done, ["cloud"])
        metrics["student"] = found | found.pop("cloud")
        study.write(metrics)
        print("points", seed, {k: {m: round(v, 3) for m, v in row.items()} for k, row in done[-1]["cloud"].items()}, flush=True)  # fmt: skip


def main() -> None:
    """All studies, or those named; clips and frames go into one record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "which", nargs="*", default=["clips", "frames", "points"], help="clips, frames, points"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in arguments.which:
        name = "points" if kind == "points" else "video"
        words = "points" if name == "points" else "clips frames"
        study = records.Study(PATHS[name], f"python scripts/study_video.py {words}", settings=PLANS[name])
        if name == "points":
            study_points(study, PLANS[name])
        else:
            study_video(study, PLANS[name], kind)


if __name__ == "__main__":
    main()
