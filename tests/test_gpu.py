"""What would go wrong on a GPU, shown without one: memory that runs out, numbers that a GPU would be waited for, signals, scales.

The device ``meta`` stands in for a GPU where it matters what is copied and waited for: it has shapes and no values, so whoever
looks at a number there gets an error.
"""

import gc
import math
import os
import re
import signal
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_runtime import IMAGE_RECIPE, MLP_RECIPE, PICTURES, POINTS, difference, run, teacher_of
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cdedu import checkpoints, cli, training
from cdedu import runtime as runtime_module
from cdedu.networks.edm import ADM, DDPMpp
from cdedu.recipes import Network, recipes
from cdedu.runs import SIGNALS, Run
from cdedu.runtime import Distributed, Runtime
from cdedu.student import EMA
from cdedu.training import Batches, State, distill, train_teacher

ROOT = Path(__file__).resolve().parents[1]


# --- memory ---------------------------------------------------------------------------------------


class Life:
    """Something that can be asked whether it still is."""


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_when_memory_runs_out_the_graph_is_gone_before_the_next_try(monkeypatch, place):
    """A graph that outlives its failure would take the memory that the retry needs, and halve the parts down to a block."""
    whole, graphs, alive = run("teacher", MLP_RECIPE, POINTS), [], []
    loss = training.denoising_loss

    class Part(torch.autograd.Function):
        """A part of the graph that says how long it lives; with too many samples it does not fit."""

        @staticmethod
        def forward(ctx, x):
            ctx.life = Life()
            graphs.append(weakref.ref(ctx.life))
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if len(grad) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return grad

    def limited(*args, **kwargs):
        alive.append(sum(graph() is not None for graph in graphs))
        out = Part.apply(loss(*args, **kwargs))
        if len(out) > 8 and place == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return out

    monkeypatch.setattr(training, "denoising_loss", limited)
    gc.disable()
    try:
        halved = run("teacher", replace(MLP_RECIPE, teacher=replace(MLP_RECIPE.teacher, steps=6)), POINTS)
    finally:
        gc.enable()
    assert alive[1] == 0, "the graph of the failed try is still there"
    assert difference(halved, whole) < 1e-6


def test_a_size_that_fits_after_all_is_what_a_resumed_run_goes_on_with(tmp_path, monkeypatch):
    seen = Run(MLP_RECIPE, "teacher", POINTS, tmp_path, tmp_path / "results", Runtime(micro_batch=4))
    seen.drive(train_teacher(MLP_RECIPE, POINTS, runtime=seen.runtime))
    header = checkpoints.read_header(seen.state_path)
    assert header["micro_batch"] == 4
    assert cli._runtime(cli.Train("toy", device="cpu"), recipes["toy"], header).micro_batch == 4
    asked = cli.Train("toy", device="cpu", micro_batch=2)
    assert cli._runtime(asked, recipes["toy"], header).micro_batch == 2


