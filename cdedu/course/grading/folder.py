"""A folder of submissions: who handed in what, a line each in a table, and a page each with what there is to say."""

import csv
import hashlib
import html
import io
import json
import multiprocessing
import multiprocessing.util
import os
import re
import signal
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from cdedu.course.checks import core
from cdedu.course.checks.core import SIGNS, Result, exercises
from cdedu.course.grading.judge import Isolation, Judge, Limits, Task, hidden_tests
from cdedu.course.grading.notebooks import Handout, read_notebook
from cdedu.course.grading.sandbox import limit
from cdedu.files import replacing

FAILED = "failed"
"""In place of a key: the grader's own trouble, to be tried again."""
IGNORED = {".ipynb_checkpoints", "__MACOSX", "__pycache__"}


@dataclass
class Grade:
    """What one student gets."""

    student: str
    file: str
    results: dict[str, Result] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    protection: str = ""
    key: str = ""
    """Of all that the grade depends on; while it is the same, the student need not be graded again."""

    @property
    def points(self) -> dict[str, int]:
        """Exercise → points."""
        return {n: exercises()[n].points if r.status == "right" else 0 for n, r in self.results.items()}


# --- who handed in what --------------------------------------------------------------------------


def submissions(folder: Path, set_name: str) -> dict[str, list[Path]]:
    """Student → files, in order of the names.

    A student is a folder in ``folder``, or a file in it. What learning-management systems add is taken off: the set's name, ``(1)``,
    Moodle's ``_123_assignsubmission_file_``.

    Raises:
        ValueError: if there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} with submissions")
    found: dict[str, list[Path]] = {}
    spelling: dict[str, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda p: unicodedata.normalize("NFC", p.name)):
        if entry.name.startswith(".") or entry.name in IGNORED:
            continue
        directory = entry.is_dir() and not entry.is_symlink()
        student = _student(entry.name if directory else entry.stem, set_name)
        student = spelling.setdefault(student.casefold(), student)
        found.setdefault(student, []).extend(_files(entry) if directory else [entry])
    if not found:
        raise ValueError(f"there is nothing in {folder}; put one notebook a student there, or one folder a student")  # fmt: skip
    return found


def _files(folder: Path) -> list[Path]:
    """The notebooks below a student's folder; without any, what else is there."""
    all_ = [
        p
        for p in sorted(folder.rglob("*"))
        if (p.is_file() or p.is_symlink())
        and not p.name.startswith(".")
        and not IGNORED & set(p.relative_to(folder).parts)
    ]
    return [p for p in all_ if p.suffix == ".ipynb"] or all_[:1]


