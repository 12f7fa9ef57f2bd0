"""The entry's side of the race: the budget, and one training in a process of its own."""

import _thread
import ast
import contextlib
import io
import linecache
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cdedu.evaluation.meter import Meter
from cdedu.recipes import get_recipe
from cdedu.teacher import Teacher


class OutOfBudget(BaseException):
    """The next operation was not carried out, and no other will be."""


class Budget(Meter):
    """A meter with an end. A loop over it ends in time, and says how far the race is::

        for progress in budget:  # from 0 to 1
            ...  # one step of training

    Args:
        network, shape: as in :class:`~cdedu.evaluation.meter.Meter`.
        limit: evaluations.

    Raises:
        OutOfBudget: from any operation once the limit is reached; the loop ends before, when a step as dear as the dearest so far no
            longer fits.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], limit: float) -> None:
        self._limit = float("inf")
        super().__init__(network, shape)
        self._limit = limit

    @property
    def limit(self) -> float:
        """Evaluations in all."""
        return self._limit

    @property
    def left(self) -> float:
        """Evaluations."""
        return self._limit - self.evaluations

    def before(self) -> None:
        """Refuse, once all is spent."""
        if self.evaluations >= self._limit:
            raise OutOfBudget(
                f"the budget of {self._limit:,.0f} evaluations is spent; loop with `for progress in budget:`, which ends in time, or "
                "look at budget.left"
            )

    def __iter__(self) -> Iterator[float]:
        dearest = 0.0
        while dearest <= self.left:
            before = self.evaluations
            yield before / self._limit
            if (cost := self.evaluations - before) <= 0:
                raise ValueError(
                    "a step of the loop over the budget evaluated no network, so the loop would never end; train in it, or leave it"
                )
            dearest = max(dearest, cost)


def race(name: str, source: str, weights: Tensor, data: Tensor, limit: float, seed: int) -> dict[str, Any]:
    """Train by an entry's rules; what comes of it, in plain values, for the other side to judge.

    Args:
        name: of the entry's file, as errors call it.
        source: its text.
        weights: the teacher's, as the bytes of safetensors, (n,) uint8.
        data: (N, ...) what may be learned from.
        limit: evaluations.
        seed: of the generator.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    shape, teacher = tuple(data.shape[1:]), teacher_of(weights, tuple(data.shape[1:]))
    budget = Budget(teacher, shape, limit)
    _one_thread()
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    start, printed = time.process_time(), _Tail()
    try:
        space: dict[str, Any] = {"__name__": "entry", "__file__": name}
        with contextlib.redirect_stdout(printed):
            exec(compile(source, name, "exec"), space)
        if not callable(train := space.get("train")):
            return {"error": "there is no function train; write def train(teacher, data, budget, generator)"}
        generator = torch.Generator().manual_seed(seed)
        with budget, contextlib.redirect_stdout(printed):
            found = train(teacher, data, budget, generator)
            spent, alive = budget.evaluations, _counts(budget)
    except BaseException as error:
        return _failed(name, error) | {"printed": printed.text}
    if not alive:
        return {
            "error": "the meter no longer counts: the file has changed torch or cdedu; leave both as they are"
        }
    student, levels = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    out = {
        "evaluations": spent,
        "seconds": time.process_time() - start,
        "kind": type(student).__name__,
        "printed": printed.text,
    }
    if isinstance(student, nn.Module):
        tensors = {key: t.detach().contiguous().clone() for key, t in student.state_dict().items()}
        out |= {
            key: getattr(student, key, None) for key in ("sigma_data", "sigma_min", "noise_scale", "angle")
        }
        out["weights"] = torch.frombuffer(bytearray(save(tensors)), dtype=torch.uint8)
    try:
        out["levels"] = None if levels is None else [float(level) for level in levels]
    except (TypeError, ValueError):
        out["levels"] = [str(levels)[:100]]
    return out


def teacher_of(weights: Tensor, shape: tuple[int, ...], recipe: str = "digits") -> Teacher:
    """The teacher from the bytes of its network's weights."""
    known = get_recipe(recipe)
    teacher = Teacher(known.network.build(shape), known.sigma_data, known.noise_scale, known.angle)
    teacher.network.load_state_dict(load(weights.numpy().tobytes()))
    return teacher.eval().requires_grad_(False)


def code_lines(source: str) -> int:
    """Lines that hold code: no empty ones, comments and docstrings.

    Raises:
        SyntaxError: for what is no Python.
    """
    tree, lines = ast.parse(source), set[int]()
    for node in ast.walk(tree):
        text = (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        if isinstance(node, ast.stmt) and not text:
            lines |= {
                node.lineno,
                *(range(node.lineno, (node.end_lineno or 0) + 1) if not hasattr(node, "body") else ()),
            }
    return len(lines)


class _Tail(io.TextIOBase):
    """Keeps the end of what is printed."""

    text = ""

    def write(self, text: str) -> int:
        self.text = (self.text + text)[-2000:]
        return len(text)


def _counts(budget: Budget) -> bool:
    """Whether an operation still raises the count, and by what it costs."""
    before, budget._limit = budget.operations, float("inf")
    torch.mm(torch.ones(2, 3), torch.ones(3, 5))
    return budget.operations - before == 2 * 2 * 3 * 5


def _one_thread() -> None:
    """No further threads of Python: the meter sees the one that it was made in."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("start a thread: not allowed in the race")

    for module in (_thread, threading):
        for name in dir(module):
            if name.lstrip("_").startswith("start_") and name.endswith(("_thread", "_new")):
                setattr(module, name, refuse)


def _failed(name: str, error: BaseException) -> dict[str, Any]:
    """An exception, with the entry's line that it came through."""
    where, line = "", getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
    if frames or line:
        line = line or frames[-1].lineno
        where = f"line {line}, `{linecache.getline(name, line or 0).strip()[:100]}`: "
    said = (
        str(error).partition("\n")[0][:300]
        if isinstance(error, OutOfBudget)
        else f"{type(error).__name__}: {str(error)[:300]}"
    )
    return {"error": where + " ".join(said.split())}
