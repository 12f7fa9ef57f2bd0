"""No chapter grows beyond its cap of words, in the open or in folds: whoever adds a sentence takes one out."""

from pathlib import Path

import pytest

from scripts.book import words

CHAPTERS = Path(__file__).resolve().parents[1] / "book"
CAPS = {
    "undergraduate/00_toolbox": (1250, 50),
    "undergraduate/01_noise": (2420, 50),
    "undergraduate/02_paths": (1905, 100),
    "undergraduate/03_teacher_student": (2350, 320),
    "undergraduate/04_consistency": (3387, 380),
    "undergraduate/05_scratch_or_teacher": (2360, 330),
    "undergraduate/06_digits": (4100, 720),
    "undergraduate/07_interactive": (2613, 450),
    "postgraduate/bridge": (1000, 80),
    "postgraduate/08_anatomy": (3170, 360),
    "postgraduate/09_noise_scales": (3140, 390),
    "postgraduate/10_cifar10": (3250, 420),
    "postgraduate/11_full_scale": (2520, 280),
    "postgraduate/12_tradeoffs": (3290, 710),
    "postgraduate/13_any_teacher": (3020, 130),
    "postgraduate/14_latent": (4180, 300),
    "postgraduate/15_adversarial": (3650, 340),
    "postgraduate/16_video_3d": (3770, 240),
    "postgraduate/17_frontier": (3710, 560),
    "postgraduate/your_model": (1400, 40),
}
"""Words in the open and in folds, as ``python scripts/book/words.py`` counts them."""


@pytest.mark.parametrize("chapter", CAPS)
def test_a_chapter_stays_within_its_cap(chapter):
    found, most = words.words(CHAPTERS / f"{chapter}.ipynb"), CAPS[chapter]
    assert all(n <= cap for n, cap in zip(found, most, strict=True)), f"{found} words, but at most {most}"


def test_every_chapter_has_a_cap():
    known = {f"{p.parent.name}/{p.stem}" for p in CHAPTERS.rglob("[0-9]*.ipynb")}
    assert known <= CAPS.keys()


def test_words_are_counted_as_a_reader_meets_them():
    text = "One *two* $x^2$ [three](https://a.b/c).\n\n:::{admonition} Four\n:class: dropdown\nfive six\n:::\nseven"
    assert [words.number(part) for part in words.prose(text)] == [5, 2]
