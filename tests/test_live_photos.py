"""Photographs by class: the page draws what the package does, over HTTP and from disk. With tiny networks; with the real ones where they are."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import book_page
import pytest
import torch
from conftest import PATIENCE, ROOT, fence, served
from torch import Tensor, nn

import cdedu
from cdedu.checkpoints import Header
from cdedu.data.images import CIFAR10_CLASSES
from cdedu.methods.guidance import GuidedDenoiser, guided_for
from scripts.book import browser_assets

pytestmark = pytest.mark.book

STATIC = ROOT / "book" / "_static"
SHAPE = (3, 32, 32)
STILL = '<figure><img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></figure>'
PART = "document.querySelector('.live-photos').live"
DONE = "() => /times as long/.test(document.querySelector('.photos .live-say').textContent)"
INK = """(role) => [...document.querySelectorAll(`.photos-${role} canvas`)].map((one) => one.toDataURL())"""


class Tiny(nn.Module):
    """Two convolutions, between which class and noise level are told."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 5, padding=2), nn.Conv2d(16, 3, 5, padding=2)
        self.classes = nn.Embedding(11, 16)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        told = self.classes(labels) + c_noise[:, None]
        return self.last(torch.tanh(self.first(x) + told[..., None, None]))


@pytest.fixture(scope="module")
def models() -> tuple[cdedu.ConsistencyModel, cdedu.Teacher]:
    """A student and a teacher that differ."""
    torch.manual_seed(0)
    teacher = cdedu.Teacher(Tiny())
    student = cdedu.ConsistencyModel.from_teacher(teacher)
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    for model in (student, teacher):
        model.eval().header = Header(SHAPE, None, 11, 10, tuple(CIFAR10_CLASSES), guidance=(2.0,))
    return student, teacher


def write_page(page: Path, live: Path, attributes: dict[str, str]) -> None:
    """Nothing but the part, as the book's pages load it."""
    static = live.parent.as_posix() if live.is_relative_to(STATIC) else "_static"
    quoted = " ".join(f"{name}='{value}'" for name, value in attributes.items())
    styles = "".join(
        f'<link rel="stylesheet" href="{static}/{name}.css">'
        for name in ("course", "live/parts", "live/photos")
    )
    scripts = "".join(
        f'<script defer {quoted} src="{static}/live/{name}.js"></script>'
        for name in ("common", "networks", "photos")
    )
    page.write_text(
        f'<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>Photographs</title>{styles}{scripts}'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        "<style>body { --pst-color-background: #fff; --pst-color-text-base: #222; }</style>"
        f'<main><div class="live-photos">{STILL}</div></main></html>'
    )


