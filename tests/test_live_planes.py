"""The planes of chapters 1 and 2, in pages of their own from disk: they compute what the package does, and obey hand and keys."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
import torch
from conftest import ROOT

import cdedu
from cdedu import GaussianMixture, karras_sigmas, sample_euler, sample_heun

STATIC = ROOT / "book" / "_static"
LIVE = STATIC / "live"
THEME = """html { --pst-color-text-base: #222; --pst-color-text-muted: #555; --pst-color-background: #fff; --pst-color-border: #ccc; }
html[data-theme="dark"] { --pst-color-text-base: #ddd; --pst-color-text-muted: #aaa; --pst-color-background: #121212; }
body { background: var(--pst-color-background); color: var(--pst-color-text-base); }"""
POINTS = torch.tensor([[-1, -0.6], [-0.7, 0.9], [0.1, -0.9], [0.5, 0.4], [1.1, 0.9]], dtype=torch.float64)
BLOBS = GaussianMixture(
    torch.tensor([[-0.64, -0.32], [0.0, 0.64], [0.64, -0.32]], dtype=torch.float64),
    0.2,
    torch.tensor([0.3, 0.4, 0.3]),
)


@pytest.fixture(scope="module")
def open_part(open_tab: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A tab on a page from disk with one part; nothing may be asked for that is not on this disk, and nothing go wrong."""
    folder = tmp_path_factory.mktemp("planes")

    def open_one(name: str, query: str = "", theme: str = "light", **options: Any) -> Any:
        scripts = "".join(
            f'<script src="{(LIVE / s).as_uri()}.js"></script>' for s in ("common", "exact", name)
        )
        styles = "".join(
            f'<link rel="stylesheet" href="{path.as_uri()}">'
            for path in (STATIC / "course.css", LIVE / "parts.css")
        )
        page = folder / f"{name}-{theme}.html"
        page.write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8"><title>{name}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{THEME}</style>{styles}<main><div class="live-{name}">'
            f'<figure id="still">Still</figure></div><div style="height: 2000px"></div></main>{scripts}</html>'
        )
        size = {"viewport": {"width": 900, "height": 900}}
        tab = open_tab(page.as_uri() + query, console=False, **size | options)  # axe complains there of files
        tab.wait_for_selector("[data-result]")
        return tab

    return open_one


def result(tab: Any) -> dict[str, Any]:
    """What was drawn last, once what was asked for has been drawn."""
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return json.loads(tab.locator("[data-result]").get_attribute("data-result"))


def said(tab: Any) -> str:
    return tab.locator(".live-say").inner_text()


def tensor(x: Any) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def near(x: Any, y: Any) -> None:
    torch.testing.assert_close(tensor(x), torch.as_tensor(y).double(), atol=1e-5, rtol=1e-5)


# --- the mathematics


@pytest.fixture(scope="module")
def tab(open_part: Callable[..., Any]) -> Any:
    """One with the mathematics in it."""
    return open_part("walk")


def test_the_denoiser_is_the_packages(tab: Any) -> None:
    for name, x, sigma in (
        ("blobs", [0.3, -0.2], 0.4),
        ("blobs", [48.0, 7.0], 80.0),
        ("moons", [0.1, 0.2], 0.05),
    ):
        got = tab.evaluate(
            "([name, x, sigma]) => { const d = exact[name]; return [exact.denoise(d, x, sigma), "
            "[...exact.posterior(d, x, sigma)], [...d.means], d.s]; }",
            [name, x, sigma],
        )
        means = tensor(got[2]).reshape(-1, 2)
        mixture = BLOBS if name == "blobs" else GaussianMixture(means, got[3])
        near(got[0], mixture(tensor([x]), sigma)[0])
        near(got[1], mixture.posterior(tensor([x]), sigma)[0][0])


def test_the_moons_are_those_of_the_course(tab: Any) -> None:
    means = tensor(tab.evaluate("() => [...exact.moons.means]")).reshape(-1, 2)
    real = cdedu.data.two_moons(2000).double()
    assert torch.cdist(real, means).amin(1).max() < 0.25, "a point that lies beside both arcs"
    assert torch.cdist(means, real).amin(1).max() < 0.05


@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_walks_are_the_packages(tab: Any, rho: float) -> None:
    start, sigmas = [30.0, -65.0], karras_sigmas(12, rho=rho, dtype=torch.float64)
    got = tab.evaluate(
        """([x, rho]) => { const D = (x, s) => exact.denoise(exact.blobs, x, s), grid = live.karrasSigmas(12, .002, 80, rho);
        return [grid, ...["euler", "heun"].map((name) => exact.walk(exact[name], D, x, grid).at(-1))]; }""",
        [start, rho],
    )
    torch.testing.assert_close(tensor(got[0]), sigmas)
    near(got[1], sample_euler(BLOBS, tensor([start]), sigmas)[0])
    near(got[2], sample_heun(BLOBS, tensor([start]), sigmas)[0])


def test_a_step_of_ddpm_is_the_packages(tab: Any) -> None:
    """With the same numbers drawn."""
    x, sigma, following, drawn = [1.2, 0.4], 1.5, 0.6, [0.7, -1.1]
    got = tab.evaluate(
        """([x, sigma, next, drawn]) => { const D = (x, s) => exact.denoise(exact.blobs, x, s), left = [...drawn];
        return exact.ddpm(D, x, sigma, next, () => left.shift()); }""",
        [x, sigma, following, drawn],
    )
    up = following * (sigma**2 - following**2) ** 0.5 / sigma
    down = (following**2 - up**2) ** 0.5
    near(got, cdedu.solvers.euler_step(BLOBS, tensor([x]), sigma, down)[0] + up * tensor(drawn))


def test_the_exact_path_ends_where_the_packages_does(tab: Any) -> None:
    for z in ([0.3, -1.7], [1.8, 1.5]):
        x = [80 * v for v in z]
        near(
            tab.evaluate("x => exact.exactPath(exact.blobs, x).path.at(-1)", x),
            BLOBS.consistency(tensor([x]), 80.0)[0],
        )


# --- chapter 1: data points and a noisy one


def test_the_guess_follows_the_hand(open_part: Callable[..., Any]) -> None:
    tab = open_part("denoise")
    assert not tab.locator("#still").is_visible()
    noisy = tab.get_by_role("button", name="Noisy point")
    before, box = result(tab), noisy.bounding_box()
    assert box["width"] >= 44 and box["height"] >= 44
    middle = box["x"] + 22, box["y"] + 22
    tab.mouse.move(*middle)
    tab.mouse.down()
    tab.mouse.move(middle[0] + 60, middle[1] - 30, steps=2)
    tab.mouse.up()
    after = result(tab)
    assert after["x"][0] > before["x"][0] + 0.2 and after["x"][1] > before["x"][1] + 0.1
    exact = GaussianMixture(POINTS, 0.0)
    for one in (before, after):
        near(one["guess"], exact(tensor([one["x"]]), one["sigma"])[0])
        near(one["r"], exact.posterior(tensor([one["x"]]), one["sigma"])[0][0])
    share = re.search(r"(\d+) % of it is one point", said(tab))
    assert share and int(share[1]) == round(100 * max(after["r"]))
    assert "denoise.x=" in tab.url and not tab.errors


def test_points_obey_the_keyboard(open_part: Callable[..., Any]) -> None:
    tab = open_part("denoise")
    point = tab.get_by_role("button", name="Data point 3 of 5")
    before = point.get_attribute("aria-label")
    point.press("ArrowUp")
    result(tab)
    moved = tab.get_by_role("button", name="Data point 3 of 5").get_attribute("aria-label")
    assert moved != before and "-" not in moved
    tab.get_by_role("button", name="Data point 3 of 5").press("Delete")
    assert len(result(tab)["r"]) == 4
    assert tab.evaluate("document.activeElement.ariaLabel").startswith("Data point 3 of 4"), "focus is lost"
    tab.get_by_role("button", name="Add a point").press("Enter")
    assert len(result(tab)["r"]) == 5
    assert tab.evaluate("document.activeElement.ariaLabel").startswith("Data point 5 of 5")
    tab.get_by_role("button", name="Moons").click()
    assert len(result(tab)["r"]) == 18 and "denoise.points=moons" in tab.url
    slider = tab.locator("input[type=range]")
    slider.press("Home")
    assert result(tab)["sigma"] == 0.02 and slider.get_attribute("aria-valuetext") == "σ = 0.02"
    slider.press("End")
    wide = result(tab)
    assert wide["sigma"] == 5 and max(wide["r"]) < 0.1 and "a mean of" in said(tab)
    assert not tab.errors


def test_a_finger_drags_points_and_scrolls_the_page(open_part: Callable[..., Any]) -> None:
    tab = open_part("denoise", has_touch=True, viewport={"width": 390, "height": 800})
    tab.locator("canvas").tap(position={"x": 60, "y": 170})
    assert len(result(tab)["r"]) == 6, "a tap puts a point down"
    before = result(tab)["x"]
    box = tab.get_by_role("button", name="Noisy point").bounding_box()
    finger = tab.context.new_cdp_session(tab)

    def touch(kind: str, *at: float) -> None:
        points = [{"x": at[0], "y": at[1]}] if at else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def swipe(x: float, y: float) -> None:
        touch("touchStart", x, y)
        for i in range(1, 7):
            touch("touchMove", x, y - 15 * i)
        touch("touchEnd")
        tab.wait_for_timeout(150)

    swipe(box["x"] + 22, box["y"] + 22)
    assert result(tab)["x"][1] > before[1] + 0.3 and tab.evaluate("scrollY") == 0
    tab.locator(".live-say").evaluate("one => one.scrollIntoView({ block: 'center' })")
    top, canvas = tab.evaluate("scrollY"), tab.locator("canvas").bounding_box()
    swipe(canvas["x"] + 8, canvas["y"] + canvas["height"] - 20)
    assert tab.evaluate("scrollY") > top, "the plane holds the page fast"
    assert not tab.errors


def test_what_was_found_can_be_sent(open_part: Callable[..., Any]) -> None:
    tab = open_part("denoise", "?denoise.points=-1_0_1_0.5_0_-1&denoise.sigma=900&denoise.x=0.25")
    got = result(tab)
    assert len(got["r"]) == 3 and got["sigma"] == 5 and got["x"][0] == 0.25
    for wrong in ("1_2_3", "9_9", "_".join(["0.1"] * 200)):
        assert len(result(open_part("denoise", f"?denoise.points={wrong}"))["r"]) == 5, wrong
    walk = open_part("walk", "?walk.solver=ddpm&walk.steps=999&walk.rho=5&walk.seed=3")
    assert walk.locator("select").first.input_value() == "ddpm" and "after 64 evaluations" in said(walk)
    assert walk.locator("select").nth(1).input_value() == "7"


# --- chapter 2: walks


def test_the_walk_follows_and_its_error_is_that_of_the_package(open_part: Callable[..., Any]) -> None:
    tab = open_part("walk")
    tab.get_by_role("button", name="Noise point").press("Shift+ArrowLeft")
    tab.locator("select").first.select_option("race")
    got = result(tab)
    start = tensor([got["start"]])
    exact = BLOBS.consistency(start, 80.0)[0]
    near(got["exact"], exact)
    near(got["ends"]["euler"], sample_euler(BLOBS, start, karras_sigmas(9, dtype=torch.float64))[0])
    near(got["ends"]["heun"], sample_heun(BLOBS, start, karras_sigmas(5, dtype=torch.float64))[0])
    off = (tensor(got["ends"]["euler"]) - exact).norm()
    assert f"Euler {off:.2f}" in said(tab) and "After 9 evaluations each" in said(tab)
    assert "walk.solver=race" in tab.url and not tab.errors


def test_ddpm_keeps_to_its_seed(open_part: Callable[..., Any]) -> None:
    tab = open_part("walk", "?walk.solver=ddpm")
    first = result(tab)["ends"]["ddpm"]
    tab.get_by_role("button", name="New seed").click()
    assert result(tab)["ends"]["ddpm"] != first and "walk.seed=1" in tab.url
    tab.get_by_role("button", name="Reset").click()
    again = result(open_part("walk", "?walk.solver=ddpm&walk.seed=1"))
    assert again["ends"] == result(tab)["ends"], "another walk from the same address"


def test_five_hundred_points_end_where_the_package_sends_them(open_part: Callable[..., Any]) -> None:
    tab = open_part("walk", "?walk.solver=race&walk.steps=5")
    tab.get_by_role("button", name="Throw 500 points").click()
    tab.wait_for_function("() => JSON.parse(document.querySelector('[data-result]').dataset.result).crowd")
    crowd = result(tab)["crowd"]
    noise = tab.evaluate(
        "() => { const { normal } = live.source(1000); return Array.from({ length: 500 }, () => [80 * normal(), 80 * normal()]) }"
    )

    def part(x: torch.Tensor) -> torch.Tensor:
        return BLOBS.posterior(x, 0.002)[0].argmax(1)

    exact = part(sample_heun(BLOBS, tensor(noise), karras_sigmas(200, dtype=torch.float64)))
    assert (torch.tensor(crowd["parts"]) - exact.bincount(minlength=3)).abs().sum() <= 2
    for name, sampler, n in (("euler", sample_euler, 5), ("heun", sample_heun, 3)):
        ends = part(sampler(BLOBS, tensor(noise), karras_sigmas(n, dtype=torch.float64)))
        assert abs(crowd[name] - int((ends != exact).sum())) <= 1, name
        assert f" sends {crowd[name]}" in said(tab)
    assert crowd["ddpm"] > 200 and not tab.errors


def test_play_and_step(open_part: Callable[..., Any]) -> None:
    tab = open_part("walk", "?walk.solver=heun&walk.steps=4")
    tab.get_by_role("button", name="Step").click()
    result(tab)
    assert said(tab) == "At σ = 80, after 0 of 7 evaluations."
    tab.get_by_role("button", name="Step").click()
    result(tab)
    assert "after 2 of 7 evaluations" in said(tab)
    tab.get_by_role("button", name="Play").click()
    tab.wait_for_function("() => document.querySelector('.live-say').textContent.includes('exact end')")
    assert "after 7 evaluations" in said(tab) and tab.get_by_role("button", name="Play").count() == 1
    still = open_part("walk", reduced_motion="reduce")
    still.get_by_role("button", name="Step").click()
    still.get_by_role("button", name="Play").click()
    result(still)
    assert "exact end" in said(still), "it plays although motion is to be reduced"
    assert not tab.errors + still.errors


# --- both


@pytest.mark.parametrize("name", ["denoise", "walk"])
def test_dark_narrow_and_accessible(name: str, open_part: Callable[..., Any]) -> None:
    tab = open_part(name, theme="dark", viewport={"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    ink = "() => { const c = document.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    light = tab.evaluate(
        ink
        + " for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 200 && d[i] > 200) return true; return false }"
    )
    assert light, "nothing that shows on black"
    before = tab.locator("canvas").screenshot()
    tab.evaluate("document.documentElement.dataset.theme = 'light'")
    result(tab)
    assert tab.locator("canvas").screenshot() != before
    tab.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    for theme in ("light", "dark"):
        tab.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
        result(tab)
        found = tab.evaluate("axe.run('.live-part')")["violations"]
        assert not found, [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]
    assert not tab.errors
