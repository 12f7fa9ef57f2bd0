"""The slides: made of the chapters' own cells, each with notes, and nothing hangs over the edge of a sheet.

The last tests need `make book` and Chromium.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import book_contents
import book_ideas
import book_slides
import book_teaching
import nbformat
import pytest
from book_plain import Plain
from conftest import HTML, ROOT, daily
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from test_accessibility import AXE
from test_book import broken, tree


def png(width: int, height: int, dpi: int = 110) -> str:
    Image.new("L", (width, height)).save(file := io.BytesIO(), "PNG", dpi=(dpi, dpi))
    return base64.b64encode(file.getvalue()).decode()


PICTURE = png(600, 300)
FIGURE = new_output("display_data", data={"image/png": PICTURE})
ALT = {"mystnb": {"image": {"alt": "A line"}}, "tags": ["hide-input"]}
DECKS = book_contents.chapters()


class Raw:
    """Leaves the text as it is: roles belong to the tests of book_plain."""

    def inline(self, text: str, page: str) -> str:
        return text

    text = inline


@dataclass
class Slide:
    title: str
    first: bool
    body: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def slides(one: book_slides.Deck) -> list[Slide]:
    """What nbconvert makes of a deck's cells."""
    found: list[Slide] = []
    for cell in one.cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "")
        if kind in ("slide", "subslide"):
            found.append(Slide(cell.source.removeprefix("## "), kind == "slide"))
        elif kind == "notes":
            found[-1].notes.append(cell.source)
        else:
            found[-1].body.append(cell)
    return found


def deck(*cells: Any) -> book_slides.Deck:
    nb = new_notebook(cells=[new_markdown_cell("# T\n\n**The question.** Why?\n\nIt assumes much."), *cells])
    for cell in nb.cells:
        cell.metadata.setdefault("slideshow", {"slide_type": "slide"})
    return book_slides.Deck(nb, "book/undergraduate/xx", Raw())  # type: ignore[arg-type]


def chapter(page: str) -> book_slides.Deck:
    """With roles as their text, and no names of equations: those need a build."""
    data = {"math": {"objects": {}}, "std": {"labels": {}}}
    pages = book_contents.pages()
    titles = {one: SimpleNamespace(astext=lambda: "a page") for one in pages}
    env = SimpleNamespace(domaindata=data, domains={}, found_docs=set(pages), titles=titles)
    nb = nbformat.read(ROOT / f"{page}.ipynb", as_version=4)
    return book_slides.Deck(nb, page, Plain(SimpleNamespace(env=env), ".."))  # type: ignore[arg-type]


def shown(one: Slide) -> str:
    return "\n".join(cell.source for cell in one.body)


# --- what is on a sheet ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paragraph", "first"),
    [
        (
            "Every dot on a path has the same end as the next. That is the idea.",
            "Every dot on a path has the same end as the next.",
        ),
        (
            "The answer is (c). The best guess is a mean. More.",
            "The answer is (c). The best guess is a mean.",
        ),
        (
            "With $f(x). A$ in it, this sentence goes on to here. Next.",
            "With $f(x). A$ in it, this sentence goes on to here.",
        ),
        ("No full stop", "No full stop"),
    ],
)
def test_the_first_sentence_is_shown(paragraph: str, first: str) -> None:
    assert book_slides.lead(paragraph) == first


def test_the_opening_shows_the_question_and_says_the_rest() -> None:
    (one,) = slides(deck())
    assert shown(one) == "**The question.** Why?" and "It assumes much." in one.notes


def test_sections_open_sheets_and_sentences_become_notes() -> None:
    text = "## S\n\nA first sentence that is long enough to stand alone. A second.\n\n$$\nx = 1\n$$ (eq-x)\n\nA third."
    _, one = slides(deck(new_markdown_cell(text)))
    assert one.title == "S" and one.first
    assert "stand alone." in shown(one) and "x = 1" in shown(one) and "second" not in shown(one)
    assert one.notes == ["A first sentence that is long enough to stand alone. A second.", "A third."]


def test_an_answer_waits_for_the_next_sheet() -> None:
    box = ":::{admonition} Predict\n:class: predict\nWhere?\n:::"
    answer = new_code_cell("1", metadata=ALT, outputs=[FIGURE])
    _, asked, answered = slides(deck(new_markdown_cell(f"## S\n\n{box}"), answer))
    assert "Where?" in shown(asked) and not [c for c in asked.body if c.cell_type == "code"]
    assert answered.title == "S" and not answered.first
    assert answered.body[0].outputs[0].metadata["image/png"]["alt"] == "A line"


