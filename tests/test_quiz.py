"""The closing quizzes: every question has one right answer and a sentence for each wrong one, and the same seed is the same quiz."""

import re

import book_ideas
import nbformat
import pytest
from conftest import ROOT

from cdedu.course.quiz import COUNT, TRACKS, Quiz, pool
from cdedu.course.quiz.core import LETTERS, _shown, read

SEEDS = range(60)
ALL = [(track, name) for track in TRACKS for name in pool(track)]


def answers(quiz: Quiz) -> dict[int, object]:
    """The right ones."""
    return {i: one.key for i, one in enumerate(quiz._asked, 1)}


def mistakes(quiz: Quiz) -> dict[int, list[object]]:
    """The wrong ones that have a sentence."""
    found = {}
    for i, one in enumerate(quiz._asked, 1):
        wrong = one.drawn.wrong
        found[i] = [LETTERS[one.options.index(w)] for w in wrong] if one.options else list(wrong)
    return found


@pytest.mark.parametrize("track", TRACKS)
def test_a_pool_is_large_and_asks_every_idea_of_its_track(track: str) -> None:
    assert len(pool(track)) >= 30
    rows = [row for row in book_ideas.read() if row["track"] == track]
    asked = {one.idea for one in pool(track).values()}
    assert asked == {row["idea"] for row in rows}


@pytest.mark.parametrize(("track", "name"), ALL)
def test_a_question_has_one_right_answer_and_a_sentence_for_each_other(track: str, name: str) -> None:
    import random

    question = pool(track)[name]
    assert question.page.startswith(("undergraduate/", "postgraduate/"))
    for seed in SEEDS:
        drawn = question.draw(random.Random(seed))
        sentences = [drawn.why, *drawn.wrong.values()]
        assert all(len(s) > 10 and s[-1] in ".?" for s in sentences), sentences
        assert len(set(sentences)) == len(sentences)
        assert drawn.text.strip()[-1] in "?:.s" and "{" not in drawn.text
        given = [drawn.right, *drawn.wrong]
        if isinstance(drawn.right, str):
            assert len(given) == 4 == len(set(given))
            continue
        assert len(given) >= 3
        for i, a in enumerate(given):
            for b in given[i + 1 :]:
                apart = abs(a - b) > 2 * drawn.tolerance * max(abs(a), abs(b))
                assert apart, f"{name}, seed {seed}: {a} and {b} cannot be told apart"


@pytest.mark.parametrize("track", TRACKS)
def test_the_length_of_an_option_does_not_tell(track: str) -> None:
    import random

    drawn = [question.draw(random.Random(0)) for question in pool(track).values()]
    lengths = [(len(d.right), [len(w) for w in d.wrong]) for d in drawn if isinstance(d.right, str)]
    for is_it in (
        lambda right, wrong: right >= max(wrong),  # the longest
        lambda right, wrong: right <= min(wrong),  # the shortest
    ):
        assert sum(is_it(*both) for both in lengths) <= 0.45 * len(lengths)
    assert [
        d.right for d in drawn if isinstance(d.right, str) and len(d.right) > 1.6 * max(map(len, d.wrong))
    ] == []


@pytest.mark.parametrize("track", TRACKS)
def test_right_answers_score_all_and_wrong_ones_none(track: str) -> None:
    for seed in range(20):
        quiz = Quiz(track, seed)
        assert len(quiz.names) == COUNT == len(set(quiz.names))
        assert quiz.score(answers(quiz)) == COUNT
        wrong = mistakes(quiz)
        for k in range(4):
            assert quiz.score({i: given[k % len(given)] for i, given in wrong.items()}) == 0
            said = {one.number: one.message for one in quiz.verdicts()}
            assert all(said[i] in quiz._asked[i - 1].drawn.wrong.values() for i in wrong)


@pytest.mark.parametrize("track", TRACKS)
def test_every_draw_asks_every_idea(track: str) -> None:
    """The ideas of book/ideas.yml, and not only those that the pool happens to ask for."""
    ideas = {row["idea"] for row in book_ideas.read() if row["track"] == track}
    assert len(ideas) < COUNT
    for seed in SEEDS:
        assert {pool(track)[name].idea for name in Quiz(track, seed).names} == ideas


