"""Chapter 10: `python scripts/studies/cifar_frontier.py --data TRAIN.zip --test TEST.zip`. Writes `results/cifar10-frontier.json`.

Distance against evaluations on CIFAR-10, where both sides are tuned alike: the guided teacher under DDIM, DPM-Solver++(2M) and Heun,
and its student, each on EDM's grid and on the best that `tune_sigmas` finds among as many grids, with other samples than those that are
reported. What is reported is judged by the referee as well, which chose nothing. An evaluation of the guided teacher calls its network
twice. Half an hour on one core. What is finished is in the record; started again, the study goes on from there, and with the names of
samplers it does only these.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import cdedu
from cdedu.data import load_data, to_unit
from cdedu.evaluation import cifar_referee, classifier_of, features, frechet_distance, share_recognised
from cdedu.evaluation.comparison import Row, Ruler
from cdedu.evaluation.protocol import Protocol
from cdedu.evaluation.tuning import Grid, draw_with, tune_sigmas
from cdedu.methods.guidance import guided_for
from cdedu.noise import SIGMA_MIN
from cdedu.recipes import get_recipe
from cdedu.teacher import Denoiser
from scripts.studies.bench import Bench, arguments, brief, spreads, weights
from scripts.studies.fair import untuned

NAME = "cifar10-small"
ROWS = {"consistency": (1, 2, 4), "ddim": (4, 10), "dpm_solver": (4, 10), "heun": (5, 9)}
"""Evaluations of each sampler."""
GRIDS = 16
"""How many each may try."""
TUNING, STANDARD = (150, 1, 1000), (300, 2, 0)
"""Samples, draws and first seed, to choose with and to report."""


class Conditional:
    """A network that is asked for the ten classes in turn."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.sigma_min = getattr(model, "sigma_min", SIGMA_MIN)

    def __call__(self, x: Tensor, sigma: float | Tensor, /, **cond: Any) -> Tensor:
        return self.model(x, sigma, labels=torch.arange(len(x)) % 10, **cond)


class Judges:
    """Metrics by the ruler's classifier, and by the referee the distance and the share of wanted classes that it sees."""

    def __init__(self, ruler: Ruler) -> None:
        self.ruler, self.referee = ruler, cifar_referee()
        self.real = features(self.referee, ruler.real)

    def __call__(self, draw: Callable[[torch.Generator], Tensor], asked: bool = True) -> Row:
        """Spreads over the protocol's seeds; of the ten classes in turn if they were asked for."""
        runs = []
        for seed in self.ruler.protocol.seeds:
            x = draw(torch.Generator().manual_seed(seed))
            row = self.ruler.measure(x) | {
                "referee_fd": frechet_distance(self.real, features(self.referee, x))
            }
            if asked:
                row["recognised"] = share_recognised(self.referee, x, torch.arange(len(x)) % 10)
            runs.append(row)
        return spreads(runs)

    def floor(self) -> Row:
        """Real images in place of samples; nobody asked for their classes."""
        x = self.ruler.train
        return self(lambda g: to_unit(x[torch.randperm(len(x), generator=g)[: self.ruler.n]]), asked=False)


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """Sampler → evaluations → metrics on the usual grid and the one chosen; the floor, which is real images in place of samples."""
    out: dict[str, Any] = {"floor": runs.get("floor")}
    for sampler, numbers in ROWS.items():
        for k in numbers:
            if row := {
                kind: run
                for kind in ("untuned", "tuned", "search")
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

    judges, recipe = Judges(standard), get_recipe(NAME)

    def search(model: Conditional, sampler: str, k: int) -> dict[str, Any]:
        with tqdm(total=GRIDS * k, desc=f"{sampler} {k}", leave=False) as bar:
            found = tune_sigmas(
                model, sampler, k, tuning, budget=GRIDS * k, sigma_min=recipe.sigma_min, sigma_max=recipe.sigma_max,
                tried=lambda spent, *_: bar.update(spent - bar.n),
            )  # fmt: skip
        return found.__dict__ | {"sigmas": list(found.sigmas)}

    def report(model: Conditional, sampler: str, grid: Grid) -> Row:
        return judges(draw_with(model, sampler, grid, standard))

    student, teacher = cdedu.load(f"{NAME}-guided"), cdedu.load(f"{NAME}-teacher")
    models = {True: Conditional(student), False: Conditional(guided_for(student, teacher))}
    settings = {
        "guidance": student.header.guidance[0],
        "rows": {k: list(v) for k, v in ROWS.items()},
        "grids": GRIDS,
        "tuning": TUNING,
        "standard": STANDARD,
    }
    study = Bench("cifar10-frontier", __file__, asked, "--data TRAIN.zip --test TEST.zip", settings=settings,
                  weights=weights([NAME], ("guided", "teacher")), data=data.describe())  # fmt: skip
    study.run("floor", judges.floor)
    for k, sampler in sorted((k, name) for name in asked.parts for k in ROWS[name]):
        model, key = models[sampler == "consistency"], f"{sampler}/{k}"
        found = study.run(f"{key}/search", partial(search, model, sampler, k))
        usual = untuned(recipe, sampler, k)
        for kind, grid in {"untuned": usual, "tuned": tuple(found["sigmas"])}.items():
            if kind == "tuned" and grid == usual:
                study.runs[f"{key}/tuned"] = study.runs[f"{key}/untuned"]
            row = study.run(f"{key}/{kind}", partial(report, model, sampler, grid))
            print(sampler, k, kind, brief(row), flush=True)
        study.write(summary(study.runs))


if __name__ == "__main__":
    main()
