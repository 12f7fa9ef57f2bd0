"""The list of wrong variants fits the source and the tests; running them is `make mutants`."""

import re
import tomllib

import pytest
from mutants import MUTANTS, ROOT, mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_fits_the_source_and_names_existing_tests(mutant):
    source = mutated(mutant)
    assert source != mutant.path.read_text()
    tomllib.loads(source) if mutant.file.endswith(".toml") else compile(source, mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("[")[0].partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), test


def test_names_are_told_apart():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
