"""Run the notebooks as Colab does: in an environment whose torch and numpy were there before the course.

    python scripts/book/colab_test.py [notebooks]            every notebook (or those named) with an older torch and numpy
    python scripts/book/colab_test.py --torch "" --numpy ""  ... with the newest
    python scripts/book/colab_test.py --quick [notebooks]    set-up and import cells alone, with the torch and numpy of this environment

The full form fetches some 3 GB, and keeps its environment in `_build/colab/`. The quick form fetches nothing: it installs the course
beside this environment's packages, so it shows that the set-up cell works and replaces nothing, but not that another torch will do.

In both the set-up cell is the notebook's own, with the address of a snapshot of this checkout in it; the working folder is empty, and
the hashes of all files of torch, torchvision and numpy are compared before and after.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import nbformat
from book_launch import SOURCE, set_up

from scripts.book.notebooks import code_cells, shown

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "_build" / "colab"

# Run in the other environment: version and hash of what must stay as it is.
FINGERPRINT = """
import hashlib, importlib.metadata, json
out = {}
for name in ("torch", "torchvision", "numpy"):
    dist, total = importlib.metadata.distribution(name), hashlib.sha256()
    for file in sorted(dist.files, key=str):
        path = dist.locate_file(file)
        if path.suffix != ".pyc" and path.is_file():
            with open(path, "rb") as opened:
                total.update(f"{file} {hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
    out[name] = dist.version, total.hexdigest()
print(json.dumps(out))
"""

# Run in the other environment: the first two code cells of each notebook, set-up and imports.
FIRST_CELLS = """
import json, sys
for path in sys.argv[1:]:
    cells = [c for c in json.load(open(path, encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    space = {"__name__": "__main__"}
    for i, cell in enumerate(cells[:2], 1):
        source = "".join(cell["source"])
        if i == 2 and not source.startswith(("import ", "from ")):
            continue
        try:
            exec(compile(source, f"code cell {i}", "exec"), space)
        except Exception as error:
            sys.exit(f"{path}, code cell {i}: {type(error).__name__}: {error}")
import cdedu
print(cdedu.__file__)
"""


def snapshot(folder: Path) -> str:
    """A git repository with the checkout as it is now, ignored files left out; its address for pip."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    who = ("-c", "user.name=snapshot", "-c", "user.email=snapshot@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "snapshot")):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return f"git+{folder.as_uri()}"


def environment(folder: Path, wanted: list[str]) -> Path:
    """A fresh environment with `wanted`, pip and a kernel, and nothing of this one; its python."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    python = folder / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--clear", "--seed", "--python", sys.executable, folder], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *wanted, "ipykernel"], check=True)
    kernel = [python, "-m", "ipykernel", "install", "--prefix", folder, "--name", "colab"]
    subprocess.run(kernel, check=True, capture_output=True)
    return python


def borrowed(folder: Path) -> Path:
    """An environment that sees the packages of this one, except the course, and can install without the network; its python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(site, "borrowed.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )  # .pth files there are not read
    return python


def ask(python: Path, code: str, *arguments: str, folder: Path, **variables: str) -> str:
    """What `code` prints in the other environment; its complaint ends the script."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [python, "-c", code, *arguments], cwd=folder, env=env | variables, text=True, capture_output=True
    )
    if done.returncode:
        sys.exit("colab_test: " + "\n".join(done.stderr.strip().splitlines()[-3:]))
    return done.stdout.strip()


def run(path: Path, name: str, folder: Path, timeout: int) -> str:
    """Run a notebook from top to bottom in the environment whose kernel is called colab; "" or what went wrong."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(
        nb, kernel_name="colab", timeout=timeout, resources={"metadata": {"path": str(folder)}}
    )
    begun = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return str(error)
    print(f"{name}: {len(code_cells(nb))} cells, {time.perf_counter() - begun:.0f} s", flush=True)
    return ""


def chosen(paths: list[str]) -> list[Path]:
    """The notebooks named, or every chapter and every exercise as students get it."""
    found = [Path(p).resolve() for p in paths] or [
        *sorted((ROOT / "book").rglob("[0-9]*.ipynb")),
        ROOT / "book" / "postgraduate" / "your_model.ipynb",
        ROOT / "book" / "postgraduate" / "colab_t4.ipynb",
        *sorted((ROOT / "exercises").glob("*.ipynb")),
    ]
    for path in found:
        if not path.is_file():
            sys.exit(f"colab_test: there is no notebook {path}; give a path relative to this folder")
        if not SOURCE.search(path.read_text(encoding="utf-8")):
            sys.exit(
                f"colab_test: {shown(path)} has no set-up cell; copy the first code cell of another chapter"
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*")
    parser.add_argument("--quick", action="store_true", help="only setup and import cells; downloads nothing")
    parser.add_argument("--torch", default="2.6.0", help="the torch to install first ('': the newest)")
    parser.add_argument("--numpy", default="2.0.2", help="the numpy to install first ('': the newest)")
    parser.add_argument("--timeout", type=int, default=900, help="time limit per cell, in seconds")
    options = parser.parse_args()
    found, wrong = chosen(options.notebooks), 0

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        address = snapshot(work / "snapshot")
        copies = work / "notebooks"
        for path in found:
            (copies / shown(path)).parent.mkdir(parents=True, exist_ok=True)
            (copies / shown(path)).write_text(
                set_up(path.read_text(encoding="utf-8"), address), encoding="utf-8"
            )
        (empty := work / "content").mkdir()

        if options.quick:
            python = borrowed(work / "environment")
        else:
            wanted = [
                f"torch=={options.torch}" if options.torch else "torch",
                "torchvision",
                f"numpy=={options.numpy}" if options.numpy else "numpy",
            ]
            python = environment(HOME, wanted)
        before = json.loads(ask(python, FINGERPRINT, folder=empty))
        print("there first:", ", ".join(f"{name} {version}" for name, (version, _) in before.items()))

        if options.quick:
            # Without the network pip may use only what is there: for building, too.
            offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "MPLBACKEND": "Agg"}
            names = [str(copies / shown(path)) for path in found]
            where = ask(python, FIRST_CELLS, *names, folder=empty, **offline)
            if not Path(where).is_relative_to(work):
                sys.exit(f"colab_test: the set-up cell did not install the course; it came from {where}")
        else:
            os.environ["JUPYTER_PATH"] = str(HOME / "share" / "jupyter")
            for path in found:
                if problem := run(copies / shown(path), shown(path), empty, options.timeout):
                    wrong += 1
                    print(f"{shown(path)}: FAILED\n{problem}", flush=True)

        after = json.loads(ask(python, FINGERPRINT, folder=empty))
    for name in before:
        if before[name] != after[name]:
            wrong += 1
            print(f"{name} was changed: {before[name][0]} before, {after[name][0]} after")
    cells = "set-up and import cells" if options.quick else "all cells"
    print(f"{len(found)} notebooks, {cells}; {wrong or 'nothing'} wrong; torch and numpy compared by hash")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
