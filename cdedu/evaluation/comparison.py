"""Teacher against student: the measurements that the book quotes, shared by the command line and the scripts."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from cdedu.data import Dataset, to_unit
from cdedu.evaluation import (
    features,
    frechet_distance,
    frozen_classifier,
    kernel_distance,
    latency,
    precision_recall,
    sliced_wasserstein,
    spread,
)
from cdedu.evaluation.protocol import DRAWS, Protocol, protocol_of
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime
from cdedu.samplers import Progress, sample_consistency, sample_ddpm, sample_euler, sample_heun
from cdedu.teacher import Denoiser
from cdedu.training import seed_of

Sampler = Callable[[Tensor, torch.Generator], Tensor]
Row = dict[str, dict[str, float]]
"""For each metric, the median, minimum and maximum over seeds."""
BATCH, IMAGE_BATCH = 5000, 500
"""Samples drawn at once: points and small images, and images of 32 × 32 and larger."""


def samplers(
    recipe: Recipe, teacher: Denoiser, student: Denoiser, brief: bool = False, trial: bool = False
) -> dict[str, tuple[int, Sampler]]:
    """The samplers to compare: name → (evaluations per sample, sampler). All start from the same noise.

    The others are measured against the first. ``brief`` leaves some out; ``trial`` only keeps a teacher with 5 evaluations, a student
    with 1 and 2, and DDIM with 2.
    """

    def walk(sample: Callable[..., Tensor], points: int, **options: bool) -> Sampler:
        return lambda x, g: sample(teacher, x, recipe.sigmas(points), **options)

    def steps(k: int) -> Sampler:
        levels = recipe.student_sigmas(k)
        return lambda x, g: sample_consistency(student, x, levels, g)

    students = {f"student_{k}": (k, steps(k)) for k in ((1, 2) if trial else (1, 2, 4))}
    if trial:
        out = {"teacher_heun_5": (5, walk(sample_heun, 3)), **students}
        return {**out, "teacher_ddim_2": (2, walk(sample_euler, 2))}
    out = {"teacher_heun_35": (35, walk(sample_heun, 18))}
    if not brief:
        out["teacher_heun_34"] = (34, walk(sample_heun, 18, to_zero=False))
        out["teacher_ddpm_35"] = (35, lambda x, g: sample_ddpm(teacher, x, recipe.sigmas(35), generator=g))
    out |= {**students, "teacher_ddim_1": (1, lambda x, g: teacher(x, recipe.sigma_max))}
    ddim = (2, 4, 10) if brief else (2, 4, 10, 35)
    return out | {f"teacher_ddim_{n}": (n, walk(sample_euler, n)) for n in ddim}


def draw(
    sampler: Sampler,
    recipe: Recipe,
    shape: tuple[int, ...],
    n: int,
    batch: int,
    runtime: Runtime,
    generator: torch.Generator,
) -> Tensor:
    """Draw n samples (n, ...) to the CPU, at most ``batch`` at a time, from noise of the highest level.

    Several processes share the batches and all end up with all samples, the same ones that a single process would draw: each batch after
        the first has its own generator.
    """
    size, parts = math.ceil(n / math.ceil(n / batch)), []
    for first in range(0, n, size * runtime.world):
        start = first + size * runtime.rank
        own = torch.Generator().manual_seed(seed_of(generator.initial_seed(), start)) if start else generator
        noise = torch.randn((size, *shape), generator=own)
        parts.append(runtime.gather(sampler(recipe.sigma_max * noise.to(runtime.device), own)).cpu())
    return torch.cat(parts)[:n]


class Ruler:
    """Distances of samples to held-out data, at equal sizes: the sliced Wasserstein distance (``sw``) for points; Fréchet and kernel
    distance (``fd``, ``kd``), precision and recall in the features of a frozen classifier if the data have one.

    Args:
        data: samples are compared with its ``test`` part.
        n: how many samples; by default as many as the smaller part has.
        protocol: how many samples and draws, and from which seeds; the data set's standard with ``n`` samples by default.

    Raises:
        ValueError: if fewer than 2 samples are left.
    """

    def __init__(self, data: Dataset, n: int | None = None, *, protocol: Protocol | None = None) -> None:
        self.protocol = protocol_of(data, n=n) if protocol is None else protocol
        self.n = self.protocol.n
        order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
        self.train, self.real = data.train, to_unit(data.test[order[: self.n]])
        self.shape = tuple(self.real.shape[1:])
        self.large = self.real[0].numel() >= 3 * 32 * 32
        self.classifier = frozen_classifier(data)
        self.first = "sw" if self.classifier is None else "fd"
        """The metric used for ratios."""
        if self.classifier is not None:
            self._features = features(self.classifier, self.real)

    @torch.no_grad()
    def measure(self, x: Tensor, first_alone: bool = False) -> dict[str, float]:
        """All metrics of the samples x, (n, ...), or only the ``first``."""
        if self.classifier is None:
            return {"sw": sliced_wasserstein(self.real.flatten(1), x.cpu().flatten(1))}
        fake = features(self.classifier, x.cpu())
        found = {"fd": frechet_distance(self._features, fake)}
        if first_alone:
            return found
        precision, recall = precision_recall(self._features, fake, k=min(3, self.n - 1))
        kd = kernel_distance(self._features, fake)
        return {**found, "kd": kd, "precision": precision, "recall": recall}

    def over_seeds(self, draw: Callable[[torch.Generator], Tensor], seeds: int | None = None) -> Row:
        """The metrics of ``draw(generator)`` over the protocol's sampling seeds, or over ``seeds`` of them."""
        runs = [self.measure(x) for x in self._drawn(draw, seeds)]
        return {key: spread([run[key] for run in runs]) for key in runs[0]}

    @torch.no_grad()
    def nearness(self, draw: Callable[[torch.Generator], Tensor]) -> float:
        """The first metric of ``draw(generator)``: its median over the protocol's seeds; infinite if samples contain NaN."""
        return median(
            self.measure(x, first_alone=True)[self.first] if x.isfinite().all() else math.inf
            for x in self._drawn(draw)
        )

    def _drawn(self, draw: Callable[[torch.Generator], Tensor], seeds: int | None = None) -> Iterator[Tensor]:
        first = self.protocol.first_seed
        for seed in self.protocol.seeds if seeds is None else range(first, first + seeds):
            yield draw(torch.Generator().manual_seed(seed))

    def floor(self, seeds: int | None = None) -> Row:
        """Real against real: random training data in place of samples."""
        n, x = self.n, self.train
        return self.over_seeds(lambda g: to_unit(x[torch.randperm(len(x), generator=g)[:n]]), seeds)


