"""A mixture with known modes."""

import torch

from cdedu.data.dataset import Dataset
from cdedu.mixture import GaussianMixture


def mode_grid(side: int = 5, std: float = 0.05, width: float = 1.4) -> GaussianMixture:
    """Equal Gaussians on a square grid of ``side`` × ``side`` centers: an exact teacher whose modes can be counted.

    Args:
        side: centers in a row, at least 2.
        std, width: of each Gaussian, and of the grid; with the defaults the standard deviation of the data is near ½.

    Raises:
        ValueError: for fewer than 2 in a row, or modes that touch: more than a sixth of their distance wide.
    """
    if side < 2:
        raise ValueError(f"mode_grid: side = {side}, but a grid needs at least 2 in a row")
    if not 0 < std <= width / (side - 1) / 6:
        raise ValueError(
            f"mode_grid: std = {std:g}, but modes {width / (side - 1):g} apart can be told apart only up to {width / (side - 1) / 6:g}"
        )
    row = torch.linspace(-width / 2, width / 2, side)
    return GaussianMixture(torch.cartesian_prod(row, row), std)


def mode_data(mixture: GaussianMixture, train: int = 20_000, test: int = 5_000) -> Dataset:
    """Samples of a mixture as a data set; always the same ones."""
    seeded = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    return Dataset("modes", *(mixture.sample(n, g) for n, g in zip((train, test), seeded, strict=True)))
