"""Pack what students get into one zip for a learning-management system, with the table of points.

    python scripts/book/handout.py           _build/consistency-distillation-handout.zip (needs the built book: make book)
    python scripts/book/handout.py --no-book the same without the book
    python scripts/book/handout.py --nbgrader FOLDER   instead: the sets as source notebooks of an nbgrader course

It holds the exercise notebooks, the package with its weights as a wheel, the book to read offline, and the points. What is for
instructors (`exercises/instructor/`, hidden tests, `exercises/solutions/`) stays out; the worked solutions are pages of the book.
The zip of the same files is the same every time.
"""

import argparse
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import nbformat
from nbformat import NotebookNode

from cdedu.course.checks import exercises
from cdedu.files import replacing

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
NAME = "consistency-distillation-handout"
PACKAGED = ("cdedu", "pyproject.toml", "README.md", "LICENSE", "LICENSE-text")
README = """# {title}

Set-up, once: `pip install {wheel}` (Python 3.11 or later; where PyTorch and the other libraries are installed already, no network
is needed: `pip install --no-index --no-deps {wheel}`).
Then: `jupyter lab exercises`, open your notebook, answer, run the checks, and hand in the notebook.

- `exercises/`: the notebooks. Keep their cells and the names in them, and make sure "Restart and run all" works before you hand them in.
{book}- `points.md`, `points.csv`: what each exercise counts.
- `{wheel}`: the package, with its weights. The digits come with scikit-learn; nothing is downloaded.

Code: Apache-2.0 (LICENSE). Text and figures: CC BY 4.0 (LICENSE-text).
"""
BOOK = "- `book/index.html`: the book, to read offline.\n"


def sets() -> list[Path]:
    """The student versions, in order."""
    return sorted((ROOT / "exercises").glob("*.ipynb"))


def asked(path: Path) -> list[str]:
    """The exercises of a set."""
    cells = nbformat.read(path, as_version=4).cells
    return [c.metadata["exercise"] for c in cells if "exercise" in c.metadata]


def rows() -> Iterator[tuple[str, str, str, str, str, int, int]]:
    """(set, exercise, title, kind, level, minutes, points)"""
    for path in sets():
        for task in (exercises()[n] for n in asked(path)):
            yield path.stem, task.name, task.title, task.kind, task.level, task.minutes, task.points


def points_csv() -> str:
    """The points, for a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["set", "exercise", "title", "kind", "level", "minutes", "points"])
    writer.writerows(rows())
    return stream.getvalue()


def points_md() -> str:
    """The points, to read; a sum for each set and for all."""
    lines = ["# Points", "", "easy 1, medium 2, hard 3", ""]
    lines += ["| set | exercise | title | level | minutes | points |", "|---|---|---|---|--:|--:|"]
    table = list(rows())
    for name in dict.fromkeys(r[0] for r in table):
        own = [r for r in table if r[0] == name]
        lines += [f"| {name} | {r[1]} | {r[2]} | {r[4]} | {r[5]} | {r[6]} |" for r in own]
        lines.append(f"| **{name}** | | **sum** | | **{sum(r[5] for r in own)}** | **{sum(r[6] for r in own)}** |")  # fmt: skip
    lines.append(
        f"| **all** | | **sum** | | **{sum(r[5] for r in table)}** | **{sum(r[6] for r in table)}** |"
    )
    return "\n".join(lines) + "\n"


def notebook(path: Path, book: bool) -> bytes:
    """A student version whose links lead into the offline book, or, without it, nowhere."""
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"\]\(\.\./book/([^)#]+)\.ipynb", r"](../book/book/\1.html", cell.source)
            source = re.sub(r"\]\(solutions/([^)#]+)\.ipynb", r"](../book/exercises/solutions/\1.html", source)  # fmt: skip
            cell.source = source if book else re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", source)
    return (nbformat.writes(nb) + "\n").encode()


def wheel(folder: Path) -> Path:
    """The package, built in a folder of its own so that nothing is left behind here."""
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(ROOT / name, copy / name)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(copy)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"})  # fmt: skip
    if done.returncode:
        sys.exit(f"handout: the package cannot be packed:\n{done.stderr.strip()[-500:]}")
    return next(folder.glob("cdedu-*.whl"))


def contents(html: Path | None) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of all that the zip holds."""
    with tempfile.TemporaryDirectory() as folder:
        package = wheel(Path(folder))
        yield package.name, package.read_bytes()
        title = "Consistency distillation: exercises"
        yield "README.md", README.format(title=title, wheel=package.name, book=BOOK if html else "").encode()
    yield "points.csv", points_csv().encode("utf-8-sig")
    yield "points.md", points_md().encode()
    for name in ("LICENSE", "LICENSE-text"):
        yield name, (ROOT / name).read_bytes()
    for path in sets():
        yield f"exercises/{path.name}", notebook(path, html is not None)
    if html is not None:
        for file in html.rglob("*"):
            if file.is_file() and file.name != ".buildinfo":
                yield f"book/{file.relative_to(html).as_posix()}", file.read_bytes()


