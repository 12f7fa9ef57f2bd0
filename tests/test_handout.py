"""What students get: everything they need, nothing for instructors, and no network needed."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import nbformat
import pytest

from cdedu.course.checks import exercises
from scripts.book import handout

RUN = """
import pathlib, sys

def cut(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen"):
        raise OSError("the network is cut, and so is pip")

sys.addaudithook(cut)
import matplotlib
matplotlib.use("Agg")
import nbformat
nb = nbformat.read("exercises/01_noise.ipynb", as_version=4)
space = {"__name__": "notebook"}
for cell in nb.cells:
    if cell.cell_type == "code":
        source = "sigma_double = 0.87" if cell.source.startswith("sigma_double") else cell.source
        if "expected" not in cell.metadata.get("tags", []):
            exec(source, space)
import cdedu
assert pathlib.Path(cdedu.__file__).is_relative_to(sys.argv[1]), cdedu.__file__
cdedu.sample_consistency(cdedu.load("toy-student"), __import__("torch").randn(2, 2) * 80)
from cdedu.data import load_data
print(tuple(load_data("digits").train.shape))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The zip, made twice with a book of two pages, and unpacked."""
    base = tmp_path_factory.mktemp("handout")
    html = base / "html"
    (html / "book" / "undergraduate").mkdir(parents=True)
    (html / "index.html").write_text("the book")
    (html / "book" / "undergraduate" / "01_noise.html").write_text("chapter 1")
    for name in ("first.zip", "second.zip"):
        handout.write(base / name, html)
    assert (base / "first.zip").read_bytes() == (base / "second.zip").read_bytes(), "not reproducible"
    with ZipFile(base / "first.zip") as archive:
        archive.extractall(base)
    return base / handout.NAME


def test_it_holds_what_students_need_and_nothing_for_instructors(unpacked):
    names = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    assert {"README.md", "points.csv", "points.md", "LICENSE", "book/index.html"} <= names
    assert {p.name for p in unpacked.glob("exercises/*")} == {p.name for p in handout.sets()}
    with ZipFile(next(unpacked.glob("*.whl"))) as package:
        inside = package.namelist()
    assert any(n.endswith("weights/toy-student.safetensors") for n in inside)
    assert not [n for n in (*names, *inside) if "hidden" in n or "instructor" in n or "selftest" in n]
    for path in unpacked.glob("exercises/*.ipynb"):
        assert "BEGIN SOLUTION" not in path.read_text()
    readme = (unpacked / "README.md").read_text()
    assert next(unpacked.glob("*.whl")).name in readme and str(Path.home()) not in readme


def test_links_of_the_notebooks_lead_into_the_zip(unpacked):
    text = nbformat.read(unpacked / "exercises" / "01_noise.ipynb", as_version=4).cells[0].source
    assert "(../book/book/undergraduate/01_noise.html)" in text and ".ipynb)" not in text
    assert (unpacked / "exercises" / "../book/book/undergraduate/01_noise.html").is_file()
    without = nbformat.reads(handout.notebook(handout.sets()[0], book=False).decode(), as_version=4)
    assert "](" not in without.cells[0].source


def test_the_table_has_every_exercise_with_its_points():
    table = list(csv.DictReader(io.StringIO(handout.points_csv())))
    assert {r["exercise"]: int(r["points"]) for r in table} == {n: t.points for n, t in exercises().items() if n in {r["exercise"] for r in table}}  # fmt: skip
    assert len(table) == sum(len(handout.asked(p)) for p in handout.sets())
    total = sum(int(r["points"]) for r in table)
    assert handout.points_md().rstrip().endswith(f"**{total}** |")


@pytest.mark.weekly
def test_a_notebook_runs_from_the_zip_with_the_network_cut(unpacked, tmp_path):
    """Set-up cell, checks, weights and data; of the course nothing but the zip."""
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([sys.executable, *install, str(next(unpacked.glob("*.whl")))], check=True, timeout=120)
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(site), "MPLCONFIGDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(site)],
        cwd=unpacked,
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "✓ noise-double: right." in done.stdout and "– noise-floor: not attempted" in done.stdout
    assert done.stdout.rstrip().endswith(", 1, 8, 8)")


def test_nbgrader_gets_its_metadata(tmp_path):
    """What its own checks ask for: every graded cell has an id of its own and points; nothing to clear is left."""
    handout.write_nbgrader(tmp_path)
    compile((tmp_path / "nbgrader_config.py").read_text(), "config", "exec")
    for path in handout.sets():
        cells = nbformat.read(tmp_path / "source" / path.stem / path.name, as_version=4).cells
        facts = [c.metadata["nbgrader"] for c in cells if "nbgrader" in c.metadata]
        assert len({f["grade_id"] for f in facts}) == len(facts)
        points = {f["grade_id"]: f["points"] for f in facts if f["grade"]}
        assert points == {n: exercises()[n].points for n in handout.asked(path)}
        assert sum(f["solution"] for f in facts) >= len(points)
        assert all("assert passed(" in c.source for c in cells if c.metadata.get("nbgrader", {}).get("grade"))
