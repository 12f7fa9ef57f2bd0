"""Graders in a fresh process, as a student's first check; and the clock, which counts what the answer itself computes."""

import os
import sys
import threading
import time

import pytest
import torch

from cdedu.course import checks
from cdedu.course.checks import core
from scripts.book import cold
from scripts.book import exercises as script

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks for each answer")


def refused(names, load):
    outcomes = cold.cold(cold.jobs(names), load)
    expected = {name: 1 + sum(a.mark == "unusual" for a in script.answers()[name].right) for name in names}
    assert {name: sum(o.exercise == name for o in outcomes) for name in names} == expected
    assert sum(o.cold for o in outcomes) > 0.9 * len(outcomes), (
        "the set-up imports already what is to be met cold"
    )
    return [o for o in outcomes if not o.accepted]


@FORKS
def test_right_answers_are_accepted_as_a_students_first_check():
    """Those that lead to torch's late imports, from notebooks whose set-up has few."""
    assert refused(["points-score", "consistency-spy"], load=0) == []


@FORKS
@pytest.mark.weekly
def test_every_right_answer_is_accepted_as_a_students_first_check_on_a_busy_machine():
    assert refused(list(checks.exercises()), load=4) == []


@FORKS
def test_a_cold_run_says_what_was_refused():
    """It can fail: a wrong answer in the place of a right one, and a hint that nobody imported."""
    name = "noise-double"
    work = cold.jobs([name])
    work[0]["setup"][-1] = work[0]["setup"][-1].replace("check, hint, passed", "check, passed")
    work[0]["tasks"][0]["answers"] = [[0, ""], [1, "sigma_double = 2.0"]]
    first, second = cold.cold(work)
    assert first.printed.startswith("✓") and "NameError" in first.printed and not first.accepted
    assert second.printed.startswith("✗") and not second.accepted


def judged(answer, seconds, reference=0.0):
    """The verdict on a function that should return 2, by a test that computes for a while itself."""

    def test(f, g):
        burn(reference)
        core.agree(core.call(f), torch.tensor(2.0))
        return ""

    task = core.Exercise("one", "One", "predict", "easy", 1, ("f",), ("a", "b"), test)
    return core.judge(task, {"f": answer}, seconds=seconds)


def burn(seconds):
    """Compute for this long, in processor time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def sleeps():
    time.sleep(0.6)
    return 2.0


def imports():
    import slow_to_import

    return slow_to_import.last


def computes():
    burn(0.1)
    return 2.0


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """A module that computes while it is imported, as sympy does."""
    lines = (
        "import time",
        "end = time.thread_time() + 0.6",
        "while time.thread_time() < end: pass",
        "last = 2.0",
    )
    (tmp_path / "slow_to_import.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("slow_to_import", None)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(sleeps, 0), (imports, 0), (computes, 0.6)],
    ids=["sleeps", "imports", "after a reference"],
)
def test_only_what_the_answer_itself_computes_counts(answer, reference, slow_module):
    assert judged(answer, 0.3, reference).status == "right"


def test_an_import_is_never_cut_short(slow_module):
    """Not even when the answer has run out of time: the module would stay half made until a restart."""

    def answer():
        burn(0.2)
        value = imports()
        burn(5)
        return value

    assert judged(answer, 0.3).key == "endless"
    assert sys.modules["slow_to_import"].last == 2.0


def test_a_busy_machine_is_not_an_answers_fault():
    """Four other threads compute meanwhile: the answer takes several times as long, and no more of the processor."""
    stop = threading.Event()
    others = [
        threading.Thread(target=lambda: [burn(0.01) for _ in iter(stop.is_set, True)]) for _ in range(4)
    ]
    for other in others:
        other.start()
    try:
        begun = time.perf_counter()
        assert judged(computes, 0.3).status == "right"
        assert time.perf_counter() - begun > 0.3
    finally:
        stop.set()
        for other in others:
            other.join()


def test_an_answer_that_waits_for_ever_is_stopped_and_told_so():
    def answer():
        while True:
            time.sleep(0.01)

    result = judged(answer, 0.05)
    assert result.key == "endless" and "wasn't computing" in result.message


def test_nothing_is_thrown_after_the_verdict():
    """Answers that end just when their time does."""
    seen = set()
    for _ in range(30):
        seen.add(judged(lambda: (burn(0.02), 2.0)[1], 0.02).status)
        burn(0.01)
    assert seen <= {"right", "wrong"}


@pytest.mark.parametrize(
    ("judge", "value", "right"),
    [
        (lambda v: core.choose(v, "c", {"a": "no"}), "(c)", True),
        (lambda v: core.choose(v, "c", {"a": "no"}), "C.", True),
        (lambda v: core.choose(v, "c", {"a": "no"}), "(c) it rises", False),
        (lambda v: core.choose(v, "c", {"a": "no"}), "", False),
        (lambda v: core.near(core.number(v), 2.0), torch.tensor([2.0]).numpy(), True),
        (lambda v: core.near(core.number(v), 2.0), torch.tensor([2.0, 2.0]).numpy(), False),
    ],
)
def test_predictions_may_be_written_in_several_ways(judge, value, right):
    if right:
        judge(value)
    else:
        with pytest.raises(core.Wrong):
            judge(value)


@pytest.mark.parametrize("name", list(checks.exercises()))
def test_every_exercise_has_an_unusual_right_answer_and_a_fragile_wrong_one_or_a_reason(name, monkeypatch):
    """Also: the self-test notices if they are taken away."""
    prepared = script.answers()[name]
    fragile = checks.exercises()[name].kind != "predict" and name not in script.NOT_FRAGILE
    assert any(a.mark == "unusual" for a in prepared.right)
    assert any(a.mark == "fragile" for a in prepared.wrong) == fragile
    plain = script.Answers(*([a for a in kept if not a.mark] for kept in (prepared.right, prepared.wrong)))
    monkeypatch.setitem(script._answers, name, plain)
    found = " ".join(script.lacking(checks.exercises()[name]))
    assert "unusual" in found and ("fragile" in found) == fragile


def test_only_code_may_have_no_fragile_answer():
    assert set(script.NOT_FRAGILE) < {n for n, t in checks.exercises().items() if t.kind != "predict"}
    assert all(script.NOT_FRAGILE.values()) and len(script.NOT_FRAGILE) < 6
