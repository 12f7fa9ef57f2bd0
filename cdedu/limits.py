"""Allowed ranges of numbers, declared with each field and checked in one place; and how much a machine can hold.

Declare a field with one of these types, ``batch: Count = 512``, or with a range of its own,
``Annotated[float, Range(0, 1, "high")]``; :func:`check_ranges` looks at all fields of a dataclass.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``; ``without`` excludes one of the two ends."""

    low: float
    high: float = math.inf
    without: Literal["", "low", "high"] = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.without == "low" else value >= self.low
        below = value < self.high if self.without == "high" else value <= self.high
        return (
            above and below and abs(value) <= sys.float_info.max
        )  # also of whole numbers that no float holds

    def __str__(self) -> str:
        if self.high == math.inf:
            return (
                "positive and finite" if (self.low, self.without) == (0, "low") else f"at least {self.low:,}"
            )
        if self.without:
            low, high = ("above", "at most") if self.without == "low" else ("at least", "below")
            return f"{low} {self.low:,} and {high} {self.high:,}"
        return f"from {self.low:,} to {self.high:,}"


Count = Annotated[int, Range(1)]
"""How many: at least one."""
Whole = Annotated[int, Range(0)]
"""How many, possibly none."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""Seed of a random generator: any that PyTorch accepts on every system."""
PIXELS = Range(1, 16_384)
Pixels = Annotated[int, PIXELS]
"""Height or width of a picture."""
Positive = Annotated[float, Range(0, without="low")]
Weight = Annotated[float, Range(0)]
"""Weight of guidance, or of a term in a sum."""
Rate = Annotated[float, Range(0, 1, "high")]
"""A share, or the rate of a moving average."""


def numbers(hint: Any, found: Range | None = None) -> Iterator[Range | None]:
    """For each number in a type, wherever it stands, its declared range, or None."""
    if get_origin(hint) is Annotated:
        kind, *more = get_args(hint)
        yield from numbers(kind, next((m for m in more if isinstance(m, Range)), found))
    elif hint in (int, float):
        yield found
    elif get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from numbers(part, found)


def check_ranges(thing: Any, name: Callable[[str], str] = str) -> None:
    """Raise a ValueError, with value and range, for a dataclass field whose value has the wrong type or is out of range.

    Args:
        name: turns a field into its name in the message.
    """
    for field, hint in get_type_hints(type(thing), include_extras=True).items():
        if wrong := _not_of_type(getattr(thing, field), hint):
            raise ValueError(f"{name(field)} = {_shown(getattr(thing, field))}, but it must be {wrong}")
        wanted = next((r for r in numbers(hint) if r is not None), None)
        value = getattr(thing, field)
        several = isinstance(value, tuple | list)
        for number in value if several else (value,):
            if wanted is None or number is None:
                continue
            if number not in wanted:
                each = ", each" if several else ""
                raise ValueError(f"{name(field)} = {_shown(number)}, but it must be {wanted}{each}")


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _not_of_type(value: Any, hint: Any) -> str:
    """What a value would have to be of whose type a field is not; nothing where it fits, or where its type is none of :data:`_TYPES`."""
    if get_origin(hint) is Annotated:
        kind, *more = get_args(hint)
        wanted = next((f", {m}" for m in more if isinstance(m, Range)), "")
        return (wrong := _not_of_type(value, kind)) and wrong + wanted
    if get_origin(hint) in (Union, UnionType):
        several = [_not_of_type(value, part) for part in get_args(hint) if part is not NoneType]
        return "" if value is None and NoneType in get_args(hint) else min(several, key=len)
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        if isinstance(value, tuple):
            return next((f"{wrong}, each" for v in value if (wrong := _not_of_type(v, part))), "")
        return "a list"
    if hint not in _TYPES or type(value) is hint:
        return ""
    number = isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
    return "" if number and hint in (int, float) else _TYPES[hint]


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length():,} bits"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10**6 else f"{value!r:.60}"


def size(number: float) -> str:
    """A number of bytes in readable form: ``4.8 TB``."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
    power = min(int(math.log10(max(number, 1)) / 3), len(units) - 1)
    return f"{number / 1000**power:,.{1 if power else 0}f} {units[power]}"


def check_memory(needed: float, what: str, device: torch.device, remedy: str) -> None:
    """Raise a ValueError if something would need more memory than this machine, or its GPU, has in total.

    Args:
        needed: bytes, at least.
        what: needs them.
        needed: the least number of bytes it would need.
    """
    import psutil

    on_gpu = device.type == "cuda"
    there = torch.cuda.mem_get_info(device)[1] if on_gpu else psutil.virtual_memory().total
    if needed > there:
        raise ValueError(
            f"{what} would need at least {size(needed)} of memory, {device if on_gpu else 'this machine'} has {size(there)}; {remedy}"
        )
