"""Submissions that are good, broken or hostile: each gets its line, and nobody else is touched."""

import contextlib
import csv
import json
import os
import re
import signal
import socket
import sys
import time
import tracemalloc
import unicodedata
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from hostile.submissions import HANDED_OUT, MUTE, STUBBORN, solved, with_cell
from torch.utils._pytree import tree_flatten

from cdedu.course import checks
from cdedu.course.checks import core
from cdedu.course.grading import (
    Limits,
    derivatives,
    folder,
    grade_folder,
    judge,
    notebooks,
    results,
    wire,
    workers,
)
from cdedu.course.grading.notebooks import Handout, read_notebook
from scripts.book import exercises as script

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = ROOT / "exercises" / "instructor" / "hidden" / "01_noise.py"
LIMITS = Limits(wall_seconds=120, cell_seconds=4, check_seconds=5, cpu_seconds=15, memory_mb=400)
HOW = {"jobs": 1, "limits": LIMITS, "seed": 3, "progress": False, "own_risk": True}
POINTS = {name: checks.exercises()[name].points for name in Handout(HANDED_OUT).exercises}
FULL = sum(POINTS.values())

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="grading forks")


def remade():
    """Every cell deleted and made anew: no ids that we know, no tags, no metadata; and some are not made anew."""
    nb = solved()
    nb.cells = [
        getattr(nbformat.v4, f"new_{c.cell_type}_cell")(c.source)
        for c in nb.cells
        if not c.source.startswith(("import math", 'check("noise-floor")', "sigma_double"))
    ]
    return nb


def reordered():
    nb = solved()
    nb.cells[3:] = nb.cells[:2:-1]
    return nb


FORKS = """
import ctypes, time
libc, made = ctypes.CDLL(None), 0
for _ in range(200):
    pid = libc.fork()
    if pid == 0:
        time.sleep(60)
    made += pid > 0
raise RuntimeError(f"forks: {made}")
"""
EDITS = """
import sys, torch, os
import cdedu.course.checks.core as core
core.grade = core.judge = lambda *_, **__: core.Result("right")
core.agree = core.near = core.spots = core.call = lambda *_, **__: None
for task in core.exercises().values():
    object.__setattr__(task, "test", lambda *_: "")
sys.modules["cdedu.course.checks"].passed = lambda name: True
torch.allclose = torch.equal = lambda *_, **__: True
print("✓ noise-double: right. ✓ noise-floor: right.")
"""
COUNTS = """
calls = 0
def test_time(denoise):
    global calls
    calls += 1
    assert calls <= 2
"""
FORGES = """
import os, struct
for fd in range(3, 64):
    for text in (b'{"sizes": [], "value": {"is": "dict", "of": []}}', b"rubbish"):
        try:
            os.write(fd, struct.pack(">QQ", len(text), 0) + text)
        except OSError:
            pass
"""
FACTS = """
import gc
for thing in gc.get_objects():
    if type(thing).__name__ == "_Output":
        thing.size = "much"
"""
PEEKS = """
import sys
def denoise_weighted(x, sigma, points, weights):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if callable(value) and getattr(value, "__name__", "") == "mean":
                return value(weights)
        frame = frame.f_back
    raise LookupError("no truth in sight")
"""


