"""Chapter 16: `python scripts/studies/video.py`. Writes `results/video.json` and `results/points3d.json`.

Clips of moving digits, distilled as clips and frame by frame, from teachers of the same size and with the same number of network
evaluations; and clouds of points. An evaluation is one call for one item, a clip or a frame: both networks cost nearly the same, as the
frames of a clip are channels of its first and last layer only. A student's training costs 6 evaluations an item (Heun). Some fifteen
minutes on one core. What is finished is in the record; started again, the study goes on from there.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu.course.measures.points import measure as measure_clouds
from cdedu.course.measures.video import ClipRuler
from cdedu.data import Dataset, load_data, video
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import distill
from scripts.studies.bench import Bench, arguments, noise, spreads, trained
from scripts.weights.ship import ship

RECORDS = {"clips": "video", "frames": "video", "points": "points3d"}
PLANS = {
    "video": {"steps": 800, "batch": 64, "seeds": 3, "n": 600},
    "points3d": {"steps": 800, "batch": 64, "seeds": 5, "n": 150},
}
STEPS = {"one": 1, "two": 2, "four": 4}
Measure = Callable[[Tensor], dict[str, float]]


def recipe_of(kind: str, plan: dict[str, int]) -> Recipe:
    """The recipe of one kind, with the plan's training of the student."""
    recipe = get_recipe(kind)
    return replace(recipe, student=replace(recipe.student, steps=plan["steps"], batch=plan["batch"]))


def walks(teacher: Any, recipe: Recipe, shape: tuple[int, ...], measure: Measure) -> dict[str, Any]:
    """A teacher at 35 evaluations and at as few as its students: DDIM with 1, 2 and 4, Heun with 5."""
    z = noise(recipe, shape, 100)
    out = {f"heun_{2 * n - 1}": measure(cdedu.sample_heun(teacher, z, recipe.sigmas(n))) for n in (18, 3)}
    with torch.no_grad():
        out["ddim_1"] = measure(teacher(z, 80.0))
    for n in (2, 4):
        out[f"ddim_{n}"] = measure(cdedu.sample_euler(teacher, z, recipe.sigmas(n)))
    return out


def student(
    recipe: Recipe, row: str, wrap: Callable[[nn.Module], Any], data: Dataset, shape: tuple[int, ...], measure: Measure, _: str, seed: int
) -> dict[str, Any]:  # fmt: skip
    """One distillation, measured with 1, 2 and 4 steps; ``wrap`` makes a sampler's denoiser of the student.

    The student of seed 0 comes with the course, in half precision.
    """
    teacher = cdedu.load(f"{recipe.name}-teacher")
    state, seconds = trained(distill(replace(recipe, seed=seed), teacher, data), f"{recipe.name}/{seed}")
    if not seed:
        ship(f"{recipe.name}-student", state.result, recipe, data.train.shape[1:], half=True, step=state.step)
    found = {}
    for name, steps in STEPS.items():
        g = torch.Generator().manual_seed(100)
        z = noise(recipe, shape, g)
        found[name] = measure(
            cdedu.sample_consistency(wrap(state.result), z, recipe.student_sigmas(steps), g)
        )
    return {"cpu_seconds": round(seconds, 1), row: found}


def students(study: Bench, arm: str, seeds: int, row: str, one: Callable[[str, int], Any]) -> None:
    """The students of all seeds, and their summary."""
    for _, runs in study.arms([arm], seeds, one):
        found = {"seeds": len(runs), **spreads(runs)}
        study.metrics[arm] = found | found.pop(row)


def study_video(study: Bench, plan: dict[str, int], kind: str) -> None:
    """Clips as ``clips``, or by their ``frames``."""
    data = video.moving_digits()
    ruler, shape = ClipRuler(data), (plan["n"], *data.test.shape[1:])
    recipe = recipe_of(kind, plan)
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(plan["n"] * shape[1], generator=g)
    fixed: dict[str, Callable[[], dict[str, float]]] = {
        "floor": lambda: ruler.measure(
            data.train[8 * torch.arange(600) + torch.randint(8, (600,), generator=g)]
        ),
        "shuffled": lambda: ruler.measure(video.as_frames(data.test)[order].reshape(shape)),
        "still": lambda: ruler.measure(data.test[:, :1].expand(shape)),
    }
    study.metrics.update(plan | {name: study.run(name, make) for name, make in fixed.items()})
    items, wrap = (data, lambda model: model) if kind == "clips" else (video.single_frames(data), video.FrameByFrame)  # fmt: skip
    if kind == "clips":
        walked = partial(walks, cdedu.load("clips-teacher"), recipe, shape, ruler.measure)
        study.metrics["teacher"] = study.run("teacher", walked)
    one = partial(student, recipe, kind, wrap, items, shape, ruler.measure)
    students(study, kind, plan["seeds"], kind, one)


def study_points(study: Bench, plan: dict[str, int]) -> None:
    """Clouds as sets."""
    recipe = recipe_of("points", plan)
    data, metrics = load_data(recipe.data), study.metrics
    real, shape = data.test[: plan["n"]], (plan["n"], *data.test.shape[1:])
    measure = partial(measure_clouds, real=real)
    order = torch.randperm(plan["n"] * shape[1], generator=torch.Generator().manual_seed(0))
    metrics.update(plan)
    metrics["floor"] = study.run("floor", lambda: measure(data.train[: plan["n"]]))
    mixed = data.train[: plan["n"]].reshape(-1, 3)[order].reshape(shape)
    metrics["shuffled"] = study.run("shuffled", lambda: measure(mixed))
    walked = partial(walks, cdedu.load("points-teacher"), recipe, shape, measure)
    metrics["teacher"] = study.run("teacher", walked)
    one = partial(student, recipe, "cloud", lambda model: model, data, shape, measure)
    students(study, "student", plan["seeds"], "cloud", one)


def main() -> None:
    """All studies, or those named; clips and frames go into one record."""
    asked = arguments(__doc__, RECORDS)
    studies: dict[str, Bench] = {}
    for kind in asked.parts:
        name = RECORDS[kind]
        if name not in studies:
            words = "points" if kind == "points" else "clips frames"
            studies[name] = Bench(name, __file__, asked, words, settings=PLANS[name])
        if kind == "points":
            study_points(studies[name], PLANS[name])
        else:
            study_video(studies[name], PLANS[name], kind)


if __name__ == "__main__":
    main()
