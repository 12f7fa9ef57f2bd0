"""Two real processes through torchrun, and runs that are killed: the weights are those of one undisturbed process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cdedu import checkpoints, cli
from cdedu.evaluation import comparison

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
WORDS = "toy --max-steps 30 --block 128 --device cpu".split()
ENV = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["cdedu", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    return call


def two(*words: object) -> str:
    """The command line in two processes, with one thread each."""
    done = subprocess.run(
        [*TORCHRUN, "-m", "cdedu.cli", *map(str, words)],
        env=ENV | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def until(ready, what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.02)


def records(role: str) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(Path("results/runs").glob(f"toy-{role}-*.json"))]


def step_of(path: Path) -> int:
    return checkpoints.read_tensors(path)[1]["step"] if path.is_file() else 0


def difference(a: str, b: str) -> float:
    x, y = checkpoints.read_tensors(a)[0], checkpoints.read_tensors(b)[0]
    assert x.keys() == y.keys()
    return max(
        float((x[k] - y[k]).norm() / y[k].norm().clamp(min=1e-12)) for k in x if x[k].is_floating_point()
    )


def test_two_processes_give_the_weights_of_one(call):
    """Teacher and student; then a run of two processes that one process goes on with."""
    one = call("train", *WORDS, "--out", "one")
    both = two("train", *WORDS, "--out", "two")
    assert one.count("record:") == both.count("record:") == 1, "only one process writes"
    assert [r["runtime"]["processes"] for r in records("teacher")] == [1, 2]
    assert difference("one/teacher.safetensors", "two/teacher.safetensors") < 1e-4

    distil = ["distill", *WORDS, "--teacher", "one/teacher.safetensors"]
    call(*distil, "--out", "one")
    two(*distil, "--out", "two")
    assert [r["runtime"]["processes"] for r in records("student")] == [1, 2]
    assert difference("one/student.safetensors", "two/student.safetensors") < 1e-4

    longer = [*distil, "--max-steps", 40, "--resume"]
    call(*longer, "--out", "two")
    call(*longer, "--out", "one")
    assert difference("one/student.safetensors", "two/student.safetensors") < 1e-4
    assert records("student")[-1]["resumed_at"] == 30


FULL = """
import os, sys
import torch
from cdedu import cli, training
from cdedu.evaluation import comparison

class Full(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()
    @staticmethod
    def backward(_, grad):
        raise torch.OutOfMemoryError("CUDA out of memory")

loss = training.denoising_loss
def limited(*args, **kwargs):
    out = loss(*args, **kwargs)
    return Full.apply(out) if os.environ["RANK"] == "1" and len(out) > 64 else out

training.denoising_loss, comparison.BATCH = limited, 60
for words in sys.argv[1].split(";"):
    sys.argv = ["cdedu", *words.split()]
    cli.main()
"""


def test_memory_that_runs_out_in_one_process_halves_the_parts_of_both_and_samples_are_shared(
    call, tmp_path, monkeypatch
):
    """The second process has no room for its 256 samples, inside backward, where the first would wait for its gradients."""
    (tmp_path / "full.py").write_text(FULL)
    words = "train toy --max-steps 4 --block 64 --device cpu"
    measure = "evaluate toy --samples 250 --seeds 2 --trial True --device cpu --results"
    done = subprocess.run(
        [*TORCHRUN, "full.py", f"{words} --out two;{measure} shared"],
        env=ENV | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("memory ran out")] == [
        f"memory ran out with {n} samples at once; continuing with {n // 2}, the batch stays the same"
        for n in (256, 128)
    ]
    assert records("teacher")[0]["runtime"]["micro_batch"] == 64
    call(*words.split(), "--out", "one")
    assert difference("one/teacher.safetensors", "two/teacher.safetensors") < 1e-5
    monkeypatch.setattr(comparison, "BATCH", 60)
    call(*measure.split(), "alone")
    shared, alone = (json.loads(next(Path(name).iterdir()).read_text()) for name in ("shared", "alone"))
    assert shared["runtime"]["processes"] == 2 and done.stdout.count("record: shared") == 1
    for name, row in alone["metrics"]["samplers"].items():
        assert shared["metrics"]["samplers"][name]["sw"] == pytest.approx(row["sw"], rel=1e-4)


@pytest.mark.weekly
def test_sigterm_to_torchrun_leaves_a_state_from_which_one_process_goes_on(call, tmp_path):
    log, state = tmp_path / "log", tmp_path / "run" / "teacher.state.safetensors"
    words = ["train", "toy", "--block", "128", "--device", "cpu", "--out", "run"]
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*TORCHRUN, "-m", "cdedu.cli", *words, "--max-steps", "1000000"],
            env=ENV | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file, cwd=tmp_path,
        )  # fmt: skip
        try:
            until(lambda: "/1000000 [" in log.read_text(), "progress")
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) != 0
        finally:
            process.kill()
    step = step_of(state)
    assert step > 0 and f"stopped after step {step}; add --resume to continue" in log.read_text()
    assert [p.name for p in state.parent.glob("[!.]*")] == [state.name]
    call(*words, "--max-steps", step + 2, "--resume")
    assert records("teacher")[0]["resumed_at"] == step


KILLED = """
import sys, time
from cdedu import cli, runs
runs.SAVE_EVERY, runs.SAVING_SHARE = -1.0, 1e9
function = cli.train_teacher
def slow(*args, **kwargs):
    for state in function(*args, **kwargs):
        yield state
        time.sleep(0.02)
cli.train_teacher = slow
cli.main()
"""


def test_kill_9_and_resume_end_where_an_undisturbed_run_does(call, tmp_path):
    words = ["train", "toy", "--max-steps", "100", "--batch", "64", "--device", "cpu"]
    state = tmp_path / "parts" / "teacher.state.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *words, "--out", "parts"],
        env=ENV | {"OMP_NUM_THREADS": str(torch.get_num_threads())}, stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    try:
        until(lambda: step_of(state) >= 10, "checkpoint")
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    step = step_of(state)
    assert 10 <= step < 100 and not (tmp_path / "parts" / "teacher.safetensors").exists()
    call(*words, "--out", "parts", "--resume")
    call(*words, "--out", "whole")
    for name in ("teacher.safetensors", "teacher.state.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [r["resumed_at"] for r in records("teacher")] == [step, None]
