"""Exercises, and how answers are judged: right, wrong with a diagnosis, or not attempted.

A chapter's exercises live in a module of their own beside this one. Each is a function that is handed the reader's answers and a
random generator; it returns where all is well and raises :class:`Wrong` where not::

    @exercise("noise-size", "How far away?", "predict", "easy", 5, answers=("size",), hints=("...", "..."))
    def _(size, g):
        near(number(size), 8.0, mistakes={"added": (10.0, "noise levels add as squares: ...")})
"""

import ctypes
import importlib
import math
import pkgutil
import random
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["code", "predict", "bug"]
Level = Literal["easy", "medium", "hard"]
SIGNS = {"right": "✓", "wrong": "✗", "not attempted": "–"}


class Wrong(Exception):  # noqa: N818  an answer is wrong, the program is not
    """The answer is wrong: a short key that names the mistake, and a sentence that helps."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class NotAttempted(Exception):  # noqa: N818
    """The answer is still the stub."""


class _TooLong(BaseException):
    """Thrown into an answer that runs too long; no `except Exception` of the reader's catches it."""


PATIENCE = 12
"""An answer that waits, and does not compute, gets this many times the seconds: a busy machine is not its fault."""
_TICK, _MOST = 0.02, 0.1
"""Seconds between two looks at the clock, and how much may be counted between them: a look that comes late, on a busy machine, cannot
tell what the time before it went into."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: what it is called, what it expects in the notebook, its ladder of hints, and its test."""

    name: str
    title: str
    kind: Kind
    level: Level
    minutes: int
    answers: tuple[str, ...]
    """Names that the notebook must define."""
    hints: tuple[str, ...]
    test: Callable[..., str | None]
    """Takes the answers and a generator; returns a remark on a right answer, or None, and raises ``Wrong`` for others."""
    prepare: Callable[[], object] | None = None
    """Imports for seconds, once, what answers of this kind lead to: before the clock runs, so that nothing interrupts it."""

    @property
    def points(self) -> int:
        """Points it's worth in a grade."""
        return {"easy": 1, "medium": 2, "hard": 3}[self.level]


@dataclass(frozen=True)
class Result:
    """The result of judging an answer."""

    status: Literal["right", "wrong", "not attempted"]
    key: str = ""
    """Which mistake it is."""
    message: str = ""


_exercises: dict[str, Exercise] = {}
_passed: set[str] = set()
_hints_given: dict[str, int] = {}


def exercise(
    name: str,
    title: str,
    kind: Kind,
    level: Level,
    minutes: int,
    *,
    answers: tuple[str, ...],
    hints: tuple[str, ...],
) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    """Decorator: the function below is the test of an exercise."""

    def register(test: Callable[..., str | None]) -> Callable[..., str | None]:
        if name in _exercises:
            raise ValueError(f"there are two exercises named {name!r}")
        prepare = None if kind == "predict" else import_ahead
        _exercises[name] = Exercise(name, title, kind, level, minutes, answers, hints, test, prepare)
        return test

    return register


LATE = (
    "torch.fx.experimental.symbolic_shapes",
    "torch._dynamo",
    "torch._decomp.decompositions_for_jvp",
    "torch.testing",
)
"""What gradients, ``torch.func`` and comparisons lead to, by name: importing starts no thread, so that a process can still fork."""


def import_late() -> None:
    """Import :data:`LATE`, without what PyTorch has to say about its own use of ``torch.jit.script``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        for module in LATE:
            importlib.import_module(module)


@cache
def import_ahead() -> None:
    """Import what torch loads only when a gradient is asked for with a vector, or tensors are compared: two seconds, or ten."""
    x = torch.ones(1, 1, requires_grad=True)
    torch.autograd.grad(2 * x, x, torch.ones(1, 1))
    torch.testing.assert_close(x, x)


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the chapters."""
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        importlib.import_module(f"cdedu.course.checks.{module}")
    return _exercises


