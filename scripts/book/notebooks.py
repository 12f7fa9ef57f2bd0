"""Run the book's notebooks, and check that what is stored in them is what their code gave.

    python scripts/book/notebooks.py execute [paths]   run, store outputs, record time and memory
    python scripts/book/notebooks.py check   [paths]   stored outputs belong to the code and are fit for the page
    python scripts/book/notebooks.py lint    [paths]   cells are as the formatter leaves them
    python scripts/book/notebooks.py glue    [paths]   write the numbers of results/ into the {result} roles
    python scripts/book/notebooks.py new     path      a new chapter from the template
    python scripts/book/notebooks.py daily             name those that `make test` runs; `make weekly` runs all

Without paths: every notebook in book/ and exercises/source/.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import book_results as results
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ROOT / "results" / "chapters.json"
WIDTH = 84
"""Columns of code that fit the page's column; what is in one line is seen without scrolling."""
BRIEF = 25.0
"""Seconds on two quiet cores."""
TEMPLATE = ROOT / "scripts" / "book" / "chapter_template.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PROBE = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
WIDGET = "application/vnd.jupyter.widget-view+json"
IMAGES = ("image/png", "image/svg+xml", "image/jpeg", "image/gif")
LOCAL_PATH = re.compile(r"/(?:home|root|Users|tmp|work|content)/[\w.-]+|[A-Z]:\\\\?Users")
WIDGET_REPR = re.compile(
    r"\b(?:interactive|VBox|HBox|IntSlider|FloatSlider|HTML|Output)\(children=|Jupyter widget"
)


def notebooks(paths: list[str]) -> list[Path]:
    """The notebooks named, or all of the project's."""
    found = [Path(p).resolve() for p in paths] or sorted(
        p for folder in ("book", "exercises/source") for p in (ROOT / folder).rglob("*.ipynb")
    )
    found = [p for p in found if not {".ipynb_checkpoints", "_build"} & set(p.parts)]
    for path in found:
        if not path.is_file():
            sys.exit(f"notebooks: there is no notebook {path}; give a path relative to this folder")
    return found


def changed() -> set[Path]:
    """Sources of the book that differ from main, or on main from the commit before, as far as git can tell."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    base = git("merge-base", "HEAD", "origin/main")
    base = base if base and base != git("rev-parse", "HEAD") else "HEAD~1"
    return {ROOT / name for name in git("diff", "--name-only", base, "--", "book", "exercises").splitlines()}


def daily() -> list[Path]:
    """Chapters that take at most :data:`BRIEF` seconds, one set of exercises, and whatever has changed."""
    rows = json.loads(CHAPTERS.read_text(encoding="utf-8"))["metrics"]
    brief = {name for name, row in rows.items() if row["seconds"] <= BRIEF}
    chosen = changed() | {ROOT / "exercises" / "source" / "04_consistency.ipynb"}
    return [p for p in notebooks([]) if p in chosen or (p.is_relative_to(ROOT / "book") and p.stem in brief)]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def write(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        sys.exit(f"notebooks: {shown(path)} is not a notebook that can be read: {str(error).splitlines()[0]}")


def save(path: Path, nb: NotebookNode) -> None:
    write(path, nbformat.writes(nb) + "\n")


def code_cells(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """(position from 1, cell) of each code cell that says something."""
    return [(i, c) for i, c in enumerate(nb.cells, 1) if c.cell_type == "code" and c.source.strip()]


def digests(nb: NotebookNode) -> list[str]:
    """One SHA-256 a code cell, in order."""
    return [hashlib.sha256(c.source.strip().encode()).hexdigest() for _, c in code_cells(nb)]


def run_digest(cells: list[str]) -> str:
    """One SHA-256 over all code cells."""
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()


# --- execute -------------------------------------------------------------------------------------


def execute(path: Path, timeout: int) -> None:
    """Run one notebook in a fresh kernel in its own folder, and store what it gave."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    for style in (("check", "--fix-only"), ("format", f"--line-length={WIDTH}")):
        subprocess.run([sys.executable, "-m", "ruff", *style, "-q", str(path)], check=True)
    nb = read(path)
    executed = digests(nb)
    nb.metadata.pop("widgets", None)
    nb.metadata.kernelspec = NotebookNode(KERNEL)
    nb.cells.append(nbformat.v4.new_code_cell(PROBE))
    here = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        nb,
        kernel_name="python3",
        timeout=timeout,
        resources=here,
        record_timing=False,
        coalesce_streams=True,
    )
    os.environ["CDEDU_STATIC"] = "1"  # figures with sliders are stored so that they move without a kernel
    print(f"{shown(path)} ...", end=" ", flush=True)
    begun = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"\nnotebooks: {shown(path)} raised, nothing was stored:\n{error}")
    seconds = time.perf_counter() - begun
    peak = int(nb.cells.pop().outputs[0].text) / (2**20 if sys.platform == "darwin" else 2**10)

    normalise(nb)
    nb.metadata.cdedu = NotebookNode(sha256=run_digest(executed), cells=executed)
    save(path, nb)
    if path.is_relative_to(ROOT / "book"):
        record(path.stem, seconds, peak)
    print(f"{seconds:.1f} s, peak {peak:.0f} MB")


def normalise(nb: NotebookNode) -> None:
    """Drop what differs from run to run, or does not belong on a page."""
    nb.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL),
        language_info=NotebookNode(name="python"),
        **{k: nb.metadata[k] for k in ("cdedu", "mystnb") if k in nb.metadata},
    )
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    for i, cell in enumerate(nb.cells, 1):
        cell.id = f"cell-{i:02d}"
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        count += bool(cell.source.strip())
        cell.execution_count = count if cell.source.strip() else None
        cell.outputs = [out for out in cell.outputs if not _noise(out)]
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = cell.execution_count
            if "image/png" in out.get("data", {}):
                out.data["image/png"] = smaller(out.data["image/png"])


