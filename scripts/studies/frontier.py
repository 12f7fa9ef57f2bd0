"""Chapter 17: `python scripts/studies/frontier.py`. Writes `results/frontier.json`.

MeanFlow in σ against consistency distillation on the moons: with other seeds, other shares of pairs with s = σ, other learning rates
and three times the budget of the chapter's live run. Loss, networks, training and measure are the chapter's own cells, so that what is
measured is what is printed there. Takes about eight minutes on one core. Finished runs are in the record; if restarted, the study
continues from there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import nbformat
from torch import Tensor

import cdedu
from scripts.studies.bench import ROOT, Bench, arguments, brief, spreads

CHAPTER = ROOT / "book" / "postgraduate" / "17_frontier.ipynb"
STEPS = {"cd": 700, "two": 600}
"""Equal evaluations: six an image against seven."""
ARMS = {"live": (1, 2e-3), "long": (3, 2e-3), "slow": (1, 5e-4), "fast": (1, 8e-3)}
"""Times the budget, learning rate; ``live`` is the chapter's."""
SHARES = {"two": (0.75, 0.0), "edge": (0.2, 0.25), "none": (0.0, 0.0), "half": (0.5, 0.0), "most": (0.9, 0.0)}
"""Of the pairs, how many have s = σ and how many s = ε: ``two`` is the chapter's, and MeanFlow's own; ``edge`` runs in every arm."""
SEEDS, FEW = 5, 2
"""``FEW`` for the last three shares, and for ``two`` with the long budget."""


def chapter() -> dict[str, Any]:
    """What the chapter's cells with the tag ``study`` define; training and pictures have none."""
    space: dict[str, Any] = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if "study" in cell.metadata.get("tags", []):
            exec(compile(cell.source, cell.id, "exec"), space)  # the project's own cells
    return space


def distances(space: dict[str, Any], sample: Callable[[int], Tensor]) -> dict[str, float]:
    """Of the samples in 1, 2 and 4 steps."""
    return {str(n): float(space["distance"](sample(n))) for n in space["levels"]}


def cd(space: dict[str, Any], times: int, lr: float, seed: int) -> dict[str, float]:
    """A student of consistency distillation."""
    start = cdedu.ConsistencyModel.from_teacher(space["teacher"])
    model = space["train"](start, space["cd"], times * STEPS["cd"], seed, lr)
    return distances(space, partial(space["fall"], model))


def two(
    space: dict[str, Any], share: tuple[float, float], times: int, lr: float, seed: int
) -> dict[str, float]:
    """A student with two levels."""
    same, edge = share
    start, loss = space["TwoLevels"](space["teacher"]), partial(space["mean_flow"], same=same, edge=edge)
    model = space["train"](start, loss, times * STEPS["two"], seed, lr)
    return distances(space, partial(space["along"], model))


def main() -> None:
    """The chapter's arm with all shares, then the other arms; a row as soon as it has a seed."""
    asked, space = arguments(__doc__), chapter()
    settings = {"steps": STEPS, "arms": ARMS, "shares": SHARES, "seeds": SEEDS, "few": FEW}
    study = Bench("frontier", __file__, asked, settings=settings)
    study.metrics.update(floor=float(space["floor"]), teacher=float(space["best"]))

    def rows(name: str, arm: str, seeds: int) -> None:
        one = partial(cd, space) if name == "cd" else partial(two, space, SHARES[name])
        runs = []
        for seed in range(seeds):
            runs.append(study.run(f"{name}/{arm}/{seed}", partial(one, *ARMS[arm], seed)))
            study.metrics.setdefault(arm, {})[name] = {"seeds": len(runs), **spreads(runs)}
            print(name, arm, seed, brief(runs[-1]), flush=True)

    for name in ("cd", *SHARES):
        rows(name, "live", SEEDS if name in ("cd", "two", "edge") else FEW)
    for arm in list(ARMS)[1:]:
        rows("cd", arm, SEEDS)
        rows("edge", arm, SEEDS)
    rows("two", "long", FEW)
    study.write(study.metrics)


if __name__ == "__main__":
    main()