def check(name: str) -> None:
    """Judge the answer in the calling notebook, and print the verdict."""
    result = grade(name, sys._getframe(1).f_globals)
    (_passed.add if result.status == "right" else _passed.discard)(name)
    print(f"{SIGNS[result.status]} {name}: {result.status}. {result.message}".rstrip())
    if result.status == "wrong":
        print(f'  For a hint: hint("{name}")')


def hint(name: str, number: int | None = None) -> None:
    """Print the next hint, or the one asked for."""
    hints = _find(name).hints
    if number is None:
        number = min(_hints_given.get(name, 0) + 1, len(hints))
        _hints_given[name] = number
    if not 1 <= number <= len(hints):
        raise ValueError(f"{name} has hints 1 to {len(hints)}, not {number}")
    print(f"Hint {number} of {len(hints)}: {hints[number - 1]}")


def passed(name: str) -> bool:
    """Whether the last check of this exercise was right."""
    _find(name)
    return name in _passed


def grade(name: str, namespace: Mapping[str, Any], seed: int = 0, seconds: float = 5.0) -> Result:
    """Judge the answers in ``namespace``. Nothing that an answer does comes back as an exception.

    ``seconds`` bounds what the answers themselves may compute, in processor time of this thread; imports do not count.
    """
    return judge(_find(name), namespace, seed, seconds)


def judge(task: Exercise, namespace: Mapping[str, Any], seed: int = 0, seconds: float = 5.0) -> Result:
    """The same for an exercise that need not be in the list."""
    for answer in task.answers:
        if answer not in namespace:
            return Result(
                "not attempted",
                "missing",
                f"There's no `{answer}` here yet: run the cell that defines it. If you renamed it, call it `{answer}` again.",
            )
    if task.prepare:
        task.prepare()
    try:
        with _watched(seconds) as clock, torch.random.fork_rng(()), torch.enable_grad():
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            remark = task.test(*(namespace[answer] for answer in task.answers), generator)
    except Wrong as wrong:
        return Result("wrong", wrong.key, str(wrong))
    except (NotAttempted, NotImplementedError) as stub:
        return Result(
            "not attempted", "stub", str(stub) or "Fill in the cell above, run it, and check again."
        )
    except _TooLong:
        clock.stop()
        said = (
            f"It hadn't finished after {seconds:g} seconds of computing. Does one of its loops never end?"
            if clock.late == "computed"
            else f"It hadn't finished after {PATIENCE * seconds:g} seconds, and for most of them it wasn't computing. Does it sleep, or wait for "
            "something, such as input()? If not, other programs are keeping the machine busy: check again when they're done."
        )
        return Result("wrong", "endless", said)
    except Exception as error:
        return Result("wrong", "raised", _explain(error))
    return Result("right", "", remark or "")


def _find(name: str) -> Exercise:
    if name not in exercises():
        raise ValueError(f"there is no exercise {name!r}; there are: {', '.join(exercises())}") from None
    return exercises()[name]


def _explain(error: Exception) -> str:
    """One sentence on an exception that an answer raised, with the reader's own line where there is one."""
    what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    where = _where(error)
    if isinstance(error, NameError):
        return f"It uses a name that doesn't exist yet ({what}){where}. Run the cells above it, from the top."
    return f"It raised {what}{where}."


def _where(error: Exception) -> str:
    """The reader's own line in which it happened, where there is one."""
    package = str(Path(__file__).parents[2])
    lines = [
        frame.line
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.line and not frame.filename.startswith(package) and "site-packages" not in frame.filename
    ]
    line = getattr(error, "answer_line", None) or (lines[-1] if lines else None)
    return f" in the line `{line.strip()}`" if isinstance(line, str) else ""


