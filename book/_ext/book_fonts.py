"""Fonts that a page does not wait for: Font Awesome's files hold the icons that the book draws, without the thousands that it does not.

The theme's two files are a quarter of a megabyte, more than all other text and style of a page. What is kept is found in the built
pages and scripts: every ``fa-NAME`` there, and every character that a style sheet of ours or the theme's names as content.
"""

import re
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset
from sphinx.application import Sphinx

ICON = re.compile(r"\bfa-([a-z][a-z0-9-]+)")
RULE = re.compile(r"((?:\.fa-[a-z0-9-]+:before,?)+)\{content:\"\\([0-9a-f]+)\"\}")
CONTENT = re.compile(r"content:\s*[\"']\\([0-9a-f]{4})[\"']")
HOME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"


def used(site: Path) -> set[int]:
    """Code points of the icons that pages, scripts and styles draw."""
    static = site / "_static"
    sheet = next(static.glob("vendor/fontawesome/*/css/all.min.css"))
    texts = [
        *site.rglob("*.html"),
        *static.glob("*.js"),
        *static.glob("scripts/*.js"),
        *static.glob("live/*.js"),
    ]
    names = {name for path in texts for name in ICON.findall(path.read_text(encoding="utf-8"))}
    icons = {
        int(code, 16)
        for selectors, code in RULE.findall(sheet.read_text(encoding="utf-8"))
        if names & set(ICON.findall(selectors))
    }
    styles = [*static.glob("*.css"), *static.glob("styles/*.css"), *static.glob("live/*.css")]
    return icons | {
        int(code, 16) for path in styles for code in CONTENT.findall(path.read_text(encoding="utf-8"))
    }


def shrink(app: Sphinx, error: Exception | None) -> None:
    """From the theme's own files, so that a second build finds whole ones."""
    if error or app.builder.format != "html":
        return
    icons = used(Path(app.outdir))
    for path in Path(app.outdir, "_static").glob("vendor/fontawesome/*/webfonts/*.woff2"):
        options = subset.Options(flavor="woff2", layout_features=[], notdef_outline=False)
        font = subset.load_font(str(HOME / path.relative_to(Path(app.outdir, "_static"))), options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=icons)
        subsetter.subset(font)
        temporary = path.with_suffix(".tmp")
        subset.save_font(font, str(temporary), options)
        temporary.replace(path)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", shrink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
