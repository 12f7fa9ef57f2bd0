"""The exercise notebooks: derived from one source, and their graders put to the test.

    python scripts/book/exercises.py derive     write the student, solution and instructor versions
    python scripts/book/exercises.py check      say which version is not in step with its source
    python scripts/book/exercises.py selftest   give each grader right answers, wrong ones and the stub, and print the table

`exercises/source/NN_name.ipynb` holds a set. A text cell with the metadata `{"exercise": "name"}` opens an exercise. Tags say what
the other cells are: `answer` (the region between `### BEGIN SOLUTION` and `### END SOLUTION` is the solution; lines after `### STUB`
in it are what students get in its place, commented out), `check`, `expected` (its output stays in the student version, as the
picture or value to reach), `solution` (text for those who are done).
"""

import argparse
import copy
import html
import importlib.util
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from cdedu.course.checks import Exercise, Result, exercises, grade
from scripts.book.notebooks import KERNEL, save, shown

ROOT = Path(__file__).resolve().parents[2]
SOURCES, ANSWERS = ROOT / "exercises" / "source", ROOT / "exercises" / "selftest"
FOLDERS = {
    "student": ROOT / "exercises",
    "solution": ROOT / "exercises" / "solutions",
    "instructor": ROOT / "exercises" / "instructor",
}
KEPT = ("student", "solution")
"""The versions that git keeps, for the book and its Colab buttons; instructors derive theirs (`make exercises`)."""
REGION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\n(?P<solution>.*?)(?:^[ \t]*### STUB\n(?P<stub>.*?))?^[ \t]*### END SOLUTION[ \t]*\n?",
    re.DOTALL | re.MULTILINE,
)
KINDS = {"code": "Code it", "predict": "Predict it", "bug": "Find the bug"}
SEEDS = 20


def sources() -> list[Path]:
    """The sets, in the order of the chapters."""
    return sorted(SOURCES.glob("*.ipynb"))


# --- deriving ------------------------------------------------------------------------------------


def stub(source: str) -> str:
    """A cell as students get it."""

    def empty(region: re.Match[str]) -> str:
        given = region["stub"]
        if given is None:
            return f"{region['indent']}# your code here\n"
        return re.sub(r"^([ \t]*)# ?", r"\1", given, flags=re.MULTILINE)

    return REGION.sub(empty, source + "\n").rstrip("\n")


def solved(source: str) -> str:
    """A cell with its solution, without the markers."""
    return REGION.sub(lambda region: region["solution"], source + "\n").rstrip("\n")


def label(task: Exercise) -> str:
    """The line below an exercise's heading."""
    points = f"{task.points} point{'s' if task.points > 1 else ''}"
    return f"*{KINDS[task.kind]} · {task.level} · {task.minutes} minutes · {points}*"


def ladder(task: Exercise) -> NotebookNode:
    """The hints, folded."""
    steps = [
        f"<details><summary>Hint {i} of {len(task.hints)}</summary>{html.escape(text, quote=False)}</details>"
        for i, text in enumerate(task.hints, 1)
    ]
    return nbformat.v4.new_markdown_cell("\n".join(steps))


def mistakes(task: Exercise) -> NotebookNode:
    """For instructors: what the grader says to the answers that learners give."""
    rows = [
        f"- **{wrong.key}**: {html.escape(judge(task, wrong).message, quote=False)}"
        for wrong in answers()[task.name].wrong
    ]
    return nbformat.v4.new_markdown_cell(
        "\n".join(["What the check says to answers that learners give:", "", *rows])
    )


