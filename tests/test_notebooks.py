"""The notebook runner, the numbers that the text quotes, and what the book's extension refuses."""

import json
import subprocess
from pathlib import Path
from typing import Any

import book_results
import bookext
import nbformat
import pytest
from conftest import ROOT, build_book
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts.book import notebooks

ALT = {"mystnb": {"image": {"alt": "A line"}}}
IMAGE = new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})


def stored(*cells: Any) -> nbformat.NotebookNode:
    """A notebook as `make execute` leaves it."""
    nb = new_notebook(cells=list(cells))
    executed = notebooks.digests(nb)
    nb.metadata.cdedu = nbformat.NotebookNode(sha256=notebooks.run_digest(executed), cells=executed)
    return nb


def found(nb: nbformat.NotebookNode) -> str:
    return "\n".join(f"{cell}: {what}" for cell, what in notebooks.problems(nb))


def test_a_notebook_in_step_has_no_problem() -> None:
    assert not found(stored(new_markdown_cell("# T"), new_code_cell("1", metadata=ALT, outputs=[IMAGE])))


def test_changed_code_is_named_by_its_cell() -> None:
    nb = stored(new_markdown_cell("# T"), new_code_cell("a = 1"), new_code_cell("b = 2"))
    nb.cells[2].source = "b = 3"
    assert found(nb) == "3: the code is not what the stored outputs were executed with"


def test_an_added_cell_is_seen() -> None:
    nb = stored(new_code_cell("a = 1"))
    nb.cells.append(new_code_cell("b = 2"))
    assert "2 code cells" in found(nb)


def test_changed_text_needs_no_new_run() -> None:
    nb = stored(new_markdown_cell("# T"), new_code_cell("a = 1"))
    nb.cells[0].source = "# Another"
    assert not found(nb)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (IMAGE, "alt text"),
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "stores an error: ValueError"),
        (new_output("stream", name="stderr", text="a warning\n"), "stores stderr"),
        (new_output("display_data", data={notebooks.WIDGET: {}}), "widget"),
        (new_output("execute_result", data={"text/plain": "VBox(children=(IntSlider()"}), "widget"),
        (new_output("stream", name="stdout", text="wrote /home/somebody/x.png"), "'/home/somebody'"),
    ],
)
def test_an_unfit_output_is_found(output: Any, words: str) -> None:
    assert words in found(stored(new_code_cell("1", outputs=[output])))


def test_execute_stores_outputs_without_noise(tmp_path: Path) -> None:
    path = tmp_path / "tiny.ipynb"
    code = "import sys\nfrom tqdm.auto import tqdm\n"
    code += "for _ in tqdm(range(3)): pass\nprint('w', file=sys.stderr)\nprint(6 * 7)"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T"), new_code_cell(code)]), path)
    notebooks.execute(path, timeout=60)
    nb = nbformat.read(path, as_version=4)
    assert [out.text for out in nb.cells[1].outputs] == ["42\n"]
    assert [cell.id for cell in nb.cells] == ["cell-01", "cell-02"]
    assert nb.metadata.kernelspec.name == "python3" and nb.cells[1].execution_count == 1
    assert not found(nb)
    first = path.read_bytes()
    notebooks.execute(path, timeout=60)
    assert path.read_bytes() == first, "two runs of one notebook must be stored alike"


def test_a_cell_that_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        notebooks.execute(path, timeout=60)
    assert path.read_bytes() == before


def test_a_missing_notebook_is_one_line() -> None:
    with pytest.raises(SystemExit, match=r"no notebook .*nowhere.ipynb"):
        notebooks.notebooks(["nowhere.ipynb"])


def test_new_makes_a_chapter_from_the_template(tmp_path: Path) -> None:
    path = tmp_path / "03_teacher_student.ipynb"
    notebooks.new(path)
    assert nbformat.read(path, as_version=4).cells[0].source.startswith("# Teacher student\n")
    with pytest.raises(SystemExit, match="is there already"):
        notebooks.new(path)


# --- quoted numbers ------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with one record."""
    monkeypatch.setattr(book_results, "RESULTS", tmp_path)
    facts = {
        "recipe": {"name": "digits"},
        "seed": 0,
        "commit": "a1b2c3d4e5f6a7",
        "date": "2026-01-31T10:00:00",
    }
    metrics = {"fd": 7.7149, "share": 0.123, "list": [1, 2.5], "inner": {"seed": 5, "kd": 1}}
    (tmp_path / "r.json").write_text(json.dumps({"name": "r", **facts, "metrics": metrics}))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("r.json:metrics.fd|.2f", "7.71"),
        ("r.json:metrics.share|.1%", "12.3%"),
        ("r.json:metrics.list.1", "2.5"),
        ("9.99 <r.json:metrics.fd|.1f>", "7.7"),
    ],
)
def test_a_quoted_number_is_found(record: Path, text: str, value: str) -> None:
    assert book_results.find(text)[0] == value


