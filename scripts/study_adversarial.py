"""Chapter 15: `python scripts/study_adversarial.py`. Writes `results/adversarial.json` and `results/adversarial-digits.json`.

Consistency distillation against adversarial distillation (ADD), ADD with something left out, and distribution matching (DMD), from the
same teacher, on the same data, at equal network evaluations. Per image: CD 6 (teacher 2, target 1, student 3); ADD 8 (student 3,
teacher 1, features 4), 7 without the distillation term; DMD 8 (student 3, both denoisers 1 each, training the second
one 3). Heads and optimisers are not counted; the seconds are recorded beside. Some ten minutes on one core. What is finished is in
the record; started again, the study goes on from there.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu import records
from cdedu.data import Dataset, digits
from cdedu.data.modes import mode_data, mode_grid
from cdedu.evaluation import digits_classifier, sliced_wasserstein, spread
from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.modes import mode_coverage
from cdedu.methods.adversarial import Features, train_adversarial
from cdedu.methods.dmd import train_matching
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import State, distill

PATHS = {"modes": Path("results/adversarial.json"), "digits": Path("results/adversarial-digits.json")}
COST = {"cd": 6, "add": 8, "blind": 8, "seen": 8, "game": 7, "dmd": 8}
"""Evaluations an image. ``game`` is ADD without distillation term; the discriminator of ``blind`` is not told the noise level; that of ``seen``
looks at the features that the distance is measured in."""
TOY = {"budget": 819_200, "batch": 256, "seeds": 5, "looks": 12, "n": 5000}
DIGITS = {"budget": 48_000, "batch": 64, "seeds": 3, "looks": 4, "n": 600}
TOY_LAYERS, TOY_SIGMA = ["network.layers.1", "network.layers.3", "network.layers.5"], 0.1
DIGITS_LAYERS, DIGITS_SIGMA = ["network.net.down_blocks.0", "network.net.mid_block"], 0.2
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
    x = recipe.sigma_max * torch.randn(ruler.real.shape, generator=g)
    return cdedu.sample_consistency(model, x, recipe.student_sigmas(steps), g)


def one(
    method: str, seed: int, recipe: Recipe, plan: dict[str, int], teacher: nn.Module, ruler: Ruler, data: Dataset, features: Features
) -> dict[str, Any]:  # fmt: skip
    """One run: what it measures on the way with one step, and at the end with one step and with four."""
    steps = plan["budget"] // (COST[method] * plan["batch"])
    stage = replace(recipe.student, steps=steps, batch=plan["batch"], lr=RATES[recipe.name][method], ema=0.99)
    recipe = replace(recipe, student=stage, seed=seed)
    looks = {round(steps * (k + 1) / plan["looks"]) for k in range(plan["looks"])}
    way, spent = [], 0.0
    start = time.process_time()
    for state in training(method, recipe, teacher, data, features):
        if state.step in looks:
            spent += time.process_time() - start
            found = measure(ruler, samples(recipe, state.result, ruler, 1))
            way.append({"evaluations": state.step * COST[method] * plan["batch"], **found})
            start = time.process_time()
    last = {k: measure(ruler, samples(recipe, state.result, ruler, k)) for k in (1, 4)}
    return {"steps": steps, "cpu_seconds": spent, "way": way, "one": last[1], "four": last[4]}


def fixed(recipe: Recipe, teacher: nn.Module, ruler: Ruler, data: Dataset) -> dict[str, Any]:
    """The teacher in 35 evaluations, the students before training, and real against real."""
    g = torch.Generator().manual_seed(100)
    z = recipe.sigma_max * torch.randn(ruler.real.shape, generator=g)
    start = cdedu.ConsistencyModel.from_teacher(teacher)
    with torch.no_grad():
        rows = {"teacher": cdedu.sample_heun(teacher, z, recipe.sigmas(18)), "untrained": cdedu.sample_consistency(start, z)}  # fmt: skip
    rows["floor"] = data.train[torch.randperm(len(data.train), generator=g)[: ruler.n]]
    return {name: measure(ruler, x) for name, x in rows.items()}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest over seeds."""
    out: dict[str, Any] = {key: {name: spread([run[key][name] for run in runs]) for name in runs[0][key]} for key in ("one", "four")}  # fmt: skip
    return {**out, "steps": runs[0]["steps"], "seeds": len(runs), "cpu_seconds": spread([run["cpu_seconds"] for run in runs])}  # fmt: skip


def main() -> None:
    """Both studies, or the one named; a row for each method as soon as it has a seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="*", default=["modes", "digits"], help="modes, digits")
    parser.add_argument("--afresh", action="store_true", help="do not go on from the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    modes = replace(get_recipe("toy"), name="modes", data="modes")
    for name, recipe, plan in (("modes", modes, TOY), ("digits", get_recipe("digits"), DIGITS)):
        if name not in arguments.which:
            continue
        settings = {**plan, "cost": COST, "rates": RATES[name]}
        study = records.Study(
            PATHS[name],
            f"python scripts/study_adversarial.py {name}",
            afresh=arguments.afresh,
            settings=settings,
        )
        metrics = study.metrics
        data, teacher = mode_data(mode_grid()) if name == "modes" else digits(), cdedu.load(f"{name}-teacher")
        ruler = Ruler(data, plan["n"])
        looks = {method: Features(teacher, TOY_LAYERS, TOY_SIGMA) if name == "modes" else Features(teacher, DIGITS_LAYERS, DIGITS_SIGMA) for method in RATES[name]}  # fmt: skip
        if "seen" in looks:
            looks["seen"] = Features(digits_classifier(), ["body.5", "body.8"])
        metrics.update(plan | study.run("fixed", partial(fixed, recipe, teacher, ruler, data)))  # fmt: skip
        for seed in range(plan["seeds"]):
            for method in RATES[name]:
                study.run(f"{method}/{seed}", partial(one, method, seed, recipe, plan, teacher, ruler, data, looks[method]))  # fmt: skip
                done = [study.runs[key] for s in range(plan["seeds"]) if (key := f"{method}/{s}") in study.runs]  # fmt: skip
                metrics[method] = summary(done)
                study.write(metrics)
                print(name, method, seed, {k: round(v, 3) for k, v in done[-1]["one"].items()}, flush=True)


if __name__ == "__main__":
    main()