def derive(source: NotebookNode, version: str, name: str) -> NotebookNode:
    """One version of a set."""
    tasks, task = exercises(), None
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})

    def close() -> None:
        if task is not None:
            nb.cells.append(ladder(task))
            if version == "instructor":
                nb.cells.append(mistakes(task))

    for i, original in enumerate(source.cells):
        cell = copy.deepcopy(original)
        tags = cell.metadata.get("tags", [])
        if "exercise" in cell.metadata or "closing" in tags:
            close()
            task = tasks[cell.metadata["exercise"]] if "exercise" in cell.metadata else None
        if "exercise" in cell.metadata:
            heading, _, rest = cell.source.partition("\n")
            cell.source = f"{heading}\n\n{label(task)}\n{rest}".rstrip()  # type: ignore[arg-type]
        if cell.cell_type == "markdown" and version != "student":
            cell.source = cell.source.replace("](../book/", "](../../book/")
        if i == 0:
            if version != "student":
                cell.source = cell.source.replace("# Exercises", "# Solutions of the exercises", 1)
            cell.source += "\n\n" + links(version, name)
        if version == "student":
            if "solution" in tags:
                continue
            if cell.cell_type == "code":
                cell.source = stub(cell.source)
                if "expected" not in tags:
                    cell.outputs, cell.execution_count = [], None
        elif cell.cell_type == "code":
            cell.source = solved(cell.source)
        nb.cells.append(cell)
    close()
    for i, cell in enumerate(nb.cells, 1):
        cell.id = f"cell-{i:02d}"
    return nb


def links(version: str, name: str) -> str:
    """From each version to the others that a reader may want."""
    if version == "student":
        return (
            f"Every exercise has a check, which answers at once, and hints below it. A [worked solution](solutions/{name}.ipynb) is "
            "there for when you are done. `check` and `hint` need no account and no server."
        )
    first = f"The solutions of [these exercises](../{name}.ipynb)."
    if version == "instructor":
        first += " For each exercise you also find what its check says to answers that learners give."
    return first


def versions(which: Iterable[str] = tuple(FOLDERS)) -> Iterator[tuple[Path, str]]:
    """(path, text) of every derived notebook."""
    for path in sources():
        nb = nbformat.read(path, as_version=4)
        for version in which:
            yield FOLDERS[version] / path.name, nbformat.writes(derive(nb, version, path.stem)) + "\n"


def problems() -> Iterator[str]:
    """What is not in step: a version with its source, a set with the package."""
    found = []
    for path in sources():
        nb = nbformat.read(path, as_version=4)
        found += [c.metadata["exercise"] for c in nb.cells if "exercise" in c.metadata]
        for cell in nb.cells:
            if "answer" in cell.metadata.get("tags", []) and not REGION.search(cell.source + "\n"):
                yield f"{shown(path)}: an answer cell has no region ### BEGIN SOLUTION ... ### END SOLUTION"
    for name in sorted(set(exercises()) ^ set(found)):
        where = "no notebook asks it" if name in exercises() else "cdedu.course.checks does not know it"
        yield f"exercise {name}: {where}"
    if sorted(set(found)) != sorted(found):
        yield "an exercise is asked twice"
    expected = dict(versions(KEPT))
    for path, text in expected.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield f"{shown(path)} is not in step with its source: python scripts/book/exercises.py derive"
        if path.parent == FOLDERS["solution"] and "✗" in text:
            yield f"{shown(path)} stores an answer that its check calls wrong: python scripts/book/notebooks.py execute its source"
    for version in KEPT:
        for path in FOLDERS[version].glob("*.ipynb"):
            if path not in expected:
                yield f"{shown(path)} has no source in {shown(SOURCES)}"


# --- the graders' own test -----------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a learner might hand in: values for some of the exercise's names; the others are those of the solution."""

    key: str
    values: dict[str, Any]
    mark: str = ""
    """"unusual" for a right answer that few would write, "fragile" for a wrong one that is right on paper."""


@dataclass
class Answers:
    """All prepared answers of one exercise."""

    right: list[Answer] = field(default_factory=list)
    wrong: list[Answer] = field(default_factory=list)


_answers: dict[str, Answers] = {}


def right(name: str, **values: Any) -> Any:
    """Register another right answer; as a decorator where the exercise asks for one function."""
    return _register(name, "right", "", values)


def wrong(name: str, key: str, **values: Any) -> Any:
    """Register a wrong answer and the key of the diagnosis that it must get."""
    return _register(name, "wrong", key, values)


def unusual(name: str, **values: Any) -> Any:
    """Register a right answer that few would write: other operations, loops, numpy, keywords, other number types."""
    return _register(name, "right", "", values, "unusual")


def fragile(name: str, key: str, **values: Any) -> Any:
    """Register a wrong answer that is right on paper and fails in floating point; its key may be another's as well."""
    return _register(name, "wrong", key, values, "fragile")


