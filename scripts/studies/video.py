"""Chapter 16: `python scripts/studies/video.py`. Writes `results/video.json` and `results/points3d.json`.

Clips of moving digits, distilled in three ways: as clips, by a network for pictures with layers for time (`clips`); frame by frame
(`frames`); and with the frames as channels of one picture (`channels`, whose teacher is trained here). And clouds of points. A student's
training costs 6 evaluations an item (Heun); an evaluation of the first two is a call for each frame, of the third a call for a clip, and
such a call costs nearly the same; `clips` have half the budget of the others. A quarter of an hour on one core, and seven minutes more for the teacher
of channels. Finished runs are in the record; if restarted, the study continues from there.
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
from cdedu.training import distill, train_teacher
from scripts.studies.bench import Bench, arguments, noise, spreads, trained
from scripts.weights.ship import ship

RECORDS = {"clips": "video", "frames": "video", "channels": "video", "points": "points3d"}
PLANS: dict[str, Any] = {
    "video": {"n": 600, "seeds": {"clips": 1, "frames": 3, "channels": 3}},
    "points3d": {"steps": 800, "batch": 64, "seeds": 5, "n": 150},
}
STEPS = {"one": 1, "two": 2, "four": 4}
Measure = Callable[[Tensor], dict[str, float]]


def walks(teacher: Any, recipe: Recipe, shape: tuple[int, ...], measure: Measure) -> dict[str, Any]:
    """A teacher at 35 evaluations and at as few as its students: DDIM with 1, 2 and 4, Heun with 5; of clips, which take longest, Heun
    with 35 and DDIM with 4."""
    z, brief = noise(recipe, shape, 100), recipe.network.kind == "video"
    heun, ddim = ((18,), (4,)) if brief else ((18, 3), (2, 4))
    out = {f"heun_{2 * n - 1}": measure(cdedu.sample_heun(teacher, z, recipe.sigmas(n))) for n in heun}
    if not brief:
        with torch.no_grad():
            out["ddim_1"] = measure(teacher(z, 80.0))
    return out | {f"ddim_{n}": measure(cdedu.sample_euler(teacher, z, recipe.sigmas(n))) for n in ddim}


def student(
    recipe: Recipe, teacher: Any, row: str, wrap: Callable[[nn.Module], Any], data: Dataset, shape: tuple[int, ...], measure: Measure, _: str, seed: int
) -> dict[str, Any]:  # fmt: skip
    """One distillation, measured with 1, 2 and 4 steps; ``wrap`` makes a sampler's denoiser of the student.

    The student of seed 0 comes with the course, in half precision, where the teacher does.
    """
    state, seconds = trained(distill(replace(recipe, seed=seed), teacher, data), f"{recipe.name}/{seed}")
    if not seed and hasattr(teacher, "header"):
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


def broken(data: Dataset) -> dict[str, Callable[[], Tensor]]:
    """Clips whose faults are known, as a scale: real ones of the training part, and held-out ones with noise on the pixels, shuffled
    and stopped."""
    g = torch.Generator().manual_seed(0)
    order, shape = torch.randperm(data.test.shape[0] * data.test.shape[1], generator=g), data.test.shape
    part = torch.randint(8, (len(data.test),), generator=g)
    pixels = torch.randn(shape, generator=g)
    return {
        "floor": lambda: data.train[8 * torch.arange(len(data.test)) + part],
        "noisy_1": lambda: data.test + 0.1 * pixels,
        "noisy_3": lambda: data.test + 0.3 * pixels,
        "shuffled": lambda: video.as_frames(data.test)[order].reshape(shape),
        "still": lambda: data.test[:, :1].expand(shape),
    }


def study_video(study: Bench, plan: dict[str, Any], kind: str) -> None:
    """Clips as ``clips``, by their ``frames``, or with the frames as ``channels``."""
    data, recipe = video.moving_digits(), get_recipe(kind)
    ruler, shape = ClipRuler(data), (plan["n"], *data.test.shape[1:])
    for name, make in broken(data).items():
        study.metrics[name] = study.run(name, lambda make=make: ruler.measure(make()))
    items, wrap = (video.single_frames(data), video.FrameByFrame) if kind == "frames" else (data, lambda model: model)  # fmt: skip
    keys = [f"{kind}/{seed}" for seed in range(plan["seeds"][kind])]
    if all(key in study.runs for key in keys):
        teacher: Any = None  # nothing is left to do with it
    elif kind == "channels":
        teacher = trained(train_teacher(recipe, data), kind)[0].result
    else:
        teacher = cdedu.load(f"{kind}-teacher")
    if kind != "frames":
        found = study.run(f"teacher/{kind}", partial(walks, teacher, recipe, shape, ruler.measure))
        study.metrics.setdefault("teacher", {})[kind] = found
    one = partial(student, recipe, teacher, kind, wrap, items, shape, ruler.measure)
    students(study, kind, plan["seeds"][kind], kind, one)
    study.metrics[kind] |= {"steps": recipe.student.steps, "batch": recipe.student.batch}
    if kind == "clips":
        study.metrics[kind]["teacher_cpu_seconds"] = cdedu.load("clips-teacher").header.facts["cpu_seconds"]
    study.write(study.metrics)


def study_points(study: Bench, plan: dict[str, int]) -> None:
    """Clouds as sets."""
    recipe = get_recipe("points")
    recipe = replace(recipe, student=replace(recipe.student, steps=plan["steps"], batch=plan["batch"]))
    data, metrics = load_data(recipe.data), study.metrics
    real, shape = data.test[: plan["n"]], (plan["n"], *data.test.shape[1:])
    measure = partial(measure_clouds, real=real)
    order = torch.randperm(plan["n"] * shape[1], generator=torch.Generator().manual_seed(0))
    metrics.update(plan)
    metrics["floor"] = study.run("floor", lambda: measure(data.train[: plan["n"]]))
    mixed = data.train[: plan["n"]].reshape(-1, 3)[order].reshape(shape)
    metrics["shuffled"] = study.run("shuffled", lambda: measure(mixed))
    teacher = cdedu.load("points-teacher")
    metrics["teacher"] = study.run("teacher", partial(walks, teacher, recipe, shape, measure))
    one = partial(student, recipe, teacher, "cloud", lambda model: model, data, shape, measure)
    students(study, "student", plan["seeds"], "cloud", one)


def main() -> None:
    """All studies, or those named; clips and frames go into one record."""
    asked = arguments(__doc__, RECORDS)
    studies: dict[str, Bench] = {}
    for kind in asked.parts:
        name = RECORDS[kind]
        if name not in studies:
            words = "points" if kind == "points" else "clips frames channels"
            studies[name] = Bench(name, __file__, asked, words, settings=PLANS[name])
        if kind == "points":
            study_points(studies[name], PLANS[name])
        else:
            study_video(studies[name], PLANS[name], kind)


if __name__ == "__main__":
    main()
