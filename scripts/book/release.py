"""What a release carries besides the pages: the book as one zip to read offline, and as one PDF.

    python scripts/book/release.py zip    _build/consistency-distillation.zip
    python scripts/book/release.py pdf    _build/consistency-distillation.pdf (needs Chromium)

Both come from the built book (`make book`). The zip of a book is the same every time.
"""

import argparse
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import yaml
from book_contents import pages
from book_launch import address

ROOT = Path(__file__).resolve().parents[2]
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
NAME = "consistency-distillation"
# The links of a page to others of the book must lead to the published book, not to the server that printed it.
OUTWARD = """([site, book]) => { for (const a of document.querySelectorAll('a[href]'))
    if (a.href.startsWith(site) && !a.getAttribute('href').startsWith('#')) a.href = book + a.href.slice(site.length); }"""


def write_zip(path: Path, html: Path) -> None:
    """Every file of the book, in order, without a date."""
    with ZipFile(path.with_suffix(".tmp"), "w") as archive:
        for file in sorted(p for p in html.rglob("*") if p.is_file() and p.name != ".buildinfo"):
            entry = ZipInfo(f"{NAME}/{file.relative_to(html).as_posix()}")
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    path.with_suffix(".tmp").replace(path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(html: Path) -> Iterator[str]:
    """The address at which this machine serves the book inside."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def published() -> str:
    """The address of the published book, of the repository and version that book_launch.py reads, too."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    name = os.environ.get("BOOK_REPOSITORY") or "/".join(url.split("/")[-2:])
    return address(name, os.environ.get("BOOK_VERSION", ""))


def chromium() -> str | None:
    """The browser of this machine, if it has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def launched() -> Iterator[Any]:
    """The browser, headless."""
    from playwright.sync_api import sync_playwright

    path = chromium() or sys.exit("there is no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def write_pdf(path: Path, html: Path) -> None:
    """Every page of the table of contents, printed by Chromium, one after the other, with a bookmark each."""
    from pypdf import PdfWriter

    book = PdfWriter()
    with served(html) as site, launched() as browser:
        tab = browser.new_page(color_scheme="light")
        tab.set_default_timeout(PATIENCE)
        for page in pages():
            answer = tab.goto(f"{site}/{page}.html", wait_until="load")
            if answer is None or not answer.ok:
                sys.exit(f"release: {page}.html is not in the built book; run `make book` first")
            tab.evaluate("() => window.MathJax?.startup?.promise")
            tab.evaluate(OUTWARD, [site, published()])
            tab.add_style_tag(content="pre { white-space: pre-wrap !important; }")  # paper does not scroll
            margin = dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
            printed = tab.pdf(format="A4", margin=margin, print_background=True, scale=0.75)
            book.append(
                io.BytesIO(printed), outline_item=tab.locator("article h1").first.inner_text().rstrip("#")
            )
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    book.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    book.compress_identical_objects()
    book.write(path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("zip", "pdf"))
    kind = parser.parse_args().kind
    if not (HTML / "index.html").is_file():
        sys.exit("release: the book is not built; run `make book` first")
    path = HTML.parent / f"{NAME}.{kind}"
    {"zip": write_zip, "pdf": write_pdf}[kind](path, HTML)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
