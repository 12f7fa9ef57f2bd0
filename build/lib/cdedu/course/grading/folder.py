"""A folder of submissions: who handed in what, and who is graded already."""

import hashlib
import json
import os
import re
import secrets
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from cdedu.course.checks import core
from cdedu.course.checks.core import Result
from cdedu.course.grading.judge import Limits, Task, hidden_tests
from cdedu.course.grading.notebooks import Handout
from cdedu.course.grading.results import Grade, Gradebook, gradebook, page, report, table, write
from cdedu.course.grading.workers import Work, graded
from cdedu.files import disk_errors, sha256

TOOLS = {".ipynb_checkpoints", "__MACOSX", "__pycache__", ".DS_Store"}
"""What nobody handed in, and nobody needs to hear of."""
MOST_FILES, MOST_NOTEBOOKS = 1000, 10
"""In a student's folder: looked at, and graded."""
MOODLE = re.compile(r"_(?P<number>\d+)_assignsubmission_(?:file|onlinetext)_?$")
CANVAS = re.compile(r"^(?P<name>[^_]+)_(?:LATE_)?(?P<number>\d+)_\d+_")


# --- who handed in what --------------------------------------------------------------------------


@dataclass
class HandedIn:
    """What there is of one student."""

    files: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    number: str = ""
    """By which Canvas or Moodle knows the student."""


def submissions(folder: Path, set_name: str) -> tuple[dict[str, HandedIn], list[str]]:
    """Student → files, in order of the names; and what was left out, since it is hidden.

    A student is a folder in ``folder``, or a file in it. What learning-management systems add is taken off: the set's name, ``(1)``,
    Moodle's ``_123_assignsubmission_file_``, Canvas's ``_123_456_``. Two whom these tell apart by a number are two.

    Raises:
        ValueError: if there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} with submissions")
    found: dict[tuple[str, str], tuple[str, HandedIn]] = {}
    left_out = []
    for entry in sorted(folder.iterdir(), key=lambda p: unicodedata.normalize("NFC", p.name)):
        if entry.name in TOOLS:
            continue
        if entry.name.startswith("."):
            left_out.append(shown(entry.name))
            continue
        directory = entry.is_dir() and not entry.is_symlink()
        name, number = _student(entry.name if directory else entry.stem, set_name)
        _, whose = found.setdefault((name.casefold(), number), (name, HandedIn(number=number)))
        files, remarks = _files(entry) if directory else ([entry], [])
        whose.files += files
        whose.remarks += remarks
    if not found:
        raise ValueError(f"there is nothing in {folder}; put one notebook a student there, or one folder a student")  # fmt: skip
    alike, out = Counter(name for name, _ in found), dict[str, HandedIn]()
    for (name, number), (spelled, whose) in found.items():
        label = f"{spelled} ({number})" if alike[name] > 1 and number else spelled
        while label in out:
            label += "*"
        out[label] = whose
    return out, left_out


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The notebooks below a student's folder, without any what else is there; and what there is to say."""
    found: list[Path] = []
    remarks: list[str] = []

    def unreadable(error: OSError) -> None:
        remarks.append(f"{shown(str(error.filename))} cannot be read ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=unreadable):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        hidden = [name for name in [*folders, *names] if name.startswith(".") and name not in TOOLS]
        remarks += [f"left out, since hidden: {', '.join(map(shown, hidden[:10]))}"] if hidden else []
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in TOOLS)
        found += [Path(root, n) for n in sorted(links + names) if not n.startswith(".") and n not in TOOLS]
        if len(found) > MOST_FILES:
            remarks.append(f"more than {MOST_FILES} files, of which no more were looked at")
            break
    books = [p for p in found if p.suffix == ".ipynb"]
    if len(books) > MOST_NOTEBOOKS:
        remarks.append(f"more than {MOST_NOTEBOOKS} notebooks, of which no more were graded")
    return books[:MOST_NOTEBOOKS] or found[:1], remarks


def _student(name: str, set_name: str) -> tuple[str, str]:
    """Whom a name stands for, and the number that Moodle or Canvas gave."""
    name, number = unicodedata.normalize("NFC", name), ""
    if match := MOODLE.search(name):
        name, number = name[: match.start()], match["number"]
    elif match := CANVAS.match(name):
        name, number = match["name"], match["number"]
    name = re.sub(r"\s*\(\d+\)$", "", name)
    shorter = re.sub(rf"(^|[\s_.-]+){re.escape(set_name)}($|[\s_.-]+)", " ", name, flags=re.IGNORECASE)
    return shown(" ".join(shorter.split(" ")).strip(" ") or name), number


def shown(name: str) -> str:
    """A file's name on one line: what cannot be printed is spelled out, and half a character is the byte that it was."""

    def spelled(c: str) -> str:
        n = ord(c)
        return (
            f"\\x{n - 0xDC00:02x}" if 0xDC80 <= n <= 0xDCFF else f"\\x{n:02x}" if n < 256 else f"\\u{n:04x}"
        )

    return "".join(c if c.isprintable() or c in "\u200c\u200d" else spelled(c) for c in name)


# --- grading -------------------------------------------------------------------------------------


