"""`import cdedu` is light, and every public name is where it is said to be."""

import subprocess
import sys

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
