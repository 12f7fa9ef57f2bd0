"""Chapter 5: `python scripts/studies/scratch_or_teacher.py`. Writes `results/scratch-or-teacher.json`.

Consistency distillation from the teacher that comes with the course, and consistency training from random weights, at equal
network evaluations: per image 6 (teacher 2, target 1, student 3) and 4 (target 1, student 3). Then one long run of consistency
training on the moons, with twice as many evaluations as teacher and student of the course took together. Takes about twenty-five minutes
on one core. Finished runs are in the record; if restarted, the study continues from there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import cdedu
from cdedu.evaluation import spread
from cdedu.evaluation.protocol import Protocol
from cdedu.recipes import Recipe, get_recipe
from cdedu.teacher import Teacher
from cdedu.training import State, distill, train_consistency
from scripts.studies.bench import Bench, Measure, arguments, bought, noise, protocols

PROTOCOL = "brief"
COST = {"cd": 6, "ct": 4, "ct_huber": 4}
"""Evaluations an image; ``ct_huber`` is consistency training with the loss of iCT."""


@dataclass(frozen=True)
class Task:
    """One data set: the budgets, in evaluations of the student's training, and what each method was tuned to."""

    recipe: Recipe
    budgets: tuple[int, ...]
    seeds: int
    tuned: dict[str, dict[str, Any]]
    """What differs from the recipe's student stage, for each method."""
    long: tuple[dict[str, Any], ...] = ()
    """The halves of a long run of consistency training, if there is one: what differs from the recipe in each."""

    def budgets_of(self, method: str) -> tuple[int, ...]:
        """In pilot runs the loss of iCT was the better one with the largest budget, and the worse one with small ones."""
        if "ct_huber" not in self.tuned or method == "cd":
            return self.budgets
        return self.budgets[-2:] if method == "ct_huber" else self.budgets[:-1]

    def recipe_of(self, method: str, budget: int, seed: int) -> Recipe:
        """The recipe that uses up the budget."""
        return bought(self.recipe, budget, COST[method], seed, **self.tuned[method])


def first(measure: Measure, model: nn.Module, _: float) -> list[float]:
    """The first metric of a student with one step and with two."""
    return [row[measure.ruler.first] for row in measure.student(model, (1, 2)).values()]


def runs(task: Task, measure: Measure, teacher: Teacher, study: Bench) -> Iterator[None]:
    """Train what is not in the record, and yield after each run."""
    name, value = task.recipe.name, partial(first, measure)
    for seed in range(task.seeds):
        recipes = {b: task.recipe_of("cd", b, seed) for b in task.budgets}
        # Distillation has no schedule, so the shorter runs are the beginnings of the longest one.
        stops = {recipe.student.steps: f"{name}/cd/{seed}/{b}" for b, recipe in recipes.items()}
        study.along(stops, partial(distill, recipes[max(recipes)], teacher, measure.data), value)
        yield
        for method, b in ((m, b) for m in task.tuned if m != "cd" for b in task.budgets_of(m)):
            recipe = task.recipe_of(method, b, seed)
            stop = {recipe.student.steps: f"{name}/{method}/{seed}/{b}"}
            study.along(stop, partial(train_consistency, recipe, measure.data), value)
            yield


