"""Data: two-dimensional toys and handwritten digits. Everything is scaled to a standard deviation near σ_d = ½."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Clean data, split once: ``train`` is learned from, ``test`` is only compared with.

    ``train`` and ``test`` are float32 (n, ...), or uint8 (n, C, H, W) for images from files; labels are int64 (n,) or None.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    """What the labels mean, in their order, where they have names."""

    def label_count(self) -> int:
        """How many labels there are: those with names, or up to the greatest."""
        assert self.train_labels is not None
        return max(len(self.classes), int(self.train_labels.max()) + 1)

    def describe(self) -> dict[str, object]:
        """What a results record says of the data."""
        return {
            "name": self.name,
            "train": len(self.train),
            "test": len(self.test),
            "shape": list(self.train.shape[1:]),
        }


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
    return Dataset("digits", x[600:], x[:600], y[600:], y[:600])


def tinted_digits() -> Dataset:
    r"""The digits in coloured ink on white paper: (n, 3, 8, 8) in [−1, 1], split as in :func:`digits`.

    .. math:: x_c = 1 - 2\,\text{ink}\,(1 - \text{tint}_c), \qquad
              \text{tint}_c = \tfrac12 + \tfrac12\cos 2\pi\big(h - \tfrac c3\big), \quad c = 0, 1, 2

    The ink lies in [0, 1]. The hue h is a tenth of the label, plus a little chance of each picture (σ = .015): a 0 is red, a 3
    green, a 7 blue. The tint's mean over the channels is ½ whatever the hue, so a grey copy does not tell the colour.
    """
    plain = digits()
    generator = torch.Generator().manual_seed(0)

    def tint(x: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        hue = labels / 10 + 0.015 * torch.randn(len(x), generator=generator)
        colour = 0.5 + 0.5 * (2 * pi * (hue[:, None] - torch.arange(3) / 3)).cos()
        return 1 - (x + 1) * (1 - colour)[:, :, None, None]

    train, test = tint(plain.train, plain.train_labels), tint(plain.test, plain.test_labels)
    return Dataset("tinted-digits", train, test, plain.train_labels, plain.test_labels)


def to_unit(x: Tensor) -> Tensor:
    """uint8 images as float32 in [−1, 1]; anything else as it is."""
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def pictures(path: str | Path, test: str | Path | None = None, size: int | None = None) -> Dataset:
    """Your own images: a folder or a zip, see :func:`cdedu.images.image_folder`.

    Args:
        path: what to learn from.
        test: what to compare with; a tenth of ``path`` is held out where it is not given.
        size: crop and resize to ``size`` × ``size``.
    """
    from cdedu.images import image_folder

    images = image_folder(path, size)
    if len(images.images) < 2:
        raise ValueError(f"{path} holds one picture; training and comparing need at least two")
    name, classes = Path(path).stem.removesuffix("-train"), tuple(images.classes)
    if test is not None:
        held_out = image_folder(test, size)
        unknown = [name for name in held_out.classes if name and name not in images.classes]
        if unknown:
            raise ValueError(
                f"{test} has classes that {path} has not: {', '.join(unknown)}; leave those folders out"
            )
        if held_out.images.shape[1:] != images.images.shape[1:]:
            raise ValueError(
                f"pictures in {test} and {path} differ in size; give a size to crop and resize to"
            )
        # The numbers of the classes are those of the training pictures, also where a class is missing among the held-out ones.
        number = torch.tensor([classes.index(known) if known in classes else 0 for known in held_out.classes])
        labels = number[held_out.labels] if any(held_out.classes) or not any(classes) else None
        return Dataset(name, images.images, held_out.images, images.labels, labels, classes)
    order = torch.randperm(len(images.images), generator=torch.Generator().manual_seed(0))
    x, y, n = images.images[order], images.labels[order], max(1, len(order) // 10)
    return Dataset(name, x[n:], x[:n], y[n:], y[:n], classes)


def load_data(name: str, test: str | Path | None = None, size: int | None = None) -> Dataset:
    """The data of a recipe: ``digits``, ``tinted-digits``, ``cifar10``, one of the toys (20,000 points to learn from, 5,000 to
    compare with), or the path of a folder or zip of images.

    Raises:
        ValueError: for an unknown name, with the list of known ones.
    """
    if name == "digits":
        return digits()
    if name == "tinted-digits":
        return tinted_digits()
    if name == "cifar10":
        from cdedu.images import cifar10

        train, held_out = cifar10()
        return Dataset(
            name, train.images, held_out.images, train.labels, held_out.labels, tuple(train.classes)
        )
    if name in TOYS:
        return Dataset(name, TOYS[name](20_000, 0), TOYS[name](5_000, 1))
    if Path(name).exists() or name.endswith(".zip") or "/" in name:
        return pictures(name, test, size)
    if name in ("imagenet64", "lsun256"):
        raise ValueError(
            f"{name} cannot be downloaded freely; give a folder or zip of its images with --data"
        )
    known = ", ".join([*TOYS, "digits", "tinted-digits", "cifar10"])
    raise ValueError(f"data = {name!r} is not known; choose one of {known}, or a folder or zip")
