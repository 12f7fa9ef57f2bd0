"""Pickles as data: whatever a file wants made becomes a record of its name, arguments and state. Nothing is imported or called.

A pickle is a program for a small stack machine. This is such a machine without the instructions that could do harm, and with a
limit on the others: how many there are, where they may put things, and what may be a key. What it returns can still share parts of
itself many times over, so look at values by their type before they are printed, hashed or compared.
"""

import errno
import math
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Container
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdedu.networks.bounds import shown, whole

MOST = 500_000
"""Instructions of one pickle; EDM's networks need a tenth of that."""
LARGEST = 2**26
"""Bytes of the pickle in a file of torch, which holds names and shapes."""


class Name(str):
    """A name of the file, as ``module.name``, for something that could be called."""


class Record(dict[Any, Any]):
    """What the file wanted made: by which name, with which arguments, state and items."""

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.name, self.args = name, args
        self.state: Any = None


def read_pickle(file: Any, names: Container[str], persistent: bool = False) -> Any:
    """The first pickle in a file, which is left behind its end.

    Args:
        file: has ``read``, ``readline`` and ``tell``, and returns no more bytes than it has.
        names: what it may name, as ``module.name``.
        persistent: whether it may refer to something outside itself; that becomes a :class:`Record` of the name ``persistent``.

    Raises:
        ValueError: for a name that is not listed, an instruction that no such file needs, or more than :data:`MOST` of them.
        IndexError, KeyError: for a pickle that makes no sense.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for count, (code, arg, _) in enumerate(pickletools.genops(file)):
        if count >= MOST:
            raise ValueError(f"it has more than {MOST:,} instructions")
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE"
                | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
            ):  # fmt: skip
                stack.append(arg)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                marks.append(len(stack))
            case "POP":  # with POP_MARK: what turned out to contain itself, which a name follows
                stack.pop()
            case "POP_MARK":
                since_mark()
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-int(code.name[-1]) :] = [tuple(stack[-int(code.name[-1]) :])]
            case "FROZENSET":
                stack.append(since_mark())
            case "APPEND":
                last = stack.pop()
                _list(stack[-1]).append(last)
            case "APPENDS" | "ADDITEMS":
                taken = since_mark()
                _list(stack[-1]).extend(taken)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], [key, value])
            case "SETITEMS":
                taken = since_mark()
                _put(stack[-1], taken)
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]  # a dictionary: a large number takes no room
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                module, _, name = arg.partition(" ")
                stack.append(_name(module, name, names))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(module, name, names))
            case "REDUCE" | "NEWOBJ":
                args, name = stack.pop(), stack.pop()
                if type(name) is not Name or type(args) is not tuple:
                    raise ValueError(f"it calls {shown(name)}, which is no name")
                stack.append(Record(name, args))
            case "BUILD":
                state = stack.pop()
                if type(stack[-1]) is not Record:
                    raise ValueError(f"it gives a state to {shown(stack[-1])}, which has none")
                stack[-1].state = state
            case "BINPERSID" if persistent:
                stack.append(Record("persistent", _tuple(stack.pop())))
            case "STOP":
                return stack.pop()
            case _:
                raise ValueError(f"it has the instruction {code.name}, which no such checkpoint needs")
    raise ValueError("it has no end")


def _name(module: Any, name: Any, names: Container[str]) -> Name:
    full = f"{module}.{name}" if type(module) is type(name) is str else ""
    if full not in names:
        raise ValueError(f"it names {full!r:.100}, which no such checkpoint needs")
    return Name(full)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"it lengthens {shown(value)}, which is no list")
    return value


def _tuple(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise ValueError(f"{shown(value)} stands where a tuple should")
    return value


def _put(mapping: Any, flat: list[Any]) -> None:
    """Keys and values in turn; a key is plain, since that of a nested one could take for ever."""
    if type(mapping) not in (dict, Record) or len(flat) % 2:
        raise ValueError(f"it sets items of {shown(mapping)}")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if type(key) not in (str, int, float, bool, bytes, type(None)):
            raise ValueError(f"it has {shown(key)} as a key")
        mapping[key] = value


_TYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}
_MORE_TYPES = _TYPES | {
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.BoolStorage": torch.bool,
}


class Storage(NamedTuple):
    """Numbers in a row, as they lie in a file."""

    dtype: torch.dtype
    numel: int
    data: Any
    """A buffer."""


def _described(record: Any) -> tuple[torch.dtype, Any, int]:
    """Type, key and length of the storage that a persistent reference stands for."""
    if type(record) is not Record or record.name != "persistent" or len(record.args) < 5:
        raise ValueError(f"{shown(record)} stands where the numbers of a tensor should")
    what, kind, key, _, numel, *more = record.args
    if what != "storage" or type(kind) is not Name or any(part is not None for part in more):
        raise ValueError("the numbers of a tensor are not described as torch does")
    return _MORE_TYPES[kind], key, whole("the length of a storage", numel, 0, 2**40)


def read_storage(blob: Any) -> Storage:
    """One storage as ``torch.save`` wrote it before there were zip files, which is how pickled tensors still hold it.

    Raises:
        ValueError, KeyError, IndexError: if it is anything else, or shorter than it says.
    """
    if type(blob) is not bytes:
        raise ValueError(f"{shown(blob)} stands where the bytes of a tensor should")
    file = BytesIO(blob)
    magic, version, system, record, keys = (read_pickle(file, _TYPES, persistent=i == 3) for i in range(5))
    if (
        type(magic) is not int
        or magic != 0x1950A86A20F9469CFC6C
        or version != 1001
        or type(system) is not dict
    ):
        raise ValueError("a tensor is not stored as torch does")
    dtype, key, numel = _described(record)
    if system.get("little_endian") is not True or type(key) is not str or keys != [key]:
        raise ValueError("a tensor is not stored as torch does")
    start = file.tell() + 8
    if int.from_bytes(file.read(8), "little") != numel or len(blob) - start < numel * dtype.itemsize:
        raise ValueError(f"a tensor's numbers are fewer than the {numel:,} that it promises")
    return Storage(dtype, numel, memoryview(blob)[start:])


class Laid(NamedTuple):
    """A tensor of a file that has not been opened: how it lies in its storage."""

    storage: Any
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.size)

    def check(self, numel: int) -> None:
        """Raises a ValueError unless it lies within a storage of so many numbers, and repeats none."""
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if self.numel > numel or (self.numel and last >= numel):
            raise ValueError(f"a tensor of shape {self.size} is out of bounds of its storage of {numel:,}")


def laid(record: Any) -> Laid:
    """How the tensor behind a record lies."""
    if type(record) is Record and record.name == "torch._utils._rebuild_parameter":
        record = record.args[0]
    if type(record) is not Record or record.name != "torch._utils._rebuild_tensor_v2":
        raise ValueError(f"{shown(record)} stands where a tensor should")
    storage, offset, size, stride = record.args[:4]
    for part in (_tuple(size), _tuple(stride)):
        if len(part) > 8:
            raise ValueError(f"a tensor has {len(part)} dimensions")
        for n in part:
            whole("size or stride of a tensor", n, 0, 2**40)
    return Laid(storage, whole("the offset of a tensor", offset, 0, 2**40), size, stride)


def open_tensor(place: Laid, storage: Storage) -> Tensor:
    """The tensor in float32, in memory of its own."""
    place.check(storage.numel)
    if not place.numel:
        return torch.empty(place.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the file's bytes cannot be written to
        flat = torch.frombuffer(storage.data, dtype=storage.dtype, count=storage.numel)
    return flat.as_strided(place.size, place.stride, place.offset).to(torch.float32, copy=True)


_STATE = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}


def check_torch_file(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors in a ``.bin`` of torch, without opening one: such a file then is what ``torch.load`` expects of
    weights alone, and unpacks to no more than its own size.

    Raises:
        ValueError: if it holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed, which torch's files are not")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("it promises more bytes than it has")
            sizes = {entry.filename: entry.file_size for entry in entries}
            inside = [name for name in sizes if name.endswith("/data.pkl")]
            if len(inside) != 1 or len(sizes) != len(entries) or sizes[inside[0]] > LARGEST:
                raise ValueError("it does not hold one dictionary of tensors")
            root, state = inside[0][: -len("data.pkl")], BytesIO(archive.read(inside[0]))
        found = read_pickle(state, _STATE | _MORE_TYPES.keys(), persistent=True)
        return {
            name: _checked(record, lambda key: sizes[f"{root}data/{key}"]) for name, record in found.items()
        }
    except Exception as error:  # a damaged file can raise anything
        # A wrong address in it is a place before its beginning, which is an OSError too.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is refused: it is no file of weights alone ({reason:.200}); use one in safetensors"
        ) from None


def _checked(record: Any, size_of: Callable[[str], int]) -> tuple[int, ...]:
    place = laid(record)
    dtype, key, numel = _described(place.storage)
    if type(key) is not str or size_of(key) != numel * dtype.itemsize:
        raise ValueError("a tensor's numbers are not as many as it promises")
    place.check(numel)
    return place.size