@pytest.mark.parametrize("track", TRACKS)
def test_the_same_seed_is_the_same_quiz_and_another_is_another(track: str) -> None:
    assert Quiz(track, 3).ask() == Quiz(track, 3).ask() and Quiz(track, 3).key() == Quiz(track, 3).key()
    assert len({Quiz(track, seed).ask() for seed in range(10)}) == 10


def test_letters_of_right_answers_are_spread() -> None:
    keys = [one.key for seed in SEEDS for one in Quiz("undergraduate", seed)._asked if one.options]
    assert all(0.2 < keys.count(letter) / len(keys) < 0.3 for letter in LETTERS)


def test_grading_says_what_is_wrong_and_what_is_missing() -> None:
    quiz = Quiz("undergraduate", 1)
    first = mistakes(quiz)[1][0]
    quiz.answer(1, first)
    quiz.answer(2, answers(quiz)[2])
    graded = quiz.grade()
    assert graded.startswith("**1 of 20**") and "**1.** ✗" in graded and "See chapter" in graded
    assert "Not answered: 3, 4, 5" in graded
    assert quiz.score() == 1 and quiz.score({}) == 0


def test_a_number_near_nothing_known_is_too_low_or_too_high() -> None:
    quiz = Quiz("undergraduate", 1)
    i = next(i for i, one in enumerate(quiz._asked, 1) if not one.options)
    quiz.answer(i, 12345.678)
    assert quiz.verdicts()[i - 1].message == "12345.7 is too high."


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Quiz("bachelor"), "no track 'bachelor'; there are: undergraduate, postgraduate"),
        (lambda: Quiz("undergraduate", 1.5), "whole number, not 1.5"),
        (lambda: Quiz("undergraduate", True), "whole number, not True"),
        (lambda: Quiz("undergraduate", 1).answer(21, "a"), "1 to 20; there is no 21"),
        (lambda: Quiz("undergraduate", 1).ask(0), "1 to 20; there is no 0"),
    ],
)
def test_bad_input_is_named(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_answers_of_the_wrong_kind_are_named() -> None:
    quiz = Quiz("undergraduate", 1)
    letter = next(i for i, one in enumerate(quiz._asked, 1) if one.options)
    number = next(i for i, one in enumerate(quiz._asked, 1) if not one.options)
    for value in ("e", 1, "ab", None):
        with pytest.raises(ValueError, match=f"question {letter} wants a letter from a to d"):
            quiz.answer(letter, value)
    for value in ("many", float("nan"), None, True):
        with pytest.raises(ValueError, match=f"question {number} wants a finite number"):
            quiz.answer(number, value)
    quiz.answer(letter, " B ")
    quiz.answer(number, "3.5")


def test_a_key_writes_numbers_as_people_do() -> None:
    assert [_shown(x) for x in (0.46212, 17.0, 6931.13, 100_000.0)] == ["0.4621", "17", "6,931", "100,000"]
    assert not any(re.search(r"\de\+", Quiz(track, seed).key()) for track in TRACKS for seed in range(20))


@pytest.mark.parametrize("track", TRACKS)
def test_the_page_shows_the_quiz_of_its_seed(track: str) -> None:
    nb = nbformat.read(ROOT / f"book/{track}/quiz_{track}.ipynb", as_version=4)
    shown = [out.data["text/markdown"] for cell in nb.cells for out in cell.get("outputs", ())]
    quiz = Quiz(track, 1)
    assert shown == [quiz.ask(), quiz.grade(), quiz.key()]


def test_a_name_is_given_once() -> None:
    one = '[[question]]\nname = "same"\nidea = ""\npage = ""\ntext = ""\nright = ""\nwrong = {}\nwhy = ""\n'
    assert set(read(one, None)) == {"same"}
    with pytest.raises(ValueError, match="two questions named 'same'"):
        read(one * 2, None)
