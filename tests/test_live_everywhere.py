"""Every part that moves, on its page of the built book: served over HTTP and opened from disk, with no other host in reach."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HTML, PATIENCE, ROOT

pytestmark = pytest.mark.book


@pytest.fixture(scope="module", params=["http", "disk"])
def visit(
    request: pytest.FixtureRequest, browser: Any, html: Path, site: str
) -> Iterator[Callable[..., Any]]:
    """A tab that goes to a page of the book; what it asks for elsewhere, and what goes wrong, is in its ``errors``."""
    home = site if request.param == "http" else HTML.as_uri()
    with browser.new_context(reduced_motion="reduce") as context:
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        tab.errors = []

        def guard(route: Any) -> None:
            tab.errors.append(route.request.url)
            route.abort()

        context.route(lambda url: not url.startswith((home, "data:", "blob:")), guard)
        tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.on("response", lambda r: tab.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)

        def go(page: str) -> Any:
            tab.errors.clear()
            tab.goto(f"{home}/{page}.html", wait_until="load")
            return tab

        yield go


def changes(tab: Any, of: str, act: Callable[[], None]) -> None:
    """The text of an element is another after an act."""
    part = tab.locator(of).first
    part.scroll_into_view_if_needed()
    before = part.inner_text()
    act()
    tab.wait_for_function(
        "([of, before]) => document.querySelector(of).innerText !== before", arg=[of, before]
    )


def generator(tab: Any) -> None:
    changes(tab, ".live-generator .live-status", tab.locator(".live-panel button").first.click)
    tab.wait_for_function("() => /times as long/.test(document.querySelector('.live-status').innerText)")


def photos(tab: Any) -> None:
    weights = ROOT / "cdedu" / "weights" / "cifar10-small-guided.safetensors"
    if not weights.is_file() or not tab.locator("div.live-photos").count():
        pytest.skip("photographs need the weights cifar10-small-guided, and a place on the page")
    tab.locator(".photos select").select_option("ship")
    tab.locator(".photos-draw").click()
    tab.wait_for_function(
        "() => /^[1-9]\\d* of 70/.test(document.querySelector('.photos-teacher .photos-clock').innerText)"
    )
    tab.locator(".photos-draw").click()
    assert tab.locator(".photos .live-say").inner_text() == "Stopped."
    assert tab.locator(".photos-student .photos-clock").inner_text().startswith("1 of 1")


def learn(tab: Any) -> None:
    tab.locator(".live-learn").get_by_role("button", name="Train", exact=True).click()
    tab.wait_for_function("() => Number(document.querySelector('.live-learn').dataset.steps) > 2")


def denoise(tab: Any) -> None:
    point = tab.get_by_role("button", name="Noisy point")
    changes(tab, ".live-denoise [role=status]", lambda: point.press("Shift+ArrowRight"))


def walk(tab: Any) -> None:
    point = tab.get_by_role("button", name="Noise point")
    changes(tab, ".live-walk [role=status]", lambda: point.press("Shift+ArrowLeft"))


def plane(tab: Any) -> None:
    canvas = tab.locator(".cd-plane canvas").first
    before = tab.locator("figure[data-result]").first.get_attribute("data-result")
    canvas.press("ArrowLeft")
    assert tab.locator("figure[data-result]").first.get_attribute("data-result") != before


def sketch(tab: Any) -> None:
    pad = tab.locator(".sketch-pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.1 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.9 * box["height"], steps=5)
    tab.mouse.up()
    tab.wait_for_function("() => /Eight answers/.test(document.querySelector('.live-sketch').innerText)")


def answers(tab: Any) -> None:
    box = tab.locator(".live-answers").first
    changes(tab, ".live-answers [role=status]", box.get_by_role("button").first.click)


def frames(tab: Any) -> None:
    figure = tab.locator(".cd-frames").first
    figure.scroll_into_view_if_needed()
    before = figure.locator("img").get_attribute("src")
    slider = figure.locator("input[type=range]")
    slider.press("ArrowLeft" if slider.input_value() == slider.get_attribute("max") else "ArrowRight")
    assert figure.locator("img").get_attribute("src") != before


def origin(tab: Any) -> None:
    tab.locator(".result").first.click()
    assert tab.locator(".result-origin").inner_text()


UNDERGRADUATE = "book/undergraduate"
PARTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "generator": ("book/index", generator),
    "photographs": ("book/index", photos),
    "small student": ("book/index", learn),
    "data and a noisy point": (f"{UNDERGRADUATE}/01_noise", denoise),
    "predict box": (f"{UNDERGRADUATE}/01_noise", answers),
    "frames": (f"{UNDERGRADUATE}/06_digits", frames),
    "walk": (f"{UNDERGRADUATE}/02_paths", walk),
    "student": (f"{UNDERGRADUATE}/04_consistency", learn),
    "plane": (f"{UNDERGRADUATE}/04_consistency", plane),
    "number": (f"{UNDERGRADUATE}/04_consistency", origin),
    "drawing": (f"{UNDERGRADUATE}/07_interactive", sketch),
    "quiz": (f"{UNDERGRADUATE}/quiz_undergraduate", answers),
    "clips": ("book/postgraduate/16_video_3d", frames),
}


@pytest.mark.parametrize(
    "part",  # the generators' own tests drive them over HTTP and from disk, too
    [
        pytest.param(name, marks=[pytest.mark.weekly] * (name in ("generator", "photographs")))
        for name in PARTS
    ],
)
def test_it_answers(part: str, visit: Callable[..., Any]) -> None:
    page, act = PARTS[part]
    tab = visit(page)
    act(tab)
    assert not tab.errors


def test_a_page_works_where_nothing_may_be_kept(browser: Any, site: str, html: Path) -> None:
    with browser.new_context() as context:
        tab, errors = context.new_page(), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.add_init_script(
            "Object.defineProperty(window, 'localStorage', { configurable: true, get() { throw new Error('no') } })"
        )
        tab.goto(f"{site}/book/undergraduate/01_noise.html", wait_until="load")
        tab.locator("button.theme-switch-button").first.click()
        assert tab.evaluate("document.documentElement.dataset.theme") in {"light", "dark"} and not errors
