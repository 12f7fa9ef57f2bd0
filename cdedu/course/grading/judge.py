"""The grader's side of one submission: run it elsewhere, judge its answers here, start again without what broke it."""

import functools
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import cdedu
from cdedu.course.checks import core
from cdedu.course.checks.core import Result
from cdedu.course.grading.wire import Forged, Gone, Peer

REMARKS = 30
"""On one submission."""
Cell = tuple[str, str]
"""Name, as the report calls it, and source."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    wall_seconds: int = 120
    """For the whole submission."""
    cell_seconds: int = 20
    """For one cell, of computing: so a busy machine changes no grade."""
    cell_wall_seconds: int = 60
    """For one cell, however it spends them."""
    check_seconds: int = 20
    """For one judgment of one answer."""
    cpu_seconds: int = 100
    """Of its process, and of each that it starts."""
    memory_mb: int = 1024
    """Of each process, on top of the libraries."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 2**20 if name == "memory_mb" else 86_400
            if not 1 <= value <= most:
                raise ValueError(
                    f"{name.replace('_', ' ')} of a submission: 1 to {most} are possible, not {value}"
                )


@dataclass
class Verdicts:
    """What became of one submission."""

    results: dict[str, Result] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    told: Callable[[str, Result | None], None] = lambda name, result: None
    """Hears of an exercise before it is judged, with None, and of the result."""

    def remark(self, text: str) -> None:
        """Say it once, and no more than :data:`REMARKS` things."""
        if text not in self.remarks and len(self.remarks) <= REMARKS:
            self.remarks.append(text if len(self.remarks) < REMARKS else "and more of the kind")

    def give(self, name: str, result: Result) -> None:
        """The verdict on an exercise."""
        self.results[name] = replace(result, message=plain(result.message, 2000))
        self.told(name, self.results[name])


@dataclass(frozen=True)
class Task:
    """A set of exercises as it was handed out, and how it is graded."""

    exercises: tuple[str, ...]
    given: tuple[Cell, ...] = ()
    """Code cells that everybody got."""
    seeds: tuple[int, ...] = (0,)
    """Of the data on which each answer is tried."""
    hidden: Path | None = None
    """A file with further tests."""
    limits: Limits = Limits()


_hidden: dict[str, list[Callable[..., str | None]]] = {}


def hidden(name: str) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    """Decorator: the function below is a further test of an exercise, which only the grader has.

    It takes the answers and a generator, returns where all is well and raises ``Wrong`` where not, as the tests in
    :mod:`cdedu.course.checks` do.
    """
    core._find(name)

    def register(test: Callable[..., str | None]) -> Callable[..., str | None]:
        _hidden.setdefault(name, []).append(test)
        return test

    return register


@functools.cache
def hidden_tests(path: Path | None) -> dict[str, list[Callable[..., str | None]]]:
    """What a file registers.

    Raises:
        ValueError: if it cannot be run.
    """
    _hidden.clear()
    if path is not None:
        try:
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "hidden"})
        except Exception as error:
            raise ValueError(f"{path}: {type(error).__name__}: {error}") from None
    return dict(_hidden)


_MISSING = Result("wrong", "missing")
UNPROTECTED = (
    "a submission could read and change your files here: there are no Linux namespaces to hold it back"
)
REMEDY = (
    "Grade on Linux: as root, in a container that may make namespaces (docker run --privileged), or as a user where "
    "`unshare --user --net true` works. Students can check themselves in Colab. --own-risk grades all the same."
)


class Forker:
    """Holds the process that has imported what notebooks need, which forks for all who grade."""

    def __init__(self, task: Task) -> None:
        self.task, self._scratch = task, tempfile.TemporaryDirectory(prefix="cdedu-grade-")
        self.control, self.process = self._start()

    def line(self) -> socket.socket:
        """To a fork of it, which forks for every submission and ends when this is closed."""
        if self.process.poll() is not None:
            self.control.close()
            self.control, self.process = self._start()
        ours, theirs = socket.socketpair()
        ours.settimeout(300)
        with theirs:
            socket.send_fds(self.control, [json.dumps({"line": True}).encode()], [theirs.fileno()])
        return ours

    def close(self) -> None:
        """End it."""
        self.control.close()
        self.process.kill()
        self.process.wait()
        self._scratch.cleanup()

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")}  # fmt: skip
        more = {"PYTHONPATH": str(Path(cdedu.__file__).parents[1]), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}  # fmt: skip
        start = "from cdedu.course.grading.sandbox import main; main()"
        given = json.dumps([source for _, source in self.task.given])
        with theirs:
            return ours, subprocess.Popen(
                [sys.executable, "-P", "-c", start, str(theirs.fileno()), given],
                pass_fds=[theirs.fileno()],
                env=kept | more | {"MPLCONFIGDIR": self._scratch.name},
                cwd="/",
                stdin=subprocess.DEVNULL,
            )


