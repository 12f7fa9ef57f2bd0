"""Speed in the reader's browser, on the built book: `make bench` after `make book`. Writes `results/browser.json`.

Everything is served from this machine to headless Chromium, and runs on one thread of WebAssembly. Milliseconds are medians. For the
phone the connection is slow, and text is compressed as Pages does. The color student has the size of the recipe `cifar10-small` and
random weights: speed does not depend on them. Nothing here passes or fails.
"""

import gzip
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cdedu.pretrained import export_onnx
from cdedu.recipes import get_recipe
from cdedu.records import write_record
from cdedu.student import ConsistencyModel
from scripts.book.release import HTML, PATIENCE, Quiet, launched, served

ROOT = Path(__file__).resolve().parents[2]

PAINTED = ("book/index", "book/undergraduate/01_noise", "book/undergraduate/04_consistency")
ROUNDS = 5

PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
BYTES = "() => performance.getEntries().reduce((sum, one) => sum + (one.encodedBodySize || 0), 0)"

# In the index: the engine of the generator, on noise of its own.
DIGITS = """async () => {
    const home = new URL("../_static/live/", location), tag = document.createElement("script");
    await new Promise((done) => document.head.append(Object.assign(tag, { src: new URL("engine.js", home), onload: done })));
    const engine = window.liveEngine(home, "");
    const start = performance.now();
    const digits = { set: "digits" };
    await engine.load(digits, ["student", "teacher"]);
    const noise = (n) => Float32Array.from({ length: 64 * n }, () => 80 * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(6.2831853 * Math.random()));
    const out = { load: performance.now() - start, student: [], teacher: [], student_16: [], teacher_16: [] };
    for (let i = 0; i < 30; i++) {
        out.student.push((await engine.sampleStudent(digits, noise(1))).ms);
        if (i < 10) out.teacher.push((await engine.sampleTeacher(digits, noise(1))).ms);
        if (i < 10) out.student_16.push((await engine.sampleStudent(digits, noise(16))).ms);
        if (i < 5) out.teacher_16.push((await engine.sampleTeacher(digits, noise(16))).ms);
    }
    return out;
}"""

# In the same page: a network for 32 × 32 colors, in the runtime that the engine has started; so many pictures at once.
COLOUR = """async ([url, count]) => {
    const live = new URL("../_static/live/", location);
    const { runtime } = (await (await fetch(new URL("manifest.json", live))).json()).assets;
    const ort = await import(new URL(`${runtime.file}?v=${runtime.sha256.slice(0, 12)}`, live));
    const session = await ort.InferenceSession.create(new Uint8Array(await (await fetch(url)).arrayBuffer()), { executionProviders: ["wasm"] });
    const times = [];
    for (let i = 0; i < 12; i++) {
        const x = Float32Array.from({ length: 3072 * count }, () => 160 * Math.random() - 80);
        const start = performance.now();
        await session.run({ x: new ort.Tensor("float32", x, [count, 3, 32, 32]), sigma: new ort.Tensor("float32", Array(count).fill(80), [count]) });
        if (i > 1) times.push(performance.now() - start);
    }
    return times;
}"""

# The point in the square between four noises: from the slider's event to the digit.
WALK = """async () => {
    const { live } = document.querySelector(".live-generator"), slider = document.querySelector(".live-u"), times = [];
    for (let i = 0; i < 30; i++) {
        const start = performance.now();
        slider.value = 3 * i;
        await live.move();
        times.push(performance.now() - start);
    }
    return times;
}"""

# A figure of frames, or one that computes in the page: from the event until its picture is ready to be painted.
FRAMES = """async (figure) => {
    const slider = figure.querySelector("input"), image = figure.querySelector("img"), times = [];
    for (let i = 0; i < 20; i++) {
        const start = performance.now();
        slider.value = i % 2 ? slider.min : slider.max;
        slider.dispatchEvent(new Event("input"));
        await image.decode();
        times.push(performance.now() - start);
    }
    return times;
}"""
PLANE = """(figure) => Array.from({ length: 20 }, (_, i) => {
    const start = performance.now();
    figure.querySelector("canvas").dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "ArrowLeft" : "ArrowUp" }));
    return performance.now() - start;
})"""


def first_paints(browser: Any, site: str) -> dict[str, Any]:
    """Milliseconds to the first contentful paint, each time with an empty cache; and what the index weighs on the wire, uncompressed."""
    found: dict[str, Any] = {"first_contentful_paint": {}}
    for page in PAINTED:
        times = []
        for _ in range(ROUNDS):
            with browser.new_context() as context:
                tab = context.new_page()
                tab.set_default_timeout(PATIENCE)
                tab.goto(f"{site}/{page}.html", wait_until="load")
                tab.wait_for_function(PAINT)
                times.append(tab.evaluate(PAINT))
                if page == PAINTED[0]:
                    found["index_bytes"] = tab.evaluate(BYTES)
        found["first_contentful_paint"][page.rpartition("/")[2]] = median(times)
    return found


