"""Chapter 5: `python scripts/study_scratch_or_teacher.py`. Writes `results/scratch-or-teacher.json`.

Consistency distillation from the teacher that comes with the course, and consistency training from random weights, at equal
network evaluations: per image 6 (teacher 2, target 1, student 3) and 4 (target 1, student 3). Some twenty minutes on one core.
What is finished is in the record; started again, the study goes on from there.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

import cdedu
from cdedu import records
from cdedu.data import load_data
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Ruler
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import distill, train_consistency

PATH = Path("results/scratch-or-teacher.json")
COST = {"cd": 6, "ct": 4, "ct_huber": 4}
"""Evaluations an image; ``ct_huber`` is consistency training with the loss of iCT."""


@dataclass(frozen=True)
class Study:
    """One data set: the budgets, in evaluations of the student's training, and what each method was tuned to."""

    recipe: Recipe
    budgets: tuple[int, ...]
    seeds: int
    samples: int
    tuned: dict[str, dict[str, Any]]
    """What differs from the recipe's student stage, for each method."""
    draws: int = 3
    """Sampling seeds, of which the median is taken for each student."""

    def budgets_of(self, method: str) -> tuple[int, ...]:
        """In pilot runs the loss of iCT was the better one with the largest budget, and the worse one with small ones."""
        if "ct_huber" not in self.tuned or method == "cd":
            return self.budgets
        return self.budgets[-2:] if method == "ct_huber" else self.budgets[:-1]

    def recipe_of(self, method: str, budget: int, seed: int) -> Recipe:
        """The recipe that uses up the budget."""
        stage = replace(self.recipe.student, **self.tuned[method])
        steps = budget // (COST[method] * stage.batch)
        return replace(self.recipe, student=replace(stage, steps=steps), seed=seed)


class Scale:
    """One number for a student or teacher: the median over sampling noises of its first metric."""

    def __init__(self, study: Study) -> None:
        self.study, self.data = study, load_data(study.recipe.data)
        self.ruler = Ruler(self.data, study.samples)

    def median(self, sampler: Any) -> float:
        """Of ``sampler(noise, generator)``."""

        def draw(g: torch.Generator) -> torch.Tensor:
            return sampler(self.study.recipe.sigma_max * torch.randn(self.ruler.real.shape, generator=g), g)

        return self.ruler.over_seeds(draw, self.study.draws)[self.ruler.first]["median"]

    def student(self, model: nn.Module) -> list[float]:
        """With one step and with two."""
        levels = [self.study.recipe.student_sigmas(steps) for steps in (1, 2)]
        return [self.median(lambda x, g, s=s: cdedu.sample_consistency(model, x, s, g)) for s in levels]

    def fixed(self, teacher: nn.Module) -> dict[str, float]:
        """The teacher, and real against real at the same size."""
        grid = self.study.recipe.sigmas(18)
        return {
            "floor": self.ruler.floor(self.study.draws)[self.ruler.first]["median"],
            "teacher": self.median(lambda x, g: cdedu.sample_heun(teacher, x, grid)),
        }


def runs(study: Study, scale: Scale, teacher: nn.Module, done: dict[str, Any]) -> Iterator[None]:
    """Train what is not in ``done``, put the distances there, and yield after each run."""
    name = study.recipe.name
    for seed in range(study.seeds):
        recipes = {b: study.recipe_of("cd", b, seed) for b in study.budgets}
        # Distillation has no schedule, so the shorter runs are the beginnings of the longest one.
        stops = {recipe.student.steps: f"{name}/cd/{seed}/{b}" for b, recipe in recipes.items()}
        if not all(key in done for key in stops.values()):
            longest = recipes[max(study.budgets)]
            states = tqdm(distill(longest, teacher, scale.data), total=longest.student.steps, desc=name)
            for state in states:
                if state.step in stops:
                    done[stops[state.step]] = scale.student(state.result)
            yield
        for method, b in ((m, b) for m in study.tuned if m != "cd" for b in study.budgets_of(m)):
            key, recipe = f"{name}/{method}/{seed}/{b}", study.recipe_of(method, b, seed)
            if key in done:
                continue
            for state in tqdm(train_consistency(recipe, scale.data), total=recipe.student.steps, desc=key):
                pass
            done[key] = scale.student(state.result)
            yield


def summary(study: Study, done: dict[str, Any], fixed: dict[str, float]) -> dict[str, Any]:
    """Medians and ranges over seeds of what is finished, a list in the order of the budgets."""
    out: dict[str, Any] = {"seeds": study.seeds, "draws": study.draws, "n": study.samples, **fixed}
    teacher = study.recipe.teacher
    out["teacher_evaluations"] = 3 * teacher.batch * teacher.steps
    out["budgets"], out["tuned"] = list(study.budgets), study.tuned
    for method in study.tuned:
        for i in (0, 1):
            rows = out[f"{method}_{i + 1}"] = []
            for b in study.budgets_of(method):
                keys = [f"{study.recipe.name}/{method}/{seed}/{b}" for seed in range(study.seeds)]
                values = [done[key][i] for key in keys if key in done]
                rows.append(spread(values) if values else None)
    return out


STUDIES = [
    Study(
        get_recipe("toy"),
        budgets=(576_000, 1_152_000, 2_304_000, 4_608_000),
        seeds=5,
        samples=5000,
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
    ),
    Study(
        get_recipe("digits"),
        budgets=(76_800,),
        seeds=3,
        samples=600,
        tuned={"cd": {"batch": 64, "lr": 6e-4}, "ct": {"batch": 64, "lr": 2e-3, "points": 41}},
    ),
]


def main() -> None:
    """All studies, or those named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=[s.recipe.name for s in STUDIES], help="toy, digits")
    parser.add_argument("--afresh", action="store_true", help="do not go on from the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = {"name": ", ".join(arguments.recipes)} | {s.recipe.name: s.recipe.to_dict() for s in STUDIES}
    record = records.Study(
        PATH, "python scripts/study_scratch_or_teacher.py", afresh=arguments.afresh, recipe=recipe
    )
    metrics = record.metrics
    for study in STUDIES:
        name = study.recipe.name
        if name not in arguments.recipes:
            continue
        if name in metrics and metrics[name]["tuned"] != study.tuned:
            parser.error(f"{PATH} holds {name} with other settings; start with --afresh")
        scale, teacher = Scale(study), cdedu.load(f"{name}-teacher")
        fixed = scale.fixed(teacher)
        for _ in runs(study, scale, teacher, record.runs):
            metrics[name] = summary(study, record.runs, fixed)
            record.write(metrics)
        print(name, metrics[name], flush=True)


if __name__ == "__main__":
    main()
