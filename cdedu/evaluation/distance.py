"""The Fréchet distance of two sets of pictures on disk: folders, files of arrays, or the statistics of a reference.

In Inception's features it is FID. Two figures are comparable if both use the same number of pictures; to compare with the literature, use
50,000 or more.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cdedu.data import to_unit
from cdedu.data.images import decode, picture_files
from cdedu.evaluation import cifar_classifier, digits_classifier
from cdedu.evaluation.captions import ImageEncoder, inception_encoder
from cdedu.networks.classifiers import CifarClassifier, DigitsClassifier

Features = Literal["inception", "ours"]


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of the features of a set of pictures, in float64; plus the number of pictures and their height and
    width, if known."""

    mu: Tensor
    sigma: Tensor
    n: int | None = None
    size: tuple[int, ...] | None = None


def between(
    samples: str | Path,
    reference: str | Path,
    features: Features = "inception",
    device: torch.device | str = "cpu",
) -> tuple[float, Moments, Moments]:
    """The distance between two sets, and the moments of both.

    Args:
        samples, reference: a folder of pictures; a ``.npz`` file with ``arr_0``, pictures (n, H, W, C) uint8; or one with ``mu`` and
            ``sigma``, the statistics of a set, like FID's reference files.
        features: Inception's, or those of the course's frozen classifiers, of digits (8 × 8, gray) or pictures (32 × 32).

    Raises:
        OSError: if something is missing; see also :func:`~cdedu.evaluation.captions.inception_encoder`.
        ValueError: for anything other than these three, pictures of different sizes, or statistics of other features.
    """
    known = [_statistics(Path(source)) for source in (samples, reference)]
    parts = [None if m else pictures(source) for m, source in zip(known, (samples, reference), strict=True)]
    encode = _encoder(features, device) if any(parts) else None
    a, b = (m or moments(part, encode) for m, part in zip(known, parts, strict=True))  # type: ignore[arg-type]
    for what, one, other in (("features", len(a.mu), len(b.mu)), ("height and width", a.size, b.size)):
        if one != other and one and other:
            raise ValueError(
                f"{samples} has {what} {one}, {reference} has {other}; only sets that were made alike can be compared"
            )
    return gaussian_distance(a, b), a, b


def gaussian_distance(a: Moments, b: Moments) -> float:
    r"""Squared Fréchet distance of two Gaussians; the formula is that of :func:`~cdedu.evaluation.frechet_distance`."""
    root = torch.linalg.eigvals(a.sigma @ b.sigma).sqrt().real.sum()
    distance = float((a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * root)
    if not math.isfinite(distance):
        raise ValueError("the distance is not finite; mean or covariance of one of the two is too large")
    return distance


@torch.no_grad()
def moments(parts: Iterator[Tensor], encode: ImageEncoder) -> Moments:
    """Moments of the features of pictures that come a batch at a time, (B, 3, H, W) uint8; only one batch is kept in memory.

    Raises:
        ValueError: for fewer than two pictures, and for features that are not finite.
    """
    n, size, start, total, products = 0, (), torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)
    for part in parts:
        x = encode(part).cpu().double()
        if not n:
            start, size = x.mean(0), tuple(part.shape[2:])
        y = x - start  # near 0, so that little is lost where the squares of the means are subtracted
        n, total, products = n + len(y), total + y.sum(0), products + y.T @ y
    if n < 2:
        raise ValueError(f"{n} pictures are too few to compare; give at least 2, and for a FID thousands")
    if not products.isfinite().all():
        raise ValueError("the features contain NaN or infinity")
    mean = total / n
    return Moments(start + mean, (products - n * mean.outer(mean)) / (n - 1), n, size)


