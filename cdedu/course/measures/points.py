"""Metrics of point clouds: their distance from the surfaces, and the distance between sets of clouds."""

import torch
from torch import Tensor

from cdedu.data.points import FAMILIES, TUBE
from cdedu.evaluation import effective_classes


def surface_distance(x: Tensor, sizes: int = 49) -> tuple[Tensor, Tensor]:
    """How far the points of a cloud lie from the nearest surface of all families, on average: clouds (B, N, 3) → distances (B,), and
    the family's place in :data:`FAMILIES` (B,). The sizes tried are ``sizes`` even steps through each range.
    """
    _check_clouds(x)
    found = []
    for family, (low, high) in FAMILIES.items():
        a = torch.linspace(low, high, sizes).to(x)[:, None]  # beside (B, 1, N) gives (B, sizes, N)
        if family == "sphere":
            off = x.norm(dim=-1)[:, None] - a
        elif family == "torus":
            off = (x[..., :2].norm(dim=-1)[:, None] - a).hypot(x[:, None, :, 2]) - TUBE * a
        else:
            beyond = x.abs()[:, None] - a[..., None]  # of each pair of faces, negative inside
            off = beyond.relu().norm(dim=-1) + beyond.amax(-1).clamp(max=0)
        found.append(off.abs().mean(-1).amin(1))
    distance, family_of = torch.stack(found, 1).min(1)
    return distance, family_of


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    r"""Chamfer distance of two clouds, whose points need no order and no equal number: (B, N, 3) and (B, M, 3) → (B,).

    .. math:: C(X, Y) = \frac1N \sum_i \min_j \|x_i - y_j\|^2 + \frac1M \sum_j \min_i \|x_i - y_j\|^2

    Source: Fan et al. 2017.
    """
    _check_clouds(x)
    _check_clouds(y)
    d = torch.cdist(x, y).square()
    return d.amin(2).mean(1) + d.amin(1).mean(1)


def nearest_neighbour_accuracy(x: Tensor, y: Tensor) -> float:
    """The share of clouds whose nearest other cloud, by :func:`chamfer`, is in their own set: ½ if the sets are alike, 1 if they are far
    apart.

    Args:
        x, y: (n, N, 3) each.

    Source: Yang et al. 2019 (PointFlow), section 5; Lopez-Paz & Oquab 2017.
    """
    if len(x) != len(y):
        raise ValueError(f"nearest_neighbour_accuracy compares sets of equal size, got {len(x)} and {len(y)}")
    both = torch.cat([x, y])
    d = torch.stack([chamfer(one.expand(len(both), -1, -1), both) for one in both])
    nearest = d.fill_diagonal_(torch.inf).argmin(1)
    return float(((nearest < len(x)) == (torch.arange(len(both)) < len(x))).float().mean())


def measure(x: Tensor, real: Tensor) -> dict[str, float]:
    """Metrics of sampled clouds x against as many real ones: mean distance from the ``surface``, ``families`` in use (of 3), and ``nn``,
    the nearest-neighbor accuracy."""
    distance, family = surface_distance(x)
    return {
        "surface": float(distance.mean()),
        "families": effective_classes(family, len(FAMILIES)),
        "nn": nearest_neighbour_accuracy(real, x),
    }


def _check_clouds(x: Tensor) -> None:
    if x.ndim != 3 or x.shape[2] != 3 or not x.shape[1]:
        raise ValueError(f"want clouds of points (B, N, 3), got shape {tuple(x.shape)}")
