"""Data: toys in the plane, digits, and any folder of pictures. Everything is scaled to a standard deviation near σ_d = ½."""

from collections.abc import Callable
from pathlib import Path

import torch

from cdedu.data.dataset import Dataset, to_uint8, to_unit
from cdedu.data.images import Fit, cifar10, image_folder
from cdedu.data.modes import mode_data, mode_grid
from cdedu.data.points import clouds
from cdedu.data.small import (
    TOYS,
    checkerboard,
    circles,
    digits,
    eight_gaussians,
    spirals,
    swiss_roll,
    tinted_digits,
    two_moons,
)
from cdedu.data.video import moving_digits, single_frames

__all__ = [
    "ELSEWHERE",
    "SETS",
    "TOYS",
    "Dataset",
    "checkerboard",
    "circles",
    "digits",
    "eight_gaussians",
    "load_data",
    "pictures",
    "spirals",
    "swiss_roll",
    "tinted_digits",
    "to_uint8",
    "to_unit",
    "two_moons",
]


def pictures(
    path: str | Path,
    test: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: int = 3,
) -> Dataset:
    """Your own images: a folder or a zip, see :func:`cdedu.data.images.image_folder`.

    Args:
        path: what to learn from.
        test: what to compare with; by default a tenth of ``path`` is held out.
        size: height and width to resize to; a single number is both.
        fit: what to do with pictures of another aspect ratio: ``crop``, ``pad`` or ``stretch``.
        channels: 3, or 1 for gray pictures.
    """
    how = {"size": size, "fit": fit, "channels": channels}
    # The file of the pixels is written in the order of the split, of which both parts are slices.
    images = image_folder(path, shuffled=test is None, **how)
    if len(images.images) < 2:
        raise ValueError(f"{path} holds only one picture; training and comparing need at least two")
    name, classes = Path(path).stem.removesuffix("-train"), tuple(images.classes)
    if test is not None:
        held_out = image_folder(test, **how)
        unknown = [name or "pictures outside any folder" for name in held_out.classes if name not in classes]
        if unknown and any(held_out.classes):
            raise ValueError(
                f"{test} has classes that {path} has not: {', '.join(unknown)}; leave those folders out"
            )
        if held_out.images.shape[1:] != images.images.shape[1:]:
            raise ValueError(
                f"pictures in {test} and {path} differ in size; give a size to crop and resize to"
            )
        # The numbers of the classes are those of the training pictures, also where a class is missing among the held-out ones.
        number = torch.tensor([0 if unknown else classes.index(known) for known in held_out.classes])
        labels = number[held_out.labels] if any(held_out.classes) or not any(classes) else None
        return Dataset(name, images.images, held_out.images, images.labels, labels, classes)
    x, y, n = images.images, images.labels, max(1, len(images.images) // 10)
    return Dataset(name, x[n:], x[:n], y[n:], y[:n], classes)


def load_data(
    name: str,
    test: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: int = 3,
) -> Dataset:
    """The data of a recipe: a name of :data:`SETS`, one of the toys (20,000 points to learn from, 5,000 to compare with), or the path
    of a folder or zip of images.

    Raises:
        ValueError: for an unknown name, listing the known ones; for a known name combined with options that only folders take.
    """
    if name in SETS or name in TOYS:
        given = {"test data": test, "size": size, "fit": fit != "crop", "channels": channels != 3}
        for what in [what for what, value in given.items() if value]:
            raise ValueError(
                f"{name} comes as it is; {what} can be chosen for a folder or zip of pictures only"
            )
    if name in SETS:
        return SETS[name]()
    if name in TOYS:
        return Dataset(name, TOYS[name](20_000, 0), TOYS[name](5_000, 1))
    if Path(name).exists() or name.endswith(".zip") or "/" in name:
        return pictures(name, test, size, fit, channels)
    if name in ELSEWHERE:
        raise ValueError(f"{name} {ELSEWHERE[name]}")
    known = ", ".join([*TOYS, *SETS])
    raise ValueError(f"data = {name!r} is not known; choose one of {known}, or a folder or zip")


def _cifar10() -> Dataset:
    train, test = cifar10()
    return Dataset("cifar10", train.images, test.images, train.labels, test.labels, tuple(train.classes))


SETS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "tinted-digits": tinted_digits,
    "cifar10": _cifar10,
    "moving-digits": moving_digits,
    "moving-digits-frames": lambda: single_frames(moving_digits()),
    "clouds": clouds,
    "modes": lambda: mode_data(mode_grid()),
}
"""What :func:`load_data` knows by name, besides the toys."""
ELSEWHERE = {
    "imagenet64": "cannot be downloaded freely; give a folder or zip of its images with --data",
    "lsun256": "cannot be downloaded freely; give a folder or zip of its images with --data",
    "latent-digits": "are made by an autoencoder: cdedu.methods.latent.latent_data(model, digits())",
}
