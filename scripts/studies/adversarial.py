"""Chapter 15: `python scripts/studies/adversarial.py`. Writes `results/adversarial.json` and `results/adversarial-digits.json`.

Consistency distillation against adversarial distillation (ADD), ADD with something left out, and distribution matching (DMD), from the
same teacher, on the same data, at equal network evaluations. Per image: CD 6 (teacher 2, target 1, student 3); ADD 8 (student 3,
teacher 1, features 4), 7 without the distillation term; DMD 8 (student 3, both denoisers 1 each, training the second
one 3). Heads and optimizers are not counted; the seconds are recorded beside. Some methods run with eight times the budget as well.
Takes a quarter of an hour on one core. Finished runs are in the record; if restarted, the study continues from there.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu.course.measures.modes import mode_coverage
from cdedu.data import Dataset
from cdedu.data.modes import mode_grid
from cdedu.evaluation import digits_classifier, sliced_wasserstein
from cdedu.evaluation.comparison import Ruler
from cdedu.methods.adversarial import Features, train_adversarial
from cdedu.methods.dmd import train_matching
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import State, distill
from scripts.studies.bench import Bench, Measure, arguments, bought, noise, spreads

RECORDS = {"modes": "adversarial", "digits": "adversarial-digits"}
COST = {"cd": 6, "add": 8, "blind": 8, "seen": 8, "game": 7, "dmd": 8}
"""Evaluations an image. ``game`` is ADD without distillation term; the discriminator of ``blind`` is not told the noise level; that of ``seen``
looks at the features that the distance is measured in."""
PLANS = {
    "modes": {"budget": 819_200, "batch": 256, "seeds": 5, "looks": 12, "n": 5000},
    "digits": {"budget": 48_000, "batch": 64, "seeds": 3, "looks": 4, "n": 600},
}
LONG: dict[str, dict[str, Any]] = {"modes": {"times": 8, "seeds": 1, "methods": ("cd", "add")}}
"""What runs with so many times the budget, at the rates of the short runs."""
LAYERS = {
    "modes": (["network.layers.1", "network.layers.3", "network.layers.5"], 0.1),
    "digits": (["network.net.down_blocks.0", "network.net.mid_block"], 0.2),
}
"""Of the teacher: where ADD's discriminator looks, and the noise level there."""
RATES = {
    "modes": {"cd": 2e-3, "add": 1e-3, "game": 1e-3, "blind": 1e-3, "dmd": 5e-4},
    "digits": {"cd": 6e-4, "add": 2e-4, "seen": 2e-4},
}
"""Learning rates, from short pilot runs of one seed."""


def training(
    method: str, recipe: Recipe, teacher: nn.Module, data: Dataset, features: Features
) -> Iterator[State]:
    """The run of one method."""
    if method == "cd":
        return distill(recipe, teacher, data)
    if method == "dmd":
        return train_matching(recipe, teacher, data)  # type: ignore[arg-type]
    terms: dict[str, Any] = {
        "game": {"distillation": 0.0},
        "blind": {"told": False},
    }.get(method, {})
    return train_adversarial(recipe, teacher, features, data, **terms)  # type: ignore[arg-type]


def measure(ruler: Ruler, x: Tensor) -> dict[str, float]:
    """All that is said of samples."""
    if x.ndim == 2:
        return {**ruler.measure(x), **mode_coverage(x, mode_grid())}
    return {**ruler.measure(x), "sw": sliced_wasserstein(ruler.real.flatten(1), x.flatten(1))}


def samples(recipe: Recipe, model: nn.Module, ruler: Ruler, steps: int) -> Tensor:
    """The same noise for every student."""
    g = torch.Generator().manual_seed(100)
    x = noise(recipe, ruler.real.shape, g)
    return cdedu.sample_consistency(model, x, recipe.student_sigmas(steps), g)


def one(
    method: str, seed: int, recipe: Recipe, plan: dict[str, int], teacher: nn.Module, ruler: Ruler, data: Dataset, features: Features,
    times: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """One run, with so many times the budget: what it measures on the way with one step, and at the end with one step and with four."""
    changes = {"batch": plan["batch"], "lr": RATES[recipe.name][method], "ema": 0.99}
    recipe = bought(recipe, times * plan["budget"], COST[method], seed, **changes)
    steps, each = recipe.student.steps, COST[method] * plan["batch"]
    looks = {round(steps * (k + 1) / plan["looks"]) for k in range(plan["looks"])}
    way, spent = [], 0.0
    start = time.process_time()
    for state in training(method, recipe, teacher, data, features):
        if state.step in looks:
            spent += time.process_time() - start
            found = measure(ruler, samples(recipe, state.result, ruler, 1))
            way.append({"evaluations": state.step * each, **found})
            start = time.process_time()
    last = {k: measure(ruler, samples(recipe, state.result, ruler, k)) for k in (1, 4)}
    return {"steps": steps, "cpu_seconds": spent, "way": way, "one": last[1], "four": last[4]}


def fixed(recipe: Recipe, teacher: nn.Module, ruler: Ruler, data: Dataset) -> dict[str, Any]:
    """The teacher in 35 evaluations, the students before training, and real against real."""
    g = torch.Generator().manual_seed(100)
    z = noise(recipe, ruler.real.shape, g)
    start = cdedu.ConsistencyModel.from_teacher(teacher)
    with torch.no_grad():
        rows = {"teacher": cdedu.sample_heun(teacher, z, recipe.sigmas(18)), "untrained": cdedu.sample_consistency(start, z)}  # fmt: skip
    rows["floor"] = data.train[torch.randperm(len(data.train), generator=g)[: ruler.n]]
    if recipe.name == "modes":  # noise over the whole picture, which knows nothing of modes
        rows["uniform"] = 1.7 * torch.rand(ruler.n, 2, generator=g) - 0.85
    return {name: measure(ruler, x) for name, x in rows.items()}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest over seeds."""
    found = spreads([{key: run[key] for key in ("one", "four", "cpu_seconds")} for run in runs])
    return found | {"steps": runs[0]["steps"], "seeds": len(runs)}


def main() -> None:
    """Both studies, or the one named; a row for each method as soon as it has a seed."""
    asked = arguments(__doc__, RECORDS)
    for name in asked.parts:
        plan, recipe, rates = PLANS[name], get_recipe(name), RATES[name]
        long = LONG.get(name)
        settings = {**plan, "cost": COST, "rates": rates} | ({"long": long} if long else {})
        study = Bench(RECORDS[name], __file__, asked, name, settings=settings)
        common, teacher = Measure(recipe, plan["n"]), cdedu.load(f"{name}-teacher")
        data, ruler = common.data, common.ruler
        looks = {method: Features(teacher, *LAYERS[name]) for method in rates}
        if "seen" in looks:
            looks["seen"] = Features(digits_classifier(), ["body.5", "body.8"])
        rows = study.run("fixed", partial(fixed, recipe, teacher, ruler, data))
        study.metrics.update(plan | rows)

        def run(arm: str, seed: int) -> dict[str, Any]:
            method, _, longer = arm.partition("-")
            times = int(long["times"]) if longer else 1  # noqa: B023
            return one(method, seed, recipe, plan, teacher, ruler, data, looks[method], times)  # noqa: B023

        for arm, runs in study.arms(rates, plan["seeds"], run):
            study.metrics[arm] = summary(runs)
        if long:
            for arm, runs in study.arms([f"{method}-long" for method in long["methods"]], long["seeds"], run):
                study.metrics[arm] = summary(runs)


if __name__ == "__main__":
    main()
