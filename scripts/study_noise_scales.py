"""Chapter 9: `python scripts/study_noise_scales.py`. Writes `results/noise-scales.json`.

Five ways to a consistency student at equal network evaluations: CD, ECT and sCD from one teacher, iCT and sCT from random
weights. An image costs 6 with CD (teacher's Heun step 2, target 1, student 3), 4 with ECT and iCT (target 1, student 3), 7 with
sCD (teacher 1, value and derivative 3, student 3), 6 with sCT; 3 for the derivative is what PyTorch's FLOP counter finds. The
teacher is the course's, with the angle of TrigFlow as its time, trained on until it is used to that; this is charged to nobody.
What is finished is in the record; started again, the study goes on from there.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cdedu
from cdedu import records
from cdedu.data import load_data
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Ruler
from cdedu.noise import LogNormal, improved_curriculum
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import State, distill, train_consistency, train_teacher

PATH = Path("results/noise-scales.json")
COST = {"cd": 6, "ect": 4, "ict": 4, "scd": 7, "sct": 6} | dict.fromkeys(
    ("ct", "ct_mu", "ct_huber", "ct_levels"), 4
)
"""Evaluations an image. From ``ct``, the first paper's consistency training, to ``ict`` one change is added at a time."""
STEPS = (1, 2, 4)
SEEDS = 5
DRAWS = 3
"""Sampling seeds, of which the median is taken for each student."""
ICT = {"distance": "pseudo_huber", "weight": "inverse_gap", "index": "lognormal"}
CT = {"batch": 256, "lr": 2e-3, "points": 41}
CONTINUOUS = {"method": "continuous", "log_sigma": LogNormal(-1.0, 1.4)}


@dataclass(frozen=True)
class Study:
    """One data set: the budgets in evaluations of the student's training, and what each method was tuned to."""

    recipe: Recipe
    refit: int
    """Steps in which the teacher gets used to the angle."""
    budgets: tuple[int, ...]
    tuned: dict[str, dict[str, Any]]
    """What differs from the recipe's student stage, for each method."""

    def recipe_of(self, method: str, budget: int, seed: int) -> Recipe:
        """The recipe that uses up the budget."""
        stage = replace(self.recipe.student, **self.tuned[method])
        steps = budget // (COST[method] * stage.batch)
        return replace(self.recipe, student=replace(stage, steps=steps), seed=seed)


