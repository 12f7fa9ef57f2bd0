"""Results records: one JSON file per run. Every number in the book comes from one."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cdedu.files import regular, replacing


def write_record(
    path: str | Path,
    *,
    metrics: dict[str, Any],
    command: str,
    recipe: dict[str, Any] | None = None,
    seed: int | None = None,
    data: dict[str, Any] | None = None,
    seconds: float | None = None,
    device: str = "cpu",
    **more: Any,
) -> Path:
    """Write measurements together with everything they depend on: recipe, seed, commit, data, hardware, versions, date.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    record = {
        "name": path.stem,
        "command": command,
        "recipe": recipe,
        "seed": seed,
        "commit": commit(),
        "data": data,
        "hardware": hardware(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds, 1),
        "peak_memory_mb": peak_memory_mb(),
        **more,
        "metrics": metrics,
    }
    with replacing(path) as temporary:
        temporary.write_text(to_json(record) + "\n", encoding="utf-8")
    return path


def to_json(value: Any, depth: int = 0) -> str:
    """JSON for people: what holds only plain values takes one line."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if not any(isinstance(part, dict | list | tuple) for part in parts):
        return json.dumps(value)
    inner = [to_json(part, depth + 1) for part in parts]
    if isinstance(value, dict):
        names = [key if isinstance(key, str) else json.dumps(key) for key in value]
        inner = [f"{json.dumps(name)}: {text}" for name, text in zip(names, inner, strict=True)]
    space = "\n" + " " * depth
    start, end = "{}" if isinstance(value, dict) else "[]"
    return start + ",".join(f"{space} {text}" for text in inner) + space + end


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a record written by :func:`write_record`.

    Raises:
        FileNotFoundError, ValueError: if there is no valid record, naming the file.
    """
    try:
        record = json.loads(regular(path, "record").read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not (isinstance(record.get("metrics"), dict) or "runs" in record):
            raise ValueError("it has no table of metrics")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no results record, such as `cdedu evaluate` leaves: {error}") from None
    return record


CONDITIONS = {"settings": "other settings", "protocol": "another protocol", "weights": "other weights"}
"""What all runs of a study have in common; of weights, those that it begins with."""


class Study:
    """The runs of a study. Each is saved in the record as soon as it finishes, so a restarted study continues from there.

    ::

        study = Study("results/grid.json", "python scripts/studies/grid.py")
        for n in (9, 18, 36):
            value = study.run(f"toy/{n}", lambda: distance_after_training(n))
            study.write({...})

    Args:
        path: of the record.
        command: the command that reproduces it.
        afresh: start over, whatever the record holds.
        **fixed: fields of the record, as in :func:`write_record`; ``settings``, ``protocol`` and ``weights`` must stay the same when a
        study continues.

    Raises:
        ValueError: if the record was made with other settings, another protocol or other weights.
    """

    def __init__(self, path: str | Path, command: str, *, afresh: bool = False, **fixed: Any) -> None:
        self.path, self.command, self.fixed = Path(path), command, fixed
        old = read_record(path) if self.path.is_file() and not afresh else {}
        for field, other in CONDITIONS.items():
            own = field == "weights" and field not in fixed  # made by the study
            if old and not own and old.get(field) != json.loads(json.dumps(fixed.get(field))):
                raise ValueError(f"{path} was made with {other}; go on with the old ones, or begin afresh")
        self.runs: dict[str, Any] = old.get("runs", {})
        self.metrics: dict[str, Any] = old.get("metrics", {})
        self._before, self._start = old.get("seconds") or 0.0, time.perf_counter()

    def run(self, key: str, function: Callable[[], Any]) -> Any:
        """The result of ``function()`` for the run ``key``, computed now or saved earlier: plain numbers, lists and dictionaries."""
        if key not in self.runs:
            self.runs[key] = function()
            self.write(self.metrics)
        return self.runs[key]

    def write(self, metrics: dict[str, Any]) -> Path:
        """Write the record, with these metrics and all runs so far."""
        self.metrics, seconds = metrics, self._before + time.perf_counter() - self._start
        return write_record(
            self.path, metrics=metrics, command=self.command, seconds=seconds, runs=self.runs, **self.fixed
        )


def hardware(device: str = "cpu") -> dict[str, Any]:
    """The hardware that the numbers were measured on."""
    facts: dict[str, Any] = {"device": device, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts["cpu"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        facts["cpu"] = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def commit() -> str | None:
    """The commit of the working tree, with a ``+`` if package or scripts differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + "+" * bool(git("status", "--porcelain", "--", "cdedu", "scripts"))
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_mb() -> int | None:
    """This process's peak memory, in MB; None if the system doesn't say, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
