"""Every idea is taught and exercised, and every exercise serves one."""

import book_ideas
import pytest


def test_the_table_is_complete() -> None:
    assert book_ideas.problems() == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"idea": "I", "taught": [], "exercises": ["noise-double"]}, "'I' needs a chapter and an exercise"),
        ({"idea": "I", "taught": ["x"], "exercises": ["nothing"]}, "there is no exercise 'nothing'"),
        (
            {"idea": "I", "taught": ["x"], "exercises": ["noise-double"]},
            "no idea names exercise 'noise-weights'",
        ),
    ],
)
def test_a_gap_is_named(monkeypatch: pytest.MonkeyPatch, row: dict[str, object], words: str) -> None:
    monkeypatch.setattr(book_ideas, "read", lambda: [row])
    assert any(words in what for what in book_ideas.problems())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": []}, "'S': needs code"),
        (
            {"sections": {"undergraduate/02_paths": "Nowhere"}},
            "undergraduate/02_paths has no section 'Nowhere'",
        ),
        ({"exercises": ["nothing"]}, "there is no exercise 'nothing'"),
    ],
)
def test_a_gap_of_a_system_is_named(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    row = {
        "system": "S",
        "papers": ["ho2020denoising"],
        "sections": {"undergraduate/02_paths": "Exercises"},
        "code": ["x"],
        "exercises": ["noise-double"],
    }
    assert book_ideas.gaps(row) == []
    monkeypatch.setattr(book_ideas, "systems", lambda: [row | change])
    assert any(words in what for what in book_ideas.problems())
