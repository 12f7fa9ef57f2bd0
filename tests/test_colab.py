"""The Colab-like run. Here its quick form; `make colab` runs every cell with another torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from scripts.book import colab_test


@pytest.mark.weekly
def test_set_up_cells_install_the_course_and_change_nothing() -> None:
    command = [sys.executable, "scripts/book/colab_test.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing wrong; torch and numpy compared by hash" in done.stdout


def test_a_snapshot_has_what_git_would_keep(tmp_path: Path) -> None:
    address = colab_test.snapshot(tmp_path / "snapshot")
    assert address == f"git+file://{tmp_path}/snapshot"
    names = subprocess.run(
        ["git", "ls-files"], cwd=tmp_path / "snapshot", check=True, text=True, capture_output=True
    ).stdout.split("\n")
    assert "cdedu/noise.py" in names and not any(name.startswith(("_build/", ".venv/")) for name in names)


def test_a_changed_package_is_seen(tmp_path: Path) -> None:
    """The fingerprint, on packages small enough to change."""
    code = colab_test.FINGERPRINT.replace('"torch", "torchvision", "numpy"', '"tiny",')
    info = tmp_path / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "RECORD").write_text("tiny.py,,\ntiny.pyc,,\ntiny-1.0.dist-info/METADATA,,\n")
    seen = []
    for name, text in (("tiny.py", "a = 1"), ("tiny.pyc", "x"), ("tiny.py", "a = 2")):
        (tmp_path / name).write_text(text)
        seen.append(colab_test.ask(Path(sys.executable), code, folder=tmp_path))
    assert seen[0] == seen[1] != seen[2]


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (bare := tmp_path / "bare.ipynb").write_text('{"cells": []}')
    with pytest.raises(SystemExit, match="bare.ipynb has no set-up cell; copy"):
        colab_test.chosen([str(bare)])
    with pytest.raises(SystemExit, match="there is no notebook .*/nowhere.ipynb; give"):
        colab_test.chosen(["nowhere.ipynb"])
    with pytest.raises(SystemExit, match="colab_test: .*\n.*\n?.*ZeroDivisionError"):
        colab_test.ask(Path(sys.executable), "1 / 0", folder=tmp_path)
