"""Weights of chapter 14: `python scripts/train_latent.py`. Writes four files in cdedu/weights and `results/latent-training.json`.

An autoencoder of digits; a labelled teacher among its latents and one of the same network in pixels; a guided student of the first.
Some four minutes on one core. UNets are stored in half precision. What is finished is kept; `--afresh` begins anew. The hashes in
cdedu/weights/hashes.json are renewed by `python scripts/hash_weights.py`.
"""

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu.checkpoints import WEIGHTS, save
from cdedu.data import Dataset, digits
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Ruler
from cdedu.files import read_tensors, write_tensors
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
from cdedu.records import Study
from cdedu.training import State, distill, train_teacher

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
PIXELS = replace(LATENT_DIGITS, name="labelled-digits")


def last(run: Iterator[State]) -> nn.Module:
    """The result of a run."""
    for state in run:  # noqa: B007
        pass
    return state.result


def halved(path: str) -> None:
    """The same file with its tensors in half precision."""
    tensors, header = read_tensors(WEIGHTS / path)
    write_tensors(
        WEIGHTS / path,
        {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()},
        header,
    )


def autoencoder() -> Autoencoder:
    """As trained, from its file."""
    model = Autoencoder()
    model.load_state_dict(read_tensors(WEIGHTS / "digits-autoencoder.safetensors")[0])
    return model.eval().requires_grad_(False)


def measure(ruler: Ruler, draw: Any, seeds: int = 3) -> dict[str, Any]:
    """Metrics of 600 samples, sixty of each label, and how many of them the classifier takes for what they should be."""
    assert ruler.classifier is not None
    labels, rows = torch.arange(ruler.n) % 10, []
    for seed in range(seeds):
        with torch.no_grad():
            x = draw(labels, torch.Generator().manual_seed(seed))
            right = (ruler.classifier(x).argmax(1) == labels).float().mean()
        rows.append({**ruler.measure(x), "label": float(right)})
    return {key: spread([row[key] for row in rows]) for key in rows[0]}


def train_the_autoencoder(data: Dataset, ruler: Ruler) -> dict[str, Any]:
    torch.manual_seed(AUTOENCODER["seed"])
    model, start = Autoencoder(), time.process_time()
    for loss in train_autoencoder(model, data.train, int(AUTOENCODER["steps"]), kl=AUTOENCODER["kl"]):  # noqa: B007
        pass
    seconds = time.process_time() - start
    write_tensors(WEIGHTS / "digits-autoencoder.safetensors", model.state_dict(), {"channels": model.channels, **AUTOENCODER})  # fmt: skip
    with torch.no_grad():
        gap = (model.decode(model.encode(data.test)) - data.test).square().mean()
    return {"loss": loss, "scale": float(model.scale), "test_mse": float(gap), "cpu_seconds": seconds}


def train_a_teacher(space: str, data: Dataset, ruler: Ruler) -> dict[str, Any]:
    recipe = LATENT_DIGITS if space == "latent" else PIXELS
    shown = latent_data(autoencoder(), data) if space == "latent" else data
    decode = autoencoder().decode if space == "latent" else nn.Identity()
    start = time.process_time()
    model = last(train_teacher(recipe, with_null_labels(shown, NULL)))
    seconds = time.process_time() - start
    file, shape = f"{recipe.name}-teacher", tuple(shown.train.shape[1:])
    save(WEIGHTS / f"{file}.safetensors", model, recipe, shape)
    halved(f"{file}.safetensors")
    model = cdedu.load(WEIGHTS / f"{file}.safetensors")

    def draw(labels: Tensor, g: torch.Generator) -> Tensor:
        z = recipe.sigma_max * torch.randn((len(labels), *shape), generator=g)
        return decode(cdedu.sample_heun(model, z, recipe.sigmas(18), labels=labels))

    return {"cpu_seconds": seconds, "heun_35": measure(ruler, draw)}


def train_the_student(data: Dataset, ruler: Ruler) -> dict[str, Any]:
    low, high = STUDENT["low"], STUDENT["high"]
    stage = replace(LATENT_DIGITS.student, **{key: STUDENT[key] for key in ("points", "steps", "lr", "ema")})
    recipe = replace(LATENT_DIGITS, student=stage)
    teacher, model = cdedu.load(WEIGHTS / "latent-digits-teacher.safetensors"), autoencoder()
    latents, start = latent_data(model, data), time.process_time()
    guided = GuidedDenoiser(teacher, None, NULL)
    loss = partial(skipping_loss, skip=STUDENT["skip"])
    student = last(distill(recipe, guided, latents, student=latent_student(teacher, (low, high)), guidance=(low, high), loss=loss))  # fmt: skip
    seconds = time.process_time() - start
    path = WEIGHTS / "latent-digits-student.safetensors"
    write_tensors(path, student.network.state_dict(), {"recipe": recipe.to_dict(), **STUDENT})
    halved(path.name)
    kept = copy.deepcopy(student)
    kept.network.load_state_dict(read_tensors(path)[0])

    def draw(labels: Tensor, g: torch.Generator, steps: int, scale: float) -> Tensor:
        z = recipe.sigma_max * torch.randn((len(labels), 2, 4, 4), generator=g)
        return model.decode(cdedu.sample_consistency(kept, z, recipe.student_sigmas(steps), g, labels=labels, guidance=scale))  # fmt: skip

    rows = {f"steps_{k}": measure(ruler, partial(draw, steps=k, scale=1.0)) for k in (1, 2, 4)}
    scales = {f"scale_{s:g}": measure(ruler, partial(draw, steps=2, scale=s)) for s in (1.5, 2.0, 3.0, 4.0)}
    return {**STUDENT, "cpu_seconds": seconds, **rows, **scales}


def main() -> None:
    """All four, in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--afresh", action="store_true", help="begin anew")
    torch.set_num_threads(1)
    data = digits()
    ruler = Ruler(data)
    settings = {"autoencoder": AUTOENCODER}
    study = Study(
        "results/latent-training.json",
        "python scripts/train_latent.py",
        afresh=parser.parse_args().afresh,
        settings=settings,
        recipe=LATENT_DIGITS.to_dict(),
        seed=LATENT_DIGITS.seed,
        data=data.describe(),
    )
    metrics = {"floor": ruler.floor(3)}
    jobs = {
        "autoencoder": train_the_autoencoder,
        "latent": partial(train_a_teacher, "latent"),
        "pixel": partial(train_a_teacher, "pixel"),
        "student": train_the_student,
    }
    for name, job in jobs.items():
        metrics[name] = study.run(name, partial(job, data, ruler))
        study.write(metrics)
        print(name, metrics[name], flush=True)


if __name__ == "__main__":
    main()
