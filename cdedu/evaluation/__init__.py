"""How good, and how fast: distances between sets of samples, nearest neighbors, latency.

Distances here are between two sets of *features* (n, d): the points themselves in two dimensions, features of a small frozen
classifier for digits. Only compare equal sample sizes, and read every figure next to the distance of real data to real data.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cdedu.checkpoints import load
from cdedu.data import Dataset
from cdedu.networks.classifiers import CanvasReferee, CifarClassifier, CifarReferee, DigitsClassifier


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared Fréchet distance of the Gaussians fitted to two sets of features, (n, d) and (m, d).

    .. math:: \|\mu_x - \mu_y\|^2 + \operatorname{tr}\big(\Sigma_x + \Sigma_y - 2(\Sigma_x\Sigma_y)^{1/2}\big)

    It is biased: even two halves of one set have a positive distance, which shrinks with n.

    Source: Heusel et al. 2017 (there of Inception features), through torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_features(x, y)
    features = nn.Identity()  # x and y are features already
    features.num_features = x.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
    metric.update(x.double(), real=True)
    metric.update(y.double(), real=False)
    return float(metric.compute())


def kernel_distance(x: Tensor, y: Tensor) -> float:
    r"""Unbiased squared maximum mean discrepancy with the kernel :math:`k(a, b) = (a \cdot b / d + 1)^3`.

    Its expectation is 0 for two sets from one distribution, at any n; a single value can be negative.

    Source: Bińkowski et al. 2018 (KID, there of Inception features).
    """
    _check_features(x, y)
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 256, seed: int = 0) -> float:
    r"""Sliced 2-Wasserstein distance between two sets of equal size, (n, d) each.

    .. math:: \Big(\frac1P \sum_p W_2^2\big(\{v_p \cdot x_i\}, \{v_p \cdot y_i\}\big)\Big)^{1/2}, \qquad v_p \text{ random unit vectors}

    In one dimension :math:`W_2` pairs the sorted values.
    """
    _check_features(x, y)
    if len(x) != len(y):
        raise ValueError(f"sliced_wasserstein compares sets of equal size, got {len(x)} and {len(y)}")
    directions = torch.randn(x.shape[1], projections, generator=torch.Generator().manual_seed(seed)).to(x)
    directions = directions / directions.norm(dim=0)
    return float(((x @ directions).sort(0)[0] - (y @ directions).sort(0)[0]).square().mean().sqrt())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """The share of fake samples that fall among the real ones (fidelity), and of real samples that fall among the fakes (diversity).

    A point falls among a set if it is closer to some member than that member's k-th nearest neighbor is.

    Source: Kynkäänniemi et al. 2019.
    """
    _check_features(real, fake)

    def share_inside(points: Tensor, members: Tensor) -> float:
        # The nearest "neighbor" is the point itself.
        radius = torch.cdist(members, members).kthvalue(k + 1, dim=1).values
        return float((torch.cdist(points, members) <= radius).any(1).float().mean())

    return share_inside(fake, real), share_inside(real, fake)


def nearest(x: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample its nearest neighbor in the data: (indices, Euclidean distances), both (n,)."""
    distance, index = torch.cdist(x.flatten(1), data.flatten(1)).min(1)
    return index, distance


def nearer_to_training(x: Tensor, seen: Tensor, unseen: Tensor) -> float:
    """The share of samples that are closer to their nearest neighbor in ``seen`` than in ``unseen``. Above ½ means memorization.

    Args:
        x: (n, ...) samples.
        seen, unseen: (m, ...) training data and held-out data, the same number of each, so that chance gives ½.
    """
    if len(seen) != len(unseen):
        raise ValueError(
            f"nearer_to_training compares sets of equal size, got {len(seen)} and {len(unseen)}; "
            "the larger set would win by chance"
        )
    return float((nearest(x, seen)[1] < nearest(x, unseen)[1]).float().mean())


def effective_classes(labels: Tensor, classes: int) -> float:
    r"""How many classes a set of labels (n,) fills, :math:`\exp\big(-\sum_k p_k \ln p_k\big)` of its histogram p: from 1, when all are
    the same, to ``classes``, when all are equally frequent."""
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
        raise ValueError(
            f"effective_classes wants whole labels (n,), got {labels.dtype} {tuple(labels.shape)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"effective_classes: labels run from {int(labels.min())} to {int(labels.max())}, "
            f"but with {classes} classes they lie in 0..{classes - 1}"
        )
    p = torch.bincount(labels, minlength=classes).double() / len(labels)
    return float(torch.special.entr(p).sum().exp())


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def median_over_seeds(measure: Callable[[torch.Generator], float], seeds: int = 5) -> dict[str, float]:
    """:func:`spread` of ``measure(generator)`` over sampling seeds 0, 1, ..."""
    return spread([measure(torch.Generator().manual_seed(seed)) for seed in range(seeds)])


def latency(function: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds per call. Make one call yourself first, to warm up. Waits for the GPU if there is one."""

    def timed() -> float:
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return statistics.median(timed() for _ in range(repeats))


def digits_classifier() -> DigitsClassifier:
    """The frozen classifier of the digits."""
    return load("digits-classifier").requires_grad_(False)


def cifar_classifier() -> CifarClassifier:
    """The frozen classifier of CIFAR-10, trained on ``cifar10-jpeg`` (see its record): good enough for comparing, not for publishing."""
    return load("cifar10-jpeg-classifier").requires_grad_(False)


def cifar_referee() -> CifarReferee:
    """The frozen referee of CIFAR-10, trained on ``cifar10-jpeg``; its record says how often it is right."""
    return load("cifar10-jpeg-referee").requires_grad_(False)


def canvas_referee() -> CanvasReferee:
    """The frozen referee of captioned canvases; the record ``captioned`` says how often it is right."""
    return load("canvases-referee").requires_grad_(False)


@torch.no_grad()
def share_recognised(classifier: nn.Module, x: Tensor, labels: Tensor, batch: int = 500) -> float:
    """The share of images (n, ...) in which a classifier sees the class that was asked for, (n,)."""
    seen = torch.cat([classifier(part).argmax(1) for part in x.split(batch)])
    return float((seen == labels).float().mean())


def classifier_of(data: Dataset) -> str | None:
    """The name of the shipped classifier in whose features samples like these data are compared: their own, and CIFAR-10's for any
    pictures of its size; None where points themselves are."""
    cifar = "cifar10-jpeg-classifier" if tuple(data.train.shape[1:]) == (3, 32, 32) else None
    return data.classifier or cifar


def frozen_classifier(data: Dataset) -> DigitsClassifier | CifarClassifier | None:
    """The classifier that :func:`classifier_of` names."""
    name = classifier_of(data)
    return load(name).requires_grad_(False) if name else None


@torch.no_grad()
def features(
    classifier: DigitsClassifier | CifarClassifier | CanvasReferee, x: Tensor, batch: int = 1000
) -> Tensor:
    """Features of many images, (n, C, H, W) → (n, d)."""
    return torch.cat([classifier.features(part) for part in x.split(batch)])


def _check_features(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"want two sets of features (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    for name, t in (("first", x), ("second", y)):
        if not t.isfinite().all():
            raise ValueError(f"the {name} set of features contains NaN or infinity; did a model diverge?")