@torch.no_grad()
def compare(
    recipe: Recipe,
    teacher: Denoiser,
    student: Denoiser,
    data: Dataset,
    seeds: int = DRAWS,
    samples: int | None = None,
    progress: Progress | None = None,
    trial: bool = False,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Distances to the held-out data: medians over sampling seeds, at equal sample sizes, next to the real-to-real floor.

    Args:
        seeds, samples: draws, and samples of each; those of the data set's standard :class:`~cdedu.evaluation.protocol.Protocol` by
            default.
        runtime: several processes share the samples; the main one measures them, and the others return nothing.

    Returns:
        A dictionary with ``protocol``, ``n``, ``floor``, ``samplers``, ``ratio`` and ``speed``. Each sampler has its number of evaluations and,
        for each metric of :class:`Ruler`, ``median``, ``min`` and ``max``. ``ratio`` is of the students' distances to that of the
        first sampler, ``base``.
    """
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}, but medians need at least one sampling seed")
    ruler = Ruler(data, protocol=protocol_of(data, n=samples, draws=seeds))
    runtime = runtime or Runtime(next(student.parameters()).device)  # type: ignore[attr-defined]
    n, shape, large, device = ruler.n, ruler.shape, ruler.large, runtime.device
    measured: dict[str, Any] = {}
    rows = list(samplers(recipe, teacher, student, large, trial).items())
    for name, (evaluations, sampler) in rows if progress is None else progress(rows):
        drawn = partial(draw, sampler, recipe, shape, n, IMAGE_BATCH if large else BATCH, runtime)
        if runtime.main:
            measured[name] = {"evaluations": evaluations, **ruler.over_seeds(drawn)}
        else:
            for seed in ruler.protocol.seeds:
                drawn(torch.Generator().manual_seed(seed))
    if not runtime.main:
        return {}
    base, key = rows[0][0], ruler.first
    first = measured[base][key]["median"]
    batch = 2 if trial else 16 if large and device.type == "cpu" else min(256, n)
    repeats = 1 if trial else 3 if large else 7
    return {
        "protocol": ruler.protocol.to_dict(),
        "n": n,
        "seeds": seeds,
        "second_sigma": recipe.student.second_sigma,
        "features": None if ruler.classifier is None else type(ruler.classifier).__name__,
        "floor": ruler.floor(),
        "samplers": measured,
        "trial": trial,
        "base": base,
        "ratio": {name: measured[name][key]["median"] / first for name in ("student_1", "student_2")},
        "speed": speed(recipe, teacher, student, shape, device, batch=batch, repeats=repeats),
    }


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
    """Seconds per batch for the 18-point Heun teacher and the one-step student, taking turns, and the median of their ratios."""
    x = recipe.sigma_max * torch.randn((batch, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    slow = partial(sample_heun, teacher, x, recipe.sigmas(18))
    fast = partial(sample_consistency, student, x, (recipe.sigma_max,))
    slow(), fast()
    pairs = [(latency(slow, 1), latency(fast, 5)) for _ in range(repeats)]
    return {
        "batch": batch,
        "teacher_seconds": median(a for a, _ in pairs),
        "student_seconds": median(b for _, b in pairs),
        "ratio": median(a / b for a, b in pairs),
    }


def break_even(training: float, calls: float, student_calls: float) -> float:
    r"""The number of samples after which a student has paid for its training.

    .. math:: n^* = \frac{C}{k_T - k_S}

    Args:
        training: C, the cost of making the student, in evaluations.
        calls: :math:`k_T`, evaluations per sample of what it replaces: a sampler of the teacher that is equally good.
        student_calls: :math:`k_S`, the student's evaluations per sample.

    Raises:
        ValueError: for a negative cost, or a student that saves nothing.
    """
    if not training >= 0:
        raise ValueError(f"break_even: training = {training}, but a cost cannot be negative")
    if not 0 < student_calls < calls:
        raise ValueError(
            f"break_even: a student of {student_calls:g} calls saves nothing over {calls:g}, so it never pays; "
            "compare with a sampler that makes more calls"
        )
    return training / (calls - student_calls)


def table(metrics: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    names = list(metrics["floor"])
    lines = ["| | evaluations | " + " | ".join(names) + " |", "|---|---:|" + "---:|" * len(names)]
    for name, row in {"real against real": metrics["floor"], **metrics["samplers"]}.items():
        medians = " | ".join(f"{row[k]['median']:.4g}" for k in names)
        lines.append(f"| {name} | {row.get('evaluations', '')} | {medians} |".replace("|  |", "| |"))
    lines.append(f"\nMedians: {metrics['protocol']['line']}.")
    ratio, batch = metrics["speed"]["ratio"], metrics["speed"]["batch"]
    lines.append(f"One step is {ratio:.1f} times as fast as the 18-point Heun teacher at batch {batch}.")
    if metrics.get("trial"):
        lines.append(
            "A trial with few evaluations, to see that everything works; it says little about quality."
        )
    return "\n".join(lines)
