"""Take screenshots of the built book: each page in light, dark, at phone width and as printed.

    python scripts/book/screenshots.py FOLDER [book/index book/undergraduate/01_noise ...]

Without pages: all of them. Needs `make book` first, and Chromium.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from scripts.book.release import ALL_PICTURES, HTML, PATIENCE, launched

VIEWS = {
    "light": (1280, 900, "light", "screen"),
    "dark": (1280, 900, "dark", "screen"),
    "phone": (390, 844, "light", "screen"),
    "print": (794, 1123, "light", "print"),
}


def take(browser: Any, page: str, folder: Path) -> dict[str, Path]:
    """One page in each view, from its top to its bottom."""
    found = {}
    with browser.new_context(reduced_motion="reduce") as context:
        context.set_default_timeout(PATIENCE)
        tab = context.new_page()
        tab.goto((HTML / f"{page}.html").as_uri(), wait_until="load")
        tab.evaluate("() => window.MathJax?.startup?.promise")
        tab.evaluate(ALL_PICTURES)
        for view, (width, height, scheme, media) in VIEWS.items():
            tab.set_viewport_size({"width": width, "height": height})
            tab.emulate_media(color_scheme=scheme, media=media)
            tab.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=scheme)
            found[view] = folder / f"{page.replace('/', '-')}-{view}.png"
            tab.screenshot(path=found[view], full_page=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder for the pictures")
    parser.add_argument("pages", nargs="*", help="as in _toc.yml; all of them by default")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    built = sorted(p.relative_to(HTML).with_suffix("").as_posix() for p in HTML.glob("book/**/*.html"))
    if not built:
        sys.exit("screenshots: the book is not built; run `make book` first")
    with launched() as browser:
        for page in arguments.pages or built:
            print(*take(browser, page, folder).values(), sep="\n")


if __name__ == "__main__":
    main()
