"""Samples on disk: a folder of pictures, or one file of arrays; written in batches, and resumed if an earlier run of the same command was
interrupted."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdedu.data import to_uint8
from cdedu.files import disk_errors, locked, replacing
from cdedu.limits import size
from cdedu.recipes import Recipe
from cdedu.runs import walk
from cdedu.training import seed_of

ABOUT = "samples.json"
"""The file in a folder of pictures that says how they were made."""
IEND = b"IEND\xaeB`\x82"
"""The end of every complete PNG file."""


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are pictures, gray or colored."""
    return len(shape) == 3 and shape[0] in (1, 3)


def draw(
    model: nn.Module,
    recipe: Recipe,
    shape: tuple[int, ...],
    steps: int,
    numbers: range,
    seed: int = 0,
    **cond: Any,
) -> Tensor:
    """Draw the samples of a seed that have these numbers, (len(numbers), \\*shape), to the CPU.

    Each sample has its own generator, seeded by seed and number, so sample 7 is sample 7 no matter what is drawn with it (up to the last
    bits of a sum, which a network may add in another order for another batch size). ``labels`` in ``cond`` take turns.
    """
    generators = [torch.Generator().manual_seed(seed_of(seed, "sample", i)) for i in numbers]
    if "labels" in cond:
        cond["labels"] = cond["labels"][torch.tensor(numbers) % len(cond["labels"])]
    return walk(model, recipe, (len(numbers), *shape), steps, generators, **cond).cpu()


