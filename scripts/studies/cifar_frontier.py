"""Chapter 10: `python scripts/studies/cifar_frontier.py --data TRAIN.zip --test TEST.zip`. Writes `results/cifar10-frontier.json`.

Distance against evaluations on CIFAR-10, where both sides are tuned alike: the guided teacher under DDIM, DPM-Solver++(2M) and Heun,
and its student, each on EDM's grid and on the best of five others. Which one is best is decided on other samples than those that are
reported. An evaluation of the guided teacher calls its network twice. Half an hour on one core. What is finished is in the record;
started again, the study goes on from there, and with the names of samplers it does only these.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import cdedu
from cdedu.data import load_data
from cdedu.evaluation import classifier_of
from cdedu.evaluation.comparison import Row, Ruler
from cdedu.evaluation.protocol import Protocol
from cdedu.evaluation.tuning import Grid, draw_with, points_of, spaced
from cdedu.methods.guidance import guided_for
from cdedu.noise import SIGMA_MIN
from cdedu.recipes import get_recipe
from cdedu.teacher import Denoiser
from scripts.studies.bench import Bench, arguments, brief, weights
from scripts.studies.fair import untuned

NAME = "cifar10-small"
ROWS = {"consistency": (1, 2, 4), "ddim": (4, 10), "dpm_solver": (4, 10), "heun": (5, 9)}
"""Evaluations of each sampler."""
ENDS = ((0.02, 7.0, 80.0), (0.1, 7.0, 20.0), (0.2, 3.0, 10.0), (0.4, 3.0, 5.0), (0.1, 20.0, 7.0))
"""Lower end, upper end and ρ of the grids that are tried beside EDM's; in a single evaluation only the upper end counts."""
TUNING, STANDARD = (150, 1, 1000), (300, 2, 0)
"""Samples, draws and first seed, to choose with and to report."""


class Conditional:
    """A network that is asked for the ten classes in turn."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.sigma_min = getattr(model, "sigma_min", SIGMA_MIN)

    def __call__(self, x: Tensor, sigma: float | Tensor, /, **cond: Any) -> Tensor:
        return self.model(x, sigma, labels=torch.arange(len(x)) % 10, **cond)


def grids(sampler: str, evaluations: int) -> list[Grid]:
    """EDM's, or the levels of a student by the recipe; then the others."""
    usual, points = untuned(get_recipe(NAME), sampler, evaluations), points_of(sampler, evaluations)
    return list(dict.fromkeys((usual, *(spaced(points, *ends) for ends in ENDS))))


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """Sampler → evaluations → metrics on the usual grid and the one chosen; the floor, which is real images in place of samples."""
    out: dict[str, Any] = {"floor": runs.get("floor")}
    for sampler, numbers in ROWS.items():
        for k in numbers:
            if row := {
                kind: run
                for kind in ("untuned", "tuned", "grid")
                if (run := runs.get(f"{sampler}/{k}/{kind}"))
            }:
                out.setdefault(sampler, {})[str(k)] = row
    return out


def main() -> None:
    """Row by row."""
    asked = arguments(__doc__, ROWS, data={"required": True}, test={"required": True})
    data = load_data(asked.data, asked.test)

    def ruler(n: int, draws: int, first: int) -> Ruler:
        return Ruler(data, protocol=Protocol(data.name, n, draws, first, classifier_of(data), "own"))

    tuning, standard = ruler(*TUNING), ruler(*STANDARD)

    def choose(model: Conditional, sampler: str, grid: Grid) -> float:
        return tuning.nearness(draw_with(model, sampler, grid, tuning))

    def report(model: Conditional, sampler: str, grid: Grid) -> Row:
        return standard.over_seeds(draw_with(model, sampler, grid, standard))

    student, teacher = cdedu.load(f"{NAME}-guided"), cdedu.load(f"{NAME}-teacher")
    models = {True: Conditional(student), False: Conditional(guided_for(student, teacher))}
    settings = {
        "guidance": student.header.guidance[0],
        "rows": {k: list(v) for k, v in ROWS.items()},
        "ends": ENDS,
        "tuning": TUNING,
        "standard": STANDARD,
    }
    study = Bench("cifar10-frontier", __file__, asked, "--data TRAIN.zip --test TEST.zip", settings=settings,
                  weights=weights([NAME], ("guided", "teacher")), data=data.describe())  # fmt: skip
    study.run("floor", standard.floor)
    for k, sampler in sorted((k, name) for name in asked.parts for k in ROWS[name]):
        model, known, key = models[sampler == "consistency"], grids(sampler, k), f"{sampler}/{k}"
        near = [
            study.run(f"{key}/pilot/{i}", partial(choose, model, sampler, grid))
            for i, grid in enumerate(known)
        ]
        best = known[near.index(min(near))]
        study.runs[f"{key}/grid"] = list(best)
        for kind, grid in {"untuned": known[0], "tuned": best}.items():
            if kind == "tuned" and grid == known[0]:
                study.runs[f"{key}/tuned"] = study.runs[f"{key}/untuned"]
            row = study.run(f"{key}/{kind}", partial(report, model, sampler, grid))
            print(sampler, k, kind, brief(row), flush=True)
        study.write(summary(study.runs))


if __name__ == "__main__":
    main()
