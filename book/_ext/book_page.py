"""The one place that edits a page after Sphinx has written it: what the theme leaves out, and what it loads for nothing.

- below the title stands how far along its track the page is, and of a notebook where it can be run and its slides;
- next leads from a chapter to its exercises and from there to the next chapter; solutions are reached from the sidebar;
- at its end stands where its numbers come from;
- code is shown without the marks that tools read at the ends of its lines, and short words of it are not broken;
- printed output wraps where it is prose, and not where it is columns; a table's row of one word goes across it;
- a fold of code is called what it holds; the sidebar's toggles have names, a table's empty corner is no header, and the bibliography is a list of items;
- a margin note is a note, not a landmark;
- without JavaScript the light theme is there, and a sentence says what is missing;
- pictures keep their place while they load, those further down load when a reader comes near, and wide ones scroll on a phone instead of shrinking until nobody can read them;
- a page with a ``<div class="live-NAME">`` gets the scripts and the style of that live part, and no other page does;
- a page without a formula does not get MathJax (a quarter of a megabyte compressed);
- no page gets Font Awesome's script (half a megabyte): its fonts draw the same icons, see ``book/_templates``.
"""

import hashlib
import json
import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

import book_launch as launch
from book_contents import ROOT, SOLUTIONS, is_notebook, steps
from bs4 import BeautifulSoup, Tag
from PIL import Image
from sphinx.application import Sphinx

BOOK = ROOT / "book"
LIVE = BOOK / "_static" / "live"
PARTS: dict[str, tuple[str, ...]] = {
    "answers": (),
    "generator": ("networks",),
    "sketch": ("networks",),
    "photos": ("networks",),
    "denoise": ("exact",),
    "learn": ("method",),
    "walk": ("exact",),
}
"""Live parts by their names, and which scripts each needs beside its own and ``common.js``."""
WIDE = 700  # pixels of a figure with several panels side by side
SHORT = 24  # letters of a word of code in a line of text that is not broken
MARK = re.compile(r"# (noqa\b(: [A-Z0-9, ]+)?|fmt: \w+|type: ignore(\[[\w, -]+\])?|NBVAL_\w+)")
"""What a linter, a formatter or a test reads at the end of a line; what is said of it in parentheses is for readers."""


def configure(app: Sphinx, config: Any) -> None:
    config.templates_path = [str(BOOK / "_templates"), *config.templates_path]  # before the themes' own


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """After all others have had the page."""
    body = BeautifulSoup(context.get("body", ""), "html.parser")
    choose_scripts(app, context, body)
    if doctree is None:
        return
    head = progress(page) + without_script(body)
    if is_notebook(app, page):
        head += launch.row(app, page)
        launch.add_buttons(app, page, context)
    mend_elements(app, body)
    if body.h1:
        body.h1.insert_after(BeautifulSoup(f"\n{head}", "html.parser"))
    context["body"], context["soup"] = str(body) + origins(body), body  # parsed once, for the page's head too

    for name, side in (("prev", 1), ("next", 2)):
        there = neighbour(app, page, side)
        if there and context.get(name):
            title = app.builder.render_partial(app.env.titles[there])["title"]  # type: ignore[attr-defined]
            context[name] = {"link": app.builder.get_relative_uri(page, there), "title": title}
        else:
            context[name] = None

    toctree = context["generate_toctree_html"]

    def named(*args: Any, **options: Any) -> BeautifulSoup:
        return name_toggles(BeautifulSoup(str(toctree(*args, **options)), "html.parser"))

    context["generate_toctree_html"] = named


# --- below the title -----------------------------------------------------------------------------


def progress(page: str) -> str:
    """How far along its track a page is; nothing on a page of no track."""
    if page not in steps():
        return ""
    track, step, count, kind = steps()[page]
    return f'<p class="track-progress" style="--done: {100 * step / count:.0f}%">{track}, step {step} of {count}{kind}</p>'


def without_script(body: BeautifulSoup) -> str:
    """What a reader without JavaScript is told, if the page needs it."""
    needed = {'[class^="math"]': "formulas appear as TeX", '[class^="cd-"]': "figures stand still"}
    missing = [words for mark, words in needed.items() if body.select_one(mark)]
    if not missing:
        return ""
    return f"<noscript><p><em>Without JavaScript {' and '.join(missing)} on this page.</em></p></noscript>\n"


# --- elements --------------------------------------------------------------------------------------