def write(path: Path, html: Path | None) -> None:
    """Everything, in order, without a date."""
    with replacing(path) as temporary, ZipFile(temporary, "w") as archive:
        for name, data in sorted(contents(html)):
            entry = ZipInfo(f"{NAME}/{name}")
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)


# --- nbgrader ------------------------------------------------------------------------------------

NBGRADER = """# The notebooks in source/ have no solutions in them, so nothing must be cleared.
c = get_config()
c.CourseDirectory.course_id = "consistency-distillation"
c.GenerateAssignment.preprocessors = [
    "nbgrader.preprocessors.IncludeHeaderFooter",
    "nbgrader.preprocessors.LockCells",
    "nbgrader.preprocessors.ComputeChecksums",
    "nbgrader.preprocessors.SaveCells",
    "nbgrader.preprocessors.CheckCellMetadata",
    "nbgrader.preprocessors.ClearOutput",
]
"""


def for_nbgrader(path: Path) -> NotebookNode:
    """A student version with nbgrader's metadata: answers are its solution cells, checks its locked tests."""
    nb, name = nbformat.read(path, as_version=4), ""
    for cell in nb.cells:
        name = cell.metadata.get("exercise", name)
        tags = set(cell.metadata.get("tags", []))
        facts = {"schema_version": 3, "task": False}
        if "answer" in tags:
            cell.metadata["nbgrader"] = facts | {"grade_id": f"{name}-answer", "grade": False, "solution": True, "locked": False}  # fmt: skip
        elif "check" in tags:
            points = exercises()[name].points
            cell.metadata["nbgrader"] = facts | {"grade_id": name, "grade": True, "solution": False, "locked": True, "points": points}  # fmt: skip
            cell.source += f'\nassert passed("{name}")'
    return nb


def write_nbgrader(folder: Path) -> None:
    """A course folder of nbgrader: `nbgrader generate_assignment SET` goes on from there."""
    for path in sets():
        with replacing(folder / "source" / path.stem / path.name) as temporary:
            temporary.write_text(nbformat.writes(for_nbgrader(path)) + "\n", encoding="utf-8")
    with replacing(folder / "nbgrader_config.py") as temporary:
        temporary.write_text(NBGRADER, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--no-book", action="store_true", help="leave out the offline book")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / f"{NAME}.zip")
    parser.add_argument("--nbgrader", type=Path, metavar="FOLDER", help="write an nbgrader course folder")
    options = parser.parse_args()
    if options.nbgrader:
        write_nbgrader(options.nbgrader)
        print(f"{options.nbgrader}: {len(sets())} sets; go on with nbgrader generate_assignment")
        return 0
    html = None if options.no_book else HTML
    if html is not None and not (html / "index.html").is_file():
        sys.exit("handout: the book is not built; run `make book` first, or give --no-book")
    write(options.out, html)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
