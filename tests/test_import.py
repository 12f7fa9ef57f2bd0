"""`import cdedu` is light, and every public name is where it is said to be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cdedu

HEAVY = (
    "diffusers",
    "torchvision",
    "matplotlib",
    "sklearn",
    "scipy",
    "torchmetrics",
    "accelerate",
    "transformers",
    "tyro",
)


def test_import_loads_no_heavy_package():
    """Not even the modules of the method do."""
    code = (
        "import sys, cdedu; a = set(sys.modules)\n"
        "import cdedu.noise, cdedu.teacher, cdedu.student, cdedu.solvers, cdedu.losses, cdedu.samplers\n"
        f"print([m for m in {HEAVY} if m in sys.modules], [m for m in a if m.startswith('cdedu')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[] ['cdedu']"


@pytest.mark.parametrize("name", cdedu.__all__)
def test_every_public_name_loads_and_has_a_docstring(name):
    assert getattr(cdedu, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cdedu.nonsense  # noqa: B018
    assert {"noise", "samplers", "sample_heun"} <= {*dir(cdedu)}


ELSEWHERE = """
import importlib, pkgutil, sys
for name in ("resource", "fcntl", "termios", "pwd", "grp", "pty"):
    sys.modules[name] = None  # importing it fails, as on Windows
import cdedu
names = [m.name for m in pkgutil.walk_packages(cdedu.__path__, "cdedu.")]
assert len(names) > 80
for name in names:
    if not name.startswith("cdedu.course.grading"):  # which holds submissions back, in Linux's way
        importlib.import_module(name)
from cdedu.records import peak_memory_mb
assert peak_memory_mb() is None
sys.platform, sys.argv = "win32", ["cdedu", "grade", "a.ipynb", "b", "--out", "c"]
from cdedu import cli
cli.main()
"""


@pytest.mark.slow
def test_nothing_but_grading_needs_linux_and_that_says_so_in_one_line():
    """Every module, without those that only POSIX has."""
    root = str(Path(cdedu.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    quiet = "ignore:only soft file lock"  # filelock's, which has another lock on Windows
    done = subprocess.run(
        [sys.executable, "-W", quiet, "-c", ELSEWHERE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == "cdedu: grading runs on Linux and macOS; on Windows use WSL"
