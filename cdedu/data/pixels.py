"""Pictures as one file of pixels: decoded once, then memory-mapped, so there can be more of them than memory holds.

The file is a NumPy array, (n, C, H, W) uint8. All processes on a machine map the same file; the operating system decides which parts to
keep in memory, and makes room whenever a program needs it.
"""

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cdedu.files import disk_errors, replacing

BY_CACHE = " by the environment variable CDEDU_CACHE"
CHUNK = 1 << 25
"""Bytes of pixels that are decoded before they are written and counted as done."""
_MAPPED: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()
"""The mapped arrays by their addresses, as long as a tensor uses them."""


def mapped(path: Path) -> Tensor:
    """The pixels (n, C, H, W) of a file, uint8, read only when accessed. They cannot be written to.

    Raises:
        ValueError: for an incomplete file.
    """
    try:
        # Read-only: of a private copy ("c") the system would want to know that it fits into memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype != np.uint8 or array.ndim != 4:
            raise ValueError(f"it holds {array.dtype} {array.shape}")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged; remove it and run again ({error})") from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        pixels = torch.from_numpy(array)
    _MAPPED[pixels.untyped_storage().data_ptr()] = array
    return pixels


def is_mapped(x: Tensor) -> bool:
    """Whether a tensor, or one it is a view of, comes from :func:`mapped`."""
    return x.device.type == "cpu" and x.untyped_storage().data_ptr() in _MAPPED


def write_pixels(path: Path, n: int, decode: Callable[[int], np.ndarray], name: str) -> None:
    """Write the file of pictures 0, ..., n − 1 unless it exists; one process writes it while others wait.

    Finished pictures go into a file next to it, ``.part``, with their count in ``.part.json``, both synced to disk, so an interrupted run
    can continue. At most :data:`CHUNK` bytes of pixels are in memory.

    Args:
        decode: picture i as (C, H, W) uint8; called on several threads.
        name: what is being decoded, for messages.

    Raises:
        OSError: if the disk has too little space, before the work or during it.
        ValueError: from ``decode``, and for pictures of different sizes.
    """
    if path.is_file():
        return
    with disk_errors(path, BY_CACHE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(path.name + ".lock"), name):
            if not path.is_file():
                _write(path, n, decode, name)


@contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Inside, no other process of this machine is inside. The system opens the lock of a process that dies."""
    guard = FileLock(lock)
    try:
        guard.acquire(timeout=2)
    except Timeout:
        print(f"another process is decoding {name}; waiting for it", file=sys.stderr)
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


def _write(path: Path, n: int, decode: Callable[[int], np.ndarray], name: str) -> None:
    from tqdm.auto import tqdm

    part, count = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    first = decode(0)
    step = max(1, CHUNK // first.nbytes)
    done, start = _begun(part, count, n, first.shape)
    left = (n - done) * first.nbytes
    if left > (free := shutil.disk_usage(path.parent).free):
        raise OSError(
            f"the pixels of {name} take another {left / 1e9:,.1f} GB, but {path.parent} has {free / 1e9:,.1f} GB left; remove "
            f"images-* files of other data there, or set CDEDU_CACHE to a folder with more space"
        )

    def fitting(i: int) -> np.ndarray:
        picture = decode(i)
        if picture.shape != first.shape:
            raise MisfitError(i)
        return picture

    shown = {"total": n, "initial": done, "desc": f"decode {name}", "unit": "picture", "delay": 1}
    # A cluster gives a task some of a machine's cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool, open(part, "rb+") as file, tqdm(**shown) as bar:
        while done < n:
            pictures = np.empty((min(step, n - done), *first.shape), np.uint8)
            for i, picture in enumerate(pool.map(fitting, range(done, done + len(pictures)))):
                pictures[i] = picture
            try:
                file.seek(start + done * first.nbytes)
                file.write(pictures.data)
                file.flush()
                os.fsync(file.fileno())
                done += len(pictures)
                with replacing(count) as temporary:
                    temporary.write_text(json.dumps({"done": done}), encoding="utf-8")
            except OSError as error:
                raise OSError(
                    f"cannot write {part} ({error.strerror}); {done} of {n} pictures are kept, run again to go on"
                ) from None
            bar.update(len(pictures))
    os.replace(part, path)
    count.unlink()


class MisfitError(ValueError):
    """Picture ``args[0]`` has another size than the first."""


def _begun(part: Path, count: Path, n: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many pictures a part holds, and where its pixels begin; a new part with its header where there is none to go on with."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)}
    try:
        done = json.loads(count.read_text(encoding="utf-8"))["done"]
        with open(part, "rb") as file:
            np.lib.format.read_magic(file)
            known, start = np.lib.format.read_array_header_1_0(file)[0], file.tell()
        if known == (n, *shape) and part.stat().st_size >= start + done * int(np.prod(shape)):
            return done, start
    except (OSError, ValueError, KeyError):
        pass
    count.unlink(missing_ok=True)  # first: a count must never speak of another part
    with open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        return 0, file.tell()


class Ahead:
    """Calls a function for each step on a thread, while the step before it is still running.

    If the function raises, the error surfaces when that step is asked for. The thread ends when this object is no longer used.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._made: dict[int, Future[Tensor]] = {}

    def __call__(self, make: Callable[[int], Tensor], step: int, last: int) -> Tensor:
        """The result of ``make(step)``; starts on the step after it, up to ``last``."""
        wanted = range(step, min(step + 1, last) + 1)
        self._made = {s: self._made.get(s) or self._thread.submit(make, s) for s in wanted}
        return self._made[step].result()