class _Clock:
    """Counts what the reader's own code computes on the thread that judges it; another thread looks at it many times a second."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.computed, self.waited, self.depth, self.late = seconds, 0.0, 0.0, 0, ""
        self._thread, self._lock, self._over = threading.get_ident(), threading.Lock(), threading.Event()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Around the reader's code: this counts, and is what may be stopped."""
        with self._lock:
            self.depth += 1
        try:
            yield
        finally:
            with self._lock:  # once this is held, nothing is thrown at what comes after
                self.depth -= 1

    def watch(self) -> None:
        """Until ``stop``: throw :class:`_TooLong` when the time is up, between two Python instructions, on every system."""
        throw, before, seen = ctypes.pythonapi.PyThreadState_SetAsyncExc, self._processor(), time.monotonic()
        while not self._over.wait(_TICK):
            now, here = self._processor(), time.monotonic()
            with self._lock:
                # An import that is cut short spoils the session.
                if self.depth and not self._over.is_set() and not self._imports():
                    self.waited += min(here - seen, _MOST)
                    self.computed += min(now - before, _MOST)
                    if self.computed > self.seconds or self.waited > PATIENCE * self.seconds:
                        self.late = "computed" if self.computed > self.seconds else "waited"
                        throw(ctypes.c_ulong(self._thread), ctypes.py_object(_TooLong))
                        # Once more if an `except:` of the reader's swallows it, but not while we deal with it.
                        self.computed, self.waited = self.seconds - 1, 0.0
            before, seen = now, here

    def stop(self) -> None:
        """Nothing is thrown any more."""
        with self._lock:
            self._over.set()

    def _processor(self) -> float:
        """Seconds that the thread has computed; of the whole process where a thread cannot be asked."""
        if hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        return time.process_time()

    def _imports(self) -> bool:
        """Whether the thread is importing something at this moment."""
        frame = sys._current_frames().get(self._thread)
        while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
            frame = frame.f_back
        return frame is not None


_local = threading.local()


@contextmanager
def _watched(seconds: float) -> Iterator[_Clock]:
    """A clock for :func:`own`, on this thread."""
    outer, clock = getattr(_local, "clock", None), _Clock(seconds)
    watcher = threading.Thread(target=clock.watch, daemon=True)
    _local.clock = clock
    watcher.start()
    try:
        yield clock
    finally:
        clock.stop()
        _local.clock = outer
        watcher.join()


def own() -> Any:
    """Around a call of the reader's code: the time that it computes counts, and nothing else does."""
    clock = getattr(_local, "clock", None)
    return clock.counting() if clock else nullcontext()


# --- for the tests of the exercises --------------------------------------------------------------


def attempted(value: Any) -> Any:
    """The value itself, unless it is what an empty cell or function leaves."""
    if value is None or value is ...:
        raise NotAttempted
    return value


def call(function: Any, *arguments: Any, **options: Any) -> Any:
    """What the reader's function returns for these arguments, which it must leave as they are."""
    if not callable(attempted(function)):
        raise Wrong(
            "type",
            f"This should be a function, but its type is {type(function).__name__}. Keep the line with `def`.",
        )
    copies = [a.detach().clone() if isinstance(a, Tensor) else a for a in arguments]
    with own():
        value = function(*arguments, **options)
    for before, after in zip(copies, arguments, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after.detach()):
            raise Wrong(
                "in place",
                "It changes its input in place, as `x += ...` does. Make a new tensor: `x = x + ...`.",
            )
    return attempted(value)


def number(value: Any) -> float:
    """A prediction, as a float."""
    attempted(value)
    if isinstance(value, str | bool) or (isinstance(value, Tensor) and value.numel() != 1):
        raise Wrong("type", f"Give one number; this is {value!r}.")
    try:
        value = float(value.item() if getattr(value, "shape", None) else value)  # an array of one number
    except (TypeError, ValueError):
        raise Wrong("type", f"Give one number; the type of this is {type(value).__name__}.") from None
    if not math.isfinite(value):
        raise Wrong("nan", f"Give a finite number; this is {value}.")
    return value