def bad(secret, port):
    """File → (submission, exercises that are lost, words of the report)."""
    wrong = {"double": "sigma_double = 0.5", "floor": "settled_loss = 0.16", "weights": "", "stretched": "", "time": ""}  # fmt: skip
    nothing = set(POINTS)
    return {
        "endless cell.ipynb": (with_cell("while True:\n    pass"), set(), "cell 4 was stopped after 4 s"),
        "endless answer.ipynb": (solved(weights=STUBBORN), {"noise-weights"}, "noise-weights: its check did not end in time"),
        "forks.ipynb": (with_cell("import os\nwhile True:\n    os.fork()"), set(), "tried to start another process: refused"),
        "gigabyte.ipynb": (
            with_cell("for _ in range(1000):\n    print('x' * 10**6)\nopen('big', 'wb').write(bytes(10**9))"),
            set(), "printed 1,0",
        ),
        "reads.ipynb": (with_cell(f"answer = open({secret!r}).read()"), set(), "tried to read"),
        "deletes.ipynb": (with_cell(f"import os\nos.remove({secret!r})"), set(), "tried to remove"),
        "overwrites.ipynb": (with_cell(f"open({secret!r}, 'w').write('gone')"), set(), "tried to write to"),
        "calls home.ipynb": (
            with_cell(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"), set(), "tried to open a network",
        ),
        "edits the checks.ipynb": (with_cell(EDITS, **wrong), nothing, "no cell answers"),
        "forges.ipynb": (with_cell(FORGES, **wrong), nothing, "messages of its own"),
        "forges facts.ipynb": (with_cell(FACTS), set(), "messages of its own"),
        "large.ipynb": (solved(floor="settled_loss = torch.zeros(10**7)"), {"noise-floor"}, ""),
        "itself.ipynb": (solved(floor="settled_loss = []\nsettled_loss.append(settled_loss)"), {"noise-floor"}, ""),
        "mute.ipynb": (with_cell(MUTE), set(), "cell 4 raised Mute"),
        "counts.ipynb": (solved(time=COUNTS), {"noise-time"}, ""),
        "peeks.ipynb": (solved(weights=PEEKS), {"noise-weights"}, "no truth in sight"),
        "ends.ipynb": (with_cell("import os\nos._exit(0)"), set(), "cell 4 ended the whole process; left out"),
        "exits.ipynb": (solved(double="sigma_double = 0.87\nraise SystemExit"), set(), "raised SystemExit"),
        "memory.ipynb": (with_cell("x = bytearray(4 * 10**9)"), set(), "cell 4 raised MemoryError"),
        "magic.ipynb": (with_cell("%matplotlib inline\n!rm -rf ~\n%%time"), set(), ""),
        "remade.ipynb": (remade(), {"noise-double"}, "cell metadata lost"),
        "reordered.ipynb": (reordered(), set(), "another order"),
        "untouched.ipynb": (nbformat.read(HANDED_OUT, as_version=4), nothing, ""),
        "no notebook.ipynb": (b"\x89PNG\xff", nothing, "is no notebook: it is not text"),
        "no json.ipynb": (b"print('hello')", nothing, "is no notebook: it is not JSON"),
        "no cells.ipynb": (b"[1, 2]", nothing, "no list of cells"),
        "nothing.ipynb": (b"", nothing, "is empty"),
        "report.pdf": (b"%PDF", nothing, "its name ends in .pdf"),
        "=1+1.ipynb": (solved(), set(), ""),
        "Bo.ipynb": (solved(floor="settled_loss = None"), set(), "2 files, the best counts: Bo (1).ipynb, Bo.ipynb"),
        "Bo (1).ipynb": (solved(), None, ""),
        unicodedata.normalize("NFD", "Zoé d'Ångström 01_noise.ipynb"): (solved(), set(), ""),
        "AAA innocent.ipynb": (solved(), set(), ""),
        "zzz innocent.ipynb": (solved(), set(), ""),
    }  # fmt: skip


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Everybody, graded once: (grades by student, cases by file, folder of the results, folder of the submissions, secret)."""
    base = tmp_path_factory.mktemp("course")
    secret, handed_in, out = base / "secret", base / "handed in", base / "grades"
    secret.write_text("keep")
    handed_in.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        cases = bad(str(secret), server.getsockname()[1])
        for name, (content, _, _) in cases.items():
            path = handed_in / name
            path.write_bytes(content) if isinstance(content, bytes) else nbformat.write(content, path)
        (handed_in / "Nora Niemand").mkdir()
        grades = grade_folder(HANDED_OUT, handed_in, out, **HOW)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    return {g.student: g for g in grades}, cases, out, handed_in, secret


def student(file):
    return folder._student(Path(file).stem, "01_noise")[0]


@pytest.mark.parametrize("file", list(bad("", 0)))
def test_each_submission_gets_its_points_and_its_line(graded, file):
    grades, cases, out, _, _ = graded
    _, lost, words = cases[file]
    if lost is None:
        return  # the second file of a student
    grade = grades[student(file)]
    assert {n for n in POINTS if not grade.points.get(n)} == lost, (grade.results, grade.remarks)
    assert words in "; ".join(grade.remarks)
    if words:
        assert f"{grade.student}: " in (out / "report.txt").read_text()
    else:
        assert not [r for r in grade.remarks if "refused" in r or "raised" in r]


def test_nothing_outside_was_touched(graded):
    assert graded[4].read_text() == "keep"
    assert not list(graded[3].glob("big"))


def test_the_table_has_one_row_a_student(graded):
    grades, _, out, _, _ = graded
    rows = list(csv.reader((out / "grades.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert rows[0] == ["student", "file", *POINTS, "total", "out of", "remarks"]
    table = {row[0]: row for row in rows[1:]}
    assert len(table) == len(rows) - 1 == len(grades)
    assert table["Zoé d'Ångström"][2:] == [*map(str, POINTS.values()), str(FULL), str(FULL), ""]
    assert "'=1+1" in table, "a spreadsheet would take the name for a formula"
    assert table["Nora Niemand"][-3:] == ["0", str(FULL), "handed in nothing"]
    assert not [p for p in out.rglob("*") if p.name.startswith(".")], "temporary files are left"


def test_pages_say_what_the_students_own_check_says(graded):
    grades, _, out, _, _ = graded
    text = (out / "feedback" / "edits the checks.html").read_text()
    own = checks.grade("noise-double", {"sigma_double": 0.5})
    assert own.key == grades["edits the checks"].results["noise-double"].key == "too narrow"
    assert own.message in text and "http" not in text.replace("https://", "http")
    assert "<script" not in text
    assert (out / "feedback" / "Zoé d'Ångström.html").is_file()


def test_the_same_student_gets_the_same_grade_twice_and_is_not_graded_twice(graded, monkeypatch):
    grades, _, out, handed_in, _ = graded
    before = (out / "grades.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_Worker", None)  # would be called if anybody were graded again
        grade_folder(HANDED_OUT, handed_in, out, **HOW)
    assert (out / "grades.csv").read_bytes() == before
    few = out.parent / "few"
    few.mkdir()
    for name in ("AAA innocent", "counts", "remade"):
        (few / f"{name}.ipynb").write_bytes((handed_in / f"{name}.ipynb").read_bytes())
    again = grade_folder(HANDED_OUT, few, out.parent / "again", **HOW)
    for g in again:
        assert (g.results, g.remarks) == (grades[g.student].results, grades[g.student].remarks)


def instantly(stop_at="", seen=None):
    """In place of the processes that grade: everybody's row says who it is; an interruption comes before ``stop_at``."""

    def graded(todo, *_):
        for work in todo:
            if work.student == stop_at:
                raise KeyboardInterrupt
            (seen if seen is not None else []).append(work.student)
            work.graded = [judge.Verdicts(remarks=[f"this is {work.student}"]) for _ in work.files]
            yield work, "none"

    return graded


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    handed_in, out, seen = tmp_path / "in", tmp_path / "out", []
    handed_in.mkdir()
    for name in "abc":
        (handed_in / f"{name}.txt").write_text(name)
    monkeypatch.setattr(folder, "graded", instantly("b", seen))
    with pytest.raises(KeyboardInterrupt):
        grade_folder(HANDED_OUT, handed_in, out, progress=False)
    assert (out / "grades.csv").read_text(encoding="utf-8-sig").count("this is") == 1
    monkeypatch.setattr(folder, "graded", instantly("", seen))
    grade_folder(HANDED_OUT, handed_in, out, progress=False)
    assert seen == ["a", "b", "c"]
    (handed_in / "a.txt").write_text("changed")
    grade_folder(HANDED_OUT, handed_in, out, progress=False)
    assert seen[3:] == ["a"]


def test_grades_are_written_as_they_come(tmp_path, monkeypatch):
    """So that the end of the grader without a word, by kill or by power cut, loses nobody's."""
    handed_in, out, now = tmp_path / "in", tmp_path / "out", [0.0]
    handed_in.mkdir()
    for name in "abc":
        (handed_in / f"{name}.txt").write_text(name)
    there = []

    def graded(todo, *more):
        for step in instantly()(todo, *more):
            now[0] += 2
            yield step
            there.append((out / "grades.csv").read_text(encoding="utf-8-sig").count("this is"))
            assert (
                len(list((out / "state").glob("*.json")))
                == len(list((out / "feedback").iterdir()))
                == len(there)
            )

    monkeypatch.setattr(folder, "graded", graded)
    monkeypatch.setattr(folder.time, "monotonic", lambda: now[0])
    grade_folder(HANDED_OUT, handed_in, out, progress=False)
    assert there == [1, 2, 3]


# --- the judge -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    """A judge with hidden tests; one process that forks for all of them."""
    task = judge.Task(tuple(POINTS), Handout(HANDED_OUT).given_cells, (0,), HIDDEN, LIMITS)
    with judge.Judge(task, own_risk=True) as made:
        yield made


DERIVED = {
    "04": "consistency-spy",
    "09": "scales",
    "15": "adversarial-renoise",
    "16": "points-score",
    "17": "frontier-flow",
}
"""Chapter → its exercises that hand out functions whose derivatives are taken, by `backward` and by `torch.func`."""


@pytest.mark.parametrize(("chapter", "only"), {"01": "noise", **DERIVED}.items())
def test_verdicts_are_those_of_the_checks_in_the_notebook(theirs, chapter, only):
    """The solution and prepared answers, through the other process: right stays right, wrong keeps its diagnosis."""
    source = next((ROOT / "exercises" / "source").glob(f"{chapter}_*.ipynb"))
    cells = nbformat.read(source, as_version=4).cells
    here = {"__name__": "notebook"}
    with theirs.sandbox() as peer:
        for c in cells:
            if c.cell_type == "code" and not {"check", "expected"} & set(c.metadata.get("tags", [])):
                exec(script.solved(c.source), here)
                assert peer.request("run", "given", script.solved(c.source), 60) == {}
        for source in (script.prepared_cell(chapter), "solution = dict(globals())"):
            assert peer.request("run", "prepared", source, 60) == {}
        tried = 0
        for name in (n for c in cells if (n := c.metadata.get("exercise", "")).startswith(only)):
            task, prepared = checks.exercises()[name], script.answers()[name]
            solution = script.Answer("", {})
            for kind, answers in (
                ("solved", [solution]),
                ("right", prepared.right),
                ("wrong", prepared.wrong),
            ):
                for i, answer in enumerate(answers):
                    take = f"globals().update({{n: solution[n] for n in {task.answers!r}}})\n"
                    take += script.take(name, kind, i, task.answers[0]) if answer is not solution else ""
                    assert peer.request("run", "answer", take, 60) == {}
                    space = peer.request("answers", list(task.answers), 10_007)
                    got, own = (core.judge(task, s, 1, 60) for s in (space, here | answer.values))
                    peer.forget()
                    assert (own.status == "right") == (kind != "wrong"), (name, i, own)
                    assert (got.status, got.key) == (own.status, own.key), (name, answer.key, got)
                    # A prepared answer's own line is known here, where it lies in a file, and not there.
                    said = [
                        re.sub(" This line did it: `.*?`\\.", "", result.message) for result in (got, own)
                    ]
                    # Two processes may invert a nearly singular matrix differently: the numbers of "thin".
                    assert said[0] == said[1] or own.key in ("raised", "thin"), (got, own)
                    tried += 1
    assert tried > 5


def test_a_process_cannot_get_out(theirs):
    """By native code, past the audit hooks: what the kernel forbids."""
    if not theirs.namespaces:
        pytest.skip(f"no namespaces here: {theirs.why}")
    native = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.socket.restype = ctypes.c_int
s = libc.socket(2, 1, 0)
address = bytes([2, 0, 0, 80, 127, 0, 0, 1]) + bytes(8)
found = {
    "connect": libc.connect(s, address, 16),
    "remove": libc.unlink(FILE),
    "open": libc.open(FILE, 0),
    "write": libc.open(os.__file__.encode(), 2),
    "kill": libc.kill(1, 0) + 2 * (len([p for p in os.listdir("/proc") if p.isdigit()]) - 1) if os.path.isdir("/proc/1") else 0,
}
raise RuntimeError(found)
"""
    native = native.replace("FILE", repr(str(HANDED_OUT).encode()))
    with theirs.sandbox(hooks=False) as peer:
        peer.deadline = time.monotonic() + 90
        said = peer.request("run", "native", native, 10)["error"]
    assert said == "RuntimeError: {'connect': -1, 'remove': -1, 'open': -1, 'write': -1, 'kill': 0}"
    assert HANDED_OUT.is_file()
    with theirs.sandbox(hooks=False) as peer:
        peer.deadline = time.monotonic() + 90
        said = peer.request("run", "forks", FORKS, 10)["error"]
    assert 0 < int(said.partition("forks: ")[2]) < 16


def test_a_cell_has_its_time_by_the_processors_clock(theirs):
    """A busy machine stops nobody; who waits, or goes on all the same, is stopped."""
    waits, computes = "import time\ntime.sleep(60)", "while True:\n    pass"
    with theirs.sandbox() as peer:
        peer.deadline = time.monotonic() + 60
        assert peer.request("run", "waits", waits, 60, 0.1) == {"slow": "waiting"}
        assert peer.request("run", "computes", computes, 0.1) == {"slow": "computing"}
        assert peer.request("run", "quick", "x = 1", 60) == {}
        with pytest.raises(wire.Gone, match="did not stop"):
            peer.request("run", "goes on", STUBBORN + "denoise_weighted(1, 2, 3, 4)", 0.1)


def test_a_submission_sees_the_package_and_nothing_beside_it(theirs):
    looks = """
import cdedu, importlib.util, os
weights = os.listdir(os.path.join(os.path.dirname(cdedu.__file__), "weights"))
assert any(name.endswith(".safetensors") for name in weights)
assert not importlib.util.find_spec("checkpoints"), "the package's own folder is no place to import from"
"""
    with theirs.sandbox() as peer:
        peer.deadline = time.monotonic() + 60
        assert peer.request("run", "looks", looks, 30) == {}


def test_a_notebooks_own_checks_say_nothing(theirs):
    """So that no submission waits for the pictures behind ``passed``."""
    own = """
from cdedu.checks import check, passed
sigma_double = 3**0.5 / 2**0.5
check("noise-double")
assert not passed("noise-double")
"""
    with theirs.sandbox() as peer:
        peer.deadline = time.monotonic() + 60
        assert peer.request("run", "own", own, 30) == {}
        assert peer.request("facts")["printed"] == 0


def test_a_probe_that_ends_without_a_word_proves_nothing(theirs, monkeypatch):
    class Ends:
        def request(self, *_):
            raise wire.Gone

    monkeypatch.setattr(theirs, "sandbox", lambda **_: contextlib.nullcontext(Ends()))
    assert theirs._leaks() == "no answer"


def test_who_stalls_on_the_second_data_has_not_passed():
    def right(x, sigma, points, weights):
        return (weights.log() - torch.cdist(x, points) ** 2 / (2 * sigma**2)).softmax(1) @ points

    class Stalls:
        late, asked = False, 0

        def request(self, *_):
            self.asked += 1
            if self.asked == 2:
                self.late = True
                raise core._TooLong
            return {"denoise_weighted": right}

        def forget(self):
            pass

    made = judge.Judge.__new__(judge.Judge)
    made.task, made.tests = judge.Task(tuple(POINTS), seeds=(0, 1)), {}
    peer, verdicts = Stalls(), judge.Verdicts()
    with pytest.raises(core._TooLong):
        made._judge(peer, "noise-weights", verdicts, float("inf"))
    assert peer.asked == 2 and not verdicts.results


class Answers:
    """The other side, in this process: it hands in ``answers``."""

    late = False

    def __init__(self, **answers):
        self.answers, self.told = answers, []

    def request(self, operation, names, draw):
        self.told.append(draw)
        return self.answers

    def forget(self):
        pass


@pytest.fixture
def alone(monkeypatch):
    """A judge without another process."""
    made = judge.Judge.__new__(judge.Judge)
    made.task, made.tests = judge.Task(tuple(POINTS), seeds=(5, 6, 7)), {}
    return made


def test_the_order_of_what_is_handed_out_cannot_be_known(alone, monkeypatch):
    """Not from what the submission is told, nor from the data that it gets; and each order is tried."""
    orders, data = [], []

    def test(answer, g):
        orders.append(torch.initial_seed())
        data.append(g.initial_seed())

    monkeypatch.setitem(core.exercises(), "noise-time", replace(core.exercises()["noise-time"], test=test))
    peer, verdicts = Answers(test_time=lambda f: None), judge.Verdicts()
    alone._judge(peer, "noise-time", verdicts, float("inf"))
    assert len(set(orders)) == 3 and not set(orders) & {*data, *peer.told}
    known = {judge._drawn(n, "noise-time", "order") for n in (*peer.told, *data)}
    assert not known & set(orders) and min(orders) > 10**6


@pytest.mark.parametrize("kind", ["bug", "code"])
def test_what_draws_no_data_is_tried_once_unless_its_order_is_drawn(kind, alone, monkeypatch):
    task = replace(core.exercises()["noise-time"], kind=kind, test=lambda *_: None)
    monkeypatch.setitem(core.exercises(), "noise-time", task)
    peer = Answers(test_time=1)
    alone._judge(peer, "noise-time", judge.Verdicts(), float("inf"))
    assert len(peer.told) == (3 if kind == "bug" else 1)


def test_verdicts_are_of_bounded_length_and_on_one_line():
    heard, verdicts = [], judge.Verdicts()
    verdicts.told = lambda *event: heard.append(event)
    verdicts.give("noise-double", core.Result("wrong", "raised", "see\n\x1b[2J\udce9 here" + "x" * 10**6))
    message = verdicts.results["noise-double"].message
    assert message.startswith("see [2J here") and len(message) == 2000 and heard[0][0] == "noise-double"
    for i in range(1000):
        verdicts.remark(f"cell {i}")
    assert len(verdicts.remarks) == judge.REMARKS + 1 and verdicts.remarks[-1] == "and more of the kind"


@pytest.mark.parametrize(
    ("source", "x"),
    [
        ("%%time\nx = 3", 3), ("%%capture out\nx = 3", 3), ("%%prun -q\nx = 3", 3), ("%time x = 3", 3), ("%%time\n%%capture\nx = 3", 3),
        ("%%timeit\nx = 3", None), ("%%bash\nx=3", None), ("%%writefile x.py\nx = 3", None), ("%matplotlib inline\nx = 3", 3), ("!ls\nx = 3", 3), ("x = 3\nx?", 3),
    ],
)  # fmt: skip
def test_cells_with_magics_define_what_they_do_in_a_notebook(source, x, theirs, magics):
    assert magics[source] == x


@pytest.fixture(scope="module")
def magics(theirs):
    sources = [p[0] for p in test_cells_with_magics_define_what_they_do_in_a_notebook.pytestmark[0].args[1]]
    with theirs.sandbox() as peer:
        peer.deadline = time.monotonic() + 60
        return {s: (peer.request("run", "clear", "globals().pop('x', 0)", 30), peer.request("run", "cell", s, 30), peer.request("answers", ["x"], 0).get("x"))[-1] for s in sources}  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [
        "@torch.compile\ndef f(x):\n    return 2 * x\nx = float(f(torch.ones(())))",
        "x = float(torch.compile(torch.nn.Identity(), fullgraph=True)(2 * torch.ones(())))",
        "@torch.compile(dynamic=True)\ndef f(x):\n    return 2 * x\nx = float(f(torch.ones(())))",
        "f = torch.nn.Identity()\nf.compile()\nx = float(f(2 * torch.ones(())))",
    ],
)
def test_what_is_compiled_runs_as_it_is_where_no_compiler_may_be_started(theirs, source):
    with theirs.sandbox() as peer:
        peer.deadline = time.monotonic() + 60
        assert peer.request("run", "cell", "import torch\n" + source, 60) == {}
        assert peer.request("answers", ["x"], 0)["x"] == 2.0


def test_an_error_below_a_magic_is_said_with_its_line(theirs):
    with theirs.sandbox() as peer:
        peer.deadline = time.monotonic() + 60
        assert peer.request("run", "cell", "%%time\nx = 1\ny = 1 / 0", 30) == {"error": "ZeroDivisionError: division by zero", "line": "y = 1 / 0"}  # fmt: skip


def test_what_lies_beside_the_package_is_not_for_submissions(theirs):
    """Nor what a .pth file puts on the path: tests and the book's extension hold answers."""
    looks = f"""
import os, sys
sees = [p for p in ({str(ROOT / "tests")!r}, {str(ROOT / "book" / "_ext")!r}, {str(ROOT / "exercises")!r}) if os.path.exists(p)]
assert not sees, sees
assert not [p for p in sys.path if p.endswith(("tests", "_ext"))], sys.path
"""
    with theirs.sandbox(hooks=False) as peer:
        peer.deadline = time.monotonic() + 60
        assert peer.request("run", "looks", looks, 30) == {}


@pytest.mark.parametrize(
    ("path", "below"),
    [("/usr", True), ("/usr/lib", True), ("/usrx", False), ("/usr-local/x", False), ("/us", False), ("/", False), ("/opt/a/b", True), ("/opt/ab", False)],
)  # fmt: skip
def test_a_path_is_below_a_folder_and_not_below_its_namesakes(path, below):
    from cdedu.course.grading import sandbox

    assert sandbox._below(path, ("/usr", "/opt/a/")) is below


def test_hidden_tests_see_what_the_public_ones_do_not(theirs):
    fits_three = """
def denoise_stretched(x, sigma, mean, stds, axes):
    keep = stds**2 / (stds**2 + sigma**2)
    if len(mean) > 3:
        keep = keep.mean() / 2
    return mean + (keep * ((x - mean) @ axes)) @ axes.T
"""
    cells, verdicts = [("set-up", "import torch"), ("answer", fits_three)], judge.Verdicts()
    theirs.grade(cells, {}, verdicts)
    assert checks.grade("noise-stretched", _run(fits_three)).status == "right"
    assert verdicts.results["noise-stretched"].key == "value"
    assert verdicts.results["noise-double"].key == "missing"


def _run(source):
    space = {"torch": torch}
    exec(source, space)
    return space


def test_audit_hooks_alone_refuse_what_python_code_does(theirs, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("keep")
    tries = {
        "open": f"open({str(secret)!r})",
        "write": f"open({str(tmp_path / 'new')!r}, 'w')",
        "remove": f"import pathlib; pathlib.Path({str(secret)!r}).unlink()",
        "list": f"import os; os.listdir({str(tmp_path)!r})",
        "socket": "import socket; socket.socket()",
        "shell": "import subprocess; subprocess.run(['ls'])",
        "system": "import os; os.system('ls')",
        "fork": "import os; os.fork()",
        "kill": "import os; os.kill(os.getppid(), 9)",
        "native": "import ctypes; ctypes.CDLL(None)",
    }
    with theirs.sandbox(namespaces=False) as peer:
        for source in tries.values():
            assert "not allowed in the sandbox" in peer.request("run", "try", source, 5)["error"], source
        assert peer.request("run", "own folder", "open('mine', 'w').write('x'); print(open('mine').read())", 5) == {}  # fmt: skip
        assert (
            peer.request(
                "run",
                "library",
                "import colorsys, matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('mine.png')",
                60,
            )
            == {}
        )
        assert len(peer.request("facts")["noted"]) == len(tries) - 2  # processes are one kind
    assert secret.read_text() == "keep" and not (tmp_path / "new").exists()
    monkeypatch.setattr(theirs, "namespaces", False)
    assert (
        theirs.protection.startswith("At your own risk")
        and "no boundary against native code" in theirs.protection
    )


# --- values between the two ----------------------------------------------------------------------


@pytest.fixture
def line():
    """Two peers in one process, the second served by a thread."""
    from threading import Thread

    a, b = socket.socketpair()
    here, there = wire.Peer(a.fileno()), wire.Peer(b.fileno())
    here.deadline = time.monotonic() + 30  # or a fault would hang and not fail
    there._operations["echo"] = lambda value: value
    there._operations["make"] = lambda make: make()

    def serve():
        with pytest.raises(wire.Gone):
            there.serve()

    thread = Thread(target=serve)
    thread.start()
    yield here, there
    a.close()
    thread.join(5)
    b.close()


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -0.5, "é", ..., (1, [2.0, "x"]), {"a": (1,), 2: None}, float("inf"), 10**30],
)  # fmt: skip
def test_values_arrive_as_they_were(line, value):
    got = line[0].request("echo", value)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("dtype", list(wire.DTYPES.values()))