def _student(name: str, set_name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    name = re.sub(r"_\d+_assignsubmission_file_?$", "", name)
    name = re.sub(r"\s*\(\d+\)$", "", name)
    shorter = re.sub(rf"(^|[\s_.-]+){re.escape(set_name)}($|[\s_.-]+)", " ", name, flags=re.IGNORECASE)
    return " ".join(shorter.split()) or name


# --- grading -------------------------------------------------------------------------------------


def grade_student(judge: Judge, handout: Handout, student: str, files: list[Path], folder: Path) -> Grade:
    """Grade all files of a student; the best one counts."""
    if not files:
        return Grade(student, "", remarks=["handed in nothing"])
    grades = []
    for file in files:
        shown = unicodedata.normalize("NFC", file.relative_to(folder).as_posix())
        grade = Grade(student, shown, protection=judge.protection)
        grades.append(grade)
        try:
            if file.suffix != ".ipynb":
                raise ValueError(f"is no notebook: its name ends in {file.suffix or 'nothing'}")
            cells, places, grade.remarks = handout.align(read_notebook(file))
        except ValueError as error:
            grade.remarks = [str(error)]
            continue
        try:
            verdicts = judge.grade(cells, places)
            grade.results, grade.remarks = verdicts.results, grade.remarks + verdicts.remarks
        except Exception as error:  # the grader's own trouble: no reason to stop for the others
            grade.remarks, grade.key = [f"could not be graded: {type(error).__name__}: {error}"], FAILED
    best = max(grades, key=lambda g: (sum(g.points.values()), bool(g.results)))
    if len(files) > 1:
        best.remarks.insert(0, f"{len(files)} files, the best counts: {', '.join(g.file for g in grades)}")
    return best


_judge: Judge
_handout: Handout


def _start(handout: Handout, task: Task, isolation: Isolation) -> None:
    """In each of the processes that grade."""
    global _judge, _handout
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _judge, _handout = Judge(task, isolation), handout
    multiprocessing.util.Finalize(None, _judge.close, exitpriority=10)
    limit(8 * 1024)  # a submission chooses the sizes of what the checks are given
    torch.set_num_threads(1)


def _run(student: str, files: list[Path], folder: Path) -> Grade:
    return grade_student(_judge, _handout, student, files, folder)


def grade_folder(
    notebook: str | Path,
    folder: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    hidden: str | Path | None = None,
    jobs: int | None = None,
    limits: Limits | None = None,
    isolation: Isolation = "auto",
    again: bool = False,
    progress: bool = True,
) -> list[Grade]:
    """Grade a folder of submissions into ``out/grades.csv``, ``out/report.txt`` and a page a student in ``out/feedback``.

    Args:
        notebook: the exercises as they were handed out.
        folder: one notebook a student, or one folder a student.
        out: where the results go. Who is there already and unchanged is not graded again.
        seed: of the data on which answers are tried; keep it to yourself.
        hidden: a Python file with further tests, see :func:`cdedu.course.grading.hidden`.
        jobs: processes that grade; by default one a core.
        limits: what a submission may use.
        isolation: how submissions are held back; auto is the best that works here.
        again: grade everybody anew.
        progress: show a progress bar.

    Raises:
        ValueError: for a notebook, a folder or tests that cannot be used.
        OSError: if ``out`` cannot be written, or namespaces were asked for and do not work.
    """
    handout, folder, out = Handout(Path(notebook)), Path(folder), Path(out)
    tests = Path(hidden) if hidden is not None else None
    if tests is not None and not tests.is_file():
        raise ValueError(f"there is no file {tests} with hidden tests")
    hidden_tests(tests)
    task = Task(handout.exercises, handout.given_cells, (seed, seed + 1, seed + 2), tests, limits or Limits())
    students = submissions(folder, handout.name)
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out} lies in the folder of the submissions; give another --out")
    for name in ("feedback", "state"):
        (out / name).mkdir(parents=True, exist_ok=True)
    pages = _pages(students)
    keys = {s: _key(task, handout, files, isolation) for s, files in students.items()}
    done = (
        {} if again else {s: g for s in students if (g := _kept(out / "state" / f"{pages[s]}.json", keys[s]))}
    )
    todo = [s for s in students if s not in done]
    processes = min(jobs or os.cpu_count() or 1, max(len(todo), 1))
    bar = tqdm(total=len(students), initial=len(done), unit="student", disable=not progress)
    try:
        for grade in _grades(todo, students, folder, (handout, task, isolation), processes):
            done[grade.student] = grade
            if grade.key != FAILED:
                grade.key = keys[grade.student]
                _write(out / "state" / f"{pages[grade.student]}.json", json.dumps(asdict(grade), indent=1))
            bar.update()
    finally:
        bar.close()
        grades = [done[s] for s in students if s in done]
        for g in grades:
            _write(out / "feedback" / f"{pages[g.student]}.html", page(handout, g))
        _write(out / "grades.csv", table(handout, grades), "utf-8-sig")
        _write(out / "report.txt", report(handout, grades, len(students)))
    return grades


