"""Chapter 14: `python scripts/study_latent.py`. Writes `results/latent.json`.

What an autoencoder costs (`floor`), what latent space buys at the size of digits (`spaces`), what a solver that skips is worth (`skip`),
and how long a call takes (`cost`). Students start from the teachers of `scripts/train_latent.py` and are distilled with guidance as an
input. An image costs 6 evaluations: teacher 2 (with label and without), target 1, student 3. Some fifteen minutes on one core. What is
finished is in the record; started again, the study goes on from there.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from train_latent import PIXELS, autoencoder, last, measure

import cdedu
from cdedu.comparison import Ruler
from cdedu.data import Dataset, digits
from cdedu.evaluation import latency, spread
from cdedu.guidance import GuidedDenoiser
from cdedu.latent import (
    LATENT_DIGITS,
    NULL,
    Autoencoder,
    latent_data,
    latent_student,
    skipping_loss,
    train_autoencoder,
)
from cdedu.recipes import Recipe
from cdedu.records import Study
from cdedu.training import distill

SEEDS, BATCH, RANGE, COST = 5, 64, (1.0, 4.0), 6
FLOOR = {"steps": 800, "channels": [1, 2, 4]}
SPACES = {"steps": 800, "points": 18}
SKIP = {"steps": 500, "arms": {"fine, k = 1": [121, 1], "fine, k = 5": [121, 5], "fine, k = 15": [121, 15], "fine, k = 40": [121, 40], "coarse, k = 1": [25, 1]}}  # fmt: skip
STEPS, SCALES = (1, 2, 4), (1.0, 2.0, 4.0)


def floor(channels: int, seed: int, data: Dataset, ruler: Ruler) -> dict[str, float]:
    """An autoencoder, and what becomes of real digits that pass through it."""
    torch.manual_seed(seed)
    model = Autoencoder(channels)
    for _ in train_autoencoder(model, data.train, FLOOR["steps"]):
        pass
    with torch.no_grad():
        gap = (model.decode(model.encode(data.test)) - data.test).square().mean()
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        shown = data.train[order[: ruler.n]]
        return {"mse": float(gap), "kept": ruler.measure(shown)["fd"], "fd": ruler.measure(model.decode(model.encode(shown)))["fd"]}  # fmt: skip


def students(
    recipe: Recipe, shown: Dataset, decode: Any, steps: int, points: int, skip: int, seed: int, ruler: Ruler
) -> dict[str, Any]:
    """Distil at all scales, and measure at some."""
    teacher = cdedu.load(f"{recipe.name}-teacher")
    stage = replace(recipe.student, steps=steps, batch=BATCH, points=points)
    recipe = replace(recipe, student=stage, seed=seed)
    loss, start = partial(skipping_loss, skip=skip), time.process_time()
    run = distill(recipe, GuidedDenoiser(teacher, None, NULL), shown, student=latent_student(teacher, RANGE), guidance=RANGE, loss=loss)  # fmt: skip
    student, seconds = last(run), time.process_time() - start

    def draw(labels: Tensor, g: torch.Generator, k: int, scale: float) -> Tensor:
        z = recipe.sigma_max * torch.randn((len(labels), *shown.train.shape[1:]), generator=g)
        return decode(cdedu.sample_consistency(student, z, recipe.student_sigmas(k), g, labels=labels, guidance=scale))  # fmt: skip

    def row(k: int, scale: float) -> dict[str, float]:
        found = measure(ruler, partial(draw, k=k, scale=scale), seeds=1)
        return {key: value["median"] for key, value in found.items()}

    return {"cpu_seconds": seconds, **{f"steps_{k}": row(k, 1.0) for k in STEPS}, **{f"scale_{s:g}": row(2, s) for s in SCALES}}  # fmt: skip


def teacher_at(recipe: Recipe, shape: tuple[int, ...], decode: Any, ruler: Ruler) -> dict[str, Any]:
    """The guided teacher, 18 points of Heun, at the same scales: 35 evaluations with one label, 70 with guidance."""
    teacher = cdedu.load(f"{recipe.name}-teacher")

    def draw(labels: Tensor, g: torch.Generator, scale: float) -> Tensor:
        z = recipe.sigma_max * torch.randn((len(labels), *shape), generator=g)
        return decode(cdedu.sample_heun(GuidedDenoiser(teacher, scale, NULL), z, recipe.sigmas(18), labels=labels))  # fmt: skip

    return {f"scale_{s:g}": measure(ruler, partial(draw, scale=s)) for s in SCALES}


def cost(batch: int = 64) -> dict[str, dict[str, float]]:
    """Parameters, operations of an image, and milliseconds of a batch: both networks and the decoder."""
    latent, pixel, model = cdedu.load("latent-digits-teacher"), cdedu.load("labelled-digits-teacher"), autoencoder()  # fmt: skip
    labels, out = torch.zeros(batch, dtype=torch.long), {}
    calls = {
        "latent": (latent, (torch.randn(batch, 2, 4, 4), 1.0), {"labels": labels}),
        "pixel": (pixel, (torch.randn(batch, 1, 8, 8), 1.0), {"labels": labels}),
        "decoder": (model.decode, (torch.randn(batch, 2, 4, 4),), {}),
    }
    for name, (call, inputs, options) in calls.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(*inputs, **options)
        network = model.decoder if name == "decoder" else call
        out[name] = {"flops": counter.get_total_flops() / batch, "parameters": sum(p.numel() for p in network.parameters())}  # fmt: skip
    for _ in range(5):
        for name, (call, inputs, options) in calls.items():
            with torch.no_grad():
                call(*inputs, **options)
                out[name].setdefault("all", []).append(latency(partial(call, *inputs, **options), 9))
    return {name: {**row, "ms": 1e3 * spread(row.pop("all"))["min"]} for name, row in out.items()}


def gather(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest over seeds, of numbers and of groups of numbers."""
    rows = {key: [run[key] for run in runs] for key in runs[0]}
    return {key: gather(values) if isinstance(values[0], dict) else spread(values) for key, values in rows.items()}  # fmt: skip


