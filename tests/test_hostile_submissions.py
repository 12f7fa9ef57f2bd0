"""A class with hostile submissions in it: honest grades stay what they are, everybody is one row, and nobody waits for long."""

import csv
import os
import time
from pathlib import Path
from threading import Event, Thread

import nbformat
import pytest
from hostile.submissions import ALL, HANDED_OUT, Hostile, odd_entries, odd_names, shuffled, solved, suite

from cdedu.course.grading import Grade, Limits, grade_folder

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="namespaces are Linux's")
LIMITS = Limits(
    wall_seconds=40, cell_seconds=2, cell_wall_seconds=6, check_seconds=5, cpu_seconds=15, memory_mb=400
)
FEW = (
    "tells by order", "tells by turns", "answers deep", "answers digits", "answers long text", "forges lists",
    "forges operation", "takes memory of the grader", "hangs up", "quadratic names", "surrogate",
)  # fmt: skip
WRONG = {"double": "sigma_double = 0.5", "floor": "settled_loss = None", "weights": "", "time": "def test_time(denoise):\n    pass"}  # fmt: skip


LIBRARIES = 300
"""MB of its own that a process has when it has imported torch and the checks."""


class Memory:
    """Most that all processes of the grader have taken together, in MB: a page that two share counts half for each.

    What other tests have left in this one does not count; :data:`LIBRARIES`, which any has that grades, do.
    """

    def __enter__(self):
        self.most, self._end = 0, Event()
        self._others = set(self._children(os.getpid()))  # of other tests, such as a browser
        self._before = max(0, self._proportional(os.getpid()) // 1024 - LIBRARIES)
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _watch(self):
        while not self._end.wait(0.2):
            judges = [pid for pid in self._children(os.getpid()) if pid not in self._others]
            graders = [os.getpid(), *judges]
            graders += [fork for judge in judges for fork in self._children(judge)]
            self.most = max(self.most, sum(map(self._proportional, graders)) // 1024 - self._before)

    @staticmethod
    def _children(pid: int) -> list[int]:
        try:
            return [
                int(p)
                for t in Path(f"/proc/{pid}/task").iterdir()
                for p in (t / "children").read_text().split()
            ]
        except OSError:
            return []

    @staticmethod
    def _proportional(pid: int) -> int:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
        except OSError:
            return 0


def honest(count: int) -> dict[str, Hostile]:
    """Right, wrong and half-done submissions, without ill will."""
    out = {}
    for i in range(count):
        some = {n: s for k, (n, s) in enumerate(WRONG.items()) if i >> k & 1}
        lost = frozenset(f"noise-{n}" for n in some)
        out[f"honest {i:03d}"] = Hostile(lambda some=some: solved(**some), lost)
    return out


def graded(base: Path, students: dict[str, Hostile], jobs: int = 2) -> tuple[dict[str, Grade], float]:
    """Everybody's grade, and the seconds."""
    (base / "in").mkdir(exist_ok=True)
    for name, hostile in students.items():
        nbformat.write(hostile.make(), base / "in" / f"{name}.ipynb")
    begun = time.monotonic()
    grades = grade_folder(
        HANDED_OUT, base / "in", base / "out", jobs=jobs, limits=LIMITS, own_risk=True, progress=False
    )
    return {g.student: g for g in grades}, time.monotonic() - begun


def assert_as_expected(grades: dict[str, Grade], students: dict[str, Hostile]) -> None:
    for name, hostile in students.items():
        grade = grades[name]
        assert {n for n in ALL if not grade.points.get(n)} == hostile.lost, (
            name,
            grade.remarks,
            grade.results,
        )
        assert hostile.words in "; ".join(grade.remarks), (name, grade.remarks)


def assert_one_row_each(base: Path, grades: dict[str, Grade]) -> None:
    with (base / "out" / "grades.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    assert [row[0].removeprefix("'") for row in rows] == list(grades) and len(set(grades)) == len(rows)
    lines = (base / "out" / "report.txt").read_text().split("\n\n", 1)[1].splitlines()
    assert len(lines) == sum(bool(g.remarks) for g in grades.values())
    assert all(set(g.results) == ALL or g.remarks for g in grades.values()), "who has no results has a reason"
    assert len(list((base / "out" / "feedback").iterdir())) == len(rows)


def test_a_class_with_some_hostile_submissions(tmp_path, monkeypatch):
    """And with what else lies in such folders."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    odd = [*odd_entries(tmp_path / "in"), *odd_names(tmp_path / "in")]
    students = honest(6) | {name: suite()[name] for name in FEW}
    with Memory() as memory:
        grades, _ = graded(tmp_path, students)
    assert_as_expected(grades, students)
    assert_one_row_each(tmp_path, grades)
    for name, words in odd:
        assert words in "; ".join(grades[name].remarks), grades[name]
        assert words or set(grades[name].points) == ALL and all(grades[name].points.values()), grades[name]
    assert set(grades) == set(students) | {name for name, _ in odd}
    assert memory.most < 1500, memory.most


@pytest.mark.weekly
def test_every_hostile_submission_gets_what_it_must(tmp_path):
    grades, _ = graded(tmp_path, suite())
    assert_as_expected(grades, suite())
    assert_one_row_each(tmp_path, grades)


@pytest.mark.weekly
def test_a_class_of_two_hundred_with_twenty_hostile_ones(tmp_path):
    """In at most 1.2 times the time of the 180 honest ones, and the limits of the twenty."""
    hostile = {name: h for name, h in suite().items() if name in FEW or h.seconds}
    hostile = dict(list(hostile.items())[-20:])
    more = [name for name in suite() if name not in hostile]
    hostile |= {name: suite()[name] for name in more[: 20 - len(hostile)]}
    (tmp_path / "honest").mkdir()
    (tmp_path / "all").mkdir()
    alone, seconds = graded(tmp_path / "honest", honest(180))
    with Memory() as memory:
        grades, took = graded(tmp_path / "all", honest(180) | hostile)
    allowed = sum(h.seconds for h in hostile.values())
    print(
        f"180 honest: {seconds:.0f} s; with 20 hostile: {took:.0f} s, of which {allowed:.0f} s are their limits; {memory.most} MB"
    )
    assert_as_expected(grades, honest(180) | hostile)
    assert_one_row_each(tmp_path / "all", grades)
    for name, grade in alone.items():
        assert grades[name].points == grade.points
    assert took <= 1.2 * seconds + allowed
    assert memory.most < 1500, memory.most


@pytest.mark.weekly
@pytest.mark.parametrize("seed", range(3))
def test_a_random_campaign_leaves_one_row_each(seed, tmp_path):
    """Two or three hostile things in one notebook; beside them honest ones, whose grades stay."""
    students = honest(8) | {name: Hostile(lambda nb=nb: nb) for name, nb in shuffled(40, seed).items()}
    with Memory() as memory:
        grades, _ = graded(tmp_path, students)
    assert_one_row_each(tmp_path, grades)
    assert set(grades) == set(students)
    assert_as_expected(grades, honest(8))
    assert memory.most < 1500, memory.most


@pytest.mark.weekly
@pytest.mark.parametrize(
    "what", ["os._exit(1)", "os.kill(os.getpid(), 9)", "print(len(str(7 ** (7 ** 10))))", "bytearray(10**12)"]
)
def test_whatever_ends_or_holds_up_a_grader_costs_one_exercise_of_one_student(what, tmp_path):
    """Played by a hidden test, which runs where the checks do: native code that does not come back among it."""
    test = f"""
import os
from cdedu.course.grading import hidden

@hidden("noise-floor")
def ends(settled_loss, g):
    if settled_loss == 0.0576:
        {what}
"""
    (tmp_path / "hidden.py").write_text(test)
    (tmp_path / "in").mkdir()
    nbformat.write(solved(floor="settled_loss = 0.0576"), tmp_path / "in" / "bad.ipynb")
    nbformat.write(solved(floor="settled_loss = 0.05761"), tmp_path / "in" / "good.ipynb")
    grades = grade_folder(
        HANDED_OUT, tmp_path / "in", tmp_path / "out", hidden=tmp_path / "hidden.py", jobs=1, limits=LIMITS, own_risk=True, progress=False
    )  # fmt: skip
    bad, good = grades
    assert all(good.points.values()) and set(good.points) == ALL
    assert {n for n in ALL if not bad.points.get(n)} == {"noise-floor"}, bad
