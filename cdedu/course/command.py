"""``cdedu grade``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class GradeFolder:
    """Grade a folder of submissions: a table, and a page for each student."""

    notebook: tyro.conf.Positional[Path]
    """The exercises as they were handed out."""
    submissions: tyro.conf.Positional[Path]
    """A folder with one notebook a student, or one folder a student."""
    out: Path
    """Where the table and the pages go. Who is there already and unchanged is not graded again."""
    seed: int = 0
    """Of the data on which answers are tried; keep it to yourself."""
    hidden: Path | None = None
    """A Python file with further tests."""
    jobs: int | None = None
    """Processes that grade; one a core by default."""
    seconds: int = 120
    """For one submission."""
    memory: int = 1024
    """MB for one submission, on top of the libraries."""
    isolation: Literal["auto", "namespaces", "hooks"] = "auto"
    """How submissions are held back: Linux namespaces, or Python's audit hooks alone; auto is the best that works here."""
    again: bool = False
    """Grade everybody anew."""

    def __call__(self) -> None:
        if sys.platform == "win32":
            raise ValueError("grading runs on Linux and macOS; on Windows use WSL")
        from cdedu.course.grading import Limits, grade_folder

        grades = grade_folder(
            self.notebook,
            self.submissions,
            self.out,
            seed=self.seed,
            hidden=self.hidden,
            jobs=self.jobs,
            limits=Limits(wall_seconds=self.seconds, memory_mb=self.memory),
            isolation=self.isolation,
            again=self.again,
        )
        print(
            f"{len(grades)} students: {self.out / 'grades.csv'}, {self.out / 'report.txt'}, {self.out / 'feedback'}"
        )
        for protection in sorted({g.protection for g in grades if g.protection}):
            print(protection)
