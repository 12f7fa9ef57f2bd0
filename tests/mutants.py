"""Show that each wrong formula fails a test.

    python tests/mutants.py [words]     all mutants, or those whose name contains one of the words

Every mutant is one mistake that has been made in the field: a copy of the package gets it, and the tests named beside it run
against the copy. The script ends with 1 if a mutant survives, if its text is no longer in the source, or if the copy without
any mistake fails. It forks, so it runs on Linux and macOS.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """A mistake: ``old`` in ``cdedu/<file>``, or in a module of the book, becomes ``new``; one of ``tests`` must fail."""

    name: str
    pitfall: str
    file: str
    old: str
    new: str
    tests: list[str]

    @property
    def path(self) -> Path:
        """Of the source."""
        return ROOT / self.file if self.file.startswith(BOOK) else ROOT / "cdedu" / self.file


BOOK = "book/_ext/"
MUTANTS = [
    Mutant(**table) for table in tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
]


def mutated(mutant: Mutant) -> str:
    """The source with the mistake in it."""
    text = mutant.path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: its text occurs {text.count(mutant.old)} times in {mutant.path}, want once; mend MUTANTS"
        )
    return text.replace(mutant.old, mutant.new)


def run(tests: list[str], file: str | None = None, text: str = "") -> tuple[int, str]:
    """Pytest against a copy of the package in which ``file`` says ``text``: its exit status and its output.

    For a fresh process only, which has not yet imported the package.
    """
    import pytest

    assert "cdedu" not in sys.modules
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cdedu"
        shutil.copytree(ROOT / "cdedu", copy, ignore=shutil.ignore_patterns("__pycache__", "weights"))
        (copy / "weights").symlink_to(ROOT / "cdedu" / "weights")
        places = {"cdedu": copy}
        if file:
            mistaken = Path(folder, Path(file).name) if file.startswith(BOOK) else copy / file
            mistaken.write_text(text)
            places |= {mistaken.stem: Path(folder)} if file.startswith(BOOK) else {}
        sys.path.insert(0, folder)
        options = f"-x -q --tb=no -o addopts= --rootdir {ROOT} -p no:cacheprovider"
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = int(pytest.main([*options.split(), *(f"{ROOT}/tests/{test}" for test in tests)]))
        for name, place in places.items():
            if name in sys.modules and Path(sys.modules[name].__file__ or "").parent != place:
                return 99, "the tests did not import the copy"
        return status, output.getvalue()


def control(chosen: list[Mutant]) -> tuple[int, str]:
    """The copy without any mistake."""
    return run(sorted({test for m in chosen for test in m.tests}))


def verdict(mutant: Mutant) -> tuple[bool, str]:
    """Whether the mutant was killed, and by which test."""
    status, output = run(mutant.tests, mutant.file, mutated(mutant))
    found = re.search(r"^FAILED \S*tests/(\S+)", output, re.MULTILINE)
    if status == 1 and found:
        return True, found[1]
    return False, "SURVIVED" if status == 0 else f"NO VERDICT (pytest ended with {status})"


def main(words: list[str]) -> int:
    start = time.perf_counter()
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    if not chosen:
        print(f"no mutant is called {' or '.join(words)}; there are: {', '.join(m.name for m in MUTANTS)}")
        return 1
    try:
        for mutant in chosen:
            mutated(mutant)
    except ValueError as error:
        print(error)
        return 1
    # Forked processes share what takes long to import; the package itself each of them imports anew.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    for name in "pytest hypothesis scipy.stats scipy.integrate torch._dynamo safetensors.torch matplotlib.image tyro".split():
        importlib.import_module(name)
    killed = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        status, output = pool.apply(control, (chosen,))
        if status:
            print(f"The copy without any mistake fails:\n{output}")
            return 1
        for mutant, (dead, by) in zip(chosen, pool.imap(verdict, chosen, chunksize=1), strict=True):
            killed += dead
            print(
                f"{'killed' if dead else 'ALIVE '}  {mutant.name} ({mutant.pitfall})\n        {by}",
                flush=True,
            )
    print(f"{killed} of {len(chosen)} wrong variants killed in {time.perf_counter() - start:.0f} s")
    return killed < len(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
