"""Slides: one deck a chapter, made of the chapter's own marked cells, in `html/slides/`.

A cell is on a slide if its metadata say so (`{"slideshow": {"slide_type": "slide"}}`, "subslide", or "notes"; JupyterLab sets it in
the property inspector); in a notebook without any such mark a rule chooses (:func:`by_rule`). The sheet shows titles, the first
sentence of a cell (not of "notes"), formulas, boxes, tables, code and figures. All sentences of these cells become speaker notes,
below what book/teaching.yml has for that section, so that neither can drift from the chapter. Key S opens the notes.
"""

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import book_results as results
import book_teaching as teaching
import nbformat
from book_access import shown_size
from book_plain import Plain
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from sphinx.application import Sphinx

BOXES = {"predict", "misconception", "retain"}
CLOSED = re.compile(r"Exercises|Sources")
ASIDE = ("<", "You may forget", "**Sources", "**The road on")
WIDTH, HEIGHT, FIGURE = (
    1160,
    560,
    430,
)  # of what may stand below a title, and of a figure, in pixels of the sheet
LINE, LETTERS, CODE_LINE, CODE_LETTERS = 40, 74, 27, 90
SENTENCE = re.compile(r"(?<=[.?!:])\s+(?=[A-Z$*“(`\[])")
PARSER = create_md_parser(
    MdParserConfig(enable_extensions={"amsmath", "attrs_block", "attrs_inline", "colon_fence", "dollarmath"}),
    RendererHTML,
)


@dataclass
class Slide:
    """One sheet: its title, the section that it belongs to, what it shows, and what the speaker reads."""

    title: str
    section: str
    first: bool
    body: list[NotebookNode] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    height: float = 0
    sealed: bool = False
    """Whether what comes next shall wait for a sheet of its own: the opening, and a question whose answer it is."""


# --- which cells -----------------------------------------------------------------------------------


def by_rule(nb: NotebookNode) -> dict[int, str]:
    """Position → slide type, for a notebook whose author has marked nothing: the text, the figures, and the short functions."""
    found, done = {}, False
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            heads = re.findall(r"^##+ (.+)$", cell.source, re.M)
            if not done and not re.match(r"## Exercises|`{3,}\{(exercise|solution)", cell.source):
                found[i] = "slide" if i == 0 or heads else "subslide"
            elif re.search(r"^:class: retain", cell.source, re.M):
                found[i] = "slide"
            done = done or "Exercises" in heads
        elif not done and i > 2:
            shown = any("image/png" in out.get("data", {}) for out in cell.outputs)
            words = sum(o.text.count("\n") for o in cell.outputs if o.output_type == "stream") < 16
            short = (
                words and "hide-input" not in cell.metadata.get("tags", ()) and cell.source.count("\n") < 14
            )
            if shown or (short and (re.search(r"^def ", cell.source, re.M) or cell.outputs)):
                found[i] = "subslide"
    return found


def marks(nb: NotebookNode) -> dict[int, str]:
    """Position → slide type of the cells that are shown."""
    types = {i: c.metadata.get("slideshow", {}).get("slide_type", "") for i, c in enumerate(nb.cells)}
    found = {i: kind for i, kind in types.items() if kind in ("slide", "subslide", "notes")}
    return found if any(types.values()) else by_rule(nb)


# --- from cells to sheets --------------------------------------------------------------------------


def blocks(source: str) -> list[tuple[str, str, str]]:
    """(kind, what the fence is called, text) of each block of a text cell."""
    lines = source.split("\n")
    tokens = [t for t in PARSER.parse(source) if t.level == 0 and t.nesting >= 0 and t.map]
    return [(t.type, t.info, "\n".join(lines[t.map[0] : t.map[1]]).strip()) for t in tokens if t.map]


def lead(paragraph: str) -> str:
    """Its first sentence, with the second if the first says little; a dot inside a formula ends none."""
    hidden: list[str] = []
    masked = re.sub(r"\$[^$]+\$", lambda m: hidden.append(m[0]) or f"$\0{len(hidden) - 1}\0$", paragraph)
    first, *others = SENTENCE.split(" ".join(masked.split()))
    first = f"{first} {others[0]}" if others and len(first) < 45 else first
    return re.sub(r"\$\0(\d+)\0\$", lambda m: hidden[int(m[1])], first)


