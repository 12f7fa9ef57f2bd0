"""The live generator, in a browser: it generates what PyTorch does, and where it cannot it says why. Needs `make book`."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from conftest import HTML, PATIENCE, ROOT, fence

pytestmark = pytest.mark.book

LIVE = ROOT / "book" / "_static" / "live"
PAGE = "book/index.html"
HEAVY = re.compile(r"\.onnx|\.gzip|ort\.wasm|engine\.js|manifest\.json|disk\.js")


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return json.loads((LIVE / "reference.json").read_text())


@pytest.fixture(scope="module")
def open_page(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """A tab on a page, with the network cut except for the site, and a list of what went wrong or was asked for."""
    contexts = []

    def open_one(
        page: str = PAGE,
        script: str = "",
        breaks: dict[str, Any] | None = None,
        base: str = site,
        **options: Any,
    ) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        tab = context.new_page()
        fence(tab, base, breaks)
        if script:
            tab.add_init_script(script)
        tab.goto(f"{base}/{page}", wait_until="load")
        return tab

    yield open_one
    for context in contexts:
        context.close()


def press(tab: Any) -> str:
    """Press the button, wait until it may be pressed again, and return the sentence."""
    tab.locator(".live-panel button").click()
    tab.locator(".live-panel button:not([aria-disabled])").wait_for()
    return tab.locator(".live-status").inner_text()


def open_walk(tab: Any) -> None:
    """Unfold the square between four noises, and wait for its digit."""
    tab.locator(".live-between summary").click()
    tab.wait_for_function(
        "() => document.querySelector('.live-generator').live.drawing === false", polling=50
    )
    tab.locator(".live-panel button:not([aria-disabled])").wait_for()


def height(tab: Any) -> float:
    return tab.locator(".live-panel").bounding_box()["height"]


def pixels(tab: Any, name: str) -> str:
    return tab.evaluate("name => document.querySelector(name).toDataURL()", name)


def drawn(tab: Any, name: str) -> bool:
    """Whether a canvas has any ink."""
    return tab.evaluate(
        """name => { const c = document.querySelector(name);
        return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(v => v > 0) }""",
        name,
    )


@pytest.fixture(scope="module")
def live(open_page: Callable[..., Any]) -> Any:
    """The index after the button was pressed once; tests below share it."""
    tab = open_page()
    tab.before = [u for u in tab.asked if HEAVY.search(u)]
    closed = height(tab)
    tab.sentence = press(tab)
    tab.grown = height(tab) - closed
    open_walk(tab)
    return tab


# --- the files ---------------------------------------------------------------------------------------


def test_the_manifest_tells_the_truth() -> None:
    manifest = json.loads((LIVE / "manifest.json").read_text())
    for asset in manifest["assets"].values():
        data = (LIVE / asset["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (asset["bytes"], asset["sha256"])
    hashes = json.loads((ROOT / "cdedu" / "weights" / "hashes.json").read_text())
    disk = (LIVE / "disk.js").read_text()
    stored = json.loads(disk[disk.index("{") : disk.rindex("}") + 1])
    for key, text in stored["files"].items():
        digest = hashlib.sha256(base64.b64decode(text)).hexdigest()
        assert digest == stored["assets"][key]["sha256"] == manifest["assets"][key]["sha256"], key
    stale = {name for name, digest in manifest["weights"].items() if hashes[name] != digest}
    assert not stale, f"{stale} are newer than the page's: run python scripts/book/browser_assets.py"


def test_the_reference_is_pytorch(reference: dict[str, Any]) -> None:
    import cdedu

    noise = torch.tensor(reference["noise"]).reshape(-1, 1, 8, 8)
    samples = cdedu.sample_consistency(cdedu.load("digits-student"), noise).flatten()
    assert (samples - torch.tensor(reference["student"])).abs().max() < 1e-4
    walked = cdedu.sample_heun(cdedu.load("digits-teacher"), noise, cdedu.karras_sigmas(18)).flatten()
    assert (walked - torch.tensor(reference["teacher"])).abs().max() < 1e-4


def test_only_pages_that_use_it_load_the_generator(html: Path) -> None:
    for page in (html / "book").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert ("live/generator.js" in text) == ('class="live-generator' in text), page
    assert 'class="live-generator' in (html / PAGE).read_text(encoding="utf-8")


def test_mathjax_is_loaded_where_there_are_formulas_and_nowhere_else(html: Path) -> None:
    for page in (html / "book").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert ("tex-chtml.js" in text) == ('class="math' in text), page


def test_the_index_is_light(open_page: Callable[..., Any], html: Path) -> None:
    """At most 1 MB compressed before the button is pressed; then the fetches counted here are over."""
    tab = open_page()
    tab.wait_for_timeout(300)
    names = {urlsplit(url).path.lstrip("/") for url in tab.asked}
    sizes = {
        name: len(gzip.compress((html / name).read_bytes())) for name in names if (html / name).is_file()
    }
    print(f"\nindex: {sum(sizes.values()) / 1e3:.0f} KB compressed in {len(sizes)} files")
    assert sum(sizes.values()) <= 1e6, sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert not [name for name in names if HEAVY.search(name) or "mathjax" in name]
    assert not tab.errors


# --- generating --------------------------------------------------------------------------------------


def test_press_and_images_appear(live: Any) -> None:
    assert not live.before, "fetched before the button was pressed"
    assert abs(live.grown) < 2, "the results have their place before there are any"
    for name in ("student", "teacher", "map", "digit"):
        assert drawn(live, f".live-{name}"), name
    found = re.search(r"student in ([\d.]+) ms, the teacher in ([\d.]+) m?s, (\d+) times", live.sentence)
    assert found, live.sentence
    print(f"\n16 digits: {live.sentence}")
    assert live.locator(".live-teacher-clock").inner_text().startswith("35 of 35")
    assert not live.locator(".live-generator > figure").is_visible()
    assert not live.errors


def test_the_browser_computes_what_pytorch_does(live: Any, reference: dict[str, Any]) -> None:
    found = live.evaluate(
        """async noise => {
            const { student, teacher } = await document.querySelector(".live-generator").live.generate(Float32Array.from(noise));
            return { student: [...student.x], teacher: [...teacher.x], ratio: teacher.ms / student.ms, count: teacher.evaluations };
        }""",
        reference["noise"],
    )
    assert found["count"] == 35
    for name in ("student", "teacher"):
        error = (torch.tensor(found[name]) - torch.tensor(reference[name])).abs().max().item()
        print(f"\n{name}: error {error:.1e}", end="")
        assert error < 1e-3
    print(f"\nteacher / student: {found['ratio']:.0f} times as long")


def test_the_grid_is_the_packages(live: Any, reference: dict[str, Any]) -> None:
    assert live.evaluate("() => window.liveEngine(location, '').karrasSigmas(18)") == pytest.approx(
        reference["sigmas"], rel=1e-6
    )


def test_keys_mouse_and_touch_move_the_digit(live: Any) -> None:
    clock = "() => document.querySelector('.live-generator').live.drawing === false"
    for name in ("u", "v"):
        slider = live.locator(f".live-{name}")
        slider.focus()
        for key in ("Home", "End", "ArrowLeft"):
            before = (pixels(live, ".live-digit"), live.locator(".live-dot").get_attribute("style"))
            live.keyboard.press(key)
            live.wait_for_function(clock)
            after = (pixels(live, ".live-digit"), live.locator(".live-dot").get_attribute("style"))
            assert after[0] != before[0] and after[1] != before[1], f"{name}: {key}"
    pad = live.locator(".live-pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    before = pixels(live, ".live-digit")
    live.mouse.move(box["x"] + 5, box["y"] + 5)
    live.mouse.down()
    live.mouse.move(box["x"] + 30, box["y"] + 60, steps=3)
    live.mouse.up()
    live.wait_for_function(clock)
    assert pixels(live, ".live-digit") != before
    times = live.evaluate(
        """async () => {
            const { live } = document.querySelector(".live-generator"), slider = document.querySelector(".live-u"), times = [];
            for (let i = 0; i < 15; i++) {
                const start = performance.now();
                slider.value = 6 * i;
                await live.move();
                times.push(performance.now() - start);
            }
            return times.sort((a, b) => a - b);
        }"""
    )
    print(f"\nslider to picture: median {times[7]:.1f} ms")
    assert not live.errors


def test_touch_moves_the_point(open_page: Callable[..., Any]) -> None:
    tab = open_page(has_touch=True, viewport={"width": 320, "height": 640}, reduced_motion="reduce")
    assert "times as long" in press(tab)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 321
    tops = {tab.locator(f".live-{name}").bounding_box()["y"] for name in ("student", "teacher")}
    assert len(tops) == 1, "the race is side by side on a phone, too"
    open_walk(tab)
    before = pixels(tab, ".live-digit")
    pad = tab.locator(".live-pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    tab.touchscreen.tap(box["x"] + box["width"] - 8, box["y"] + 8)
    tab.wait_for_function("() => document.querySelector('.live-generator').live.drawing === false")
    assert pixels(tab, ".live-digit") != before
    assert not tab.errors


# --- where it cannot ---------------------------------------------------------------------------------


def damaged(name: str, change: Callable[[bytes], bytes]) -> dict[str, Any]:
    data = change((LIVE / name).read_bytes())
    return {name: lambda route: route.fulfill(status=200, body=data)}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"script": "delete window.WebAssembly"}, "no WebAssembly"),
        ({"breaks": damaged("student.onnx", lambda d: d[:1000])}, "student.onnx is incomplete: 1000 of"),
        ({"breaks": damaged("teacher.onnx", lambda d: d[:99] + b"?" + d[100:])}, "teacher.onnx is damaged"),
        ({"breaks": damaged("student.onnx", lambda d: d + b"?")}, "student.onnx is damaged: it's longer"),
        ({"breaks": {".onnx": lambda route: route.abort()}}, "onnx could not be loaded"),
        ({"breaks": {"student.onnx": lambda route: route.fulfill(status=404)}}, "missing on the server"),
        ({"breaks": {"engine.js": lambda route: route.abort()}}, "The program could not be loaded"),
        ({"breaks": {"manifest.json": lambda route: route.abort()}}, "The list of files could not be loaded"),
    ],
)
def test_what_is_missing_is_said_and_a_recording_shown(
    arguments: dict[str, Any], sentence: str, open_page: Callable[..., Any]
) -> None:
    tab = open_page(reduced_motion="reduce", **arguments)
    said = press(tab)
    assert sentence in said and said.endswith("What you see is a recording.")
    assert drawn(tab, ".live-student") and drawn(tab, ".live-teacher")
    assert tab.locator(".live-panel button").inner_text() == "Try again"


def test_the_recording_moves_and_the_button_tries_again(open_page: Callable[..., Any]) -> None:
    breaks = damaged("student.onnx", lambda d: d[:-1])
    tab = open_page(breaks=breaks)
    tab.evaluate(
        """() => {
            const [seen, canvas] = [new Set(), document.querySelector(".live-teacher")];
            const look = () => (window.frames_seen = seen.add(canvas.toDataURL()).size);
            new MutationObserver(look).observe(document.querySelector(".live-teacher-clock"), { childList: true });
        }"""
    )
    press(tab)
    assert tab.evaluate("() => window.frames_seen") == 19
    assert tab.locator(".live-teacher-clock").inner_text() == "35 of 35 · recorded"
    breaks.clear()
    assert "times as long" in press(tab)


@pytest.mark.parametrize(
    "script",
    [
        "Worker = class { constructor() { throw new Error('blocked') } }",
        pytest.param("delete window.Worker", marks=pytest.mark.weekly),
    ],
)
def test_without_workers_the_page_computes(script: str, open_page: Callable[..., Any]) -> None:
    tab = open_page(script=script)
    said = press(tab)
    assert "blocks workers" in said and "times as long" in said
    assert drawn(tab, ".live-teacher") and not tab.errors


HIDDEN = """
Object.defineProperty(document, "hidden", { get: () => true });
Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
window.requestAnimationFrame = () => 0;
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(HIDDEN, id="worker"),
        pytest.param(HIDDEN + "delete window.Worker;", id="page", marks=pytest.mark.weekly),
    ],
)
def test_in_a_background_tab_it_finishes(script: str, open_page: Callable[..., Any]) -> None:
    """Such a tab gets no frames to draw in."""
    tab = open_page(script=script)
    assert "times as long" in press(tab)
    open_walk(tab)
    assert drawn(tab, ".live-teacher") and drawn(tab, ".live-digit") and not tab.errors


