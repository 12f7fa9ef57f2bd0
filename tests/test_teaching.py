"""The teaching plans name what exists, and every idea that the course promises has its row in the guide complete."""

from typing import Any

import book_contents
import book_ideas
import book_teaching
import pytest


def pages(track: str) -> list[str]:
    """The chapters on which a plan has classes."""
    return [page for one in book_teaching.read()[track] for page in one["chapters"]]


LENGTH = {"undergraduate": 75, "postgraduate": 90}


def test_the_plans_are_in_step_with_the_book() -> None:
    assert book_teaching.problems() == []


@pytest.mark.parametrize("track", book_teaching.TRACKS)
def test_each_class_has_its_minutes_and_each_chapter_its_class(track: str) -> None:
    plan = book_teaching.read()[track]
    assert {book_teaching.length(one) for one in plan} == {LENGTH[track]}
    taught = set(pages(track))
    chapters = {page[5:] for page in book_contents.pages() if page.startswith(f"book/{track}/")}
    assert chapters <= taught, f"no class on {chapters - taught}"


@pytest.mark.parametrize("track", book_teaching.TRACKS)
def test_no_exercise_is_left_out_or_done_twice(track: str) -> None:
    done = [
        n for one in book_teaching.read()[track] for n in (*one["exercises"], *book_teaching.at_home(one))
    ]
    assert len(set(done)) == len(done)
    sets = {page.rpartition("/")[2] for page in pages(track) if page.startswith(track)}
    sets = {name for name in sets if f"exercises/{name}" in book_contents.pages()}
    assert {n for n, where in book_ideas.sets().items() if where in sets} - set(done) == set()


def test_the_guide_has_a_row_for_every_idea() -> None:
    for track in book_teaching.TRACKS:
        table = book_teaching.table(track)
        for row in book_ideas.read():
            if row["track"] == track:
                assert row["idea"] in table
            if row["track"] == track and row.get("core"):
                part = table[table.index(row["idea"]) :].partition("\n* - ")[0]
                assert "in class" in part and part.count("`") > 2


GOOD: dict[str, Any] = {
    "title": "T",
    "week": 1,
    "chapters": ["undergraduate/01_noise"],
    "before": "",
    "goals": [],
    "steps": [],
    "exercises": [],
    "home": [],
    "notes": [],
}


EMPTY: dict[str, Any] = {"undergraduate": [], "postgraduate": [], "machines": {}, "claims": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": [[10, "x", "No such idea"]]}, "'T': book/ideas.yml has no idea 'No such idea'"),
        ({"steps": [["ten", "x"]]}, "'T': a step is [minutes, what, idea], not ['ten', 'x']"),
        ({"exercises": ["nothing"]}, "'T': there is no exercise 'nothing'"),
        ({"notes": [{"at": "Nowhere", "ask": "?"}]}, "undergraduate/01_noise has no section 'Nowhere'"),
    ],
)
def test_a_slip_in_a_plan_is_named(monkeypatch: pytest.MonkeyPatch, change: Any, words: str) -> None:
    monkeypatch.setattr(book_teaching, "read", lambda: EMPTY | {"undergraduate": [GOOD | change]})
    assert any(words in what for what in book_teaching.problems())


def test_an_idea_without_quiz_or_minutes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"track": "undergraduate", "idea": "I", "core": True, "taught": ["x"], "exercises": []}]
    monkeypatch.setattr(book_ideas, "read", lambda: rows)
    found = book_teaching.problems()
    assert "no question of cdedu/course/quiz asks for 'I'" in found
    assert "no class of book/teaching.yml spends minutes on 'I'" in found


def test_an_idea_may_lack_exercises_while_its_chapter_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"track": "postgraduate", "idea": "I", "taught": ["postgraduate/99_never"], "exercises": []}
    monkeypatch.setattr(book_ideas, "read", lambda: [row])
    assert not [what for what in book_ideas.problems() if "'I'" in what]
    row["taught"] = ["undergraduate/01_noise"]
    assert "book/ideas.yml: 'I' needs a chapter and an exercise" in book_ideas.problems()


def test_a_claim_that_names_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = {"claim": "C", "found": "", "chapters": [], "exercises": ["nothing"], "quiz": ["never"]}
    monkeypatch.setattr(book_teaching, "read", lambda: EMPTY | {"claims": [claim]})
    found = book_teaching.problems()
    assert "book/teaching.yml, claim 'C': there is no exercise 'nothing'" in found
    assert "book/teaching.yml, claim 'C': there is no quiz question 'never'" in found