def mend_elements(app: Sphinx, body: BeautifulSoup) -> None:
    """Names and roles that assistive technology reads, and the sizes of pictures."""
    for cell in body("th"):
        if cell.decode_contents() in ("", "<p></p>"):
            cell.clear()
            cell.name = "td"
    for item in body("div", role="doc-biblioentry"):  # a deprecated role, not allowed in a list
        item["role"] = "listitem"
    for fold in body("summary", attrs={"aria-label": "Toggle hidden content"}):
        del fold["aria-label"]  # it is called what it shows
        name_fold(fold)
    mend_code(body)
    for row in body.select("tbody tr"):
        first, *rest = row.find_all(["th", "td"], recursive=False) or [None]
        if first and first.strong and rest and not any(one.get_text(strip=True) or one.img for one in rest):
            first["colspan"] = str(1 + len(rest))  # a heading among the rows
            for one in rest:
                one.decompose()
    for note in body("aside", class_="margin"):
        note.name, note["role"] = "div", "note"
        if (title := note.find(class_="sidebar-title")) and not title.contents:
            title.decompose()
    images = {name: path for path, name in app.builder.images.items()}
    for i, img in enumerate(body("img")):
        if i:  # the first may be what a reader sees at once
            img["loading"], img["decoding"] = "lazy", "async"
        path = images.get(posixpath.basename(img["src"]), "")
        if not path.endswith(".png"):
            continue
        with Image.open(Path(app.srcdir, path)) as picture:
            width, height = shown_size(picture)
            if is_ink(picture):
                img["class"] = [*(img.get("class") or []), "ink"]
        img["width"], img["height"] = str(width), str(height)
        if width > WIDE and width > 2 * height:
            img.wrap(body.new_tag("span", attrs={"class": "wide-picture"}))


def mend_code(body: BeautifulSoup) -> None:
    """Code as readers need it: in cells, in the text, and what it prints."""
    for comment in body.select(".highlight .c1"):
        said = without_mark(comment.get_text())
        if said:
            comment.string = said
            continue
        before = comment.previous_sibling
        if before and not before.get_text(strip=True):
            before.extract()
        comment.extract()
    for word in body.select("code.literal .pre"):
        if len(text := word.get_text()) > SHORT:
            word["class"] = ["pre", "long"]
            word.string = ""
            for part in re.split(r"(?<=[_./])(?=[^_./])", text):
                word.extend([part, body.new_tag("wbr")])
            word.contents[-1].extract()
    for printed in body.select(".cell_output .output.stream pre"):
        if is_prose(printed.get_text()):
            printed["class"] = [*(printed.get("class") or []), "prose"]


def without_mark(comment: str) -> str:
    """A comment at the end of a line for readers: nothing if it was for tools, else what it says."""
    found = MARK.match(comment)
    if not found:
        return comment
    rest = comment[found.end() :].strip().removeprefix("(").removesuffix(")")
    return f"# {rest}" if rest else ""


def is_prose(printed: str) -> bool:
    """Whether a text may wrap: columns stand apart by several spaces, or below each other within brackets."""
    return not any("  " in line.strip() or line.startswith(" ") for line in printed.splitlines())


def is_ink(picture: Image.Image) -> bool:
    """Whether a picture is gray ink on white paper, which a dark page may turn over; a photograph in color never is."""
    pixels: Any = picture.resize((100, 100), Image.Resampling.NEAREST).convert("RGBA").getdata()
    seen = [(max(rgb) - min(rgb), min(rgb)) for *rgb, alpha in pixels if alpha > 200]
    colored = sum(chroma > 24 for chroma, _ in seen)
    white = sum(low > 230 for _, low in seen)
    return len(seen) > 2000 and colored < 0.01 * len(seen) and white > 0.5 * len(seen)


def name_fold(summary: Tag) -> None:
    """What a fold of code holds, in the place of the words that all such folds share."""
    code = summary.find_next("pre")
    words = [one for one in summary("p") if one.get_text(strip=True).endswith("the code")]
    holds = fold_holds(code.get_text() if code else "")
    for one in words if holds else ():
        one.string = one.get_text(strip=True).replace("the code", holds)


def fold_holds(code: str) -> str:
    """A few words on a piece of code: the set-up, the functions it defines, or that it draws."""
    if code.startswith("# Setup"):
        return "the setup: imports and, in Colab, the installation"
    names = re.findall(r"^(?:def|class) (\w+)", code, re.M)
    if "plt.show()" in code and not names:
        return "the code that draws the figure"
    if names:
        several = ", ".join(names[:-1][:3]) + " and " + names[-1] if len(names) > 1 else names[0]
        return f"the code of {several}"
    return ""


