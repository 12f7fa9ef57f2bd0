"""Pictures of the built book, to be looked at: each page in light, dark, at phone width and as printed.

    python scripts/screenshots.py FOLDER [book/index book/undergraduate/01_noise ...]

Without pages: all of them. Needs `make book` first, and Chromium.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]
from conftest import CHROMIUM_FLAGS, HTML, PATIENCE  # noqa: E402
from release import chromium  # noqa: E402

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
        for view, (width, height, scheme, media) in VIEWS.items():
            tab.set_viewport_size({"width": width, "height": height})
            tab.emulate_media(color_scheme=scheme, media=media)
            tab.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=scheme)
            found[view] = folder / f"{page.replace('/', '-')}-{view}.png"
            tab.screenshot(path=found[view], full_page=True)
    return found


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("pages", nargs="*", help="as in _toc.yml; all of them by default")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    built = sorted(p.relative_to(HTML).with_suffix("").as_posix() for p in HTML.glob("book/**/*.html"))
    if not built:
        sys.exit("screenshots: the book is not built; run `make book` first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        for page in arguments.pages or built:
            print(*take(browser, page, folder).values(), sep="\n")
        browser.close()


if __name__ == "__main__":
    main()