def test_options_are_shown_and_what_is_said_of_them_is_for_the_speaker() -> None:
    box = ":::{admonition} Predict\n:class: predict\nWhere?\n\n- (a) Here <!-- no: It left. -->\n- (b) There <!-- yes: It went. -->\n:::"
    _, asked = slides(deck(new_markdown_cell(f"## S\n\n{box}")))
    assert "- (b) There" in shown(asked) and "<!--" not in shown(asked) and "It left" not in shown(asked)
    assert asked.notes == ["- (a) not quite. It left.\n- (b) right. It went."]


def test_asides_exercises_and_unmarked_cells_are_left_out() -> None:
    aside = ":::{admonition} D\n:class: deeper\nOnly for some.\n:::"
    skipped = new_markdown_cell("## Skipped", metadata={"slideshow": {"slide_type": "skip"}})
    text = f"## S\n\nA sentence.\n\n{aside}\n\n## Exercises\n\nThey are many."
    found = slides(deck(new_markdown_cell(text), skipped))
    assert [one.title for one in found] == ["T", "S"]
    assert "Only" not in shown(found[1]) and "many" not in "".join(found[1].notes)


def test_notes_are_spoken_only() -> None:
    spoken = new_markdown_cell("It takes ten seconds.", metadata={"slideshow": {"slide_type": "notes"}})
    _, one = slides(deck(new_markdown_cell("## S\n\nA sentence."), spoken))
    assert "ten seconds" not in shown(one) and "It takes ten seconds." in one.notes


def test_a_chapter_without_marks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T")]), tmp_path / "a.ipynb")
    page, warnings = DECKS[0], []
    monkeypatch.setattr(book_slides, "Plain", lambda *_: Raw())
    monkeypatch.setattr(book_slides.logger, "warning", lambda *words: warnings.append(words[0] % words[1:]))
    env = SimpleNamespace(found_docs={page}, doc2path=lambda _: tmp_path / "a.ipynb")
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path, env=env)
    book_slides.write_slides(app, None)  # type: ignore[arg-type]
    assert warnings == [f"{page} has no slides: mark cells in JupyterLab (Property Inspector, Slide Type)"]
    assert not list((tmp_path / "slides").iterdir())


def test_a_figure_of_a_dense_screen_is_as_large_as_a_plain_one() -> None:
    sizes = []
    for data in (PICTURE, png(1200, 600, dpi=220)):
        figure = new_output("display_data", data={"image/png": data})
        cells = deck(new_code_cell("draw()", outputs=[figure], metadata=ALT)).cells
        (found,) = (o.metadata["image/png"] for cell in cells for o in cell.get("outputs", []))
        sizes.append((found["width"], found["height"]))
    assert sizes[0] == sizes[1]


# --- the chapters' decks -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", DECKS)
def test_a_deck_is_made_of_its_chapter(page: str) -> None:
    nb = nbformat.read(ROOT / f"{page}.ipynb", as_version=4)
    sources = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    found = slides(chapter(page))
    assert len(found) >= 5
    for one in found:
        assert one.body or one.notes, f"{page}: {one.title}"
        for cell in one.body:
            for line in cell.source.splitlines() if cell.cell_type == "code" else ():
                assert line in sources
            for out in cell.get("outputs", ()):
                if "image/png" in out.get("data", {}):
                    assert out.metadata["image/png"]["alt"].strip(), f"{page}: {one.title}"


