"""The page that says where each idea and each system is taught, exercised and checked: book/ideas.yml, book/systems.yml, the exercises."""

import re
from functools import cache
from typing import Any

import nbformat
import yaml
from book_contents import ROOT, list_table, pages

IDEAS = ROOT / "book" / "ideas.yml"
SYSTEMS = ROOT / "book" / "systems.yml"
SOURCES = ROOT / "exercises" / "source"
KINDS = {"code": "code it", "predict": "predict it", "bug": "find the bug"}


@cache
def sets() -> dict[str, str]:
    """Exercise → the set that asks it."""
    return {
        cell.metadata["exercise"]: path.stem
        for path in sorted(SOURCES.glob("*.ipynb"))
        for cell in nbformat.read(path, as_version=4).cells
        if "exercise" in cell.metadata
    }


def read() -> list[dict[str, Any]]:
    """track, idea, taught (chapters), exercises (names) of each row."""
    return yaml.safe_load(IDEAS.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def systems() -> list[dict[str, Any]]:
    """system, papers (keys of the bibliography), sections (chapter → heading), code (names in the API), exercises of each row."""
    return yaml.safe_load(SYSTEMS.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@cache
def sections(page: str) -> list[str]:
    """The headings below a chapter's title."""
    path = ROOT / "book" / f"{page}.ipynb"
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    text = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return [head for source in text for head in re.findall(r"^##+ (.+)$", source, re.M)]


def to_come(row: dict[str, Any]) -> bool:
    """Whether the chapter that teaches it is not in the book yet."""
    return bool(row.get("taught")) and f"book/{row['taught'][0]}" not in pages()


def link(page: str) -> str:
    """A chapter's title with a link, or its name where it is still to come."""
    if f"book/{page}" in pages():
        return f"{{doc}}`/book/{page}`"
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    named = re.search(rf"\{{chapter\}}`[^`]*<{re.escape(page)}>`", index)
    return named[0] if named else page


def problems() -> list[str]:
    """Ideas without a chapter or an exercise, exercises that no idea names or that do not exist."""
    found, named = [], set()
    for row in read():
        if not row.get("taught") or not (row.get("exercises") or to_come(row)):
            found.append(f"{row['idea']!r} needs a chapter and an exercise")
        named |= set(row.get("exercises") or [])
    found += [f"there is no exercise {name!r}" for name in sorted(named - set(sets()))]
    found += [f"no idea names exercise {name!r}" for name in sorted(set(sets()) - named)]
    return [f"book/ideas.yml: {what}" for what in found] + [
        f"book/systems.yml, {row['system']!r}: {what}" for row in systems() for what in gaps(row)
    ]


def gaps(row: dict[str, Any]) -> list[str]:
    """What a system lacks, or names and nothing has. The build itself sees to papers and code, which become links."""
    found = [f"needs {key}" for key in ("papers", "sections", "code", "exercises") if not row.get(key)]
    for page, head in row["sections"].items():
        if head not in sections(page):
            found.append(f"{page} has no section {head!r}")
    return found + [f"there is no exercise {name!r}" for name in row["exercises"] if name not in sets()]


def table(track: str) -> str:
    """One row an idea: where it is taught, and the exercises with their checks."""
    rows = [
        [
            row["idea"],
            ", ".join(link(page) for page in row["taught"]),
            _asked(row["exercises"]) or "with the chapter, which is to come",
        ]
        for row in read()
        if row["track"] == track
    ]
    return list_table(["idea", "taught in", "exercised and checked in"], rows, "25 25 50")


def system_table() -> str:
    """One row a system: the section that explains it, its code, its exercises."""
    rows = [
        [
            f"{row['system']} {{cite}}`{','.join(row['papers'])}`",
            "; ".join(f"{head}, in {link(page)}" for page, head in row["sections"].items()),
            ", ".join(f"{{py:obj}}`~{name}`" for name in row["code"]),
            _asked(row["exercises"]),
        ]
        for row in systems()
    ]
    return list_table(["system", "section", "code", "exercised and checked in"], rows, "20 22 38 20")


def _asked(names: list[str]) -> str:
    """Links to the exercises that exist."""
    from cdedu.course.checks import exercises

    tasks = exercises()
    return "; ".join(
        f"{{doc}}`{tasks[name].title} </exercises/{sets()[name]}>` ({KINDS[tasks[name].kind]})"
        for name in names
        if name in sets()
    )