@pytest.fixture(scope="module")
def folder(models: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with the part, and the tiny networks in the place of the book's."""
    root = tmp_path_factory.mktemp("photos")
    live = root / "_static" / "live"
    live.mkdir(parents=True)
    for file in (*(STATIC / "live").glob("*.css"), *(STATIC / "live").glob("[!d]*.js")):
        shutil.copy(file, live)
    (live / "frames.png").touch()
    shutil.copy(STATIC / "course.css", live.parent)
    (live.parent / "vendor").symlink_to(STATIC / "vendor")
    with pytest.MonkeyPatch.context() as patch:
        for module in (browser_assets, book_page):
            patch.setattr(module, "LIVE", live)
        photos = browser_assets.write_photos(*models)
        browser_assets.write_manifest({"digits": photos, "photos": photos}, {"weights": {}})
        write_page(root / "page.html", live, book_page.live_attributes())
    return root


@pytest.fixture(scope="module")
def visit(browser: Any, folder: Path) -> Iterator[Callable[..., Any]]:
    """A tab on the page, over HTTP or from disk; nothing else is in reach. What it asked for is in ``asked``."""
    contexts = []
    with served(folder) as site:

        def go(
            query: str = "", disk: bool = False, breaks: dict[str, Any] | None = None, **options: Any
        ) -> Any:
            context = browser.new_context(**options)
            context.set_default_timeout(PATIENCE)
            contexts.append(context)
            tab = context.new_page()
            home = folder.as_uri() if disk else site
            fence(tab, home, breaks, console=False)
            tab.goto(f"{home}/page.html{query}", wait_until="load")
            return tab

        yield go
        for context in contexts:
            context.close()


def names(tab: Any) -> list[str]:
    """Of the files that were asked for, in order."""
    return [url.rpartition("/")[2].partition("?")[0] for url in tab.asked]


def press(tab: Any) -> None:
    tab.locator(".photos-draw").click()


def said(tab: Any) -> str:
    return tab.locator(".photos .live-say").inner_text()


@pytest.fixture(scope="module")
def drawn(visit: Callable[..., Any]) -> Any:
    """A page on which the button was pressed, with the teacher's file held back for a while; tests below share it."""
    held: list[Any] = []
    tab = visit(breaks={"photos-teacher": held.append})
    tab.before = (names(tab), said(tab), tab.locator("figure").is_visible())
    press(tab)
    tab.wait_for_function(
        "() => /The teacher: Loading/.test(document.querySelector('.photos .live-say').textContent)"
    )
    while not held:
        tab.wait_for_timeout(20)
    tab.early = SimpleNamespace(
        asked=names(tab),
        ink=tab.evaluate(INK, "student"),
        button=tab.locator(".photos-draw").inner_text(),
    )
    for route in held:
        route.continue_()
    tab.wait_for_function(DONE)
    return tab


def test_the_student_is_shown_before_the_teacher_is_there(drawn: Any) -> None:
    asked, sentence, still = drawn.before
    assert not [name for name in asked if name.endswith((".onnx", ".gzip"))] and still
    assert "nothing is sent" in sentence
    early = drawn.early
    assert early.button == "Stop"
    assert early.asked.index("photos-student.onnx") < early.asked.index("photos-teacher.onnx")
    assert len(set(early.ink)) == 10 and early.ink == drawn.evaluate(INK, "student")
    assert len({*early.ink, *drawn.evaluate(INK, "teacher")}) == 20
    found = drawn.locator(".photos-teacher .photos-clock").inner_text()
    assert found.startswith("70 of 70 · ") and not drawn.locator("figure").is_visible()
    names = drawn.locator(".photos-student .photos-sheet > span").all_inner_texts()
    assert [name.strip() for name in names] == CIFAR10_CLASSES
    assert not drawn.errors


def test_the_page_draws_what_the_package_does(drawn: Any, models: tuple[Any, Any]) -> None:
    """With weights in half precision: 1e-3 for the student, as for the teacher's walk of these tiny networks."""
    labels = torch.tensor([3, 9, 0])
    noise = 80 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = drawn.evaluate(
        f"""async ([labels, noise]) => {{
            const {{ student, teacher }} = await {PART}.draw(labels, Float32Array.from(noise));
            return {{ student: [...student.x], teacher: [...teacher.x], count: teacher.evaluations }};
        }}""",
        [labels.tolist(), noise.flatten().tolist()],
    )
    student, teacher = (copy.deepcopy(model).half().float() for model in models)
    wanted = {
        "student": cdedu.sample_consistency(student, noise, labels=labels),
        "teacher": cdedu.sample_heun(
            GuidedDenoiser(teacher, 2.0, null=10), noise, cdedu.karras_sigmas(18), labels=labels
        ),
    }
    assert found["count"] == 35  # denoisers, which ask the network twice
    for name, x in wanted.items():
        error = (torch.tensor(found[name]) - x.flatten()).abs().max().item()
        print(f"\n{name}: error {error:.1e}", end="")
        assert error < 1e-3, name


def test_stop_ends_the_walk_and_the_keyboard_begins_anew(drawn: Any) -> None:
    drawn.evaluate(
        """() => new MutationObserver((_, watch) => {
            if (!/^[3-9] of 70/.test(document.querySelector(".photos-teacher .photos-clock").textContent)) return;
            document.querySelector(".photos-draw").click();
            watch.disconnect();
        }).observe(document.querySelector(".photos-teacher .photos-clock"), { childList: true })"""
    )
    press(drawn)
    drawn.wait_for_function(f"() => {PART}.work === null")
    drawn.wait_for_timeout(300)
    assert said(drawn) == "Stopped." and drawn.locator(".photos-draw").inner_text() == "Draw 10 here"
    assert not drawn.locator(".photos-teacher .photos-clock").inner_text().startswith("70")
    drawn.locator(".photos select").focus()
    for key in ("h", "Tab", "Enter"):
        drawn.keyboard.press(key)
    drawn.wait_for_function(DONE)
    assert "photos.class=horse" in drawn.url and drawn.locator(".photos-student canvas").count() == 8
    assert "horse" in drawn.locator(".photos-student .photos-sheet").get_attribute("aria-label")
    assert not drawn.errors


def test_the_address_keeps_class_and_seed_from_disk_on_a_phone(visit: Callable[..., Any]) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "reduced_motion": "reduce", "has_touch": True}
    tab = visit("?photos.class=cat&photos.seed=7", disk=True, offline=True, **phone)
    tab.evaluate(
        """() => new MutationObserver(() => (window.changes = (window.changes ?? 0) + 1))
            .observe(document.querySelector(".photos-teacher .photos-sheet"), { attributes: true })"""
    )
    assert tab.locator(".photos-draw").inner_text() == "Draw 8 here"
    tab.locator(".photos-draw").tap()
    tab.wait_for_function(DONE)
    first = tab.evaluate(INK, "student")
    assert tab.evaluate("() => window.changes") <= 4, "without motion only noise and end are shown"
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
    boxes = [tab.locator(f".photos-{role} .photos-sheet").bounding_box() for role in ("student", "teacher")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    tab.locator(".photos-other").tap()
    tab.wait_for_function(f"() => {PART}.work === null")
    assert "photos.seed=8" in tab.url and tab.evaluate(INK, "student") != first
    tab.evaluate(f"() => {{ {PART}.settings.set({{ seed: 7 }}); }}")
    tab.evaluate(f"() => {PART}.draw()")
    assert tab.evaluate(INK, "student") == first
    assert "disk-photos.js" in names(tab) and not tab.errors


def test_what_is_missing_is_said(visit: Callable[..., Any]) -> None:
    breaks = {"photos-student": lambda route: route.abort()}
    tab = visit(breaks=breaks)
    press(tab)
    tab.get_by_role("button", name="Try again").wait_for()
    assert "photos-student.onnx could not be loaded" in said(tab) and tab.locator("figure").is_visible()
    breaks.clear()
    breaks["photos-teacher"] = lambda route: route.fulfill(status=404)
    press(tab)
    tab.get_by_role("button", name="Try again").wait_for()
    assert "photos-teacher.onnx is missing on the server" in said(tab)
    assert len(set(tab.evaluate(INK, "student"))) == 10
    breaks.clear()
    press(tab)
    tab.wait_for_function(DONE)
    assert not tab.errors


def test_paper_and_readers_without_javascript_get_the_still_picture(
    drawn: Any, visit: Callable[..., Any]
) -> None:
    drawn.emulate_media(media="print")
    assert drawn.locator("figure").is_visible() and not drawn.locator(".photos").is_visible()
    drawn.emulate_media(media="screen")
    assert visit(java_script_enabled=False).locator("figure").is_visible()


@pytest.mark.weekly
def test_without_workers_the_page_computes(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.evaluate("() => delete window.Worker")
    press(tab)
    tab.wait_for_function(DONE)
    assert "blocks workers" in said(tab) and not tab.errors


# --- the book's own ------------------------------------------------------------------------------------


def manifest() -> dict[str, Any]:
    path = STATIC / "live" / "manifest.json"
    if not path.is_file() or "photos" not in json.loads(path.read_text())["sets"]:
        pytest.skip("the networks for photographs are not there: they need the weights cifar10-small-guided")
    return json.loads(path.read_text())


def test_each_network_is_small() -> None:
    found = manifest()
    for role in ("student", "teacher"):
        assert found["assets"][found["sets"]["photos"][role]]["bytes"] <= 8e6


@pytest.mark.parametrize("role", ["student", pytest.param("teacher", marks=pytest.mark.weekly)])
def test_the_books_networks_draw_what_the_package_does(role: str, browser: Any, tmp_path: Path) -> None:
    """Half-precision weights, computed in float32: 1e-3 for the student, and for the teacher's walk of 35 evaluations."""
    manifest()
    write_page(tmp_path / "page.html", STATIC / "live", book_page.live_attributes())
    labels = torch.tensor([7, 8])
    noise = 80 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    with browser.new_context(offline=True) as context:
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        tab.goto((tmp_path / "page.html").as_uri(), wait_until="load")
        found = tab.evaluate(
            """async ([role, labels, noise]) => {
                const name = role === "student" ? "sampleStudent" : "sampleTeacher";
                await live.networks.load(() => {}, "photos", [role]);
                const { x } = await live.networks.call(name, [Float32Array.from(noise), ...(role === "student" ? [80, 1] : [18, 80])],
                    () => {}, { set: "photos", labels });
                return [...x];
            }""",
            [role, labels.tolist(), noise.flatten().tolist()],
        )
    student, teacher = map(cdedu.load, browser_assets.PHOTOS)
    model = student if role == "student" else guided_for(student, teacher)
    sample = cdedu.sample_consistency if role == "student" else cdedu.sample_heun
    rest = () if role == "student" else (cdedu.karras_sigmas(18),)
    error = (torch.tensor(found) - sample(model, noise, *rest, labels=labels).flatten()).abs().max().item()
    print(f"\n{role}: error {error:.1e}")
    assert error < 1e-3


def test_a_book_without_these_networks_keeps_the_still_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_page, "LIVE", tmp_path)
    for sets, there in (({"digits": {}}, False), ({"digits": {}, "photos": {}}, True)):
        (tmp_path / "manifest.json").write_text(json.dumps({"sets": sets}))
        assert book_page.is_complete("photos") is there and book_page.is_complete("generator")
    both = dict.fromkeys((*browser_assets.DIGITS, *browser_assets.PHOTOS), "hash")
    assert browser_assets.wanted_weights(both) == both
    del both["cifar10-small-guided"]
    assert list(browser_assets.wanted_weights(both)) == list(browser_assets.DIGITS)
