"""A small 3-D case: clouds of points on surfaces, a network that takes them as sets, and distances between clouds.

A cloud is one data point (N, 3). Its points have no order: whatever permutes the points of the noise permutes those of the sample.
Consistency distillation needs no matching of points, since each point of the noise has its own end on the teacher's path.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cdedu.checkpoints import find, read_tensors
from cdedu.data import Dataset
from cdedu.evaluation import effective_classes
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

FAMILIES = {"sphere": (0.6, 0.9), "torus": (0.5, 0.75), "cube": (0.4, 0.65)}
"""The surfaces, around the origin, and the range of their size a: radius; radius of the ring, whose tube is a third as thick, around the
third axis; half an edge."""
TUBE = 1 / 3


def surface_points(
    family: str, size: Tensor, points: int, generator: torch.Generator | None = None
) -> Tensor:
    """Points drawn evenly from surfaces of one family: sizes (n,) → (n, points, 3).

    Raises:
        ValueError: for an unknown family, or fewer than 2 points.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"surface_points: family {family!r} is not known; choose one of {', '.join(FAMILIES)}"
        )
    if points < 2:
        raise ValueError(f"surface_points: points = {points}, but a cloud needs at least 2")
    n = len(size)
    if family == "torus":
        angle = torch.linspace(0, 2 * torch.pi, 721)[:-1]  # of the tube; its outer side has more area
        which = torch.multinomial(1 + TUBE * angle.cos(), n * points, replacement=True, generator=generator)
        v, u = angle[which].reshape(n, points), 2 * torch.pi * torch.rand(n, points, generator=generator)
        x = torch.stack([(1 + TUBE * v.cos()) * u.cos(), (1 + TUBE * v.cos()) * u.sin(), TUBE * v.sin()], -1)
    elif family == "sphere":
        x = torch.randn(n, points, 3, generator=generator)
        x = x / x.norm(dim=-1, keepdim=True)
    else:
        x = 2 * torch.rand(n, points, 3, generator=generator) - 1
        face = torch.randint(3, (n, points, 1), generator=generator)
        x = x.scatter(-1, face, x.gather(-1, face).sign())
    return size[:, None, None] * x


def clouds(points: int = 48, train: int = 6000, test: int = 300, seed: int = 0) -> Dataset:
    """Equally many spheres, tori and cubes of random sizes: clouds (n, points, 3); the label is the family."""
    if min(train, test) < len(FAMILIES):
        raise ValueError(
            f"clouds: train = {train} and test = {test}, but each needs one cloud of each family"
        )
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        label = torch.arange(n) % len(FAMILIES)
        x = torch.empty(n, points, 3)
        for k, (family, (low, high)) in enumerate(FAMILIES.items()):
            size = low + (high - low) * torch.rand(int((label == k).sum()), generator=generator)
            x[label == k] = surface_points(family, size, points, generator)
        return x, label

    (x, y), (x_test, y_test) = draw(train), draw(test)
    return Dataset("clouds", x, x_test, y, y_test)


class SetNetwork(nn.Module):
    r"""A network for sets: the same layers for each point, told of the others by what is pooled over all of them.

    .. math:: h_i \leftarrow h_i + W_2\,s\big(W_1 h_i + W_c\,[\text{mean}_j h_j,\ \max_j h_j,\ \text{noise level}]\big)

    with s the SiLU. Mean and maximum do not ask for an order, so permuting the points permutes the result.

    Args:
        width, depth: of the layers.

    Source: Zaheer et al. 2017 (Deep Sets).
    """

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1.0, 9.0), persistent=False)
        self.first = nn.Linear(3, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.context = nn.ModuleList(nn.Linear(2 * width + 16, width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.ndim != 3 or x.shape[2] != 3:
            raise ValueError(f"SetNetwork: x has shape {tuple(x.shape)}, want clouds of points (B, N, 3)")
        phase = c_noise[:, None] * self.frequencies
        level = torch.cat([phase.cos(), phase.sin()], 1).to(x.dtype)
        h = self.first(x)
        for own, context, out in zip(self.own, self.context, self.out, strict=True):
            pooled = torch.cat([h.mean(1), h.amax(1), level], 1)
            h = h + out(nn.functional.silu(own(h) + context(pooled)[:, None]))
        return self.last(h)


@dataclass(frozen=True)
class SetPlan(Network):
    """The network of a recipe for clouds."""

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """A :class:`SetNetwork`; it takes clouds of any number of points."""
        return SetNetwork(self.width, self.depth)


RECIPE = Recipe(
    name="clouds",
    data="clouds",
    network=SetPlan("foreign", width=64, depth=4),
    teacher=TeacherStage(steps=3000, batch=64, lr=2e-3, ema=0.998),
    student=StudentStage(steps=800, batch=64, lr=2e-3, distance="l2", weight="inverse_gap", ema=0.99),
)
"""Teacher and students of clouds."""


def load_points(source: str | Path) -> Teacher | ConsistencyModel:
    """A teacher or a student of clouds, as written by :func:`~cdedu.checkpoints.save` with :data:`RECIPE`: a path, or ``points-teacher`` or
    ``points-student``, which come with the course.
    """
    tensors, header = read_tensors(find(source))
    plan, scale = header["recipe"]["network"], header["noise_scale"]
    network = SetNetwork(plan["width"], plan["depth"])
    network.load_state_dict(tensors)
    if header["class"] == "Teacher":
        return Teacher(network, header["sigma_data"], scale).eval()
    return ConsistencyModel(network, header["sigma_data"], header["sigma_min"], scale).eval()


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
    """Share of clouds whose nearest other cloud, by :func:`chamfer`, is of their own set: ½ where the sets are alike, 1 where they
    are apart.

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
    """What is said of sampled clouds x beside as many real ones: mean distance from the ``surface``, ``families`` in use (of 3), and
    ``nn``, the nearest neighbour's accuracy."""
    distance, family = surface_distance(x)
    return {
        "surface": float(distance.mean()),
        "families": effective_classes(family, len(FAMILIES)),
        "nn": nearest_neighbour_accuracy(real, x),
    }


def _check_clouds(x: Tensor) -> None:
    if x.ndim != 3 or x.shape[2] != 3 or not x.shape[1]:
        raise ValueError(f"want clouds of points (B, N, 3), got shape {tuple(x.shape)}")
