"""The course without `make`, on Windows, macOS and Linux: `python make.py book` and `python make.py test` from a bare clone.

    python make.py setup    install everything into .venv
    python make.py book     build the book from the stored outputs into _build/html
    python make.py test     check style and types, build the book, run the tests and most notebooks (Linux)
    python make.py check    the daily check: style, types, method, training, recipes, command line

The Makefile calls this file. It needs Python 3.11 or later and nothing else.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WINDOWS = os.name == "nt"
BIN = ROOT / ".venv" / ("Scripts" if WINDOWS else "bin")
PYTHON, STAMP = BIN / ("python.exe" if WINDOWS else "python"), ROOT / ".venv" / ".installed"
JOBS = os.environ.get("JOBS", "2")

DAILY = """noise teacher student solvers losses samplers networks recipes training runs runtime checkpoints records files
cli evaluation""".split()
BESIDE = """arrows checkpoints cli evaluation files gpu losses mutants networks noise pixels plan recipes records runs runtime
samplers samples solvers student teacher training""".split()
"""Tests that need neither the book nor a browser, about as long as the build, beside which they run."""
PYTEST = ["-m", "pytest", "-q", "-rfEs"]
SPREAD = ["-n", JOBS, "--dist", "loadscope"]


def main() -> None:
    """What is asked for."""
    known = {"setup": setup, "lint": lint, "book": book, "beside": beside, "test": test, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in known:
        raise SystemExit(__doc__)
    os.chdir(ROOT)
    # Nothing is fetched once the environment stands, and parallel test workers do not fight over the cores.
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    if sys.argv[1] not in ("setup", "book"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    setup()
    if sys.argv[1] != "setup":
        known[sys.argv[1]]()


def setup() -> None:
    """The environment, unless it stands and is newer than what it is made from."""
    sources = [ROOT / name for name in ("requirements.txt", "pyproject.toml", "make.py")]
    if STAMP.is_file() and STAMP.stat().st_mtime >= max(path.stat().st_mtime for path in sources):
        return
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python reads this, too)
        found = ".".join(map(str, sys.version_info[:3]))
        raise SystemExit(
            f"Python >= 3.11 is needed, found {found}.\nName another one: make PYTHON=python3.12, or python3.12 make.py"
        )
    if not PYTHON.is_file():
        try:
            import ensurepip  # noqa: F401
            import venv
        except ImportError:
            raise SystemExit(
                f"Python {sysconfig.get_python_version()} has no venv and pip. On Debian or Ubuntu: apt-get install python3-venv"
            ) from None
        venv.create(ROOT / ".venv", with_pip=True, symlinks=not WINDOWS)
    if shutil.which("uv", path=str(BIN)) is None:
        python("-m", "pip", "install", "-q", "uv")
    install = ("-m", "uv", "pip", "install", "-q", "--python", str(PYTHON))
    python(*install, "-r", "requirements.txt")
    python(*install, "--no-deps", "-e", ".")
    # Scripts, tests and the book's extensions import each other by the paths in course.pth.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([PYTHON, "-c", where], capture_output=True, text=True, check=True).stdout
    paths = [ROOT, ROOT / "book" / "_ext", ROOT / "tests"]
    Path(packages.strip(), "course.pth").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    STAMP.touch()


def lint() -> None:
    """Style and types."""
    python("-m", "ruff", "check", "-q", ".")
    python("-m", "ruff", "format", "-q", "--check", ".")
    python("scripts/book/notebooks.py", "lint")
    python("-m", "mypy")


def book() -> None:
    """The pages; a build that warned is forgotten, else the next one would not read, and warn of, that page."""
    python("scripts/book/notebooks.py", "check")
    python("scripts/book/exercises.py", "check")
    python("scripts/book/browser_assets.py", "--if-needed")
    command = str(shutil.which("jupyter-book", path=str(BIN)))
    build = [command, "build", ".", "-W", "-n", "--keep-going", "-q"]
    if subprocess.run(build, stdout=subprocess.DEVNULL).returncode:
        shutil.rmtree("_build/.doctrees", ignore_errors=True)
        raise SystemExit("make book: the build stopped at the warnings above")
    print(f"The book: {ROOT / '_build' / 'html' / 'index.html'}", flush=True)


def beside() -> None:
    """The tests that run beside the build."""
    python(*PYTEST, "-m", "not weekly", *files(BESIDE))


def test() -> None:
    """Everything that is looked at for every change."""
    lint()
    other = subprocess.Popen([sys.executable, __file__, "beside"])
    try:
        book()
    finally:
        failed = other.wait()
    if failed:
        raise SystemExit(failed)
    daily = subprocess.run(
        [PYTHON, "scripts/book/notebooks.py", "daily"], capture_output=True, text=True, check=True
    )
    rest = sorted({str(path) for path in Path("tests").glob("test_*.py")} - {*files(BESIDE)})
    python(*PYTEST, *SPREAD, "-m", "not weekly", "--nbval-lax", *rest, *daily.stdout.split())


def check() -> None:
    """The daily check."""
    lint()
    python(*PYTEST, "-n", JOBS, "-m", "not slow and not weekly", *files(DAILY))


def files(names: list[str]) -> list[str]:
    """Test files by their short names."""
    return [str(Path("tests", f"test_{name}.py")) for name in names]


def python(*words: str) -> None:
    """A command of the environment; ends with its exit status if that is not 0."""
    if status := subprocess.run([PYTHON, *words]).returncode:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