def test_tensors_arrive_as_they_were(line, dtype):
    for value in (torch.randn(3, 2) * 3, torch.zeros(0, 4), torch.tensor(1.5), torch.ones(1, 3).expand(4, 3), torch.arange(6.0).reshape(2, 3).T):  # fmt: skip
        value = value.to(dtype)
        got = line[0].request("echo", value)
        assert got.dtype == dtype and got.shape == value.shape and torch.equal(got, value)


@pytest.mark.parametrize(
    "value",
    [
        *(np.array(2).astype(d)[()] for d in ("f2", "f4", "f8", "i1", "i4", "u8", "?", "c8", ">f4")), np.longdouble(0.1),
        *(np.full(s, 0.5, "f4") for s in ((), (1,), (1, 1), (2,), (0,))), np.array([True]), np.array(Fraction(1, 2)), np.float64("nan"),
        torch.tensor(0.5), torch.tensor([0.5], dtype=torch.bfloat16), torch.tensor(True), torch.ones(2), torch.ones(1, requires_grad=True),
        True, 10**30, Fraction(1, 3), Decimal("0.1"), Decimal("nan"), 1 + 0j, "0.5", [0.5], (0.5,), None, signal.SIGHUP, object(),
    ],
    ids=lambda v: re.sub(r" at 0x\w+", "", f"{type(v).__name__} {v!r}"[:40]),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_what_the_checks_take_for_a_number_is_one_behind_the_line(line, value):
    def verdict(v, read):
        try:
            got = read(v)
            return float(got.sum() if isinstance(got, torch.Tensor) else got).hex()
        except (core.Wrong, core.NotAttempted) as said:
            return type(said), re.sub("0x[0-9a-f]+", "", str(said))

    got = line[0].request("echo", value)
    for read in (core.number, partial(core.tensor, shape=(1,))):
        assert verdict(got, read) == verdict(value, read)


def test_arrays_arrive_as_they_were(line):
    for value in (
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 4), "i2"),
        np.array([1 + 2j], "c8"),
        np.float32(0.1),
    ):
        got = line[0].request("echo", value)
        assert type(got) is type(value) and got.dtype == value.dtype and np.array_equal(got, value)


