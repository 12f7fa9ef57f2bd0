"""The still of the student that learns in the page: `python scripts/book/learn_picture.py` writes book/_static/learn.png.

It is the part itself, photographed after as many steps as it takes at a stretch.
"""

import tempfile
from pathlib import Path

from scripts.book.release import ROOT, launched

STATIC = ROOT / "book" / "_static"
THEME = """:root { --pst-color-text-base: #222832; --pst-color-background: #fff; --pst-color-border: #ccc;
  --pst-font-family-base-system: sans-serif; }
html[data-theme="dark"] { --pst-color-text-base: #ced6dd; --pst-color-background: #14181e; --pst-color-border: #48566b; }
body { font-family: var(--pst-font-family-base); max-width: 760px; margin: 0 auto; background: var(--pst-color-background); color: var(--pst-color-text-base); }"""


def page(folder: Path, more: str = "", theme: str = "light") -> str:
    """The address of a page on disk with nothing but the part; ``more`` are further classes of its box."""
    live = (STATIC / "live").as_uri()
    styles = [f"{STATIC.as_uri()}/course.css", f"{live}/parts.css", f"{live}/learn.css"]
    links = "".join(f'<link rel="stylesheet" href="{style}">' for style in styles)
    scripts = "".join(
        f'<script defer src="{live}/{name}.js"></script>' for name in ("common", "method", "learn")
    )
    text = f"""<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>A student</title>
<meta name="viewport" content="width=device-width"><style>{THEME}</style>{links}{scripts}</head>
<body class="bd-article"><main><h1>A student</h1><div class="live-learn {more}"></div></main></body></html>"""
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


def main() -> None:
    """Reduced motion: no pictures between the first and the last, so most of the time goes into training."""
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        tab = browser.new_page(reduced_motion="reduce", device_scale_factor=2)
        tab.set_default_timeout(600_000)
        tab.goto(page(Path(folder)))
        tab.click("text=Train")
        tab.locator("text=Train on").wait_for()
        tab.wait_for_timeout(500)
        tab.locator(".live-learn-views").screenshot(path=STATIC / "learn.png")
        print(tab.inner_text(".live-figures"))


if __name__ == "__main__":
    main()
