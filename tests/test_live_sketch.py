"""Draw a digit: the page answers a drawing as the package does, from disk and with the network cut. Needs `make book`'s assets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.book

LIVE = ROOT / "book" / "_static" / "live"
LEVELS = (0.8, pytest.param(5.0, marks=pytest.mark.weekly))
OPEN = "() => document.querySelector('.live-sketch').live.walked"
STILL = '<figure><img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></figure>'


@pytest.fixture(scope="module")
def open_page(open_tab: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A page from disk with nothing in it but the part."""
    if not (LIVE / "disk.js").is_file():
        pytest.skip("the networks for the page are not there: run `python scripts/book/browser_assets.py`")
    static = ROOT.as_uri() + "/book/_static"
    styles = "".join(
        f'<link rel="stylesheet" href="{static}/{name}.css">'
        for name in ("course", "live/parts", "live/sketch")
    )
    scripts = "".join(
        f'<script defer data-version="0" data-megabytes="8.9" src="{static}/live/{name}.js"></script>'
        for name in ("common", "networks", "sketch")
    )
    page: Path = tmp_path_factory.mktemp("sketch") / "page.html"
    page.write_text(
        f'<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>Draw</title>{styles}{scripts}'
        f"<style>body {{ --pst-color-background: #fff; --pst-color-text-base: #222; }}</style>"
        f'<main><div class="live-sketch">{STILL}</div></main></html>'
    )
    return lambda query="", **options: open_tab(page.as_uri() + query, **options)


@pytest.fixture(scope="module")
def drawing(open_page: Callable[..., Any]) -> Any:
    """A page on which a stroke was drawn with the mouse, and answered by both networks; tests below share it."""
    tab = open_page()
    box = tab.locator(".sketch-pad").bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731
    tab.before = tab.evaluate(
        "() => [document.scripts.length, Array.from(document.querySelector('.live-sketch').live.drawing())]"
    )
    tab.mouse.move(*at(0.5, 0.05))
    tab.mouse.down()
    tab.mouse.move(*at(0.5, 0.5), steps=5)
    tab.mouse.move(*at(0.5, 0.95), steps=5)
    tab.mouse.up()
    tab.wait_for_function(OPEN)
    return tab


def state(tab: Any) -> dict[str, Any]:
    return tab.evaluate(
        """() => {
            const { live } = document.querySelector(".live-sketch"), { given } = live;
            return { y: [...live.drawing()], x: [...given.x], sigma: given.sigma, student: [...given.student],
                teacher: [...given.teacher ?? []], noise: [...live.noise] };
        }"""
    )


def test_a_stroke_is_seen_as_eight_by_eight_and_answered(drawing: Any) -> None:
    scripts, before = drawing.before
    assert scripts == 3, "the networks were loaded before anything was drawn"
    y = torch.tensor(state(drawing)["y"]).reshape(8, 8)
    assert torch.tensor(before).max() == 1 and y.min() == -1
    assert (y[1:7, 3:5] > -0.3).all() and (y[:, [0, 1, 6, 7]] == -1).all(), (
        "a vertical bar, and the example is gone"
    )
    said = drawing.locator(".live-say").inner_text()
    assert "Eight answers at σ = 0.5: the student in" in said and "times as long" in said
    assert not drawing.locator("figure").is_visible() and not drawing.errors


@pytest.mark.parametrize("sigma", LEVELS)
def test_the_answers_are_the_packages(sigma: float, drawing: Any) -> None:
    import cdedu
    from cdedu.editing import stroke_to_image

    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    z = torch.randn(8, 1, 8, 8, generator=seeded())
    drawing.evaluate(
        """async ([z, sigma]) => {
            const { live } = document.querySelector(".live-sketch");
            live.settings.set({ sigma });
            live.noise = Float32Array.from(z);
            await live.change();
        }""",
        [z.flatten().tolist(), sigma],
    )
    drawing.wait_for_function(OPEN)
    found = state(drawing)
    y = torch.tensor(found["y"]).reshape(1, 1, 8, 8).expand(8, 1, 8, 8)
    student = stroke_to_image(cdedu.load("digits-student"), y, sigma, generator=seeded())
    levels = cdedu.karras_sigmas(18, sigma_max=sigma)
    teacher = cdedu.sample_heun(cdedu.load("digits-teacher"), y + sigma * z, levels)
    for name, there in (("student", student), ("teacher", teacher)):
        error = (torch.tensor(found[name]) - there.flatten()).abs().max().item()
        print(f"\n{name} at σ = {sigma}: error {error:.1e}", end="")
        assert error < 1e-4, name


def test_keys_draw_too(drawing: Any) -> None:
    drawing.get_by_role("button", name="Clear").click()
    drawing.locator(".sketch-pad").focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "Space"):
        drawing.keyboard.press(key)
    assert drawing.locator(".live-say").inner_text() == "Row 3, column 3: ink."
    y = torch.tensor(state(drawing)["y"])
    assert y.argmax() == 2 * 8 + 2 and (y > -1).sum() == 1
    drawing.keyboard.press("Space")
    assert max(state(drawing)["y"]) == -1
    drawing.get_by_role("button", name="Draw a 4").click()
    assert max(state(drawing)["y"]) == 1 and not drawing.errors


def test_the_address_keeps_seed_and_level(drawing: Any, open_page: Callable[..., Any]) -> None:
    tab = open_page("?sketch.seed=12&sketch.sigma=1e9")
    assert tab.locator("output").inner_text() == "σ = 10"
    first = tab.evaluate("() => document.querySelector('.live-sketch').live.noise[0]")
    normal = "() => live.source(12).normal()"
    assert first == pytest.approx(tab.evaluate(normal), rel=1e-6) and not tab.errors


@pytest.mark.weekly
def test_a_finger_draws_on_a_phone(open_page: Callable[..., Any]) -> None:
    tab = open_page(has_touch=True, viewport={"width": 320, "height": 640}, reduced_motion="reduce")
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 321
    box = tab.locator(".sketch-pad").bounding_box()
    tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_function(OPEN)
    assert sum(value > -1 for value in state(tab)["y"]) in range(1, 9) and not tab.errors