def grade_folder(
    notebook: str | Path,
    folder: str | Path,
    out: str | Path,
    *,
    seed: int | None = None,
    hidden: str | Path | None = None,
    jobs: int | None = None,
    limits: Limits | None = None,
    own_risk: bool = False,
    again: bool = False,
    books: Iterable[Gradebook] = (),
    progress: bool = True,
) -> list[Grade]:
    """Grade a folder of submissions into ``out/grades.csv``, ``out/report.txt`` and a page a student in ``out/feedback``.

    Args:
        notebook: the exercises as they were handed out.
        folder: one notebook a student, or one folder a student.
        out: where the results go. Who is there already and unchanged is not graded again.
        seed: of the data on which answers are tried, and of the order in which code is handed out: a large number that nobody
            can guess. By default it is drawn once and kept in ``out/state/seed``.
        hidden: a Python file with further tests, see :func:`cdedu.course.grading.hidden`.
        jobs: processes that grade; by default one a core.
        limits: what a submission may use.
        own_risk: grade also where nothing but Python's own hooks holds submissions back.
        again: grade everybody anew.
        books: for whom to write the totals, as ``out/canvas.csv`` or ``out/moodle.csv``.
        progress: show a progress bar.

    Raises:
        ValueError: for a notebook, a folder, tests or a number of jobs that cannot be used.
        OSError: if ``out`` cannot be written, or submissions cannot be held back here and ``own_risk`` is not set.
    """
    handout, folder, out = Handout(Path(notebook)), Path(folder), Path(out)
    tests = Path(hidden) if hidden is not None else None
    if tests is not None and not tests.is_file():
        raise ValueError(f"there is no file {tests} with hidden tests")
    hidden_tests(tests)
    if jobs is not None and not 1 <= jobs <= 256:
        raise ValueError(f"jobs: 1 to 256 are possible, not {jobs}")
    students, left_out = submissions(folder, handout.name)
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{out} lies in the folder of the submissions; give another --out")
    with disk_errors(out):
        for name in ("feedback", "state"):
            (out / name).mkdir(parents=True, exist_ok=True)
    seed = _seed(out / "state" / "seed") if seed is None else seed
    task = Task(handout.exercises, handout.given_cells, (seed, seed + 1, seed + 2), tests, limits or Limits())
    pages = _pages(students)
    keys = {s: _key(task, handout, h.files) for s, h in students.items()}
    states = {s: out / "state" / f"{pages[s]}.json" for s in students}
    done = {} if again else {s: g for s in students if (g := _kept(states[s], keys[s]))}

    def tables() -> list[Grade]:
        """Of those who are done, in the order of the students."""
        grades = [done[s] for s in students if s in done]
        write(out / "grades.csv", table(handout, grades), "utf-8-sig")
        write(out / "report.txt", report(handout, grades, len(students), left_out))
        for kind in books:
            write(out / f"{kind}.csv", gradebook(handout, grades, kind), "utf-8-sig" if kind == "canvas" else "utf-8")  # fmt: skip
        return grades

    def finish(grade: Grade, failed: bool = False) -> None:
        done[grade.student] = grade
        if not failed:
            grade.key = keys[grade.student]
            write(states[grade.student], json.dumps(asdict(grade), indent=1))
        write(out / "feedback" / f"{pages[grade.student]}.html", page(handout, grade))
        bar.update()

    bar = tqdm(total=len(students), unit="student", disable=not progress)
    try:
        seconds, written = float(task.limits.wall_seconds), time.monotonic()
        todo = []
        for student, there in students.items():
            if student in done or not there.files:
                finish(done.get(student) or _best(Work(student, [], 0), there, folder, ""))
            else:
                todo.append(Work(student, there.files, seconds))
        for work, protection in graded(todo, handout, task, own_risk, jobs or os.cpu_count() or 1):
            finish(_best(work, students[work.student], folder, protection), work.failed)
            if time.monotonic() > written + 1:  # so that an end without a word costs a second at most
                tables()
                written = time.monotonic()
    finally:
        bar.close()
        grades = tables()
    return grades


def _best(work: Work, there: HandedIn, folder: Path, protection: str) -> Grade:
    """The grade of all files of a student: the best one counts."""
    grades = [
        Grade(work.student, shown(unicodedata.normalize("NFC", f.relative_to(folder).as_posix())), v.results, v.remarks, protection, there.number)
        for f, v in zip(there.files, work.graded, strict=True)
    ] or [Grade(work.student, "", remarks=["handed in nothing"], number=there.number)]  # fmt: skip
    best = max(grades, key=lambda g: (sum(g.points.values()), bool(g.results)))
    if len(grades) > 1:
        best.remarks.insert(0, f"{len(grades)} files, the best counts: {', '.join(g.file for g in grades)}")
    best.remarks += there.remarks
    return best


def _seed(path: Path) -> int:
    """A number that nobody can guess: the same whenever the same folder is graded again."""
    if not path.is_file():
        write(path, str(secrets.randbits(62)))
    try:
        return int(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} holds no number; delete it, and everybody is graded anew") from None


def _key(task: Task, handout: Handout, files: list[Path]) -> str:
    """A digest of all that a grade depends on."""
    whole = hashlib.sha256(repr((task, handout.digest)).encode())
    for path in [
        *sorted(Path(core.__file__).parent.glob("*.py")),
        *([task.hidden] if task.hidden else []),
        *files,
    ]:
        whole.update(os.fsencode(path.name))
        if path.is_file() and not path.is_symlink():
            whole.update(sha256(path).encode())
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


def _pages(students: Iterable[str]) -> dict[str, str]:
    """Student → name of the page: theirs, where a file may be called so and nobody else's is."""
    out, taken = {}, set()
    for student in students:
        name = re.sub(r"[^\w.,' -]+", "_", student).strip(". ").encode()[:100].decode(errors="ignore") or "student"  # fmt: skip
        if name.casefold() in taken or name != student:
            name += "-" + hashlib.sha256(student.encode()).hexdigest()[:8]
        taken.add(name.casefold())
        out[student] = name
    return out
