"""The page "Build on it": its code runs as it stands, in the order of the page."""

import re

import pytest
import torch
from conftest import ROOT

from cdedu import cli, training
from cdedu.recipes import get_recipe

PAGE = (ROOT / "book" / "reference" / "extend.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))


def code(part: str, language: str = "python") -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", PARTS[part], re.DOTALL))


@pytest.fixture(scope="module")
def page() -> dict[str, object]:
    """What the page defines."""
    names: dict[str, object] = {}
    torch.manual_seed(0)
    for part in ("A new distance", "A new loss", "A method of your own"):
        exec(compile(code(part), part, "exec"), names)  # noqa: S102
        names[part] = names["state"]
    return names


@pytest.mark.parametrize("part", ["A new distance", "A new loss"])
def test_it_takes_thirty_lines(part):
    assert len([line for line in code(part).splitlines() if line.strip()]) <= 30


@pytest.mark.parametrize("part", ["A new distance", "A new loss", "A method of your own"])
def test_what_is_added_trains_a_student_of_its_own(page, part):
    state = page[part]
    assert state.step == state.steps == 20
    *_, usual = training.distill(page["recipe"], page["teacher"])
    ours, theirs = (next(s.result.parameters()) for s in (state, usual))
    assert ours.isfinite().all() and not torch.equal(ours, theirs)


def test_a_method_that_takes_neither_refuses_them(page):
    with pytest.raises(
        ValueError, match="'jump' does not use distance=; leave it out, or choose the method 'dist"
    ):
        training.distill(page["recipe"], page["teacher"], method=page["jump"], distance=page["charbonnier"])


def test_the_recipe_is_one(tmp_path, monkeypatch, capsys):
    path = tmp_path / "fine-digits.toml"
    path.write_text(code("A recipe of your own", "toml"))
    assert get_recipe(str(path)).student.points == 36
    monkeypatch.chdir(tmp_path)
    words = ["cdedu", "train", path.name, "--max-steps", "2", "--batch", "4", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", words)
    cli.main()
    assert (tmp_path / "runs" / "fine-digits" / "teacher.safetensors").is_file()