NOT_FRAGILE = {
    "consistency-neighbors": "it picks numbers out of a grid by whole numbers",
    "trade-front": "it compares numbers that it is given",
    "trade-fair": "it picks one of three numbers",
    "video-fold": "frames are moved, and nothing is computed",
}
"""Exercises that ask for code and have no fragile answer, and why. Predictions have none: they are a number or a letter."""


def _register(name: str, kind: str, key: str, values: dict[str, Any], mark: str = "") -> Any:
    kept = getattr(_answers.setdefault(name, Answers()), kind)
    if values:
        kept.append(Answer(key, values, mark))
        return None

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        kept.append(Answer(key, {exercises()[name].answers[0]: function}, mark))
        return function

    return decorate


PREPARED = """
import sys as _sys, types as _types
_prepared, _module = {}, _types.ModuleType("exercise_answers")
def _collect(kind):
    def register(name, key="", **values):
        place = _prepared.setdefault((name, kind), [])
        return place.append(values) if values else lambda f: place.append(f) or f
    return register
_module.right = _module.unusual = _collect("right")
_module.wrong = _module.fragile = _collect("wrong")
_sys.modules["exercise_answers"] = _module
exec(%r, {"__name__": "prepared"})
"""


def prepared_cell(chapter: str) -> str:
    """A cell that holds a chapter's prepared answers, for a notebook that runs where this script is not."""
    return PREPARED % (ANSWERS / f"ch{chapter}.py").read_text(encoding="utf-8")


def take(name: str, kind: str, i: int, first: str) -> str:
    """Lines that make the ``i``-th right or wrong answer the notebook's own; ``first`` is what a lone function is called."""
    return (
        f"_v = _prepared[{name!r}, {kind!r}][{i}]\n"
        f"globals().update(_v if isinstance(_v, dict) else {{{first!r}: _v}})"
    )


