"""Concepts come before their use, and the check for that sees when they do not."""

import pytest
import yaml

from scripts.book import concepts


@pytest.mark.parametrize("name", concepts.TRACKS)
def test_each_concept_comes_before_its_use(name):
    words = yaml.safe_load((concepts.ROOT / "book" / "concepts.yml").read_text(encoding="utf-8"))
    assert list(concepts.problems(name, words)) == []


def found(monkeypatch, *pages):
    paths = [concepts.ROOT / f"book/undergraduate/{i}.ipynb" for i in range(len(pages))]
    monkeypatch.setattr(concepts, "track", lambda name: paths)
    monkeypatch.setattr(concepts, "text", lambda path: concepts.ASIDE.sub(" ", pages[int(path.stem)]))
    return list(concepts.problems("undergraduate", {"denoiser": "denoisers?"}))


@pytest.mark.parametrize(
    "pages",
    [
        ("A *denoiser* is a function. Denoisers are fun.",),
        ("Nothing yet.", "The **best denoiser** is a mean."),
        ("# The denoiser\n\nA *denoiser* is a function.",),
        (":::{admonition} A\n:class: deeper\nA denoiser.\n:::\n\nA *denoiser* is a function.",),
        ("See {chapter}`denoisers <x>`, and `denoiser(x)`. A *denoiser* is a function.",),
    ],
)
def test_an_introduction_is_seen(monkeypatch, pages):
    assert found(monkeypatch, *pages) == []


@pytest.mark.parametrize(
    "pages",
    [("The denoiser, and a *denoiser* is a function.",), ("With *care*: denoisers.", "A *denoiser*.")],
)
def test_a_use_before_the_introduction_is_named(monkeypatch, pages):
    (what,) = found(monkeypatch, *pages)
    assert what.startswith("book/undergraduate/0.ipynb: 'denoiser' is used before")
