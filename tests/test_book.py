"""The built book: what a reader's browser gets. Needs `make book` first; the last tests need Chromium."""

import gzip
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import book_contents
import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from conftest import HTML, PATIENCE, ROOT, daily
from fontTools.ttLib import TTFont

from scripts.book.release import ALL_PICTURES

pytestmark = pytest.mark.book

# What a browser fetches by itself, as opposed to links that a reader may follow.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


BUILT = [f"{page}.html" for page in book_contents.pages()]
KINDS = (
    "book/index",
    "book/undergraduate/01_noise",
    "book/undergraduate/07_interactive",
    "book/undergraduate/quiz_undergraduate",
    "book/reference/equations",
    "exercises/04_consistency",
    "exercises/solutions/04_consistency",
)
"""A page of every kind."""


@cache
def tree(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def places(path: Path) -> set[str]:
    """Where a link into a page can lead to."""
    return {str(one["id"]) for one in tree(path).find_all(id=True)}


def article(page: str) -> Tag:
    found = tree(HTML / page).find("article")
    assert isinstance(found, Tag), f"{page} has no article"
    return found


def test_every_page_of_the_contents_is_built(html: Path) -> None:
    missing = [page for page in BUILT if not (html / page).is_file()]
    assert not missing, f"not built: {missing}"


def has_text(picture: Tag) -> bool:
    """Words of its own, or the words of the link it adorns: then `alt` is there and empty."""
    link = picture.find_parent("a")
    adorns = picture.get("alt") == "" and link is not None and link.get_text(strip=True) != ""
    return bool(str(picture.get("alt") or "").strip()) or adorns


@pytest.mark.parametrize("page", BUILT)
def test_pictures_have_text(page: str, html: Path) -> None:
    bare = [i.get("src") for i in tree(html / page).find_all("img") if not has_text(i)]
    assert not bare, f"{page}: no alt text on {bare}"


@pytest.mark.parametrize("page", BUILT)
def test_nothing_is_left_raw(page: str, html: Path) -> None:
    everything = article(page).get_text()
    prose = "".join(t for t in article(page).find_all(string=True) if not t.find_parent(["code", "pre"]))
    assert "Traceback (most recent call last)" not in everything
    assert not re.search(r"\b(interactive|VBox|HBox)\(children=|Jupyter widget", everything)
    roles = "result|chapter|glue|eq|numref|cite|ref|doc|term"
    assert not re.search(rf"\{{({roles})[:}}]", prose), "a role that was not rendered"
    assert not article(page).select(".system-message, .problematic")
    assert not re.search(r"# (noqa\b|fmt: |NBVAL_)", everything), "a mark for tools"


@pytest.mark.parametrize("page", BUILT)
def test_nothing_comes_from_another_host(page: str, html: Path) -> None:
    fetched = [e.get(a) for tag, a in FETCHED.items() for e in tree(html / page).find_all(tag)]
    fetched += [
        e.get("href") for e in tree(html / page).find_all("link") if "canonical" not in e.get("rel", [])
    ]
    outside = [url for url in fetched if url and re.match(r"(https?:)?//", url)]
    assert not outside, f"{page} loads {outside}"


LIGHT = 1_500_000
"""Bytes on the wire before a reader touches or scrolls anything, when text is compressed as Pages does."""


@cache
def wire(path: Path) -> int:
    """Bytes of a file on the wire."""
    content = path.read_bytes()
    return len(gzip.compress(content)) if path.suffix in {".html", ".css", ".js", ".svg"} else len(content)


@pytest.mark.parametrize("page", BUILT)
def test_a_page_is_light(page: str, html: Path) -> None:
    here, whole = html / page, tree(html / page)
    styles = [link["href"] for link in whole("link", rel="stylesheet")]
    scripts = [script["src"] for script in whole("script", src=True)]
    pictures = [img["src"] for img in whole("img") if img.get("loading") != "lazy"]
    names = {str(name).partition("?")[0] for name in (*styles, *scripts, *pictures)}
    files = {(here.parent / unquote(name)).resolve() for name in names if not name.startswith("data:")}
    fonts = (html / "_static" / "vendor" / "fontawesome").rglob("*.woff2")
    typeface = (html / "_static" / "vendor" / "source-sans-3").glob("*latin*.woff2")
    size = wire(here) + sum(map(wire, {*files, *fonts, *typeface}))
    if any("mathjax" in name for name in names):  # of its fonts those that chapters 1 and 4 fetch
        folder = html / "_static" / "vendor" / "mathjax"
        used = re.compile("_(Main-Regular|Math-Italic|AMS-Regular|Calligraphic-Regular|Size[1-4]-Regular)")
        size += sum(wire(path) for path in folder.rglob("*.woff") if used.search(path.name))
    assert size <= LIGHT, f"{page}: {size / 1e6:.2f} MB before anybody scrolls"


def test_only_icons_that_are_drawn_are_served(html: Path) -> None:
    fonts = list((html / "_static").glob("vendor/fontawesome/*/webfonts/*.woff2"))
    assert fonts and sum(path.stat().st_size for path in fonts) < 20_000
    solid = TTFont(next(path for path in fonts if "solid" in path.name)).getBestCmap()
    magnifying_glass, half_moon, rocket, unused_camera = 0xF002, 0xF186, 0xF135, 0xF030
    assert {magnifying_glass, half_moon, rocket} <= set(solid) and unused_camera not in solid


def test_style_sheets_ask_no_other_host(html: Path) -> None:
    asks = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")]+)""")
    found = {p.name: asks.findall(p.read_text()) for p in (html / "_static").rglob("*.css")}
    outside = {name: urls for name, urls in found.items() if urls}
    assert not outside