def answers() -> dict[str, Answers]:
    """What exercises/selftest/*.py register."""
    if not _answers:
        sys.modules.setdefault("exercise_answers", sys.modules[__name__])
        for path in sorted(ANSWERS.glob("*.py")):
            spec = importlib.util.spec_from_file_location(f"selftest_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return _answers


def namespaces(version: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """Exercise → what its notebook's names hold, after the cells that are needed: set-up cells and answers."""
    out: dict[str, dict[str, Any]] = {}
    for path in sources():
        space: dict[str, Any] = {"__name__": path.stem}
        names = []
        for cell in nbformat.read(path, as_version=4).cells:
            tags = cell.metadata.get("tags", [])
            if "exercise" in cell.metadata:
                names.append(cell.metadata["exercise"])
            if cell.cell_type == "code" and not {"check", "expected"} & set(tags):
                exec(compile(version(cell.source), str(path), "exec"), space)  # the project's own cells
        out |= dict.fromkeys(names, space)
    return out


@cache
def solutions() -> dict[str, dict[str, Any]]:
    """Exercise → what the solved notebook's names hold."""
    return namespaces(solved)


@cache
def stubs() -> dict[str, dict[str, Any]]:
    """Exercise → what the untouched notebook's names hold."""
    return namespaces(stub)


def judge(task: Exercise, answer: Answer, seed: int = 0) -> Result:
    """Grade a prepared answer; names that it does not give hold the solution."""
    return grade(task.name, {**solutions()[task.name], **answer.values}, seed=seed)


def broken() -> list[Answer]:
    """What any exercise must survive, as values for its first name."""

    def loops(*_: Any, **__: Any) -> None:
        while True:
            pass

    def raises(*_: Any, **__: Any) -> None:
        return [][0]  # type: ignore[no-any-return]

    def unknown(*_: Any, **__: Any) -> None:
        return not_defined_anywhere  # type: ignore[name-defined]  # noqa: F821

    import torch

    values = {
        "text": "abc", "number": -1.2345e9, "list": [1, 2], "raises": raises, "unknown name": unknown, "endless": loops,
        "nan": lambda *_, **__: torch.full((3,), float("nan")), "wrong shape": lambda *_, **__: torch.zeros(7, 3, 1),
        "wrong type": lambda *_, **__: "abc",
    }  # fmt: skip
    return [Answer(key, {"": value}) for key, value in values.items()]


def lacking(task: Exercise) -> list[str]:
    """Which prepared answers, diagnoses and hints one exercise still needs."""
    found, prepared = [], answers().get(task.name, Answers())
    keys = [a.key for a in prepared.wrong if a.mark != "fragile"]
    if not any(a.mark == "unusual" for a in prepared.right):
        found.append("it needs a right answer in an unusual style")
    none = task.kind == "predict" or task.name in NOT_FRAGILE
    if none == any(a.mark == "fragile" for a in prepared.wrong):
        found.append(
            "it has a fragile wrong answer: take it off NOT_FRAGILE"
            if none
            else "it needs a wrong answer that is numerically fragile, or a reason in NOT_FRAGILE"
        )
    if len(set(keys)) < 5 or len(set(keys)) != len(keys):
        found.append(f"it needs five wrong answers with a diagnosis each, and has {keys}")
    if not 2 <= len(task.hints) <= 3:
        found.append(f"it needs two or three hints, and has {len(task.hints)}")
    return found


def failures(task: Exercise, seeds: int = SEEDS) -> list[str]:
    """What the grader of one exercise gets wrong."""
    found, prepared = lacking(task), answers().get(task.name, Answers())
    untouched = stubs()[task.name]
    for seed in range(seeds):
        for i, answer in enumerate([Answer("", {}), *prepared.right]):
            result = judge(task, answer, seed)
            if result.status != "right":
                found.append(f"seed {seed}: right answer {i} is refused: {result}")
        messages = {}
        for answer in prepared.wrong:
            result = judge(task, answer, seed)
            if answer.mark != "fragile":
                messages[answer.key] = result.message
            if result.status != "wrong" or result.key != answer.key:
                found.append(f"seed {seed}: wrong answer {answer.key!r} got {result}")
        if len(set(messages.values())) != len(messages):
            found.append(f"seed {seed}: two mistakes get the same sentence")
        if (result := grade(task.name, untouched, seed=seed)).status != "not attempted":
            found.append(f"seed {seed}: the stub got {result}")
    if grade(task.name, {}).key != "missing":
        found.append("a missing name is not noticed")
    for answer in broken():
        result = grade(task.name, {**solutions()[task.name], task.answers[0]: answer.values[""]}, seconds=0.3)
        if result.status == "right" or not result.message or "course/checks" in result.message:
            found.append(f"broken answer {answer.key!r} got {result}")
    return found


def selftest() -> int:
    """Print the table; the number of exercises whose grader fails."""
    bad = 0
    print(
        f"{'exercise':28s} {'kind':8s} {'right':>5s} {'wrong':>5s} {'stub':>5s} {'seeds':>5s} {'slowest':>8s}"
    )
    for task in exercises().values():
        prepared = answers().get(task.name, Answers())
        judge(task, Answer("", {}))  # the first one runs the notebooks' cells
        begun = time.perf_counter()
        judge(task, Answer("", {}))
        seconds = time.perf_counter() - begun
        found = failures(task)
        bad += bool(found)
        verdict = (
            ""
            if not found
            else f"  FAILS: {found[0]}" + (f" (and {len(found) - 1} more)" if found[1:] else "")
        )
        print(
            f"{task.name:28s} {task.kind:8s} {1 + len(prepared.right):5d} {len(prepared.wrong):5d} {'ok':>5s} {SEEDS:5d} "
            f"{seconds:7.2f}s{verdict}",
            flush=True,
        )
    total = sum(len(a.wrong) for a in answers().values())
    marked = [a.mark for prepared in answers().values() for a in (*prepared.right, *prepared.wrong)]
    print(
        f"{len(exercises())} exercises, {total} wrong answers, {marked.count('fragile')} of them numerically fragile, "
        f"{marked.count('unusual')} right ones in an unusual style; {bad or 'no'} grader{'' if bad == 1 else 's'} fail{'s' if bad == 1 else ''}"
    )
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("derive", "check", "selftest"))
    action = parser.parse_args().action
    if action == "selftest":
        return 1 if selftest() else 0
    if action == "check":
        found = list(problems())
        print(*(f"exercises: {what}" for what in found), sep="\n", end="\n" if found else "", file=sys.stderr)
        return 1 if found else 0
    for path, text in versions():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            save(path, nbformat.reads(text, as_version=4))
            print(f"{shown(path)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
