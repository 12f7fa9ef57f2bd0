"""Chapters 6 and 12: `python scripts/studies/fair.py`. Writes `results/fair.json`.

Distance against evaluations where both sides are tuned: the teachers that come with the course under DDIM, DPM-Solver++(2M) and Heun, on
EDM's grid and on one that `tune_sigmas` found, and their students on levels that it found with the same budget. Grids are chosen with
the seeds of the protocol `tuning`, and measured with those of `standard`. Half an hour on a quiet core; what is finished is in the
record, and the study goes on from there.
"""

from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import cdedu
from cdedu.data import load_data
from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.protocol import protocol_of
from cdedu.evaluation.tuning import BUDGET, Grid, draw_with, points_of, spaced, tune_sigmas
from cdedu.recipes import Recipe, get_recipe
from cdedu.records import read_record
from scripts.studies.bench import Bench, arguments, brief, protocols, weights

EVALUATIONS = (2, 1, 4, 3, 5, 8, 10, 16, 35)
"""In the order in which they are measured."""
STUDENT = (1, 2, 4)
NAMES = ("digits", "toy")
METRICS = ("sw", "fd", "kd", "precision", "recall")


def rows() -> list[tuple[str, int]]:
    """Sampler and evaluations of each row. With one or two evaluations DPM-Solver++ is DDIM, and Heun walks in odd numbers."""
    out = []
    for k in EVALUATIONS:
        out += [("ddim", k)] + [("consistency", k)] * (k in STUDENT)
        out += [("dpm_solver", k)] * (k > 2) + [("heun", k)] * (k > 1 and k % 2)
    return out


def untuned(recipe: Recipe, sampler: str, k: int) -> Grid:
    """EDM's grid, or the recipe's levels of a student."""
    if sampler == "consistency":
        return recipe.student_sigmas(k)
    return spaced(points_of(sampler, k), recipe.sigma_min, recipe.sigma_max, recipe.rho)


class Frontier:
    """One data set: its ruler, a ruler for tuning, and the shipped models."""

    def __init__(self, name: str) -> None:
        self.recipe, data = get_recipe(name), load_data(get_recipe(name).data)
        self.ruler, self.tuning = Ruler(data), Ruler(data, protocol=protocol_of(data, "tuning"))
        self.teacher, self.student = cdedu.load(f"{name}-teacher"), cdedu.load(f"{name}-student")

    def model(self, sampler: str) -> Any:
        return self.student if sampler == "consistency" else self.teacher

    def tune(self, sampler: str, k: int) -> dict[str, Any]:
        """The grid that a search finds."""
        with tqdm(total=BUDGET, desc=f"{self.recipe.name} {sampler} {k}", leave=False) as bar:

            def tried(spent: int, sigmas: Grid, distance: float) -> None:
                bar.update(spent - bar.n)

            ends = {"sigma_min": self.recipe.sigma_min, "sigma_max": self.recipe.sigma_max}
            found = tune_sigmas(
                self.model(sampler), sampler, k, self.tuning, budget=BUDGET, tried=tried, **ends
            )
        return found.__dict__ | {"sigmas": list(found.sigmas)}

    def measure(self, sampler: str, sigmas: Grid) -> dict[str, Any]:
        """All metrics of a grid, by the standard protocol."""
        return self.ruler.over_seeds(draw_with(self.model(sampler), sampler, sigmas, self.ruler))


def summary(name: str, runs: dict[str, Any]) -> dict[str, Any]:
    """Sampler → evaluations → metrics on the grids ``untuned`` and ``tuned``, and the ``search`` for the latter."""
    out: dict[str, Any] = {"floor": runs.get(f"{name}/floor")}
    for sampler, k in rows():
        key = f"{name}/{sampler}/{k}"
        row = {kind: runs[f"{key}/{kind}"] for kind in ("untuned", "tuned") if f"{key}/{kind}" in runs}
        if f"{key}/search" in runs:
            row["search"] = runs[f"{key}/search"]
        if row:
            out.setdefault(sampler, {})[str(k)] = row
    return out | against(out)


def against(part: dict[str, Any]) -> dict[str, Any]:
    """The best tuned walk of the teacher for each number of evaluations, and the student beside it.

    ``best`` is of the samplers whose rows are finished, by the median. ``ratio`` has, for the student in 1, 2 and 4 evaluations, how many
    times as far from the data that walk is, and ``worth`` the fewest evaluations with which a walk is as near as the student.
    """
    best: dict[str, Any] = {}
    for sampler, k in rows():
        row = part.get(sampler, {}).get(str(k), {}).get("tuned")
        if row and sampler != "consistency":
            first = next(iter(row))
            if str(k) not in best or row[first]["median"] < best[str(k)]["distance"]:
                best[str(k)] = {"sampler": sampler, "distance": row[first]["median"]}
    ratio, worth = {}, {}
    for k, row in part.get("consistency", {}).items():
        if mine := row.get("tuned"):
            mine = mine[next(iter(mine))]["median"]
            ratio[k] = {n: walk["distance"] / mine for n, walk in best.items()}
            worth[k] = min((int(n) for n, r in ratio[k].items() if r <= 1), default=None)
    return {"best": dict(sorted(best.items(), key=lambda item: int(item[0]))), "ratio": ratio, "worth": worth}


def known(results: Path, fixed: dict[str, Any]) -> dict[str, Any]:
    """Rows that chapter 12's study has measured of the same weights by the same protocol: they are not measured twice."""
    path = results / "tradeoffs.json"
    other = read_record(path) if path.is_file() else {}
    same = other.get("weights") == fixed["weights"]
    names = [name for name in NAMES if same and other["protocol"].get(name) == fixed["protocol"][name]]
    out = {f"{name}/floor": other["runs"].get(f"{name}/floor") for name in names}
    for sampler, k in rows():
        kind = "student" if sampler == "consistency" else sampler
        found = {f"{name}/{sampler}/{k}/untuned": other["runs"].get(f"{name}/{kind}/{k}") for name in names}
        out |= found
    return {key: {m: row[m] for m in METRICS if m in row} for key, row in out.items() if row}


def main() -> None:
    """All data sets, or those named."""
    asked = arguments(__doc__, NAMES)
    settings = {"evaluations": sorted(EVALUATIONS), "student": STUDENT, "budget": BUDGET}
    tuning = protocols(NAMES, "tuning")
    fixed = {"protocol": protocols(NAMES), "tuning": tuning, "weights": weights(NAMES)}
    study = Bench("fair", __file__, asked, settings=settings, **fixed)
    study.runs = known(asked.results, fixed) | study.runs
    for name in asked.parts:
        frontier = Frontier(name)
        study.run(f"{name}/floor", frontier.ruler.floor)
        for sampler, k in rows():
            key = f"{name}/{sampler}/{k}"
            found = study.run(f"{key}/search", partial(frontier.tune, sampler, k))
            grids = {"tuned": tuple(found["sigmas"]), "untuned": untuned(frontier.recipe, sampler, k)}
            for kind, sigmas in grids.items():
                row = study.run(f"{key}/{kind}", partial(frontier.measure, sampler, sigmas))
                print(key, kind, brief(sigmas), brief(row[frontier.ruler.first]), flush=True)
            study.write(study.metrics | {name: summary(name, study.runs)})


if __name__ == "__main__":
    main()
