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
    seed: int | None = None
    """Of the data on which answers are tried: a large number, which you keep to yourself. Drawn once and kept in OUT by default."""
    hidden: Path | None = None
    """A Python file with further tests."""
    jobs: int | None = None
    """Processes that grade, 1 to 256; one a core by default."""
    seconds: int = 120
    """For one submission, 1 to 86400."""
    memory: int = 1024
    """MB for one submission, 1 to 1048576, on top of the libraries."""
    own_risk: bool = False
    """Grade also where there are no Linux namespaces to hold submissions back: they could read and change your files."""
    book: tuple[Literal["canvas", "moodle"], ...] = ()
    """Write the totals as Canvas's gradebook or Moodle's grading worksheet imports them, too."""
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
            own_risk=self.own_risk,
            again=self.again,
            books=self.book,
        )
        print(
            f"{len(grades)} students: {self.out / 'grades.csv'}, {self.out / 'report.txt'}, {self.out / 'feedback'}"
        )
        for protection in sorted({g.protection for g in grades if g.protection}):
            print(protection)
