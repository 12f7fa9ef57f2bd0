"""Images from files: CIFAR-10, and any folder or zip of pictures. Decoded once, cached as uint8, ready to live on the GPU, or on disk if
there are too many for that."""

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cdedu.data.pixels import BY_CACHE, MisfitError, mapped, write_pixels
from cdedu.files import disk_errors, read_tensors, regular, sha256, write_tensors
from cdedu.limits import PIXELS

Fit = Literal["crop", "pad", "stretch"]


def _cache() -> Path:
    try:
        return Path(os.environ.get("CDEDU_CACHE", "~/.cache/cdedu")).expanduser()
    except RuntimeError:  # nobody's home is known, as where a container runs for a user whom it does not know
        return Path(tempfile.gettempdir()) / "cdedu"


CACHE = _cache()
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
NOT_READ = {".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".tga", ".tif", ".tiff"}
"""Pictures too, which are left out with a word."""
NO_DATA = {"__MACOSX", "__pycache__", "@eaDir", "@tmp", "@Recycle", "#recycle", "$RECYCLE.BIN", "lost+found"}
"""Folders that systems and tools make for themselves, beside those whose names begin with a dot."""

# The mirror's files at a fixed revision, and the archive on the original server, each with its SHA-256.
MIRROR, REVISION = "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2"
PARQUET = {
    "train": "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
    "test": "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
}
ORIGINAL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ORIGINAL_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_SHORT = {"airplane": "plane", "automobile": "car"}
"""What figures call two of them; commands know these names, too."""


@dataclass(frozen=True)
class Images:
    """``images`` (n, C, H, W) uint8, ``labels`` (n,) int64 that index ``classes``."""

    images: Tensor
    labels: Tensor
    classes: list[str]


def image_folder(
    path: str | Path,
    size: int | tuple[int, int] | None = None,
    shuffled: bool = False,
    fit: Fit = "crop",
    channels: int = 3,
) -> Images:
    """All pictures in a folder or a zip, as RGB; the name of a picture's folder is its class.

    They are decoded once, into a file of the cache (:mod:`cdedu.data.pixels`), from which ``images`` is mapped, read-only: any number of
    pictures takes little memory. Hidden files and folders, and those that operating systems create (:data:`NO_DATA`), are skipped;
    symbolic links to folders are followed, each place once.

    Args:
        path: a folder or a ``.zip`` with .png, .jpg, .webp or .bmp files at any depth.
        size: height and width to resize to; a single number is both. Required if sizes differ.
        shuffled: in a random order (always the same one) instead of by name.
        fit: what happens to pictures with another aspect ratio than ``size``: ``crop`` to the center, ``pad`` with black, or ``stretch``.
        channels: 3, or 1 for gray pictures.

    Raises:
        FileNotFoundError: if there is nothing at ``path``, no picture in it, or a broken link.
        ValueError: for a file that is not a picture, for sizes that differ when ``size`` is not given, and for an impossible size, fit or
            number of channels.
        OSError: if the cache's disk is too full.
    """
    path = Path(path)
    _check_wish(size, fit, channels)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or zip {path}")
    pictures = _pictures(path)
    files = [path] if path.is_file() else [path / name for name, _ in pictures]
    # Names, sizes and times say whether the cache is stale, without a look into a picture.
    known = [(os.path.realpath(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = hashlib.sha256(json.dumps([known, size, shuffled, fit, channels]).encode()).hexdigest()[:24]
    if shuffled:
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
        pictures = [pictures[i] for i in order.tolist()]
    file, names = CACHE / f"images-{key}.npy", [name for name, _ in pictures]

    def decoded(i: int) -> np.ndarray:
        name, read = pictures[i]
        return decode(f"{path}/{name}", read, size, fit, channels)

    try:
        write_pixels(file, len(pictures), decoded, path.name)
    except MisfitError as error:
        raise ValueError(
            f"{path}: {names[error.args[0]]} differs in size from {names[0]}; give a size to crop and resize to"
        ) from None
    classes, labels = np.unique([Path(name).parent.name for name in names], return_inverse=True)
    return Images(mapped(file), torch.from_numpy(labels), classes.tolist())


def cifar10(root: str | Path | None = None) -> tuple[Images, Images]:
    """CIFAR-10, lossless: 50,000 training and 10,000 test images, 32 × 32.

    Fetched once from a mirror on the Hugging Face hub, or failing that from the original server. Broken downloads resume where they
    stopped, and every file is checked against a recorded SHA-256 before it is used.

    Args:
        root: download folder; ``~/.cache/cdedu`` by default (or the environment variable CDEDU_CACHE).

    Raises:
        OSError: if neither source can be reached, with both reasons.
        ValueError: if a file differs from its recorded hash.
    """
    folder = Path(root) if root else CACHE
    paths = {split: folder / f"cifar10-{split}.safetensors" for split in PARQUET}
    sources: dict[str, Images] = {}
    if not all(path.is_file() for path in paths.values()):
        try:
            sources = {split: _from_mirror(split) for split in PARQUET}
        except Exception as first:  # whatever fails at the mirror, errors of its libraries included
            try:
                archive = download(ORIGINAL, folder / "cifar-10-binary.tar.gz", ORIGINAL_SHA256)
            except OSError as second:
                raise OSError(
                    f"CIFAR-10 can be had neither from the mirror ({first}) nor from its home ({second})"
                ) from None
            sources = _read_binary(archive)
    train, test = (_cached(path, partial(sources.__getitem__, split)) for split, path in paths.items())
    return train, test


def download(url: str, path: Path, wanted: str | None) -> Path:
    """Fetch a file, resuming a partial download; check its hash, if one is known, before giving it its name.

    Raises:
        OSError: if the server cannot be reached, the connection breaks or the disk refuses the file; what has arrived is kept.
        ValueError: if the hash differs; the bad file is removed.
    """
    if path.is_file():
        return path
    with disk_errors(path, BY_CACHE):
        _fetch(url, path, wanted)
    return path


def _fetch(url: str, path: Path, wanted: str | None) -> None:
    from tqdm.auto import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    total = 0
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            have *= answer.status == 206  # a server that cannot continue starts again
            total = have + int(answer.headers.get("Content-Length", -have))
            progress = {"total": total or None, "initial": have, "desc": path.name}
            with open(part, "ab" if have else "wb") as file, tqdm.wrapattr(file, "write", **progress) as out:
                shutil.copyfileobj(answer, out, 1 << 20)
    except urllib.error.HTTPError as error:
        if not (have and error.code == 416):  # nothing is left to fetch: the hash decides
            raise
    if total and part.stat().st_size < total:
        raise OSError(
            f"{url}: the connection broke after {part.stat().st_size} of {total} bytes; run again to go on"
        )
    found = sha256(part)
    if wanted and found != wanted:
        part.unlink()
        raise ValueError(
            f"{url}: SHA-256 {found[:12]}… differs from the recorded {wanted[:12]}…; the file was removed"
        )
    os.replace(part, path)


def _check_wish(size: Any, fit: Any, channels: Any) -> None:
    if type(channels) is not int or channels not in (1, 3):
        raise ValueError(f"channels = {channels!r}, but pictures have 1 or 3")
    if fit not in get_args(Fit):
        known = ", ".join(map(repr, get_args(Fit)))
        raise ValueError(f"fit = {fit!r} is not known; choose one of {known}")
    if size is None and fit != "crop":
        raise ValueError(f"fit = {fit!r} says how pictures become those of a size; give the size, too")
    sides = size if isinstance(size, tuple) else (size, size)
    if size is not None and (len(sides) != 2 or any(type(n) is not int or n not in PIXELS for n in sides)):
        raise ValueError(
            f"size = {size!r:.80}, but it must be a whole number of pixels, {PIXELS}, or two of them, (height, width); use the "
            "network's, such as 32"
        )


def picture_files(folder: Path) -> list[str]:
    """The names of the pictures in a folder, at any depth, in their order.

    Raises:
        FileNotFoundError: if there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return [name for name, _ in _pictures(folder)]


def has_pictures(folder: Path) -> bool:
    """Whether a folder contains a picture, at any depth."""
    return any(_is_picture(name) for name in _files(folder))


def _is_picture(name: str, suffixes: set[str] = SUFFIXES) -> bool:
    """By its ending, and neither hidden nor in a place that no person made."""
    return Path(name).suffix.lower() in suffixes and not any(_no_data(part) for part in Path(name).parts)


def _no_data(name: str) -> bool:
    return name.startswith(".") or name in NO_DATA


def _files(folder: Path) -> Iterator[str]:
    """Names of the files at any depth, as they lie below ``folder``. Links to folders are followed after all real folders, and no
    folder is gone through twice, so that links in a circle come to an end."""
    seen, tops = set[tuple[int, int]](), [folder]
    while tops:
        links = []
        for top in tops:
            for root, folders, files in os.walk(top):
                place = os.stat(root)
                if (place.st_dev, place.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((place.st_dev, place.st_ino))
                folders[:] = [name for name in folders if not _no_data(name)]
                links += [Path(root, name) for name in folders if Path(root, name).is_symlink()]
                yield from (Path(root, name).relative_to(folder).as_posix() for name in files)
        tops = sorted(links)


def _pictures(path: Path) -> list[tuple[str, Callable[[], bytes]]]:
    """(name, reader) of every picture in a folder or zip, in the order of names."""
    if path.is_dir():
        readers = {name: (path / name).read_bytes for name in _files(path)}
    else:
        try:
            archive = zipfile.ZipFile(regular(path, "folder or zip"))
        except zipfile.BadZipFile:
            raise ValueError(f"{path} is neither a folder nor a zip, or the zip is damaged") from None
        # Some programs on Windows write its own separator into a zip: the folders are classes all the same.
        names = [(name.replace("\\", "/"), name) for name in archive.namelist()]
        readers = {name: partial(archive.read, stored) for name, stored in names if name[-1:] != "/"}
    other = sorted(Path(name).suffix.lower() for name in readers if _is_picture(name, NOT_READ))
    kinds = f"{len(other)} of a kind that is not read ({', '.join(dict.fromkeys(other))})"
    if found := [(name, readers[name]) for name in sorted(readers) if _is_picture(name)]:
        for name, _ in found if path.is_dir() else ():
            regular(
                path / name, "picture"
            )  # neither a link to nothing, nor a pipe, from which one would read for ever
        if other:
            print(
                f"{path}: of {len(found) + len(other)} pictures {kinds} are left out; save them as .png",
                file=sys.stderr,
            )
        return found
    raise FileNotFoundError(
        f"{path} holds no picture ({', '.join(sorted(SUFFIXES))})"
        + f", but {kinds}; save them as .png" * bool(other)
    )


def decode(
    name: str,
    read: Callable[[], bytes],
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: int = 3,
    white: bool = False,
) -> np.ndarray:
    """One picture as (channels, H, W) uint8; ``size``, ``fit`` and ``channels`` as in :func:`image_folder`.

    ``read`` returns the bytes of the file; ``name`` is for the error message. Gray values of 16 bits are scaled to 8. Transparent pixels
    keep their stored color, which nobody sees; with ``white`` they are laid on white, the way a page shows them.

    Raises:
        ValueError: for bytes that are not a picture, or for 32-bit gray values, whose white level is unknown.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(read())) as picture:
            upright = _eight_bits(ImageOps.exif_transpose(picture), picture.format)
            # By way of RGBA, as palettes with transparency want it.
            clear = upright.convert("RGBA") if upright.has_transparency_data else upright
            if white and clear.mode == "RGBA":
                clear = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            rgb = clear.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture that can be read (its content is of no known kind)") from None
    except Exception as error:
        # zipfile and Pillow have many kinds, for damaged, encrypted and monstrous files.
        raise ValueError(f"{name} is no picture that can be read ({error})") from None
    image = rgb.convert("L") if channels == 1 else rgb
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        how = {"crop": ImageOps.fit, "pad": _padded, "stretch": Image.Image.resize}[fit]
        image = how(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def _padded(image: Any, size: tuple[int, int], resample: Any) -> Any:
    """Pillow's pad, which would leave nothing of a line thinner than half a pixel: here it stays one pixel wide."""
    from PIL import ImageOps

    width, height = size
    inner = round(image.width / image.height * height), round(image.height / image.width * width)
    if 0 in inner:
        image = image.resize((min(max(1, inner[0]), width), min(max(1, inner[1]), height)), resample)
    return ImageOps.pad(image, size, resample)


def _eight_bits(picture: Any, kind: str | None) -> Any:
    """Gray values beyond 8 bits scaled to 8; Pillow would cut them off at 255. Other modes as they are."""
    from PIL import Image

    # A gray PNG of 16 bits has had both modes, in different versions of Pillow.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PNG"):
        grey = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"its gray values, of mode {picture.mode}, have no known range; save it with 8 or 16 bits"
        )
    return picture


def _from_mirror(split: str) -> Images:
    import pyarrow.parquet as parquet
    from huggingface_hub import hf_hub_download

    name = f"plain_text/{split}-00000-of-00001.parquet"
    path = hf_hub_download(MIRROR, name, repo_type="dataset", revision=REVISION)
    if sha256(path) != PARQUET[split]:
        raise ValueError(f"{path} differs from its recorded SHA-256; remove it and run again")
    table = parquet.read_table(path)
    rows, labels = table["img"].to_pylist(), torch.tensor(table["label"].to_pylist())
    pixels = np.stack([decode(f"{name}:{i}", partial(row.get, "bytes")) for i, row in enumerate(rows)])
    return Images(torch.from_numpy(pixels), labels, CIFAR10_CLASSES)


def _read_binary(archive: Path) -> dict[str, Images]:
    """The binary version: records of one label byte and 3,072 pixel bytes. No pickle is involved."""
    members = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    out = {}
    with tarfile.open(archive) as tar:
        for split, names in members.items():
            files = (tar.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names)
            rows = np.frombuffer(b"".join(f.read() for f in files if f), np.uint8).reshape(-1, 3073)
            images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy())
            out[split] = Images(images, torch.from_numpy(rows[:, 0].astype(np.int64)), CIFAR10_CLASSES)
    return out


def _cached(path: Path, make: Callable[[], Images]) -> Images:
    if not path.is_file():
        made = make()
        write_tensors(path, {"images": made.images, "labels": made.labels}, {"classes": made.classes})
        return made
    try:
        tensors, header = read_tensors(path)
    except ValueError:
        raise ValueError(f"{path} is damaged; remove it and run again") from None
    return Images(tensors["images"], tensors["labels"], header["classes"])
