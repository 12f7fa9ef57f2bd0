"""Data sets that need no files: points in the plane, and scikit-learn's digits."""

from collections.abc import Callable
from math import pi

import numpy as np
import torch
from torch import Tensor

from cdedu.data.dataset import Dataset


def two_moons(n: int, seed: int = 0) -> Tensor:
    """Two interleaved half circles, (n, 2)."""
    from sklearn.datasets import make_moons

    x, _ = make_moons(n, noise=0.06, random_state=seed)
    return torch.from_numpy((x - (0.5, 0.25)) / 1.4).float()


def circles(n: int, seed: int = 0) -> Tensor:
    """Two concentric circles, (n, 2)."""
    from sklearn.datasets import make_circles

    x, _ = make_circles(n, noise=0.04, factor=0.45, random_state=seed)
    return torch.from_numpy(0.9 * x).float()


def swiss_roll(n: int, seed: int = 0) -> Tensor:
    """A rolled-up strip seen from its end, (n, 2)."""
    from sklearn.datasets import make_swiss_roll

    x, _ = make_swiss_roll(n, noise=0.4, random_state=seed)
    return torch.from_numpy(x[:, [0, 2]] / 14).float()


def spirals(n: int, seed: int = 0) -> Tensor:
    """Two spiral arms, (n, 2)."""
    rng = np.random.default_rng(seed)
    angle = 3 * pi * np.sqrt(rng.random(n))
    arm = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    x = arm[:, None] * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return torch.from_numpy((x + 0.25 * rng.standard_normal((n, 2))) / 9).float()


def checkerboard(n: int, seed: int = 0) -> Tensor:
    """Every second square of a 4 × 4 board, (n, 2)."""
    rng = np.random.default_rng(seed)
    column, row = rng.integers(0, 4, n), rng.integers(0, 2, n)
    corner = np.stack([column, 2 * row + column % 2], 1)
    return torch.from_numpy((corner + rng.random((n, 2)) - 2) / 2.3).float()


def eight_gaussians(n: int, seed: int = 0) -> Tensor:
    """Eight small blobs on a circle, (n, 2)."""
    rng = np.random.default_rng(seed)
    angle = 2 * pi * rng.integers(0, 8, n) / 8
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    return torch.from_numpy(0.7 * x + 0.05 * rng.standard_normal((n, 2))).float()


TOYS: dict[str, Callable[[int, int], Tensor]] = {
    f.__name__: f for f in (two_moons, circles, swiss_roll, spirals, checkerboard, eight_gaussians)
}


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits: (n, 1, 8, 8) in [−1, 1], 1,197 to learn from and 600 held out.

    The split is a fixed permutation, because the file is ordered by writer.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.from_numpy(images[order].reshape(-1, 1, 8, 8) / 8 - 1).float()
    y = torch.from_numpy(labels[order]).long()
    return Dataset("digits", x[600:], x[:600], y[600:], y[:600], classifier="digits-classifier")


def tinted_digits() -> Dataset:
    r"""The digits in colored ink on white paper: (n, 3, 8, 8) in [−1, 1], split as in :func:`digits`.

    .. math:: x_c = 1 - 2\,\text{ink}\,(1 - \text{tint}_c), \qquad
              \text{tint}_c = \tfrac12 + \tfrac12\cos 2\pi\big(h - \tfrac c3\big), \quad c = 0, 1, 2

    The ink lies in [0, 1]. The hue h is a tenth of the label, plus a little randomness for each picture (σ = .015): a 0 is red, a 3
    green, a 7 blue. The tint's mean over the channels is ½ whatever the hue, so a gray copy does not tell the color.
    """
    plain = digits()
    generator = torch.Generator().manual_seed(0)

    def tint(x: Tensor, labels: Tensor) -> Tensor:
        hue = labels / 10 + 0.015 * torch.randn(len(x), generator=generator)
        colour = 0.5 + 0.5 * (2 * pi * (hue[:, None] - torch.arange(3) / 3)).cos()
        return 1 - (x + 1) * (1 - colour)[:, :, None, None]

    train, test = tint(plain.train, plain.train_labels), tint(plain.test, plain.test_labels)
    return Dataset("tinted-digits", train, test, plain.train_labels, plain.test_labels)
