"""Chapter 9: `python scripts/studies/noise_scales.py`. Writes `results/noise-scales.json`.

Five ways to a consistency student at equal network evaluations: CD, ECT and sCD from one teacher, iCT and sCT from random
weights. An image costs 6 with CD (teacher's Heun step 2, target 1, student 3), 4 with ECT and iCT (target 1, student 3), 7 with
sCD (teacher 1, value and derivative 3, student 3), 6 with sCT; 3 for the derivative is what PyTorch's FLOP counter finds. The
teacher is the course's, with the angle of TrigFlow as its time, trained on until it is used to that; this is charged to nobody.
Finished runs are in the record; if restarted, the study continues from there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import cdedu
from cdedu.evaluation import spread
from cdedu.noise import LogNormal, improved_curriculum
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import State, distill, train_consistency, train_teacher
from scripts.studies.bench import Bench, Measure, arguments, bought, protocols

COST = {"cd": 6, "ect": 4, "ict": 4, "scd": 7, "sct": 6} | dict.fromkeys(
    ("ct", "ct_mu", "ct_huber", "ct_levels"), 4
)
"""Evaluations an image. From ``ct``, the first paper's consistency training, to ``ict`` one change is added at a time."""
STEPS = (1, 2, 4)
SEEDS = 5
PROTOCOL = "brief"
ICT = {"distance": "pseudo_huber", "weight": "inverse_gap", "index": "lognormal"}
CT = {"batch": 256, "lr": 2e-3, "points": 41}
CONTINUOUS = {"method": "continuous", "log_sigma": LogNormal(-1.0, 1.4)}


@dataclass(frozen=True)
class Task:
    """One data set: the budgets in evaluations of the student's training, and what each method was tuned to."""

    recipe: Recipe
    refit: int
    """Steps in which the teacher gets used to the angle."""
    budgets: tuple[int, ...]
    tuned: dict[str, dict[str, Any]]
    """What differs from the recipe's student stage, for each method."""

    def recipe_of(self, method: str, budget: int, seed: int) -> Recipe:
        """The recipe that uses up the budget."""
        return bought(self.recipe, budget, COST[method], seed, **self.tuned[method])


class Table(Measure):
    """The data, the teacher, and what is measured of a student."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.recipe, protocol=PROTOCOL)
        self.task, self.teacher = task, self._teacher(task.refit)

    def _teacher(self, refit: int) -> nn.Module:
        path = Path("runs/noise-scales") / f"{self.recipe.name}-teacher.safetensors"
        if not path.is_file():
            stage = replace(self.recipe.teacher, steps=refit, batch=64, lr=1e-3, ema=0.995)
            start = cdedu.load(f"{self.recipe.name}-teacher")
            *_, state = train_teacher(replace(self.recipe, teacher=stage), self.data, start=start)
            cdedu.save(path, state.result, self.recipe, self.data.train.shape[1:])
        return cdedu.load(path)

    def row(self, model: nn.Module, seconds: float) -> dict[str, Any]:
        """A student with one step, two and four."""
        return {**self.student(model, STEPS), "cpu_seconds": round(seconds, 1)}

    def fixed(self) -> dict[str, Any]:
        """The teachers and the course's student, and real against real at the same size."""
        grid, student = self.recipe.sigmas(18), cdedu.load(f"{self.recipe.name}-student")
        teachers = {"teacher": self.teacher, "course_teacher": cdedu.load(f"{self.recipe.name}-teacher")}
        return {"floor": self.floor(), "course_student": self.student(student, STEPS)} | {
            name: self.sampler(lambda x, g, t=t: cdedu.sample_heun(t, x, grid))
            for name, t in teachers.items()
        }

    def train(self, method: str, recipe: Recipe) -> Iterator[State]:
        """A training run of one of the methods."""
        if method == "ict":
            return train_consistency(recipe, self.data, s0=10, schedule=improved_curriculum)
        if method.startswith("ct") or method == "sct":
            return train_consistency(recipe, self.data)
        return distill(recipe, self.teacher, self.data)