def lines_of(text: str, letters: int = LETTERS) -> int:
    """How many lines it takes, roughly; links and formulas count by what is seen of them."""
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"\\[a-zA-Z]+", "x", text)
    return sum(1 + len(line) // letters for line in text.split("\n") if line.strip())


def row_height(row: str) -> float:
    """Of a row of a table, whose cells share the width; the line below the head counts nothing."""
    cells = row.strip("|").split("|")
    lines = max(lines_of(cell, 84 // len(cells)) for cell in cells)
    return 0 if set(row) <= set("|-: ") else 11 + 30 * max(1, lines)


class Deck:
    """The sheets of one chapter."""

    def __init__(self, nb: NotebookNode, page: str, plain: Plain) -> None:
        self.page, self.plain = page, plain
        self.slides: list[Slide] = []
        self.silent = False
        kinds = marks(nb)
        for i, cell in enumerate(nb.cells):
            if i in kinds and cell.cell_type == "markdown":
                self.text(cell.source, kinds[i] == "notes")
            elif i in kinds:
                self.code(cell)
        self.add_teaching()

    def open(self, title: str, section: str = "") -> None:
        self.slides.append(Slide(title, section or self.slides[-1].section, bool(section)))

    def put(self, cell: NotebookNode, height: float) -> None:
        """On this sheet where it fits, else on a further one of the same title."""
        now = self.slides[-1]
        if now.sealed or (now.body and now.height + height > HEIGHT):
            self.open(now.title)
        self.slides[-1].body.append(cell)
        self.slides[-1].height += height

    def text(self, source: str, said: bool) -> None:
        """The blocks of a text cell; the first sentence of it, unless that is said only, and of each section in it is shown."""
        for kind, info, raw in blocks(source):
            if kind == "heading_open":
                title = self.plain.inline(raw.lstrip("# "), self.page)
                self.silent, said = bool(CLOSED.fullmatch(title)), False
                if not self.silent:
                    self.open(title, title)
            elif kind in ("fence", "colon_fence") and info.startswith("{admonition}"):
                self.box(info.removeprefix("{admonition}").strip(), raw)
            elif self.silent or raw.startswith(ASIDE):
                continue
            elif kind == "paragraph_open":
                said = self.paragraph(raw, said)
            elif kind.startswith("math_block") or kind == "amsmath":
                self.put(new_markdown_cell(self.plain.inline(raw, self.page)), 70 + 55 * raw.count("\\\\"))
            elif kind == "table_open" or info.startswith("{list-table}"):
                table = self.plain.text(raw, self.page)
                self.put(new_markdown_cell(table), 20 + sum(map(row_height, table.strip().split("\n"))))
            elif kind in ("bullet_list_open", "ordered_list_open"):
                self.put(new_markdown_cell(self.plain.text(raw, self.page)), 14 + LINE * lines_of(raw))

    def paragraph(self, raw: str, said: bool) -> bool:
        """Its first sentence is shown if it is the cell's first; the whole is for the speaker."""
        words = self.plain.inline(raw, self.page)
        question = words.startswith("**The question.**")
        if len(self.slides) == 1 and not question:  # the opening: what it teaches and assumes
            self.slides[-1].notes.append(words)
            return said
        if not said:
            shown = words if question else lead(words)
            self.put(new_markdown_cell(shown), 14 + LINE * lines_of(shown))
            self.slides[-1].sealed = question
        self.slides[-1].notes.append(words)
        return True

    def box(self, title: str, raw: str) -> None:
        """A box of the kinds that a talk needs; in a chapter's last cell it comes after its exercises."""
        options = re.search(r"^:class: (.*)$", raw, re.M)
        classes = set(options[1].split()) if options else set()
        if not (kind := next(iter(classes & BOXES), "")):
            return
        if kind == "retain":
            self.open(title, title)
        inner = re.sub(r"\A[^\n]*\n(?::[\w-]+:[^\n]*\n)*|\n?[:`]{3,}\Z", "", raw)
        words, head = self.plain.text(inner, self.page), "" if kind == "retain" else f"{title}\n\n"
        self.put(
            new_markdown_cell(
                f'<div class="box {kind}">\n\n{self.plain.inline(head, self.page)}{words}\n\n</div>'
            ),
            40 + 50 * bool(head) + LINE * lines_of(words, 70),
        )
        self.slides[-1].sealed = kind == "predict"

    def code(self, cell: NotebookNode) -> None:
        """Short code, what it printed, and its figures."""
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        printed = [o for o in cell.outputs if o.output_type == "stream"]
        lines = lines_of(cell.source, CODE_LETTERS) + cell.source.count("\n\n")
        tall = CODE_LINE * sum(lines_of(o.text, CODE_LETTERS) for o in printed)
        hidden = "hide-input" in cell.metadata.get("tags", ())
        if not hidden and (2 < lines < 6 if pictures else lines < 18):
            code, above = self.plain_code(cell.source), 30 + CODE_LINE * lines
            if above + tall <= HEIGHT:
                self.put(new_code_cell(code, outputs=printed), above + tall)
                printed = []
            else:
                self.put(new_code_cell(code), above)
        if printed:
            self.put(new_code_cell("", outputs=printed), tall)
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        for picture in pictures:
            self.figure(picture, alt)

    def figure(self, output: NotebookNode, alt: str) -> None:
        """As large as fits: on this sheet if it is not much smaller there, else on one of its own."""
        width, height = shown_size(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
        most = min(FIGURE, WIDTH * height / width, 1.6 * height)
        now = self.slides[-1]
        left = HEIGHT - now.height - 110 if now.body else most  # room for a sentence below it
        if now.sealed or left < 0.75 * most:
            self.open(now.title)
            left = most
        tall = min(most, left)
        size = {"alt": alt, "height": round(tall), "width": round(tall * width / height)}
        picture = nbformat.v4.new_output("display_data", data={"image/png": output.data["image/png"]})
        picture.metadata["image/png"] = NotebookNode(size)
        self.put(new_code_cell("", outputs=[picture]), tall + 12)

    def plain_code(self, source: str) -> str:
        return re.sub(r"^# NBVAL_\w+\n|\s+# NBVAL_\w+", "", source)

    def add_teaching(self) -> None:
        """What the guide says, on the first sheet and at the sections that it names."""
        page = self.page.removeprefix("book/")
        for slide in self.slides:
            if slide is self.slides[0]:
                slide.notes[:0] = teaching.opening(page)
            elif slide.first:
                slide.notes[:0] = teaching.remarks(page, slide.section)

    def notebook(self) -> NotebookNode:
        """For nbconvert: each sheet a first cell with its title, then its parts, then the notes."""
        nb = new_notebook(metadata={"title": self.slides[0].title, "language_info": {"name": "python"}})
        for i, slide in enumerate(self.slides):
            head = new_markdown_cell(f"## {slide.title}")
            head.metadata["slideshow"] = {"slide_type": "slide" if slide.first else "subslide"}
            notes = new_markdown_cell("\n\n".join(slide.notes) or f"The chapter goes on: {slide.title}.")
            notes.metadata["slideshow"] = {"slide_type": "notes"}
            if not i:
                chapter = f"[The chapter](../{self.page}.html) · press S for the speaker's notes"
                slide.body.append(new_markdown_cell(chapter))
            nb.cells += [head, *slide.body, notes]
        for i, cell in enumerate(nb.cells):
            cell.id = f"sheet-{i}"  # the same in every build
        return nb


# --- in the build ------------------------------------------------------------------------------------


def chapters(pages: Any) -> list[str]:
    """The chapters among the pages: notebooks of the two tracks with a number or a name of their own, but no quiz."""
    return sorted(p for p in pages if re.match(r"book/(undergraduate|postgraduate)/(?!quiz)", p))


def address(page: str) -> str:
    """book/undergraduate/01_noise → slides/01_noise.html"""
    return f"slides/{page.rpartition('/')[2]}.html"


def html(nb: NotebookNode) -> str:
    """The deck as one page; figures are in it, scripts and styles are the book's."""
    from nbconvert.exporters import SlidesExporter

    exporter = SlidesExporter(
        template_name="slides", extra_template_basedirs=[str(results.ROOT / "book" / "_templates")]
    )
    body, _ = exporter.from_notebook_node(nb)
    # Of an empty code cell only the outputs are wanted.
    return re.sub(r'<div class="highlight hl-[\w-]+"><pre><span></span>\s*</pre></div>', "", body)


def write_slides(app: Sphinx, error: Exception | None) -> None:
    """One page a chapter."""
    if error or app.builder.format != "html":
        return
    plain, folder = Plain(app, ".."), Path(app.outdir, "slides")
    folder.mkdir(exist_ok=True)
    for page in chapters(app.env.found_docs):
        if (source := Path(app.env.doc2path(page))).suffix == ".ipynb":
            try:
                deck = Deck(nbformat.read(source, as_version=4), page, plain)
            except results.ResultError:  # the chapter's page has said so
                continue
            Path(app.outdir, address(page)).write_text(html(deck.notebook()), encoding="utf-8")


def add_link(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Beside the other buttons below a chapter's title."""
    if doctree is None or page not in chapters([page]) or not app.env.doc2path(page).endswith(".ipynb"):
        return
    link = f' <a href="{"../" * page.count("/")}{address(page)}">Slides</a></p>'
    context["body"] = re.sub(
        r'(<p class="launch">.*?)</p>', lambda m: m[1] + link, context["body"], count=1, flags=re.S
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", add_link, priority=910)  # after book_launch has written the line
    app.connect("build-finished", write_slides)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
