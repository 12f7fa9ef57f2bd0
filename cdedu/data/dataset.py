"""The form of every data set."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Clean data, split once: models learn from ``train``; ``test`` is only for comparison.

    ``train`` and ``test`` are float32 (n, ...), or uint8 (n, C, H, W) for images from files; labels are int64 (n,) or None.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    """What the labels mean, in order, if they have names."""
    classifier: str = field(default="", kw_only=True)
    """The shipped classifier made for these data; samples are compared in its features. A folder never gets it by its name."""

    def __post_init__(self) -> None:
        for part, x in (("train", self.train), ("test", self.test)):
            if x.is_floating_point() and not x.isfinite().all():
                row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"{self.name}: {part}[{row}] holds NaN or infinity; leave that sample out")

    def label_count(self) -> int:
        """How many labels there are: the named ones, or up to the largest number."""
        return max(len(self.classes), int(self.train_labels.max()) + 1)

    def describe(self) -> dict[str, object]:
        """What a results record and a state say about the data: a name, sizes, and a fingerprint of the contents (see ``alike``)."""
        sizes = {"train": len(self.train), "test": len(self.test)}
        return {"name": self.name, **sizes, "shape": list(self.train.shape[1:]), **self._contents}

    @cached_property
    def _contents(self) -> dict[str, object]:
        labels = {} if self.train_labels is None else {"labels": _digest(self.train_labels)}
        if not self.train.is_floating_point():
            return labels | {"pixels": _digest(self.train)}
        x = self.train.double()
        return labels | {"mean": float(x.mean()), "std": float(x.std())}


def alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two descriptions mean the same training data, whatever it is called.

    Pictures and labels must match byte by byte. Computed numbers differ in their last digits from machine to machine, so their mean and
    standard deviation must agree to one part in 10⁴.
    """
    exact, near = ("train", "shape", "labels", "pixels"), ("mean", "std")
    close = partial(math.isclose, rel_tol=1e-4, abs_tol=1e-4)
    return all(a.get(k) == b.get(k) for k in exact) and all(close(a.get(k, 0), b.get(k, 0)) for k in near)


def told(about: dict[str, Any]) -> str:
    """A description of data, in words."""
    size = " x ".join(map(str, about["shape"]))
    contents = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in about.items() if k in _CONTENTS}
    return (
        f"{about['name']}, {about['train']} of {size} ({', '.join(f'{k} {v}' for k, v in contents.items())})"
    )


_CONTENTS = ("labels", "pixels", "mean", "std")
_HASHED = 1 << 28
"""Bytes that are hashed at most; of larger data, rows at equal distances."""


def _digest(x: Tensor) -> str:
    rows = min(len(x), max(1, _HASHED * len(x) // max(x.nbytes, 1)))
    chosen = x if rows == len(x) else x[torch.arange(rows) * len(x) // rows]
    return hashlib.sha256(chosen.contiguous().cpu().numpy().data).hexdigest()[:16]


def to_uint8(x: Tensor) -> Tensor:
    """Images in [−1, 1] as 8-bit integers, rounded; uint8 stays as it is."""
    if x.dtype == torch.uint8:
        return x
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_unit(x: Tensor) -> Tensor:
    """uint8 images as float32 in [−1, 1]; anything else as it is."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x
