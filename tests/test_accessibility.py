"""The built book for everyone: axe-core finds nothing, formulas have MathML, figures move by keyboard, next follows the track.

Needs `make book` first; all but the last tests need Chromium.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import book_contents
import book_page
import pytest
from conftest import HTML, PATIENCE, daily
from PIL import Image
from test_book import BUILT, KINDS, tree

pytestmark = pytest.mark.book

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
# All rules that axe has on by default, and one that it counts as experimental.
OPTIONS = {"resultTypes": ["violations"], "rules": {"label-content-name-mismatch": {"enabled": True}}}
# The other theme has the same elements in other colours; only the logo has a picture for each.
COLOURS = {**OPTIONS, "runOnly": ["color-contrast", "link-in-text-block", "image-alt"]}
THEME = "theme => Object.assign(document.documentElement.dataset, { theme, mode: theme })"
# Thousands of coloured words of code and glyphs of formulas: one of each look stays, the page is the same to axe otherwise.
THIN = """() => {
    const seen = new Set();
    for (const one of document.querySelectorAll("pre span, mjx-math *")) {
        const { color, fontSize, fontWeight } = getComputedStyle(one);
        const box = one.closest("pre, mjx-container").parentElement;
        const look = [color, fontSize, fontWeight, getComputedStyle(box).backgroundColor, box.className].join();
        if (!seen.has(look)) seen.add(look);
        else if (one.closest("pre")) one.replaceWith(...one.childNodes);
        else if (!one.childElementCount) one.remove();
    }
}"""
UNFOLD = """() => {
    document.querySelectorAll("details").forEach((one) => (one.open = true));
    document.querySelectorAll(".toggle-button-hidden").forEach((one) => one.click());
}"""


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """Without animations, so that no colour is caught half-way."""
    with browser.new_context(reduced_motion="reduce") as context:
        context.set_default_timeout(PATIENCE)
        yield context


@pytest.fixture(scope="module", params=daily(BUILT, *KINDS))
def shown(request: pytest.FixtureRequest, site: str, context: Any) -> Iterator[tuple[str, Any]]:
    """A page, loaded once for its tests: everything unfolded, formulas drawn, the generator's pictures where it has one."""
    tab = context.new_page()
    tab.goto(f"{site}/{request.param}", wait_until="load")
    tab.evaluate("() => window.MathJax?.startup?.promise")
    tab.evaluate(UNFOLD)
    for button in tab.locator(".live-panel button").all():
        button.click()
        tab.locator(".live-panel button:not([aria-disabled])").first.wait_for()
    yield request.param, tab
    tab.close()


@pytest.mark.slow
def test_axe_finds_nothing(shown: tuple[str, Any]) -> None:
    page, tab = shown
    silent = tab.locator("mjx-container:not(:has(mjx-assistive-mml math))").count()
    tab.evaluate(THIN)
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = []
    for theme, options in (("light", OPTIONS), ("dark", COLOURS)):
        tab.evaluate(THEME, theme)
        for violation in tab.evaluate("options => axe.run(options)", options)["violations"]:
            nodes = violation["nodes"]
            found += [f"{theme}: {violation['id']}: {n['html'][:120]}: {n['failureSummary']}" for n in nodes]
    assert not silent, f"{page}: {silent} formulas without MathML"
    assert not found, f"{page}: {len(found)} violations\n" + "\n".join(found[:10])