def test_the_tooltip_names_the_run(record: Path) -> None:
    source = book_results.find("r.json:metrics.fd")[1]
    assert book_results.origin(source) == "r.json · recipe digits · seed 0 · commit a1b2c3d4e5 · 2026-01-31"
    assert "seed 5" in book_results.origin(book_results.find("r.json:metrics.inner.kd")[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no.json:metrics.fd", "no record results/no.json"),
        ("r.json:metrics.nothing", "at 'nothing' it has fd, share, list, inner"),
        ("r.json:metrics", "not a single value"),
        ("r.json:metrics.fd|d", "does not take the format 'd'"),
        ("metrics.fd", "does not read as"),
    ],
)
def test_a_wrong_path_is_named(record: Path, text: str, words: str) -> None:
    with pytest.raises(book_results.ResultError, match=words):
        book_results.find(text)


def test_glue_puts_the_number_beside_its_path(record: Path) -> None:
    glued = "It is {result}`7.71 <r.json:metrics.fd|.2f>`."
    assert book_results.glue("It is {result}`r.json:metrics.fd|.2f`.") == glued
    assert book_results.glue("It is {result}`9.99 <r.json:metrics.fd|.2f>`.") == glued
    assert book_results.glue(glued) == glued


# --- the extension -------------------------------------------------------------------------------


def test_every_module_is_on_the_api_page() -> None:
    files = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "cdedu").rglob("*.py")}
    modules = {".".join(path.parts[1:]).removesuffix(".__init__") for path in files}
    named = {name for names in bookext.MODULES.values() for name in names.split()}
    # What another module passes on, and what lies behind the commands and checks of the course.
    passed_on = {
        "__init__",
        "checks",
        "data.dataset",
        "data.small",
        "course",
        "course.command",
        "course.measures",
        "methods",
    }
    inner = {
        name
        for name in modules
        if name.startswith(("course.checks.", "course.quiz.", "course.grading.", "course.race."))
    }
    assert modules - inner - passed_on == named


def warnings_of(text: str, tmp_path: Path) -> str:
    """What a build of a book with this one page warns about."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "index.md").write_text("# Title\n\n" + text)
    extensions = ["myst_parser", "sphinx.ext.mathjax", "bookext"]
    return build_book(tmp_path, extensions, myst_enable_extensions=["dollarmath"])[1]


@pytest.fixture
def equations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "equations.yml"
    path.write_text("known:\n  code: cdedu.noise.add_noise\n  test: tests/test_noise.py::test_it\n")
    monkeypatch.setattr(bookext, "EQUATIONS", path)
    return path


def test_a_linked_equation_builds(equations: Path, tmp_path: Path) -> None:
    assert not warnings_of("$$ x $$ (known)\n", tmp_path)
    page = (tmp_path / "html" / "index.html").read_text()
    assert "noise.add_noise" in page and "test_it" in page


def test_an_unlinked_equation_stops_the_build(equations: Path, tmp_path: Path) -> None:
    assert "equation 'new' has no code and test" in warnings_of(
        "$$ x $$ (known)\n\n$$ y $$ (new)\n", tmp_path
    )


def test_an_entry_without_equation_stops_the_build(equations: Path, tmp_path: Path) -> None:
    assert "names 'known', but no page" in warnings_of("nothing\n", tmp_path)


def test_a_stale_number_stops_the_build(record: Path, equations: Path, tmp_path: Path) -> None:
    text = "$$ x $$ (known)\n\n{result}`1.00 <r.json:metrics.fd|.2f>` and {result}`r.json:metrics.gone`\n"
    warnings = warnings_of(text, tmp_path)
    assert "shows 1.00 but results/r.json has 7.71" in warnings and "no 'metrics.gone'" in warnings


def test_a_planned_chapter_is_not_linked(equations: Path, tmp_path: Path) -> None:
    assert not warnings_of("$$ x $$ (known)\n\n{chapter}`Noise <undergraduate/99_none>`\n", tmp_path)
    assert "(planned)" in (tmp_path / "html" / "index.html").read_text()


def test_make_test_runs_short_chapters_and_what_has_changed(monkeypatch) -> None:
    seconds = {
        name: row["seconds"] for name, row in json.loads(notebooks.CHAPTERS.read_text())["metrics"].items()
    }
    monkeypatch.setattr(notebooks, "changed", set)
    usual = {path.stem: path for path in notebooks.daily()}
    chapters = {name for name, path in usual.items() if path.relative_to(ROOT).parts[0] == "book"}
    assert chapters == {name for name in seconds if seconds[name] <= notebooks.BRIEF} and len(chapters) >= 5
    assert "06_digits" not in chapters and len(usual) > len(chapters)
    monkeypatch.setattr(notebooks, "changed", lambda: {ROOT / "book" / "undergraduate" / "06_digits.ipynb"})
    assert len(notebooks.daily()) == len(usual) + 1


def test_what_has_changed_is_seen(tmp_path, monkeypatch) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    (tmp_path / "book").mkdir()
    git("init", "-q", "-b", "main")
    for name in ("a", "b"):
        (tmp_path / "book" / name).write_text(name)
        git("add", ".")
        git("commit", "-qm", name)
    assert notebooks.changed() == {tmp_path / "book" / "b"}, "since the commit before"
    git("update-ref", "refs/remotes/origin/main", "HEAD~1")
    git("commit", "-q", "--allow-empty", "-m", "c")
    assert notebooks.changed() == {tmp_path / "book" / "b"}, "since main"