def test_the_same_chapter_gives_the_same_page() -> None:
    first, second = (chapter(DECKS[0]).html() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("page", DECKS)
def test_the_notes_of_the_plan_are_on_the_slides(page: str) -> None:
    said = "\n".join(note for one in slides(chapter(page)) for note in one.notes)
    for one in book_teaching.classes(page.removeprefix("book/")):
        for goal in one["goals"]:
            assert goal in said
        for note in one["notes"]:
            here = "at" not in note or note["at"] in book_ideas.sections(page.removeprefix("book/"))
            assert not here or book_teaching.remark(note) in said, f"{page}: {note}"


# --- in a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        yield context


READY = "() => window.Reveal?.isReady()"  # formulas are drawn then, and the slides filled
MEASURE = """async () => {
    const found = [];
    for (const slide of Reveal.getSlides()) {
        const { h, v } = Reveal.getIndices(slide);
        Reveal.slide(h, v);
        await new Promise((done) => setTimeout(done, 20));
        const sheet = document.querySelector(".slides").getBoundingClientRect();
        let low = 0, wide = 0;
        for (const one of slide.querySelectorAll("*")) {
            if (one.closest("aside, mjx-assistive-mml")) continue;
            const box = one.getBoundingClientRect();
            if (box.height) { low = Math.max(low, box.bottom); wide = Math.max(wide, box.right); }
        }
        const blank = [...slide.querySelectorAll("img")].filter((one) => !one.naturalWidth || !one.alt).length;
        const notes = slide.querySelector("aside.notes")?.innerText.trim().length ?? 0;
        found.push({ title: slide.querySelector("h1, h2").innerText, low: low - sheet.bottom,
            wide: wide - sheet.right, blank, notes, wrong: slide.querySelectorAll("mjx-merror").length });
    }
    return found;
}"""


@pytest.mark.book
@pytest.mark.parametrize("page", daily(DECKS, "book/undergraduate/04_consistency"))
def test_every_slide_holds_what_it_shows(page: str, site: str, context: Any) -> None:
    path = book_contents.deck(page)
    assert (HTML / path).is_file(), f"{path} was not built"
    outside: list[str] = []
    errors: list[str] = []
    tab = context.new_page()
    tab.on(
        "request", lambda r: outside.append(r.url) if not r.url.startswith((site, "data:", "blob:")) else None
    )
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.on("response", lambda r: errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    tab.goto(f"{site}/{path}", wait_until="load")
    tab.wait_for_function(READY)
    sheets = tab.evaluate(MEASURE)
    text = tab.locator(".slides").inner_text()
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    violations = []
    for place in (0, len(sheets) // 2):
        tab.evaluate(
            "i => { const { h, v } = Reveal.getIndices(Reveal.getSlides()[i]); Reveal.slide(h, v); }", place
        )
        violations += [one["id"] for one in tab.evaluate("() => axe.run()")["violations"]]
    tab.close()
    assert not violations, f"{path}: {violations}"
    assert not outside and not errors, f"{path}: {outside} {errors}"
    assert "Traceback" not in text and "{eq}" not in text and "{result}" not in text
    for sheet in sheets:
        assert sheet["low"] <= 0 and sheet["wide"] <= 0, f"{path}: over the edge: {sheet}"
        assert sheet["notes"] and not sheet["blank"] and not sheet["wrong"], f"{path}: {sheet}"


@pytest.mark.book
def test_what_does_not_fit_goes_on_a_further_slide(site: str, context: Any) -> None:
    text = "\n\n".join(
        f"- point {i}\n- and more\n- and more" if i % 2 else f"$$\nx_{i}\n$$" for i in range(12)
    )
    rows = "\n".join(f"| {i} | x |" for i in range(40))
    table = new_markdown_cell(f"## Too tall\n\n| a | b |\n|---|---|\n{rows}")
    made = deck(
        new_markdown_cell(f"## S\n\n{text}"), new_code_cell("1", metadata=ALT, outputs=[FIGURE]), table
    )
    tab = context.new_page()
    tab.route("**/slides/made.html", lambda route: route.fulfill(body=made.html(), content_type="text/html"))
    tab.goto(f"{site}/slides/made.html", wait_until="load")
    tab.wait_for_function(READY)
    found = tab.evaluate(MEASURE)
    tab.close()
    titles = [one["title"] for one in found]
    assert titles.count("S") >= 3 and titles == sorted(titles, key=["T", "S", "Too tall"].index)
    assert all(one["low"] <= 0 and one["notes"] for one in found), found


@pytest.mark.book
@pytest.mark.parametrize("page", DECKS)
def test_the_links_of_a_deck_resolve(page: str, html: Path) -> None:
    here = html / book_contents.deck(page)
    assert not broken(here, tree(here))


@pytest.mark.book
@pytest.mark.parametrize("page", DECKS)
def test_a_chapter_leads_to_its_slides(page: str, html: Path) -> None:
    assert f'{book_contents.deck(page)}">Slides</a>' in (html / f"{page}.html").read_text(encoding="utf-8")
