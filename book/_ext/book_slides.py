"""Slides: one deck a chapter, made of the chapter's own marked cells, in `html/slides/`.

A cell is on a slide if its metadata say so (`{"slideshow": {"slide_type": "slide"}}`, "subslide", or "notes"; JupyterLab sets it in
the property inspector). A slide shows titles, the first sentence of a cell (not of "notes"), formulas, boxes, tables, code and
figures. All sentences of these cells become speaker notes, below what book/teaching.yml has for that section, so that neither can
drift from the chapter. Key S opens the notes. What does not fit on a slide goes on a further one: the browser, which can measure,
sees to that (`book/_static/slides.js`).
"""

import base64
import io
import re
from pathlib import Path
from typing import Any

import book_answers as answers
import book_results as results
import book_teaching as teaching
import nbformat
from book_contents import ROOT, chapters, deck
from book_page import shown_size
from book_plain import Plain, blocks, directive, options_of
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

BOXES = {"predict", "misconception", "retain"}
CLOSED = re.compile(r"Exercises|Sources")
ASIDE = ("<", "You can forget", "**Sources", "**Where next")
SHOWN = {"math_block", "math_block_label", "amsmath", "table_open", "bullet_list_open", "ordered_list_open"}
WIDTH, HEIGHT = 1160, 430  # of a figure at most, in pixels of a slide of 1280 × 720
SENTENCE = re.compile(r"(?<=[.?!:])\s+(?=[A-Z$*“(`\[])")


def lead(paragraph: str) -> str:
    """Its first sentence, with the second if the first says little; a dot inside a formula ends none."""
    hidden: list[str] = []
    masked = re.sub(r"\$[^$]+\$", lambda m: hidden.append(m[0]) or f"$\0{len(hidden) - 1}\0$", paragraph)
    first, *others = SENTENCE.split(" ".join(masked.split()))
    first = f"{first} {others[0]}" if others and len(first) < 45 else first
    return re.sub(r"\$\0(\d+)\0\$", lambda m: hidden[int(m[1])], first)


