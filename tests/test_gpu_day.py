"""One lease of a GPU: what is missing is named, time is shared out, no step takes another down, and what comes back fits and loads."""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import conftest
import pytest
import torch
from torch import nn

from cdedu import checkpoints
from cdedu.data import images, pictures
from cdedu.losses import denoising_loss, distillation_loss
from cdedu.records import read_record
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill, train_teacher
from scripts.bench import gpu_day, gpu_steps, throughput
from scripts.bench.gpu_day import Day, Step, pack, slot

ROOT = Path(__file__).resolve().parents[1]
MiB = 1 << 20
CPU = torch.device("cpu")


def sh(name: str, command: str, share: float = 1.0, **more) -> Step:
    return Step(name, ("sh", "-c", command), share, **more)


# --- time ----------------------------------------------------------------------------------------


def test_time_is_shared_by_shares_and_what_is_left_goes_to_the_later_steps():
    steps = [sh("a", "", 1), sh("b", "", 2), sh("c", "", 1, most=10)]
    assert slot(steps, 100) == 25
    assert slot(steps[1:], 98) == pytest.approx(2 / 3 * 98)  # after a step that took 2 s in place of 25
    assert slot(steps[2:], 50) == 10
    assert slot([sh("a", "", 1, least=30), *steps[1:]], 60) == 30  # more than its share, or nothing of it
    assert slot([sh("a", "", 1, least=30), *steps[1:]], 29) == 0


@pytest.mark.parametrize("minutes", [2, 5, 9, 15])
def test_slots_never_take_more_than_there_is_even_if_every_step_takes_all_of_its_own(minutes):
    given = Namespace(out=Path("day"), device="cuda", data=None, test_data=None, weights=None)
    steps, left, taken = gpu_day.plan(given, eager=False), 60.0 * minutes, {}
    for i, step in enumerate(steps):
        taken[step.name] = slot(steps[i:], left)
        assert not 0 < taken[step.name] < step.least and taken[step.name] <= step.most
        left -= taken[step.name]
    assert left >= -1e-9
    if minutes == 9:
        training = taken["teacher"] + taken["student"] + taken["look"]
        assert 0.4 < training / 540 < 0.6 and taken["teacher"] / taken["student"] == pytest.approx(
            2, rel=0.01
        )
        assert all(taken[name] for name in ("cuda-tests", "throughput", "full"))


# --- what steps do to each other ------------------------------------------------------------------


def outcomes(day: Day) -> dict[str, dict]:
    account = json.loads((day.out / "day.json").read_text())
    assert account == json.loads((day.back / "day.json").read_text())
    return {step["name"]: step for step in account["steps"]}


def test_a_step_that_fails_hangs_or_floods_takes_no_other_down(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_day, "LOG_MOST", 1 << 16)
    monkeypatch.setattr(gpu_day, "LOG_KEPT", 1 << 12)
    records, start = tmp_path / "records", time.monotonic()
    day = Day(tmp_path, 10, {"minutes": 1 / 6}, {"blocked": "needs a GPU"})
    day.go([
        sh("fails", f"echo '{{\"a\": 1}}' >{records}/fails.json; echo oh no >&2; exit 3"),
        sh("stubborn", "trap '' TERM; sleep 61.25 & while :; do sleep 0.05; done", most=1.0, grace=0.3),
        sh("floods", "echo begin; yes | head -c 3000000; echo the end", most=5.0),
        sh("clean", "trap 'echo saved; exit 0' TERM; while :; do sleep 0.05; done", most=0.8),
        Step("absent", ("/no/such/program",), 1.0),
        sh("blocked", "exit 0"),
        sh("too long", "exit 0", least=1000),
        sh("last", "sleep 0.1; echo fine"),
    ])  # fmt: skip
    assert time.monotonic() - start < 10
    found = outcomes(day)
    status = {name: step["status"] for name, step in found.items()}
    assert status == {"fails": "failed", "stubborn": "killed", "floods": "done", "clean": "stopped", "absent": "failed",
                      "blocked": "skipped", "too long": "skipped", "last": "done"}  # fmt: skip
    assert found["fails"]["reason"] == "exit code 3: oh no" and found["fails"]["files"] == [
        "records/fails.json"
    ]
    assert "SIGTERM" in found["stubborn"]["reason"] and found["stubborn"]["seconds"] < 2
    assert found["blocked"]["reason"] == "needs a GPU" and "at least 1000 s" in found["too long"]["reason"]
    log = (tmp_path / "logs" / "floods.log").read_text()
    assert log.endswith("the end\n") and len(log) < 1 << 16
    assert "saved" in (day.back / "logs.txt").read_text()
    assert json.loads((day.back / "records.json").read_text()) == {"fails": {"a": 1}}
    running = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            running += path.read_bytes()
    assert b"trap '' TERM" not in running and b"61.25" not in running  # what it started is gone, too


