"""What is written of a graded folder: a line a student in tables, a report for the instructor, a page for each student."""

import csv
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cdedu.course.checks.core import SIGNS, Result, exercises
from cdedu.course.grading.notebooks import Handout
from cdedu.files import replacing

Gradebook = Literal["canvas", "moodle"]


@dataclass
class Grade:
    """What one student gets."""

    student: str
    file: str
    results: dict[str, Result] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    protection: str = ""
    number: str = ""
    """By which Canvas or Moodle knows the student, where the file's name tells."""
    key: str = ""
    """Of all that the grade depends on; while it is the same, the student need not be graded again."""

    @property
    def points(self) -> dict[str, int]:
        """Exercise → points."""
        return {n: exercises()[n].points if r.status == "right" else 0 for n, r in self.results.items()}


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    """A file that is whole or not there."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding=encoding, errors="backslashreplace", newline="")


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    """As text, in which no spreadsheet takes a word for a formula."""
    stream = io.StringIO()
    for row in rows:
        csv.writer(stream).writerow(
            "'" + v if isinstance(v, str) and v[:1] in ("=", "+", "-", "@", "\t", "\r") else v for v in row
        )
    return stream.getvalue()


def table(handout: Handout, grades: list[Grade]) -> str:
    """The CSV: student, file, points for each exercise, total, out of, remarks."""
    rows: list[list[Any]] = [["student", "file", *handout.exercises, "total", "out of", "remarks"]]
    for g in grades:
        points = [g.points.get(n, 0) for n in handout.exercises]
        rows.append([g.student, g.file, *points, sum(points), handout.points, "; ".join(g.remarks)])
    return _csv(rows)


def gradebook(handout: Handout, grades: list[Grade], kind: Gradebook) -> str:
    """The totals as Canvas's gradebook, or Moodle's grading worksheet, imports them; students without a number are not in it."""
    totals = [(g, sum(g.points.values())) for g in grades if g.number]
    if kind == "canvas":
        head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", handout.name]
        most = ["    Points Possible", "", "", "", "", handout.points]
        return _csv([head, most, *([g.student, g.number, "", "", "", n] for g, n in totals)])
    head = ["Identifier", "Full name", "Grade", "Maximum grade", "Last modified (grade)"]
    return _csv([head, *([f"Participant {g.number}", g.student, n, handout.points, ""] for g, n in totals)])


def report(handout: Handout, grades: list[Grade], students: int, left_out: list[str]) -> str:
    """For the instructor: who was graded, under which protection, what was left out, and what was noticed."""
    lines = [f"{handout.title}: {len(grades)} of {students} students graded."]
    lines += sorted({g.protection for g in grades if g.protection})
    lines += [f"Left out, since hidden: {', '.join(left_out)}"] if left_out else []
    lines += ["", *(f"{g.student}: {'; '.join(g.remarks)}" for g in grades if g.remarks)]
    return "\n".join(lines).rstrip() + "\n"


def page(handout: Handout, grade: Grade) -> str:
    """What a student gets to read: each exercise's verdict, with the sentence that the check in the notebook says."""
    tasks, e = exercises(), html.escape
    parts = []
    for n in handout.exercises:
        r, task = grade.results.get(n, Result("not attempted")), tasks[n]
        points = task.points if r.status == "right" else 0
        parts.append(
            f'<section class="{r.status.split()[0]}"><h2>{SIGNS[r.status]} {e(task.title)}</h2>'
            f"<p>{e(r.status)}, {points} of {task.points} points. <code>{e(n)}</code></p>"
            + (f"<p>{e(r.message)}</p>" if r.message else "")
            + "</section>"
        )
    notes = "".join(f"<li>{e(r)}</li>" for r in grade.remarks)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{e(grade.student)}: {e(handout.title)}</title>'
        '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
        "body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:2rem auto;padding:0 1rem}"
        "section{border-left:.3rem solid #888;padding-left:1rem;margin:1.5rem 0}.right{border-color:#2a8a4a}.wrong{border-color:#c0392b}"
        "h2{font-size:1.1rem;margin:0}p{margin:.3rem 0;overflow-wrap:anywhere}</style></head>\n"
        f"<body><h1>{e(handout.title)}</h1><p>{e(grade.student)}: <strong>{sum(grade.points.values())} of {handout.points} points</strong></p>\n"
        + "\n".join(parts)
        + (f"\n<h2>Remarks</h2><ul>{notes}</ul>" if notes else "")
        + "\n</body></html>\n"
    )