def option(value: Any, options: str) -> str:
    """A prediction: one letter of ``options``."""
    attempted(value)
    letter = value.strip(" ().:\"'").lower() if isinstance(value, str) else ""
    if len(letter) != 1 or letter not in options:
        raise Wrong(
            "type", f"Give one of the letters {', '.join(options)} in quotation marks; this is {value!r}."
        )
    return letter


def tensor(value: Any, shape: tuple[int, ...]) -> Tensor:
    """A result of the right shape without NaN, as a detached tensor in double precision."""
    if isinstance(attempted(value), int | float):
        value = torch.tensor(float(value))
    if not isinstance(value, Tensor):
        raise Wrong("type", f"It should return a tensor, but it returns {type(value).__name__}.")
    if tuple(value.shape) != tuple(shape):
        raise Wrong("shape", f"It returns shape {tuple(value.shape)}; it should be {tuple(shape)}.")
    if not value.isfinite().all():
        raise Wrong(
            "nan", "It returns values that aren't finite (NaN or infinity). Look for a division by zero."
        )
    return value.detach().double()


Mistakes = Mapping[str, tuple[Any, str]]
"""Name of the mistake → what it would have given, and the sentence that helps."""


def agree(
    value: Any, truth: Tensor, mistakes: Mistakes | None = None, *, tolerance: float = 1e-4, what: str = "It"
) -> None:
    """A tensor equal to ``truth``, up to ``tolerance`` times its size; otherwise the mistake that explains it."""
    truth = truth.detach().double()
    got, slack = tensor(value, tuple(truth.shape)), tolerance * max(float(truth.abs().max()), 1e-12)
    if torch.allclose(got, truth, rtol=0, atol=slack):
        return
    for key, (other, message) in (mistakes or {}).items():
        other = torch.as_tensor(other).detach().double()
        if other.shape == got.shape and torch.allclose(got, other, rtol=0, atol=slack):
            raise Wrong(key, message)
    if value.dtype in (torch.float16, torch.bfloat16):
        digits = 3 if value.dtype == torch.float16 else 2
        raise Wrong(
            "half precision",
            f"{what} comes as {value.dtype}, which keeps only {digits} digits. Compute in float32.",
        )
    i = int((got - truth).abs().argmax())
    raise Wrong(
        "value",
        f"{what} is off by up to {(got - truth).abs().max():.3g}: "
        f"{got.flatten()[i]:.4g} where {truth.flatten()[i]:.4g} is right.",
    )


def at_edge(
    where: str,
    why: str,
    truth: Tensor,
    function: Any,
    *arguments: Any,
    key: str = "fragile",
    tolerance: float = 1e-3,
    size: float | None = None,
) -> None:
    """The reader's function gives ``truth`` for an input at which a formula that is right on paper may fail in floating point.

    Args:
        where: the input, as the beginning of a sentence.
        why: what goes wrong there, and what to do instead.
        size: ``tolerance`` is relative to this; by default to the largest of ``truth``.
    """
    truth = truth.detach().double()
    try:
        value = call(function, *arguments)
    except (Wrong, NotAttempted, NotImplementedError):
        raise
    except Exception as error:
        raise Wrong(key, f"{where} it raises {type(error).__name__}. {why}") from None
    value = torch.as_tensor(value).detach().double()
    if value.shape != truth.shape:
        raise Wrong(
            "shape", f"{where} it returns shape {tuple(value.shape)}; it should be {tuple(truth.shape)}."
        )
    off = (value - truth).abs().nan_to_num(math.inf, math.inf)
    i = int(off.argmax())
    if off.flatten()[i] > tolerance * (size or max(float(truth.abs().max()), 1e-12)):
        got, right = value.flatten()[i], truth.flatten()[i]
        raise Wrong(key, f"{where} it gives {got:.4g} where {right:.4g} is right. {why}")


