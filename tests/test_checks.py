"""The graders are graded: right answers pass, wrong ones get their own diagnosis, the stub counts as not attempted."""

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
        enough = 4 if int(path.stem[:2]) <= 7 else 2 if path.stem[:2] in ("10", "11") else 3
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
        (lambda x: 3.0, "shape", r"shape \(\), expected is \(2,\)"),
        (lambda x: [2, 2], "type", "returns list"),
        (lambda x: x / 0, "nan", "not finite"),
        (in_place, "in place", "changes its input"),
        (lambda x: x.missing, "raised", "AttributeError"),
        (lambda x: nowhere, "raised", "does not exist yet.*from the top"),  # noqa: F821
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
    with pytest.raises(core.Wrong, match="refuses code that is right: plus"):
        core.spots(strict, right, defects)