def main() -> None:
    """All parts, or those named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "which", nargs="*", default=["floor", "spaces", "skip", "cost"], help="floor, spaces, skip, cost"
    )
    parser.add_argument("--afresh", action="store_true", help="do not go on from the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    ruler, model = Ruler(data), autoencoder()
    settings = {"seeds": SEEDS, "batch": BATCH, "range": list(RANGE), "cost": COST, "floor": FLOOR, "spaces": SPACES, "skip": SKIP}  # fmt: skip
    study = Study("results/latent.json", "python scripts/study_latent.py", afresh=arguments.afresh, settings=settings, data=data.describe())  # fmt: skip
    metrics = study.metrics
    metrics.update(seeds=SEEDS, budget={name: part["steps"] * BATCH * COST for name, part in (("spaces", SPACES), ("skip", SKIP))})  # fmt: skip
    latents = latent_data(model, data)
    spaces = {"latent": (LATENT_DIGITS, latents, model.decode), "pixel": (PIXELS, data, nn.Identity())}

    def seeds(part: str, arm: str, one: Any) -> None:
        """The runs of one arm, and their summary."""
        runs = [study.run(f"{part}/{arm}/{seed}", partial(one, seed=seed)) for seed in range(SEEDS)]
        metrics.setdefault(part, {})[arm] = gather(runs)
        study.write(metrics)
        print(part, arm, {k: v for k, v in metrics[part][arm].items() if k in ("fd", "mse", "cpu_seconds")}, metrics[part][arm].get("steps_1", {}).get("fd"), flush=True)  # fmt: skip

    if "cost" in arguments.which:
        metrics["cost"] = study.run("cost", cost)
    if "floor" in arguments.which:
        metrics["real"] = study.run("real", partial(ruler.floor, SEEDS))
        for channels in FLOOR["channels"]:
            seeds("floor", str(channels), partial(floor, channels, data=data, ruler=ruler))
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[: ruler.n]
        with torch.no_grad():
            shipped = model.decode(model.encode(data.train[order]))
        metrics["shipped"] = {"fd": ruler.measure(shipped)["fd"], "scale": float(model.scale)}
    for name, (recipe, shown, decode) in spaces.items():
        if "spaces" in arguments.which:
            shape = tuple(shown.train.shape[1:])
            metrics.setdefault("teacher", {})[name] = study.run(f"teacher/{name}", partial(teacher_at, recipe, shape, decode, ruler))  # fmt: skip
            seeds("spaces", name, partial(students, recipe, shown, decode, SPACES["steps"], SPACES["points"], 1, ruler=ruler))  # fmt: skip
    if "skip" in arguments.which:
        for name, (points, k) in SKIP["arms"].items():
            seeds("skip", name, partial(students, LATENT_DIGITS, latents, model.decode, SKIP["steps"], points, k, ruler=ruler))  # fmt: skip
    study.write(metrics)


if __name__ == "__main__":
    main()
