"""The page that says where each idea is taught, exercised and checked, from book/ideas.yml and the exercises themselves."""

import re
from functools import cache
from typing import Any

import book_results as results
import nbformat
import yaml

IDEAS = results.ROOT / "book" / "ideas.yml"
SOURCES = results.ROOT / "exercises" / "source"
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


@cache
def contents() -> set[str]:
    """The pages of the table of contents."""
    text = (results.ROOT / "_toc.yml").read_text(encoding="utf-8")
    return set(re.findall(r"^\s*(?:- file|root): (\S+)$", text, re.M))


def to_come(row: dict[str, Any]) -> bool:
    """Whether the chapter that teaches it is not in the book yet."""
    return bool(row.get("taught")) and f"book/{row['taught'][0]}" not in contents()


def link(page: str) -> str:
    """A chapter's title with a link, or its name where it is still to come."""
    if f"book/{page}" in contents():
        return f"{{doc}}`/book/{page}`"
    index = (results.ROOT / "book" / "index.md").read_text(encoding="utf-8")
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
    return [f"book/ideas.yml: {what}" for what in found]


def table(track: str) -> str:
    """One row an idea: where it is taught, and the exercises with their checks."""
    from cdedu.checks import exercises

    tasks = exercises()
    rows = [
        "```{list-table}",
        ":header-rows: 1",
        ":widths: 25 25 50",
        "",
        "* - idea",
        "  - taught in",
        "  - exercised and checked in",
    ]
    for row in (row for row in read() if row["track"] == track):
        taught = ", ".join(link(page) for page in row["taught"])
        asked = "; ".join(
            f"{{doc}}`{tasks[name].title} </exercises/{sets()[name]}>` ({KINDS[tasks[name].kind]})"
            for name in row["exercises"]
            if name in sets()
        )
        asked = asked or "with the chapter, which is to come"
        rows += [f"* - {row['idea']}", f"  - {taught}", f"  - {asked}"]
    return "\n".join([*rows, "```"])
