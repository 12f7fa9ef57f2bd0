"""What the theme leaves out: progress through a track, next and previous that follow it, names for all that assistive
technology reads.

- below the title stands how far along its track the page is, from the table of contents;
- next leads from a chapter to its exercises and from there to the next chapter; solutions are reached from the sidebar;
- the sidebar's toggles have names, a table's empty corner is no header, and the bibliography is a list of items;
- a margin note is a note, not a landmark;
- without JavaScript the light theme is there, and a sentence says what is missing;
- pictures keep their place while they load, and wide ones scroll on a phone instead of shrinking until nobody can read them.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup
from PIL import Image
from sphinx.application import Sphinx

WIDE = 700  # pixels of a figure with several panels side by side
NOTE = re.compile(r'<aside class="(margin [^"]*)">\s*(?:<p class="sidebar-title"></p>)?(.*?)</aside>', re.S)
PICTURE = re.compile(r'<img (?P<rest>[^>]*?src="[^"]*_images/(?P<name>[^"]+\.png)"[^>]*?)\s*/?>')
SOLUTIONS = "exercises/solutions/"


def steps(toc: Path) -> dict[str, tuple[str, int, int, str]]:
    """page -> (track, step, steps of that track, what kind of page), for the parts that are tracks."""
    found = {}
    for part in yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]:
        if not part["caption"].endswith("track"):
            continue
        for step, chapter in enumerate(part["chapters"], start=1):
            place = (part["caption"], step, len(part["chapters"]))
            found[chapter["file"]] = (*place, "")
            for section in chapter.get("sections", []):
                kind = "solutions" if section["file"].startswith(SOLUTIONS) else "exercises"
                found[section["file"]] = (*place, f", {kind}")
    return found


def progress(track: str, step: int, count: int, kind: str) -> str:
    return f'<p class="track-progress" style="--done: {100 * step / count:.0f}%">{track}, step {step} of {count}{kind}</p>'


def neighbour(app: Sphinx, page: str, side: int) -> str | None:
    """The page before (side 1) or after (side 2) in the contents that is no page of solutions."""
    relations = app.builder.relations  # type: ignore[attr-defined]
    there: str | None = relations.get(page, [None] * 3)[side]
    while there and there.startswith(SOLUTIONS):
        there = relations[there][side]
    return there


def name_toggles(sidebar: BeautifulSoup) -> BeautifulSoup:
    for toggle in sidebar("summary"):
        toggle["aria-label"] = f"Pages below {toggle.find_parent('li').a.get_text(strip=True)}"
    return sidebar


def shown_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height on the page. A figure made for dense screens has two pixels for each of these, and says so by its dpi."""
    density = max(
        1, round(picture.info.get("dpi", (96, 96))[0] / 110)
    )  # 110: cdedu.plotting.STYLE["figure.dpi"]
    return round(picture.width / density), round(picture.height / density)


def size_pictures(app: Sphinx, body: str) -> str:
    """Every picture with its width and height; a wide one in a box that can scroll."""
    images = {name: path for path, name in app.builder.images.items()}

    def sized(found: re.Match[str]) -> str:
        if found["name"] not in images:
            return found[0]
        with Image.open(Path(app.srcdir, images[found["name"]])) as picture:
            width, height = shown_size(picture)
        img = f'<img {found["rest"]} width="{width}" height="{height}" />'
        wide = width > WIDE and width > 2 * height
        return f'<span class="wide-picture">{img}</span>' if wide else img

    return PICTURE.sub(sized, body)


def without_script(body: str) -> str:
    """What a reader without JavaScript is told, if the page needs it."""
    missing = [
        words
        for mark, words in (('class="math', "formulas appear as TeX"), ('class="cd-', "figures stand still"))
        if mark in body
    ]
    if not missing:
        return ""
    return f"<noscript><p><em>Without JavaScript {' and '.join(missing)} on this page.</em></p></noscript>\n"


def set_theme(app: Sphinx, error: Exception | None) -> None:
    """Every page says a theme that exists; the theme's script, where it runs, replaces it before anything is drawn."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if 'data-theme="auto"' in page:
            path.write_text(page.replace('data-theme="auto"', 'data-theme="light"', 1), encoding="utf-8")


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if doctree is None:
        return
    body = re.sub(r'<th class="([^"]*)">(?:<p></p>)?</th>', r'<td class="\1"></td>', context["body"])
    body = body.replace("<th></th>", "<td></td>")
    # A deprecated role, not allowed in a list.
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    # Folded cells are called what they show: "Show the code".
    body = body.replace(' aria-label="Toggle hidden content"', "")
    body = NOTE.sub(r'<div role="note" class="\1">\2</div>', size_pictures(app, body))
    place = steps(Path(app.srcdir, app.config.external_toc_path)).get(page)
    head = (progress(*place) if place else "") + without_script(body)
    context["body"] = body.replace("</h1>", f"</h1>\n{head}", 1)

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


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_js_file("scroll.js", defer="defer")
    app.connect("html-page-context", mend, priority=950)
    app.connect("build-finished", set_theme)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