class Judge:
    """Judges submissions, each of which runs in a process of its own. Use it in a ``with`` statement.

    Args:
        task: the exercises.
        own_risk: judge also where nothing but Python's own hooks holds submissions back.
        control: a line from :meth:`Forker.line`; by default from one of its own.
    """

    def __init__(self, task: Task, own_risk: bool = False, control: socket.socket | None = None) -> None:
        self.task, self.tests = task, hidden_tests(task.hidden)
        self._forker = Forker(task) if control is None else None
        self.control = control or self._forker.line()  # type: ignore[union-attr]
        try:
            if self.control.recv(1) != b"!":
                raise OSError("it ended")
            self.why = self._leaks()
        except OSError as error:
            self.close()
            raise OSError(f"the process that runs submissions does not start: {error}") from None
        self.namespaces = not self.why
        if self.why and not own_risk:
            self.close()
            raise OSError(f"{UNPROTECTED} ({self.why}). {REMEDY}")

    namespaces, why = True, ""

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that forks."""
        self.control.close()
        if self._forker:
            self._forker.close()

    @property
    def protection(self) -> str:
        """What holds a submission back, in a sentence."""
        if self.namespaces:
            return (
                "Linux namespaces: no network, no other processes, none of your files; limits on time, memory and processes. "
                "Tried before grading."
            )
        root = " You are root, for whom the limit on processes does not hold." if os.getuid() == 0 else ""
        return (
            f"At your own risk, Python audit hooks only ({self.why}): they refuse network, processes and files outside to Python code, "
            f"and are no boundary against native code. Limits on time and memory hold.{root} Grade in a container or a virtual "
            "machine."
        )

    # --- one submission --------------------------------------------------------------------------

    @contextmanager
    def sandbox(self, account: list[float] | None = None, **order: Any) -> Iterator[Peer]:
        """A fresh process for a submission.

        Args:
            account: gets the processor seconds of that process and its children once it has ended, from the kernel and not from it;
                stays empty where nobody can say.
            order: changes to the limits.
        """
        (ours, theirs), (till, pen) = socket.socketpair(), socket.socketpair()
        order = asdict(self.task.limits) | {"namespaces": self.namespaces} | order
        peer = Peer(ours.fileno(), opaque=True)
        try:
            fds = [theirs.fileno()] + [pen.fileno()] * (account is not None)
            socket.send_fds(self.control, [json.dumps(order).encode()], fds)
            theirs.close()
            pen.close()
            yield peer
        finally:
            peer.forget()
            ours.close()
            with till, suppress(OSError, ValueError):
                if account is not None:
                    till.settimeout(60)
                    account.append(float(till.recv(100)))

    def _leaks(self) -> str:
        """Why the namespaces do not protect; empty if they do. Tried without the hooks."""
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
            secret = Path(folder, "secret")
            secret.write_text("x", encoding="utf-8")
            os.chmod(folder, 0o777)
            with self.sandbox(hooks=False) as peer:
                peer.deadline = time.monotonic() + 30
                try:
                    found = peer.request("probe", str(secret), server.getsockname()[1])
                except (Gone, core._TooLong) as trouble:
                    return str(trouble) or "no answer"
        if not found.pop("scratch"):
            return "the scratch folder cannot be written"
        return ", ".join(f"{what} is possible" for what, possible in found.items() if possible)

    def grade(self, cells: list[Cell], places: dict[str, int], verdicts: Verdicts, seconds: float | None = None) -> None:  # fmt: skip
        """Judge every exercise of the set that has no verdict yet.

        Args:
            cells: the notebook's code, in order.
            places: exercise → the index of the cell after which it is judged; the others are judged at the end.
            verdicts: gets them as they come.
            seconds: for the whole; by default those of the limits.
        """
        seconds, skip = seconds or self.task.limits.wall_seconds, set[int]()
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._attempt(cells, places, verdicts, skip, end):
            pass
        late = Result("not attempted", "time", "The time for the whole notebook was over before this exercise was reached.")  # fmt: skip
        if missing := [name for name in self.task.exercises if name not in verdicts.results]:
            verdicts.remark(f"stopped after {self.task.limits.wall_seconds} s")
        for name in missing:
            verdicts.give(name, late)

    def _attempt(self, cells: list[Cell], places: dict[str, int], verdicts: Verdicts, skip: set[int], end: float) -> bool:  # fmt: skip
        """Run the notebook once; true if the process broke and another attempt without the cause makes sense."""
        limits, at, exercise, judged = self.task.limits, 0, "", False
        with self.sandbox() as peer:
            try:
                for at, (name, source) in enumerate(cells):
                    exercise = ""
                    if at not in skip:
                        peer.deadline = min(end, time.monotonic() + limits.cell_wall_seconds + 2)
                        outcome = _asked(peer, "run", name, source, limits.cell_seconds, limits.cell_wall_seconds)  # fmt: skip
                        self._tell(verdicts, name, outcome)
                    for exercise in (n for n, place in places.items() if place == at):
                        self._judge(peer, exercise, verdicts, end)
                for exercise in self.task.exercises:
                    self._judge(peer, exercise, verdicts, end)
                judged = True
                peer.deadline = time.monotonic() + limits.check_seconds
                self._facts(verdicts, peer)
            except Forged:
                verdicts.remark("sends messages of its own to the grader; stopped")
                stopped = Result("wrong", "ended", "The notebook interfered with its grading.")
                for name in set(self.task.exercises) - set(verdicts.results):
                    verdicts.give(name, stopped)
            except (Gone, core._TooLong) as problem:
                why = _why(problem, limits)
                if time.monotonic() >= end:
                    why = f"was running when the {limits.wall_seconds} s for the whole notebook were over"
                if judged:
                    return False
                if not exercise:
                    skip.add(at)
                    verdicts.remark(f"{cells[at][0]} {why}; left out")
                    return True
                if exercise not in verdicts.results:
                    verdicts.give(exercise, Result("wrong", "ended", f"Its check {why}."))
                verdicts.remark(f"{exercise}: its check {why}")
                return True
        return False

    def _tell(self, verdicts: Verdicts, name: str, outcome: dict[str, Any]) -> None:
        if "slow" in outcome:
            limits, computing = self.task.limits, outcome["slow"] == "computing"
            time_ = f"{limits.cell_seconds} s of computing" if computing else f"{limits.cell_wall_seconds} s"
            verdicts.remark(f"{name} was stopped after {time_}")
        elif "error" in outcome:
            line = plain(outcome.get("line", ""))
            verdicts.remark(f"{name} raised {plain(outcome['error'])}" + (f" in the line `{line}`" if line else ""))  # fmt: skip

    def _facts(self, verdicts: Verdicts, peer: Peer) -> None:
        facts = _asked(peer, "facts")
        noted, printed = facts.get("noted"), facts.get("printed")
        if not isinstance(noted, list) or not isinstance(printed, int):
            raise Forged("sent what are no facts")
        for what in noted[:10]:
            verdicts.remark(f"tried to {plain(what)}: refused")
        if printed > 10**6:
            verdicts.remark(f"printed {printed / 1e6:,.0f} million characters")

    def _judge(self, peer: Peer, name: str, verdicts: Verdicts, end: float) -> None:
        """Judge one answer by all tests on all seeds; the first that it does not pass is its verdict."""
        if verdicts.results.get(name, _MISSING).key != _MISSING.key:
            return
        public, seconds = core.exercises()[name], self.task.limits.check_seconds
        if public.prepare:  # before the clock runs
            public.prepare()
        result = Result("right")
        for test in (public.test, *self.tests.get(name, ())):
            for draw, seed in enumerate(self.task.seeds):
                drawn: list[bool] = []
                peer.deadline = min(end, time.monotonic() + 0.9 * seconds)
                verdicts.told(name, None)
                try:
                    space = peer.request("answers", list(public.answers), draw)
                    if not isinstance(space, dict):
                        raise Forged("sent what is no answer")
                    watched = _watched(test, drawn, _drawn(seed, name, "order"))
                    result = core.judge(
                        replace(public, test=watched), space, _drawn(seed, name, "data"), seconds
                    )
                except Exception as error:  # an answer that cannot be sent
                    result = Result("wrong", "raised", core._explain(error))
                peer.forget()
                if peer.late or result.key == "endless":  # what runs on is no longer in step with us
                    verdicts.give(name, result)
                    raise core._TooLong
                if result.status != "right" or not (any(drawn) or public.kind == "bug"):
                    break  # wrong, or the same with every seed
            if result.status != "right":
                break
        verdicts.give(name, result)


def _drawn(seed: int, name: str, what: str) -> int:
    """A number that says nothing of the seed, nor of what else is drawn from it: a submission sees data and must not know an order."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name} {what}".encode()).digest()[:7])


