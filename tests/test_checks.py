"""The graders are graded: right answers pass, wrong ones get their own diagnosis, the stub counts as not attempted."""

import contextlib
import copy
import inspect
import json
import pickle
import socket
import sys
from threading import Thread

import pytest
import torch

from cdedu.course import checks
from cdedu.course.checks import core
from scripts.book import exercises as script


@pytest.mark.parametrize("seeds", [4, pytest.param(script.SEEDS, marks=pytest.mark.weekly)])
@pytest.mark.parametrize("name", list(checks.exercises()))
def test_a_grader_tells_right_from_wrong(name, seeds):
    assert script.failures(checks.exercises()[name], seeds) == []


def test_the_derived_notebooks_are_in_step():
    assert list(script.problems()) == []


def test_a_changed_solution_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(script.FOLDERS, "solution", tmp_path)
    assert any("not in step" in what for what in script.problems())


def test_a_stub_keeps_nothing_of_the_solution():
    source = 'def f(x):\n    """Doc."""\n    ### BEGIN SOLUTION\n    return x + 1\n    ### STUB\n    # return x\n    ### END SOLUTION\n'
    assert script.stub(source) == 'def f(x):\n    """Doc."""\n    return x'
    assert script.solved(source) == 'def f(x):\n    """Doc."""\n    return x + 1'


def test_cells_with_outputs_count_as_run():
    """Else nbval refuses them: expected outputs stay in the student's version."""
    for path, text in script.versions():
        for cell in script.nbformat.reads(text, as_version=4).cells:
            assert not cell.get("outputs") or cell.execution_count, (path.name, cell.source)


def test_every_chapter_has_enough_exercises():
    for path in script.sources():
        cells = script.nbformat.read(path, as_version=4).cells
        enough = 4 if int(path.stem[:2]) <= 11 else 3
        assert sum("exercise" in c.metadata for c in cells) >= enough, path.name


@pytest.fixture
def task(monkeypatch):
    """An exercise that asks for x + 1."""
    monkeypatch.setattr(core, "_exercises", dict(checks.exercises()))

    def make(test):
        core.exercise("one", "One", "code", "easy", 1, answers=("f",), hints=("a", "b"))(test)

    monkeypatch.setattr(core, "exercises", lambda: core._exercises)
    make(lambda f, g: core.agree(core.call(f, torch.ones(2)), torch.tensor([2.0, 2.0])))
    return "one"


def test_check_prints_and_remembers(task, capsys):
    space = {"check": checks.check, "f": lambda x: x + 1}
    exec("check('one')", space)
    assert "✓ one: right." in capsys.readouterr().out and checks.passed("one")
    exec("check('one')", {"check": checks.check})
    out = capsys.readouterr().out
    assert "not attempted" in out and "`f`" in out and not checks.passed("one")


def test_hints_come_one_by_one(task, capsys):
    for _ in range(3):
        checks.hint("one")
    assert [line[-1] for line in capsys.readouterr().out.splitlines()] == ["a", "b", "b"]
    with pytest.raises(ValueError, match="hints 1 to 2, not 3"):
        checks.hint("one", 3)


def test_an_unknown_exercise_is_named():
    with pytest.raises(ValueError, match="no exercise 'nothing'; there are: "):
        checks.check("nothing")


def in_place(x):
    x += 1
    return x


@pytest.mark.parametrize(
    ("answer", "key", "words"),
    [
        (lambda x: x + 2, "value", "off by up to 1"),
        (lambda x: 3.0, "shape", r"shape \(\); it should be \(2,\)"),
        (lambda x: [2, 2], "type", "but it returns list"),
        (lambda x: x / 0, "nan", "aren't finite"),
        (in_place, "in place", "changes its input"),
        (lambda x: x.missing, "raised", "AttributeError"),
        (lambda x: nowhere, "raised", "doesn't exist yet.*from the top"),  # noqa: F821
        ("x + 1", "type", "should be a function"),
    ],
)
def test_bad_answers_get_a_sentence(task, answer, key, words):
    result = checks.grade(task, {"f": answer})
    assert (result.status, result.key) == ("wrong", key)
    assert __import__("re").search(words, result.message)


def test_an_endless_loop_is_stopped(task):
    def f(x):
        while True:
            pass

    assert checks.grade(task, {"f": f}, seconds=0.2).key == "endless"


@pytest.mark.parametrize("value", [None, ...])
def test_nothing_is_not_attempted(task, value):
    assert checks.grade(task, {"f": lambda x: value}).status == "not attempted"


def test_grading_leaves_the_global_generator_alone(task):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    checks.grade(task, {"f": lambda x: torch.rand(2)})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_test_that_asserts_nothing_is_not_attempted():
    def test(f):
        """Nothing yet."""

    with pytest.raises(core.NotAttempted):
        core.spots(test, {}, {})


