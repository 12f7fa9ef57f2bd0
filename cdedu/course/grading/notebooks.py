"""The notebook that was handed out, and what has become of it in a submission."""

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

from cdedu.course.checks.core import exercises
from cdedu.course.grading.judge import Cell

LARGEST = 20 * 2**20
"""Bytes of a submission; a larger one is not read."""


@dataclass(frozen=True)
class NotebookCell:
    """A cell, with what of its metadata matters here."""

    code: bool
    source: str
    id: str
    exercise: str
    tags: tuple[str, ...]


def read_notebook(path: Path) -> list[NotebookCell]:
    """The cells of a notebook.

    Raises:
        ValueError: if it is none that can be read, with the reason.
    """
    try:
        text = _regular(path).decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("is no notebook: it is not text") from None
    if not text.strip():
        raise ValueError("is empty")
    try:
        book = json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        raise ValueError("is no notebook: it is not JSON") from None
    if not isinstance(book, dict) or not isinstance(book.get("cells"), list):
        raise ValueError("is no notebook of format 4: it has no list of cells")
    return [_cell(c) for c in book["cells"] if isinstance(c, dict)]


def _regular(path: Path) -> bytes:
    """What a file holds, if it is one: no link is followed, and nobody waits for a pipe."""
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        raise ValueError("is a link, and was not followed")
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("is no regular file, but a folder, pipe, socket or device")
    if facts.st_size > LARGEST:
        raise ValueError(f"has {facts.st_size / 1e6:.0f} MB, more than the {LARGEST / 1e6:.0f} that are read; clear its outputs")  # fmt: skip
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as stream:
        return stream.read(LARGEST)


def _cell(cell: dict[str, Any]) -> NotebookCell:
    source, metadata = cell.get("source", ""), cell.get("metadata", {})
    if isinstance(source, list):
        source = "".join(str(line) for line in source)
    metadata = metadata if isinstance(metadata, dict) else {}
    tags = metadata.get("tags", [])
    return NotebookCell(
        cell.get("cell_type") == "code",
        str(source).replace("\r\n", "\n"),
        str(cell.get("id") or metadata.get("id") or ""),
        str(metadata.get("exercise", "")),
        tuple(map(str, tags)) if isinstance(tags, list) else (),
    )


class Handout:
    """A set of exercises as students get it."""

    def __init__(self, path: Path) -> None:
        try:
            self.cells = read_notebook(path)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        self.exercises = tuple(c.exercise for c in self.cells if c.exercise)
        if not self.exercises:
            raise ValueError(f"{path} asks no exercise; give the notebook that you handed out, such as exercises/01_noise.ipynb")  # fmt: skip
        if unknown := set(self.exercises) - set(exercises()):
            raise ValueError(f"{path} asks exercises that this version of cdedu does not know: {', '.join(sorted(unknown))}")  # fmt: skip
        self.name = path.stem
        self.title = next((c.source.splitlines()[0].lstrip("# ") for c in self.cells if c.source.startswith("# ")), path.stem)  # fmt: skip
        self.digest = hashlib.sha256(_regular(path)).hexdigest()
        self.given = [
            (i, c)
            for i, c in enumerate(self.cells, 1)
            if c.code and c.source.strip() and not {"answer", "check", "expected"} & set(c.tags)
        ]

    @property
    def points(self) -> int:
        """Of all exercises."""
        return sum(exercises()[name].points for name in self.exercises)

    @property
    def given_cells(self) -> tuple[Cell, ...]:
        """The code that everybody got."""
        return tuple((f"given cell {i}", c.source) for i, c in self.given)

    def align(self, cells: list[NotebookCell]) -> tuple[list[Cell], dict[str, int], list[str]]:
        """What to run of a submission, after which of it each exercise is judged, and what was repaired or is missing.

        Grades depend on the names that the notebook defines, never on the metadata of cells, which get lost when a cell is
        deleted and made anew. What was lost is reported all the same, since other tools rely on it.
        """
        remarks = []
        code = [(f"cell {i}", c) for i, c in enumerate(cells, 1) if c.code]
        sources, ids = {c.source.strip() for c in cells}, {c.id for c in cells if c.id}
        gone = [(i, c) for i, c in self.given if c.source.strip() not in sources]
        deleted = [(i, c) for i, c in gone if c.id not in ids]
        if deleted:
            remarks.append(f"given cells deleted or replaced, and put back: {_list(i for i, _ in deleted)}")
        if changed := [i for i, c in gone if c.id in ids]:
            remarks.append(f"given cells changed: {_list(changed)}")
        run = [(f"given cell {i}", c.source) for i, c in deleted] + [(name, c.source) for name, c in code]
        places, where = {}, {}
        for name in self.exercises:
            call = re.compile(rf"\bcheck\(\s*['\"]{re.escape(name)}['\"]")
            found = [i for i, (_, source) in enumerate(run) if call.search(source)]
            if found:
                places[name] = found[-1]
            defines = [i for i, (_, source) in enumerate(run) if _defines(source, exercises()[name].answers)]
            if defines:
                where[name] = defines[-1]
        kept = {c.exercise for c in cells}
        headings = {c.source.partition("\n")[0].strip(): c.exercise for c in self.cells if c.exercise}
        there = {headings[h] for c in cells if (h := c.source.partition("\n")[0].strip()) in headings}
        if lost := [n for n in self.exercises if n not in kept and (n in there or n in places or n in where)]:
            remarks.append(f"cell metadata lost, recognized by heading, check or names: {_list(lost)}")
        if not (kept & set(self.exercises) or there or places or where):
            remarks.append(f"none of the exercises of {self.name} is in it: is it another notebook?")
        else:
            if unchecked := [n for n in self.exercises if n not in places]:
                remarks.append(f"check cells deleted, judged at the end: {_list(unchecked)}")
            if nowhere := [n for n in self.exercises if n not in where]:
                remarks.append(f"no cell answers: {_list(nowhere)}")
        order = [where[n] for n in self.exercises if n in where]
        if order != sorted(order) or any(places[n] < where[n] for n in places if n in where):
            remarks.append("cells are in another order than they were handed out in")
        return run, places, remarks


def _defines(source: str, names: tuple[str, ...]) -> bool:
    """Whether a cell gives one of the names at its top level; in time that grows with the cell."""
    given: set[str] = set()
    for line in source.split("\n"):
        line = line.removeprefix("async ")
        if line.startswith(("def ", "class ")):
            given.add(re.split(r"\W", line.partition(" ")[2].lstrip(), maxsplit=1)[0])
            continue
        if line[:1].isspace():
            continue
        *targets, _ = re.split(r"(?<![=!<>])=(?!=)", line)
        for target in targets:  # of a = b = 3, each
            target = target.partition(":")[0].strip()
            inside = target[1:-1] if target[:1] + target[-1:] in ("()", "[]") else target
            words = inside.replace(",", " ").split()
            if not words or not all(w.isidentifier() and not iskeyword(w) for w in words):
                break
            given.update(words)
    return not given.isdisjoint(names)


def _list(names: Any) -> str:
    return ", ".join(map(str, names))