class Deck:
    """The cells of one chapter's deck: a slide is a title, its parts, and notes."""

    def __init__(self, nb: NotebookNode, page: str, plain: Plain) -> None:
        self.page, self.plain = page, plain
        self.cells: list[NotebookNode] = []
        self.titles: list[str] = []
        self.silent = False  # in a section that no talk needs
        self.sealed = (
            False  # what comes next shall wait for a slide of its own: the question whose answer it is
        )
        for cell in nb.cells:
            kind = cell.metadata.get("slideshow", {}).get("slide_type")
            if kind in ("slide", "subslide", "notes"):
                self.text(cell.source, kind == "notes") if cell.cell_type == "markdown" else self.code(cell)

    def open(self, title: str, kind: str = "slide") -> None:
        """A section's first slide, with what the guide says of it, or a further one ("subslide")."""
        if len(self.titles) == 1:
            self.cells.append(
                new_markdown_cell(f"[The chapter](../{self.page}.html) · press S for the speaker's notes")
            )
        self.sealed = False
        self.add(new_markdown_cell(f"## {title}"), kind)
        self.titles.append(title)
        page = self.page.removeprefix("book/")
        if kind == "slide":
            self.note(*(teaching.remarks(page, title) if self.titles[1:] else teaching.opening(page)))

    def add(self, cell: NotebookNode, kind: str) -> None:
        cell.metadata["slideshow"] = {"slide_type": kind}
        self.cells.append(cell)

    def put(self, cell: NotebookNode) -> None:
        if self.sealed:
            self.open(self.titles[-1], "subslide")
        self.cells.append(cell)

    def note(self, *words: str) -> None:
        for said in words:
            self.add(new_markdown_cell(said), "notes")

    def text(self, source: str, said: bool) -> None:
        """The blocks of a text cell; the first sentence of it, unless that is said only, and of each section in it is shown."""
        for token, raw in blocks(source):
            name, title = directive(token) or ("", "")
            if token.type == "heading_open":
                title = self.plainly(raw.lstrip("# "))
                self.silent, said = bool(CLOSED.fullmatch(title)), False
                if not self.silent:
                    self.open(title)
            elif name == "admonition":
                self.box(title, token.content)
            elif self.silent or raw.startswith(ASIDE):
                continue
            elif token.type == "paragraph_open":
                said = self.paragraph(self.plainly(raw), said)
            elif token.type in SHOWN or name == "list-table":
                self.put(new_markdown_cell(self.plainly(raw)))

    def plainly(self, raw: str) -> str:
        """Plain Markdown, whose links to places of the page lead there from the deck."""
        return self.plain.text(raw, self.page).replace("](#", f"](../{self.page}.html#")

    def paragraph(self, words: str, said: bool) -> bool:
        """Its first sentence is shown if it is the cell's first, and is no part of the opening; the whole is for the speaker."""
        question = words.startswith("**The question.**")
        opening = len(self.titles) == 1 and not question  # what it teaches and assumes
        if not said and not opening:
            self.put(new_markdown_cell(words if question else lead(words)))
            self.sealed = question
        self.note(words)
        return said or not opening

    def box(self, title: str, content: str) -> None:
        """A box of the kinds that a talk needs; in a chapter's last cell it comes after its exercises."""
        options, content = options_of(content)
        kind = next(iter(BOXES.intersection(options.get("class", "").split())), "")
        if not kind:
            return
        if kind == "retain":
            self.open(title)
        shown = answers.asked(content)
        words = self.plainly(shown if kind == "retain" else f"{title}\n\n{shown}")
        self.put(new_markdown_cell(f'<div class="box {kind}">\n\n{words}\n\n</div>'))
        self.sealed = kind == "predict"
        if listed := answers.said(content):
            self.note(self.plainly(listed))

    def code(self, cell: NotebookNode) -> None:
        """Short code, what it printed, and its figures."""
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        printed = [o for o in cell.outputs if o.output_type == "stream"]
        lines = cell.source.count("\n") + 1
        hidden = "hide-input" in cell.metadata.get("tags", ())
        if not hidden and (2 < lines < 6 if pictures else lines < 18):
            source = re.sub(r"^# NBVAL_\w+\n|\s+# NBVAL_\w+", "", cell.source)
            self.put(new_code_cell(source, outputs=printed))
        elif printed:
            self.put(new_code_cell(outputs=printed, metadata={"tags": ["hide-input"]}))
        for picture in pictures:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            self.figure(picture.data["image/png"], alt)

    def figure(self, png: str, alt: str) -> None:
        """As large as a slide allows, up to 1.6 times its size on the page."""
        width, height = shown_size(Image.open(io.BytesIO(base64.b64decode(png))))
        scale = min(HEIGHT / height, WIDTH / width, 1.6)
        size = {"alt": alt, "height": round(scale * height), "width": round(scale * width)}
        shown = new_output("display_data", data={"image/png": png}, metadata={"image/png": size})
        self.put(new_code_cell(outputs=[shown], metadata={"tags": ["hide-input"]}))

    def html(self) -> str:
        """The deck as one page; figures are in it, scripts and styles are the book's."""
        from nbconvert.exporters import SlidesExporter
        from traitlets.config import Config

        for i, cell in enumerate(self.cells):
            cell.id = f"cell-{i}"  # the same in every build
        nb = new_notebook(
            cells=self.cells, metadata={"title": self.titles[0], "language_info": {"name": "python"}}
        )
        config = Config(
            TagRemovePreprocessor={"enabled": True, "remove_input_tags": {"hide-input"}},
            SlidesExporter={"exclude_anchor_links": True},
        )
        templates = [str(ROOT / "book" / "_templates")]
        exporter = SlidesExporter(config=config, template_name="slides", extra_template_basedirs=templates)
        return str(exporter.from_notebook_node(nb)[0])


def write_slides(app: Sphinx, error: Exception | None) -> None:
    """One page a chapter."""
    if error or app.builder.format != "html":
        return
    plain, folder = Plain(app, ".."), Path(app.outdir, "slides")
    folder.mkdir(exist_ok=True)
    for page in chapters():
        if page not in app.env.found_docs:
            continue
        try:
            made = Deck(nbformat.read(app.env.doc2path(page), as_version=4), page, plain)
        except results.ResultError:  # the chapter's page has said so
            continue
        if not made.titles:
            logger.warning(
                "%s has no slides: mark cells in JupyterLab (Property Inspector, Slide Type)", page
            )
            continue
        Path(app.outdir, deck(page)).write_text(made.html(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write_slides)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