class Bench:
    """The data, the teacher, and what is measured of a student."""

    def __init__(self, study: Study) -> None:
        self.study, self.recipe = study, study.recipe
        self.data = load_data(self.recipe.data)
        self.ruler = Ruler(self.data)
        self.teacher = self._teacher()

    def _teacher(self) -> nn.Module:
        path = Path("runs/noise-scales") / f"{self.recipe.name}-teacher.safetensors"
        if not path.is_file():
            stage = replace(self.recipe.teacher, steps=self.study.refit, batch=64, lr=1e-3, ema=0.995)
            *_, state = train_teacher(
                replace(self.recipe, teacher=stage),
                self.data,
                start=cdedu.load(f"{self.recipe.name}-teacher"),
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            cdedu.save(path, state.result, self.recipe, self.data.train.shape[1:])
        return cdedu.load(path)

    def measure(self, sampler: Callable[[torch.Tensor, torch.Generator], torch.Tensor]) -> dict[str, float]:
        """The median of each metric over sampling seeds."""

        def draw(g: torch.Generator) -> torch.Tensor:
            return sampler(self.recipe.sigma_max * torch.randn(self.ruler.real.shape, generator=g), g)

        return {key: row["median"] for key, row in self.ruler.over_seeds(draw, DRAWS).items()}

    def student(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """With one step, two and four."""
        levels = {str(k): self.recipe.student_sigmas(k) for k in STEPS}
        return {
            k: self.measure(lambda x, g, s=s: cdedu.sample_consistency(model, x, s, g))
            for k, s in levels.items()
        }

    def fixed(self) -> dict[str, Any]:
        """The teacher, and real against real at the same size."""
        floor = {key: row["median"] for key, row in self.ruler.floor(DRAWS).items()}
        grid = self.recipe.sigmas(18)
        teachers = {"teacher": self.teacher, "course_teacher": cdedu.load(f"{self.recipe.name}-teacher")}
        return {"floor": floor} | {
            name: self.measure(lambda x, g, t=t: cdedu.sample_heun(t, x, grid))
            for name, t in teachers.items()
        }

    def train(self, method: str, recipe: Recipe) -> Iterator[State]:
        """A training run of one of the methods."""
        if method == "ict":
            return train_consistency(recipe, self.data, s0=10, schedule=improved_curriculum)
        if method.startswith("ct") or method == "sct":
            return train_consistency(recipe, self.data)
        return distill(recipe, self.teacher, self.data)


def run(study: Study, bench: Bench, record: records.Study, method: str, seed: int) -> None:
    """The runs of one method and seed. Without a schedule the run of a smaller budget is the beginning of that of the largest."""
    name = f"{study.recipe.name}/{method}/{seed}"
    budgets = study.budgets[-1:] if method.startswith("ct") else study.budgets
    for stops in [(b,) for b in budgets] if method == "ict" else [budgets]:
        if all(f"{name}/{b}" in record.runs for b in stops):
            continue
        recipes = {study.recipe_of(method, b, seed).student.steps: b for b in stops}
        recipe, seconds, start = study.recipe_of(method, stops[-1], seed), 0.0, time.process_time()
        for state in bench.train(method, recipe):
            if state.step in recipes:
                seconds += time.process_time() - start
                row: dict[str, Any] = bench.student(state.result) | {"cpu_seconds": round(seconds, 1)}
                record.run(f"{name}/{recipes[state.step]}", lambda row=row: row)  # type: ignore[misc]
                print(name, recipes[state.step], row, flush=True)
                start = time.process_time()


def summary(study: Study, runs: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Medians and ranges over seeds of what is finished: method → steps → metric → a list in the order of the budgets."""
    out: dict[str, Any] = {"seeds": SEEDS, "draws": DRAWS, "budgets": list(study.budgets), **fixed}
    out["cost"], out["refit"] = COST, study.refit
    out["students"], out["cpu_seconds"] = {}, {}
    for method in study.tuned:
        every = {
            b: [runs[k] for s in range(SEEDS) if (k := f"{study.recipe.name}/{method}/{s}/{b}") in runs]
            for b in study.budgets
        }
        rows = {b: row for b, row in every.items() if row}
        out["students"][method] = {
            str(k): {key: [spread([r[str(k)][key] for r in rows[b]]) for b in rows] for key in fixed["floor"]}
            for k in STEPS
        }
        out["cpu_seconds"][method] = [spread([r["cpu_seconds"] for r in rows[b]]) for b in rows]
    return out


STUDIES = [
    Study(
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
    Study(
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
    """All studies, or those named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=[s.recipe.name for s in STUDIES], help="toy, digits")
    parser.add_argument("--record", type=Path, default=PATH, help="where the record is, or will be")
    parser.add_argument("--afresh", action="store_true", help="do not go on from the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        s.recipe.name: {
            "recipe": s.recipe.to_dict(),
            "refit": s.refit,
            "tuned": {m: replace(s.recipe.student, **t).__dict__ | {"log_sigma": str(t.get("log_sigma"))} for m, t in s.tuned.items()},
        }
        for s in STUDIES
    }  # fmt: skip
    record = records.Study(
        arguments.record, "python scripts/study_noise_scales.py", afresh=arguments.afresh, settings=settings
    )
    for study in STUDIES:
        name = study.recipe.name
        if name not in arguments.recipes:
            continue
        bench = Bench(study)
        fixed = record.run(f"{name}/fixed", bench.fixed)
        for seed in range(SEEDS):
            for method in study.tuned:
                run(study, bench, record, method, seed)
                record.write(record.metrics | {name: summary(study, record.runs, fixed)})
        print(name, "finished", flush=True)


if __name__ == "__main__":
    main()
