"""No chapter grows beyond its cap of words, in the open or in folds: whoever adds a sentence takes one out."""

from pathlib import Path

import pytest

from scripts.book import words

CHAPTERS = Path(__file__).resolve().parents[1] / "book"
CAPS = {
    "undergraduate/00_toolbox": (1232, 50),
    "undergraduate/01_noise": (2395, 50),
    "undergraduate/02_paths": (1878, 53),
    "undergraduate/03_teacher_student": (2272, 237),
    "undergraduate/04_consistency": (3298, 309),
    "undergraduate/05_scratch_or_teacher": (2275, 270),
    "undergraduate/06_digits": (3842, 316),
    "undergraduate/07_interactive": (2583, 450),
    "postgraduate/bridge": (974, 78),
    "postgraduate/08_anatomy": (2936, 327),
    "postgraduate/09_noise_scales": (3003, 210),
    "postgraduate/10_cifar10": (3107, 277),
    "postgraduate/11_full_scale": (2498, 280),
    "postgraduate/12_tradeoffs": (2897, 374),
    "postgraduate/13_any_teacher": (2887, 130),
    "postgraduate/14_latent": (3690, 300),
    "postgraduate/15_adversarial": (3200, 340),
    "postgraduate/16_video_3d": (3549, 240),
    "postgraduate/17_frontier": (3465, 560),
    "postgraduate/your_model": (1378, 40),
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


def test_where_a_number_or_a_link_comes_from_is_not_read():
    text = "one {result}`63% <a.json:metrics.b-c.d|.0%>` {chapter}`two <postgraduate/10_cifar10>`"
    assert words.number(text) == 2