def smaller(png: str) -> str:
    """A figure in base64 with the same pixels in a third fewer bytes."""
    import oxipng

    return base64.b64encode(oxipng.optimize_from_memory(base64.b64decode(png), level=4)).decode()


def _noise(out: NotebookNode) -> bool:
    """Warnings and progress bars (tqdm writes them to stderr, or as a widget)."""
    return (out.output_type == "stream" and out.name == "stderr") or WIDGET in out.get("data", {})


def record(name: str, seconds: float, peak: float) -> None:
    """Add one chapter's time and memory to results/chapters.json."""
    from cdedu.records import commit, hardware, to_json

    entry = {
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak),
        "commit": commit(),
        "hardware": hardware(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    book = json.loads(CHAPTERS.read_text(encoding="utf-8")) if CHAPTERS.exists() else {}
    chapters = dict(sorted({**book.get("metrics", {}), name: entry}.items()))
    book = {
        "name": "chapters",
        "command": "make execute",
        **{key: entry[key] for key in ("commit", "hardware", "date")},
        "metrics": chapters,
    }
    write(CHAPTERS, to_json(book) + "\n")


# --- check ---------------------------------------------------------------------------------------


def problems(nb: NotebookNode) -> Iterator[tuple[int, str]]:
    """(cell position or 0, what is wrong) for one notebook."""
    stored = nb.metadata.get("cdedu", {}).get("cells")
    if stored is None:
        yield 0, "its outputs were not stored by `make execute`"
    else:
        now = digests(nb)
        for (i, _), a, b in zip(code_cells(nb), now, stored, strict=False):
            if a != b:
                yield i, "the code is not what the stored outputs were executed with"
        if len(now) != len(stored):
            yield 0, f"it has {len(now)} code cells, its stored outputs came from {len(stored)}"
        elif nb.metadata.cdedu.get("sha256") != run_digest(stored):
            yield 0, "the record of its last execution was edited by hand"
    for i, cell in code_cells(nb):
        yield from ((i, problem) for problem in _cell_problems(cell))


def _cell_problems(cell: NotebookNode) -> Iterator[str]:
    alt: Any = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    for line in cell.source.splitlines():
        if len(line) > WIDTH:
            yield f"a line of {len(line)} columns, {WIDTH} fit the page: {line.strip()[:40]!r}"
    for out in cell.outputs:
        data = out.get("data", {})
        text = str(out.get("text", "")) + str(data.get("text/plain", "")) + str(data.get("text/html", ""))
        if out.output_type == "error":
            yield f"it stores an error: {out.ename}: {out.evalue}"
        if out.get("name") == "stderr":
            yield f"it stores stderr: {out.text.strip().splitlines()[-1][:80]!r}"
        if WIDGET in data or WIDGET_REPR.search(text):
            yield "it stores a widget, which a page cannot show; give the figure itself"
        if any(kind in data for kind in IMAGES) and not str(alt).strip():
            yield 'its figure has no alt text; set the cell metadata {"mystnb": {"image": {"alt": "..."}}}'
        if found := LOCAL_PATH.search(text):
            yield f"it shows a path of the machine it ran on: {found[0]!r}"


def lint(paths: list[str]) -> int:
    """Whether the cells are as the formatter leaves them; 1 if not."""
    style = ("format", "-q", "--check", f"--line-length={WIDTH}")
    return subprocess.run([sys.executable, "-m", "ruff", *style, *map(str, notebooks(paths))]).returncode


def check(paths: list[str]) -> int:
    """Print every problem; the number found."""
    count = 0
    for path in notebooks(paths):
        found = list(problems(read(path)))
        count += len(found)
        for cell, what in found:
            print(f"{shown(path)}{f', cell {cell}' if cell else ''}: {what}", file=sys.stderr)
        if found:
            print(f"  make execute NB={shown(path)}", file=sys.stderr)
    return count


# --- glue, new -----------------------------------------------------------------------------------


def glue(path: Path) -> None:
    """Refresh the numbers in the text cells of one notebook."""
    nb = read(path)
    changed = False
    for i, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "markdown":
            try:
                text = results.glue(cell.source)
            except results.ResultError as error:
                sys.exit(f"notebooks: {shown(path)}, cell {i}: {error}")
            changed |= text != cell.source
            cell.source = text
    if changed:
        save(path, nb)
        print(f"{shown(path)}: numbers refreshed")


def new(path: Path) -> None:
    """A chapter from the template."""
    if path.exists():
        sys.exit(f"notebooks: {shown(path)} is there already; choose another name")
    nb = read(TEMPLATE)
    title = re.sub(r"^\d+_", "", path.stem).replace("_", " ").capitalize()
    nb.cells[0].source = nb.cells[0].source.replace("TITLE", title)
    normalise(nb)
    save(path, nb)
    print(f"{shown(path)}: written. Add it to _toc.yml, then: make execute NB={shown(path)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("execute", "check", "lint", "glue", "new", "daily"))
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--timeout", type=int, default=600, help="time limit per cell, in seconds")
    arguments = parser.parse_args()
    if arguments.action == "check":
        return 1 if check(arguments.paths) else 0
    if arguments.action == "lint":
        return lint(arguments.paths)
    if arguments.action == "daily":
        print(*map(shown, daily()))
        return 0
    if arguments.action == "new":
        if len(arguments.paths) != 1:
            parser.error("new takes one path")
        new(Path(arguments.paths[0]).resolve())
        return 0
    for path in notebooks(arguments.paths):
        if arguments.action == "execute":
            execute(path, arguments.timeout)
        glue(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
