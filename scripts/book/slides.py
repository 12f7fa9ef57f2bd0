"""Which cells of a chapter are on its slides: the marks that book/_ext/book_slides.py reads.

    python scripts/book/slides.py mark [paths]   give notebooks without any mark those of the rule, to change by hand
    python scripts/book/slides.py show [paths]   each marked cell with its slide type and first words

Without paths: every chapter. JupyterLab changes a mark in the property inspector ("Slide Type"): "slide" begins a section, "subslide"
goes on, "notes" shows a text cell's formulas and boxes only, and what has none is left out. Nothing else in a notebook changes.
"""

import argparse
import sys
from pathlib import Path

import book_slides as slides
import yaml

from scripts.book import release
from scripts.book.notebooks import read, save, shown

ROOT = Path(__file__).resolve().parents[2]


def chapters() -> list[Path]:
    """The notebooks of the chapters that are in the table of contents."""
    pages = release.pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    return [path for page in slides.chapters(pages) if (path := ROOT / f"{page}.ipynb").exists()]


def mark(path: Path) -> bool:
    """Write the rule's marks into a notebook that has none."""
    nb = read(path)
    if any("slideshow" in cell.metadata for cell in nb.cells):
        return False
    for i, kind in slides.by_rule(nb).items():
        nb.cells[i].metadata["slideshow"] = {"slide_type": kind}
    save(path, nb)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("mark", "show"))
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_args()
    for path in [Path(p).resolve() for p in arguments.paths] or chapters():
        if not path.is_file():
            sys.exit(f"slides: there is no notebook {path}; give a path relative to this folder")
        if arguments.action == "mark":
            print(f"{shown(path)}: {'marked' if mark(path) else 'has marks already, left as it is'}")
            continue
        nb = read(path)
        for i, kind in slides.marks(nb).items():
            print(f"{shown(path)}, cell {i + 1}: {kind:8} {nb.cells[i].source.strip().splitlines()[0][:80]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
