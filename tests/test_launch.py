"""Colab, Binder, download and edit links: right in the built book, and right in a fork's without an edit."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import book_contents
import book_launch
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import ROOT, build_book
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.errors import ConfigError

OURS = "/".join(yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"].split("/")[-2:])
NOTEBOOKS = [page for page in book_contents.pages() if (ROOT / f"{page}.ipynb").is_file()]
ALL = sorted(p for d in ("book", "exercises") for p in (ROOT / d).rglob("*.ipynb") if "_build" not in p.parts)
CELL = "# Setup\nimport subprocess\nsubprocess.run(['pip', 'install', 'git+https://github.com/cdedu/cdedu'])"


def test_every_notebook_has_the_same_set_up_cell() -> None:
    """The chapters' imports follow in the same cell, which is folded into one line of the page."""
    cells = [
        next(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        for path in ALL
        if ".ipynb_checkpoints" not in path.parts
    ]
    first = {"\n\n".join(cell.split("\n\n")[:2]) for cell in cells}
    assert len(first) == 1, "two set-up cells differ"
    assert f"git+https://github.com/{OURS}" in first.pop(), "the set-up cell and _config.yml name two places"


# --- the built book ------------------------------------------------------------------------------


@pytest.mark.book
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_chapter_can_be_launched_and_taken_along(page: str, html: Path) -> None:
    tree = BeautifulSoup((html / f"{page}.html").read_text(), "html.parser")
    row = tree.select_one("article h1 ~ p.launch")
    assert row is not None, "no line of links below the title"
    colab, download, *slides = (str(a["href"]) for a in row.find_all("a"))
    assert re.fullmatch(rf"https://colab\.research\.google\.com/github/[^/]+/[^/]+/blob/gh-pages/.*notebooks/{page}\.ipynb", colab)  # fmt: skip
    logo = row.find("img")
    assert logo is not None and (html / page).parent.joinpath(str(logo["src"])).is_file()
    copy = (html / page).parent / download
    assert copy.is_file(), f"{download} is not there"
    assert [(html / page).parent.joinpath(deck).is_file() for deck in slides] in ([], [True])
    assert nbformat.read(copy, as_version=4).cells


@pytest.mark.book
def test_exercises_are_published(html: Path) -> None:
    for folder in book_launch.EXERCISES:
        for path in (ROOT / folder).glob("*.ipynb"):
            assert (html / "notebooks" / folder / path.name).is_file()


# --- a fork's book -------------------------------------------------------------------------------


def build(root: Path) -> tuple[Path, str]:
    """A book of one chapter and one exercise; its html, and what the build warned about."""
    source = root / "src"
    for name in ("book/one", "exercises/one"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        cells = [new_markdown_cell("# One"), new_code_cell(CELL)]
        nb = new_notebook(
            cells=cells, metadata={"language_info": {"name": "python", "pygments_lexer": "python"}}
        )
        nbformat.write(nb, source / f"{name}.ipynb")
    (source / "index.md").write_text("# Title\n\n```{toctree}\nbook/one\n```\n")
    settings: dict[str, Any] = {
        "nb_execution_mode": "off",
        "html_theme": "sphinx_book_theme",
        "html_theme_options": {
            "repository_url": "https://github.com/cdedu/cdedu",
            "use_edit_page_button": True,
            "use_repository_button": True,
        },
        "html_static_path": [str(ROOT / "book" / "_static")],
        "exclude_patterns": ["exercises"],
        "suppress_warnings": ["config.cache"],
    }
    return root / "html", build_book(root, ["myst_nb", "book_launch", "book_page"], **settings)[1]


def links(page: Path) -> list[str]:
    tree = BeautifulSoup(page.read_text(), "html.parser")
    return [str(a["href"]) for a in tree.find_all("a") if "//" in str(a.get("href", ""))]


def cell(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[1].source


def test_a_fork_needs_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    monkeypatch.delenv("BOOK_VERSION", raising=False)
    html, warnings = build(tmp_path)
    assert not warnings
    assert cell(html / "notebooks/book/one.ipynb") == CELL
    assert any("/github/cdedu/cdedu/blob/gh-pages/notebooks/book/one.ipynb" in url for url in links(html / "book/one.html"))  # fmt: skip

    # The same folder again, as somebody's fork: nothing of the first name is left.
    monkeypatch.setenv("BOOK_REPOSITORY", "somebody/a-fork")
    html, warnings = build(tmp_path)
    assert not warnings
    for name in ("book", "exercises"):
        assert cell(html / f"notebooks/{name}/one.ipynb") == CELL.replace("cdedu/cdedu", "somebody/a-fork")
    found = links(html / "book/one.html")
    for url in (
        "https://colab.research.google.com/github/somebody/a-fork/blob/gh-pages/notebooks/book/one.ipynb",
        "https://github.com/somebody/a-fork/edit/main/book/one.ipynb",
        "https://github.com/somebody/a-fork",
    ):
        assert url in found
    binder = next(url for url in found if "mybinder" in url)
    assert binder.startswith("https://mybinder.org/v2/gh/somebody/a-fork/main?urlpath=")
    pull = parse_qs(parse_qs(urlsplit(binder).query)["urlpath"][0].removeprefix("git-pull?"))
    assert pull == {
        "repo": ["https://github.com/somebody/a-fork"],
        "branch": ["gh-pages"],
        "urlpath": ["lab/tree/a-fork/notebooks/book/one.ipynb"],
    }
    left = [p.name for p in html.rglob("*") if p.is_file() and b"cdedu/cdedu" in p.read_bytes()]
    assert not left, f"the first name is left in {left}"

    # A release: its own folder, its own tag.
    monkeypatch.setenv("BOOK_VERSION", "v1.0")
    html, _ = build(tmp_path)
    assert "git+https://github.com/somebody/a-fork@v1.0'" in cell(html / "notebooks/book/one.ipynb")
    assert any("/blob/gh-pages/v1.0/notebooks/book/one.ipynb" in url for url in links(html / "book/one.html"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("BOOK_REPOSITORY", "https://github.com/a/b"), ("BOOK_REPOSITORY", "alone"), ("BOOK_VERSION", "../1")],
)
def test_a_name_that_would_break_links_is_refused(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable} is '{re.escape(value)}'; give"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("repository", "version", "url"),
    [
        ("Some/book", "", "https://some.github.io/book"),
        ("some/book", "v1.0", "https://some.github.io/book/v1.0"),
        ("some/some.github.io", "", "https://some.github.io"),
    ],
)
def test_the_address_is_that_of_pages(repository: str, version: str, url: str) -> None:
    assert book_launch.address(repository, version) == url


def test_a_notebook_without_set_up_cell_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_launch.CELL", "1 + 1")
    assert "book/one.ipynb has no set-up cell" in build(tmp_path)[1]
