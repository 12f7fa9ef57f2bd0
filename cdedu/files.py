"""Files that are either whole or not there, and tensors in them. Nothing is ever unpickled."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``: it takes the file's place when the block ends well, and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut can leave an empty file in its place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Tensors and a JSON header into one file, atomically."""
    path = Path(path)
    flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(flat, temporary, {"cdedu": json.dumps(header)})
            os.chmod(temporary, 0o644)  # safetensors makes files that only their owner can read
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`write_tensors`."""
    with _opened(path) as (file, header):
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def read_header(path: str | Path) -> dict[str, Any]:
    """What :func:`write_tensors` wrote beside the tensors, without reading those."""
    with _opened(path) as (_, header):
        return header


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})["cdedu"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a checkpoint of this package, or it is damaged ({error})") from None
