"""What pages say of themselves: titles, descriptions, the card; the page for the lost, search from disk, where numbers come from."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import book_head
import book_page
import pytest
from book_contents import chapters, pages
from bs4 import BeautifulSoup
from conftest import HTML, PATIENCE
from PIL import Image
from test_book import tree


@pytest.mark.parametrize(
    ("code", "holds"),
    [
        (
            "# Setup: installs the course only where\nimport sys",
            "the setup: imports and, in Colab, the installation",
        ),
        ("fig, ax = plt.subplots()\nplt.show()", "the code that draws the figure"),
        ("def show(x):\n    plt.show()", "the code of show"),
        ("class A:\n    def inner(self): ...\n\n\ndef b():\n    pass", "the code of A and b"),
        ("x = 1", ""),
    ],
)
def test_a_fold_is_called_what_it_holds(code: str, holds: str) -> None:
    assert book_page.fold_holds(code) == holds
    fold = "<summary><p>Show the code</p><p>Hide the code</p></summary><pre></pre>"
    body = BeautifulSoup(fold, "html.parser")
    body.pre.string = code  # type: ignore[union-attr]
    book_page.name_fold(body.summary)  # type: ignore[arg-type]
    said = [p.get_text() for p in body("p")]
    assert said == [f"Show {holds or 'the code'}", f"Hide {holds or 'the code'}"]


@pytest.mark.parametrize(
    ("comment", "shown"),
    [
        ("# noqa: F401 (hint is for you to call)", "x  # hint is for you to call"),
        ("# fmt: skip", "x"),
        ("# noqa: E731, B023", "x"),
        ("# type: the same", "x  # type: the same"),
    ],
)
def test_code_is_shown_without_the_marks_of_tools(comment: str, shown: str) -> None:
    line = f'<div class="highlight"><pre><span class="n">x</span>  <span class="c1">{comment}</span>\n</pre></div>'
    body = BeautifulSoup(line, "html.parser")
    book_page.mend_code(body)
    assert body.get_text() == f"{shown}\n"


def test_a_description_is_the_question_or_a_sentence_and_is_cut_between_words() -> None:
    def of(html: str) -> str:
        return book_head.describe(BeautifulSoup(html, "html.parser"))

    long = "<p>This sentence is long enough to say what the page is about.</p>"
    assert of(f"{long}<p><b>The question.</b> What is\n noise?</p>") == "What is noise?"
    assert of(f"<p>35 minutes · a badge</p>{long}").startswith("This sentence")
    assert of("<p>Short.</p>") == ""
    cut = book_head.short("word " * 60)
    assert len(cut) <= book_head.LONGEST and cut.endswith("word…")


@pytest.mark.book
def test_every_page_has_a_title_a_description_and_the_card(html: Path) -> None:
    seen: dict[str, str] = {}
    for page in pages():
        head = tree(html / f"{page}.html").head
        assert head is not None
        meta = {str(m.get("property") or m.get("name")): str(m.get("content")) for m in head("meta")}
        assert 10 <= len(meta["description"]) <= book_head.LONGEST, (page, meta["description"])
        assert meta["og:description"] == meta["description"] and meta["og:url"].endswith(f"/{page}.html")
        assert meta["og:image"].endswith(f"/{book_head.CARD}")
        assert head.title is not None
        title = head.title.get_text()
        assert title.count("Consistency distillation") == 1, title
        assert seen.setdefault(title, page) == page, f"{page} and {seen[title]} have one title"
    with Image.open(html / book_head.CARD) as card:
        assert card.size == (1200, 630)


@pytest.mark.book
def test_chapters_carry_their_numbers_in_title_and_sidebar(html: Path) -> None:
    index = tree(html / "book/index.html")
    for page in chapters():
        number = book_head.number_of(page)
        if not number:
            continue
        h1 = tree(html / f"{page}.html").find("h1")
        assert h1 is not None and h1.get_text().startswith(f"{number}\u00a0"), page
        link = index.select_one(f'nav a[href$="{page.removeprefix("book/")}.html"]')
        assert link is not None and link.get_text().strip().startswith(number), page
    assert {book_head.number_of(page) for page in chapters()} == {"", *map(str, range(18))}


@pytest.mark.book
def test_the_page_for_the_lost_leads_back(html: Path) -> None:
    links = [str(a["href"]) for a in BeautifulSoup((html / "404.html").read_text(), "html.parser")("a")]
    home = tree(html / "book/index.html").select_one('meta[property="og:url"]')
    assert home is not None
    root = urlsplit(str(home["content"])).path.removesuffix("/book/index.html")
    assert "Consistency distillation" in (html / "404.html").read_text()
    assert len(links) == 2 and all(link.startswith(f"{root}/") for link in links)
    assert all((html / link.removeprefix(f"{root}/")).is_file() for link in links)


@pytest.mark.book
def test_dotted_numbers_say_where_they_come_from(html: Path) -> None:
    for page in chapters():
        body = tree(html / f"{page}.html")
        origins = {str(one["data-origin"]) for one in body("span", class_="result")}
        assert {li.get_text() for li in body.select(".origins li")} == origins, page
        assert not body.select(".result[title]")


@pytest.fixture(scope="module")
def disk(browser: Any) -> Iterator[Any]:
    """A tab for pages from disk, with the network cut, and what went wrong."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        tab.errors = []
        context.route(
            re.compile("^https?:"), lambda route: (tab.errors.append(route.request.url), route.abort())
        )
        tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: tab.errors.append(str(e)))
        yield tab


@pytest.mark.book
def test_search_from_disk_finds_pages_and_shows_their_words(disk: Any) -> None:
    words = json.loads((HTML / "_static/words.js").read_text().partition("= ")[2].rstrip(";\n"))
    assert {f"{page}.html" for page in pages()} <= set(words)
    disk.goto((HTML / "search.html").as_uri() + "?q=stop-gradient")
    disk.locator("#search-results li p.context").first.wait_for()
    found = disk.locator("#search-results li").all_inner_texts()
    assert len(found) >= 3 and any("gradient" in text.partition("\n")[2] for text in found)
    assert not disk.errors


@pytest.mark.book
def test_a_click_on_a_number_says_its_origin(disk: Any) -> None:
    disk.goto((HTML / "book/undergraduate/04_consistency.html").as_uri())
    number, origin = disk.locator(".result").first, disk.locator(".result-origin")
    number.click()
    assert origin.inner_text() == number.get_attribute("data-origin")
    disk.keyboard.press("Escape")
    assert origin.count() == 0
    for _ in range(2):
        number.click()
    assert origin.count() == 0
    assert not disk.errors
