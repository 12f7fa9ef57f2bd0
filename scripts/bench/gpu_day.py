"""Everything that needs a GPU, done by one command in a given number of minutes:

    python scripts/bench/gpu_day.py --minutes 9 --out day --data cifar10-train.zip --test-data cifar10-test.zip

In this order: the tests that need a GPU; cifar10-small's teacher, and then its student, trained on from given weights or those that
come with the course, with pictures and distances; four rows of throughput of the small network; 200 steps of the full network, that of the recipe
cifar10, for a finite loss and nothing more, on noise unless --data is given; and, if time is left, the four rows of the full network.

Each step is its own process with a limit and a log in FOLDER/logs; if one fails or hangs, the others still run, and `FOLDER/day.json`
says after each what became of it. Time that is left goes to the later steps. Ctrl-C and SIGTERM end the step under way cleanly, and what there
is is still collected: in FOLDER/back (or --back), at most 8 files of 16 MiB, 64 MiB together, without states. Started again in the same folder,
training goes on.

Before anything starts, it says what is missing on this machine and what that costs; this needs nothing but Python. `--minutes 1 --device
cpu` rehearses all of it at a tiny size, with pictures of noise where no data are given.
"""

import argparse
import ctypes
import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILES, EACH, TOGETHER = 8, 16 << 20, 64 << 20
"""What comes back from a lent machine: files, bytes of a file, bytes of all."""
ROOM = 1 << 20
"""Of those, for day.json."""
LOG_MOST, LOG_KEPT = 8 << 20, 1 << 18
"""Bytes of a log from which it is cut, and those at its end that are kept."""
START = 8.0
"""Seconds in which a step's process has imported what it needs; an estimate, for a slow core."""
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()

# --- what is missing -----------------------------------------------------------------------------

TRAINING = ("teacher", "student", "look")
PACKAGED = (*TRAINING, "throughput", "full", "throughput-full")
PACKAGES = {
    "torch": ("cuda-tests", *PACKAGED),
    "numpy": ("cuda-tests", *PACKAGED),
    "tqdm": ("cuda-tests", *PACKAGED),
    "safetensors": ("cuda-tests", *PACKAGED),
    "pytest": ("cuda-tests",),
    "tyro": (*TRAINING, "full"),
    "docstring_parser": (*TRAINING, "full"),
    "PIL": TRAINING,
    "diffusers": (*TRAINING, "throughput"),
}
"""What each step cannot do without."""
PARTS = {"matplotlib": "the pictures", "torchmetrics": "the distances", "hypothesis": "some of the tests"}
"""What a part of a step needs."""


@dataclass(frozen=True)
class Missing:
    """Something that this machine has not."""

    what: str
    cost: str
    remedy: str
    blocks: tuple[str, ...] = ()
    """Steps that cannot be done without it."""


def has_package(name: str) -> bool:
    """Whether it could be imported; nothing is."""
    return find_spec(name) is not None


def has_gpu() -> bool:
    """Whether CUDA's driver finds one; asked of the driver, since PyTorch takes seconds to import."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        return not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(count)) and count.value > 0
    except OSError:
        return False


def has_compiler() -> bool:
    """Triton builds a launcher with it."""
    return any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))


def can_fetch_cifar10() -> bool:
    """Whether the package's loader has CIFAR-10 already, or reaches one of its two sources."""
    cache = Path(os.environ.get("CDEDU_CACHE", "~/.cache/cdedu")).expanduser()
    if all((cache / f"cifar10-{split}.safetensors").is_file() for split in ("train", "test")):
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
        return True  # by a way that is not looked into
    for host in ("huggingface.co", "www.cs.toronto.edu"):
        with suppress(OSError), socket.create_connection((host, 443), timeout=3):
            return True
    return False


