"""What every data set is."""

from dataclasses import dataclass

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
        return max(len(self.classes), int(self.train_labels.max()) + 1)

    def describe(self) -> dict[str, object]:
        """What a results record says of the data."""
        sizes = {"train": len(self.train), "test": len(self.test)}
        return {"name": self.name, **sizes, "shape": list(self.train.shape[1:])}


def to_uint8(x: Tensor) -> Tensor:
    """Images in [−1, 1] as 8-bit integers, rounded."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_unit(x: Tensor) -> Tensor:
    """uint8 images as float32 in [−1, 1]; anything else as it is."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x