def long_run(task: Task, measure: Measure, study: Bench) -> dict[str, Any]:
    """Consistency training with twice the bill of the course's teacher and student, beside that student.

    Half of the evaluations go to the schedule of the grid at a high learning rate, half to its last grid at a low one; each half is
    measured in its middle and at its end.
    """
    recipe, name = task.recipe, task.recipe.name
    stages = recipe.teacher, recipe.student
    half = sum(cost * stage.batch * stage.steps for cost, stage in zip((3, COST["cd"]), stages, strict=True))
    out: dict[str, Any] = {"recipe": [], "evaluations": [], "ct": []}
    keys, start = iter(range(1, 2 * len(task.long) + 1)), None
    for part, changes in enumerate(task.long):
        own = bought(recipe, half, COST["ct"], part, **changes)
        steps = own.student.steps
        stops = {steps // 2: f"{name}/long/{next(keys)}", steps: f"{name}/long/{next(keys)}"}
        fixed = {"schedule": lambda k, steps, s0, s1: s1 + 1} if part else {}
        last = Path("runs/scratch-or-teacher") / f"{name}-long-{part}.safetensors"

        def train(
            own: Recipe = own, start: Any = start, fixed: Any = fixed, last: Path = last
        ) -> Iterator[State]:
            for state in train_consistency(own, measure.data, start=start, **fixed):
                if state.step == state.steps:
                    cdedu.save(last, state.result, own, measure.data.train.shape[1:])
                yield state

        study.along(stops, train, partial(first, measure))
        start = cdedu.load(last) if last.is_file() else None
        out["recipe"].append({"steps": steps, **changes})
        before = out["evaluations"][-1] if part else 0
        out["evaluations"] += [before + COST["ct"] * own.student.batch * step for step in stops]
        out["ct"] += [study.runs[key] for key in stops.values()]
    course = cdedu.load(f"{name}-student")
    out["course"] = study.run(f"{name}/course", partial(first, measure, course, 0.0))
    out["course_evaluations"] = half

    def samples() -> dict[str, Any]:
        """By model and number of steps, the coordinates of a thousand."""
        z, out = noise(recipe, (1000, *measure.ruler.shape), 100), {}
        for who, model in (("ct", start), ("cd", course)):
            x = {k: cdedu.sample_consistency(model, z, recipe.student_sigmas(k)) for k in (1, 2)}
            out[who] = {str(k): [[round(v, 3) for v in c] for c in v.T.tolist()] for k, v in x.items()}
        return out

    study.run(f"{name}/samples", samples)
    return out


def summary(task: Task, done: dict[str, Any], protocol: Protocol, fixed: dict[str, float]) -> dict[str, Any]:
    """Medians and ranges over seeds of what is finished, a list in the order of the budgets."""
    out: dict[str, Any] = {"seeds": task.seeds, "draws": protocol.draws, "n": protocol.n, **fixed}
    out["teacher_evaluations"] = 3 * task.recipe.teacher.batch * task.recipe.teacher.steps
    out["budgets"], out["tuned"] = list(task.budgets), task.tuned
    for method in task.tuned:
        for i in (0, 1):
            rows = out[f"{method}_{i + 1}"] = []
            for b in task.budgets_of(method):
                keys = [f"{task.recipe.name}/{method}/{seed}/{b}" for seed in range(task.seeds)]
                values = [done[key][i] for key in keys if key in done]
                rows.append(spread(values) if values else None)
    return out


TASKS = [
    Task(
        get_recipe("toy"),
        budgets=(576_000, 1_152_000, 2_304_000, 4_608_000),
        seeds=5,
        tuned={
            "cd": {"batch": 256, "lr": 2e-3},
            "ct": {"batch": 256, "lr": 2e-3, "points": 151},
            "ct_huber": {
                "batch": 512,
                "lr": 1e-3,
                "points": 151,
                "distance": "pseudo_huber",
                "index": "lognormal",
            },
        },
        long=(
            {"batch": 512, "lr": 2e-3, "points": 81, "distance": "pseudo_huber", "index": "lognormal"},
            {"batch": 1024, "lr": 3e-4, "points": 151, "distance": "pseudo_huber", "index": "lognormal"},
        ),
    ),
    Task(
        get_recipe("digits"),
        budgets=(76_800,),
        seeds=3,
        tuned={"cd": {"batch": 64, "lr": 6e-4}, "ct": {"batch": 64, "lr": 2e-3, "points": 41}},
    ),
]


def main() -> None:
    """All data sets, or those named."""
    tasks = {task.recipe.name: task for task in TASKS}
    asked = arguments(__doc__, tasks)
    recipe = {"name": ", ".join(asked.parts)} | {name: t.recipe.to_dict() for name, t in tasks.items()}
    protocol = protocols(tasks, PROTOCOL)
    study = Bench("scratch-or-teacher", __file__, asked, recipe=recipe, protocol=protocol)
    for name in asked.parts:
        task, known = tasks[name], study.metrics.get(name)
        if known and known["tuned"] != task.tuned:
            raise SystemExit(f"{study.path} holds {name} with other settings; start with --afresh")
        measure, teacher = Measure(task.recipe, protocol=PROTOCOL), cdedu.load(f"{name}-teacher")
        grid = task.recipe.sigmas(18)
        walked = measure.sampler(lambda x, g: cdedu.sample_heun(teacher, x, grid))  # noqa: B023
        rows = {"floor": measure.floor(), "teacher": walked}
        fixed = {key: row[measure.ruler.first] for key, row in rows.items()}
        for _ in runs(task, measure, teacher, study):
            study.write(
                study.metrics
                | {name: study.metrics.get(name, {}) | summary(task, study.runs, measure.protocol, fixed)}
            )
        if task.long:
            study.metrics[name]["long"] = long_run(task, measure, study)
            study.write(study.metrics)


if __name__ == "__main__":
    main()
