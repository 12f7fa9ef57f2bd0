"""What a page says of itself to those who do not see it yet: browsers, search engines, a link in a chat; and two pages for the lost.

- chapters carry their numbers, in titles and in the sidebar;
- every page has a description, the question of a chapter or the first sentence, and the card that a shared link shows;
- a wrong address leads to `404.html`, which Pages serves;
- search works from disk as well: what it fetches over HTTP, the words of the pages found, also lies in a script.
"""

import json
import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from book_contents import chapters
from book_launch import site
from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.application import Sphinx

CARD = "_static/card.png"
FIRST = """<script>
try { localStorage.length; } catch {
  Object.defineProperty(window, "localStorage", { value: { getItem: () => null, setItem() {}, removeItem() {} } });
}
if (location.protocol !== "file:") document.head.append(Object.assign(document.createElement("link"), {
  rel: "preload", as: "font", crossOrigin: "", href: "HOME/vendor/source-sans-3/source-sans-3-latin-wght-normal.woff2" }));
</script>"""
"""Before all other scripts: where a browser keeps nothing, the theme may ask all the same; and the typeface sets out before the style
sheet asks for it (from disk a page may not do that, and need not)."""
LONGEST = 200
"""Characters of a description; search engines show about so many."""


def number_of(page: str) -> str:
    """The number of a chapter; nothing for other pages."""
    found = re.match(r"(\d+)_", page.rpartition("/")[2]) if page in chapters() else None
    return str(int(found[1])) if found else ""


def number_titles(app: Sphinx, doctree: nodes.document) -> None:
    """The number before a chapter's title, wherever the title is taken up: sidebar, next and previous, search."""
    number = number_of(app.env.docname)
    title = next(iter(doctree.findall(nodes.title)), None)
    if number and title is not None:
        title.insert(0, nodes.inline(text=f"{number}\u00a0", classes=["chapter-number"]))


def describe(body: BeautifulSoup) -> str:
    """A page in one or two sentences: the question that a chapter answers, else the first that it says."""
    texts = [" ".join(p.get_text().split()) for p in body("p") if not p.find_parent("noscript")]
    asked = [text.removeprefix("The question. ") for text in texts if text.startswith("The question. ")]
    sentences = [text for text in texts if len(text) > 40 and text.endswith((".", "?", ":"))]
    return short((asked or sentences or [""])[0])


def short(text: str) -> str:
    """At most so many characters, cut between words."""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 1].rpartition(" ")[0].rstrip(",;:") + "…"


def add_head(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Title, description and card."""
    if page == "book/index":
        context["docstitle"] = ""  # the book's name stands there already
    if page == "search":
        app.builder.add_js_file("disk.js")  # type: ignore[attr-defined]
    if doctree is None:
        return
    title = BeautifulSoup(str(context.get("title", "")), "html.parser").get_text()
    if number := number_of(page):
        title = title.replace(f"{number}\u00a0", f"{number}. ", 1)
    context["title"] = escape(title, quote=False)
    home = site(app.config)
    facts = {
        "og:title": title,
        "og:description": describe(context["soup"]),
        "og:type": "website" if page == "book/index" else "article",
        "og:url": f"{home}/{page}.html",
        "og:image": f"{home}/{CARD}",
        "og:image:alt": "From noise to data: a teacher in many small steps, a student in one leap",
        "og:site_name": str(app.config.html_title),
    }
    lines = [f'<meta name="description" content="{escape(facts["og:description"])}">']
    lines += [f'<meta property="{name}" content="{escape(value)}">' for name, value in facts.items() if value]
    lines.append('<meta name="twitter:card" content="summary_large_image">')
    lines.append(FIRST.replace("HOME", context["pathto"]("_static", 1)))
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines)


# --- for the lost ----------------------------------------------------------------------------------

LOST = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Page not found — {project}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 34rem; margin: 12vh auto; padding: 0 1.2rem; font: 1.125rem/1.6 "Source Sans 3", system-ui, sans-serif; }}
</style>
</head>
<body>
<main>
<h1>Only noise here</h1>
<p>There is no page at this address. It may have moved, or the link has a typo.</p>
<p><a href="{home}/book/index.html">The front page</a> has every chapter, and <a href="{home}/search.html">search</a> knows every word.</p>
</main>
</body>
</html>
"""


def write_lost(app: Sphinx, error: Exception | None) -> None:
    """`404.html`: its links work from any depth, so they begin at the site's root."""
    if not error and app.builder.format == "html":
        home = urlsplit(site(app.config)).path
        page = LOST.format(home=home, project=escape(str(app.config.html_title)))
        Path(app.outdir, "404.html").write_text(page, encoding="utf-8")


def gather_words(app: Sphinx, doctree: nodes.document) -> None:
    """A page's text, without code and what is raw, kept beside its doctree."""
    silent = (nodes.raw, nodes.literal_block, nodes.comment)
    texts = (text.astext() for text in doctree.findall(nodes.Text) if not isinstance(text.parent, silent))
    _words(app.env)[app.env.docname] = " ".join(" ".join(texts).split())


def _words(env: Any) -> dict[str, str]:
    if not hasattr(env, "book_words"):
        env.book_words = {}
    found: dict[str, str] = env.book_words
    return found


def forget_words(app: Sphinx, env: Any, page: str) -> None:
    _words(env).pop(page, None)


def merge_words(app: Sphinx, env: Any, pages: list[str], other: Any) -> None:
    _words(env).update({page: _words(other)[page] for page in pages if page in _words(other)})


def write_words(app: Sphinx, error: Exception | None) -> None:
    """`_static/words.js`: every page as text, for the search of a book on disk."""
    if error or app.builder.format != "html":
        return
    words = {f"{page}.html": text for page, text in sorted(_words(app.env).items())}
    text = json.dumps(words, ensure_ascii=False, separators=(",", ":"))
    Path(app.outdir, "_static", "words.js").write_text(f"window.words = {text};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", number_titles, priority=400)  # before the titles are collected
    app.connect("html-page-context", add_head, priority=960)  # after book_page.mend, which parses the page
    app.connect("doctree-read", gather_words)
    app.connect("env-purge-doc", forget_words)
    app.connect("env-merge-info", merge_words)
    app.connect("build-finished", write_lost)
    app.connect("build-finished", write_words)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