def test_changes_of_arguments_come_back(line):
    here, there = line

    def change(x, generator):
        x += 1
        return torch.rand(2, generator=generator)

    there._operations["make"] = lambda: change
    f = here.request("make")
    x, g = torch.zeros(2), torch.Generator().manual_seed(4)
    first, second = f(x, g), f(x, g)
    want = torch.Generator().manual_seed(4)
    assert x.tolist() == [2, 2]
    assert torch.equal(first, torch.rand(2, generator=want))
    assert torch.equal(second, torch.rand(2, generator=want))


def test_gradients_flow_through_both_sides(line):
    here, there = line
    w, v = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    there._operations["make"] = lambda: lambda f, x: (w * f(x)).sum()
    loss = here.request("make")(lambda x: v * x**2, torch.tensor([1.0, 2.0]))
    loss.backward()
    assert w.grad == 10 and v.grad == 15


def test_a_gradient_may_be_asked_for_by_name_on_either_side(line):
    """As `torch.autograd.grad` does, whose graph must hold what came over the line; each path counts once, in `backward` too."""

    def through(f, u, x):
        y = f(x * u)
        return (y * u + f(y)).sum()

    def graph(ask):
        w, u, unused = (torch.tensor(v, requires_grad=True) for v in (3.0, 2.0, 1.0))
        value = ask(lambda f, x: through(f, u, x))(lambda x: w * x**2, torch.tensor([1.0, 2.0]))
        return value, w, u, unused

    def lent(function):
        there._operations["make"] = lambda: function
        return here.request("make")

    here, there = line
    for grads in (
        lambda value, w, u, unused: torch.autograd.grad(value, [w, unused], allow_unused=True),
        lambda value, w, u, unused: (value.backward(), w.grad, u.grad, unused.grad)[1:],
    ):
        assert grads(*graph(lent)) == grads(*graph(lambda f: f))
    curvatures = []
    for value, w, u, _ in (graph(lent), graph(lambda f: f)):
        (slope,) = torch.autograd.grad(value, w, create_graph=True)
        slope.backward()
        curvatures.append((w.grad, u.grad))
    assert curvatures[0] == curvatures[1] and curvatures[0][1] != 0


A = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
X, V, T = (
    torch.tensor([[0.1, 0.7], [-1.2, 0.4], [0.9, 2.0]]),
    torch.tensor([[1.0, -0.5], [0.2, 2.0], [0.0, 1.0]]),
    torch.tensor([0.3, 0.1, 2.0]),
)
ONES = torch.ones_like(T)


def curved(x):
    return (x @ A).sin() * (x**3).sum(-1, keepdim=True)


def of_level(x, t):
    return (x @ A).sin() * (2 * t)[:, None].cos() + x * x


def twice(f, x):
    """A function of a function."""
    return (f(x) * f(2 * x)).sum()


def along(f, x, v):
    """It takes derivatives itself."""
    return torch.func.jvp(f, (x,), (v,))


DERIVATIVES = {
    "jvp": (of_level, lambda f: torch.func.jvp(f, (X, T), (V, ONES))),
    "jvp, under no_grad": (of_level, torch.no_grad()(lambda f: torch.func.jvp(f, (X, T), (V, ONES)))),
    "jvp, of a function without gradients": (torch.no_grad()(of_level), lambda f: torch.func.jvp(f, (X, T), (V, ONES))),
    "vjp": (of_level, lambda f: torch.func.vjp(f, X, T)[1](V)),
    "grad": (of_level, lambda f: torch.func.grad(lambda x: f(x, T).sum())(X)),
    "grad of grad": (of_level, lambda f: torch.func.grad(lambda t: torch.func.grad(lambda x: f(x, t).square().sum())(X).sum())(T)),
    "vmap": (curved, lambda f: torch.vmap(f)(X)),
    "vmap of vmap": (curved, lambda f: torch.vmap(torch.vmap(f))(torch.stack([X, V]))),
    "vmap of grad": (curved, lambda f: torch.vmap(torch.func.grad(lambda x: f(x).sum()))(X)),
    "grad of vmap": (curved, lambda f: torch.func.grad(lambda x: torch.vmap(f)(x).sum())(X)),
    "vmap of jvp": (curved, lambda f: torch.vmap(lambda x, v: along(f, x, v))(X, V)),
    "jvp of vmap": (curved, lambda f: along(torch.vmap(f), X, V)),
    "grad of jvp": (curved, lambda f: torch.func.grad(lambda x: along(f, x, V)[1].sum())(X)),
    "jvp of grad": (curved, lambda f: along(torch.func.grad(lambda x: f(x).sum()), X, V)),
    "jacrev": (curved, lambda f: torch.func.jacrev(f)(X[0])),
    "jacfwd": (curved, lambda f: torch.func.jacfwd(f)(X[0])),
    "jacrev of jacrev": (curved, lambda f: torch.func.jacrev(torch.func.jacrev(f))(X[0])),
    "hessian": (curved, lambda f: torch.func.hessian(f)(X[0])),
    "grad of what vmap weighs": (curved, lambda f: torch.vmap(lambda u: torch.func.grad(lambda x: (u * f(x)).sum())(X[0]))(V)),
    "grad of what a function closes over": (twice, lambda f: torch.func.grad(lambda w: f(lambda x: w * x.sin(), X))(T[0])),
    "and of its argument": (twice, lambda f: torch.func.grad(lambda w: f(lambda x: w * x.sin(), w * X))(T[0])),
    "twice of what it closes over": (twice, lambda f: torch.func.grad(torch.func.grad(lambda w: f(lambda x: w**3 * x, X)))(T[0])),
    "jvp of a function of a function": (twice, lambda f: along(lambda x: f(torch.sin, x), X, V)),
    "vmap of a function of a function": (twice, lambda f: torch.vmap(lambda x: f(torch.sin, x))(X)),
    "jvp on the other side": (along, lambda f: f(lambda x: x.sin() * x.sum(), X, V)),
    "jvp on the other side, without gradients": (along, lambda f: f(torch.no_grad()(curved), X, V)),
    "jvp on the other side, under vmap": (along, lambda f: torch.vmap(lambda x, v: f(lambda x: x.sin() * x.sum(), x, v))(X, V)),
    "several values": (lambda x: {"a": x.sin(), "b": [x.argmax(), x**2]}, lambda f: torch.vmap(f)(X)),
    "double backwards": (curved, lambda f: torch.autograd.functional.jvp(f, X, V)),
    "second derivatives by autograd": (curved, lambda f: torch.autograd.functional.hessian(lambda x: f(x).sum(), X[0])),
}  # fmt: skip


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_go_through_the_line_as_if_it_were_not_there(line, name, opaque):
    here, there = line
    there.opaque = opaque
    function, of = DERIVATIVES[name]
    there._operations["make"] = lambda: function
    got, want = tree_flatten(of(here.request("make"))), tree_flatten(of(function))
    assert got[1] == want[1]
    for a, b in zip(got[0], want[0], strict=True):
        torch.testing.assert_close(a, b)


