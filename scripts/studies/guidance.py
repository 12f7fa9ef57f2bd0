"""Chapter 13: `python scripts/studies/guidance.py`. Writes `results/guidance.json`.

What guidance does to the shipped teacher of photographs: from the same noise and labels at every weight, the share of samples in which an
independent classifier sees the class that was asked for, and how widely a class is spread. Some five minutes on one core.
"""

import torch
from torch import Tensor

from cdedu import checkpoints
from cdedu.checkpoints import sha256, shipped
from cdedu.evaluation import cifar_classifier, cifar_referee, features, share_recognised
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.recipes import get_recipe
from cdedu.samplers import sample_heun
from cdedu.teacher import Denoiser
from scripts.studies.bench import Bench, arguments, noise, spreads

NAME = "cifar10-small-teacher"
WEIGHTS = {"0": 0.0, "1": 1.0, "2": 2.0, "4": 4.0}
SETTINGS = {"weights": list(WEIGHTS.values()), "points": 10, "samples": 100, "seeds": 4}
NONE = 10
"""The label that says nothing."""


@torch.no_grad()
def draw(teacher: Denoiser, w: float, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of the teacher guided at w, and the labels that were asked for: all classes in turn."""
    recipe, y = get_recipe("cifar10-small"), torch.arange(SETTINGS["samples"]) % 10
    z = noise(recipe, (len(y), 3, 32, 32), seed)
    alone = w in (0, 1)  # one call instead of two; the same, by the formula
    denoiser = teacher if alone else GuidedDenoiser(teacher, w, NONE)
    labels = torch.full_like(y, NONE) if w == 0 else y
    return sample_heun(denoiser, z, recipe.sigmas(SETTINGS["points"]), labels=labels).clamp(-1, 1), y


def class_spread(x: Tensor, y: Tensor) -> float:
    """Root mean square distance of a sample from its class's mean, over all classes; any (n, ...)."""
    flat = x.flatten(1)
    variances = torch.stack([flat[y == k].var(0).sum() for k in y.unique()])
    return float(variances.mean().sqrt())


def measure(teacher: Denoiser, w: float, seed: int) -> dict[str, float]:
    x, y = draw(teacher, w, seed)
    return {
        "recognised": share_recognised(cifar_referee(), x, y),
        "spread": class_spread(features(cifar_classifier(), x), y),
        "contrast": float(x.std()),
    }


def main() -> None:
    asked = arguments(__doc__)
    teacher = checkpoints.load(NAME)
    study = Bench(
        "guidance", __file__, asked, settings=SETTINGS, weights={NAME: sha256(shipped(NAME))}, data=None
    )
    table = {}
    for arm, runs in study.arms(WEIGHTS, SETTINGS["seeds"], lambda w, s: measure(teacher, WEIGHTS[w], s)):
        mean = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
        table[arm] = {**spreads(runs), "mean": mean}
        first = table["1"]["mean"]["spread"] if "1" in table else None
        study.metrics = {"w": table, "samples": len(runs) * SETTINGS["samples"]}
        if first:
            study.metrics["relative_spread"] = {k: row["mean"]["spread"] / first for k, row in table.items()}


if __name__ == "__main__":
    main()