def missing(device: str, data: bool) -> list[Missing]:
    """All that this machine has not, with what that costs.

    Args:
        device: ``cuda`` or ``cpu``.
        data: whether training images are at hand.
    """
    found = []
    for name, steps in PACKAGES.items():
        if not has_package(name):
            pip = {"PIL": "pillow", "docstring_parser": "docstring-parser"}.get(name, name)
            found.append(
                Missing(f"the package {name}", f"no {', '.join(steps)}", f"pip install {pip}", steps)
            )
    for name, part in PARTS.items():
        if not has_package(name):
            found.append(Missing(f"the package {name}", f"without {part}", f"pip install {name}"))
    if not data and device == "cuda" and not can_fetch_cifar10():
        remedy = "give --data and --test-data: folders or zips of CIFAR-10's images, a folder for each class"
        cost = f"no {', '.join(TRAINING)}"
        found.append(Missing("CIFAR-10, and the network to fetch it from", cost, remedy, TRAINING))
    if not data and device == "cuda":
        remedy = "give --data for real images; its loss is then that of real training"
        found.append(Missing("--data", "full runs on noise", remedy))
    if device == "cuda":
        if not has_gpu():
            everything = ("cuda-tests", *PACKAGED)
            found.append(Missing("a GPU", "nothing can be done", "--device cpu rehearses", everything))
        for what, there, remedy in (
            ("Triton", has_package("triton"), "pip install triton"),
            ("a C compiler", has_compiler(), "install gcc, or name one in CC"),
        ):
            if not there:
                found.append(Missing(what, "nothing is compiled: eager rows and slower training", remedy))
    return found


# --- steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Something to run, and what it may take of the time that is left."""

    name: str
    argv: tuple[str, ...]
    """``{seconds}`` in it becomes what the step is given."""
    share: float
    """Of the time, among the shares of the steps that are still to come."""
    least: float = 0.0
    """Seconds under which it is not worth a start."""
    most: float = math.inf
    grace: float = 20.0
    """Seconds between SIGTERM and SIGKILL, of its own time; at most a quarter of it."""


@dataclass
class Outcome:
    """What became of a step."""

    name: str
    status: str = "skipped"
    """``done``; ``stopped`` cleanly at its limit, as training is; ``cut off`` there; ``killed`` there, since it did not heed SIGTERM;
    ``failed``; ``interrupted`` from outside; ``skipped``."""
    seconds: float = 0.0
    limit: float | None = None
    reason: str = ""
    files: list[str] = field(default_factory=list)


def plan(given: argparse.Namespace, eager: bool) -> list[Step]:
    """The steps of the day; those of the rehearsal are mostly imports, and take about as long as each other."""
    python, tiny = sys.executable, given.device == "cpu"
    words = ["--out", str(given.out), "--device", given.device, "--seconds", "{seconds}"]
    words += ["--data", str(given.data)] if given.data else []
    words += ["--test-data", str(given.test_data)] if given.test_data else []
    words += ["--weights", str(given.weights)] if given.weights else []
    words += ["--eager"] * eager + ["--tiny"] * tiny
    # The tests' own conftest.py wants all that the book is built with, and a newer library's warnings are no failures here.
    options = ["--noconftest", "-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider"]
    options += ["--continue-on-collection-errors", "-m", "cuda", "-q"] + ["--collect-only"] * tiny

    def package(name: str) -> tuple[str, ...]:
        return (python, str(ROOT / "scripts/bench/gpu_steps.py"), name, *words)

    def throughput(network: str) -> tuple[str, ...]:
        record = str(given.out / "records" / f"throughput-{network}.json")
        flags = ["--seconds", "5", *["--tiny"] * tiny, *["--eager"] * eager]
        script = str(ROOT / "scripts/bench/throughput.py")
        return (python, script, "--networks", network, "--out", record, *flags)

    tests = (python, "-m", "pytest", *options, *cuda_tests())
    if tiny:
        return [
            Step("cuda-tests", tests, 1.2, least=3, grace=2),
            Step("teacher", package("teacher"), 1.4, least=3, grace=2),
            Step("student", package("student"), 1.2, least=3, grace=2),
            Step("look", package("look"), 1.5, least=3, grace=2),
            Step("throughput", throughput("cifar10-small"), 1.2, least=3, grace=2),
            Step("full", package("full"), 1.0, least=3, grace=2),
        ]
    return [
        Step("cuda-tests", tests, 0.10, least=15, most=60, grace=3),
        Step("teacher", package("teacher"), 0.24, least=45),
        Step("student", package("student"), 0.12, least=45),
        Step("look", package("look"), 0.09, least=20, grace=5),
        Step("throughput", throughput("cifar10-small"), 0.17, least=45, grace=3),
        Step("full", package("full"), 0.20, least=45, grace=5),
        Step("throughput-full", throughput("cifar10"), 0.08, least=60, grace=3),
    ]


