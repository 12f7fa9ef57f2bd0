"""Each concept comes before its use, on each track: `python scripts/book/concepts.py` prints where it does not.

The words are in book/concepts.yml. On the undergraduate track the first use of a word must be its introduction, in italics or bold;
the exercises of a chapter follow the chapter. On the postgraduate track the notation page and the glossary come first.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import yaml
from book_contents import pages

ROOT = Path(__file__).resolve().parents[2]
TRACKS = ("undergraduate", "postgraduate")
FIRST = {"undergraduate": (), "postgraduate": ("book/reference/notation.md", "book/reference/glossary.md")}
ASIDE = re.compile(
    r"^:::\{admonition\}[^\n]*\n:class: (?:retain|in-the-wild|deeper)\n.*?^:::$"
    r"|^#+ [^\n]*$|^\([^\n]*\)=$|^You can forget [^\n]*$|^\*\*Where next\.\*\* [^\n]*$"
    r"|`{1,2}[^`\n{]+`{1,2}(?!\w)|\{(?:chapter|doc|cite|cite:t|term)\}`[^`]*`|\$\$.*?\$\$[^\n]*|\[[^\]]*\]\([^)]*\)",
    re.DOTALL | re.MULTILINE,
)
"""What is no use: asides, headings, the outlook at the end, links to the place where the word is explained, formulas."""


def track(name: str) -> list[Path]:
    """The pages of a track in reading order, each chapter followed by its exercises."""
    found = [ROOT / page for page in FIRST[name]]
    for chapter in (page for page in pages() if page.startswith(f"book/{name}/")):
        found += [
            path
            for folder in ("book/" + name, "exercises/source")
            if (path := ROOT / folder / f"{Path(chapter).name}.ipynb").exists()
        ]
    return found


def text(path: Path) -> str:
    """What a page says in words; of a notebook all but the opening, which announces what is to come."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = [c.source for c in nbformat.read(path, as_version=4).cells[1:] if c.cell_type == "markdown"]
    return ASIDE.sub(" ", "\n\n".join(cells))


def introduced(page: str, start: int, end: int) -> bool:
    """Whether the words at this place stand between asterisks."""
    line = page[page.rfind("\n", 0, start) + 1 : start]
    rest = page[end : page.find("\n", end) if "\n" in page[end:] else None]
    return line.count("*") % 2 == 1 and "*" in rest or re.search(r"\*\*[^*]*$", line) is not None


def problems(name: str, words: dict[str, str]) -> Iterator[str]:
    """Words used before they are introduced on this track."""
    pages = [(path, text(path)) for path in track(name)]
    for word, pattern in words.items():
        for path, page in pages:
            found = re.search(rf"\b(?:{pattern})\b", page, re.IGNORECASE)
            if found is None:
                continue
            glossary = str(path.relative_to(ROOT)) in FIRST[name]
            if not glossary and not introduced(page, *found.span()):
                around = " ".join(page[max(0, found.start() - 40) : found.end() + 20].split())
                yield f"{path.relative_to(ROOT)}: {word!r} is used before it is introduced on the {name} track: “{around}”"
            break


def main() -> int:
    words = yaml.safe_load((ROOT / "book" / "concepts.yml").read_text(encoding="utf-8"))
    found = [what for name in TRACKS for what in problems(name, words)]
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