def _grades(todo: list[str], students: dict[str, list[Path]], folder: Path, setting: Any, processes: int) -> Iterator[Grade]:  # fmt: skip
    """Each student's grade as soon as it is there."""
    if not todo:
        return
    if processes == 1:  # no need for a pool
        handout, task, isolation = setting
        with Judge(task, isolation) as judge:
            for s in todo:
                yield grade_student(judge, handout, s, students[s], folder)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, setting) as pool:
        try:
            for future in as_completed([pool.submit(_run, s, students[s], folder) for s in todo]):
                yield future.result()
        except BrokenProcessPool:
            raise OSError(
                "a process that grades has ended; start again, those who are done are kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _key(task: Task, handout: Handout, files: list[Path], isolation: str) -> str:
    """A digest of all that a grade depends on."""
    whole = hashlib.sha256(repr((task, handout.digest, isolation)).encode())
    for path in [
        *sorted(Path(core.__file__).parent.glob("*.py")),
        *([task.hidden] if task.hidden else []),
        *files,
    ]:
        whole.update(path.name.encode())
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _kept(path: Path, key: str) -> Grade | None:
    """A grade from an earlier run, if nothing has changed since."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        results = {n: Result(**r) for n, r in facts.pop("results").items()}
        grade = Grade(**facts, results=results)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return grade if grade.key == key else None


def _pages(students: dict[str, list[Path]]) -> dict[str, str]:
    """Student → name of the page: theirs, where a file may be called so and nobody else's is."""
    out, taken = {}, set()
    for student in students:
        name = re.sub(r"[^\w.,' -]+", "_", student).strip(". ")[:100] or "student"
        if name.casefold() in taken or name != student:
            name += "-" + hashlib.sha256(student.encode()).hexdigest()[:8]
        taken.add(name.casefold())
        out[student] = name
    return out


# --- what is written -----------------------------------------------------------------------------


def _write(path: Path, text: str, encoding: str = "utf-8") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding=encoding, newline="")


def table(handout: Handout, grades: list[Grade]) -> str:
    """The CSV: student, file, points for each exercise, total, out of, remarks."""
    tasks = exercises()
    most = sum(tasks[n].points for n in handout.exercises)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["student", "file", *handout.exercises, "total", "out of", "remarks"])
    for g in grades:
        points = [g.points.get(n, 0) for n in handout.exercises]
        words = [_harmless(w) for w in (g.student, g.file, "; ".join(g.remarks))]
        writer.writerow([*words[:2], *points, sum(points), most, words[2]])
    return stream.getvalue()


def _harmless(text: str) -> str:
    """No spreadsheet takes it for a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def report(handout: Handout, grades: list[Grade], students: int) -> str:
    """For the instructor: who was graded, under which protection, and what was noticed."""
    lines = [f"{handout.title}: {len(grades)} of {students} students graded."]
    lines += sorted({g.protection for g in grades if g.protection})
    lines += ["", *(f"{g.student}: {'; '.join(g.remarks)}" for g in grades if g.remarks)]
    return "\n".join(lines).rstrip() + "\n"


def page(handout: Handout, grade: Grade) -> str:
    """What a student gets to read: each exercise's verdict, with the sentence that the check in the notebook says."""
    tasks, e = exercises(), html.escape
    most = sum(tasks[n].points for n in handout.exercises)
    parts = []
    for n in handout.exercises:
        r, task = grade.results.get(n, Result("not attempted")), tasks[n]
        points = task.points if r.status == "right" else 0
        parts.append(
            f'<section class="{r.status.split()[0]}"><h2>{SIGNS[r.status]} {e(task.title)}</h2>'
            f"<p>{e(r.status)}, {points} of {task.points} points. <code>{e(n)}</code></p>"
            + (f"<p>{e(r.message)}</p>" if r.message else "")
            + "</section>"
        )
    notes = "".join(f"<li>{e(r)}</li>" for r in grade.remarks)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{e(grade.student)}: {e(handout.title)}</title>'
        '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
        "body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:2rem auto;padding:0 1rem}"
        "section{border-left:.3rem solid #888;padding-left:1rem;margin:1.5rem 0}.right{border-color:#2a8a4a}.wrong{border-color:#c0392b}"
        "h2{font-size:1.1rem;margin:0}p{margin:.3rem 0;overflow-wrap:anywhere}</style></head>\n"
        f"<body><h1>{e(handout.title)}</h1><p>{e(grade.student)}: <strong>{sum(grade.points.values())} of {most} points</strong></p>\n"
        + "\n".join(parts)
        + (f"\n<h2>Remarks</h2><ul>{notes}</ul>" if notes else "")
        + "\n</body></html>\n"
    )