def cuda_tests() -> list[str]:
    """The files of tests that hold one with the marker; the others need not be imported."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(path) for path in files if "mark." + "cuda" in path.read_text(encoding="utf-8")]


def slot(steps: Sequence[Step], left: float) -> float:
    """Seconds for the first of these steps, of those that are left for all of them; 0 where they would not do."""
    first = steps[0]
    wanted = max(first.least, left * first.share / sum(step.share for step in steps))
    given = min(left, first.most, wanted)
    return given if given >= first.least else 0.0


def too_short(steps: Sequence[Step], left: float) -> str:
    """What is to be said beforehand of a time in which these steps cannot all start; "" where they can."""
    needed = sum(max(step.least, START) for step in steps) + reserve(left)
    if left >= needed:
        return ""
    return (
        f"short: {left:.0f} s, and to start the {len(steps)} steps takes about {needed:.0f} s: some will be cut off or skipped; "
        f"--minutes {math.ceil(needed / 6) / 10:g} would do"
    )


def reserve(seconds: float) -> float:
    """What is kept of the day's time for collecting."""
    return min(10.0, 1 + 0.05 * seconds)


class Day:
    """The steps, one after another, until a deadline.

    Args:
        out: folder of everything.
        seconds: for all of it, what is collected included.
        facts: what ``day.json`` says besides.
        blocked: why a step cannot be done here, by its name.
        environment: of the steps.
    """

    def __init__(
        self,
        out: Path,
        seconds: float,
        facts: dict[str, Any] | None = None,
        blocked: dict[str, str] | None = None,
        back: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.out, self.back = out, back or out / "back"
        self.deadline = time.monotonic() + seconds - reserve(seconds)
        self.facts, self.blocked = facts or {}, blocked or {}
        self.environment, self.signal = environment, 0
        self.outcomes: list[Outcome] = []
        for folder in (out / "logs", out / "records", out / "run", self.back):
            folder.mkdir(parents=True, exist_ok=True)

    def interrupt(self, number: int, frame: FrameType | None = None) -> None:
        """A signal's handler: the step under way is ended, the others are not begun."""
        self.signal = number

    def go(self, steps: Sequence[Step]) -> None:
        """All steps, and after each the account of the day."""
        self.collect()
        for i, step in enumerate(steps):
            to_come = [later for later in steps[i:] if later.name not in self.blocked]
            outcome = Outcome(step.name)
            if step.name in self.blocked:
                outcome.reason = self.blocked[step.name]
            elif self.signal:
                outcome.reason = f"the day was ended by {signal.Signals(self.signal).name}"
            else:
                left = max(0.0, self.deadline - time.monotonic())
                if seconds := slot(to_come, left):
                    print(f"{step.name}: {seconds:.0f} s of {left:.0f} s left", flush=True)
                    outcome = self.run(step, seconds)
                else:
                    outcome.reason = f"{left:.0f} s are left, and it needs at least {step.least:g} s"
            reason = f" ({outcome.reason})" * bool(outcome.reason)
            print(f"{step.name}: {outcome.status}, {outcome.seconds:.1f} s{reason}", flush=True)
            self.outcomes.append(outcome)
            self.collect()

    def run(self, step: Step, seconds: float) -> Outcome:
        """One step in a group of processes of its own: SIGTERM at its limit, SIGKILL after its grace."""
        log, before, start = self.out / "logs" / f"{step.name}.log", self.stamps(), time.monotonic()
        grace = min(step.grace, seconds / 4)
        argv = [word.replace("{seconds}", f"{seconds:.0f}") for word in step.argv]
        outcome = Outcome(step.name, limit=round(seconds, 1))
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(argv)}\n".encode())
            file.flush()
            try:
                process = subprocess.Popen(
                    argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                    env=self.environment, process_group=0,
                )  # fmt: skip
            except OSError as error:
                outcome.status, outcome.reason = "failed", f"it could not be started: {error}"
                return outcome
            asked, killed = 0.0, False
            try:
                while process.poll() is None:
                    now = time.monotonic()
                    if not asked and (self.signal or now - start > seconds - grace):
                        asked = now
                        process.terminate()
                    if asked and now - asked > grace:
                        killed = True
                        break
                    cut(log)
                    time.sleep(0.05)
            finally:
                with suppress(ProcessLookupError, PermissionError):  # with what it started and left behind
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        cut(log, LOG_MOST)
        outcome.seconds = round(time.monotonic() - start, 1)
        code = process.returncode
        if self.signal and asked:
            outcome.status, outcome.reason = "interrupted", f"by {signal.Signals(self.signal).name}"
        elif killed:
            outcome.status = "killed"
            outcome.reason = f"did not end within {grace:.0f} s of SIGTERM at its limit"
        elif asked and code:
            outcome.status = "cut off"
            said = last_line(log)
            work = f"at work on: {said}" if said else "before it had said anything"
            outcome.reason = f"at its limit, {work}; what it wrote by then is kept"
        elif asked:
            outcome.status, outcome.reason = "stopped", "cleanly, at its limit"
        else:
            outcome.status = "failed" if code else "done"
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            outcome.reason = f"{how}: {last_line(log) or 'it said nothing'}" if code else ""
        outcome.files = sorted(name for name, stamp in self.stamps().items() if before.get(name) != stamp)
        return outcome

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file that steps leave."""
        found = {}
        for folder in ("records", "run"):
            for path in (self.out / folder).rglob("*"):
                with suppress(OSError):
                    if path.is_file() and not path.name.startswith("."):
                        stat = path.stat()
                        found[path.relative_to(self.out).as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found

    def collect(self) -> None:
        """What there is, for whoever looks or takes over; a full disk ends no later step."""
        try:
            self._collect()
        except OSError as error:
            print(f"gpu_day: could not be collected: {error}", flush=True)

    def _collect(self) -> None:
        """day.json, and beside it in the folder that comes back what fits: logs, records, weights, pictures."""
        ends = []
        for path in sorted((self.out / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime_ns):
            ends.append(f"=== {path.name}\n{tail(path, LOG_KEPT)}\n")
        write(self.out / "logs.txt", "".join(ends))
        left_out, records = {}, {}
        for path in sorted((self.out / "records").glob("*.json")):
            try:
                records[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                left_out[path.name] = f"cannot be read: {error}"
        write(self.out / "records.json", json.dumps(records, indent=1))
        run = self.out / "run"
        pictures = sorted(run.glob("*.png"), key=lambda path: (path.name.startswith("teacher"), path.name))
        weights = [run / f"{role}.safetensors" for role in ("student", "teacher")]
        wanted = [self.out / "records.json", self.out / "logs.txt", *weights, *pictures]
        sizes = {path: path.stat().st_size for path in wanted if path.is_file()}
        taken, over = pack([(path.name, size) for path, size in sizes.items()])
        left_out |= over
        for path in sizes:
            if path.name in taken:
                temporary = self.back / f".{path.name}.tmp"
                shutil.copyfile(path, temporary)
                os.replace(temporary, self.back / path.name)
            else:
                (self.back / path.name).unlink(missing_ok=True)  # of an earlier look
        account = {
            **self.facts,
            "steps": [asdict(outcome) for outcome in self.outcomes],
            "back": ["day.json", *taken],
            "left_out": left_out,
        }
        for place in (self.out, self.back):
            write(place / "day.json", json.dumps(account, indent=1) + "\n")


def pack(sizes: Sequence[tuple[str, int]]) -> tuple[list[str], dict[str, str]]:
    """Which files come back beside day.json, of (name, bytes) in the order of their worth; and why the others do not."""
    taken: list[str] = []
    left_out, room = {}, TOGETHER - ROOM
    for name, size in sizes:
        if size > EACH:
            left_out[name] = f"{size / 2**20:.1f} MiB, and a file may have {EACH >> 20}"
        elif len(taken) == FILES - 1:
            left_out[name] = f"{FILES} files may come back"
        elif size > room:
            left_out[name] = f"{size / 2**20:.1f} MiB, and {room / 2**20:.1f} are left of {TOGETHER >> 20}"
        else:
            taken.append(name)
            room -= size
    return taken, left_out


def write(path: Path, text: str) -> None:
    """A file that is either whole or as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def tail(path: Path, most: int) -> str:
    """The end of a text, without what progress bars overwrote."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        text = file.read().decode(errors="replace")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.rstrip("\n").split("\n"))


def last_line(path: Path) -> str:
    """Of a log, for a reason: what the step itself has said last, and not the commands that it was started with."""
    latest = re.split(r"^\$ .*\n?", tail(path, 1 << 14), flags=re.MULTILINE)[-1]
    lines = [line for line in latest.splitlines() if line.strip() and not line.startswith("cdedu ")]
    return lines[-1].strip()[:300] if lines else ""


def cut(path: Path, most: int = LOG_MOST) -> None:
    """Keep the end of a log that grows too large; its writer appends."""
    if path.stat().st_size > most:
        end = tail(path, LOG_KEPT)
        with open(path, "r+b") as file:
            file.truncate(0)
        with open(path, "ab") as file:
            file.write(f"[the log grew over {most >> 20} MiB; this is its end]\n{end}\n".encode())


# --- the day -------------------------------------------------------------------------------------


def noise_zip(path: Path, each: int, seed: int) -> Path:
    """Pictures of noise, 32 × 32, in a folder for each class of CIFAR-10."""
    draw = Random(seed)
    head = b"BM" + struct.pack("<IHHI", 54 + 3072, 0, 0, 54)
    head += struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 24, 0, 3072, 2835, 2835, 0, 0)
    temporary = path.with_name(f".{path.name}.tmp")
    with zipfile.ZipFile(temporary, "w") as archive:
        for name in CLASSES:
            for i in range(each):
                archive.writestr(f"{name}/{i:04d}.bmp", head + draw.randbytes(3072))
    os.replace(temporary, path)
    return path


def environment(given: argparse.Namespace) -> dict[str, str]:
    """Of the steps: the package of this folder, and what is compiled or decoded once is there for the next step."""
    path = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        # Compiled once, not in every process: it is most of the time of an import.
        "PYTHONPYCACHEPREFIX": str(given.out / "cache" / "python"),
        "PYTHONDONTWRITEBYTECODE": "",
        "TORCHINDUCTOR_CACHE_DIR": str(given.out / "cache" / "inductor"),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
    }
    if given.data:
        more |= {"CDEDU_CACHE": str(given.out / "cache" / "data"), "HF_HUB_OFFLINE": "1"}
    if given.device == "cpu":
        more["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    return {**os.environ, **more}


def arguments() -> argparse.Namespace:
    """What was asked for, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True, help="time for everything")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for everything, including states"
    )
    parser.add_argument(
        "--back",
        type=Path,
        metavar="FOLDER",
        help="folder for what comes back; by default back/ inside --out",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses")
    parser.add_argument(
        "--data", type=Path, help="training images, a folder or zip; by default CIFAR-10 is downloaded"
    )
    parser.add_argument("--test-data", type=Path, help="held-out images; by default a tenth of the others")
    parser.add_argument(
        "--weights",
        type=Path,
        help="folder with teacher.safetensors (and student.safetensors) to continue from",
    )
    given = parser.parse_args()
    if not 0 < given.minutes < math.inf:
        parser.error(f"--minutes {given.minutes:g}: give the number of minutes you have")
    for name in ("data", "test_data", "weights"):
        path = getattr(given, name)
        if path is not None and not path.exists():
            parser.error(f"--{name.replace('_', '-')}: there is no {path}")
    if given.test_data and not given.data:
        parser.error("--test-data goes with --data")
    if given.weights and not (given.weights / "teacher.safetensors").is_file():
        parser.error(
            f"--weights: {given.weights} holds no teacher.safetensors; leave it out for the course's"
        )
    for name in ("out", "back", "data", "test_data", "weights"):  # the steps run elsewhere
        if getattr(given, name) is not None:
            setattr(given, name, getattr(given, name).resolve())
    try:
        for folder in filter(None, (given.out, given.back)):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot write there: {error}")
    return given


def main() -> None:
    """Say what is missing; run the day."""
    given, begun, clock = arguments(), time.time(), time.monotonic()
    lacking = missing(given.device, given.data is not None)
    for one in lacking:
        print(f"missing: {one.what}: {one.cost}; {one.remedy}")
    blocked: dict[str, str] = {}
    for one in lacking:
        for name in one.blocks:
            blocked.setdefault(name, f"needs {one.what}; {one.remedy}")
    if given.device == "cpu" and not given.data:
        given.data = noise_zip(given.out / "rehearsal-train.zip", 4, 0)
        given.test_data = noise_zip(given.out / "rehearsal-test.zip", 2, 1)
    eager = given.device == "cuda" and not (has_package("triton") and has_compiler())
    steps = plan(given, eager)
    if all(step.name in blocked for step in steps):
        raise SystemExit("gpu_day: nothing of it can be done on this machine; see above")
    facts = {
        "command": shlex.join(["python", "scripts/bench/gpu_day.py", *sys.argv[1:]]),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "minutes": given.minutes,
        "device": given.device,
        "rehearsal": given.device == "cpu",
        "missing": [asdict(one) for one in lacking],
    }
    left = 60 * given.minutes - (time.monotonic() - clock)  # a network that is away takes its time
    if short := too_short([step for step in steps if step.name not in blocked], left):
        print(short, flush=True)
    day = Day(given.out, left, facts, blocked, given.back, environment(given))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, day.interrupt)
    day.go(steps)
    print(f"{day.back}: {', '.join(sorted(path.name for path in day.back.iterdir()))}")
    if day.signal:
        raise SystemExit(128 + day.signal)
    if not any(outcome.status in ("done", "stopped") for outcome in day.outcomes):
        raise SystemExit("gpu_day: no step finished; see the logs")


if __name__ == "__main__":
    main()