def run(task: Task, table: Table, study: Bench, method: str, seed: int) -> None:
    """The runs of one method and seed. Without a schedule the run of a smaller budget is the beginning of that of the largest."""
    budgets = task.budgets[-1:] if method.startswith("ct") else task.budgets
    for stops in [(b,) for b in budgets] if method == "ict" else [budgets]:
        recipes = {b: task.recipe_of(method, b, seed) for b in stops}
        keys = {r.student.steps: f"{task.recipe.name}/{method}/{seed}/{b}" for b, r in recipes.items()}
        study.along(keys, partial(table.train, method, recipes[stops[-1]]), table.row)


def summary(task: Task, runs: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Medians and ranges over seeds of what is finished: method → steps → metric → a list in the order of the budgets."""
    out: dict[str, Any] = {"seeds": SEEDS, "budgets": list(task.budgets), **fixed}
    out |= {"cost": COST, "refit": task.refit, "students": {}, "cpu_seconds": {}}
    for method in task.tuned:
        keys = [[f"{task.recipe.name}/{method}/{s}/{b}" for s in range(SEEDS)] for b in task.budgets]
        every = [[runs[key] for key in row if key in runs] for row in keys]
        rows = [row for row in every if row]
        out["students"][method] = {
            str(k): {key: [spread([r[str(k)][key] for r in row]) for row in rows] for key in fixed["floor"]}
            for k in STEPS
        }
        out["cpu_seconds"][method] = [spread([r["cpu_seconds"] for r in row]) for row in rows]
    return out


TASKS = [
    Task(
        replace(get_recipe("toy"), angle=True, noise_scale=1.0),
        refit=4000,
        budgets=(645_120, 1_935_360),
        tuned={
            "cd": {"batch": 256, "lr": 2e-3},
            "ect": {"method": "easy", "batch": 256, "lr": 1e-3},
            "ict": {**CT, **ICT},
            "ct": {**CT, "target_rate": 0.9, "distance": "l2", "weight": "uniform"},
            "ct_mu": {**CT, "distance": "l2", "weight": "uniform"},
            "ct_huber": {**CT, "distance": "pseudo_huber", "weight": "uniform"},
            "ct_levels": {**CT, **ICT},
            "scd": {"batch": 256, "lr": 5e-4, "tangent_warmup": 100, **CONTINUOUS},
            "sct": {"batch": 256, "lr": 1e-3, "tangent_warmup": 300, **CONTINUOUS},
        },
    ),
    Task(
        replace(get_recipe("digits"), angle=True, noise_scale=10.0),
        refit=800,
        budgets=(80_640,),
        tuned={
            "cd": {"batch": 64, "lr": 6e-4},
            "ect": {"method": "easy", "batch": 64, "lr": 4e-4},
            "ict": {"batch": 64, "lr": 1e-3, "points": 161, **ICT},
            "scd": {"batch": 64, "lr": 8e-4, "tangent_warmup": 30, **CONTINUOUS},
            "sct": {"batch": 64, "lr": 2e-3, "tangent_warmup": 50, **CONTINUOUS},
        },
    ),
]


def main() -> None:
    """All data sets, or those named."""
    tasks = {task.recipe.name: task for task in TASKS}
    asked = arguments(__doc__, tasks)
    settings = {
        name: {
            "recipe": task.recipe.to_dict(),
            "refit": task.refit,
            "tuned": {m: replace(task.recipe.student, **t).__dict__ | {"log_sigma": str(t.get("log_sigma"))} for m, t in task.tuned.items()},
        }
        for name, task in tasks.items()
    }  # fmt: skip
    study = Bench("noise-scales", __file__, asked, settings=settings, protocol=protocols(tasks, PROTOCOL))
    for name in asked.parts:
        task = tasks[name]
        table = Table(task)
        fixed = study.run(f"{name}/fixed", table.fixed)
        for seed in range(SEEDS):
            for method in task.tuned:
                run(task, table, study, method, seed)
                study.write(study.metrics | {name: summary(task, study.runs, fixed)})


if __name__ == "__main__":
    main()
