"""The entry's side of the race: the budget, and one training in a process of its own."""

import _thread
import ast
import contextlib
import io
import linecache
import re
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cdedu.evaluation.meter import Meter
from cdedu.methods.flow_map import FlowMap
from cdedu.recipes import get_recipe
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

_UNCOUNTED = re.compile(
    r"_?(add(mv|r|bmm)|mv|v?dot|ger|_?trilinear|_?(cdist|pdist)_.*|_?euclidean_dist|_compute_linear_combination"
    r"|.*(sparse|cslt).*mm.*|s?smm|hspmm|sspaddmm|_spsolve|.*matmul.*"
    r"|.*conv(_tbc|_depthwise|_dilated|[123]d|_transpose|olution).*|.*(lstm|gru|rnn).*|.*(mkldnn|miopen|cudnn|nnpack|fbgemm).*"
    r"|.*attention.*|.*transformer.*|.*fft_[cr]2[cr]|.*quantized.*|.*int[48].*|_?(foreach|int|grouped|scaled_grouped|scaled)_mm.*"
    r"|.*linear_(backward|prepack).*|_mixed_dtypes_linear|_addmm_activation|_?embedding_bag.*|_?grid_sampler.*"
    r"|_?linalg_(?!check_errors|vector_norm|cross|diagonal|_powsum).*|cholesky.*|geqrf|orm?gqr|ormqr|(lu|triangular)_solve|matrix_exp.*)_?"
)
"""Names of operations that multiply matrices, or as good as, without a price in PyTorch's table."""


PRICES = [54, 54, 1296, 3 * 1296]
"""What :meth:`Budget.prices` must find."""


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

    def uncounted(self, func: Any) -> None:
        """Refuse what multiplies and has no price, and operations of the entry's own, inside of which the meter does not look."""
        space, _, name = func.name().partition("::")
        if space not in ("aten", "prim", "prims", "profiler") or _UNCOUNTED.fullmatch(name.partition(".")[0]):
            raise ValueError(
                f"{func.name()} is not counted by the meter; use matrix products (@), convolutions or attention"
            )

    def handle(self) -> Any:
        """What an entry gets of it: the loop and what is left, and nothing that could be set."""

        budget = self

        class Handle:
            __slots__ = ()

            def __iter__(self) -> Iterator[float]:
                return iter(budget)

            @property
            def left(self) -> float:
                return budget.left

        return Handle()

    def prices(self) -> list[int]:
        """What a few operations cost, beside all accounts: as long as it counts at all, always the same."""
        kept, costs = (self.operations, self._limit), list[int]()
        self._limit = float("inf")
        x, w = (torch.ones(n, 2, 3, 3, requires_grad=True) for n in (1, 4))
        with torch.inference_mode(False), torch.enable_grad():
            for operation in (
                lambda: torch.mm(x[0, 0], w[0, 0]),
                lambda: torch.addmm(x[0, 1], x[0, 0], w[0, 0]),
                lambda: torch.conv2d(x, w, padding=1),
                lambda: torch.conv2d(x, w, padding=1).sum().backward(),
            ):
                before = self.operations
                operation()
                costs.append(self.operations - before)
        self.operations, self._limit = kept
        return costs

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
    printed, unit, seal, out = _Tail(), budget.unit, _seal(budget), dict[str, Any]()
    try:
        with budget, contextlib.redirect_stdout(printed):
            try:
                space: dict[str, Any] = {"__name__": "entry", "__file__": name}
                exec(compile(source, name, "exec", dont_inherit=True), space)
                if not callable(train := space.get("train")):
                    raise RefusedError(
                        "there is no function train; write def train(teacher, data, budget, generator)"
                    )
                found = train(teacher, data, budget.handle(), torch.Generator().manual_seed(seed))
                out = _result(found) | {"evaluations": budget.operations / unit}  # all of it under the meter
                if seal != _seal(budget) or budget.unit != unit or budget.prices() != PRICES:
                    raise RefusedError(
                        "the meter no longer counts: the file has changed torch or cdedu; leave both as they are"
                    )
            except BaseException as error:
                out = _failed(name, error)
    except BaseException as error:  # a meter that is not there cannot be left
        out = out if "error" in out else _failed(name, error)
    return out | {"printed": printed.text}


def seconds_of_one(weights: Tensor, shape: list[int]) -> float:
    """Processor seconds of an evaluation in training, of a batch of 32, in this process; asked before it is given an entry."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    student = ConsistencyModel.from_teacher(teacher_of(weights, tuple(shape)))
    x, taken = torch.randn(32, *shape, generator=torch.Generator().manual_seed(0)), []
    for _ in range(3):
        start = time.process_time()
        student(x, 1.0).square().sum().backward()
        taken.append((time.process_time() - start) / (3 * len(x)))
    torch.set_num_threads(threads)
    return min(taken)


class RefusedError(Exception):
    """What is wrong with an entry, in a sentence that needs no line."""


_KINDS = {kind: kind.__name__ for kind in (ConsistencyModel, Teacher, FlowMap)}


def _result(found: Any) -> dict[str, Any]:
    """What train returned, in numbers, texts and bytes alone. Nothing that the entry could have overridden is called of its student."""
    student, levels = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    kind = type(student)
    if kind not in _KINDS:
        own = " of its own" * (kind.__name__ in _KINDS.values())
        return {"kind": kind.__name__ + own, "levels": None}
    tensors = {
        key: tensor.detach().contiguous().clone()
        for part in (nn.Module.named_parameters, nn.Module.named_buffers)
        for key, tensor in part(student, remove_duplicate=False)
    }
    out: dict[str, Any] = {"kind": _KINDS[kind]}
    for key in ("sigma_data", "sigma_min", "noise_scale", "angle"):
        value = getattr(student, key, None)
        out[key] = value if value is None or type(value) in (int, float, bool) else str(value)[:60]
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
        self.text = "".join((self.text, text))[-2000:]
        return len(text)


def _seal(budget: Budget) -> list[dict[Any, Any]]:
    """What must be the same before and after: the meter's own methods and its table of costs."""
    return [dict(vars(Meter)), dict(vars(Budget)), dict(budget._costs), dict(_KINDS)]


def _one_thread() -> None:
    """No further threads of Python: the meter sees the one that it was made in."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("start a thread: not allowed in the race")

    for module in (_thread, threading):
        for name in dir(module):
            if name.lstrip("_").startswith("start_") and name.endswith(("_thread", "_new")):
                setattr(module, name, refuse)
    torch.set_num_threads = refuse


def _failed(name: str, error: BaseException) -> dict[str, Any]:
    """An exception, with the entry's line that it came through."""
    where, line = "", getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
    if frames or line:
        line = line or frames[-1].lineno
        where = f"line {line}, `{linecache.getline(name, line or 0).strip()[:100]}`: "
    said = (
        str(error).partition("\n")[0][:300]
        if isinstance(error, OutOfBudget | RefusedError)
        else f"{type(error).__name__}: {str(error)[:300]}"
    )
    return {"error": where + " ".join(said.split())}