def origins(body: BeautifulSoup) -> str:
    """A fold with the record of every dotted number on a page; it stands at the end."""
    found = sorted({str(one["data-origin"]) for one in body("span", class_="result")})
    if not found:
        return ""
    rows = "".join(f"<li>{escape(one)}</li>" for one in found)
    how = "Every dotted number on this page was measured in one of these runs. Click a number to see which."
    return f'<details class="origins"><summary>Where the numbers come from</summary><p>{how}</p><ul>{rows}</ul></details>'


def shown_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height on the page. A figure made for dense screens has two pixels for each of these, and says so by its dpi."""
    dpi = picture.info.get("dpi", (96, 96))[0]
    density = max(1, round(dpi / 110))  # 110: cdedu.plotting.STYLE["figure.dpi"]
    return round(picture.width / density), round(picture.height / density)


# --- around the text -------------------------------------------------------------------------------


def neighbour(app: Sphinx, page: str, side: int) -> str | None:
    """The page before (side 1) or after (side 2) in the contents that is no page of solutions."""
    relations = app.builder.relations  # type: ignore[attr-defined]
    there: str | None = relations.get(page, [None] * 3)[side]
    while there and there.startswith(SOLUTIONS):
        there = relations[there][side]
    return there


def name_toggles(sidebar: BeautifulSoup) -> BeautifulSoup:
    for toggle in sidebar("summary"):
        toggle["aria-label"] = f"Pages below {' '.join(toggle.find_parent('li').a.get_text().split())}"
    return sidebar


def set_theme(app: Sphinx, error: Exception | None) -> None:
    """Every page says a theme that exists; the theme's script, where it runs, replaces it before anything is drawn."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if 'data-theme="auto"' in page:
            path.write_text(page.replace('data-theme="auto"', 'data-theme="light"', 1), encoding="utf-8")


# --- scripts -----------------------------------------------------------------------------------------


def choose_scripts(app: Sphinx, context: dict[str, Any], body: BeautifulSoup) -> None:
    """MathJax for formulas, live parts for their boxes, and neither for other pages."""
    if not body.select_one('[class^="math"]'):
        context["script_files"][:] = [one for one in context["script_files"] if not _is_mathjax(one)]
    if body.select_one(".result"):
        app.builder.add_js_file("origins.js", defer="defer")  # type: ignore[attr-defined]
    found = [name for name in PARTS if body.select_one(f"div.live-{name}") and is_complete(name)]
    for script in dict.fromkeys(script for name in found for script in ("common", *PARTS[name], name)):
        attributes = live_attributes() if script == "networks" else {}
        # Before MathJax (500), for which nobody should have to wait with a finger on the page.
        app.builder.add_js_file(f"live/{script}.js", priority=100, defer="defer", **attributes)  # type: ignore[attr-defined]
    for style in ["parts", *found] if found else []:
        if (LIVE / f"{style}.css").is_file():
            app.builder.add_css_file(f"live/{style}.css")  # type: ignore[attr-defined]


def is_complete(part: str) -> bool:
    """Whether the networks of a part are there; without them its box keeps its still picture."""
    return part != "photos" or part in json.loads((LIVE / "manifest.json").read_bytes())["sets"]


def live_attributes() -> dict[str, str]:
    """What networks.js must know before it asks for anything: the size of its files, their version, and what there is besides digits."""
    data = (LIVE / "manifest.json").read_bytes()
    manifest = json.loads(data)
    assets, sets = manifest["assets"], manifest["sets"]

    def megabytes(*names: str) -> str:
        return f"{sum(assets[name]['bytes'] for name in names) / 1e6:.1f}"

    digits = sets.pop("digits")
    more = {
        name: {
            "classes": one["classes"],
            "guidance": one.get("guidance"),
            "megabytes": {
                "student": megabytes("runtime", "wasm", one["student"]),
                "teacher": megabytes(one["teacher"]),
            },
        }
        for name, one in sets.items()
    }
    version = hashlib.sha256(data + (LIVE / "engine.js").read_bytes()).hexdigest()[:12]
    size = megabytes("runtime", "wasm", digits["student"], digits["teacher"])
    return {"data-megabytes": size, "data-version": version, "data-sets": json.dumps(more)}


def _is_mathjax(script: Any) -> bool:
    name, text = getattr(script, "filename", "") or "", getattr(script, "attributes", {}).get("body") or ""
    return "mathjax" in str(name).lower() or text.startswith("window.MathJax")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_js_file("scroll.js", defer="defer")
    app.connect("config-inited", configure)
    app.connect("html-page-context", mend, priority=950)
    app.connect("build-finished", set_theme)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
