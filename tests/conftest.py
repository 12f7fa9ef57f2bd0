"""What all tests share: one thread, a small book to build, and the built book with a browser where there is one."""

import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = Path(os.environ.get("BOOK_HTML") or ROOT / "_build" / "html")
PATIENCE = 120_000
"""Milliseconds that a browser may take for anything: a busy machine is slow, not broken."""
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "book" / "_ext")]


def build_book(root: Path, extensions: list[str], **settings: Any) -> tuple[Any, str]:
    """Build the book in root/src into root/html; the Sphinx application, and what the build warned about."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    # A source_suffix of its own: Sphinx writes into its default.
    settings = {"extensions": extensions, "source_suffix": {".rst": "restructuredtext"}} | settings
    warnings = io.StringIO()
    with docutils_namespace():
        app = Sphinx(root / "src", None, root / "html", root / "trees", "html", settings, None, warnings)
        app.build()
    return app, warnings.getvalue()


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Parallel test workers share the cores."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


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


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def site(html: Path) -> Iterator[str]:
    """The book, served on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(html)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        message = "BROWSER CHECKS SKIPPED: no chromium on this machine (apt-get install chromium)"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(message.replace("SKIPPED", "REQUIRED"))
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()
