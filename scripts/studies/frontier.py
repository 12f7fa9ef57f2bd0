"""Chapter 17: `python scripts/studies/frontier.py`. Writes `results/frontier.json`.

MeanFlow in σ against consistency distillation on the moons, with other seeds, learning rates and three times the budget of the chapter's live
run. Loss, networks, training and measure are the chapter's own cells, so that what is measured is what is printed there. Some six
minutes on one core. What is finished is in the record; started again, the study goes on from there.
"""

from typing import Any

import nbformat

import cdedu
from scripts.studies.bench import ROOT, Bench, arguments, spreads

CHAPTER = ROOT / "book" / "postgraduate" / "17_frontier.ipynb"
STEPS = {"cd": 700, "two": 600}
"""Equal evaluations: six an image against seven."""
ARMS = {"live": (1, 2e-3), "slow": (1, 5e-4), "fast": (1, 8e-3), "long": (3, 2e-3)}
"""Times the budget, learning rate; ``live`` is the chapter's."""
SEEDS = 5


def chapter() -> dict[str, Any]:
    """What the chapter's cells with the tag ``study`` define; training and pictures have none."""
    space: dict[str, Any] = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if "study" in cell.metadata.get("tags", []):
            exec(compile(cell.source, cell.id, "exec"), space)  # the project's own cells
    return space


def one(space: dict[str, Any], times: int, lr: float, seed: int) -> dict[str, dict[str, float]]:
    """Both students after one training each: the distance in 1, 2 and 4 steps."""
    train, teacher = space["train"], space["teacher"]
    ours = train(space["TwoLevels"](teacher), space["mean_flow"], times * STEPS["two"], seed, lr)
    start = cdedu.ConsistencyModel.from_teacher(teacher)
    theirs = train(start, space["cd"], times * STEPS["cd"], seed, lr)
    found = {str(n): [space["distance"](x) for x in pair] for n, pair in space["draw"](ours, theirs).items()}
    return {name: {n: float(pair[i]) for n, pair in found.items()} for i, name in enumerate(("cd", "two"))}


def main() -> None:
    """Every arm with every seed; a row as soon as it has a seed."""
    asked, space = arguments(__doc__), chapter()
    settings = {"steps": STEPS, "arms": ARMS, "seeds": SEEDS}
    study = Bench("frontier", __file__, asked, settings=settings)
    study.metrics.update(seeds=SEEDS, floor=float(space["floor"]), teacher=float(space["best"]))
    for arm, runs in study.arms(ARMS, SEEDS, lambda arm, seed: one(space, *ARMS[arm], seed)):
        study.metrics[arm] = spreads(runs)


if __name__ == "__main__":
    main()
