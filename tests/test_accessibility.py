"""The built book for everyone: axe-core finds nothing, formulas have MathML, figures move by keyboard, next follows the track.

Needs `make book` first; all but the last tests need Chromium.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from conftest import HTML, ROOT
from test_book import BUILT, pages, tree

pytestmark = pytest.mark.book

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
# All rules that axe has on by default, and one that it counts as experimental.
OPTIONS = {"resultTypes": ["violations"], "rules": {"label-content-name-mismatch": {"enabled": True}}}
THEME = "theme => Object.assign(document.documentElement.dataset, { theme, mode: theme })"
UNFOLD = """() => {
    document.querySelectorAll("details").forEach((one) => (one.open = true));
    document.querySelectorAll(".toggle-button-hidden").forEach((one) => one.click());
}"""


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """Without animations, so that no colour is caught half-way."""
    with browser.new_context(reduced_motion="reduce") as context:
        yield context


def open_page(context: Any, url: str) -> Any:
    """The page with everything unfolded, formulas drawn, and the generator's pictures where it has one."""
    tab = context.new_page()
    tab.goto(url, wait_until="load")
    tab.evaluate("() => window.MathJax?.startup?.promise")
    tab.evaluate(UNFOLD)
    for button in tab.locator(".live-panel button").all():
        button.click()
        tab.locator(".live-panel button:not([aria-disabled])").first.wait_for(timeout=60_000)
    return tab


@pytest.mark.slow
@pytest.mark.parametrize("page", BUILT)
def test_axe_finds_nothing(page: str, site: str, context: Any) -> None:
    tab = open_page(context, f"{site}/{page}")
    silent = tab.locator("mjx-container:not(:has(mjx-assistive-mml math))").count()
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = []
    for theme in ("light", "dark"):
        tab.evaluate(THEME, theme)
        for violation in tab.evaluate("options => axe.run(options)", OPTIONS)["violations"]:
            nodes = violation["nodes"]
            found += [f"{theme}: {violation['id']}: {n['html'][:120]}: {n['failureSummary']}" for n in nodes]
    tab.close()
    assert not silent, f"{page}: {silent} formulas without MathML"
    assert not found, f"{page}: {len(found)} violations\n" + "\n".join(found[:10])


@pytest.mark.parametrize("page", BUILT)
def test_every_figure_that_moves_does_so_by_keyboard(page: str, site: str, html: Path, context: Any) -> None:
    """The arrow keys change the pixels of the picture, not only the slider."""
    if not re.search(r'type="range"|<canvas|live-generator', (html / page).read_text(encoding="utf-8")):
        return
    tab = open_page(context, f"{site}/{page}")
    controls = tab.locator("article :is(input[type=range], .cd-plane canvas):visible")
    assert controls.count(), f"{page}: no control can be seen"
    for control in controls.all():
        figure = control.locator("xpath=ancestor::*[self::figure or contains(@class, 'live-walk')][1]")
        picture = figure.locator(".live-digit, :is(img, canvas):visible:not(.live-map)").first
        at_end = control.evaluate("one => one.value !== undefined && Number(one.value) >= Number(one.max)")
        control.focus()
        before = picture.screenshot()
        control.press("ArrowLeft" if at_end else "ArrowRight")
        tab.wait_for_timeout(200)
        assert picture.screenshot() != before, f"{page}: {control.evaluate('one => one.outerHTML')[:200]}"
    tab.close()


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


# --- the way through a track -----------------------------------------------------------------------


def follow(page: str, kind: str) -> str | None:
    """The page that a link at the foot of this one leads to."""
    link = tree(HTML / f"{page}.html").select_one(f"a.{kind}")
    return link and posixpath.normpath(posixpath.join(posixpath.dirname(page), str(link["href"])))[:-5]


def test_next_and_previous_lead_through_chapters_and_exercises(html: Path) -> None:
    way = [page for page in pages() if not page.startswith("exercises/solutions/")]
    for here, there in zip(way, way[1:], strict=False):
        assert (follow(here, "right-next"), follow(there, "left-prev")) == (there, here)
    for i, page in enumerate(pages()):
        if page.startswith("exercises/solutions/"):
            assert follow(page, "left-prev") == pages()[i - 1]
            assert follow(page, "right-next") in way


def test_each_chapter_says_how_far_along_its_track_it_is(html: Path) -> None:
    import book_access

    for page, place in book_access.steps(ROOT / "_toc.yml").items():
        shown = tree(HTML / f"{page}.html").select_one("article .track-progress")
        assert shown and shown.get_text() == "{}, step {} of {}{}".format(*place)