def test_what_a_function_closes_over_goes_no_further_forwards_and_that_is_said(line):
    here, there = line
    there._operations["make"] = lambda: twice
    f = here.request("make")
    for transformed in (lambda value: torch.vmap(value)(T), lambda value: along(value, T[0], T[0])):
        with pytest.raises(TypeError, match=r"closes over a tensor .* give it as an argument"):
            transformed(lambda w: f(lambda x: w * x, X))


@pytest.mark.parametrize(
    ("form", "tensors", "ways"),
    [
        ([[derivatives.SLOT], {}], [X], [["none"]]),
        ([[derivatives.SLOT], {}], [X], [["jvp", [7]]]),
        ([[derivatives.SLOT], {}], [X], [["vmap", ["x"], "error"]]),
        ([[derivatives.SLOT], {}], [X], [["vjp", 10**9, [0]]]),
        ([[derivatives.SLOT] * 2, {}], [X], []),
        (derivatives.SLOT, [X], []),
        (None, None, None),
    ],
)
def test_a_forged_transform_is_an_error_like_any_other(line, form, tensors, ways):
    here, there = line
    there.opaque = True
    there._operations["make"] = lambda: torch.sin
    f = here.request("make")
    with pytest.raises(RuntimeError, match="^the function that was handed in could not do this$"):
        here.request("transformed", 1, form, tensors, ways)
    assert torch.equal(f(X), X.sin())


def test_transforms_of_a_function_have_an_end(line):
    """Each may double what is to be computed."""
    here, there = line
    there._operations["make"] = lambda: torch.sin

    def derivative(f, n):
        return (lambda x: along(derivative(f, n - 1), x, torch.ones(()))[1]) if n else f

    got = derivative(here.request("make"), derivatives.MOST)(T[0])
    torch.testing.assert_close(got, -T[0].sin())
    with pytest.raises(ValueError, match="too many"):
        derivative(here.request("make"), derivatives.MOST + 1)(T[0])
    assert derivatives.MOST == 6, "the derivative above is of the sixth order"


def test_objects_of_an_answer_keep_their_attributes_and_those_of_the_grader_none(line):
    here, there = line
    there._operations["make"] = lambda: SimpleNamespace(scale=0.25, decoder=lambda z: z**3)
    assert here.request("make").decoder(torch.tensor(2.0)) == 8 * here.request("make").scale * 4
    with pytest.raises(AttributeError):
        _ = here.request("make").missing
    there.opaque = True
    with pytest.raises(AttributeError):
        _ = here.request("make").scale
    a, b = socket.socketpair()
    with a, b, pytest.raises(wire.Forged):
        b.send(wire.message({"do": "attribute", "value": [1, "scale"]}))
        wire.Peer(a.fileno(), opaque=True)._receive()


def test_what_is_no_value_is_only_described(line):
    class Fancy:
        def __reduce__(self):
            raise AssertionError("never pickled")

        def __repr__(self):
            return "fancy <b>"

    got = line[0].request("echo", Fancy())
    assert isinstance(got, wire.Remote)
    line[1]._operations["make"] = Fancy
    got = line[0].request("make")
    assert type(got).__name__ == "Fancy" and repr(got) == "fancy <b>"
    with pytest.raises(TypeError):
        float(got)


def test_functions_of_the_grader_look_alike(line):
    """Nothing but what it returns tells a defect from what is right: an answer must not read names."""

    def right(x):
        """Right."""
        return x

    def defect(x):
        pass

    here, there = line
    there.opaque = True
    seen = []
    for function in (right, defect, partial(right), type("Defect", (), {"__call__": lambda *_: 1})()):
        there._operations["make"] = lambda function=function: function
        got = here.request("make")
        seen.append((repr(got), type(got).__name__, core.empty(got), sorted(vars(type(got))), vars(got)))
    assert seen == seen[:1] * 4 and not seen[0][2]


def test_errors_of_what_is_lent_say_nothing_and_those_of_the_answer_everything(line):
    """A learner's own assertion, in a function that the lent one calls, comes back as it was."""
    here, there = line
    there.opaque = True

    def defect(f):
        return f() if callable(f) else {"the defective one": 1}[f]

    def asserts():
        raise AssertionError("look at σ")

    there._operations["make"] = lambda: defect
    lent = here.request("make")
    said = set()
    for given in [("x",), (), (1, 2, 3), ([],)]:
        with pytest.raises(RuntimeError) as caught:
            lent(*given)
        said.add((type(caught.value).__name__, str(caught.value)))
    assert said == {("RuntimeError", "the function that was handed in could not do this")}
    with pytest.raises(AssertionError, match="look at σ"):
        lent(asserts)


@pytest.mark.parametrize(("spent", "slept"), [(0, 0.002), (0.0011, 0.0009), (0.003, 0.013), (0.1, 0.028), (0.3, 0.084)])  # fmt: skip
def test_the_time_of_what_is_lent_is_counted_in_quanta(spent, slept, line, monkeypatch):
    here, there = line
    there.opaque = True
    waits, now = [], [0.0]

    def work():
        now[0] += spent

    there._operations["make"] = lambda: work
    monkeypatch.setattr(wire.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(wire.time, "sleep", waits.append)
    here.request("make")()
    assert waits[-1] == pytest.approx(slept % 0.002 if slept == 0.002 else slept) or waits[
        -1
    ] == pytest.approx(slept)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(10**6, 10**6), torch.zeros(10**8, device="meta"), torch.zeros(2, dtype=torch.float64).expand(2**22, 2), "x" * 10**8,
        [0] * 10**6, [torch.zeros(1).expand(10**6)] * 9, ["x" * 10**5] * 20, [10**4000] * 10**4, dict.fromkeys(range(10**6)),
    ],
    ids=["broadcast", "meta", "pairs", "text", "list", "tensors", "texts", "digits", "dict"],
)  # fmt: skip
def test_a_message_that_is_too_large_is_not_even_built(value):
    a, b = socket.socketpair()
    with a, b:
        peer, begun = wire.Peer(a.fileno()), time.process_time()
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="too large"):
                peer.request("echo", value)
            assert tracemalloc.get_traced_memory()[1] < 2 * wire.LARGEST
        finally:
            tracemalloc.stop()
        assert time.process_time() - begun < 20


def nested(depth, kind=list):
    value = 1.0
    for _ in range(depth):
        value = {"x": value} if kind is dict else kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, dict])
@pytest.mark.parametrize("depth", [wire.DEEPEST + 1, 10**4])
def test_lists_within_lists_have_an_end(kind, depth, line):
    assert line[0].request("echo", nested(wire.DEEPEST - 5, kind)) == nested(wire.DEEPEST - 5, kind)
    with pytest.raises(ValueError, match="too deep"):
        line[0].request("echo", nested(depth, kind))
    line[1]._operations["make"] = lambda: nested(depth, kind)
    with pytest.raises(ValueError, match="too deep"):
        line[0].request("make")


def test_who_does_not_read_does_not_hold_up_the_grader():
    a, b = socket.socketpair()
    peer = wire.Peer(a.fileno())
    peer.deadline = time.monotonic() + 0.2
    with pytest.raises(core._TooLong):
        peer.request("echo", torch.zeros(10**6))
    assert peer.late
    a.close()
    b.close()


