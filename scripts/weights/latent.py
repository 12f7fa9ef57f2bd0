"""Weights of chapter 14: `python scripts/weights/latent.py`. Writes four files in cdedu/weights and `results/latent-training.json`.

An autoencoder of digits; a labeled teacher among its latents and one of the same network in pixels; a guided student of the first.
Takes about four minutes on one core. UNets are stored in half precision. Finished parts are kept; `--afresh` starts over.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu.data import Dataset, digits
from cdedu.evaluation.comparison import Ruler
from cdedu.methods.guidance import GuidedDenoiser, with_null_labels
from cdedu.methods.latent import (
    LATENT_DIGITS,
    NULL,
    latent_data,
    latent_student,
    skipping_loss,
    train_autoencoder,
)
from cdedu.networks.latent import Autoencoder
from cdedu.recipes import get_recipe
from cdedu.training import distill, train_teacher
from scripts.studies.bench import Bench, arguments, noise, spreads, trained
from scripts.weights.ship import ship

AUTOENCODER = {"steps": 1500, "kl": 1e-3, "seed": 0}
STUDENT: dict[str, Any] = {
    "points": 69,
    "skip": 4,
    "low": 1.0,
    "high": 4.0,
    "steps": 3000,
    "lr": 2e-3,
    "ema": 0.995,
}


def measure(ruler: Ruler, draw: Any, seeds: int = 3) -> dict[str, Any]:
    """Metrics of 600 samples, sixty of each label, and how many of them the classifier takes for what they should be."""
    assert ruler.classifier is not None
    labels, rows = torch.arange(ruler.n) % 10, []
    for seed in range(seeds):
        with torch.no_grad():
            x = draw(labels, torch.Generator().manual_seed(seed))
            right = (ruler.classifier(x).argmax(1) == labels).float().mean()
        rows.append({**ruler.measure(x), "label": float(right)})
    return spreads(rows)


def train_the_autoencoder(data: Dataset, ruler: Ruler) -> dict[str, Any]:
    torch.manual_seed(AUTOENCODER["seed"])
    model, start = Autoencoder(), time.process_time()
    for loss in train_autoencoder(model, data.train, int(AUTOENCODER["steps"]), kl=AUTOENCODER["kl"]):
        pass
    seconds = time.process_time() - start
    model = ship("digits-autoencoder", model, None, data.train.shape[1:], **AUTOENCODER)
    with torch.no_grad():
        gap = (model.decode(model.encode(data.test)) - data.test).square().mean()
    return {"loss": loss, "scale": float(model.scale), "test_mse": float(gap), "cpu_seconds": seconds}


def train_a_teacher(space: str, data: Dataset, ruler: Ruler) -> dict[str, Any]:
    recipe, decode = get_recipe("labelled-digits"), nn.Identity()
    if space == "latent":
        model = cdedu.load("digits-autoencoder").requires_grad_(False)
        recipe, data, decode = LATENT_DIGITS, latent_data(model, data), model.decode
    shape = tuple(data.train.shape[1:])
    state, seconds = trained(train_teacher(recipe, with_null_labels(data, NULL)), recipe.name)
    teacher = ship(f"{recipe.name}-teacher", state.result, recipe, shape, half=True, labels=NULL)

    def draw(labels: Tensor, g: torch.Generator) -> Tensor:
        z = noise(recipe, (len(labels), *shape), g)
        return decode(cdedu.sample_heun(teacher, z, recipe.sigmas(18), labels=labels))

    return {"cpu_seconds": seconds, "heun_35": measure(ruler, draw)}


def train_the_student(data: Dataset, ruler: Ruler) -> dict[str, Any]:
    scales = STUDENT["low"], STUDENT["high"]
    stage = replace(LATENT_DIGITS.student, **{key: STUDENT[key] for key in ("points", "steps", "lr", "ema")})
    network = replace(LATENT_DIGITS.network, guided=True, lcm=True)
    recipe = replace(LATENT_DIGITS, student=stage, network=network)
    teacher, model = (
        cdedu.load("latent-digits-teacher"),
        cdedu.load("digits-autoencoder").requires_grad_(False),
    )
    latents, guided = latent_data(model, data), GuidedDenoiser(teacher, None, NULL)
    shape, loss = tuple(latents.train.shape[1:]), partial(skipping_loss, skip=STUDENT["skip"])
    student = latent_student(teacher, scales)
    state, seconds = trained(distill(recipe, guided, latents, student=student, guidance=scales, loss=loss))
    facts = {"labels": NULL, "guidance": scales, **STUDENT}
    kept = ship("latent-digits-student", state.result, recipe, shape, half=True, **facts)

    def draw(labels: Tensor, g: torch.Generator, steps: int, scale: float) -> Tensor:
        z, levels = noise(recipe, (len(labels), *shape), g), recipe.student_sigmas(steps)
        return model.decode(cdedu.sample_consistency(kept, z, levels, g, labels=labels, guidance=scale))

    rows = {f"steps_{k}": measure(ruler, partial(draw, steps=k, scale=1.0)) for k in (1, 2, 4)}
    rows |= {f"scale_{s:g}": measure(ruler, partial(draw, steps=2, scale=s)) for s in (1.5, 2.0, 3.0, 4.0)}
    return {**STUDENT, "cpu_seconds": seconds, **rows}


def main() -> None:
    """All four, in order."""
    asked, data = arguments(__doc__), digits()
    ruler = Ruler(data)
    fixed = {"recipe": LATENT_DIGITS.to_dict(), "seed": LATENT_DIGITS.seed, "data": data.describe()}
    study = Bench("latent-training", __file__, asked, settings={"autoencoder": AUTOENCODER}, **fixed)
    study.metrics["floor"] = ruler.floor(3)
    jobs = {
        "autoencoder": train_the_autoencoder,
        "latent": partial(train_a_teacher, "latent"),
        "pixel": partial(train_a_teacher, "pixel"),
        "student": train_the_student,
    }
    for name, job in jobs.items():
        study.metrics[name] = study.run(name, partial(job, data, ruler))
        study.write(study.metrics)
        print(name, study.metrics[name], flush=True)


if __name__ == "__main__":
    main()
