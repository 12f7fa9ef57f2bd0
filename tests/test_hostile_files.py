"""Files that mean harm are refused by name, in one line, soon and in little memory; damaged ones are refused or loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cdedu

SCRIPT = Path(__file__).parent / "hostile" / "files.py"


def loaded(folder: Path, seed: int, rounds: int) -> list[str]:
    """What one process says that loads all of them, and no more after the first that hangs."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(cdedu.__file__).parents[1]),
    }
    command = [sys.executable, str(SCRIPT), str(folder), str(seed), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1].startswith("end:"), (
        f"it ended after {lines[-1:]}: {done.stderr[-800:]}"
    )
    return lines


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured in Linux's way")
def test_a_file_that_means_harm_is_refused_by_name_soon_and_in_little_memory(tmp_path):
    """Fifteen seconds and two gigabytes, whatever the file: see tests/hostile/files.py for what each of them is."""
    lines = loaded(tmp_path, 0, 60)
    assert len(lines) > 200 and not [line for line in lines[:-1] if not line.endswith(": well")]


@pytest.mark.weekly
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_file_with_random_damage_is_refused_or_loaded(tmp_path, seed):
    lines = loaded(tmp_path, seed, 1500)
    assert not [line for line in lines[:-1] if not line.endswith(": well")]
