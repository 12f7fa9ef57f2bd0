"""The race's own side: send an entry into the sandbox, check the student that comes back, sample and measure it."""

import ast
import copy
import csv
import io
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import sklearn.datasets
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm.auto import tqdm

import cdedu
from cdedu.checkpoints import WEIGHTS
from cdedu.course.checks.core import _TooLong
from cdedu.course.grading.judge import Judge, Limits, Task, plain
from cdedu.course.grading.wire import Gone
from cdedu.course.race.inside import code_lines, seconds_of_one
from cdedu.data import load_data
from cdedu.evaluation.comparison import Row, Ruler
from cdedu.evaluation.protocol import Protocol, protocol_of
from cdedu.files import check_weights, replacing
from cdedu.limits import Range, Seed, check_ranges
from cdedu.methods.flow_map import FlowMap
from cdedu.recipes import get_recipe
from cdedu.samplers import sample_consistency
from cdedu.solvers import euler_step
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

BUDGET, LINES, BYTES = 24_000, 100, 20_000
"""Evaluations, lines of code and bytes of an entry."""
FREE, SLACK, MEMORY_MB = 3, 2.5, 2048
"""Processor seconds that every entry may use, how many times those of its evaluations on top, and its memory."""
METHODS = {p.stem: p for p in sorted((Path(__file__).parent / "methods").glob("[a-z]*.py"))}
"""The course's own entries, by name."""
_NAMES = ", ".join(sorted(METHODS))
HIDDEN = (str(WEIGHTS), str(Path(sklearn.datasets.__file__).parent / "data"))
"""Folders that an entry does not see: finished students and the ruler's classifier, and the digits with their test half."""


class EntryError(ValueError):
    """The entry gets no row; the text says why, where, and what to do, in one line that a terminal can show."""

    def __init__(self, text: str) -> None:
        super().__init__(plain(text, 1000))


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    name: str
    distance: dict[str, Row]
    """Steps → metrics over the ruler's draws."""
    evaluations: float
    seconds: float
    """Of processor time, as the kernel counts it."""
    lines: int
    printed: str = ""
    """The end of it, at most."""


