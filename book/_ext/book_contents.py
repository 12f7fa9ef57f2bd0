"""The table of contents, read once for all that follows it, and the lists that the written pages are made of."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = "exercises/solutions/"
_toc = cache(parse_toc_yaml)


def pages() -> list[str]:
    """Every page of the table of contents, in order, from the root of the repository and without suffix."""
    return list(_toc(ROOT / "_toc.yml"))


@cache
def steps() -> dict[str, tuple[str, int, int, str]]:
    """page -> (track, step, steps of that track, what kind of page), for the parts that are tracks."""
    toc, found = _toc(ROOT / "_toc.yml"), {}
    for part in toc.root.subtrees:
        if not part.caption.endswith("track"):
            continue
        for step, chapter in enumerate(part.items, start=1):
            place = (part.caption, step, len(part.items))
            found[chapter] = (*place, "")
            for section in (page for tree in toc[chapter].subtrees for page in tree.items):
                kind = "solutions" if section.startswith(SOLUTIONS) else "exercises"
                found[section] = (*place, f", {kind}")
    return found


def chapters() -> list[str]:
    """The chapters of both tracks, in order, without the quizzes and the page that is run and not taught."""
    return [
        page
        for page in pages()
        if re.match(r"book/(undergraduate|postgraduate)/(?!quiz|your_model|colab_t4)", page)
    ]


def deck(page: str) -> str:
    """book/undergraduate/01_noise → slides/01_noise.html, and nothing for a page that has no slides."""
    return f"slides/{page.rpartition('/')[2]}.html" if page in chapters() else ""


def is_notebook(app: Sphinx, page: str) -> bool:
    return app.env.doc2path(page).endswith(".ipynb")


def list_table(heads: list[str], rows: list[list[Any]], widths: str = "", title: str = "") -> str:
    """A {list-table} with a head."""
    options = [":header-rows: 1", *([f":widths: {widths}"] if widths else [])]
    lines = ["* - " + "\n  - ".join(map(str, row)) for row in (heads, *rows)]
    return "\n".join([f"```{{list-table}} {title}".rstrip(), *options, "", *lines, "```"])