def pictures(source: str | Path, batch: int = 100) -> Iterator[Tensor]:
    """The pictures of a folder, or of ``arr_0`` in a ``.npz`` file: (B, 3, H, W) uint8, gray ones three times the same.

    Raises:
        OSError, ValueError: right away, for anything else; and for a picture that differs in size from the first, once it is reached.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return _from_npz(path, batch)
    return _from_folder(path, picture_files(path), batch)


def _from_folder(folder: Path, names: list[str], batch: int) -> Iterator[Tensor]:
    from tqdm.auto import tqdm

    first = None
    for start in tqdm(range(0, len(names), batch), desc=folder.name, delay=2):
        part = names[start : start + batch]
        decoded = [decode(f"{folder}/{name}", (folder / name).read_bytes) for name in part]
        first = decoded[0].shape if first is None else first
        for name, picture in zip(part, decoded, strict=True):
            if picture.shape != first:
                raise ValueError(
                    f"{folder}: {name} differs in size from {names[0]}; resize all pictures in the same way"
                )
        yield torch.from_numpy(np.stack(decoded))


def _from_npz(path: Path, batch: int) -> Iterator[Tensor]:
    """A batch at a time from the file: 50,000 pictures of 256 × 256 are 10 GB."""
    from tqdm.auto import tqdm

    with _opened(path) as archive, archive.open("arr_0.npy") as file:
        shape, kind = _header(file, path)
        if kind != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise ValueError(f"{path}: arr_0 is {kind} {shape}, but pictures are uint8 (n, H, W, 1 or 3)")
        each = math.prod(shape[1:])
        for start in tqdm(range(0, shape[0], batch), desc=path.name, delay=2):
            wanted = min(batch, shape[0] - start)
            read = file.read(wanted * each)
            if len(read) < wanted * each:
                raise ValueError(f"{path} ends before its {shape[0]:,} pictures do; it is damaged")
            x = torch.frombuffer(bytearray(read), dtype=torch.uint8).view(wanted, *shape[1:])
            yield x.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


def _statistics(path: Path) -> Moments | None:
    """Mean and covariance if a file holds them; None for pictures."""
    if path.suffix != ".npz":
        return None
    with _opened(path) as archive:
        names = set(archive.namelist())
    if not {"mu.npy", "sigma.npy"} <= names:
        if "arr_0.npy" in names:
            return None
        raise ValueError(f"{path} holds neither arr_0 nor mu and sigma, but {', '.join(sorted(names)[:5])}")
    with _opened(path), np.load(path, allow_pickle=False) as arrays:
        try:
            mu, sigma = (
                torch.from_numpy(arrays[name].astype(np.float64, casting="same_kind"))
                for name in ("mu", "sigma")
            )
        except (ValueError, TypeError, EOFError) as error:
            raise ValueError(f"{path}: mu and sigma cannot be read ({error})") from None
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{path}: mu {tuple(mu.shape)} and sigma {tuple(sigma.shape)} are no (d,) and (d, d)"
        )
    if not (mu.isfinite().all() and sigma.isfinite().all()):
        raise ValueError(f"{path}: mu and sigma hold NaN or infinity")
    size = float(sigma.abs().max())
    if (
        not torch.allclose(sigma, sigma.T, rtol=0, atol=1e-6 * size)
        or torch.linalg.eigvalsh(sigma)[0] < -1e-6 * size
    ):
        raise ValueError(f"{path}: sigma is no covariance, which is symmetric and has no eigenvalue below 0")
    return Moments(mu, sigma)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A ``.npz`` file; what is found to be damaged in it only while it is read is a ValueError, too."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is no .npz file, or it is damaged ({error})") from None


def _header(file: zipfile.ZipExtFile, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, kind = read(file)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: arr_0 cannot be read ({error})") from None
    if fortran:
        raise ValueError(f"{path}: arr_0 is in Fortran's order; save it again in C's")
    return shape, kind


def _encoder(features: Features, device: torch.device | str) -> ImageEncoder:
    if features == "ours":
        return partial(_own, device=device)
    return inception_encoder("give --features ours", device)


@cache
def _classifier(size: tuple[int, ...]) -> DigitsClassifier | CifarClassifier | None:
    make = {(8, 8): digits_classifier, (32, 32): cifar_classifier}.get(size)
    return make and make()


def _own(x: Tensor, device: torch.device | str) -> Tensor:
    """Features of the frozen classifier that knows pictures of this size."""
    size = tuple(x.shape[2:])
    grey = bool((x == x[:, :1]).all())
    classifier = _classifier(size)
    if classifier is None or (size == (8, 8) and not grey):
        raise ValueError(
            f"the course has no features for {'gray' if grey else 'colored'} pictures of {size[0]} × {size[1]}, only for gray "
            "ones of 8 × 8 and colored ones of 32 × 32; use --features inception"
        )
    x = x[:, :1] if size == (8, 8) else x
    return classifier.to(device).features(to_unit(x.to(device)))
