"""Values and calls between the grader and the process that runs a submission; nothing that arrives is ever executed or unpickled.

A message is a JSON text followed by the bytes of its tensors. Functions and other objects stay where they are: the other side
gets a stand-in, and calling it is a message. So a check of :mod:`cdedu.course.checks` can judge functions that live in another process,
call them with functions of its own, and take gradients through both.
"""

import contextlib
import json
import math
import os
import re
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import _nothing, _TooLong, empty
from cdedu.course.grading.derivatives import CLOSED, SLOT, Leaf, Link, Look, call, is_carried, transformed

LARGEST = 2**25
"""Bytes of a message's tensors, and of its text 32 times less; more is neither built nor read."""
DEEPEST = 40
"""Calls within calls, and lists within lists."""
QUANTA = (0.002, 0.016, 0.128)
"""Seconds: what a lent function does takes one of these or some of the last, as the other side sees it."""
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
              torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
}  # fmt: skip
NUMBERS = re.compile(r"[<>|=]?[biufc][0-9]{1,2}")
"""How numpy calls a type of numbers."""
ERRORS = {
    e.__name__: e
    for e in (AssertionError, NotImplementedError, NameError, TypeError, ValueError, RuntimeError, IndexError, KeyError,
              AttributeError, ZeroDivisionError, OverflowError, StopIteration, RecursionError)
}  # fmt: skip


class Gone(BaseException):
    """The other side has ended, or sent what is no message; no ``except Exception`` between here and the grader hides it."""

    def __init__(self, why: str = "", ended_by: int = 0) -> None:
        super().__init__(why)
        self.signal = ended_by


class Forged(Gone):
    """The other side sent what it cannot have been asked for."""


class _Theirs:
    """An exception of the other side, on its way back."""


class Remote:
    """A stand-in for an object of the other side; what could be called there can be called here."""


