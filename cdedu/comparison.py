"""Teacher against student: the measurements that the book quotes, the same for the command line and the scripts."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cdedu.data import Dataset
from cdedu.evaluation import (
    digits_classifier,
    frechet_distance,
    kernel_distance,
    latency,
    median_over_seeds,
    precision_recall,
    sliced_wasserstein,
)
from cdedu.recipes import Recipe
from cdedu.samplers import Progress, sample_consistency, sample_ddpm, sample_euler, sample_heun
from cdedu.teacher import Denoiser

Sampler = Callable[[Tensor, torch.Generator], Tensor]


def samplers(recipe: Recipe, teacher: Denoiser, student: Denoiser) -> dict[str, tuple[int, Sampler]]:
    """What is compared: name → (evaluations a sample, sampler). All start from the same noise."""
    one, two = (recipe.sigma_max,), (recipe.sigma_max, recipe.student.second_sigma)
    grid = recipe.sigmas
    out: dict[str, tuple[int, Sampler]] = {
        "teacher_heun_35": (35, lambda x, g: sample_heun(teacher, x, grid(18))),
        "teacher_heun_34": (34, lambda x, g: sample_heun(teacher, x, grid(18), to_zero=False)),
        "teacher_ddpm_35": (35, lambda x, g: sample_ddpm(teacher, x, grid(35), generator=g)),
        "student_1": (1, lambda x, g: sample_consistency(student, x, one)),
        "student_2": (2, lambda x, g: sample_consistency(student, x, two, g)),
    }
    first = torch.tensor([recipe.sigma_max])
    out["teacher_ddim_1"] = (1, lambda x, g: teacher(x, first.item()))
    for n in (2, 4, 10, 35):
        out[f"teacher_ddim_{n}"] = (n, lambda x, g, n=n: sample_euler(teacher, x, grid(n)))  # type: ignore[misc]
    return out


@torch.no_grad()
def compare(
    recipe: Recipe,
    teacher: Denoiser,
    student: Denoiser,
    data: Dataset,
    seeds: int = 5,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Distances to the held-out data: medians over sampling seeds, at equal sample sizes, beside the real-to-real floor.

    Returns:
        A dictionary with ``n``, ``floor``, ``samplers``, ``ratio`` and ``speed``. Each sampler has its number of evaluations and,
        for each metric, ``median``, ``min`` and ``max``. The metrics are the sliced Wasserstein distance (``sw``) in two
        dimensions; on digits, in the features of the frozen classifier, Fréchet and kernel distance (``fd``, ``kd``), precision
        and recall.
    """
    test, n = data.test, len(data.test)
    shape = tuple(test.shape)
    if data.name == "digits":
        classifier = digits_classifier()

        def measure(x: Tensor) -> dict[str, float]:
            real, fake = classifier.features(test), classifier.features(x.cpu())
            precision, recall = precision_recall(real, fake)
            return {
                "fd": frechet_distance(real, fake), "kd": kernel_distance(real, fake),
                "precision": precision, "recall": recall,
            }  # fmt: skip
    else:

        def measure(x: Tensor) -> dict[str, float]:
            return {"sw": sliced_wasserstein(test, x.cpu())}

    def over_seeds(draw: Callable[[torch.Generator], Tensor]) -> dict[str, dict[str, float]]:
        runs: dict[int, dict[str, float]] = {}

        def one(generator: torch.Generator, key: str) -> float:
            seed = generator.initial_seed()
            if seed not in runs:
                runs[seed] = measure(draw(generator))
            return runs[seed][key]

        first = measure(draw(torch.Generator().manual_seed(0)))
        return {key: median_over_seeds(lambda g, key=key: one(g, key), seeds) for key in first}  # type: ignore[misc]

    device = next(student.parameters()).device  # type: ignore[attr-defined]

    def noise(generator: torch.Generator) -> Tensor:
        return recipe.sigma_max * torch.randn(shape, generator=generator).to(device)

    out: dict[str, Any] = {"n": n, "seeds": seeds, "second_sigma": recipe.student.second_sigma}
    out["floor"] = over_seeds(lambda g: data.train[torch.randperm(len(data.train), generator=g)[:n]])
    out["samplers"] = {}
    rows = list(samplers(recipe, teacher, student).items())
    for name, (evaluations, sampler) in rows if progress is None else progress(rows):
        values = over_seeds(lambda g, sampler=sampler: sampler(noise(g), g))  # type: ignore[misc]
        out["samplers"][name] = {"evaluations": evaluations, **values}
    key = "fd" if data.name == "digits" else "sw"
    base = out["samplers"]["teacher_heun_35"][key]["median"]
    out["ratio"] = {name: out["samplers"][name][key]["median"] / base for name in ("student_1", "student_2")}
    out["speed"] = speed(recipe, teacher, student, shape[1:], device)
    return out


@torch.no_grad()
def speed(
    recipe: Recipe,
    teacher: Denoiser,
    student: Denoiser,
    shape: tuple[int, ...],
    device: torch.device,
    batch: int = 256,
    repeats: int = 7,
) -> dict[str, float]:
    """Seconds a batch for the 18-point Heun teacher and the one-step student, taking turns, and the median of their ratios."""
    x = recipe.sigma_max * torch.randn((batch, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    sigmas = recipe.sigmas(18)

    def slow() -> Tensor:
        return sample_heun(teacher, x, sigmas)

    def fast() -> Tensor:
        return sample_consistency(student, x, (recipe.sigma_max,))

    slow(), fast()
    pairs = [(latency(slow, 1), latency(fast, 5)) for _ in range(repeats)]
    teacher_seconds, student_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "batch": batch,
        "teacher_seconds": teacher_seconds,
        "student_seconds": student_seconds,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def table(metrics: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    names = list(metrics["floor"])
    lines = [
        "| | evaluations | " + " | ".join(names) + " |",
        "|---|---:|" + "---:|" * len(names),
        "| real against real | | " + " | ".join(f"{metrics['floor'][k]['median']:.4g}" for k in names) + " |",
    ]
    for name, row in metrics["samplers"].items():
        lines.append(
            f"| {name} | {row['evaluations']} | "
            + " | ".join(f"{row[k]['median']:.4g}" for k in names)
            + " |"
        )
    s = metrics["speed"]
    lines.append(
        f"\nOne step is {s['ratio']:.1f} times as fast as the 18-point Heun teacher at batch {s['batch']}."
    )
    return "\n".join(lines)