def _asked(peer: Peer, *request: Any) -> dict[str, Any]:
    """What our own part of the other process answers; anything else is a forgery."""
    try:
        answer = peer.request(*request)
    except Exception as error:
        raise Forged(f"sent {type(error).__name__}") from None
    if not isinstance(answer, dict):
        raise Forged("sent what is no answer")
    return answer


def _watched(test: Callable[..., str | None], drawn: list[bool], order: int) -> Callable[..., str | None]:
    """The test, which notes whether it drew data from its generator, and takes the order of what it hands out from elsewhere."""

    def watched(*given: Any) -> str | None:
        before = given[-1].get_state()
        torch.manual_seed(order)
        try:
            return test(*given)
        finally:
            drawn.append(not torch.equal(before, given[-1].get_state()))

    return watched


def _why(problem: BaseException, limits: Limits) -> str:
    """What ended a process, as the rest of a sentence."""
    if isinstance(problem, core._TooLong):
        return "did not end in time"
    stopped = problem.signal if isinstance(problem, Gone) else 0
    if stopped == signal.SIGXCPU:
        return f"used up the {limits.cpu_seconds} s of computing time"
    if stopped == signal.SIGKILL:
        return f"used up the {limits.cpu_seconds} s of computing time, or too much memory"
    if stopped:
        return f"ended the whole process ({signal.Signals(stopped).name})"
    return f"ended the whole process ({problem})" if str(problem) else "ended the whole process"


def plain(text: Any, most: int = 200) -> str:
    """One line without control characters, of bounded length."""
    return " ".join("".join(c for c in str(text)[: 5 * most] if c.isprintable() or c.isspace()).split())[
        :most
    ]