class Peer:
    """One end of the line: a connected socket, and what is done for the other side.

    Args:
        fd: the socket; it no longer blocks.
        operations: name → what the other side may have done, beside calls of what it was lent.
        opaque: lend objects without type, name or text, whose errors do not say what they are and whose time is counted in
            quanta, so that nothing but what they return tells one function from another.
    """

    caught: tuple[type[BaseException], ...] = (Exception,)
    """What is reported to the other side and not let through."""

    def __init__(self, fd: int, operations: dict[str, Callable[..., Any]] | None = None, opaque: bool = False) -> None:  # fmt: skip
        os.set_blocking(fd, False)
        self.fd, self.opaque, self.deadline, self.late, self._depth = fd, opaque, math.inf, False, 0
        self._lending, self._heard = 0, 0.0
        self._operations: dict[str, Callable[..., Any]] = {
            "call": self._called,
            "gradients": self._gradients,
            "accumulate": self._accumulate,
            "transformed": lambda key, *given: transformed(self._objects[key], *given),
        }
        if not opaque:
            self._operations["attribute"] = lambda key, name: getattr(self._objects[key], name)
        self._operations |= operations or {}
        self._objects: dict[int, Any] = {}
        self._links: dict[int, Tensor] = {}
        self.asked = False
        """Whether the other side is being told a gradient."""
        self._next, self._buffer, self._room = 0, bytearray(), 0
        self._anchor = torch.zeros((), requires_grad=True)

    def line(self, error: BaseException) -> str | None:
        """The line of the notebook in an exception's traceback."""
        return None

    def forget(self) -> None:
        """Drop what the other side was lent."""
        self._objects.clear()
        self._links.clear()

    def request(self, operation: str, *arguments: Any) -> Any:
        """Have something done by the other side, and do what it asks meanwhile.

        Raises:
            Gone: if it has ended.
            _TooLong: after the deadline.
            Exception: that which it raised, under its name.
        """
        if self._depth >= DEEPEST:
            raise RecursionError("functions call each other without end")
        self._send({"do": operation}, arguments)
        self._depth += 1
        try:
            while True:
                head, value = self._receive()
                if "do" in head:
                    self._answer(head["do"], value)
                elif "error" in head:
                    raise _raised(head)
                else:
                    return value
        finally:
            self._depth -= 1

    def serve(self) -> None:
        """Answer until the other side hangs up."""
        while True:
            head, value = self._receive()
            if "do" not in head:
                raise Forged("answered what was not asked")
            self._answer(head["do"], value)

    def call(self, key: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call a function of the other side; what it changes in its arguments changes here as well."""
        if is_carried((arguments, options)):
            return call(self, key, arguments, options)
        value, changes = self.request("call", key, list(arguments), options)
        given = dict(enumerate(arguments)) | options
        for name, new in changes:
            old = given.get(name)
            if isinstance(old, Generator) and isinstance(new, Generator):
                old.set_state(new.get_state())
            elif isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape == new.shape:
                with torch.no_grad():
                    old.copy_(new)
        return value

    def _called(self, key: int, arguments: list[Any], options: dict[str, Any]) -> Any:
        given = dict(enumerate(arguments)) | options
        before = {n: _state(v).clone() for n, v in given.items() if isinstance(v, Generator | Tensor)}
        value = self._objects[key](*arguments, **options)
        return value, [(n, given[n]) for n, old in before.items() if not torch.equal(old, _state(given[n]))]

    def _gradients(self, key: int, gradient: Tensor, keys: list[int], again: bool) -> list[Tensor | None]:
        """Of a tensor of ours, by those of the other side from which it was computed; ``again``: to be differentiated themselves."""
        with self._asked():
            links = [self._links[k] for k in keys]
            return list(
                torch.autograd.grad(self._objects[key], links, gradient, True, again, allow_unused=True)
            )

    def _accumulate(self, key: int, gradient: Tensor) -> None:
        """What ``backward`` on the other side means for leaves here."""
        with self._asked():
            if leaves := Look.at(self._objects[key]).behind(self)[0]:
                torch.autograd.backward(self._objects[key], gradient, True, inputs=leaves)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        self.asked = True
        try:
            yield
        finally:
            self.asked = False

    def _answer(self, operation: str, arguments: Any) -> None:
        self._lending += 1
        try:
            self._send({}, self._operations[operation](*arguments))
        except self.caught as error:
            if self.opaque and not isinstance(error, _Theirs):  # which defect it is would show in the text
                error = RuntimeError("the function that was handed in could not do this")
            kinds = [k.__name__ for k in type(error).__mro__]
            facts = {
                "error": type(error).__name__[:60],
                "kind": next((k for k in kinds if k in ERRORS), ""),
                "message": text_of(error),
            }
            self._send(facts | {"line": self.line(error)}, None)
        finally:
            self._lending -= 1

    # --- bytes -----------------------------------------------------------------------------------

    def _send(self, head: dict[str, Any], value: Any) -> None:
        blobs: list[bytes] = []
        self._room = LARGEST
        data = memoryview(message(head | {"value": self._encode(value, blobs)}, blobs))
        if self.opaque and self._lending:
            spent = time.monotonic() - self._heard
            time.sleep(-spent % next((q for q in QUANTA if spent < q), QUANTA[-1]))
        while data:
            data = data[self._ready(select.POLLOUT, os.write, data[: 2**16]) :]

    def _take(self, size: int) -> None:
        """So much of the message is gone; asked before anything of that size is made."""
        self._room -= size
        if self._room < 0:
            raise ValueError(f"a value of more than {LARGEST / 1e6:.0f} MB is too large to be graded")

    def _read(self, n: int) -> bytes:
        while len(self._buffer) < n:
            more = self._ready(select.POLLIN, os.read, 2**18)
            if not more:
                raise Gone
            self._buffer += more
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _ready(self, event: int, use: Callable[..., Any], argument: Any) -> Any:
        """Read or write as soon as the line is ready for it."""
        poll = select.poll()
        poll.register(self.fd, event)
        while not poll.poll(1000 * self._left()):
            pass
        try:
            return use(self.fd, argument)
        except OSError as error:
            raise Gone(str(error)) from None

    def _left(self) -> float:
        """Seconds until the deadline, at most an hour."""
        left = self.deadline - time.monotonic()
        if left < 0:
            self.late = True
            raise _TooLong
        return min(left, 3600)

    def _receive(self) -> tuple[dict[str, Any], Any]:
        self._left()
        size, more = struct.unpack(">QQ", self._read(16))
        if size > LARGEST // 32 or more > LARGEST:
            raise Forged("sent too large a message")
        try:
            head = json.loads(self._read(size))
            sizes = head.pop("sizes")
            if sum(sizes) != more or any(n < 0 for n in sizes):
                raise ValueError("sizes")
            if "end" in head:
                raise Gone(str(head["end"])[:300], head["signal"] and signal.Signals(head["signal"]))
            if "do" in head and head["do"] not in self._operations:
                raise ValueError("do")
            blobs = [self._read(n) for n in sizes]
            self._heard = time.monotonic()
            return head, self._decode(head.pop("value"), blobs)
        except Exception as error:
            raise Forged(f"sent what is no message ({type(error).__name__})") from None

    # --- values ----------------------------------------------------------------------------------

    def _keep(self, value: Any) -> int:
        self._next += 1
        self._objects[self._next] = value
        return self._next

    def _encode(self, value: Any, blobs: list[bytes], depth: int = 0) -> Any:
        self._take(32 * 8)  # its place in the text
        if depth > DEEPEST:
            raise ValueError("lists within lists without end are too deep to be graded")
        inner, facts = partial(self._encode, blobs=blobs, depth=depth + 1), dict[str, Any]()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, np.ndarray | np.generic) and NUMBERS.fullmatch(value.dtype.str):
            self._take(value.nbytes)
            blobs.append(value.tobytes())
            return {"is": "array", "dtype": value.dtype.str, "shape": list(value.shape), "blob": len(blobs) - 1, "scalar": isinstance(value, np.generic)}  # fmt: skip
        if isinstance(value, int | float | str):
            simple = next(kind for kind in (int, float, str) if isinstance(value, kind))(value)
            length = (
                len(simple)
                if isinstance(simple, str)
                else int(simple).bit_length() // 3
                if isinstance(simple, int)
                else 20
            )
            self._take(32 * length)
            return simple
        if value is ... or value is SLOT:
            return {"is": "ellipsis" if value is ... else "slot"}
        if isinstance(value, tuple | list):
            return {"is": "tuple" if isinstance(value, tuple) else "list", "of": [inner(v) for v in value]}
        if isinstance(value, dict):
            return {"is": "dict", "of": [[inner(k), inner(v)] for k, v in value.items()]}
        if isinstance(value, Generator):
            return {"is": "generator", "blob": self._blob(value.get_state(), blobs)}
        if isinstance(value, Tensor) and value.dtype in DTYPES.values() and not value.is_sparse:
            look = Look.at(value, partial(self._blob, blobs=blobs))
            if look.carried:
                raise TypeError(CLOSED)
            kind = str(value.dtype).removeprefix("torch.")
            facts = {
                "is": "tensor",
                "dtype": kind,
                "shape": list(value.shape),
                "blob": look.used,
                "key": None,
            }
            if look.tracked:
                facts |= {"key": self._keep(value), "of": look.behind(self)[1]}
            return facts
        facts = {
            "is": "object",
            "type": "object",
            "repr": "<object>",
            "key": self._keep(value),
            "open": not self.opaque,
        }
        if not self.opaque:
            facts |= {"type": type(value).__name__, "repr": _repr(value)}
        if callable(value):
            facts["empty"] = hasattr(value, "__code__") and empty(value) and not self.opaque
        elif hasattr(type(value), "__float__") or hasattr(type(value), "__index__"):
            with contextlib.suppress(Exception):
                facts["float"] = float(value)
        return facts

    def _blob(self, value: Tensor, blobs: list[bytes]) -> int:
        self._take(value.numel() * value.element_size())
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        flat = plain.flatten().clone(memory_format=torch.contiguous_format)
        blobs.append(flat.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        return len(blobs) - 1

    def _decode(self, value: Any, blobs: list[bytes], depth: int = 0) -> Any:
        if not isinstance(value, dict):
            return value
        if depth > DEEPEST:
            raise ValueError("depth")
        kind, inner = value["is"], partial(self._decode, blobs=blobs, depth=depth + 1)
        if kind in ("ellipsis", "slot"):
            return ... if kind == "ellipsis" else SLOT
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(map(inner, value["of"]))
        if kind == "dict":
            return {inner(k): inner(v) for k, v in value["of"]}
        if kind == "generator":
            generator = Generator()
            generator.set_state(torch.frombuffer(bytearray(blobs[value["blob"]]), dtype=torch.uint8))
            return generator
        if kind == "tensor":
            return self._tensor(value, blobs)
        if kind == "array":
            return _array(value, blobs)
        return self._stand_in(value)

    def _stand_in(self, facts: dict[str, Any]) -> Remote:
        said = str(facts["repr"])[:200]
        shape: dict[str, Any] = {"__repr__": lambda _: said}
        if "float" in facts:
            number = float(facts["float"])
            shape["__float__"] = lambda _: number
        key = int(facts["key"])
        if facts["open"]:
            shape["__getattr__"] = lambda _, name: self._attribute(key, name)
        if "empty" in facts:
            shape["__call__"] = lambda _, *arguments, **options: self.call(key, arguments, options)
            # So that the checks can tell a function that holds nothing yet.
            shape["__code__"] = (_nothing if facts["empty"] else Peer.call).__code__
        made: Remote = type(_name(facts["type"], "object"), (Remote,), shape)()
        return made

    def _attribute(self, key: int, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.request("attribute", key, name)

    def _tensor(self, value: dict[str, Any], blobs: list[bytes]) -> Tensor:
        dtype, shape, data = DTYPES[value["dtype"]], [int(n) for n in value["shape"]], blobs[value["blob"]]
        if len(shape) > 64 or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("shape")
        plain = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
        plain = plain.reshape(shape)
        if value["key"] is None or not torch.is_grad_enabled() or not plain.is_floating_point():
            return plain
        key = int(value["key"])
        ours = {int(k): self._objects[k] for k in value["of"] if k in self._objects}
        leaf = Leaf.apply(self, key, self._anchor, plain)
        self._links[key] = linked = Link.apply(self, key, list(ours), leaf, *ours.values())
        return linked.clone()  # which may be changed in place


def _array(value: dict[str, Any], blobs: list[bytes]) -> Any:
    if not NUMBERS.fullmatch(value["dtype"]):
        raise ValueError("dtype")
    made = np.frombuffer(blobs[value["blob"]], value["dtype"]).reshape([int(n) for n in value["shape"]]).copy()  # fmt: skip
    return made[()] if value["scalar"] else made


def message(head: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """The bytes of a message: two lengths, JSON, and what belongs to it."""
    text = json.dumps(head | {"sizes": [len(b) for b in blobs]}).encode()
    if len(text) > LARGEST // 32:
        raise ValueError(f"a value of {len(text) / 1e6:.0f} MB of text is too large to be graded")
    return b"".join([struct.pack(">QQ", len(text), sum(map(len, blobs))), text, *blobs])


def _state(value: Generator | Tensor) -> Tensor:
    return value.get_state() if isinstance(value, Generator) else value.detach()


def _name(text: Any, otherwise: str) -> str:
    return re.sub(r"\W", "", str(text)[:60]) or otherwise


def text_of(error: BaseException) -> str:
    """What an exception says, if it can say anything."""
    try:
        return str(error)[:2000]
    except Exception:
        return ""


def _repr(value: Any) -> str:
    try:
        return repr(value)[:200]
    except Exception:
        return f"<{type(value).__name__}>"


def _raised(head: dict[str, Any]) -> Exception:
    """The other side's exception, of the kind that it had where that is one of Python's own."""
    said = str(head["message"])[:2000]
    kind = (ERRORS.get(str(head["kind"]), Exception),)
    error: Exception = type(_name(head["error"], "Exception"), (*kind, _Theirs), {"__str__": lambda self: said})(said)  # fmt: skip
    if head.get("line"):
        error.answer_line = str(head["line"])[:200]  # type: ignore[attr-defined]
    return error
