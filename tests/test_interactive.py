"""Figures that move in the page: what they hold, and that the page computes what the package does."""

import json
import re
from importlib.resources import files

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import PATIENCE, ROOT
from sklearn.datasets import make_moons

import cdedu
from cdedu.course import interactive
from cdedu.data import two_moons
from cdedu.networks import MLP


def draw(value):
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.plot([0, value], [0, 1])
    return figure


@pytest.fixture
def frames(monkeypatch):
    monkeypatch.setenv("CDEDU_STATIC", "1")
    return interactive.explore(draw, (1, 2, 5), "height <h>", alt=lambda v: f'a line to "{v}"', start=1).html


def content(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])


def test_frames_hold_a_picture_and_words_for_each_value(frames):
    held = content(frames)
    assert len(set(held["frames"])) == 3
    assert held["values"] == ["1", "2", "5"] and held["alts"][2] == 'a line to "5"'
    assert held["frames"][1] in frames.partition("<script")[0], "the still is the start"
    assert "height &lt;h&gt;" in frames and plt.get_fignums() == []


def test_the_same_figure_is_the_same_text(frames, monkeypatch):
    again = interactive.explore(draw, (1, 2, 5), "height <h>", alt=lambda v: f'a line to "{v}"', start=1).html
    assert again == frames


def test_with_a_kernel_it_is_a_widget(monkeypatch):
    monkeypatch.delenv("CDEDU_STATIC", raising=False)
    picture, slider = interactive.explore(draw, (1, 2), "h", alt=str).children
    before = bytes(picture.value)
    slider.value = 2
    assert bytes(picture.value) != before and before.startswith(b"\x89PNG")


def test_frames_that_move_have_a_player(monkeypatch):
    monkeypatch.delenv("CDEDU_STATIC", raising=False)
    picture, slider, player = interactive.explore(draw, (1, 2), "h", alt=str, play=8).children
    before = bytes(picture.value)
    player.value = 1
    assert slider.value == 2 and bytes(picture.value) != before and player.interval == 125


def test_a_start_outside_the_values_is_named():
    with pytest.raises(ValueError, match="start = 2, but there are 2 values"):
        interactive.explore(draw, (1, 2), "h", alt=str, start=2)