def broken(here: Path, part: Tag) -> list[str]:
    """The links of this part of a page that lead to no file of the book, or to no place in it."""
    found = []
    for link in part.find_all("a"):
        url = link.get("href") or ""
        if url and not urlsplit(url).scheme and not url.startswith(("//", "#/")) and not leads(here, url):
            found.append(url)
    return found


def leads(here: Path, url: str) -> bool:
    path, anchor = urldefrag(url)
    path = path.partition("?")[0]  # behind it stand the settings of a live part
    there = (here.parent / unquote(path)).resolve() if path else here
    return there.is_file() and (there.suffix != ".html" or not anchor or unquote(anchor) in places(there))


@pytest.mark.parametrize("page", BUILT)
def test_links_inside_the_book_resolve(page: str, html: Path) -> None:
    assert not broken(html / page, article(page))


@pytest.mark.parametrize("page", BUILT)
def test_no_word_with_a_dot_became_a_link(page: str, html: Path) -> None:
    """`toy.cost.cd` is a key; a link has its scheme in the source, or words of its own."""
    strange = [
        link["href"] for link in article(page)("a", href=True) if link["href"] == f"http://{link.get_text()}"
    ]
    assert not strange


# --- equations -----------------------------------------------------------------------------------

EQUATIONS = yaml.safe_load((ROOT / "book" / "equations.yml").read_text()) or {}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("label", EQUATIONS or [pytest.param("", marks=pytest.mark.skip("no equation yet"))])
def test_an_equation_has_its_code_and_its_test(label: str) -> None:
    for name in _listed(EQUATIONS[label]["code"]):
        assert callable(_import(name)), f"{label}: {name} is not callable"
    for test in _listed(EQUATIONS[label]["test"]):
        path, _, function = test.partition("::")
        source = (ROOT / path).read_text()
        assert re.search(rf"^\s*def {re.escape(function)}\(", source, re.M), f"{label}: there is no {test}"


def test_equations_are_listed_by_number(html: Path) -> None:
    cells = article("book/reference/equations.html").select("tbody tr > td:first-child")
    shown = [
        re.fullmatch(r"\((\d+)\) ([A-ZÀ-Ý].*)", cell.get_text(strip=True, separator=" ")) for cell in cells
    ]
    assert [int(one[1]) for one in shown if one] == [*range(1, len(EQUATIONS) + 1)]
    assert not [one[2] for one in shown if one and "-" in one[2]]


def _import(name: str) -> Any:
    """The object behind a dotted name, methods included."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for part in parts[i:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module in {name}")


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        yield context


@pytest.fixture(scope="module", params=daily(BUILT, *KINDS))
def shown(request: pytest.FixtureRequest, site: str, context: Any) -> Iterator[tuple[str, Any]]:
    """A page with formulas drawn, loaded once for its tests with the network cut; what it asked for and what went wrong."""
    tab = context.new_page()
    tab.outside, tab.errors = [], []

    def guard(route: Any) -> None:
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            tab.outside.append(route.request.url)
            route.abort()

    tab.route("**/*", guard)
    tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: tab.errors.append(str(e)))
    tab.on("response", lambda r: tab.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    tab.goto(f"{site}/{request.param}", wait_until="load")
    tab.evaluate("() => window.MathJax?.startup?.promise")
    tab.evaluate(ALL_PICTURES)
    yield request.param, tab
    tab.close()


def test_a_browser_shows_the_page(shown: tuple[str, Any]) -> None:
    page, tab = shown
    raw = tab.locator(".math").count()
    drawn = tab.locator(".math mjx-container").count()
    wrong = tab.locator("mjx-merror").count()
    narrow = tab.evaluate(
        """() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"""
    )
    assert not tab.outside, f"{page} asked for {tab.outside}"
    assert not tab.errors, f"{page}: {tab.errors}"
    assert not narrow, f"{page}: pictures that do not load: {narrow}"
    assert drawn >= raw and not wrong, f"{page}: {raw} formulas, {drawn} drawn, {wrong} with errors"


def test_a_phone_need_not_scroll_sideways(shown: tuple[str, Any]) -> None:
    page, tab = shown
    widths = {}
    for screen in (390, 320):
        tab.set_viewport_size({"width": screen, "height": 844})
        widths[screen] = tab.evaluate("() => document.documentElement.scrollWidth")
    wide = {screen: width for screen, width in widths.items() if width > screen + 1}
    assert not wide, f"{page} is wider than the screen: {wide}"