@pytest.mark.parametrize(
    "here, there, wanted", [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_new_size_is_agreed_on_before_gradients_are_exchanged(here, there, wanted):
    """The other process stands in for by what a sum with it gives."""

    def reduce(tensor, how):
        return (tensor + 3.0) / 2 if how == "mean" else tensor + float(not there)

    runtime, model = Distributed.__new__(Distributed), torch.nn.Linear(1, 1, bias=False)
    runtime.rank, runtime._tried, runtime.device = 0, Counter(), torch.device("cpu")
    runtime.accelerator = SimpleNamespace(reduce=reduce)
    model.weight.grad = torch.ones(1, 1)
    assert runtime.trying(8) and runtime.agree(here, 8, model) is wanted
    assert model.weight.grad.item() == (2.0 if wanted else 1.0), (
        "the mean of 1 here and 3 there, or as it was"
    )
    assert runtime.trying(8), "the optimiser's memory comes with the first step, and is tried with the second"
    model.weight.grad = torch.ones(1, 1)
    assert runtime.agree(here, 8, model) is wanted and runtime.trying(8) is not wanted


def test_memory_that_runs_out_later_ends_the_run_in_every_process():
    """Then the others are already waiting inside backward, so nothing can be agreed; the launcher ends them."""
    runtime = Distributed.__new__(Distributed)
    runtime.rank, runtime._tried = 1, Counter({8: 2})
    assert runtime.agree(True, 8, torch.nn.Identity())
    with pytest.raises(
        MemoryError, match="process 1: .* 8 samples at once, which had fitted before; .*--resume"
    ):
        runtime.agree(False, 8, torch.nn.Identity())


# --- what a GPU would be waited for -----------------------------------------------------------------


class Transfers(TorchDispatchMode):
    """Counts what goes from the CPU to the device, and back."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.__name__
        if name.startswith(("_to_copy", "copy_", "_foreach_copy")):
            places = {t.device.type for t in (*args, out) if isinstance(t, torch.Tensor)}
            if len(places) > 1:
                self.found.append(name)
        return out


@pytest.mark.parametrize("index", ["uniform", "lognormal"])
@pytest.mark.parametrize("role, rate", [("teacher", 0.0), ("student", 0.0), ("student", 0.9)])
def test_a_step_copies_nothing_and_waits_for_nothing(monkeypatch, role, rate, index):
    student = replace(MLP_RECIPE.student, target_rate=rate, index=index, more_emas=(0.5,))
    recipe = replace(MLP_RECIPE, student=student)
    draw = Batches.draw

    def on_meta(self, step, part, level):
        """There are no random numbers on meta; that drawing them costs no copy is tested where they are drawn."""
        device, self.device, self.train = self.device, torch.device("cpu"), POINTS.train
        level = level if role == "teacher" else (lambda n, g: torch.zeros(n, dtype=torch.long))
        with torch.utils._python_dispatch._disable_current_modes():
            *tensors, cond = draw(self, step, part, level)
        self.device = device
        return *(torch.empty_like(t, device=device) for t in tensors), cond

    runtime = Runtime("meta")
    monkeypatch.setattr(Batches, "draw", on_meta)
    if role == "teacher":
        states = train_teacher(recipe, POINTS, runtime=runtime)
    else:
        states = distill(recipe, teacher_of(recipe, POINTS), POINTS, runtime=runtime)
    next(states)  # the first step makes the grids
    with Transfers() as transfers:
        state = [next(states) for _ in range(3)][-1]
    assert state.mean_loss.device.type == "meta" and not transfers.found
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(state.mean_loss)


def test_an_average_is_bitwise_what_pytorchs_own_function_makes():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    ours = EMA(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for seed in range(4):
        model(torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
        ours.update(model)
        theirs.update_parameters(model)
        pairs = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
        moving = [(name, a, b) for (name, a), b in pairs if a.is_floating_point()]
        assert moving and all(a.equal(b) for _, a, b in moving)
    assert ours.n_averaged.device.type == "cpu" and ours.module[1].num_batches_tracked == 4


@pytest.mark.parametrize("net", [DDPMpp, ADM])
def test_fused_attention_gets_what_it_can_use(monkeypatch, net):
    """Its kernels on a GPU want the last stride to be 1, and fall back silently to the plain path."""
    strides, attend = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention",
        lambda *qkv, **more: (strides.extend(t.stride(-1) for t in qkv), attend(*qkv, **more))[1],
    )  # fmt: skip
    net(8, 3, 64, (1, 1), 1, (4,))(torch.randn(2, 3, 8, 8), torch.zeros(2))
    assert strides and {*strides} == {1}


@pytest.mark.weekly
def test_the_oldest_torch_that_is_allowed_keeps_its_gradients(tmp_path):
    """It comes with its own CUDA libraries, some gigabytes."""
    (wanted,) = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    uv, python = Path(sys.executable).with_name("uv"), tmp_path / "old" / "bin" / "python"
    for words in (
        ["venv", "-q", "--python", "3.11", tmp_path / "old"],
        [
            "pip",
            "install",
            "-q",
            "--python",
            python,
            f"torch=={wanted}.*",
            "numpy<2.3",
            "safetensors",
            "tqdm",
        ],
    ):
        subprocess.run([uv, *words], check=True, timeout=1500)
    done = subprocess.run(
        [python, ROOT / "tests" / "oldest.py"], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"torch {wanted}")


# --- numbers that go bad ------------------------------------------------------------------------------


def test_a_loss_that_goes_bad_between_two_looks_is_found_at_the_next_and_never_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "look", 4)
    monkeypatch.setattr("cdedu.runs.SAVE_EVERY", -1.0)
    monkeypatch.setattr("cdedu.runs.SAVING_SHARE", math.inf)
    recipe = replace(MLP_RECIPE, teacher=replace(MLP_RECIPE.teacher, steps=20))
    loss = training.denoising_loss
    steps: list[int] = []

    def spoiled(*args, **kwargs):
        steps.append(0)
        return loss(*args, **kwargs) * (math.nan if len(steps) == 6 else 1)

    monkeypatch.setattr(training, "denoising_loss", spoiled)
    runtime = Runtime()
    unsaved = train_teacher(recipe, POINTS, runtime=runtime)
    with pytest.raises(FloatingPointError, match="loss became nan at step 8 of 20"):
        for _ in unsaved:
            pass
    steps.clear()
    seen = Run(recipe, "teacher", POINTS, tmp_path, tmp_path / "results", runtime)
    with pytest.raises(FloatingPointError, match="not finite after step 6"):
        seen.drive(train_teacher(recipe, POINTS, runtime=runtime))
    assert checkpoints.load_state(seen.state_path, recipe, "teacher")[1] == 5


def test_one_policy_says_when_a_gpu_is_looked_at():
    assert Runtime("cpu").look == 1 and Runtime("meta").look == runtime_module.LOOK == 25
    sources = {name: (ROOT / "cdedu" / f"{name}.py").read_text() for name in ("training", "runs")}
    assert all("runtime.look" in text for text in sources.values())


def test_the_scale_of_fp16_gradients_is_part_of_the_state():
    def begun() -> State:
        runtime = Runtime()
        runtime.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        states = train_teacher(MLP_RECIPE, POINTS, runtime=runtime)
        return next(states), states

    state, states = begun()
    state = next(states)
    assert state.scaler.get_scale() == 2048.0
    kept = {name: t.clone() for name, t in state.tensors().items()}
    assert kept["scaler.scale"] == 2048.0 and kept["scaler._growth_tracker"] == 0
    other, _ = begun()
    other.restore(kept, 2)
    assert other.scaler.state_dict() == state.scaler.state_dict()
    # Full precision scales nothing, whichever way the state goes.
    plain = next(train_teacher(MLP_RECIPE, POINTS))
    assert not [name for name in plain.tensors() if name.startswith("scaler")]
    plain.restore(kept, 2)
    other.restore(plain.tensors(), 2)
    assert other.scaler.get_scale() == 2048.0


# --- what a record says, what is asked for ----------------------------------------------------------------


def test_fp32_says_what_it_rounds(monkeypatch):
    runtime = Runtime()
    runtime.device = SimpleNamespace(type="cuda")
    for cudnn in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", cudnn)
        assert runtime.describe()["tf32"] == {"matmul": False, "cudnn": cudnn}


GPU = SimpleNamespace(type="cuda")


@pytest.mark.parametrize(
    "recipe, triton, wanted",
    [("toy", True, False), ("points", True, False), ("digits", True, True), ("cifar10", True, True), ("cifar10", False, False)],
)  # fmt: skip
def test_networks_are_compiled_where_it_pays_and_where_it_can_be_done(
    monkeypatch, capsys, recipe, triton, wanted
):
    made = []
    monkeypatch.setattr(cli, "pick_device", lambda name: GPU)
    monkeypatch.setattr(cli, "fast_precision", lambda device: "bf16")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: triton)
    monkeypatch.setattr(cli, "Runtime", lambda *a: made.append(a[2]))
    cli._runtime(cli.Train(recipe), recipes[recipe])
    assert made == [wanted]
    assert ("not compiled: there is no Triton" in capsys.readouterr().err) == (not triton)
    if not triton:
        with pytest.raises(ValueError, match="--compile True: there is no Triton .*; leave it out"):
            cli._runtime(cli.Train(recipe, compile=True), recipes[recipe])


def test_compiling_without_a_compiler_is_refused_at_the_door(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"no C\+\+ compiler \(no-such-compiler\); leave it out"):
        cli._runtime(cli.Train("toy", device="cpu", compile=True), recipes["toy"])


def test_a_run_can_be_given_a_shorter_average(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = cli.Train("toy", device="cpu", max_steps=50, ema=0.8)
    assert cli._prepare(command, "teacher").recipe.teacher.ema == 0.8
    with pytest.raises(ValueError, match=r"teacher.ema = 1.5, but it must be at least 0 and below 1"):
        cli._prepare(replace(command, ema=1.5), "teacher")


def test_processes_wait_hours_for_the_one_that_decodes(monkeypatch):
    given = {}

    def accelerator(**options):
        given.update(options)
        return SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=2)

    monkeypatch.setattr("accelerate.Accelerator", accelerator)
    Distributed(cpu=True)
    assert [handler.timeout.total_seconds() for handler in given["kwargs_handlers"]] == [7200]


# --- signals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_inside_a_save_waits_for_it_to_end(tmp_path, monkeypatch, number):
    monkeypatch.setattr("cdedu.runs.SAVE_EVERY", -1.0)
    monkeypatch.setattr("cdedu.runs.SAVING_SHARE", math.inf)
    saved, save = [], checkpoints.save_state

    def interrupted(path, state, **facts):
        if state.step == 3:
            os.kill(os.getpid(), number)
        save(path, state, **facts)
        saved.append(state.step)

    monkeypatch.setattr(checkpoints, "save_state", interrupted)
    seen = Run(MLP_RECIPE, "teacher", POINTS, tmp_path, tmp_path / "results", Runtime())
    with pytest.raises(SystemExit) as stop:
        seen.drive(train_teacher(MLP_RECIPE, POINTS))
    assert stop.value.code == 128 + number and saved == [1, 2, 3, 4]
    assert checkpoints.load_state(seen.state_path, MLP_RECIPE, "teacher")[1] == 4


@pytest.mark.parametrize("look", [1, 4])
def test_one_process_stops_after_the_step_under_way_on_a_gpu_too(tmp_path, monkeypatch, look):
    monkeypatch.setattr(Runtime, "look", look)
    seen = Run(MLP_RECIPE, "teacher", POINTS, tmp_path, tmp_path / "results", Runtime())

    def states():
        for state in train_teacher(MLP_RECIPE, POINTS):
            if state.step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            yield state

    with pytest.raises(SystemExit):
        seen.drive(states())
    assert checkpoints.load_state(seen.state_path, MLP_RECIPE, "teacher")[1] == 2


SRUN = """#!/bin/sh
# Stands in for Slurm's: one task, and the exit status that the test wants.
shift 2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" >>"$LOG"
exit "$STATUS"
"""


@pytest.mark.parametrize("status, requeued", [(0, False), (1, False), (138, True), (143, True)])
def test_slurm_queues_again_what_a_signal_ended(tmp_path, status, requeued):
    log, tools = tmp_path / "log", tmp_path / "bin"
    tools.mkdir()
    scontrol = '#!/bin/sh\nif [ "$1" = show ]; then echo node1; else echo "$@" >>"$LOG"; fi\n'
    python = '#!/bin/sh\necho "rank $RANK of $WORLD_SIZE at $MASTER_ADDR: $@"\n'
    for name, text in (("srun", SRUN), ("scontrol", scontrol), ("python", python)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "configs" / "slurm.sh", "distill", "toy", "--out", "mine"],
        cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": f"{tools}:/usr/bin:/bin", "LOG": str(log), "STATUS": str(status), "SLURM_NTASKS": "16",
             "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    lines = log.read_text().splitlines()
    assert lines[0] == "rank 0 of 16 at node1: -m cdedu.cli distill toy --out mine --go-on"
    assert lines[1:] == ["requeue 77"] * requeued


@pytest.mark.parametrize(
    "command", [["evaluate", "toy"], ["sample", "toy"], ["train", "mine.toml", "--overwrite"]]
)
def test_only_trainings_go_on_and_overwriting_is_no_going_on(command, tmp_path, monkeypatch):
    text = (ROOT / "configs" / "slurm.sh").read_text(encoding="utf-8")
    assert ('case "$1" in train | distill) set -- "$@" --go-on' in text) and "--resume" not in text
    if command[0] == "train":
        monkeypatch.chdir(tmp_path)
        Path("mine.toml").write_text('[other-name]\nlike = "toy"\n', encoding="utf-8")
        asked = cli.Train("mine.toml", device="cpu", overwrite=True, go_on=True)
        assert not cli._resuming(asked, "teacher").resume
        Path("runs/other-name").mkdir(parents=True)
        Path("runs/other-name/teacher.state.safetensors").touch()
        assert cli._resuming(asked, "teacher").resume
        with pytest.raises(ValueError, match="--overwrite starts over; give one of them"):
            cli._prepare(cli._resuming(asked, "teacher"), "teacher")


def test_slurm_warns_early_enough_to_save_a_large_state():
    text = (ROOT / "configs" / "slurm.sh").read_text()
    assert "#SBATCH --signal=USR1@600" in text and "#SBATCH --requeue" in text


# --- on a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_step_on_the_gpu_waits_for_nothing(role):
    recipe = replace(IMAGE_RECIPE, network=Network("ddpmpp", 8, 1, (1, 2), (4,), classes=3))
    runtime = Runtime("cuda", "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp32")
    if role == "teacher":
        states = train_teacher(recipe, PICTURES, runtime=runtime)
    else:
        states = distill(recipe, teacher_of(recipe, PICTURES), PICTURES, runtime=runtime)
    next(states), next(states)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(states), next(states)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_memory_that_runs_out_on_the_gpu_halves_the_parts_and_changes_nothing(monkeypatch):
    whole = run("teacher", IMAGE_RECIPE, PICTURES, Runtime("cuda", micro_batch=4))
    loss = training.denoising_loss

    def greedy(*args, **kwargs):
        out = loss(*args, **kwargs)
        if len(out) > 4:
            torch.empty(2**50, device="cuda", dtype=torch.uint8)
        return out

    monkeypatch.setattr(training, "denoising_loss", greedy)
    runtime = Runtime("cuda")
    assert difference(run("teacher", IMAGE_RECIPE, PICTURES, runtime), whole) < 1e-3
    assert runtime.micro_batch == 4
