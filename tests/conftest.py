"""What all tests share: one thread, a small book to build, and the built book with a browser where there is one."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from scripts.book.release import HTML, PATIENCE, ROOT, chromium, launched, served  # noqa: F401

settings.register_profile("default", deadline=None)
settings.register_profile("weekly", deadline=None, max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``cuda`` are skipped where there is no GPU; PyTorch is asked only for them."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU with CUDA")


def build_book(root: Path, extensions: list[str], **more: Any) -> tuple[Any, str]:
    """Build the book in root/src into root/html; the Sphinx application, and what the build warned about."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    # A source_suffix of its own: Sphinx writes into its default.
    options = {"extensions": extensions, "source_suffix": {".rst": "restructuredtext"}} | more
    warnings = io.StringIO()
    with docutils_namespace():
        app = Sphinx(root / "src", None, root / "html", root / "trees", "html", options, None, warnings)
        app.build()
    return app, warnings.getvalue()


@cache
def _changed() -> set[str]:
    """Pages whose source has changed; git is asked once, and only where pages are looked at."""
    from scripts.book.notebooks import changed

    return {str(path.relative_to(ROOT).with_suffix("")) for path in changed()}


def daily(pages: list[str], *always: str) -> list[Any]:
    """Pages as parameters: those of ``always`` and those that have changed are looked at in ``make test``, the others every week."""
    chosen = {*always, *_changed()}
    return [
        pytest.param(page, marks=() if page.removesuffix(".html") in chosen else pytest.mark.weekly)
        for page in pages
    ]


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Parallel test workers share the cores."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pictures that tests decode are not left among the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CDEDU_CACHE"] = str(folder)
    if "cdedu.data.images" in sys.modules:
        sys.modules["cdedu.data.images"].CACHE = folder


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them are about."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").is_file():
        pytest.skip("the book is not built: run `make book` first")
    return HTML


@pytest.fixture(scope="session")
def site(html: Path) -> Iterator[str]:
    """The book, served on this machine."""
    with served(html) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    if chromium() is None:
        message = "BROWSER CHECKS SKIPPED: no chromium on this machine (apt-get install chromium)"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(message.replace("SKIPPED", "REQUIRED"))
        pytest.skip(message)
    with launched() as found:
        yield found


def fence(
    tab: Any, home: str, breaks: dict[str, Callable[[Any], None]] | None = None, console: bool = True
) -> None:
    """Let a tab reach nothing but ``home``. What it asked for is in its ``asked``, what it asked for elsewhere or went wrong in its
    ``errors``; a request whose address has a key of ``breaks`` is answered by that."""
    tab.errors, tab.asked = [], []

    def guard(route: Any) -> None:
        url = route.request.url
        tab.asked.append(url)
        answer = next((act for part, act in (breaks or {}).items() if part in url), None)
        if answer is not None:
            answer(route)
        elif url.startswith((home, "data:", "blob:")):
            route.continue_()
        else:
            tab.errors.append(f"asked for {url}")
            route.abort()

    tab.context.route("**/*", guard)
    if console:
        tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))


@pytest.fixture
def cdedu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in an empty folder: exit code, standard output, standard error."""
    from cdedu import cli

    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cdedu", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def open_tab(browser: Any) -> Iterator[Callable[..., Any]]:
    """A tab on a page from disk, cut off from any network; what goes wrong in it, or is asked for elsewhere, is in its ``errors``."""
    contexts = []

    def open_one(url: str, script: str = "", console: bool = True, **options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        tab = context.new_page()
        tab.errors = []
        if console:
            tab.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        here = ("file:", "data:", "blob:")
        tab.on("request", lambda one: None if one.url.startswith(here) else tab.errors.append(one.url))
        if script:
            tab.add_init_script(script)
        tab.goto(url)
        return tab

    yield open_one
    for context in contexts:
        context.close()
