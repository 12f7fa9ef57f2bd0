"""How long a page is to read: `python scripts/book/words.py [paths]` prints words and words in folds, page by page.

Code, mathematics, comments and tables' rules are no words; a fold (class `dropdown`), or a block between backticks, counts on its own.
"""

import re
import sys
from pathlib import Path

import nbformat

from scripts.book.notebooks import ROOT, notebooks, shown

FENCE = re.compile(r"^(:{3,}|`{3,})\{?([\w-]*)\}?(.*)$")


def prose(text: str) -> tuple[str, str]:
    """(open, folded) words of a Markdown text."""
    text = re.sub(r"<!--.*?-->|\$\$.*?\$\$(?: \([\w-]+\))?", " ", text, flags=re.S)
    kept: dict[bool, list[str]] = {False: [], True: []}
    stack: list[tuple[str, bool]] = []
    for line in text.splitlines():
        line = line.strip()
        match = FENCE.match(line)
        if match and stack and line == stack[-1][0]:
            stack.pop()
            continue
        if match and (match[2] or not stack):
            silent = match[1][0] == "`" and match[2] not in {"admonition", "note", "tip"}
            folded = silent or match[2] == "dropdown"
            stack.append((match[1], folded))
            kept[folded].append(match[3])
            continue
        if stack and line.startswith(":class:") and "dropdown" in line:
            stack[-1] = (stack[-1][0], True)
        if not re.match(r":\w+:|^[|:\- ]+$", line):
            kept[any(folded for _, folded in stack)].append(line)
    return " ".join(kept[False]), " ".join(kept[True])


def number(text: str) -> int:
    """Words: what has a letter, mathematics and targets of links aside."""
    text = re.sub(r"\$[^$]*\$|\{[\w:]+\}`|(?<=[^`]) <[^<>`]*>(?=`)|\]\([^)]*\)|https?://\S+", " ", text)
    return len(re.findall(r"[^\W\d_][\w’'-]*", text))


def words(path: Path) -> tuple[int, int]:
    """(open, folded) words of a notebook's text."""
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
    parts = [prose(cell) for cell in cells]
    return sum(number(a) for a, _ in parts), sum(number(b) for _, b in parts)


def main() -> None:
    for path in notebooks(sys.argv[1:] or [str(p) for p in sorted((ROOT / "book").rglob("[0-9a-z]*.ipynb"))]):
        print("{:45s} {:6,} and {:6,} in folds".format(shown(path), *words(path)))


if __name__ == "__main__":
    main()