SHIFTS = """window.shifted = 0;
new PerformanceObserver((list) => list.getEntries().forEach((one) => one.hadRecentInput || (window.shifted += one.value)))
    .observe({ type: "layout-shift", buffered: true });"""
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
}
SLOW = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 0.75e6 / 8}


class Compressed(Quiet):
    """Text leaves compressed, as from Pages."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        kind, body = self.guess_type(path), path.read_bytes()
        small = kind.startswith("text") or "javascript" in kind or "json" in kind or "svg" in kind
        body = gzip.compress(body, 6) if small else body
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if small:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)


def on_a_phone(browser: Any) -> dict[str, dict[str, float]]:
    """Over 1.6 Mbit/s: milliseconds to the first contentful paint, layout shift, and megabytes before anybody scrolls."""
    found = {}
    with served(HTML, Compressed) as site:
        for page in PAINTED:
            with browser.new_context(**PHONE) as context:
                tab = context.new_page()
                tab.set_default_timeout(PATIENCE)
                protocol, sizes = context.new_cdp_session(tab), []
                protocol.send("Network.enable")
                protocol.send("Network.emulateNetworkConditions", SLOW)
                protocol.on(
                    "Network.loadingFinished", lambda one, sizes=sizes: sizes.append(one["encodedDataLength"])
                )
                tab.add_init_script(SHIFTS)
                tab.goto(f"{site}/{page}.html", wait_until="load")
                tab.wait_for_timeout(2000)
                found[page.rpartition("/")[2]] = {
                    "first_contentful_paint": tab.evaluate(PAINT),
                    "layout_shift": tab.evaluate("window.shifted"),
                    "megabytes": sum(sizes) / 1e6,
                }
    return found


def networks(browser: Any, site: str, colour: Path) -> dict[str, Any]:
    """Milliseconds of the student, the teacher, and a color student, of one picture and of eight; of the walk between noises."""
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.route("**/colour.onnx", lambda route: route.fulfill(path=colour))
    tab.goto(f"{site}/{PAINTED[0]}.html", wait_until="load")
    times = tab.evaluate(DIGITS)
    found = {name: median(ms) if isinstance(ms, list) else ms for name, ms in times.items()}
    found["ratio"] = found["teacher"] / found["student"]
    found["ratio_16"] = found["teacher_16"] / found["student_16"]
    for name, count in (("colour", 1), ("colour_8", 8)):
        found[name] = median(tab.evaluate(COLOUR, [f"{site}/colour.onnx", count]))
    tab.locator(".live-between summary").click()
    tab.wait_for_function("() => document.querySelector('.live-generator').live.drawing === false")
    found["walk"] = median(tab.evaluate(WALK))
    tab.close()
    return found


def figures(browser: Any, site: str) -> dict[str, Any]:
    """Milliseconds from slider to picture: the slowest figure of each kind in the book."""
    found: dict[str, float] = {}
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE)
    for path in sorted((HTML / "book").rglob("[0-9]*.html")):
        text = path.read_text(encoding="utf-8")
        for kind, script in (("cd-frames", FRAMES), ("cd-plane", PLANE)):
            if f'class="{kind}"' in text:
                tab.goto(f"{site}/{path.relative_to(HTML)}", wait_until="load")
                for figure in tab.locator(f"figure.{kind}").all():
                    name = kind.removeprefix("cd-")
                    found[name] = max(found.get(name, 0.0), median(figure.evaluate(script)))
    tab.close()
    return found


def main() -> None:
    """Measure, print, record."""
    if not (HTML / "index.html").is_file():
        sys.exit("bench_browser: the book is not built; run `make book` first")
    begun = time.perf_counter()
    torch.manual_seed(0)
    network = replace(get_recipe("cifar10-small").network, classes=0)
    student = ConsistencyModel(network.build((3, 32, 32)), noise_scale=250.0)
    parameters = sum(p.numel() for p in student.parameters())
    with tempfile.TemporaryDirectory() as folder, served(HTML) as site, launched() as browser:
        colour = Path(folder) / "colour.onnx"
        export_onnx(student, colour, shape=(3, 32, 32), half=True)
        metrics = first_paints(browser, site)
        metrics |= networks(browser, site, colour) | {"colour_parameters": parameters}
        metrics["slider"] = figures(browser, site)
        phone = on_a_phone(browser)
        version = browser.version
    rounded = {
        name: {key: round(ms, 1) for key, ms in value.items()} if isinstance(value, dict) else round(value, 1)
        for name, value in metrics.items()
    }
    rounded["phone"] = {page: {key: round(x, 3) for key, x in row.items()} for page, row in phone.items()}
    for name, value in rounded.items():
        print(f"{name}: {value}")
    path = write_record(
        ROOT / "results" / "browser.json",
        metrics=rounded,
        command="python scripts/bench/bench_browser.py",
        seconds=time.perf_counter() - begun,
        browser=f"Chromium {version}, headless",
    )
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
