"""What a release carries besides the pages: the book as one zip to read offline, and as one PDF; the weights, with their records.

    python scripts/book/release.py zip        _build/consistency-distillation.zip
    python scripts/book/release.py pdf        _build/consistency-distillation.pdf (needs Chromium)
    python scripts/book/release.py weights    _build/consistency-distillation-weights.zip
    python scripts/book/release.py changes v1.0    what CHANGELOG.md says of that version, printed

The first two come from the built book (`make book`). A zip of the same files is the same every time.
"""

import argparse
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import yaml
from book_contents import pages
from book_launch import address
from safetensors import SafetensorError
from safetensors.torch import load

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


ABOUT_WEIGHTS = """The weights of the course on consistency distillation, version {version}.

weights/   one safetensors file a model; the header says recipe and shape. A folder is a model, or an adapter, of diffusers
results/   the record of each training: recipe, seed, commit, data, hardware, date, and what was measured
SHA256     of every file: sha256sum -c SHA256

The models that the package has come with it by their names, cdedu.load("digits-student"). A file is loaded by its path:

    cdedu sample weights/digits-student.safetensors --steps 1

diffusers reads a folder: StableDiffusionPipeline.from_pretrained("weights/captioned-teacher"). The instructor's guide has a lab of
90 minutes on these files.

Apache-2.0, see LICENSE.
"""


def write_files(path: Path, name: str, files: dict[str, bytes]) -> None:
    """A zip of a folder ``name`` with these files, in order, without a date."""
    with ZipFile(path.with_suffix(".tmp"), "w") as archive:
        for file, content in sorted(files.items()):
            entry = ZipInfo(f"{name}/{file}")
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    path.with_suffix(".tmp").replace(path)


def write_zip(path: Path, html: Path) -> None:
    """Every file of the book."""
    files = (p for p in html.rglob("*") if p.is_file() and p.name != ".buildinfo")
    write_files(path, NAME, {file.relative_to(html).as_posix(): file.read_bytes() for file in files})


def write_weights(path: Path, root: Path = ROOT) -> None:
    """Every shipped model whose hash is as it was written down, in files and in folders, the records, and their own hashes.

    Raises:
        SystemExit: if a file is missing or is not the one that was shipped.
    """
    folder, captioned = root / "cdedu" / "weights", root / "results" / "captioned.json"
    said = {
        f"{name}.safetensors": ("hashes.json", shipped)
        for name, shipped in json.loads((folder / "hashes.json").read_text(encoding="utf-8")).items()
    }
    if captioned.is_file():
        recorded = json.loads(captioned.read_text(encoding="utf-8"))["weights"]
        said = {name: (captioned.name, shipped) for name, shipped in recorded.items()} | said
    files = {}
    for name, (where, shipped) in said.items():
        file = folder / name
        if not file.is_file() or sha256(file.read_bytes()).hexdigest() != shipped:
            sys.exit(
                f"release: {name} is missing or not what {where} says; `git checkout {file.relative_to(root)}`"
            )
        files[f"weights/{name}"] = file.read_bytes()
    # The adapter has no recorded hash; that it can be read is what can be asked of it.
    for file in (p for p in folder.glob("*/**/*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if name not in said and file.suffix == ".safetensors":
            try:
                load(file.read_bytes())
            except SafetensorError as error:
                sys.exit(f"release: {name} can't be read ({error}); `git checkout {file.relative_to(root)}`")
        files[f"weights/{name}"] = file.read_bytes()
    files |= {f"results/{file.name}": file.read_bytes() for file in (root / "results").glob("*.json")}
    files["LICENSE"] = (root / "LICENSE").read_bytes()
    files["README.txt"] = ABOUT_WEIGHTS.format(version=version("cdedu")).encode()
    sums = (f"{sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    write_files(path, f"{NAME}-weights", files | {"SHA256": "".join(sums).encode()})


def changes(text: str, tag: str) -> str:
    """The part of a changelog under ``## 1.0``, for the tag ``v1.0``.

    Raises:
        SystemExit: if there is none.
    """
    number = tag.removeprefix("v")
    found = re.search(rf"^## {re.escape(number)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not found:
        sys.exit(f"release: CHANGELOG.md has no part '## {number}' for the tag {tag}; write one")
    return found[1].strip() + "\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(html: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """The address at which this machine serves the book inside."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(html))) as server:
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


ALL_PICTURES = """() => Promise.all([...document.images].map((one) => {
    one.loading = "eager";
    return one.decode().catch(() => null);
}))"""
"""Those far down as well, which a reader's browser fetches when they come near."""


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
            tab.evaluate(ALL_PICTURES)
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
    parser.add_argument("kind", choices=("zip", "pdf", "weights", "changes"))
    parser.add_argument("tag", nargs="?", help="tag of the version whose changes to print")
    asked = parser.parse_args()
    kind: str = asked.kind
    if kind == "changes":
        print(
            changes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), asked.tag or version("cdedu")),
            end="",
        )
        return 0
    if kind == "weights":
        path = ROOT / "_build" / f"{NAME}-weights.zip"
        path.parent.mkdir(exist_ok=True)
        write_weights(path)
    else:
        if not (HTML / "index.html").is_file():
            sys.exit("release: the book is not built; run `make book` first")
        path = HTML.parent / f"{NAME}.{kind}"
        {"zip": write_zip, "pdf": write_pdf}[kind](path, HTML)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