def test_without_webgpu_nothing_is_missing(live: Any) -> None:
    """The tests' browser has none, and the sentence names no fault."""
    assert not live.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())")
    assert live.sentence.strip().endswith("times as long.")


def test_without_javascript_the_still_picture_is_there(open_page: Callable[..., Any]) -> None:
    tab = open_page(java_script_enabled=False)
    assert tab.locator(".live-generator > figure img").is_visible()
    assert tab.locator(".live-panel").count() == 0
    assert "JavaScript" in tab.locator(".live-generator").inner_text()


def test_on_paper_there_is_the_still_picture(live: Any) -> None:
    live.emulate_media(media="print")
    assert (
        live.locator(".live-generator > figure").is_visible() and not live.locator(".live-panel").is_visible()
    )
    live.emulate_media(media="screen")


def test_before_the_press_a_recording_plays_once(open_page: Callable[..., Any]) -> None:
    """Noise, then the student's digits at once and the teacher's step by step; without motion the ends alone."""
    tab = open_page()
    tab.locator(".live-race").scroll_into_view_if_needed()
    clock = tab.locator(".live-teacher-clock")
    tab.wait_for_function(
        "() => / of 35 · recorded/.test(document.querySelector('.live-teacher-clock').textContent)"
    )
    assert not clock.inner_text().startswith("35") and drawn(tab, ".live-student")
    tab.wait_for_function("() => /^35 of/.test(document.querySelector('.live-teacher-clock').textContent)")
    tab = open_page(reduced_motion="reduce")
    tab.evaluate(
        """() => new MutationObserver(() => (window.changes = (window.changes ?? 0) + 1))
            .observe(document.querySelector(".live-teacher-clock"), { childList: true })"""
    )
    tab.locator(".live-race").scroll_into_view_if_needed()
    tab.wait_for_function("() => /^35 of/.test(document.querySelector('.live-teacher-clock').textContent)")
    assert tab.evaluate("() => (window.changes ?? 1)") == 1 and not tab.errors


@pytest.mark.parametrize("script", ["", pytest.param("delete window.Worker", marks=pytest.mark.weekly)])
def test_a_page_opened_from_disk_computes(script: str, browser: Any, html: Path) -> None:
    with browser.new_context(reduced_motion="reduce", offline=True) as context:
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        if script:
            tab.add_init_script(script)
        tab.goto((html / PAGE).as_uri(), wait_until="load")
        assert "times as long" in press(tab)
        assert drawn(tab, ".live-teacher")


@pytest.mark.weekly
def test_it_works_below_a_path(open_page: Callable[..., Any], tmp_path: Path) -> None:
    """Served as https://host/some/course/, as on Pages."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "course").symlink_to(HTML)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        tab = open_page(
            base=f"http://127.0.0.1:{server.server_address[1]}/some/course", reduced_motion="reduce"
        )
        assert "times as long" in press(tab) and not tab.errors
    finally:
        server.shutdown()
        server.server_close()