def write_folder(
    folder: Path,
    drawn: Callable[[range], Tensor],
    shape: tuple[int, ...],
    number: int,
    batch: int,
    about: dict[str, Any],
) -> int:
    """Write pictures ``000000.png``, ``000001.png``, ...; never more than one batch of them is in memory.

    Args:
        drawn: samples by their numbers, such as :func:`draw`.
        about: everything the samples depend on, kept in :data:`ABOUT`. Existing pictures that were made in the same way stay.

    Returns:
        How many pictures existed already.

    Raises:
        ValueError: for samples that are not pictures.
        FileExistsError: for a folder that holds anything else, naming it.
        OSError: for a disk with too little space.
    """
    from PIL import Image

    if not is_picture(shape):
        raise ValueError(f"samples of shape {shape} are no pictures; write them with --format npz")
    with _alone(folder):
        _check_same(folder / ABOUT, about, _strangers(folder, number))
        done, block = _whole(folder, number), 4096  # bytes: what a small file takes on most disks
        _space(folder, (number - done) * -(-math.prod(shape) // block) * block, f"{number - done:,} pictures")
        _note(folder / ABOUT, about)
        for numbers, x in batches(drawn, done, number, batch):
            for i, pixels in zip(numbers, to_uint8(x).permute(0, 2, 3, 1).numpy(), strict=True):
                path = folder / f"{i:06}.png"
                temporary = folder / f".{path.name}.tmp"
                with disk_errors(path):
                    Image.fromarray(pixels if shape[0] == 3 else pixels[..., 0]).save(temporary, "PNG")
                    os.replace(
                        temporary, path
                    )  # not synced to the disk: each that is not whole is drawn again
        return done


def write_npz(
    path: Path,
    drawn: Callable[[range], Tensor],
    shape: tuple[int, ...],
    number: int,
    batch: int,
    about: dict[str, Any],
    labels: Tensor | None = None,
) -> int:
    """Write one file in the format of openai's guided-diffusion evaluator: ``arr_0``, pictures (n, H, W, C) uint8, and, if there are
    labels, ``arr_1``, (n,) int64. Anything but pictures is float32 (n, ...).

    Samples first go into a ``.part`` file next to it, so only one batch is in memory. Arguments and errors are as in
    :func:`write_folder`; ``labels`` take turns.
    """
    with _alone(path):
        if path.exists():
            raise FileExistsError(f"{path} is there already; choose another --out, or remove it")
        picture = is_picture(shape)
        sample = (*shape[1:], shape[0]) if picture else shape
        kind = np.dtype(np.uint8 if picture else np.float32)
        each = math.prod(sample) * kind.itemsize
        part, told = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
        _check_same(told, about, [part.name] if part.exists() and not told.exists() else [])
        done = min(part.stat().st_size // each, number) if part.exists() else 0
        _space(
            path.parent,
            (2 * number - done) * each,
            f"{number:,} samples, and once more while they are put together,",
        )
        _note(told, about)
        with open(part, "ab") as file:
            file.truncate(_first(done, number, batch) * each)
            for _, x in batches(drawn, done, number, batch):
                x = to_uint8(x).permute(0, 2, 3, 1).contiguous() if picture else x.float()
                with disk_errors(part):
                    file.write(x.numpy().tobytes())
                    file.flush()
                    os.fsync(file.fileno())
        arrays = {"arr_0": np.memmap(part, kind, "r", shape=(number, *sample))}
        if labels is not None:
            arrays["arr_1"] = labels[torch.arange(number) % len(labels)].numpy()
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
        part.unlink()
        told.unlink()
        return done


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Inside, no other process writes samples of this name: two would append to one file."""
    what = f"process is writing {out}; wait for its end, or choose another --out"
    lock = out.with_name(f".{out.name}.lock")
    with locked(lock, what):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open
                lock.unlink()


def _first(done: int, number: int, batch: int) -> int:
    """Where to go on: at the beginning of the batch that was under way, so that the batches are those of an uninterrupted run."""
    return done - done % batch if done < number else number


def batches(
    drawn: Callable[[range], Tensor], done: int, number: int, batch: int
) -> Iterator[tuple[range, Tensor]]:
    """The samples that are not done, with their numbers, a batch at a time."""
    from tqdm.auto import tqdm

    first = _first(done, number, batch)
    with tqdm(total=number, initial=first, desc="sample", unit="sample", delay=1) as bar:
        for start in range(first, number, batch):
            numbers = range(start, min(start + batch, number))
            yield numbers, drawn(numbers)
            bar.update(len(numbers))


def _whole(folder: Path, number: int) -> int:
    """How many pictures there are, up to the first that is missing or not whole."""
    for i in range(number):
        try:
            with open(folder / f"{i:06}.png", "rb") as file:
                file.seek(-len(IEND), os.SEEK_END)
                if file.read() != IEND:
                    return i
        except OSError:  # it is not there, or shorter than that
            return i
    return number


def _strangers(folder: Path, number: int) -> list[str]:
    """What a folder holds that is no picture with a number below ``number``: it would be counted as one of them."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    known = (ABOUT in names) * [ABOUT]
    return [
        name for name in names
        if name not in known and not (known and name.endswith(".png") and name[:-4].isdecimal() and int(name[:-4]) < number)
        and not (name.startswith(".") and name.endswith(".tmp"))
    ]  # fmt: skip


def _check_same(told: Path, about: dict[str, Any], others: list[str]) -> None:
    """Raise a FileExistsError if what is there was made otherwise, or is something else."""
    if others:
        raise FileExistsError(
            f"{told.parent} holds {others[0]}, which this command does not write; choose another --out"
        )
    if not told.exists():
        return
    about = json.loads(json.dumps(about))
    try:
        then = json.loads(told.read_text(encoding="utf-8"))
        names = [name for name in {**about, **then} if then.get(name) != about.get(name)]
    except (ValueError, TypeError, AttributeError):
        raise FileExistsError(f"{told} cannot be read; choose another --out") from None
    for name in names[:1]:
        raise FileExistsError(
            f"{told} is of samples with {name} = {then.get(name)!s:.80}, now it is {about.get(name)!s:.80}; choose another --out"
        )


def _note(told: Path, about: dict[str, Any]) -> None:
    with replacing(told) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _space(folder: Path, needed: int, what: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"{what} would need {size(needed)}, but {folder} has {size(free)} left; draw fewer, or choose another --out"
        )