def test_a_test_function_is_judged_by_what_it_lets_pass():
    right, defects = {"plus": lambda x: x + 1}, {"minus": (lambda x: x - 1, "It does not see the sign.")}

    def good(f):
        assert f(1) == 2

    def blind(f):
        assert f(0) ** 2 == 1

    def strict(f):
        raise AssertionError

    core.spots(good, right, defects)
    with pytest.raises(core.Wrong, match="sign"):
        core.spots(blind, right, defects)
    with pytest.raises(
        core.Wrong, match="fails code that's right: plus\\. This line did it: `raise AssertionError`\\. What"
    ):
        core.spots(strict, right, defects)


# --- what a grader hands out ---------------------------------------------------------------------


def handed_out():
    """Exercise → the functions that its test hands to the right answer, which looks at all of them."""
    out = {}

    def watched(name, value):
        if not callable(value) or isinstance(value, torch.Tensor):
            return value

        def spy(*given, **options):
            for f in [*given, *options.values()]:
                if callable(f) and not isinstance(f, torch.Tensor):
                    out.setdefault(name, {})[id(f)] = f
            return watched(name, value(*given, **options))

        return spy

    for name, task in checks.exercises().items():
        space = {answer: watched(name, script.solutions()[name][answer]) for answer in task.answers}
        assert core.judge(task, space, 1, 60).status == "right", name
    return {name: list(functions.values()) for name, functions in out.items()}


def raised(f, *given, **options):
    try:
        f(*given, **options)
    except Exception as error:
        return [[c.__name__ for c in type(error).__mro__], str(error), repr(error.args), sorted(vars(error))]
    return "nothing"


NAMES = ("__name__", "__qualname__", "__doc__", "__module__", "__wrapped__", "__defaults__", "__dict__", "func", "args", "keywords")  # fmt: skip
WAYS = {
    "repr": repr,
    "str": lambda f: f"{f} {f!s} {f!r:>9}",
    "type": lambda f: [(c.__name__, c.__qualname__, c.__module__, c.__doc__) for c in type(f).__mro__],
    "names": lambda f: [repr(getattr(f, name, None)) for name in NAMES],
    "class": lambda f: [repr(getattr(type(f), name, None)) for name in NAMES if name != "__dict__"],
    "attributes": lambda f: [dir(f), dir(type(f)), list(vars(f)), list(vars(type(f)))],
    "code": lambda f: [str(getattr(f.__code__, n)) for n in ("co_name", "co_names", "co_consts", "co_varnames", "co_filename", "co_firstlineno")],
    "signature": lambda f: str(inspect.signature(f)),
    "closure": lambda f: [type(c.cell_contents).__name__ for c in type(f).__call__.__closure__],
    "closed over": lambda f: [c.cell_contents for c in type(f).__call__.__closure__ if isinstance(c.cell_contents, int | str)],
    "size": lambda f: [sys.getsizeof(f), bool(f), callable(f), f == f],
    "pickle": lambda f: raised(pickle.dumps, f),
    "copy": lambda f: repr(copy.copy(f)),
    "number": lambda f: [raised(kind, f) for kind in (int, float, len, iter, hash)],
    "attribute": lambda f: raised(getattr, f, "nowhere"),
    "no arguments": raised,
    "many arguments": lambda f: raised(f, *[None] * 30),
    "a keyword": lambda f: raised(f, nowhere=1),
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="grading forks")
def test_functions_that_are_handed_out_differ_in_what_they_return_and_in_nothing_else():
    """Or a learner's test could read off which code is defective. As a submission sees them, across the line."""
    from cdedu.course.grading import wire

    def seen(function):
        ours, theirs = socket.socketpair()
        grader, learner = wire.Peer(ours.fileno(), opaque=True), wire.Peer(theirs.fileno())
        learner._operations["look"] = lambda f: {way: json.dumps(look(f)) for way, look in WAYS.items()}
        thread = Thread(target=lambda: raised_gone(learner))
        thread.start()
        try:
            return grader.request("look", function)
        finally:
            ours.close()
            thread.join(5)
            theirs.close()

    def raised_gone(learner):
        with contextlib.suppress(wire.Gone):
            learner.serve()

    handed = handed_out()
    assert {name for name, task in checks.exercises().items() if task.answers[0].startswith(("test_", "check_"))} <= set(handed)  # fmt: skip
    assert sum(map(len, handed.values())) > 90
    for name, functions in handed.items():
        first, *others = map(seen, functions)
        for other in others:
            assert not {way: (first[way], other[way]) for way in WAYS if first[way] != other[way]}, name
        assert "could not do this" in first["many arguments"], "or it would show how many it takes"
