"""Run graders cold: each in a process of its own that has imported what its notebook's set-up imports, as a student's first check.

    python scripts/book/cold.py                       every exercise, its solution and the right answers in an unusual style
    python scripts/book/cold.py noise-time --load 4   some of them, beside four programs that keep the machine busy

One process imports torch and forks for each notebook, which runs its set-up cells and forks for each answer: what the check or the
answer imports beyond that, it imports there, while the check runs. The process exits with 1 if a right answer is refused, if a hint
that the check suggests cannot be asked for, or if an answer was not run.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What became of one answer."""

    exercise: str
    answer: int
    """0 is the solution, and the others are right answers of exercises/selftest by their place."""
    printed: str
    """What ``check`` and then ``hint`` printed, or the exception that ended them."""
    seconds: float
    cold: bool
    """Whether what torch loads late was not there when the check began."""

    @property
    def accepted(self) -> bool:
        """The check said that it is right, and its hint can be asked for."""
        return self.printed.startswith("✓") and "\nHint 1 of " in self.printed


def jobs(names: Sequence[str]) -> list[dict[str, Any]]:
    """For each notebook its set-up cells, and for each exercise the cells up to its check, and its right answers."""
    import nbformat

    from cdedu.course.checks import exercises
    from scripts.book import exercises as script

    out = []
    for path in script.sources():
        setup: list[str] = []
        tasks: list[dict[str, Any]] = []
        for cell in nbformat.read(path, as_version=4).cells:
            tags = cell.metadata.get("tags", [])
            if "exercise" in cell.metadata:
                name = cell.metadata["exercise"]
                right = script.answers()[name].right
                marked = [i for i, answer in enumerate(right) if answer.mark == "unusual"]
                take = [script.take(name, "right", i, exercises()[name].answers[0]) for i in marked]
                tasks.append(
                    {
                        "name": name,
                        "cells": [],
                        "open": True,
                        "answers": [[0, ""], *zip([i + 1 for i in marked], take, strict=True)],
                    }
                )
            elif cell.cell_type == "code" and "expected" not in tags:
                if not tasks:
                    setup.append(cell.source)
                elif "check" in tags:
                    tasks[-1]["open"] = False
                elif tasks[-1]["open"]:
                    tasks[-1]["cells"].append(script.solved(cell.source))
        tasks = [task for task in tasks if task["name"] in names]
        if tasks:
            out.append({"setup": setup, "tasks": tasks, "prepared": script.prepared_cell(path.stem[:2])})
    return out


def cold(work: list[dict[str, Any]], load: int = 0) -> list[Outcome]:
    """Run the right answers of ``jobs``, each in a fresh process, beside ``load`` programs that never rest."""
    from tqdm import tqdm

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    command, out = [sys.executable, "-W", "ignore", __file__, "--run"], []
    total = sum(len(task["answers"]) for notebook in work for task in notebook["tasks"])
    try:
        with subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as run:  # fmt: skip
            assert run.stdin is not None and run.stdout is not None
            run.stdin.write(json.dumps(work))
            run.stdin.close()
            for line in tqdm(run.stdout, total=total, unit="answer"):
                if line.startswith("{"):
                    out.append(Outcome(**json.loads(line)))
                    if not out[-1].accepted:
                        print(
                            f"{out[-1].exercise}, answer {out[-1].answer}: {out[-1].printed.strip()}",
                            flush=True,
                        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return out


def forked() -> Iterator[None]:
    """The body of the loop over this runs in a process of its own, which the loop waits for."""
    pid = os.fork()
    if pid == 0:
        try:
            yield
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(pid, 0)


def run(work: list[dict[str, Any]]) -> None:
    """In the process that imports torch: one line for each answer."""
    import torch

    import cdedu.checks  # noqa: F401  as every notebook does

    torch.set_num_threads(1)  # threads do not survive a fork
    for notebook in work:
        for _ in forked():
            space: dict[str, Any] = {"__name__": "__main__"}
            for cell in notebook["setup"]:
                exec(cell, space)
            for task in notebook["tasks"]:
                for answer, take in task["answers"]:
                    for _ in forked():
                        print(json.dumps(asdict(checked(space, notebook["prepared"], task, answer, take))))


def checked(space: dict[str, Any], prepared: str, task: dict[str, Any], answer: int, take: str) -> Outcome:
    """Run an answer's cells, then its check."""
    for cell in task["cells"]:
        exec(cell, space)
    if take:
        exec(prepared, space)
        exec(take, space)
    printed, was_cold, begun = io.StringIO(), "sympy" not in sys.modules, time.perf_counter()
    with contextlib.redirect_stdout(printed):
        try:
            exec(f"check({task['name']!r})\nhint({task['name']!r})", space)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
    return Outcome(task["name"], answer, printed.getvalue(), time.perf_counter() - begun, was_cold)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("exercise", nargs="*", help="all by default")
    parser.add_argument(
        "--load", type=int, default=0, help="number of programs that keep the machine busy at the same time"
    )
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(json.load(sys.stdin))
        return 0
    from cdedu.course.checks import exercises

    unknown = set(options.exercise) - set(exercises())
    if unknown:
        parser.error(f"there is no exercise {', '.join(sorted(unknown))}")
    names = options.exercise or list(exercises())
    work = jobs(names)
    outcomes, expected = cold(work, options.load), sum(len(t["answers"]) for j in work for t in j["tasks"])
    refused = [o for o in outcomes if not o.accepted]
    slowest = max(outcomes, key=lambda o: o.seconds)
    print(
        f"{len({o.exercise for o in outcomes})} of {len(names)} exercises, {len(outcomes)} of {expected} right answers, each in a process of "
        f"its own, {sum(o.cold for o in outcomes)} of them cold: {len(refused) or 'none'} refused. "
        f"The slowest check, {slowest.exercise}, took {slowest.seconds:.1f} s."
    )
    return 1 if refused or len(outcomes) != expected else 0


if __name__ == "__main__":
    sys.exit(main())
