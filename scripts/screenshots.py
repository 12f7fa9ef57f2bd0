"""Pictures of the built book, to be looked at: each page in light, dark and at phone width.

    python scripts/screenshots.py FOLDER [book/index book/undergraduate/01_noise ...]

Without pages: all of them. Needs `make book` first, and Chromium.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import CHROMIUM_FLAGS, HTML  # noqa: E402

VIEWS = {"light": (1280, 900, "light"), "dark": (1280, 900, "dark"), "phone": (390, 844, "light")}


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    built = sorted(p.relative_to(HTML).with_suffix("").as_posix() for p in HTML.glob("book/**/*.html"))
    if not built:
        sys.exit("screenshots: the book is not built; run `make book` first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM_FLAGS)
        for view, (width, height, scheme) in VIEWS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            context.add_init_script(
                f"localStorage.setItem('mode', '{scheme}'); localStorage.setItem('theme', '{scheme}')"
            )
            for page in sys.argv[2:] or built:
                tab = context.new_page()
                tab.goto((HTML / f"{page}.html").as_uri(), wait_until="load")
                tab.evaluate("() => window.MathJax?.startup?.promise")
                path = folder / f"{page.replace('/', '-')}-{view}.png"
                tab.screenshot(path=path, full_page=True)
                tab.close()
                print(path)
        browser.close()


if __name__ == "__main__":
    main()
