"""Chapter 14: `python scripts/studies/latent.py`. Writes `results/latent.json`.

What an autoencoder costs (`floor`), what latent space buys at the size of digits (`spaces`), what a solver that skips is worth
(`moons`, `skip`), and how long a call takes (`cost`). Students start from the teachers of `scripts/weights/latent.py` and are distilled with guidance as an
input, where an image costs 6 evaluations (teacher 2, with label and without, target 1, student 3); for ``skip`` without guidance, where
it costs 5. Takes about ten minutes on one core. Finished runs are in the record; if restarted, the study continues from there.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cdedu
from cdedu.data import Dataset, digits, load_data
from cdedu.evaluation import latency, spread
from cdedu.evaluation.comparison import Ruler
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.methods.latent import (
    LATENT_DIGITS,
    NULL,
    latent_data,
    latent_student,
    skipping_loss,
    train_autoencoder,
)
from cdedu.networks.latent import Autoencoder
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import distill
from scripts.studies.bench import Bench, arguments, medians, noise, spreads, trained
from scripts.weights.latent import measure

PARTS = ("moons", "floor", "spaces", "skip", "cost")
SEEDS, BATCH, RANGE = 5, 64, (1.0, 3.0)
COST = {"spaces": 6, "skip": 5}
FLOOR = {"steps": 500, "channels": [1, 2, 4]}
SPACES = {"steps": 800, "points": [18, 121], "lr": 2e-3}
SKIP = {"steps": 600, "lr": 2e-3}
MOONS = {"steps": 1000, "batch": 256, "lr": 2e-3, "looks": [125, 250, 500, 1000]}
ARMS = {"k = 1": [121, 1], "k = 5": [121, 5], "k = 15": [121, 15], "k = 40": [121, 40], "coarse": [25, 1], "coarser": [18, 1]}  # fmt: skip
"""For each arm the points of the grid, and k. Moons have the first five, digits the first three and the last."""
STEPS, SCALES = (1, 2, 4), (1.0, 2.0, 3.0)


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
    part: str, recipe: Recipe, shown: Dataset, decode: Any, points: int, skip: int, seed: int, ruler: Ruler
) -> dict[str, Any]:
    """Distill, and measure with 1, 2 and 4 steps: with the guidance weight as an input, or the labeled teacher as it is (``skip``)."""
    teacher, plan, guided = cdedu.load(f"{recipe.name}-teacher"), {"spaces": SPACES, "skip": SKIP}[part], part == "spaces"  # fmt: skip
    stage = replace(recipe.student, steps=plan["steps"], lr=plan["lr"], batch=BATCH, points=points)
    recipe = replace(recipe, student=stage, seed=seed)
    options: dict[str, Any] = {"loss": partial(skipping_loss, skip=skip)}
    if guided:
        options.update(student=latent_student(teacher, RANGE), guidance=RANGE)
    guide = GuidedDenoiser(teacher, None, NULL) if guided else teacher
    state, seconds = trained(distill(recipe, guide, shown, **options))
    student = state.result

    def draw(labels: Tensor, g: torch.Generator, k: int, **cond: float) -> Tensor:
        z = noise(recipe, (len(labels), *shown.train.shape[1:]), g)
        return decode(cdedu.sample_consistency(student, z, recipe.student_sigmas(k), g, labels=labels, **cond))  # fmt: skip

    def row(k: int, **cond: float) -> dict[str, float]:
        return medians(measure(ruler, partial(draw, k=k, **cond), seeds=1))

    if not guided:
        return {"cpu_seconds": seconds, **{f"steps_{k}": row(k) for k in STEPS}}
    ways = {f"steps_{k}": row(k, guidance=1.0) for k in STEPS}
    return {"cpu_seconds": seconds, **ways, **{f"scale_{s:g}": row(1, guidance=s) for s in SCALES}}


def moons(points: int, skip: int, seed: int) -> dict[str, Any]:
    """The same in two dimensions, on two moons: the distance on the way, with one step and with two."""
    recipe, teacher = get_recipe("toy"), cdedu.load("toy-teacher")
    stage = replace(recipe.student, steps=MOONS["steps"], batch=MOONS["batch"], lr=MOONS["lr"], ema=0.99, points=points, solver="euler")  # fmt: skip
    recipe = replace(recipe, student=stage, seed=seed)
    ruler, g = Ruler(load_data("two_moons")), torch.Generator().manual_seed(100)
    z, way = noise(recipe, ruler.real.shape, g), {}
    for state in distill(recipe, teacher, loss=partial(skipping_loss, skip=skip)):
        if state.step in MOONS["looks"]:
            ends = {f"steps_{k}": cdedu.sample_consistency(state.result, z, recipe.student_sigmas(k), g) for k in (1, 2)}  # fmt: skip
            way[str(state.step)] = {key: ruler.measure(x) for key, x in ends.items()}
    return way


def teacher_at(recipe: Recipe, shape: tuple[int, ...], decode: Any, ruler: Ruler) -> dict[str, Any]:
    """The guided teacher, 18 points of Heun, at the same scales: 35 evaluations with one label, 70 with guidance. And asked ``once``
    from noise alone, where the right answer is the mean of each class: what a student starts as."""
    teacher = cdedu.load(f"{recipe.name}-teacher")

    def draw(labels: Tensor, g: torch.Generator, scale: float) -> Tensor:
        z = noise(recipe, (len(labels), *shape), g)
        return decode(cdedu.sample_heun(GuidedDenoiser(teacher, scale, NULL), z, recipe.sigmas(18), labels=labels))  # fmt: skip

    def once(labels: Tensor, g: torch.Generator) -> Tensor:
        z = noise(recipe, (len(labels), *shape), g)
        return decode(teacher(z, recipe.sigma_max, labels=labels))

    walks = {f"scale_{s:g}": measure(ruler, partial(draw, scale=s)) for s in SCALES}
    return {**walks, "once": measure(ruler, once)}


def cost(batch: int = 64) -> dict[str, dict[str, float]]:
    """Parameters, operations of an image, and milliseconds of a batch: both networks and the decoder."""
    latent, pixel, model = cdedu.load("latent-digits-teacher"), cdedu.load("labelled-digits-teacher"), cdedu.load("digits-autoencoder")  # fmt: skip
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


def main() -> None:
    """All parts, or those named."""
    asked = arguments(__doc__, PARTS)
    data = digits()
    ruler, model = Ruler(data), cdedu.load("digits-autoencoder").requires_grad_(False)
    settings = {"seeds": SEEDS, "batch": BATCH, "range": list(RANGE), "cost": COST, "floor": FLOOR, "spaces": SPACES, "skip": SKIP, "moons": MOONS, "arms": ARMS}  # fmt: skip
    study = Bench("latent", __file__, asked, settings=settings, data=data.describe())
    metrics = study.metrics
    metrics.update(seeds=SEEDS, budget={name: part["steps"] * BATCH * COST[name] for name, part in (("spaces", SPACES), ("skip", SKIP))})  # fmt: skip
    latents = latent_data(model, data)
    spaces = {
        "latent": (LATENT_DIGITS, latents, model.decode),
        "pixel": (get_recipe("labelled-digits"), data, nn.Identity()),
    }

    def seeds(part: str, arm: str, one: Any) -> None:
        """The runs of one arm, and their summary."""
        for _, runs in study.arms([f"{part}/{arm}"], SEEDS, lambda _, seed: one(seed=seed)):
            metrics.setdefault(part, {})[arm] = spreads(runs)

    if "moons" in asked.parts:
        for name, (points, k) in list(ARMS.items())[:5]:
            seeds("moons", name, partial(moons, points, k))
    if "cost" in asked.parts:
        metrics["cost"] = study.run("cost", cost)
    if "floor" in asked.parts:
        metrics["real"] = study.run("real", partial(ruler.floor, SEEDS))
        for channels in FLOOR["channels"]:
            seeds("floor", str(channels), partial(floor, channels, data=data, ruler=ruler))
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[: ruler.n]
        with torch.no_grad():
            shipped = model.decode(model.encode(data.train[order]))
        metrics["shipped"] = {"fd": ruler.measure(shipped)["fd"], "scale": float(model.scale)}
    for name, (recipe, shown, decode) in spaces.items() if "spaces" in asked.parts else ():
        walks = partial(teacher_at, recipe, tuple(shown.train.shape[1:]), decode, ruler)
        metrics.setdefault("teacher", {})[name] = study.run(f"teacher/{name}", walks)
        for points in SPACES["points"]:
            arm = name if points == SPACES["points"][0] else f"{name}, {points} points"
            one = partial(students, "spaces", recipe, shown, decode, points, 1, ruler=ruler)
            seeds("spaces", arm, one)
    if "skip" in asked.parts:
        for name, (points, k) in [row for row in ARMS.items() if row[0] not in ("k = 40", "coarse")]:
            seeds("skip", name, partial(students, "skip", LATENT_DIGITS, latents, model.decode, points, k, ruler=ruler))  # fmt: skip
    study.write(metrics)


if __name__ == "__main__":
    main()