def near(
    value: float, truth: float, mistakes: Mistakes | None = None, *, tolerance: float = 0.1, what: str = ""
) -> None:
    """A prediction within ``tolerance`` (relative) of the truth; otherwise the mistake that explains it.

    ``what`` is its name, where an exercise asks for several.
    """

    def close(a: float, b: float) -> bool:
        return abs(a - b) <= tolerance * max(abs(b), 1e-12)

    if close(value, truth):
        return
    for key, (other, message) in (mistakes or {}).items():
        if close(value, float(other)):
            raise Wrong(key, message)
    said = f"{what}: {value:g}" if what else f"{value:g}"
    if value <= 0 < truth:
        raise Wrong("not positive", f"{what or 'It'} should be greater than 0; this is {value:g}.")
    side = "low" if value < truth else "high"
    factor = value / truth if truth else math.inf
    far = "far too" if not 0.33 < factor < 3 else "too"
    raise Wrong(f"{far} {side}", f"{said} is {far} {side}.")


def choose(value: Any, right: str, others: Mapping[str, str]) -> None:
    """A prediction among letters: the right one, or what is to be said of the others."""
    letter = option(value, "".join(sorted([right, *others])))
    if letter != right:
        raise Wrong(letter, others[letter])


def _nothing(code: Any) -> None:
    """What an empty function compiles to."""


def empty(function: Any) -> bool:
    """Whether a function has a docstring and nothing else."""
    code = getattr(function, "__code__", _nothing.__code__)
    return code.co_code == _nothing.__code__.co_code and code.co_consts[-1] is None


def spots(test: Any, right: Mapping[str, Any], defects: Mapping[str, tuple[Any, str]]) -> None:
    """The reader's test function passes everything in ``right`` and fails every defect by an assertion.

    Args:
        test: the reader's function of one argument, the code under test.
        right: name → correct code.
        defects: name → (defective code, the sentence for a test that does not see it).
    """
    if not callable(attempted(test)):
        raise Wrong("type", "This should be a function with assertions in it. Keep the line with `def`.")
    if empty(test):
        raise NotAttempted
    # In an order of the seed, so that nobody passes by counting; then in the order given, for the diagnosis.
    codes = [(code, True) for code in right.values()] + [(code, False) for code, _ in defects.values()]
    mixed = random.Random(torch.initial_seed()).sample(codes, len(codes))
    if all(_accepts(test, code) is fine for code, fine in mixed):
        return
    refused = {name: error for name, code in right.items() if (error := _refusal(test, code))}
    for name, error in refused.items():
        others = [other for other in right if other not in refused]
        why = (
            f"It passes other correct code, {others[0]}, so the problem may be rounding, or the form of the code."
            if others
            else "What it asserts doesn't hold for correct code. Print the values that it compares."
        )
        line = _where(error).removeprefix(" in the line ")
        did = f" This line did it: {line}." if line else ""
        key = "refuses some right" if others else "refuses right"
        raise Wrong(key, f"Your test fails code that's right: {name}.{did} {why}")
    for name, (code, message) in defects.items():
        try:
            with own():
                verdict = test(code)
        except AssertionError:
            continue
        if verdict is not None:
            raise Wrong("returned", "Your test returns a value, but nobody looks at it. Use `assert`.")
        raise Wrong(name, message)
    raise Wrong("order", "Its verdict on the same code changes with the order in which it sees the codes.")


def _refusal(test: Callable[[Any], object], code: Any) -> AssertionError | None:
    """The assertion by which a test function refuses code, if it does."""
    try:
        with own():
            test(code)
    except AssertionError as error:
        return error
    return None


def _accepts(test: Callable[[Any], object], code: Any) -> bool | None:
    """Whether a test function lets code pass; None where it raises something else than an AssertionError."""
    try:
        return not _refusal(test, code)
    except Exception:
        return None