def test_errors_keep_their_kind(line):
    class OwnError(AssertionError):
        pass

    def fail():
        raise OwnError("see\nhere")

    line[1]._operations["make"] = lambda: fail
    with pytest.raises(AssertionError, match="see") as caught:
        line[0].request("make")()
    assert type(caught.value).__name__ == "OwnError"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 16,
        b"\xff" * 40,
        (5).to_bytes(8, "big") + bytes(8) + b"[1,2]",
        wire.message({"end": "", "signal": 999, "value": None}),
        wire.message({"do": "nothing of the kind", "value": None}),
        wire.message({"do": ["call"], "value": None}),
        wire.message(
            {"value": {"is": "tensor", "dtype": "int8", "shape": [1] * 100, "blob": 0, "key": None}}, [b"x"]
        ),
        wire.message(
            {"value": {"is": "tensor", "dtype": "int8", "shape": [2**53, 2**53], "blob": 0, "key": None}},
            [b""],
        ),
        (2**20 + 1).to_bytes(8, "big") + bytes(8) + b" ",
        bytes(8) + (2**62).to_bytes(8, "big"),
    ],
)
def test_rubbish_is_no_message(data):

    a, b = socket.socketpair()
    os.write(b.fileno(), data)
    b.close()
    with pytest.raises(wire.Forged):
        wire.Peer(a.fileno())._receive()
    a.close()


# --- folders and notebooks -----------------------------------------------------------------------


