"""Chapter 12: `python scripts/studies/tradeoffs.py`. Writes `results/tradeoffs.json`.

Quality, diversity and cost of many ways to sample: the teachers that come with the course under four samplers, their shipped
students, and progressive distillation and consistency training at a small budget. Some fifteen minutes on one core; what is finished is in the record,
and the study goes on from there. `--timing` measures only milliseconds, again, in less than a minute: on a quiet machine.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

import cdedu
from cdedu.data import load_data
from cdedu.evaluation import effective_classes, latency, nearer_to_training, precision_recall, spread
from cdedu.evaluation.comparison import Sampler, break_even
from cdedu.methods.progressive import halve
from cdedu.recipes import get_recipe
from cdedu.samplers import sample_consistency, sample_ddpm, sample_dpm_solver, sample_euler, sample_heun
from cdedu.teacher import Denoiser
from cdedu.training import train_consistency
from scripts.studies.bench import (
    Bench,
    Measure,
    arguments,
    bought,
    euler_walk,
    medians,
    noise,
    protocols,
    spreads,
    trained,
    weights,
)

CALLS = {
    "ddpm": (1, 2, 4, 6, 10, 18, 35, 70),
    "ddim": (1, 2, 4, 6, 10, 18, 35),
    "dpm_solver": (2, 4, 6, 10, 18, 35),
    "heun": (3, 5, 7, 11, 19, 35),
}
"""Evaluations a sample, for each sampler of the teacher."""
STUDENT_CALLS = (1, 2, 4)
PAIRED = ("heun/35", "student/1", "student/2", "student/4", "ddim/18", "dpm_solver/18")
"""Of these the Fréchet distance is kept for each seed; the first is what the others are divided by."""
NAMES = ("digits", "toy")
TRAINING_SEEDS = 3
ROUND: dict[str, Any] = {"steps": 200, "batch": 64, "lr": 8e-4, "ema": 0.98, "first": 16}
"""A round of progressive distillation, from 16 Euler steps to 8, 4, 2, 1."""

CT: dict[str, Any] = {"batch": 64, "lr": 2e-3, "points": 41}
BUDGET = 161_280
"""Consistency training as chapter 5 tuned it, with the same evaluations: four an image."""


def walk(name: str, teacher: Denoiser, calls: int, grid: Callable[[int], Tensor]) -> Sampler:
    """The sampler that asks the teacher so many times."""
    if calls == 1:
        return lambda x, g: teacher(x, 80.0)
    if name == "heun":
        return lambda x, g: sample_heun(teacher, x, grid((calls + 1) // 2))
    if name == "ddpm":
        return lambda x, g: sample_ddpm(teacher, x, grid(calls), generator=g)
    return lambda x, g: {"ddim": sample_euler, "dpm_solver": sample_dpm_solver}[name](teacher, x, grid(calls))


class Broad(Measure):
    """All metrics of a sampler, over sampling seeds: what the common ruler has, and diversity and memory beside it."""

    def __init__(self, name: str) -> None:
        super().__init__(get_recipe(name))

    @torch.no_grad()
    def metrics(self, x: Tensor) -> dict[str, float]:
        ruler = self.ruler
        out = ruler.measure(x)
        if ruler.classifier is None:
            out["precision"], out["recall"] = precision_recall(ruler.real, x)
            return out
        out["classes"] = effective_classes(ruler.classifier(x).argmax(1), 10)
        out["memory"] = nearer_to_training(x, self.data.train[: ruler.n], ruler.real)
        return out

    def real(self) -> dict[str, Any]:
        """Training data in place of samples; their memory is tested on those that are not among the set looked at."""
        train, n, runs = self.data.train, self.ruler.n, []
        for seed in self.protocol.seeds:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
            runs.append(self.metrics(train[order[:n]]))
            if "memory" in runs[-1]:
                runs[-1]["memory"] = nearer_to_training(train[n:], train[:n], self.ruler.real)
        return spreads(runs)

    @torch.no_grad()
    def seeds(self, sampler: Sampler) -> list[dict[str, float]]:
        """The metrics for each sampling seed."""
        out = []
        for seed in self.protocol.seeds:
            g = torch.Generator().manual_seed(seed)
            out.append(self.metrics(sampler(noise(self.recipe, self.ruler.real.shape, g), g)))
        return out

    def middle(self, sampler: Sampler) -> dict[str, float]:
        """The median of each metric over sampling seeds."""
        return medians(spreads(self.seeds(sampler)))


def rows(measure: Broad) -> dict[str, Sampler]:
    """The shipped teacher under its samplers, and the shipped student: kind/calls → sampler."""
    name, recipe = measure.recipe.name, measure.recipe
    teacher, student = cdedu.load(f"{name}-teacher"), cdedu.load(f"{name}-student")
    out = {
        f"{kind}/{calls}": walk(kind, teacher, calls, recipe.sigmas)
        for kind, each in CALLS.items()
        for calls in each
    }
    for calls in STUDENT_CALLS:
        levels = recipe.student_sigmas(calls)
        out[f"student/{calls}"] = lambda x, g, s=levels: sample_consistency(student, x, s, g)  # type: ignore[misc]
    return out


def fixed(study: Bench, name: str) -> None:
    """All samplers of a data set; for digits some of them seed by seed, since one noise is easier than another for all alike."""
    measure = Broad(name)
    study.run(f"{name}/floor", measure.real)
    samplers = rows(measure)
    for key, sampler in tqdm(samplers.items(), desc=name):
        study.run(f"{name}/{key}", lambda sampler=sampler: spreads(measure.seeds(sampler)))  # type: ignore[misc]
    for key in PAIRED if name == "digits" else ():
        study.run(f"digits/paired/{key}", lambda key=key: [row["fd"] for row in measure.seeds(samplers[key])])  # type: ignore[misc]


def progressive(measure: Broad, arm: str, seed: int) -> dict[str, Any]:
    """Rounds of halving on digits."""
    stage = {key: ROUND[key] for key in ("steps", "batch", "lr", "ema")}
    recipe = replace(measure.recipe, student=replace(measure.recipe.student, **stage), seed=seed)
    model, grid, out = cdedu.load("digits-teacher"), recipe.sigmas(ROUND["first"]), {}
    while len(grid) > 1:
        model, grid = trained(halve(recipe, model, grid, measure.data), arm)[0].result, grid[::2]
        out[str(len(grid))] = measure.middle(lambda x, g, m=model, s=grid: euler_walk(m, x, s))  # type: ignore[misc]
    return out


def scratch(measure: Broad, arm: str, seed: int) -> dict[str, Any]:
    """Consistency training of digits from random weights."""
    recipe = bought(measure.recipe, BUDGET, 4, seed, **CT)
    student = trained(train_consistency(recipe, measure.data), arm)[0].result
    levels = {str(k): recipe.student_sigmas(k) for k in STUDENT_CALLS}
    return {
        k: measure.middle(lambda x, g, s=s: sample_consistency(student, x, s, g))  # type: ignore[misc]
        for k, s in levels.items()
    }


def flops(model: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one call for one sample, a multiplication and an addition each counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape), 1.0)
    return counter.get_total_flops()


@torch.no_grad()
def timing() -> dict[str, Any]:
    """Milliseconds at batch 1 and 64, each sampler in turn beside single calls of the network, and the ratio of the two."""
    recipe = get_recipe("digits")
    teacher, student = cdedu.load("digits-teacher"), cdedu.load("digits-student")
    levels = recipe.student_sigmas(2)
    rows: dict[str, Sampler] = {
        f"{kind}/{calls}": walk(kind, teacher, calls, recipe.sigmas)
        for kind, calls in (("ddim", 10), ("dpm_solver", 10), ("ddpm", 10), ("heun", 35))
    }
    rows["student/1"] = lambda x, g: sample_consistency(student, x, (80.0,), g)
    rows["student/2"] = lambda x, g: sample_consistency(student, x, levels, g)

    def ratio(one: Callable[[], object], other: Callable[[], object], repeats: int) -> dict[str, float]:
        one(), other()
        return spread([latency(one, 1) / latency(other, 1) for _ in range(repeats)])

    def single(x: Tensor, calls: int) -> Callable[[], object]:
        """So many calls of the network and nothing else."""
        return lambda: [teacher(x, 1.0) for _ in range(calls)]

    out: dict[str, Any] = {
        "note": "in_calls: the time of a sampler beside that of as many single calls, one right after the other, so that other work on the machine cancels"
    }
    for batch, repeats in ((1, 15), (64, 5)):
        x, in_calls = noise(recipe, (batch, 1, 8, 8), 0), {}
        for name, sampler in rows.items():
            calls, g = int(name.rsplit("/", 1)[1]), torch.Generator().manual_seed(0)
            many = ratio(lambda s=sampler: s(x, g), single(x, calls), repeats)  # type: ignore[misc]  # noqa: B023
            in_calls[name] = {key: calls * value for key, value in many.items()}
        out[str(batch)] = {"call_milliseconds": 1e3 * latency(single(x, 1), 15), "in_calls": in_calls}
    out["batch_gain"] = ratio(
        single(noise(recipe, (1, 1, 8, 8), 0), 64), single(noise(recipe, (64, 1, 8, 8), 0), 1), 5
    )
    return out


def summary(study: Bench) -> dict[str, Any]:
    """The metrics of the record, from the runs that are finished."""
    runs = study.runs
    metrics: dict[str, Any] = {"training_seeds": TRAINING_SEEDS}
    if "timing" in study.metrics:
        metrics["timing"] = study.metrics["timing"]
    for name in NAMES:
        recipe, teacher = get_recipe(name), cdedu.load(f"{name}-teacher")
        shape = tuple(load_data(recipe.data).train.shape[1:])
        cost = {
            "teacher": 3 * recipe.teacher.batch * recipe.teacher.steps,
            "student": 6 * recipe.student.batch * recipe.student.steps,
        }
        part = metrics[name] = {"flops": flops(teacher, shape), "training": cost}
        part["parameters"] = sum(p.numel() for p in teacher.parameters())
        part["floor"] = runs.get(f"{name}/floor")
        part["samplers"] = {
            key.removeprefix(f"{name}/"): {"evaluations": int(key.rsplit("/", 1)[1]), **value}
            for key, value in runs.items()
            if key.startswith(f"{name}/") and key.split("/")[1] in (*CALLS, "student")
        }
    one = metrics["digits"]["samplers"].get("student/1")
    if one:
        price = metrics["digits"]["training"]["student"]
        one["break_even"] = {str(calls): break_even(price, calls, 1) for calls in (10, 18, 35)}
    fd = {key: runs.get(f"digits/paired/{key}") for key in PAIRED}
    if all(fd.values()):
        metrics["digits"]["paired"] = {
            key: spread([a / b for a, b in zip(fd[key], fd[PAIRED[0]], strict=True)]) for key in PAIRED[1:]
        }
    for kind, training in (("progressive", 5 * 4 * ROUND["batch"] * ROUND["steps"]), ("ct", BUDGET)):
        if done := study.finished(f"digits/{kind}", TRAINING_SEEDS):
            samplers = {n: {"evaluations": int(n), **row} for n, row in spreads(done).items()}
            metrics["digits"][kind] = {"training": training, "samplers": samplers}
    return metrics


def main() -> None:
    """All parts, or the timing alone."""
    asked = arguments(__doc__, timing={"action": "store_true", "help": "only remeasure milliseconds"})
    settings = {"calls": CALLS, "student_calls": STUDENT_CALLS, "round": ROUND}
    recipe = {name: get_recipe(name).to_dict() for name in NAMES}
    study = Bench(
        "tradeoffs",
        __file__,
        asked,
        settings=settings,
        recipe=recipe,
        protocol=protocols(NAMES),
        weights=weights(NAMES),
    )
    if not asked.timing:
        for name in reversed(NAMES):
            fixed(study, name)
            study.write(summary(study))
        measure = Broad("digits")
        for arm, one in (("progressive", progressive), ("ct", scratch)):
            for _ in study.arms([f"digits/{arm}"], TRAINING_SEEDS, partial(one, measure)):
                study.metrics = summary(study)
    if asked.timing or "timing" not in study.metrics:
        study.metrics["timing"] = timing()
        study.write(summary(study))


if __name__ == "__main__":
    main()
