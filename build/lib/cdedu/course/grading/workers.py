"""The processes that grade, and who watches them.

Whatever a submission does to the process that grades it (endless work in native code, all memory, its end), it costs that submission
the exercise that was being judged, and another process goes on with the rest.
"""

import gc
import multiprocessing
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from cdedu.course.checks.core import Result, exercises, import_late
from cdedu.course.grading.judge import Forker, Judge, Task, Verdicts, plain
from cdedu.course.grading.notebooks import Handout, read_notebook
from cdedu.course.grading.sandbox import limit

MEMORY_MB = 512
"""Of each process that grades, on top of the libraries: a submission chooses the sizes of what the checks are given."""
IDLE = 2.0**40
START, GRACE = 300, 10
"""Seconds that a process may take to start, and those that it may be silent beyond what a submission may use."""


@dataclass
class Work:
    """The files of one student, and what is known of the first that is not graded."""

    student: str
    files: list[Path]
    seconds: float
    """Left for all of them."""
    graded: list[Verdicts] = field(default_factory=list)
    known: dict[str, Result] = field(default_factory=dict)
    failures: int = 0
    failed: bool = False
    """By the grader's own trouble, so that it is to be tried again."""


def grade_file(judge: Judge, handout: Handout, file: Path, verdicts: Verdicts, seconds: float) -> None:
    """Grade one file into ``verdicts``."""
    try:
        if file.suffix != ".ipynb" and not file.is_symlink():
            raise ValueError(f"is no notebook: its name ends in {plain(file.suffix, 20) or 'nothing'}")
        cells, places, remarks = handout.align(read_notebook(file))
    except ValueError as error:
        verdicts.remark(str(error))
        return
    for remark in remarks:
        verdicts.remark(remark)
    judge.grade(cells, places, verdicts, seconds)


def _work(line: Connection, control: socket.socket, others: list[Any], handout: Handout, task: Task, own_risk: bool, scratch: str) -> None:  # fmt: skip
    """In each of the processes that grade. ``others``: lines that it was born with, and that are not its own."""
    gc.freeze()  # so that looking for garbage copies none of the pages that all share
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    tempfile.tempdir = scratch
    torch.set_num_threads(1)
    try:
        judge = Judge(task, own_risk, control)
    except OSError as error:
        line.send(("refused", error))
        return
    for name in task.exercises:
        (exercises()[name].prepare or (lambda: None))()
    limit(MEMORY_MB)
    line.send(("ready", judge.protection))
    while True:
        try:
            file, known, seconds = line.recv()
        except EOFError:
            return judge.close()
        verdicts = Verdicts(dict(known), told=lambda *event: line.send(("told", *event)))
        grade_file(judge, handout, file, verdicts, seconds)
        line.send(("graded", verdicts.results, verdicts.remarks))


class _Worker:
    """One of the processes, as its watcher sees it."""

    def __init__(self, lines: list[Any], forker: Forker, setting: tuple[Handout, Task, bool, str]) -> None:
        forks = sys.platform == "linux"  # so that nobody waits for torch again
        context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.line, theirs = context.Pipe()
        with forker.line() as control, theirs:
            others = [*lines, forker.control, self.line] if forks else []
            self.process = context.Process(target=_work, args=(theirs, control, others, *setting), daemon=True)  # fmt: skip
            self.process.start()
        self.limits, self.protection = setting[1].limits, ""
        self.work: Work | None = None
        self.exercise, self.begun = "", time.monotonic()
        self.deadline = self.begun + START

    def take(self, work: Work) -> None:
        """Grade the first file of ``work`` that is not graded."""
        self.work, self.exercise, self.begun = work, "", time.monotonic()
        self.deadline = self.begun + work.seconds + GRACE
        try:
            self.line.send((work.files[len(work.graded)], work.known, work.seconds))
        except OSError:
            self.deadline = 0  # it has ended

    def hear(self) -> tuple[Any, ...]:
        """What it says; ``gone`` where it will say no more."""
        try:
            if self.line.poll():
                return self.line.recv()
        except (EOFError, OSError):
            return ("gone",)
        return ("gone",) if time.monotonic() > self.deadline else ("nothing",)

    def told(self, work: Work, name: str, result: Result | None) -> None:
        """It begins to judge an exercise, or has done so."""
        end = self.begun + work.seconds
        if result is None:
            self.exercise, end = name, min(end, time.monotonic() + self.limits.check_seconds)
        else:
            self.exercise, work.known[name] = "", result
        self.deadline = end + GRACE

    @property
    def idle(self) -> bool:
        """Whether it waits for work."""
        return self.deadline == IDLE

    def rest(self) -> None:
        """No more of its work."""
        if self.work:
            self.work.seconds -= time.monotonic() - self.begun
        self.work, self.deadline = None, IDLE

    def end(self) -> None:
        """Whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.line.close()


def _lost(work: Work, exercise: str, task: Task) -> None:
    """The process that graded has ended or says nothing any more: what of it costs whom."""
    verdicts = Verdicts(work.known)
    if exercise:
        work.known[exercise] = Result(
            "wrong", "ended", "Judging it ended the process that grades, or took too long."
        )
        return
    work.failures += 1
    if work.seconds > 0 and work.failures == 1:
        return  # once more
    work.failed = work.seconds > 0
    for name in set(task.exercises) - set(work.known):
        verdicts.give(
            name, Result("not attempted", "time", "The grader did not come to an end with this notebook.")
        )
    verdicts.remark("could not be graded: the process that grades ended" if work.failed else f"stopped after {task.limits.wall_seconds} s")  # fmt: skip
    work.graded.append(verdicts)
    work.known = {}


def graded(todo: list[Work], handout: Handout, task: Task, own_risk: bool, processes: int) -> Iterator[tuple[Work, str]]:  # fmt: skip
    """Each student's work and under which protection, as soon as it is graded.

    Raises:
        OSError: if no process that grades starts here, with the reason.
    """
    waiting, workers = deque(todo), list[_Worker]()
    if waiting and sys.platform == "linux":  # once, and not in each process
        import_late()
    with tempfile.TemporaryDirectory(prefix="cdedu-grade-") as scratch, closing(Forker(task)) as forker:
        Path(scratch).chmod(0o755)
        try:
            while waiting or any(w.work for w in workers):
                for worker in workers:
                    if worker.idle and waiting:
                        worker.take(waiting.popleft())
                for _ in range(min(processes - len(workers), len(waiting))):
                    workers.append(
                        _Worker([w.line for w in workers], forker, (handout, task, own_risk, scratch))
                    )
                wait(
                    [w.line for w in workers],
                    max(0.0, min(3600, *(w.deadline - time.monotonic() for w in workers))),
                )
                for worker in list(workers):
                    work, (event, *facts) = worker.work, worker.hear()
                    if event == "refused":
                        raise facts[0]
                    if event == "ready":
                        worker.protection = facts[0]
                        worker.rest()
                    elif event == "told" and work:
                        worker.told(work, *facts)
                    elif event == "graded" and work:
                        work.graded.append(Verdicts(*facts))
                        work.known = {}
                        worker.rest()
                    elif event == "gone":
                        worker.end()
                        workers.remove(worker)
                        if not worker.protection:
                            raise OSError("a process that grades does not start here")
                        worker.rest()
                        if work:
                            _lost(work, worker.exercise, task)
                    if work and not worker.work:
                        if len(work.graded) < len(work.files):
                            waiting.appendleft(work)
                        else:
                            yield work, worker.protection
        finally:
            for worker in workers:
                worker.end()