@pytest.mark.parametrize("kind", ["frames", "plane"])
def test_what_notebooks_store_has_the_script_of_today(kind):
    script = (files("cdedu") / "course" / "assets" / f"{kind}.js").read_text(encoding="utf-8").strip()
    stored = [
        html
        for path in (ROOT / "book").rglob("*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
        if f'class="cd-{kind}"' in (html := output.get("data", {}).get("text/html", ""))
    ]
    assert stored and all(script in html for html in stored)


def toys():
    return cdedu.load("toy-teacher"), cdedu.load("toy-student")


def test_a_network_that_the_page_cannot_compute_is_refused():
    teacher, student = toys()
    with pytest.raises(ValueError, match="the student must be an MLP"):
        interactive.plane(teacher, cdedu.ConsistencyModel(MLP(classes=2)), two_moons(10))


def open_page(browser, html):
    tab = browser.new_page(viewport={"width": 500, "height": 700})
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_content(f"<body>{html}</body>")
    return tab, errors


@pytest.mark.book
def test_the_slider_moves_the_picture_by_keyboard(frames, browser):
    tab, errors = open_page(browser, frames)
    first = tab.locator("img").get_attribute("src")
    tab.locator("input").press("ArrowRight")
    assert tab.locator("img").get_attribute("src") != first
    assert tab.locator("img").get_attribute("alt") == 'a line to "5"'
    assert tab.locator("output").inner_text() == "5" and not errors
    tab.close()


@pytest.fixture
def moving(monkeypatch):
    monkeypatch.setenv("CDEDU_STATIC", "1")
    return interactive.explore(draw, (1, 2, 5), "frame", alt=str, play=20).html


@pytest.mark.book
def test_play_runs_through_the_frames_until_it_is_stopped_or_out_of_sight(moving, browser):
    tab, errors = open_page(browser, moving + '<div style="height: 3000px"></div>')
    shown = lambda: tab.locator("output").inner_text()  # noqa: E731
    tab.get_by_role("button", name="Play").click()
    for value in ("2", "5", "1"):
        tab.wait_for_function("v => document.querySelector('output').textContent === v", arg=value)
    tab.evaluate("scrollTo(0, 2500)")
    tab.wait_for_timeout(200)
    away = shown()
    tab.wait_for_timeout(200)
    assert shown() == away
    tab.evaluate("scrollTo(0, 0)")
    tab.wait_for_function("v => document.querySelector('output').textContent !== v", arg=away)
    tab.get_by_role("button", name="Pause").click()
    stopped = shown()
    tab.wait_for_timeout(200)
    assert shown() == stopped and not errors
    tab.close()


@pytest.mark.book
def test_under_reduced_motion_there_is_the_slider_alone(moving, frames, browser):
    tab, errors = open_page(browser, frames)
    assert tab.get_by_role("button").count() == 0, "no button where nothing plays"
    tab.emulate_media(reduced_motion="reduce")
    tab.set_content(moving)
    assert tab.locator("input").is_visible() and not tab.locator("button").is_visible() and not errors
    tab.close()


@pytest.mark.book
def test_the_page_computes_what_the_package_does(browser):
    teacher, student = toys()
    tab, errors = open_page(browser, interactive.plane(teacher, student, two_moons(400)).html)
    sigmas = cdedu.karras_sigmas(18)
    seen = []
    for key in (None, "ArrowLeft", "Shift+ArrowDown"):
        if key:
            tab.locator("canvas").press(key)
        result = json.loads(tab.locator("figure").get_attribute("data-result"))
        z = torch.tensor([result["z"]])
        end = cdedu.sample_heun(teacher, 80 * z, sigmas, to_zero=False)
        with torch.no_grad():
            answer = student(80 * z, 80.0)
        assert torch.allclose(torch.tensor([result["teacher"]]), end, atol=2e-3)
        assert torch.allclose(torch.tensor([result["student"]]), answer, atol=2e-3)
        seen.append(tab.locator("canvas").screenshot())
    assert len(set(seen)) == 3 and not errors
    assert "34 evaluations" in tab.locator("output").inner_text()
    tab.locator("input").check()
    assert tab.locator("canvas").screenshot() not in seen
    tab.close()


@pytest.mark.book
def test_five_hundred_points_land_where_the_package_sends_them(browser):
    teacher, student = toys()
    data = two_moons(400)
    tab, errors = open_page(browser, interactive.plane(teacher, student, data).html)
    tab.get_by_role("button", name="Throw 500 points").click()
    tab.wait_for_selector("figure[data-thrown]", timeout=PATIENCE)
    thrown = json.loads(tab.locator("figure").get_attribute("data-thrown"))
    noise = 80 * torch.tensor(thrown["z"])
    _, moon = make_moons(400, noise=0.06, random_state=0)  # those of two_moons

    def moon_of(x):
        return torch.from_numpy(moon)[torch.cdist(x, data).argmin(1)]

    with torch.no_grad():
        leapt = moon_of(student(noise, 80.0))
    walked = moon_of(cdedu.sample_heun(teacher, noise, cdedu.karras_sigmas(18), to_zero=False))
    assert (
        len(noise) == 500 and abs(thrown["elsewhere"] - int((leapt != walked).sum())) <= 1
    )  # weights are rounded
    assert f"{thrown['elsewhere']} of them land on another moon" in tab.locator("output").inner_text()
    tab.get_by_role("button", name="Clear").click()
    assert "34 evaluations" in tab.locator("output").inner_text() and not errors
    tab.close()


@pytest.mark.book
def test_the_point_moves_until_it_is_touched(browser):
    html = interactive.plane(*toys(), two_moons(50)).html
    tab, errors = open_page(browser, html)
    start = tab.locator("figure").get_attribute("data-result")
    tab.wait_for_function("start => document.querySelector('figure').dataset.result !== start", arg=start)
    tab.locator("canvas").press("ArrowLeft")
    rests = tab.locator("figure").get_attribute("data-result")
    tab.wait_for_timeout(200)
    assert tab.locator("figure").get_attribute("data-result") == rests and not errors
    tab.emulate_media(reduced_motion="reduce")
    tab.set_content(f"<body>{html}</body>")
    tab.wait_for_timeout(300)
    assert json.loads(tab.locator("figure").get_attribute("data-result"))["z"] == [0.6, 0.9]
    tab.close()


@pytest.mark.book
def test_the_plane_has_the_colours_of_its_page(browser):
    """Its own where the page has none; words are then in the page's own colour, which can be read there."""
    html = interactive.plane(*toys(), two_moons(50)).html
    tab, errors = open_page(browser, html)
    tab.emulate_media(reduced_motion="reduce")
    has = """color => { const c = document.querySelector("canvas"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255 && color.every((v, j) => d[i + j] === v)) return true;
        return false; }"""
    for style, found in (
        ("", [0, 0x72, 0xB2]),
        ("color: #fefefe; background: #111", [0xFE] * 3),
        ("--teacher: rgb(10, 200, 30)", [10, 200, 30]),
        ("--pst-color-text-base: rgb(250, 240, 3)", [250, 240, 3]),
    ):
        tab.set_content(f'<body style="{style}">{html}</body>')
        assert tab.evaluate(has, found), style
    tab.close()


@pytest.mark.book
def test_a_finger_on_the_point_drags_it_and_elsewhere_scrolls(browser):
    html = interactive.plane(*toys(), two_moons(50)).html
    with browser.new_context(
        has_touch=True, viewport={"width": 390, "height": 700}, reduced_motion="reduce"
    ) as context:
        tab = context.new_page()
        tab.set_content(
            f'<meta name="viewport" content="width=device-width"><body>{html}<div style="height: 2000px"></div>'
        )
        canvas, finger = tab.locator("canvas").bounding_box(), context.new_cdp_session(tab)

        def swipe(u, v):
            x, y = (
                canvas["x"] + canvas["width"] * (u / 2.6 + 1) / 2,
                canvas["y"] + canvas["height"] * (1 - v / 2.6) / 2,
            )
            for kind, points in (
                ("touchStart", [(x, y)]),
                *(("touchMove", [(x, y - 12 * i)]) for i in range(1, 8)),
                ("touchEnd", []),
            ):
                touches = [{"x": a, "y": b} for a, b in points]
                finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
            tab.wait_for_timeout(150)
            return json.loads(tab.locator("figure").get_attribute("data-result"))["z"]

        assert swipe(0.65, 0.8)[1] > 1.3 and tab.evaluate("scrollY") == 0
        z = json.loads(tab.locator("figure").get_attribute("data-result"))["z"]
        assert swipe(-1.5, -1.5) == z and tab.evaluate("scrollY") > 0


@pytest.mark.book
def test_no_pale_slab_behind_figures_in_dark_mode(html, browser):
    tab = browser.new_page()
    for page in ("01_noise", "04_consistency"):
        tab.goto((html / "book" / "undergraduate" / f"{page}.html").as_uri(), wait_until="load")
        tab.evaluate("document.documentElement.dataset.theme = 'dark'")
        slabs = tab.evaluate(
            "[...document.querySelectorAll('.cell_output :is(.cd-frames, .cd-plane)')].map((one) => "
            "getComputedStyle(one.closest('.text_html')).backgroundColor)"
        )
        assert slabs and set(slabs) == {"rgba(0, 0, 0, 0)"}, page
    tab.close()


@pytest.mark.book
def test_without_javascript_there_is_a_still(frames, browser):
    teacher, student = toys()
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.set_content(frames + interactive.plane(teacher, student, two_moons(100)).html)
    assert tab.locator("img").count() == 2 and all(i.is_visible() for i in tab.locator("img").all())
    assert not tab.locator("input").first.is_visible() and not tab.locator("canvas").is_visible()
    context.close()