def read_entry(path: Path | str) -> tuple[str, str]:
    """Name and text of an entry: a file, or one of :data:`METHODS`.

    Raises:
        EntryError: for what is too long, or is no Python.
        OSError: for what cannot be read.
    """
    known = METHODS.get(str(path))
    path = Path(path) if known is None else known
    if path.suffix != ".py":
        raise EntryError(f"{path} is no entry; give a file that ends in .py, or one of {_NAMES}")
    data = path.read_bytes()
    if len(data) > BYTES:
        raise EntryError(
            f"{path.name} has {len(data):,} bytes, and an entry {BYTES:,} at most; train inside the race, not before"
        )
    try:
        source = data.decode()
        lines = code_lines(source)
    except (UnicodeDecodeError, SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        why = " ".join(str(getattr(error, "msg", error)).split())
        raise EntryError(
            f"{path.name}{line}: it is no Python ({why:.200}); see that `python {path.name}` runs"
        ) from None
    if lines > LINES:
        raise EntryError(
            f"{path.name} has {lines} lines of code, and an entry {LINES} at most; leave out what does not train"
        )
    if private := private_names(source):
        line, name = private[0]
        raise EntryError(
            f"{path.name}, line {line}: `{name}` reaches behind what entries are given, past the meter for instance; use public names "
            "alone, as the course's methods do"
        )
    return path.name, source


_SPECIAL = {"__init__", "__call__", "__len__", "__getitem__", "__name__", "__file__"}
_BUILT_IN = "getattr setattr delattr vars globals locals exec eval compile __import__".split()
"""Refused as bare names: ``model.eval()`` is none of them."""
_DOORS = (
    "getattr setattr delattr vars globals locals importlib ctypes inspect gc operator builtins pickle pkgutil timeit runpy mock pdb "
    "attrgetter methodcaller tb_frame gi_frame f_back f_locals f_globals f_builtins"
).split()


def private_names(source: str) -> list[tuple[int, str]]:
    """Line and name wherever code reaches for a private attribute or module, or for a way to do so by a text. Names that the file gives
    to its own functions and variables are its own affair."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        doors = _DOORS if isinstance(node, ast.Attribute) else [*_DOORS, *_BUILT_IN]
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            names = [] if node.module == "__future__" else names
        elif isinstance(node, ast.Name):
            names = [node.id] if node.id in doors or node.id.startswith("__") else []
        private = (n for n in names if (n.startswith("_") and n not in _SPECIAL) or n in doors)
        found += [(getattr(node, "lineno", 0), name) for name in private]
    return sorted(found)


class Race:
    """Rules, sandbox and ruler, for as many entries as there are. Use it in a ``with`` statement.

    Args:
        budget: network evaluations of an entry.
        training_seed: of the generator that entries get.
        protocol: how students are measured, the standard by default; its sampling seeds are what an entry must not know.
        seconds: processor time of an entry that spends the whole budget; by default :data:`FREE` and :data:`SLACK` times what its
            evaluations take at the time. Who spends less has as much less.
        own_risk: race also where nothing but Python's own hooks holds entries back.

    Raises:
        OSError: if entries cannot be held back here and ``own_risk`` is not set.
    """

    def __init__(
        self,
        budget: int = BUDGET,
        training_seed: int = 0,
        protocol: Protocol | None = None,
        seconds: int | None = None,
        own_risk: bool = False,
    ) -> None:
        rules = _Rules(budget, training_seed, 1 if seconds is None else seconds)
        check_ranges(rules, lambda field: field.replace("_", " "))
        self.recipe = get_recipe("digits")
        self.data = load_data(self.recipe.data)
        self.teacher: Teacher = cdedu.load("digits-teacher")
        self.ruler, self.budget = Ruler(self.data, protocol=protocol or protocol_of(self.data)), budget
        self.training_seed = training_seed
        self._weights = torch.frombuffer(
            bytearray(save(self.teacher.network.state_dict())), dtype=torch.uint8
        )
        one = min(seconds_of_one(self._weights, [*self.ruler.shape]) for _ in range(2))
        self._own = max(0.0, seconds - FREE) / budget if seconds else 0.0
        # Twice what is allowed in the end: a machine that grows busy makes evaluations dearer, for all.
        self.seconds = seconds or math.ceil(FREE + 2 * SLACK * budget * one)
        limits = Limits(
            wall_seconds=min(86_400, 20 * self.seconds), cpu_seconds=self.seconds, memory_mb=MEMORY_MB
        )
        self.judge = Judge(Task((), given=(("race", _IMPORTS),), limits=limits), own_risk)

    def __enter__(self) -> "Race":
        return self

    def __exit__(self, *_: object) -> None:
        self.judge.close()

    def enter(self, path: Path | str) -> Entry:
        """The row of one entry.

        Raises:
            EntryError: with the reason, where there is none.
        """
        name, source = read_entry(path)
        found = self.train(name, source)
        student, levels = self.student(name, found)
        label = name.removesuffix(".py")
        try:
            distance = self.measure(student, levels)
        except ValueError as error:
            raise EntryError(
                f"{name}: its samples cannot be measured ({error}); a lower learning rate may help"
            ) from None
        row = distance, found["evaluations"], found["seconds"]
        return Entry(label, *row, code_lines(source), found["printed"])

    def train(self, name: str, source: str) -> dict[str, Any]:
        """What the entry's process says that it made: of this nothing is believed."""
        limits, account, one = self.judge.task.limits, list[float](), 0.0
        with self.judge.sandbox(account, hidden=HIDDEN, cpu_seconds=self.seconds, processes=1) as peer:
            peer.deadline = time.monotonic() + limits.wall_seconds
            try:
                outcome = peer.request(
                    "run", "race", "from cdedu.course.race.inside import race, seconds_of_one", 60, 120
                )
                if outcome:
                    raise EntryError(f"{name}: the race does not start ({outcome})")
                inside = peer.request("answers", ["race", "seconds_of_one"], self.training_seed)
                # It has no entry yet, so that this much of what it says is true.
                one = float(inside["seconds_of_one"](self._weights, [*self.ruler.shape]))
                found = inside["race"](
                    name, source, self._weights, self.data.train, float(self.budget), self.training_seed
                )
            except _TooLong:
                raise EntryError(f"{name}: took more than {limits.wall_seconds} seconds") from None
            except Gone as gone:
                raise EntryError(f"{name}: its process ended ({_ending(gone, self.seconds)})") from None
            except EntryError:
                raise
            except Exception as error:  # whatever the other side says
                raise EntryError(f"{name}: {' '.join(str(error).split())[:300]}") from None
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise EntryError(f"{name}: its process sent something else than a result")
        printed = str(found.get("printed", "")).splitlines()[-20:]
        found["printed"] = "\n".join(plain(line, 200) for line in printed)
        if "error" in found:
            last = " / ".join(found["printed"].splitlines()[-3:])
            raise EntryError(
                f"{name}: {str(found['error'])[:600]}" + f" (it printed last: {last})" * bool(last)
            )
        if not isinstance(found.get("evaluations"), float) or not 0 <= found["evaluations"] < 1e12:
            raise EntryError(
                f"{name}: evaluations = {str(found.get('evaluations'))[:60]}, but it is a number"
            )
        if found["evaluations"] > 1.05 * self.budget:
            raise EntryError(
                f"{name}: spent {found['evaluations']:,.0f} evaluations of {self.budget:,}; stop with the loop over the budget"
            )
        if not account:
            raise EntryError(f"{name}: the kernel does not say how long its process computed; race it again")
        found["seconds"], found["seconds_of_one"] = account[0], one
        if account[0] > self.allowed(found["evaluations"], one):
            raise EntryError(
                f"{name}: its process computed for {account[0]:.1f} seconds, but its {found['evaluations']:,.0f} evaluations take "
                f"{found['evaluations'] * one:.1f}, and {self.allowed(found['evaluations'], one):.1f} are the most; train in larger batches, "
                "and compute less beside the networks"
            )
        return found

    def allowed(self, evaluations: float, one: float) -> float:
        """Processor seconds that an entry may use for its evaluations, of which one takes ``one``. So whoever gets around the meter gains
        little: the kernel counts these."""
        return FREE + evaluations * max(SLACK * one, self._own)

    def student(self, name: str, found: dict[str, Any]) -> tuple[nn.Module, tuple[float, float]]:
        """The student of a result, built anew from the teacher with the weights that came, and its two noise levels.

        Raises:
            EntryError: for one of another kind or size, or weights that are no numbers.
        """
        makers = {
            "ConsistencyModel": ConsistencyModel.from_teacher,
            "Teacher": copy.deepcopy,
            "FlowMap": FlowMap.from_teacher,
        }
        kind = str(found.get("kind"))[:60]
        if kind not in makers or not isinstance(found.get("weights"), Tensor):
            raise EntryError(
                f"{name}: train returned a {kind}; return a {', '.join(makers)}, or that and two noise levels; of an average, its .module"
            )
        student: nn.Module = makers[kind](self.teacher)
        for key in ("sigma_data", "sigma_min", "noise_scale", "angle"):
            given = found.get(key)
            if not isinstance(given, float | int | None) or given != getattr(student, key, None):
                raise EntryError(
                    f"{name}: the student's {key} is {str(given)[:60]}, the race's {getattr(student, key, None)}; begin with "
                    "ConsistencyModel.from_teacher(teacher)"
                )
        wanted = student.state_dict()
        try:
            weights = load(found["weights"].to(torch.uint8).numpy().tobytes())
        except Exception as error:  # a damaged file can raise anything
            raise EntryError(f"{name}: its weights cannot be read ({str(error)[:100]})") from None
        for key in sorted({*wanted, *weights}):
            own, theirs = (
                f"shape {tuple(t[key].shape)}" if key in t else "no such part" for t in (wanted, weights)
            )
            if own != theirs:
                raise EntryError(
                    f"{name}: {key[:80]} has {theirs} in the student and {own} in the teacher; every student has the teacher's network, "
                    "so begin with ConsistencyModel.from_teacher(teacher)"
                )
        try:
            check_weights(weights)
        except ValueError as error:
            raise EntryError(f"{name}: {error}; a lower learning rate may help") from None
        student.load_state_dict(weights)
        return student.eval().requires_grad_(False), self._levels(name, found.get("levels"))

    def _levels(self, name: str, given: Any) -> tuple[float, float]:
        if given is None:
            return self.recipe.student_sigmas(2)  # type: ignore[return-value]
        low, high = self.recipe.sigma_min, self.recipe.sigma_max
        numbers = [x for x in given if isinstance(x, float)] if isinstance(given, list) else []
        if len(numbers) != 2 or len(given) != 2 or not high >= numbers[0] > numbers[1] > low:
            raise EntryError(
                f"{name}: the levels are {str(given)[:100]}, but they are two, falling, at most {high:g} and above {low:g}, such as (80.0, 0.8)"
            )
        return numbers[0], numbers[1]

    @torch.no_grad()
    def measure(
        self, student: nn.Module, levels: Sequence[float], steps: Sequence[int] = (1, 2)
    ) -> dict[str, Row]:
        """The student in one evaluation and in two, over the ruler's draws.

        Raises:
            ValueError: for samples that are no numbers, or far from all pictures.
        """

        def draw(generator: torch.Generator, steps: int) -> Tensor:
            x = levels[0] * torch.randn((self.ruler.n, *self.ruler.shape), generator=generator)
            x = walk(student, x, levels[:steps], generator)
            if not x.isfinite().all():
                raise ValueError("they hold NaN or infinity")
            return x

        return {str(k): self.ruler.over_seeds(partial(draw, steps=k)) for k in steps}

    def scale(self) -> dict[str, float]:
        """What the distances of a table are to be read against: real digits, and in one step the start of every student."""
        start = self.measure(ConsistencyModel.from_teacher(self.teacher), (self.recipe.sigma_max,), (1,))
        floor = self.ruler.floor()
        return {
            "other real digits": floor["fd"]["median"],
            "a student before training": start["1"]["fd"]["median"],
        }


_IMPORTS = """
import torch, cdedu.training, cdedu.methods.adversarial, cdedu.methods.dmd, cdedu.methods.progressive, cdedu.methods.flow_map
from cdedu.course.race.inside import race
from cdedu.recipes import recipes
recipes["digits"].network.build((1, 8, 8))(torch.zeros(1, 1, 8, 8), torch.zeros(1)).sum().backward()
torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))
torch.optim.RAdam([torch.zeros(1)])
"""
"""What all entries need, run once in the process from which theirs are forked."""


@dataclass(frozen=True)
class _Rules:
    budget: Annotated[int, Range(100, 10**8)]
    training_seed: Seed
    seconds: Annotated[int, Range(1, 86_400)]


def walk(student: nn.Module, x: Tensor, levels: Sequence[float], generator: torch.Generator) -> Tensor:
    """How each kind of student samples, with one evaluation a level: a consistency model by noise between its jumps; a denoiser by Euler
    steps, the last to 0; a flow map by jumps from level to level."""
    if isinstance(student, ConsistencyModel):
        return sample_consistency(student, x, levels, generator)
    for sigma, lower in zip(levels, (*levels[1:], 0.0), strict=True):
        x = (
            student(x, sigma, max(lower, student.sigma_min))
            if isinstance(student, FlowMap)
            else euler_step(student, x, sigma, lower)
        )
    return x


def found_in(places: Sequence[str]) -> list[str]:
    """Files, names of methods, and the files of folders, in order.

    Raises:
        ValueError: for nothing, an empty folder, or what does not exist.
    """
    out: list[str] = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            files = sorted(str(p) for p in path.glob("*.py") if not p.name.startswith((".", "_")))
            if not files:
                raise ValueError(
                    f"there is no entry in {place}; put files there that end in .py and define train"
                )
            out += files
        elif path.is_file() or place in METHODS:
            out.append(place)
        else:
            raise ValueError(f"there is no {place}; give a file, a folder of files, or one of {_NAMES}")
    if not out:
        raise ValueError(f"no entry is given; give a file, a folder of files, or one of {_NAMES}")
    return out


def run(
    race: Race, places: Sequence[str], jobs: int = 1, out: Path | None = None
) -> tuple[list[Entry], dict[str, str]]:
    """Race many entries; the rows, and for those without one the reason.

    Args:
        places: as for :func:`found_in`.
        jobs: how many at once.
        out: a CSV file, written anew after each entry.
    """
    rows, refused = list[Entry](), dict[str, str]()

    def one(place: str) -> None:
        try:
            rows.append(race.enter(place))
        except EntryError as error:
            refused[place] = str(error)
        if out is not None:
            with lock:
                _write(out, rows, refused)

    lock, names = threading.Lock(), found_in(places)
    if jobs == 1:  # so that Ctrl-C is heard at once
        for name in tqdm(names, unit="entry"):
            one(name)
        return rows, refused
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in tqdm(
                as_completed([pool.submit(one, name) for name in names]), total=len(names), unit="entry"
            ):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return rows, refused


def _write(path: Path, rows: Sequence[Entry], refused: dict[str, str]) -> None:
    """The table for a spreadsheet."""
    text = io.StringIO()
    heads = [f"fd_{k}_{m}" for k in ("1", "2") for m in ("median", "min", "max")]
    file = csv.writer(text)
    file.writerow(["entry", *heads, "evaluations", "seconds", "lines", "reason"])
    for row in sorted(rows, key=lambda row: row.distance["1"]["fd"]["median"]):
        numbers = [row.distance[k]["fd"][m] for k in ("1", "2") for m in ("median", "min", "max")]
        file.writerow(
            [
                row.name,
                *(f"{x:.2f}" for x in numbers),
                round(row.evaluations),
                round(row.seconds),
                row.lines,
                "",
            ]
        )
    for name, reason in refused.items():
        file.writerow([Path(name).stem, *[""] * (len(heads) + 3), reason])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8-sig")


def table(rows: Sequence[Entry], key: str = "fd") -> str:
    """The rows as a Markdown table, best in one step first."""
    lines = [
        "| entry | distance, 1 step | 2 steps | evaluations | seconds | lines |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row.distance["1"][key]["median"]):
        cells = [
            f"{m['median']:.1f} ({m['min']:.1f} to {m['max']:.1f})"
            for m in (row.distance[k][key] for k in ("1", "2"))
        ]
        lines.append(
            f"| {row.name} | {' | '.join(cells)} | {row.evaluations:,.0f} | {row.seconds:.0f} | {row.lines} |"
        )
    return "\n".join(lines)


def _ending(gone: Gone, seconds: int) -> str:
    name = getattr(gone.signal, "name", "")
    if name in ("SIGXCPU", "SIGKILL"):
        return f"after {seconds} seconds of computing, the most that an entry may use, or for want of memory; train less, or in larger batches"
    return str(gone)[:200] or name or "it said nothing more"
