"""Measure how long a hundred submissions of one set take to grade, into results/grading.json.

    python scripts/bench/bench_grading.py [set ...]     by default 01_noise

The submissions are generated from the prepared answers of exercises/selftest: each student gets, for each exercise, the solution,
another right answer, one of the wrong ones, or the stub, by a fixed seed. What must come out is known, and is compared.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from cdedu.course.checks import exercises
from cdedu.course.grading import grade_folder
from cdedu.records import read_record, write_record
from scripts.book import exercises as script

ROOT = Path(__file__).resolve().parents[2]

RESULT = ROOT / "results" / "grading.json"
STUDENTS, JOBS = int(os.environ.get("S", "100")), 2


def submission(name: str, draw: random.Random) -> tuple[nbformat.NotebookNode, dict[str, str]]:
    """A notebook, and what must become of each exercise."""
    nb = nbformat.read(ROOT / "exercises" / "source" / f"{name}.ipynb", as_version=4)
    expected, task = {}, ""
    for cell in nb.cells:
        task = cell.metadata.get("exercise", task)
        if cell.cell_type != "code":
            continue
        kind = (
            draw.choice(["solution", "right", "wrong", "stub"])
            if "answer" in cell.metadata.get("tags", [])
            else ""
        )
        source = cell.source
        cell.source = script.stub(source) if kind == "stub" else script.solved(source)
        if kind in ("right", "wrong"):
            options = getattr(script.answers()[task], kind)
            i = draw.randrange(len(options))
            first = exercises()[task].answers[0]
            cell.source += "\n" + script.take(task, kind, i, first)
        if kind:
            expected[task] = {"solution": "right", "stub": "not attempted"}.get(kind, kind)
    nb.cells.insert(0, nbformat.v4.new_code_cell(script.prepared_cell(name[:2])))
    return nb, expected


def measure(name: str) -> dict[str, float]:
    """Seconds for all, and how many verdicts are not what they must be."""
    draw, expected = random.Random(0), {}
    with tempfile.TemporaryDirectory() as base:
        handed_in = Path(base, "in")
        handed_in.mkdir()
        for i in range(STUDENTS):
            nb, expected[f"student {i:03d}"] = submission(name, draw)
            nbformat.write(nb, handed_in / f"student {i:03d}.ipynb")
        load, begun = os.getloadavg()[0], time.perf_counter()
        grades = grade_folder(ROOT / "exercises" / f"{name}.ipynb", handed_in, Path(base, "out"), jobs=JOBS, seed=11)  # fmt: skip
        seconds = time.perf_counter() - begun
    off = [
        (g.student, n, status, g.results.get(n))
        for g in grades
        for n, status in expected[g.student].items()
        if n not in g.results or g.results[n].status != status
    ]
    for what in off[:10]:
        print(f"{name}: {what}", file=sys.stderr)
    return {
        "seconds": round(seconds, 1),
        "verdicts": sum(map(len, expected.values())),
        "other_than_expected": len(off),
        "load_before": round(load, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=["01_noise"])
    metrics = read_record(RESULT)["metrics"] if RESULT.is_file() else {}
    begun = time.perf_counter()
    for name in parser.parse_args().sets:
        metrics[name] = measure(name)
        print(f"{name}: {STUDENTS} submissions in {metrics[name]['seconds']:.0f} s")
    write_record(
        RESULT,
        metrics=dict(sorted(metrics.items())),
        command="python scripts/bench/bench_grading.py " + " ".join(sorted(metrics)),
        data={"submissions": STUDENTS, "jobs": JOBS},
        seconds=time.perf_counter() - begun,
    )
    return int(any(m["other_than_expected"] for m in metrics.values()))


if __name__ == "__main__":
    sys.exit(main())