def test_every_figure_that_moves_does_so_by_keyboard(shown: tuple[str, Any]) -> None:
    """The arrow keys change the pixels of the picture, not only the slider."""
    page, tab = shown
    if not re.search(r'type="range"|<canvas|live-generator', (HTML / page).read_text(encoding="utf-8")):
        return
    controls = tab.locator("article :is(input[type=range], .cd-plane canvas):visible")
    assert controls.count(), f"{page}: no control can be seen"
    for control in controls.all():
        figure = control.locator(
            "xpath=ancestor::*[self::figure or contains(@class, 'live-between') or contains(@class, 'live-part')][1]"
        )
        picture = figure.locator(
            ".live-digit, :is(img, canvas):visible:not(.live-map, .sketch-pad, .sketch-sight)"
        ).first
        at_end = control.evaluate("one => one.value !== undefined && Number(one.value) >= Number(one.max)")
        control.focus()
        before = picture.screenshot()
        control.press("ArrowLeft" if at_end else "ArrowRight")
        tab.wait_for_timeout(200)
        assert picture.screenshot() != before, f"{page}: {control.evaluate('one => one.outerHTML')[:200]}"


def test_motion_is_reduced_where_readers_ask_for_it(site: str, context: Any) -> None:
    tab = context.new_page()
    tab.goto(f"{site}/{BUILT[0]}", wait_until="load")
    moving = tab.evaluate(
        """() => [...document.querySelectorAll("*")].filter((one) => {
            const { transitionDuration, animationName, scrollBehavior } = getComputedStyle(one);
            return (parseFloat(transitionDuration) > 0 && getComputedStyle(one).transitionProperty !== "none")
                || animationName !== "none" || scrollBehavior === "smooth";
        }).map((one) => one.outerHTML.slice(0, 80))"""
    )
    tab.close()
    assert not moving


def test_without_javascript_a_page_can_be_read(site: str, browser: Any) -> None:
    """In the light theme, figures in their first state, with a sentence on what is missing."""
    with browser.new_context(java_script_enabled=False) as context:
        tab = context.new_page()
        for page, words in {
            "book/index.html": "Your browser doesn't run JavaScript, so here's a still picture",
            "book/undergraduate/01_noise.html": "formulas appear as TeX and figures stand still",
            "exercises/04_consistency.html": "formulas appear as TeX",
        }.items():
            tab.goto(f"{site}/{page}", wait_until="load")
            said = tab.locator("article noscript p").first
            assert said.is_visible() and words in said.inner_text(), page
            assert tab.locator("html").get_attribute("data-theme") == "light", "a theme without colours"
            assert all(figure.is_visible() for figure in tab.locator("article figure img").all()), page
            assert not tab.locator("article input[type=range]:visible").count(), f"{page}: a dead control"


# --- the way through a track -----------------------------------------------------------------------


def follow(page: str, kind: str) -> str | None:
    """The page that a link at the foot of this one leads to."""
    link = tree(HTML / f"{page}.html").select_one(f"a.{kind}")
    return link and posixpath.normpath(posixpath.join(posixpath.dirname(page), str(link["href"])))[:-5]


def test_next_and_previous_lead_through_chapters_and_exercises(html: Path) -> None:
    way = [page for page in book_contents.pages() if not page.startswith("exercises/solutions/")]
    for here, there in zip(way, way[1:], strict=False):
        assert (follow(here, "right-next"), follow(there, "left-prev")) == (there, here)
    for i, page in enumerate(book_contents.pages()):
        if page.startswith("exercises/solutions/"):
            assert follow(page, "left-prev") == book_contents.pages()[i - 1]
            assert follow(page, "right-next") in way


def test_each_chapter_says_how_far_along_its_track_it_is(html: Path) -> None:
    for page, place in book_contents.steps().items():
        shown = tree(HTML / f"{page}.html").select_one("article .track-progress")
        assert shown and shown.get_text() == "{}, step {} of {}{}".format(*place)


@pytest.mark.parametrize(("dpi", "shown"), [(None, (600, 300)), (110, (600, 300)), (220, (300, 150))])
def test_a_figure_for_dense_screens_is_shown_at_half_its_pixels(
    tmp_path: Path, dpi: int | None, shown: tuple[int, int]
) -> None:
    Image.new("L", (600, 300)).save(tmp_path / "f.png", **({"dpi": (dpi, dpi)} if dpi else {}))
    with Image.open(tmp_path / "f.png") as picture:
        assert book_page.shown_size(picture) == shown
