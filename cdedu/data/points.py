"""A small 3-D case: clouds of points on surfaces.

A cloud is one data point (N, 3). Its points have no order: permute the points of the noise, and those of the sample are permuted the same
way. Consistency distillation needs no matching of points, since each point of the noise has its own end on the teacher's path.
"""

import torch
from torch import Generator, Tensor

from cdedu.data.dataset import Dataset

FAMILIES = {"sphere": (0.6, 0.9), "torus": (0.5, 0.75), "cube": (0.4, 0.65)}
"""The surfaces, centered at the origin, and the range of their size a. Sphere: the radius. Torus: the radius of the ring around the third
axis; its tube is a third as thick. Cube: half an edge."""
TUBE = 1 / 3


def surface_points(family: str, size: Tensor, points: int, generator: Generator | None = None) -> Tensor:
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
    generator = Generator().manual_seed(seed)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        label = torch.arange(n) % len(FAMILIES)
        x = torch.empty(n, points, 3)
        for k, (family, (low, high)) in enumerate(FAMILIES.items()):
            size = low + (high - low) * torch.rand(int((label == k).sum()), generator=generator)
            x[label == k] = surface_points(family, size, points, generator)
        return x, label

    (x, y), (x_test, y_test) = draw(train), draw(test)
    return Dataset("clouds", x, x_test, y, y_test)