def test_an_interrupted_day_ends_its_step_cleanly_and_collects(tmp_path):
    day = Day(tmp_path, 60)
    timer = threading.Timer(0.5, day.interrupt, (signal.SIGTERM,))
    timer.start()
    (tmp_path / "run" / "teacher.safetensors").write_bytes(b"w")
    (tmp_path / "run" / "teacher.state.safetensors").write_bytes(b"s")
    start = time.monotonic()
    day.go([sh("a", "trap 'exit 0' TERM; while :; do sleep 0.05; done"), sh("b", "exit 0")])
    assert time.monotonic() - start < 10
    found = outcomes(day)
    assert found["a"]["status"] == "interrupted" and found["b"]["status"] == "skipped"
    assert "SIGTERM" in found["b"]["reason"]
    assert {path.name for path in day.back.iterdir()} == {
        "day.json",
        "logs.txt",
        "records.json",
        "teacher.safetensors",
    }


def test_progress_bars_and_long_logs_come_back_short(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n" + b"\rbar 1\rbar 2\nlast\n")
    assert gpu_day.tail(log, 1000) == "first\nbar 2\nlast" and gpu_day.last_line(log) == "last"
    log.write_bytes(b"$ python a.py\nof an earlier start\n$ python a.py\ncdedu train toy\n")
    assert gpu_day.last_line(log) == ""


def test_a_step_that_is_cut_off_before_it_speaks_is_not_at_work_on_its_own_command(tmp_path):
    Day(tmp_path, 10).go([sh("silent", "exec sleep 9.5", most=0.4), sh("dumb", "exit 3")])
    found = {step["name"]: step for step in json.loads((tmp_path / "day.json").read_text())["steps"]}
    assert (
        found["silent"]["status"] == "cut off" and found["dumb"]["reason"] == "exit code 3: it said nothing"
    )
    assert found["silent"]["reason"].startswith("at its limit, before it had said anything; ")


def test_a_day_too_short_for_its_steps_says_so_beforehand_and_how_long_would_do(
    tmp_path, monkeypatch, machine, capsys
):
    monkeypatch.setattr(Day, "go", lambda day, steps: None)
    machine()
    words = ("--device", "cpu", "--out", str(tmp_path), "--minutes")
    with pytest.raises(SystemExit):
        called(monkeypatch, *words, "0.3")
    said = capsys.readouterr().out
    minutes = re.search(
        r"short: 18 s, and to start the 6 steps takes about 50 s: .*--minutes (\S+) would", said
    )[1]
    with pytest.raises(SystemExit):
        called(monkeypatch, *words, str(float(minutes) + 0.1))
    assert "short:" not in capsys.readouterr().out


def test_help_calls_the_folders_what_it_says_of_them(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        called(monkeypatch, "--help")
    said = capsys.readouterr().out
    assert "--out FOLDER" in said and "--back FOLDER" in said and "BACK" not in said


# --- what comes back ------------------------------------------------------------------------------


def test_what_comes_back_fits():
    taken, left = pack(
        [("records.json", MiB), ("weights", 17 * MiB), *((f"{i}", 15 * MiB) for i in range(5))]
    )
    assert taken == ["records.json", "0", "1", "2", "3"] and left.keys() == {"weights", "4"}
    assert "a file may have 16" in left["weights"] and "are left of 64" in left["4"]
    taken, left = pack([(f"{i}", 1) for i in range(9)])
    assert len(taken) == 7 and left == {"7": "8 files may come back", "8": "8 files may come back"}


def test_weights_that_no_longer_fit_are_taken_out_again(tmp_path):
    day, weights = Day(tmp_path, 60), tmp_path / "run" / "teacher.safetensors"
    weights.write_bytes(b"0" * 10)
    day.collect()
    assert (day.back / weights.name).is_file()
    weights.write_bytes(b"0" * (16 * MiB + 1))
    (tmp_path / "records" / "broken.json").write_text("{")
    day.collect()
    assert not (day.back / weights.name).exists()
    account = json.loads((day.back / "day.json").read_text())
    assert account["left_out"].keys() == {weights.name, "broken.json"} and weights.name not in account["back"]


# --- what is missing ------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine that has everything; tests take something away."""

    def take(packages=(), gpu=True, compiler=True, network=True):
        monkeypatch.setattr(gpu_day, "has_package", lambda name: name not in packages)
        monkeypatch.setattr(gpu_day, "has_gpu", lambda: gpu)
        monkeypatch.setattr(gpu_day, "has_compiler", lambda: compiler)
        monkeypatch.setattr(gpu_day, "can_fetch_cifar10", lambda: network)

    return take


def test_all_that_is_missing_is_named_at_once_with_its_cost(machine):
    machine()
    (noise,) = gpu_day.missing("cuda", data=False)
    assert (noise.what, noise.cost, noise.blocks) == ("--data", "full runs on noise", ())
    assert gpu_day.missing("cuda", data=True) == gpu_day.missing("cpu", data=False) == []
    machine({"diffusers", "triton", "matplotlib"}, gpu=False, compiler=False, network=False)
    found = {one.what: one for one in gpu_day.missing("cuda", data=False)}
    assert found.keys() == {"the package diffusers", "the package matplotlib", "a GPU", "Triton", "a C compiler",
                            "CIFAR-10, and the network to fetch it from", "--data"}  # fmt: skip
    data = found["CIFAR-10, and the network to fetch it from"]
    assert "--data" in data.remedy and set(data.blocks) == {"teacher", "student", "look"}
    assert set(found["the package diffusers"].blocks) == {"teacher", "student", "look", "throughput"}
    assert not found["the package matplotlib"].blocks and not found["Triton"].blocks
    assert not any("CIFAR-10" in one.what for one in gpu_day.missing("cuda", data=True))
    assert [one.what for one in gpu_day.missing("cpu", data=False)] == [
        "the package diffusers",
        "the package matplotlib",
    ]


def called(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", *words])
    gpu_day.main()


def test_only_what_cannot_work_at_all_is_refused(machine, monkeypatch, tmp_path, capsys):
    machine(gpu=False)
    with pytest.raises(SystemExit, match="nothing of it can be done"):
        called(monkeypatch, "--minutes", "9", "--out", str(tmp_path))
    assert "missing: a GPU: nothing can be done; --device cpu rehearses" in capsys.readouterr().out
    machine({"tyro", "diffusers", "triton"}, network=False)
    seen = []
    monkeypatch.setattr(Day, "go", lambda day, steps: seen.append((day, steps)))
    with pytest.raises(SystemExit, match="no step finished"):
        called(monkeypatch, "--minutes", "9", "--out", str(tmp_path))
    (day, steps), out = seen[0], capsys.readouterr().out
    assert day.blocked.keys() == {"teacher", "student", "look", "throughput", "full"}
    assert "pip install tyro" in day.blocked["full"] and out.count("missing:") == 5
    assert all("--eager" in step.argv for step in steps if step.name != "cuda-tests")


@pytest.mark.parametrize(
    "words, what",
    [
        (("--minutes", "0"), "--minutes 0"),
        (("--minutes", "1", "--data", "/no/such.zip"), "--data: there is no /no/such.zip"),
        (("--minutes", "1", "--test-data", "."), "goes with --data"),
        (("--minutes", "1", "--weights", "."), "holds no teacher.safetensors"),
        (("--minutes", "1", "--out", "/dev/null/day"), "cannot write there"),
    ],
)
def test_bad_input_is_named_before_anything_starts(words, what, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        called(monkeypatch, "--out", str(tmp_path / "day"), *words)
    assert error.value.code == 2 and what in capsys.readouterr().err


def test_tests_that_need_a_gpu_are_found_by_their_marker_and_skipped_without_one(monkeypatch):
    names = {Path(path).name for path in gpu_day.cuda_tests()}
    assert {"test_runtime.py", "test_losses.py"} <= names and "test_gpu_day.py" not in names

    class Item:
        def get_closest_marker(self, name):
            return name == "cuda"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.skip.Exception, match="needs a GPU"):
        conftest.pytest_runtest_setup(Item())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    conftest.pytest_runtest_setup(Item())


# --- weights --------------------------------------------------------------------------------------

RECIPE = throughput.planned("cifar10", tiny=True)
"""Needs no other library, and runs in a moment."""


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_average_in_a_state_becomes_weights_and_no_older_one_does(role, tmp_path, monkeypatch):
    data = throughput.noise_data(8)
    teacher = Teacher(RECIPE.network.build(throughput.SHAPE), noise_scale=RECIPE.noise_scale)
    states = train_teacher(RECIPE, data) if role == "teacher" else distill(RECIPE, teacher, data)
    state = next(states)
    state = next(states)
    facts = {"images": 8, "precision": "fp32", "shape": [3, 32, 32], "warm_restart": {"images": 3}}
    checkpoints.save_state(tmp_path / f"{role}.state.safetensors", state, **facts)
    path = gpu_steps.keep(tmp_path, role)
    loaded = checkpoints.load(path)
    assert type(loaded) is {"teacher": Teacher, "student": ConsistencyModel}[role]
    assert loaded.header.step == 2 and loaded.header.images == 8
    assert loaded.header.facts["warm_restart"] == {"images": 3}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert loaded(x, 1.5).equal(state.result(x, 1.5)) and not loaded(x, 1.5).equal(state.model.eval()(x, 1.5))
    stamp = path.stat().st_mtime_ns
    assert gpu_steps.keep(tmp_path, role).stat().st_mtime_ns == stamp
    state.model.train()
    checkpoints.save_state(tmp_path / f"{role}.state.safetensors", next(states), **facts)
    monkeypatch.setattr(gpu_steps, "LARGEST", 1 << 17)  # now it would be too large a file in fp32
    assert checkpoints.load(gpu_steps.keep(tmp_path, role)).header.step == 3
    assert {t.dtype for t in checkpoints.read_tensors(path)[0].values()} == {torch.float16}


def test_the_newest_weights_are_gone_on_from(tmp_path):
    run, own = tmp_path / "run", tmp_path / "own"
    run.mkdir(), own.mkdir()
    given = Namespace(out=tmp_path, weights=None)
    assert gpu_steps.source("teacher", given) == str(
        checkpoints.WEIGHTS / "cifar10-small-teacher.safetensors"
    )
    given.weights = own
    (own / "teacher.safetensors").touch()
    assert gpu_steps.source("teacher", given) == str(own / "teacher.safetensors")
    (run / "teacher.safetensors").touch()
    assert gpu_steps.source("teacher", given) == str(run / "teacher.safetensors")


def test_training_goes_on_from_its_state_or_begins_with_weights(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(gpu_steps, "command", lambda words: said.append(" ".join(words)) or 2)
    given = Namespace(out=tmp_path, weights=None, data="a.zip", test_data="b.zip", device="cuda", tiny=False, eager=False,
                      seconds=100.0)  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        gpu_steps.train("teacher", given)
    monkeypatch.setattr(gpu_steps, "keep", lambda run, role: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "student.state.safetensors").touch()
    with pytest.raises(SystemExit, match="2"):
        gpu_steps.train("student", replace_in(given, seconds=gpu_steps.COMPILE_PAYS))
    teacher, student = said
    course = checkpoints.WEIGHTS / "cifar10-small-teacher.safetensors"
    assert teacher.startswith("train cifar10-small") and f"--from-weights {course}" in teacher
    assert "--compile False" in teacher and "--compile" not in student and "--test-data b.zip" in student
    assert f"--teacher {course}" in student and "--resume" in student and "--from-weights" not in student


def replace_in(given: Namespace, **changes) -> Namespace:
    return Namespace(**vars(given) | changes)


def test_one_command_that_breaks_leaves_the_others_to_be_done(tmp_path, monkeypatch, capsys):
    def main():
        said.append(sys.argv[1])
        if sys.argv[1] == "sample":
            raise RuntimeError("CUDA error")

    said: list[str] = []
    monkeypatch.setattr(gpu_steps.cli, "main", main)
    monkeypatch.setattr(gpu_steps, "source", lambda role, given: f"{role}.safetensors")
    given = Namespace(out=tmp_path, weights=None, data=None, test_data=None, device="cpu", tiny=True)
    with pytest.raises(SystemExit, match="without picture of the teacher; picture of the student"):
        gpu_steps.look(given)
    assert said == ["sample", "sample", "sample", "evaluate"] and "CUDA error" in capsys.readouterr().err


# --- throughput -----------------------------------------------------------------------------------


def test_gradients_of_micro_batches_add_up_to_those_of_the_whole_batch():
    torch.manual_seed(0)
    network = replace(RECIPE.network, dropout=0.0).build(throughput.SHAPE)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    teacher = Teacher(network).train()
    student = ConsistencyModel.from_teacher(teacher).train()
    x = {"x0": 0.5 * torch.randn(5, 3, 32, 32), "noise": torch.randn(5, 3, 32, 32)}
    sigmas, grads = RECIPE.sigmas(), {}
    for model, losses, level in (
        (teacher, partial(denoising_loss, teacher), {"sigma": torch.rand(5) + 0.1}),
        (student, partial(distillation_loss, student, student, teacher, sigmas=sigmas), {"index": torch.arange(5)}),
    ):  # fmt: skip
        for size in (5, 2):
            model.zero_grad()
            loss = throughput.accumulate(losses, x | level, size)
            grads[size] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            assert loss == pytest.approx(losses(**x, **level).mean().item(), rel=1e-4)
        assert (grads[5] - grads[2]).norm() < 1e-4 * grads[5].norm() and grads[5].norm() > 0


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_plain_loop_draws_on_the_device_and_keeps_to_its_micro_batch(role, monkeypatch):
    seen = []

    def watched(losses, draws, size):
        seen.append(({name: (t.device.type, len(t)) for name, t in draws.items()}, size))
        return accumulate(losses, draws, size)

    accumulate = throughput.accumulate
    monkeypatch.setattr(throughput, "accumulate", watched)
    teacher = Teacher(RECIPE.network.build(throughput.SHAPE))
    states = throughput.plain_steps(RECIPE, role, teacher, throughput.noise_data(8), CPU, 3)
    before = [p.detach().clone() for p in teacher.parameters()]
    assert math.isfinite(next(states))
    level = "sigma" if role == "teacher" else "index"
    assert seen == [({name: ("cpu", 4) for name in ("x0", "noise", level)}, 3)]
    moved = any(not a.equal(b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert moved == (role == "teacher")  # distillation leaves its teacher alone


def test_every_row_has_a_network_of_its_own(monkeypatch):
    """The runtime compiles a teacher in place; an eager row after a compiled one is still eager."""
    compiled, eager = [], []

    def pretend(module):
        compiled.append(module)
        module._compiled_call_impl = module._call_impl

    def watched(recipe, role, teacher, *rest):
        eager.append(teacher.network._compiled_call_impl)
        return iter(lambda: 0.0, None)

    monkeypatch.setattr(nn.Module, "compile", pretend)
    monkeypatch.setattr(throughput, "plain_steps", watched)
    network, data = RECIPE.network.build(throughput.SHAPE), throughput.noise_data(8)
    few = {"warmup": 1, "steps": 1, "seconds": 1.0, "micro_batch": 2}
    for loop in ("cdedu", "plain"):
        found = throughput.row(RECIPE, "student", loop, network, data, Runtime(compile=True), **few)
        assert found["compiled"] == (loop == "cdedu") and found["images_per_second"] > 0
    assert compiled and eager == [None] and all(module is not network for module in compiled)


@pytest.fixture
def tf32_on():
    before = throughput.tf32()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before["matmul"]
    torch.backends.cudnn.allow_tf32 = before["convolutions"]


def test_tf32_is_off_in_the_plain_row_alone(monkeypatch, tf32_on):
    seen = []

    def watched(*_):
        while True:
            seen.append(throughput.tf32())
            yield 0.0

    monkeypatch.setattr(throughput, "plain_steps", watched)
    few = {"warmup": 1, "steps": 1, "seconds": 1.0, "micro_batch": 2}
    network = nn.Linear(1, 1)
    throughput.row(RECIPE, "teacher", "plain", network, throughput.noise_data(8), Runtime(), **few)
    off, on = ({"matmul": flag, "convolutions": flag} for flag in (False, True))
    assert seen == [off, off] and throughput.tf32() == on
    with pytest.raises(RuntimeError), throughput.without_tf32():
        raise RuntimeError
    assert throughput.tf32() == on


def test_each_row_comes_as_soon_as_it_is_measured(monkeypatch):
    made = []

    def one(recipe, role, loop, *_, **__):
        made.append((role, loop))
        return {"images_per_second": 2.0}

    monkeypatch.setattr(throughput, "row", one)
    monkeypatch.setattr(throughput, "matmul_rate", lambda *_: 1e6)
    rows = throughput.rows(("cifar10",), CPU, tiny=True, compiled=False)
    first = next(rows)
    assert made == [("teacher", "plain")]
    assert first["share_of_matmul_rate"] == pytest.approx(2 * 3 * first["forward_gflop"] * 1e3)
    assert [*rows] and made[1:] == [("teacher", "cdedu"), ("student", "plain"), ("student", "cdedu")]


def test_speed_and_matrix_rate_are_those_of_the_precision_that_the_gpu_is_fast_in(monkeypatch):
    """On a T4 or a V100 that is fp16: the runtime refuses to compute in bf16 there."""
    asked = []
    monkeypatch.setattr(throughput, "fast_precision", lambda device: "fp16")
    monkeypatch.setattr(throughput, "matmul_rate", lambda *given: asked.append(given) or 1e6)
    monkeypatch.setattr(throughput, "Runtime", lambda device, precision, compiled: precision)
    monkeypatch.setattr(
        throughput, "row", lambda *given, **_: {"precision": given[5], "images_per_second": 1.0}
    )
    found = next(throughput.rows(("cifar10",), CPU, tiny=True))
    assert asked == [(CPU, 256, "fp16")] and found["precision"] == found["matmul_precision"] == "fp16"
    monkeypatch.undo()
    assert throughput.matmul_rate(CPU, 8, "fp16") > 0


# --- the whole of it ------------------------------------------------------------------------------


def test_a_rehearsal_has_pictures_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CACHE", tmp_path)
    parts = (gpu_day.noise_zip(tmp_path / f"rehearsal-{n}.zip", n, n) for n in (2, 1))
    data = pictures(*parts)
    assert data.train.shape == (20, 3, 32, 32) and data.classes == tuple(images.CIFAR10_CLASSES)
    assert not data.train[:10].equal(data.test) and data.train.float().std() > 60


def loads(out: Path) -> None:
    """Whatever records and weights a day left can be read."""
    for path in (out / "records").glob("*.json"):
        assert read_record(path)["metrics"]
    for path in (out / "run").glob("*.safetensors"):
        if ".state." not in path.name:
            assert checkpoints.load(path).header.images > 0
    back = [*(out / "back").iterdir()]
    assert len(back) <= 8 and not any(".state." in path.name for path in back)
    assert all(path.stat().st_size <= 16 * MiB for path in back)


def rehearsal(out: Path, minutes: float) -> list[str]:
    script = str(ROOT / "scripts" / "bench" / "gpu_day.py")
    return [sys.executable, script, "--device", "cpu", "--minutes", str(minutes), "--out", str(out)]


@pytest.mark.weekly
def test_the_rehearsal_does_every_step_in_about_a_minute_of_a_core(tmp_path):
    """With more minutes than it needs, since others may be at work beside the tests."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(rehearsal(tmp_path, 15), capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout
    account = json.loads((tmp_path / "back" / "day.json").read_text())
    assert {step["name"]: step["status"] for step in account["steps"]} == dict.fromkeys(
        ("cuda-tests", "teacher", "student", "look", "throughput", "full"), "done"
    )
    assert {*account["back"]} == {path.name for path in (tmp_path / "back").iterdir()}
    assert {"teacher.safetensors", "student.safetensors", "teacher-3.png", "student-1.png"} < {
        *account["back"]
    }
    loads(tmp_path)
    records = json.loads((tmp_path / "back" / "records.json").read_text())
    assert {row["loop"] for row in records["throughput-cifar10-small"]["metrics"]["rows"]} == {
        "plain",
        "cdedu",
    }
    assert records["full"]["metrics"]["finite"] and records["full"]["trial"]
    assert any("evaluate" in name for name in records)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 75


@pytest.mark.weekly
def test_a_day_ends_in_its_time_with_what_there_is(tmp_path):
    start = time.monotonic()
    subprocess.run(rehearsal(tmp_path, 0.3), stdout=subprocess.DEVNULL)
    assert time.monotonic() - start < 18
    account = json.loads((tmp_path / "day.json").read_text())
    assert len(account["steps"]) == 6 and all(s["status"] == "done" or s["reason"] for s in account["steps"])
    loads(tmp_path)


def step_of(day: int) -> int | None:
    """The process of the step under way."""
    found = Path(f"/proc/{day}/task/{day}/children").read_text().split()
    return int(found[0]) if found else None


@pytest.mark.weekly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_steps_that_are_shot_leave_what_can_be_loaded(number, tmp_path):
    """Each step is shot at its first sign of life; the day goes on with the next one."""
    signs = {"cuda-tests": "$ ", "teacher": "cdedu train", "student": "teacher: ", "look": "samples of", "throughput": "{",
             "full": "step 1"}  # fmt: skip
    with subprocess.Popen(rehearsal(tmp_path, 15), stdout=subprocess.PIPE, text=True) as day:
        for name, sign in signs.items():
            log = tmp_path / "logs" / f"{name}.log"
            while not (log.is_file() and sign in log.read_text(errors="replace")):
                assert day.poll() is None
                time.sleep(0.02)
            if (step := step_of(day.pid)) is not None:
                os.kill(step, number)
            while not (tmp_path / "day.json").is_file() or name not in (tmp_path / "day.json").read_text():
                time.sleep(0.02)
        day.wait()
    account = json.loads((tmp_path / "day.json").read_text())
    assert [step["name"] for step in account["steps"]] == [*signs]
    assert sum(step["status"] == "failed" for step in account["steps"]) >= 4
    loads(tmp_path)


@pytest.mark.weekly
def test_training_that_is_stopped_leaves_weights_and_goes_on_from_its_state(tmp_path):
    """Not the tiny one: without an end, as on a GPU."""
    given = Namespace(out=tmp_path, data=None, device="cpu")
    train = gpu_day.noise_zip(tmp_path / "noise-train.zip", 4, 0)
    given.data = train
    words = [sys.executable, str(ROOT / "scripts/bench/gpu_steps.py"), "teacher", "--device", "cpu"]
    words += ["--out", str(tmp_path), "--data", str(train)]
    steps = []
    for _ in range(2):
        log = tmp_path / "log"
        with open(log, "wb") as file:
            process = subprocess.Popen(words, stdout=file, stderr=file, env=gpu_day.environment(given))
        while not any(f" {i}/" in log.read_text() for i in range(1 + sum(steps), 3 + sum(steps))):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        process.terminate()
        assert process.wait(300) == 0, log.read_text()
        model = checkpoints.load(tmp_path / "run" / "teacher.safetensors")
        steps.append(model.header.step - sum(steps))
        assert model.header.facts["warm_restart"]["images"] > 0
    assert steps[0] > 0 and steps[1] > 0