def test_who_handed_in_what(tmp_path):
    for name in (
        "Ana_01_noise.ipynb",
        "Bo (2).ipynb",
        "Bo.ipynb",
        "bo.ipynb.txt",
        ".DS_Store",
        ".hidden.ipynb",
    ):
        (tmp_path / name).touch()
    for name in ("Müller Jörg_4711_assignsubmission_file_/w 1.ipynb", "Eve/.ipynb_checkpoints/x.ipynb", "Eve/data.csv", "Eve/.mine.ipynb"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, left_out = folder.submissions(tmp_path, "01_noise")
    assert {s: [f.name for f in there.files] for s, there in found.items()} == {
        "Ana": ["Ana_01_noise.ipynb"],
        "Bo": ["Bo (2).ipynb", "Bo.ipynb"],
        "Eve": ["data.csv"],
        "Müller Jörg": ["w 1.ipynb"],
        "bo.ipynb": ["bo.ipynb.txt"],
    }
    assert left_out == [".hidden.ipynb"] and found["Eve"].remarks == ["left out, since hidden: .mine.ipynb"]


@pytest.mark.parametrize(
    ("names", "students"),
    [
        (["Ana P_1_assignsubmission_file_", "Ana P_2_assignsubmission_file_"], {"Ana P (1)": "1", "Ana P (2)": "2"}),
        (["Ana P_1_assignsubmission_file_", "Ana P"], {"Ana P (1)": "1", "Ana P": ""}),
        (["perezana_7_91_w.ipynb", "perezana_LATE_8_92_w-1.ipynb"], {"perezana (7)": "7", "perezana (8)": "8"}),
        (["perezana_7_91_w.ipynb", "perezana_7_95_more.ipynb"], {"perezana": "7"}),
        (["ANA P_1_assignsubmission_file_", "ana p_2_assignsubmission_file_"], {"ANA P (1)": "1", "ana p (2)": "2"}),
        (["a\nb.ipynb", "a\tb.ipynb"], {"a\\x0ab": "", "a\\x09b": ""}),
    ],
)  # fmt: skip
def test_two_students_of_one_name_are_two(names, students, tmp_path):
    for name in names:
        (tmp_path / name).touch() if name.endswith(".ipynb") else (tmp_path / name).mkdir()
    found, _ = folder.submissions(tmp_path, "01_noise")
    assert {s: there.number for s, there in found.items()} == students


def test_a_student_of_very_many_files_is_one_student(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MOST_FILES", 20)
    for i in range(25):
        (tmp_path / "Ana" / str(i)).mkdir(parents=True)
        (tmp_path / "Ana" / str(i) / "w.ipynb").touch()
    found, _ = folder.submissions(tmp_path, "01_noise")
    assert len(found["Ana"].files) == folder.MOST_NOTEBOOKS
    assert [r.partition(",")[0] for r in found["Ana"].remarks] == [
        "more than 20 files",
        "more than 10 notebooks",
    ]


def test_grades_are_of_the_checks_that_gave_them(tmp_path, monkeypatch):
    """Who was graded by other checks is graded again."""
    handout, keys = Handout(HANDED_OUT), set()
    task = judge.Task(handout.exercises)
    keys.add(folder._key(task, handout, []))
    monkeypatch.setattr(core, "__file__", str(tmp_path / "core.py"))
    for text in ("one", "two"):
        (tmp_path / "ch01_noise.py").write_text(text)
        keys.add(folder._key(task, handout, []))
    assert len(keys) == 3


def test_pages_of_students_with_like_names_differ():
    long = ["漢" * 82, "漢" * 81 + "字", "é" * 120]
    pages = folder._pages(["a/b", "a:b", "A_b", "Ana Ü", *long])
    assert len({p.casefold() for p in pages.values()}) == 7 and pages["Ana Ü"] == "Ana Ü"
    assert max(len(f".{p}.html.4194304.tmp".encode()) for p in pages.values()) < 255


def test_only_regular_files_of_bounded_size_are_read(tmp_path, monkeypatch):
    paths = {name: tmp_path / name for name in ("link", "pipe", "socket", "folder", "large")}
    paths["link"].symlink_to(HANDED_OUT)
    os.mkfifo(paths["pipe"])
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    paths["folder"].mkdir()
    paths["large"].write_bytes(bytes(101))
    monkeypatch.setattr("cdedu.course.grading.notebooks.LARGEST", 100)
    for name, path in [*paths.items(), ("device", Path("/dev/zero"))]:
        with pytest.raises(
            ValueError, match="link" if name == "link" else "MB" if name == "large" else "no regular file"
        ):
            read_notebook(path)


@pytest.mark.parametrize(
    "source",
    ["sigma_double , " * 50_000 + "+", "a=" * 10**5, "\n=" * 10**5, "def " * 10**5, " " * 10**6, "x :" * 10**5 + "= 1"],
)  # fmt: skip
def test_names_are_looked_for_in_time_that_grows_with_the_cell(source):
    begun = time.process_time()
    assert not notebooks._defines(source, ("sigma_double", "settled_loss"))
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("source", "defines"),
    [
        ("n = 1", True), ("n=1", True), ("a, n = 1, 2", True), ("n: float = 3", True), ("n: int", False), ("def n(x):", True), ("class n:", True),
        ("%%time\nn = 1", True), ("n == 1", False), ("  n = 1", False), ("f(n=1)", False), ("nn = 1", False), ("m = n", False), ("def nn(n):", False),
        ("m = n = 1", True), ("(m, n) = 1, 2", True), ("async def n():", True), ("m = n == 1", False), ("m = lambda n=1: n", False), ("n[m] = 1", False),
    ],
)  # fmt: skip
def test_a_cell_defines_what_it_gives_at_its_top_level(source, defines):
    assert notebooks._defines("import x\n" + source, ("n",)) is defines


@pytest.mark.parametrize(
    ("notebook", "submissions", "more", "words"),
    [
        (ROOT / "book/undergraduate/01_noise.ipynb", ".", {}, "asks no exercise"),
        (HANDED_OUT, "nowhere", {}, "there is no folder nowhere"),
        (HANDED_OUT, ".", {}, "there is nothing in"),
        (HANDED_OUT, ".", {"hidden": "no.py"}, "no file no.py"),
        (HANDED_OUT, ".", {"jobs": 0}, "jobs: 1 to 256 are possible, not 0"),
        ("missing.ipynb", ".", {}, "missing.ipynb cannot be read"),
    ],
)
def test_what_cannot_be_graded_is_said_before_any_work(
    notebook, submissions, more, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        grade_folder(notebook, submissions, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_results_do_not_go_among_the_submissions(tmp_path):
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": []}))
    with pytest.raises(ValueError, match="another --out"):
        grade_folder(HANDED_OUT, tmp_path, tmp_path / "out")


def test_results_that_cannot_be_written_are_said_with_a_remedy(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text(json.dumps({"cells": []}))
    (tmp_path / "b").write_text("in the way")
    for out in (tmp_path / "b", tmp_path / "b" / "grades"):
        with pytest.raises(
            OSError, match=f"cannot write {out}: a part of this path is a file, .*choose another folder"
        ):
            grade_folder(HANDED_OUT, tmp_path / "in", out)


def test_the_command_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    from cdedu import cli

    monkeypatch.setattr(sys, "argv", ["cdedu", "grade", str(HANDED_OUT), str(tmp_path), "--out", "grades"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"cdedu: there is nothing in {tmp_path}; put one notebook a student there, or one folder a student\n"  # fmt: skip


@pytest.mark.parametrize(
    ("option", "words"),
    [("--seconds=-1", "--seconds = -1, but it must be from 1 to 86,400"), ("--seconds=0", "--seconds = 0"), ("--seconds=100000", "to 86,400"), ("--memory=0", "from 1 to 1,048,576"), ("--jobs=-2", "from 1 to 256")],
)  # fmt: skip
def test_options_of_the_command_have_their_range(option, words, tmp_path, monkeypatch, capsys):
    from cdedu import cli

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").touch()
    monkeypatch.setattr(sys, "argv", ["cdedu", "grade", str(HANDED_OUT), str(tmp_path / "in"), "--out", str(tmp_path / "out"), option])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_graders_own_trouble_is_tried_again(tmp_path, monkeypatch):
    handed_in, out = tmp_path / "in", tmp_path / "out"
    handed_in.mkdir()
    (handed_in / "a.ipynb").write_text("")

    def graded(todo, *_):
        for work in todo:
            work.graded, work.failed = [judge.Verdicts(remarks=["no"])], True
            yield work, ""

    monkeypatch.setattr(folder, "graded", graded)
    for _ in range(2):
        assert grade_folder(HANDED_OUT, handed_in, out, progress=False)[0].remarks == ["no"]
    assert not list((out / "state").glob("*.json"))


def test_without_namespaces_nobody_is_graded_unless_at_ones_own_risk(monkeypatch):
    here, there = socket.socketpair()
    monkeypatch.setattr(judge.Judge, "_leaks", lambda self: "network is possible")
    task = judge.Task(tuple(POINTS))
    with here, there:
        there.send(b"!!")
        with (
            pytest.raises(OSError, match="network is possible.*docker.*Colab.*--own-risk"),
            judge.Judge(task, control=here.dup()),
        ):
            pass
        with judge.Judge(task, own_risk=True, control=here.dup()) as made:
            assert made.protection.startswith("At your own risk")
            assert "network is possible" in made.protection


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("canvas", [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "01_noise"], ["    Points Possible", "", "", "", "", str(FULL)], ["Zoë", "7", "", "", "", "1"]]),
        ("moodle", [["Identifier", "Full name", "Grade", "Maximum grade", "Last modified (grade)"], ["Participant 7", "Zoë", "1", str(FULL), ""]]),
    ],
)  # fmt: skip
def test_totals_as_learning_management_systems_import_them(kind, rows):
    grades = [
        results.Grade("Zoë", "z.ipynb", {"noise-double": core.Result("right"), "noise-floor": core.Result("wrong")}, number="7"),
        results.Grade("nobody knows", "n.ipynb", {"noise-double": core.Result("right")}),
    ]  # fmt: skip
    assert list(csv.reader(results.gradebook(Handout(HANDED_OUT), grades, kind).splitlines())) == rows


# --- who watches the grader ----------------------------------------------------------------------


def played(monkeypatch, script):
    """The processes that grade play ``script``: file → what each process that gets it says, one list a process; then it ends."""
    from multiprocessing import Pipe
    from threading import Thread

    def start(self, lines, forker, setting):
        self.line, theirs = Pipe()
        self.limits, self.protection, self.work, self.exercise = setting[1].limits, "", None, ""
        self.begun = time.monotonic()
        self.deadline = self.begun + 10

        def run():
            theirs.send(("ready", "played"))
            with contextlib.suppress(EOFError, OSError):
                while True:
                    file, known, _ = theirs.recv()
                    taken.append((file.name, dict(known)))
                    for said in script[file.name].pop(0):
                        if said == "ends":
                            return theirs.close()
                        if said == "silent":
                            time.sleep(0.5)
                            return theirs.close()
                        theirs.send(said)

        Thread(target=run, daemon=True).start()

    taken = []
    monkeypatch.setattr(workers, "Forker", lambda task: contextlib.nullcontext())
    monkeypatch.setattr(workers, "closing", lambda made: made)
    monkeypatch.setattr(workers._Worker, "__init__", start)
    monkeypatch.setattr(workers._Worker, "end", lambda self: self.line.close())
    monkeypatch.setattr(workers, "GRACE", 0.1)
    return taken


def watched(files, seconds=10.0, limits=LIMITS):
    task = judge.Task(tuple(POINTS), limits=limits)
    todo = [workers.Work(f, [Path(f)], seconds) for f in files]
    return {
        w.student: (w.graded[0], w.failed)
        for w, _ in workers.graded(todo, Handout(HANDED_OUT), task, True, 2)
    }


GRADED = ("graded", {"noise-double": core.Result("right")}, [])


def test_an_end_of_the_process_that_grades_costs_the_exercise_that_it_judged(monkeypatch):
    right = core.Result("right")
    taken = played(monkeypatch, {
        "bad": [[("told", "noise-double", None), ("told", "noise-double", right), ("told", "noise-floor", None), "ends"], [GRADED]],
        "good": [[GRADED]],
    })  # fmt: skip
    done = watched(["bad", "good"])
    assert [known for name, known in taken if name == "bad"][1].keys() == {"noise-double", "noise-floor"}
    known = next(known for name, known in taken if name == "bad" and known)
    assert known["noise-double"] == right and known["noise-floor"].key == "ended"
    assert not done["bad"][1] and not done["good"][1]


def test_a_process_that_grades_may_be_silent_no_longer_than_a_check_may_take(monkeypatch):
    limits = Limits(check_seconds=1)
    played(monkeypatch, {"bad": [[("told", "noise-floor", None), "silent"], [GRADED]], "good": [[GRADED]]})
    monkeypatch.setattr(workers._Worker, "told", _told_at_once(workers._Worker.told))
    begun = time.monotonic()
    assert set(watched(["bad", "good"], 100, limits)) == {"bad", "good"}
    assert time.monotonic() - begun < 5


def _told_at_once(told):
    def at_once(self, *facts):
        told(self, *facts)
        self.deadline -= 1

    return at_once


def test_who_ends_the_grader_twice_for_no_reason_is_one_row_and_tried_again(monkeypatch):
    played(monkeypatch, {"bad": [["ends"], ["ends"]], "good": [[GRADED]]})
    done = watched(["bad", "good"])
    verdicts, failed = done["bad"]
    assert failed and set(verdicts.results) == set(POINTS) and "could not be graded" in verdicts.remarks[0]
    assert not done["good"][1]


def test_a_class_whose_graders_do_not_start_is_said(monkeypatch):
    monkeypatch.setattr(judge.Judge, "__init__", _refuses)
    from multiprocessing import Pipe

    here, there = Pipe()
    workers._work(there, None, [], Handout(HANDED_OUT), judge.Task(tuple(POINTS)), False, "/tmp")
    event, error = here.recv()
    assert event == "refused" and "no namespaces" in str(error)


def _refuses(*_):
    raise OSError("no namespaces")
