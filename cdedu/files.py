"""Files that are either complete or not there at all, and tensors in them. Nothing is ever unpickled."""

import codecs
import errno
import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

LARGEST_HEADER = 2**22
"""The most bytes of JSON that are read; a header of this package has a few thousand."""

_REMEDIES = {
    errno.ENOSPC: "the disk is full; make room, or choose another folder",
    errno.EDQUOT: "your share of the disk is used up; make room, or choose another folder",
    errno.EROFS: "this disk is read-only; choose another folder",
    errno.EACCES: "permission is denied; choose another folder",
    errno.EPERM: "permission is denied; choose another folder",
    errno.EISDIR: "there is a folder of that name; give the name of a file",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of this path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long for this disk; choose a shorter one",
}

_writing: set[Path] = set()
"""Temporary files that this process is writing now."""


@contextmanager
def disk_errors(path: str | Path, how: str = "") -> Iterator[None]:
    """Turn the error of a full, locked or unsuitable disk into an OSError of the same kind that names the path and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
        code = int(found[1]) if found else getattr(error, "errno", None)
        kind = OSError if isinstance(error, SafetensorError) else type(error)
        if code not in _REMEDIES and isinstance(error, OSError):
            raise
        told = kind(f"cannot write {path}: {_REMEDIES.get(code or 0, error)}{how}")
        told.errno = code
        raise told from None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file next to ``path``: it replaces the file when the block succeeds, and is removed when it fails.

    Raises:
        OSError: if the disk refuses it, naming the path and a remedy; if a folder has that name, before the block begins.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "")
        path.parent.mkdir(parents=True, exist_ok=True)
        _writing.add(temporary.absolute())
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())  # or a power cut can leave an empty file in its place
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()
            _writing.discard(temporary.absolute())


@contextmanager
def locked(lock: str | Path, what: str) -> Iterator[None]:
    """Context that only one process on this machine can be in at a time. The operating system releases a dead process's lock.

    Args:
        lock: the lock file; it's created if missing, and stays.
        what: for the error message: what the other process is doing, and the remedy.

    Raises:
        BlockingIOError: right away, if another process is inside.
    """
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock, timeout=0).acquire()
    except Timeout:
        raise BlockingIOError(f"another {what}") from None
    with held:
        yield


def sweep(folder: str | Path) -> list[Path]:
    """Remove what :func:`replacing` left in a folder when its process was killed, and return what that was.

    Removes only files in this folder itself whose process is gone; files being written now stay. Call it while holding the folder's lock,
    since a process on another machine can't be seen from here.
    """
    gone = []
    for path in sorted(Path(folder).glob(".*.tmp")):
        made = re.fullmatch(r"\..+\.(\d{1,10})\.tmp", path.name)
        if made and path.is_file() and not path.is_symlink() and not _is_written(path, int(made[1])):
            with suppress(OSError):
                path.unlink()
                gone.append(path)
    return gone


def _is_written(path: Path, pid: int) -> bool:
    if pid == os.getpid():  # in a container the next process often has the number of the last one
        return path.absolute() in _writing
    if sys.platform == "win32":  # where a look at a process, os.kill(pid, 0), would end it
        return time.time() - path.stat().st_mtime < 3600
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def sha256(path: str | Path) -> str:
    """Hash of a file, in hexadecimal."""
    with open(regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular(path: str | Path, what: str = "file") -> Path:
    """The path, if it is an ordinary file; reading from a pipe or a device might never end.

    Raises:
        FileNotFoundError: if there is nothing.
        FileNotFoundError: if there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"there is no {what} {path}")
    kinds = {"a folder": path.is_dir, "a pipe": path.is_fifo, "a socket": path.is_socket}
    kind = next((kind for kind, holds in kinds.items() if holds()), "a device")
    raise ValueError(f"{path} is {kind}, not a file; give the path of a {what}")


def text_of(path: str | Path) -> str:
    """A file's text, in UTF-8, or in UTF-16 with a byte-order mark; the mark is no part of it.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: for another encoding, naming the file.
    """
    content = regular(path).read_bytes()
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        where = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {where}, is not in UTF-8; save the file in UTF-8") from None


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object whose numbers are all finite.

    Raises:
        ValueError: for any other text, one longer than :data:`LARGEST_HEADER`, or one nested too deeply.
    """

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"it holds the number {number:.40}, which is not finite")
        return float(number)

    if len(text) > LARGEST_HEADER:
        raise ValueError(f"its JSON has {len(text):,} bytes, more than {LARGEST_HEADER:,}")
    try:
        found = json.loads(text, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it should be a JSON object, but it is {text[:40]!r}")
    return found


def read_json(path: str | Path) -> dict[str, Any]:
    """:func:`parse_json` of a file, in any encoding of Unicode.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    with open(regular(path), "rb") as file:
        text = file.read(LARGEST_HEADER + 1)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header into one file, atomically.

    Raises:
        OSError: if the file cannot be written; the previous one stays.
        ValueError: for NaN or infinity in the header, which JSON can't hold.
    """
    path = Path(path)
    flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        text = json.dumps(header, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} is not written, since its header holds no plain numbers: {error}") from None
    with replacing(path) as temporary:
        save_file(flat, temporary, {"cdedu": text})
        os.chmod(temporary, 0o644)  # safetensors makes files that only their owner can read


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`write_tensors`."""
    with _opened(path) as (file, header):
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def read_header(path: str | Path) -> dict[str, Any]:
    """The header that :func:`write_tensors` wrote, without reading the tensors."""
    with _opened(path) as (_, header):
        return header


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    path = regular(path, "checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            yield file, parse_json((file.metadata() or {})["cdedu"])
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a checkpoint of this package, or it is damaged ({reason:.300})"
        ) from None


def check_weights(tensors: dict[str, Tensor]) -> None:
    """Raise a ValueError for the first tensor that isn't made of real numbers, or contains NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"tensor {name!r:.80} has type {tensor.dtype}, which no weights have")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"tensor {name!r:.80} holds NaN or infinity")


_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.bool}
