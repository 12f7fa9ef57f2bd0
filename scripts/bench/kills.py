"""Runs that are killed at random moments: `python scripts/bench/kills.py [--kills 100] [--seed 0]`.

Trains, distills and exports a tiny recipe, and kills the process again and again with signal 9: between two steps, while a state is
written, renamed or linked, while results are recorded. After each kill, every file under a final name must be complete and the newest
state no older than before; then the command continues with `--resume`. Its result must equal, byte by byte, that of a run that was never
killed. Prints the count, and exits with 1 if anything is lost. It forks, so it runs on Linux and macOS.
"""

import argparse
import contextlib
import io
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from tqdm.auto import tqdm

from cdedu import cli, runs
from cdedu.checkpoints import load, read_tensors

FAST = "toy --max-steps 12 --batch 32 --device cpu --results results".split()
JOBS = {
    "train": ["train", *FAST, "--out"],
    "distill": ["distill", *FAST, "--teacher", "whole/train/teacher.safetensors", "--out"],
    "export": ["export", "digits-student"],
}
"""Command lines that lack the folder to write into. Each is first run whole, in this order, into
``whole/<name>``, and then killed in ``<number>/<name>``: a model card names its folder."""


def call(words: list[str]) -> int:
    """The command line in a child of this process, which has imported everything; its number."""
    child = os.fork()
    if child:
        return child
    code: int | str | None = 1
    try:
        out, said = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            sys.argv = ["cdedu", *words]
            runs.SAVE_EVERY, runs.SAVING_SHARE = -1.0, 1e9  # a state after every step
            cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
        if code:
            said.flush()
            Path("said").write_bytes(said.buffer.getvalue())
    except BaseException:
        Path("said").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code if isinstance(code, int) else 1 if code else 0)


def finished(words: list[str]) -> None:
    """The same, to its end."""
    status = os.waitpid(call(words), 0)[1]
    if status:
        raise SystemExit(f"kills: {' '.join(words)} failed:\n{Path('said').read_text(encoding='utf-8')}")


def killed(words: list[str], after: float) -> bool:
    """The same, killed after so many seconds; False if it had ended by then."""
    child, end = call(words), time.monotonic() + after
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def whole(folder: Path) -> int:
    """The step of the newest state in a folder, 0 where there is none; whatever has a final name must load."""
    step = 0
    for path in folder.glob("*.safetensors"):
        if ".state." not in path.name:
            load(path)
        else:
            step = max(step, int(read_tensors(path)[1]["step"]))
    return step


def contents(folder: Path) -> dict[str, bytes]:
    """What a folder holds, but for temporary files and what says the time."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if not f.name.startswith(".")}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="how often to kill, 100 by default")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, and when; 0 by default")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chance, kills, lost = random.Random(asked.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        jobs = {}
        for name, words in JOBS.items():
            start = time.monotonic()
            finished([*words, f"whole/{name}"])
            jobs[name] = words, time.monotonic() - start
        with tqdm(total=asked.kills, desc="kills") as bar:
            for name in itertools.cycle(jobs):
                if kills.total() == asked.kills:
                    break
                (words, seconds), out, before = jobs[name], Path(f"{kills.total()}/{name}"), 0
                for _ in range(min(chance.randint(1, 3), asked.kills - kills.total())):
                    if not killed([*words, str(out)], chance.uniform(0, seconds)):
                        break
                    kills[name] += 1
                    bar.update()
                    if name == "export":
                        continue
                    step = whole(out)
                    if step < before:
                        lost += 1
                        print(f"{name}: step {step} after a kill, {before} before it")
                    before = step
                    if step and words[-2] != "--resume":
                        words = [*words[:-1], "--resume", "--out"]
                done = whole(out) == 12 if name != "export" else (out / "model_index.json").is_file()
                if not done:
                    finished([*words, str(out)])
                here, there = contents(out), contents(Path(f"whole/{name}"))
                # How often a run was saved decides what the state before the last is.
                here, there = ({k: v for k, v in c.items() if "previous" not in k} for c in (here, there))
                if here != there:
                    lost += 1
                    differ = [k for k in {*here, *there} if here.get(k) != there.get(k)]
                    print(f"{name}: {', '.join(sorted(differ))} differ from the uninterrupted run's")
        os.chdir("/")
    print(f"{kills.total()} kills ({', '.join(f'{n} of {k}' for k, n in kills.items())}), {lost} losses")
    raise SystemExit(lost > 0)


if __name__ == "__main__":
    main()
