"""Build the book twice, in two folders, and compare every file: two builds of one state must be identical.

python scripts/book/reproducible.py
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.book.colab_test import snapshot


def build(folder: Path, seed: int) -> Path:
    """The html of a fresh build of `folder`."""
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        folder,
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    # The package that the API pages describe is the folder's own, and so are the extensions.
    paths = os.pathsep.join([str(folder), str(folder / "book" / "_ext")])
    env = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": paths}
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"reproducible: the build stopped\n{done.stdout}")
    return folder / "_build" / "html"


def files(folder: Path) -> set[str]:
    """Every file of the book. `.buildinfo` is Sphinx's note on its own settings, paths among them; it is not published."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {".buildinfo"}


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, "first"), Path(temporary, "second", "elsewhere")]
        snapshot(folders[0])
        shutil.copytree(folders[0], folders[1])
        one, two = (build(folder, seed) for seed, folder in enumerate(folders, 1))
        alone = sorted(files(one) ^ files(two))
        both = sorted(files(one) & files(two))
        _, differ, unread = filecmp.cmpfiles(one, two, both, shallow=False)
    for name in alone:
        print(f"{name}: only one build has it")
    for name in differ + unread:
        print(f"{name}: differs")
    wrong = len(alone) + len(differ) + len(unread)
    print(f"{len(both)} files in both builds, {wrong or 'none'} that differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
