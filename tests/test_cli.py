"""The command line from end to end, with short runs in a folder of their own."""

import io
import json
import math
import os
import re
import shutil
import signal
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image

from cdedu import checkpoints, cli, fitting, runs, training
from cdedu.data import Dataset, images
from cdedu.evaluation import comparison
from cdedu.files import locked
from cdedu.limits import numbers
from cdedu.networks import MLP, unet
from cdedu.recipes import Network, recipes
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher

FAST = "--max-steps 20 --batch 32 --device cpu".split()


def small_data(name: str, *_: object) -> Dataset:
    g = torch.Generator().manual_seed(0)
    shape = (1, 8, 8) if name == "digits" else (2,)
    x = (0.5 * torch.randn(120, *shape, generator=g)).clamp(-1, 1)
    return Dataset(name, x[:80], x[80:])


def make_comparison_cheap(monkeypatch) -> None:
    """Little data, one seed, small batches for the clock."""
    compare, speed = comparison.compare, comparison.speed
    monkeypatch.setattr(cli, "load_data", small_data)
    monkeypatch.setattr(
        comparison,
        "compare",
        lambda recipe, teacher, student, data, seeds, *rest: compare(
            recipe, teacher, student, data, 1, *rest
        ),
    )
    monkeypatch.setattr(comparison, "speed", lambda *a, **k: speed(*a, batch=4, repeats=1))


def png_size(path: Path) -> tuple[int, ...]:
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    return imread(path).shape


RECORD = {
    "name", "command", "recipe", "seed", "commit", "data", "hardware", "versions", "date", "seconds", "peak_memory_mb", "metrics",
}  # fmt: skip


@pytest.mark.slow
def test_toy_from_data_to_comparison(cdedu, tmp_path, monkeypatch):
    for command in ("train", "distill"):
        code, _, err = cdedu(command, "toy", *FAST)
        assert code == 0, err
    run = tmp_path / "runs" / "toy"
    assert {p.name for p in run.glob("[!.]*")} == {
        "teacher.safetensors", "teacher.state.safetensors", "student.safetensors", "student.state.safetensors",
    }  # fmt: skip
    assert isinstance(checkpoints.load(run / "teacher.safetensors"), Teacher)
    assert isinstance(checkpoints.load(run / "student.safetensors"), ConsistencyModel)

    for words, name in (
        ((), "student-1"),
        (("--steps", 2), "student-2"),
        (("--model", "teacher", "--steps", 5), "teacher-5"),
    ):
        code, out, err = cdedu("sample", "toy", "--device", "cpu", "--number", 50, *words)
        assert code == 0 and f"{name}.png" in out, err
        assert min(png_size(run / f"{name}.png")[:2]) > 100

    make_comparison_cheap(monkeypatch)
    code, out, err = cdedu("evaluate", "toy", "--device", "cpu")
    assert code == 0 and "student_1" in out and "teacher_heun_35" in out, err

    found = {
        p.name.split("-2")[0]: json.loads(p.read_text()) for p in (tmp_path / "results" / "runs").iterdir()
    }
    assert {*found} == {"toy-teacher", "toy-student", "toy-evaluate"}
    assert all({*record} >= RECORD for record in found.values())
    teacher = found["toy-teacher"]
    assert teacher["command"] == "cdedu train toy " + " ".join(FAST)
    assert teacher["recipe"]["teacher"]["steps"] == 20 and teacher["metrics"]["steps"] == 20
    assert teacher["weights"]["sha256"] == checkpoints.sha256(run / "teacher.safetensors")
    assert teacher["data"]["name"] == "two_moons" and teacher["hardware"]["device"] == "cpu"
    metrics = found["toy-evaluate"]["metrics"]
    assert metrics["samplers"]["student_1"]["evaluations"] == 1 and metrics["floor"]["sw"]["median"] > 0


@pytest.mark.weekly
def test_digits_from_data_to_comparison(cdedu, tmp_path, monkeypatch):
    """With a network of a few thousand weights."""
    small = replace(recipes["digits"], network=Network("unet", width=8, depth=1))
    monkeypatch.setitem(recipes, "digits", small)
    for command in ("train", "distill"):
        code, _, err = cdedu(command, "digits", "--max-steps", 2, "--batch", 4, "--device", "cpu")
        assert code == 0, err
    code, out, err = cdedu(
        "sample", "digits", "--steps", 1, "--number", 5, "--out", "pictures/five.png", "--device", "cpu"
    )
    assert code == 0 and "5 samples" in out, err
    assert png_size(tmp_path / "pictures" / "five.png")

    make_comparison_cheap(monkeypatch)
    code, out, err = cdedu("evaluate", "digits", "--device", "cpu")
    assert code == 0 and "fd" in out and "kd" in out, err


def zip_of_pictures(path: Path, number: int, size: int = 32) -> Path:
    rng = np.random.default_rng(number)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(number):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(out, "PNG")
            archive.writestr(f"class{i % 3}/{i:03}.png", out.getvalue())
    return path


@pytest.mark.parametrize("name, tried", [("toy", False), ("digits", False), ("cifar10-small", True)])
def test_a_cpu_is_tried_for_its_precision_where_that_matters(monkeypatch, name, tried):
    monkeypatch.setattr(cli, "fast_precision", lambda device: "bf16")
    wanted = "bf16" if tried else "fp32"
    assert cli._runtime(cli.Train(name, device="cpu"), recipes[name]).precision == wanted
    begun = {"precision": "fp32"}
    assert cli._runtime(cli.Train(name, device="cpu"), recipes[name], begun).precision == "fp32"


def test_a_run_goes_on_in_the_precision_that_it_began_in(cdedu, tmp_path, monkeypatch):
    interrupt(monkeypatch, "teacher", 3)
    assert cdedu("train", "toy", *FAST, "--precision", "bf16")[0] == 130
    assert cdedu("train", "toy", *FAST, "--resume")[0] == 0
    (record,) = (json.loads(p.read_text()) for p in Path("results/runs").glob("toy-teacher-*"))
    assert record["runtime"]["precision"] == "bf16"


def test_a_file_of_weights_says_itself_what_it_is(cdedu):
    words = ["sample", "toy", "--number", 4, "--device", "cpu"]
    assert cdedu(*words, "--weights", "toy-teacher", "--steps", 3)[0] == 0
    assert Path("runs/toy/teacher-3.png").is_file()
    code, _, err = cdedu(*words, "--weights", "toy-teacher", "--model", "student")
    assert code == 2 and "toy-teacher is a teacher, not a student; leave --model out" in err


def test_a_class_by_its_name_in_one_step(cdedu, monkeypatch):
    """`cdedu sample cifar10-small --label horse --steps 1`, of a student that is tiny."""
    network = Network("unet", width=8, depth=1, multipliers=(1, 2), attention=(), classes=11)
    recipe = replace(recipes["cifar10-small"], network=network)
    monkeypatch.setitem(recipes, "cifar10-small", recipe)
    torch.manual_seed(0)
    student = ConsistencyModel(network.build((3, 32, 32)), noise_scale=recipe.noise_scale)
    known = {"labels": 10, "class_names": images.CIFAR10_CLASSES}
    checkpoints.save("runs/cifar10-small/student.safetensors", student, recipe, (3, 32, 32), **known)
    words = ["sample", "cifar10-small", "--steps", 1, "--number", 2, "--device", "cpu", "--label"]
    pictures = []
    for label in ("horse", images.CIFAR10_CLASSES.index("horse"), "ship", "car", "automobile"):
        code, _, err = cdedu(*words, label, "--out", f"{label}.png")
        assert code == 0, err
        pictures.append(Path(f"{label}.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2] and pictures[3] == pictures[4]
    code, _, err = cdedu(*words, "unicorn")
    assert code == 2 and "--label = 'unicorn', but" in err and "(airplane, automobile, bird, cat," in err


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(), ("--weights", "cifar10-small-student")])
def test_pictures_are_the_guided_students_unless_another_is_asked_for(cdedu, asked):
    """Of the course's two students of photographs; the other is one option away, and the command says so. Their files differ."""
    words = (
        "sample",
        "cifar10-small",
        "--number",
        1,
        "--device",
        "cpu",
        "--label",
        "ship",
        "--format",
        "png",
    )
    code, out, err = cdedu(*words, *asked)
    assert code == 0, err
    source, where = (asked[1], "student-1") if asked else ("cifar10-small-guided", "guided-1")
    assert f"1 samples of {source} in runs/cifar10-small/{where}" in out
    about = json.loads(Path("runs/cifar10-small", where, "samples.json").read_text())
    assert about["guidance"] == (None if asked else 2.0)
    assert ("its unguided one: --weights cifar10-small-student" in out) == (not asked)
    code, _, err = cdedu(*words, *asked, "--guidance", 3)
    assert code == 2 and "takes no guidance weight" in err and ("2 is built in" in err) == (not asked)


@pytest.mark.slow
def test_your_own_pictures_from_a_zip_to_a_comparison(cdedu, tmp_path, monkeypatch):
    """The small CIFAR-10 recipe with a network of a few thousand weights, on random pictures."""
    network = Network("unet", width=8, depth=1, multipliers=(1, 4), attention=(16,), dropout=0.05, classes=11)
    monkeypatch.setitem(recipes, "cifar10-small", replace(recipes["cifar10-small"], network=network))
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(comparison, "speed", lambda *a, f=comparison.speed, **k: f(*a, batch=1, repeats=1))
    data = [
        "--data",
        zip_of_pictures(tmp_path / "mine.zip", 64),
        "--test-data",
        zip_of_pictures(tmp_path / "t.zip", 33),
    ]
    for command in ("train", "distill"):
        code, out, err = cdedu(command, "cifar10-small", "--max-steps", 2, "--device", "cpu", *data)
        assert code == 0, err
        assert (
            "On the CPU this is a trial: batches of 32 instead of the recipe's 512 (--batch 512 for those)"
            in out
        )
        if command == "train":  # there is no student yet, so it is the teacher that draws
            sheet = tmp_path / "runs/cifar10-small/teacher-2.png"
            code, out, err = cdedu("sample", "cifar10-small", "--steps", 2, "--number", 4, "--device", "cpu")
            assert code == 0 and "has no student of cifar10-small yet" in out and png_size(sheet), err
    header = checkpoints.load("runs/cifar10-small/teacher.safetensors").header
    assert header.class_names == ("class0", "class1", "class2") and header.labels == 3
    assert header.recipe.network.classes == 4, "three classes, and a label that means none"
    pictures = []
    for label in ("class2", 2, "class1", "class3"):
        words = ["sample", "cifar10-small", "--number", 2, "--device", "cpu", "--label", label]
        code, out, err = cdedu(*words, "--out", f"{label}.png")
        assert code == (2 if label == "class3" else 0)
        pictures.append(Path(f"{label}.png").read_bytes() if code == 0 else None)
    assert pictures[0] == pictures[1] != pictures[2]
    assert "--label = 'class3', but" in err and "0 to 3 (class0, class1, class2, 3 for none)" in err
    code, out, err = cdedu("sample", "cifar10-small", "--steps", 2, "--number", 4, "--device", "cpu")
    assert code == 0 and png_size(tmp_path / "runs/cifar10-small/student-2.png"), err
    code, out, err = cdedu("evaluate", "cifar10-small", "--samples", 32, "--device", "cpu", *data)
    assert code == 0 and "student_1" in out and "A trial with few evaluations" in out, err
    (record,) = (json.loads(p.read_text()) for p in Path("results/runs").glob("*-evaluate-*"))
    assert record["metrics"]["n"] == 32 and record["metrics"]["features"] == "CifarClassifier"
    assert record["data"].items() >= {"name": "mine", "train": 64, "test": 33}.items()
    assert record["data"]["shape"] == [3, 32, 32]


@pytest.mark.slow
def test_rectangles_stay_rectangles_from_a_folder_to_diffusers(cdedu, tmp_path, monkeypatch):
    """Trained, distilled, sampled, compared and exported at 16 × 24, in grey."""
    from diffusers import ConsistencyModelPipeline

    small = replace(recipes["digits"], network=Network("unet", width=8, depth=1, multipliers=(1, 1, 1)))
    monkeypatch.setitem(recipes, "digits", small)
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(comparison, "speed", lambda *a, f=comparison.speed, **k: f(*a, batch=1, repeats=1))
    zip_of_pictures(Path("a.zip"), 24, size=40)
    words = [
        "digits",
        "--data",
        "a.zip",
        "--size",
        16,
        24,
        "--channels",
        1,
        "--fit",
        "pad",
        "--device",
        "cpu",
    ]
    for command in ("train", "distill"):
        code, _, err = cdedu(command, *words, "--max-steps", 2, "--batch", 4)
        assert code == 0, err
        code, _, err = cdedu(command, *words, "--size", 16, 18, "--max-steps", 2, "--out", "x")
        assert (
            code == 2
            and "16 × 18 cannot be halved 2 times, as this network does" in err
            and "16 × 16 and 16 × 20" in err
        )
    assert not Path("x").exists()
    assert (
        cdedu("sample", "digits", "--number", 3, "--format", "png", "--out", "pictures", "--device", "cpu")[0]
        == 0
    )
    assert {png_size(p) for p in Path("pictures").glob("*.png")} == {(16, 24)}
    code, out, err = cdedu("evaluate", *words, "--trial", "True", "--seeds", 1)
    assert code == 0 and "student_1" in out, err
    (record,) = (json.loads(p.read_text()) for p in Path("results/runs").glob("*-evaluate-*"))
    assert record["data"]["shape"] == [1, 16, 24]
    assert cdedu("export", "runs/digits/student.safetensors", "pipe")[0] == 0
    assert ConsistencyModelPipeline.from_pretrained("pipe").unet.config.sample_size == [16, 24]
    assert (
        cdedu("sample", "pipe", "--number", 2, "--format", "npz", "--out", "p.npz", "--device", "cpu")[0] == 0
    )
    assert np.load("p.npz")["arr_0"].shape == (2, 16, 24, 1)


def test_a_warm_restart_is_recorded_as_such_and_can_be_interrupted(cdedu, tmp_path, monkeypatch):
    assert cdedu("train", "toy", *FAST)[0] == 0
    start = "runs/toy/teacher.safetensors"
    words = ["train", "toy", *FAST, "--from-weights", start]
    assert cdedu(*words, "--out", "whole")[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, "teacher", 7)
        assert cdedu(*words, "--out", "parts")[0] == 130
    assert cdedu(*words, "--out", "parts", "--resume")[0] == 0
    for name in ("teacher.safetensors", "teacher.state.safetensors"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    found = [json.loads(p.read_text()) for p in sorted(Path("results/runs").iterdir())]
    fact = {"from": start, "sha256": checkpoints.sha256(start), "step": 20, "images": 640}
    assert [r.get("warm_restart") for r in found] == [None, fact, fact]
    assert [r["recipe"]["teacher"]["warmup"] for r in found] == [0, 500, 500]
    assert checkpoints.load("whole/teacher.safetensors").header.facts["warm_restart"] == fact


def test_precision_and_parts_reach_the_run_and_its_record(cdedu):
    words = ["--precision", "bf16", "--micro-batch", 8, "--block", 8]
    assert cdedu("train", "toy", *FAST, *words)[0] == 0
    (path,) = Path("results/runs").iterdir()
    record = json.loads(path.read_text())
    assert record["recipe"]["block"] == 8 and record["runtime"] == {
        "processes": 1, "precision": "bf16", "compile": False, "micro_batch": 8, "channels_last": False, "tf32": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "error, message",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            "memory ran out (CUDA out of memory. Tried)",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore"),
            "memory ran out ([enforce fail] DefaultCPUAllocator",
        ),
        (MemoryError("cuda has too little memory"), "cdedu: cuda has too little memory"),
    ],
)
def test_too_little_memory_ends_with_code_1_and_one_line(cdedu, monkeypatch, error, message):
    def work(*_, **__):
        raise error

    monkeypatch.setattr(cli, "train_teacher", work)
    code, _, err = cdedu("train", "toy", *FAST)
    assert code == 1 and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("capability, wanted", [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")])
def test_precision_is_chosen_by_the_gpus_capability(monkeypatch, capability, wanted):
    """A T4 (7.5) has no bf16, whatever it says."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(cli, "Runtime", lambda *a: made.append(a))
    cli._runtime(cli.Train("toy", device="cuda"), recipes["toy"])
    cli._runtime(cli.Train("toy", device="cpu"), recipes["toy"])
    assert made == [(torch.device("cuda"), wanted, False, None), (torch.device("cpu"), "fp32", False, None)]


def interrupt(monkeypatch, role: str, step: int, number: int = signal.SIGINT) -> None:
    """A real signal to this process while step ``step`` is under way."""
    name = "train_teacher" if role == "teacher" else "distill"
    function = getattr(cli, name)

    def interrupted(*args, **kwargs):
        for state in function(*args, **kwargs):
            if state.step == step:
                os.kill(os.getpid(), number)
            yield state

    monkeypatch.setattr(cli, name, interrupted)


@pytest.mark.parametrize("role, command", [("teacher", "train"), ("student", "distill")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_bytes(cdedu, tmp_path, monkeypatch, role, command, number):
    torch.manual_seed(0)
    monkeypatch.setitem(recipes, "toy", replace(recipes["toy"], network=Network(width=32, depth=2)))
    checkpoints.save(tmp_path / "t.safetensors", Teacher(MLP(2, 32, 2)), recipes["toy"], (2,))
    words = [command, "toy", *FAST, *(("--teacher", "t.safetensors") if role == "student" else ())]
    assert cdedu(*words, "--out", "whole")[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, role, 7, number)
        code, _, err = cdedu(*words, "--out", "parts")
    assert code == 128 + number and "stopped after step 7; add --resume to continue" in err
    assert [p.name for p in (tmp_path / "parts").glob("[!.]*")] == [f"{role}.state.safetensors"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    code, _, err = cdedu(*words, "--out", "parts", "--resume")
    assert code == 0, err
    for name in (f"{role}.safetensors", f"{role}.state.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    resumed_at = {json.loads(p.read_text())["resumed_at"] for p in (tmp_path / "results" / "runs").iterdir()}
    assert resumed_at == {None, 7}
    code, out, _ = cdedu(*words, "--out", "parts", "--resume")
    assert code == 0 and "nothing to do" in out


def test_an_interrupt_while_sampling_ends_without_a_traceback(cdedu, monkeypatch):
    monkeypatch.setattr(cli.samples, "draw", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    checkpoints.save("s.safetensors", ConsistencyModel(MLP()), recipes["toy"], (2,))
    code, _, err = cdedu("sample", "toy", "--weights", "s.safetensors", "--device", "cpu")
    assert code == 130 and err == ""


def test_an_interrupt_during_the_last_step_changes_nothing(cdedu, tmp_path, monkeypatch):
    interrupt(monkeypatch, "teacher", 20)
    assert cdedu("train", "toy", *FAST)[0] == 0
    assert (tmp_path / "runs/toy/teacher.safetensors").is_file()


def test_states_are_saved_along_the_way(cdedu, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(runs, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(runs, "SAVING_SHARE", math.inf)
    monkeypatch.setattr(checkpoints, "save_state", lambda path, state, **facts: saved.append(state.step))
    assert cdedu("train", "toy", *FAST)[0] == 0
    assert saved == [*range(1, 21)]


def test_a_loss_that_is_no_number_stops_with_one_line_and_a_state(cdedu, tmp_path, monkeypatch):
    function, calls = training.denoising_loss, []

    def poisoned(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs) * (math.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(training, "denoising_loss", poisoned)
    code, _, err = cdedu("train", "toy", *FAST)
    assert code == 1 and "Traceback" not in err
    assert "cdedu: the loss became nan at step 5 of 20; the weights of step 4 are kept" in err
    tensors, header = checkpoints.read_tensors(tmp_path / "runs/toy/teacher.state.safetensors")
    assert header["step"] == 4 and all(t.isfinite().all() for t in tensors.values())
    assert not (tmp_path / "runs/toy/teacher.safetensors").exists()


def test_overwrite_starts_anew(cdedu, tmp_path):
    assert cdedu("train", "toy", *FAST)[0] == 0
    path = tmp_path / "runs/toy/teacher.safetensors"
    before = path.read_bytes()
    code, _, err = cdedu("train", "toy", *FAST, "--seed", 1)
    assert code == 2 and "add --resume to continue, --overwrite to start over, or choose another --out" in err
    assert path.read_bytes() == before
    assert cdedu("train", "toy", *FAST, "--seed", 1, "--overwrite")[0] == 0
    assert path.read_bytes() != before
    code, _, err = cdedu("train", "toy", *FAST, "--resume")
    assert code == 2 and "written with recipe.seed = 1, now it is 0" in err


@pytest.mark.slow
@pytest.mark.parametrize("data", ["circles", "eight_gaussians"])
def test_other_data_than_the_recipes(cdedu, tmp_path, data):
    assert cdedu("train", "toy", *FAST, "--data", data)[0] == 0
    assert checkpoints.load(tmp_path / "runs/toy/teacher.safetensors").header.facts["data"]["name"] == data


def test_samples_start_as_noise_of_the_greatest_level_and_the_student_is_told_so():
    """x = T z, conditioned on T."""
    seen = []

    class Student(ConsistencyModel):
        def forward(self, x, sigma, **cond):
            seen.append((x, float(sigma)))
            return 0 * x

    student, recipe = Student(MLP()), recipes["toy"]
    runs.generate(student, recipe, (2,), 2, 10_000, seed=0)
    (x, sigma), (_, second) = seen
    assert (sigma, second) == (80.0, recipe.student.second_sigma)
    assert x.std().item() == pytest.approx(80, rel=0.02)


BAD = {
    "unknown recipe": ("train toys", "recipe 'toys' is not known; choose one of toy, digits"),
    "unknown data": ("train toy --data moons", "data = 'moons' is not known; choose one of two_moons"),
    "images for points": ("train toy --data digits", "--data digits does not suit recipe 'toy'"),
    "clouds for points": ("train toy --data clouds", "whose mlp takes points"),
    "points for clouds": ("train points --data circles", "whose set takes clouds of points"),
    "points for images": ("train digits --data circles", "--data circles does not suit recipe 'digits'"),
    "unknown device": ("train toy --device abacus", "--device 'abacus' is not known; use cpu"),
    "absent device": ("train toy --device cuda:99", "--device cuda:99 is not to be had"),
    "nothing to resume": ("train toy --resume", "there is nothing to resume: no runs/toy/teacher.state.safetensors"),
    "both": ("train toy --resume --overwrite", "--resume continues a run and --overwrite starts over; give one"),
    "unwritable run": ("train toy --out file/run", "cannot write into file/run: Not a directory; choose another folder"),
    "unwritable results": ("train toy --results file", "cannot write into file: File exists; choose another folder"),
    "unwritable comparison": ("evaluate toy --results file/x", "cannot write into file/x"),
    "unwritable picture": ("sample toy --weights t.safetensors --out file/x.png", "cannot write into file"),
    "missing teacher": ("distill toy --teacher gone.safetensors", "there is no checkpoint gone.safetensors"),
    "unknown weights": ("sample toy --weights gone", "no weights are called 'gone'"),
    "corrupt teacher": ("distill toy --teacher torn.safetensors", "torn.safetensors is not a checkpoint"),
    "corrupt weights": ("sample toy --weights torn.safetensors", "torn.safetensors is not a checkpoint"),
    "corrupt student": ("evaluate toy --teacher t.safetensors --student torn.safetensors", "torn.safetensors is not"),
    "pickle": ("sample toy --weights file.pkl", "file.pkl is not a checkpoint"),
    "student as teacher": ("distill toy --teacher s.safetensors", "s.safetensors is a student"),
    "teacher of other data": ("distill toy --teacher t3.safetensors", "data of another shape than two_moons's"),
    "comparison of other data": ("evaluate toy --teacher t3.safetensors --student s.safetensors", "another shape"),
    "no grid points": ("sample toy --model teacher --weights t.safetensors --steps 1", "at least 2 points"),
    "weights of another recipe": (
        "sample digits --weights s.safetensors", "s.safetensors is of recipe 'toy', not of recipe 'digits'; give 'toy' in its place",
    ),
    "pictures of another recipe": (
        "sample cifar10-small --weights digits-teacher", "is of recipe 'digits', not of recipe 'cifar10-small'; give 'digits' in its place",
    ),
    "points as pictures": ("sample toy --weights s.safetensors --format png", "shape (2,) are no pictures; write them with --format npz"),
    "pictures in a file": ("sample toy --format png --out a.png", "--out a.png is a file, but --format png writes a folder"),
    "arrays in a folder": ("sample toy --format npz --out empty", "--out empty is a folder, but --format npz writes one file"),
    "arrays as a picture": ("sample toy --format npz --out a.png", "--format npz writes a file that ends in .npz"),
    "a sheet of no kind": ("sample toy --out a.abc", "--format sheet writes a file that ends in .png or"),
    "too much for the disk": (
        f"sample toy --weights s.safetensors --number {10**15} --format npz", "would need 16.0 PB, but runs/toy has",
    ),
    "too much for the memory": (f"train toy --batch {10**10}", "a batch of 10,000,000,000 samples would need at least 160.0 GB of memory"),
    "too many samples at once": (
        f"sample toy --weights s.safetensors --batch {10**11} --number {10**11} --format npz", "would need at least 1.6 TB of memory",
    ),
    "a size for data without one": ("train toy --size 32", "two_moons comes as it is; size can be chosen for a folder or zip"),
    "pictures for data without": ("train toy --test-data a.zip", "two_moons comes as it is; test data can be chosen for"),
    "a fit without a size": ("train digits --data a.zip --fit pad", "fit = 'pad' says how pictures become those of a size"),
    "a size that cannot be halved": ("train digits --data a.zip --size 16 17", "pictures of 16 × 17 cannot be halved 1 times"),
    "a tracker that is not there": ("train toy --log clearml", "--log clearml needs the package clearml: pip install clearml"),
    "a distance of nothing": ("distance gone a.npz", "there is no file a.npz"),
    "weights of another network": (
        "distill toy --teacher wide.safetensors",
        "wide.safetensors holds another network than recipe 'toy' has; it was trained with 'wide'",
    ),
    "restart from another network": ("train toy --from-weights wide.safetensors", "holds another network than recipe 'toy'"),
    "restart from nothing": ("train toy --from-weights gone.safetensors", "there is no checkpoint gone.safetensors"),
    "another noise scale": (
        "distill toy --teacher n250.safetensors", "has noise_scale 250 and sigma_data 0.5, recipe 'toy' has 0.25 and 0.5",
    ),
    "no such zip": ("train digits --data gone.zip", "there is no folder or zip gone.zip"),
    "no such test zip": ("train digits --data a.zip --test-data gone.zip", "there is no folder or zip gone.zip"),
    "no picture": ("train digits --data empty", "empty holds no picture"),
    "damaged zip": ("train digits --data file.zip", "file.zip is neither a folder nor a zip, or the zip is damaged"),
    "data that cannot be fetched": ("train imagenet64", "imagenet64 cannot be downloaded freely; give a folder or zip"),
    "fp16 on the CPU": ("train toy --device cpu --precision fp16", "fp16 needs a GPU; use bf16 or fp32 on the CPU"),
    "Inception on points": (
        "evaluate toy --teacher t.safetensors --student s.safetensors --inception",
        "Inception scores need 8-bit RGB images, not two_moons; leave --inception out",
    ),
    "lpips on points": ("distill toy-lpips --teacher t.safetensors", "lpips compares RGB images (B, 3, H, W), got (1, 2)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_code_2_and_at_most_two_lines(cdedu, tmp_path, monkeypatch, case):
    words, message = BAD[case]
    recipe = replace(recipes["toy"], network=Network(width=8, depth=1))
    monkeypatch.setitem(recipes, "toy", recipe)
    lpips = replace(recipe, name="toy-lpips", student=replace(recipe.student, distance="lpips"))
    monkeypatch.setitem(recipes, "toy-lpips", lpips)
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    wide = replace(recipe, name="wide", network=Network(width=16, depth=1))
    checkpoints.save("wide.safetensors", Teacher(MLP(2, 16, 1)), wide, (2,))
    checkpoints.save("n250.safetensors", Teacher(MLP(2, 8, 1), noise_scale=250.0), recipe, (2,))
    Path("empty").mkdir()
    Path("file.zip").write_text("no zip")
    zip_of_pictures(Path("a.zip"), 2, size=8)
    checkpoints.save("t.safetensors", Teacher(MLP(2, 8, 1)), recipe, (2,))
    checkpoints.save("t3.safetensors", Teacher(MLP(3, 8, 1)), recipe, (3,))
    checkpoints.save("s.safetensors", ConsistencyModel(MLP(2, 8, 1)), recipe, (2,))
    Path("file").write_text("in the way\n")
    Path("file.pkl").write_bytes(b"\x80\x04.")
    Path("torn.safetensors").write_bytes(Path("t.safetensors").read_bytes()[:700])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def work(*_, **__):
        raise AssertionError("work was begun")

    for name in ("train_teacher", "distill"):
        monkeypatch.setattr(cli, name, work)
    code, out, err = cdedu(*words.split())
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.startswith("cdedu: ") and message in err and len(err.strip().splitlines()) <= 2
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.parent.name != "cache"}
    assert after == before


OUT_OF_RANGE = {
    "train toy": "--max-steps=0 --max-steps=-1 --batch=0 --batch=-8 --block=0 --block=-1 --lr=0 --lr=-1 --lr=nan --lr=inf --seed=-1 "
    f"--seed={2**70} --seed={10**19} --micro-batch=0 --micro-batch=-3 --ema=1 --ema=-0.1 --ema=nan --picture-every=0 --picture-every=-1",
    "train digits --data a.zip": "--size=0 --size=-4 --size=1000000",
    "distill toy": "--batch=0 --guidance=-1 --guidance=nan",
    "sample toy": "--steps=0 --steps=-1 --steps=1000000000 --number=0 --number=-2 --batch=0 --seed=-1 --guidance=-1 --guidance=inf",
    "evaluate toy": "--samples=0 --samples=1 --samples=-5 --seeds=0 --seeds=-1 --guidance=-1 --size=0",
    "export toy-student x": "--guidance=-1 --guidance=nan",
    "plan toy": "--gpus=0 --share=0 --share=1.5 --price=-1 --peak=0 --memory=-1 --shape=0",
}


@pytest.mark.parametrize("words", OUT_OF_RANGE)
def test_a_number_outside_its_range_is_refused_with_the_range(cdedu, tmp_path, words):
    for option in OUT_OF_RANGE[words].split():
        code, out, err = cdedu(*words.split(), option)
        assert code == 2 and out == "" and len(err.splitlines()) == 1, (option, err)
        assert re.match(
            rf"cdedu: {option.split('=')[0]} = \S+, but it must be (at least|positive|from|above) ?", err
        ), err
    assert not list(tmp_path.iterdir())


def test_every_number_of_every_command_has_a_range():
    """Nothing numeric comes in at the door unchecked: a field without a range is a new one that somebody forgot."""
    asked = 0
    for command in get_args(cli.Command):
        kind = get_args(command)[0] if get_origin(command) is Annotated else command
        for name, hint in get_type_hints(kind, include_extras=True).items():
            found = list(numbers(hint))
            assert None not in found, f"{kind.__name__}.{name} has no range"
            asked += len(found)
    assert asked > 40 and None in numbers(int | None) and None in numbers(tuple[float, ...])


@pytest.mark.parametrize("world", ["", "1"])
def test_an_empty_number_of_processes_is_one(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    assert cli._runtime(cli.Train("toy", device="cpu"), recipes["toy"]).world == 1


@pytest.mark.parametrize("world", ["two", "-1", "0", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(cdedu, monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    code, _, err = cdedu("train", "toy", *FAST)
    assert code == 2 and f"WORLD_SIZE = '{world}', but it is a number of processes" in err


def test_a_number_of_processes_alone_says_not_where_they_are(cdedu, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    code, _, err = cdedu("train", "toy", *FAST)
    assert (
        code == 2
        and "WORLD_SIZE = 2, but nothing says where the other processes are; start with torchrun, or unset it"
        in err
    )


def test_inception_without_its_library_is_refused_before_work(cdedu, monkeypatch):
    def work(*_, **__):
        raise AssertionError("work was begun")

    recipe = replace(recipes["cifar10"], network=Network("ddpmpp", width=4, depth=1, multipliers=(1,)))
    network = recipe.network.build((3, 8, 8))
    checkpoints.save("t.safetensors", Teacher(network), recipe, (3, 8, 8))
    checkpoints.save("s.safetensors", ConsistencyModel(network), recipe, (3, 8, 8))
    zip_of_pictures(Path("a.zip"), 4, size=8)
    monkeypatch.setattr(images, "CACHE", Path("cache"))
    monkeypatch.setattr(comparison, "compare", work)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    words = "evaluate cifar10 --teacher t.safetensors --student s.safetensors --data a.zip --inception --device cpu"
    code, _, err = cdedu(*words.split())
    assert code == 2 and 'need torch-fidelity: pip install "cdedu[full]"' in err and "Traceback" not in err


def test_lpips_without_its_weights_is_refused_before_work(cdedu, monkeypatch):
    def offline(device):
        raise RuntimeError("lpips needs VGG-16's weights; or choose the distance pseudo_huber")

    recipe = replace(recipes["cifar10"], network=Network("ddpmpp", width=4, depth=1, multipliers=(1,)))
    monkeypatch.setitem(recipes, "cifar10", recipe)
    monkeypatch.setattr("cdedu.perceptual._lpips_network", offline)
    monkeypatch.setattr(images, "CACHE", Path("cache"))
    checkpoints.save("t.safetensors", Teacher(recipe.network.build((3, 8, 8))), recipe, (3, 8, 8))
    zip_of_pictures(Path("a.zip"), 4, size=8)
    code, _, err = cdedu(
        "distill", "cifar10", "--teacher", "t.safetensors", "--data", "a.zip", "--device", "cpu"
    )
    assert code == 2 and "lpips needs VGG-16's weights; or choose the distance pseudo_huber" in err
    assert not list(Path("runs/cifar10").iterdir())


@pytest.mark.parametrize("words", ["", "trian toy", "train toy --max-steps many", "sample toy --model pupil"])
def test_words_that_cannot_be_parsed_end_with_code_2(cdedu, words):
    code, _, err = cdedu(*words.split())
    assert code == 2 and "Traceback" not in err


def test_help_lists_commands_and_recipes(cdedu):
    code, out, _ = cdedu("--help")
    assert code == 0 and all(
        word in out for word in ("train", "distill", "sample", "evaluate", "toy", "digits")
    )


@pytest.fixture
def ddpm(tmp_path):
    """A folder as `scripts/weights/ddpm_digits.py` leaves it, after two steps."""
    from scripts.weights.ddpm_digits import train

    train(tmp_path / "ddpm", steps=2, batch=8)
    return tmp_path / "ddpm"


@pytest.mark.slow
def test_a_ddpm_of_diffusers_becomes_a_pipeline_of_one_step(cdedu, ddpm, monkeypatch):
    """Distil, interrupted and resumed; sample; export; sample again by diffusers alone."""
    from diffusers import ConsistencyModelPipeline

    small = replace(recipes["digits"], network=Network("unet", width=8, depth=1))
    monkeypatch.setitem(recipes, "digits", small)
    words = "distill digits --max-steps 4 --batch 8 --device cpu --teacher".split()
    code, out, err = cdedu(*words, ddpm, "--out", "whole")
    assert code == 0 and "it learns σ from 0.0100013 to 80" in out, err
    with monkeypatch.context() as patch:
        interrupt(patch, "student", 2)
        assert cdedu(*words, ddpm, "--out", "parts")[0] == 130
    assert cdedu(*words, ddpm, "--out", "parts", "--resume")[0] == 0
    path = Path("parts/student.safetensors")
    assert path.read_bytes() == Path("whole/student.safetensors").read_bytes()
    header = checkpoints.load(path).header
    assert header.facts["teacher"] == {
        "source": str(ddpm),
        "sha256": checkpoints.sha256(ddpm / "unet" / "diffusion_pytorch_model.safetensors"),
    }
    for weights, model in ((path, "student"), (ddpm, "teacher")):
        sample = ["sample", "digits", "--weights", weights, "--model", model, "--steps", 2, "--number", 4]
        assert cdedu(*sample, "--device", "cpu")[0] == 0
    Path("record.json").write_text(json.dumps({"metrics": {"fd": 1.5}}))
    export = ["export", path, "pipe", "--license", "apache-2.0"]
    assert cdedu(*export, "--record", "record.json")[0] == 0
    card = Path("pipe/README.md").read_text()
    assert "license: apache-2.0" in card and "| fd | 1.5 |" in card and f"| teacher | {ddpm} |" in card
    pipe = ConsistencyModelPipeline.from_pretrained("pipe")
    assert pipe(batch_size=2, output_type="np").images.shape == (2, 8, 8, 1)
    code, _, err = cdedu(*export)
    assert code == 2 and "pipe is there and not empty; nothing was written" in err
    code, _, err = cdedu(*words, "pipe", "--out", "third")
    assert code == 2 and "pipe is a student; distillation needs a teacher" in err


@pytest.mark.parametrize(
    "record, message",
    [
        ("{", "record.json is no results record"),
        ("", "record.json is no results record"),
        ("[]", "it has no table of metrics"),
        ("3", "it has no table of metrics"),
        ('{"seconds": 3}', "it has no table of metrics"),
        ('{"metrics": [1, 2]}', "it has no table of metrics"),
        ('{"metrics": {"samplers": 5}}', "these metrics are not as `cdedu evaluate` records them"),
        ('{"metrics": {"samplers": {}, "seeds": 1, "n": 2}}', "these metrics are not as"),
        (
            '{"metrics": {"fd": 1}, "recipe": {"name": "toy"}}',
            "record.json is of recipe 'toy', but digits-student of 'digits'",
        ),
        (
            '{"metrics": {"fd": 1}, "sha256": {"student": "0"}}',
            "whose weights are not those of digits-student; measure these",
        ),
    ],
)
def test_figures_that_are_none_or_of_other_weights_come_into_no_card(cdedu, record, message):
    Path("record.json").write_text(record)
    code, _, err = cdedu("export", "digits-student", "pipe", "--record", "record.json")
    assert code == 2 and message in err and not Path("pipe").exists()


@pytest.mark.parametrize(
    "words, option",
    [
        (["train", "toy", "--data", ""], "--data"),
        (["distill", "toy", "--teacher", ""], "--teacher"),
        (["sample", "toy", "--weights", ""], "--weights"),
        (["evaluate", "toy", "--student", ""], "--student"),
        (["export", ""], "--weights"),
    ],
)
def test_an_option_without_its_value_is_not_taken_for_none(cdedu, words, option):
    """As a script gives it whose variable is not set: the course's own data or weights would be used in its place."""
    code, _, err = cdedu(*words, *["pipe"] * (words[0] == "export"))
    assert code == 2 and f"{option} is empty; give it a value, or leave it out" in err
    assert not Path("runs").exists()


def test_a_folder_that_is_called_as_a_data_set_is_spoken_of(cdedu):
    Path("two_moons").mkdir()
    code, _, err = cdedu("train", "toy", *FAST, "--data", "two_moons", "--out", "a")
    assert (
        code == 0
        and "--data two_moons is the data set of the course; for what is called so here, give ./two_moons"
        in err
    )
    code, _, err = cdedu("train", "toy", *FAST, "--out", "b")
    assert code == 0 and "two_moons" not in err
    code, _, err = cdedu("train", "toy", *FAST, "--data", "./two_moons", "--out", "c")
    assert code == 2 and "two_moons holds no picture" in err


def test_a_run_that_was_stopped_beyond_the_wanted_end_is_not_said_to_be_done(cdedu, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "teacher", 2)
        assert cdedu("train", "toy", *FAST)[0] == 130
    code, _, err = cdedu("train", "toy", *FAST, "--max-steps", 1, "--resume")
    assert (
        code == 2
        and "teacher.state.safetensors is at step 2, beyond --max-steps 1; give 2 or more, or use its weights"
        in err
    )


@pytest.mark.parametrize("name", ["gone.safetensors", "gone/model.pkl"])
def test_a_file_that_is_not_there_is_taken_for_no_recipe(cdedu, name):
    code, _, err = cdedu("sample", name)
    assert code == 2 and f"there is no checkpoint {name}" in err


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(cdedu, monkeypatch, closed):
    monkeypatch.setattr(sys, closed, None)
    assert cdedu("plan", "toy", "--gpu", "t4")[0] == 0


@pytest.mark.parametrize("license", ["a: b", "mit\n---\n# mine", "[mit]"])
def test_a_licence_is_one_word_of_the_cards_header(cdedu, license):
    code, _, err = cdedu("export", "digits-student", "pipe", "--license", license)
    assert (
        code == 2 and "the hub spells it in one word, such as apache-2.0" in err and not Path("pipe").exists()
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["export", "digits-teacher", "x"], "Teacher is not of the form"),
        (["export", "toy-student", "x"], "network is a MLP"),
        (["export", "nobody", "x"], "no weights are called 'nobody'"),
        (["distill", "digits", "--teacher", "nobody/nothing"], "there is no folder nobody/nothing"),
        (["distill", "digits", "--teacher", "gone.pkl"], "there is no checkpoint gone.pkl"),
    ],
)
def test_models_that_cannot_be_had_or_exported_end_with_code_2(cdedu, monkeypatch, words, message):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    code, _, err = cdedu(*words)
    assert code == 2 and message in err and "Traceback" not in err and not Path("x").exists()


@pytest.fixture
def labelled(tmp_path):
    """The same with labels, the last of which means none."""
    from scripts.weights.ddpm_digits import train

    train(tmp_path / "labelled", steps=2, labels=True, batch=8)
    return "labelled"


@pytest.mark.weekly
def test_a_guided_student_over_the_teachers_own_network(cdedu, labelled, monkeypatch):
    """Distil with the weight as an input, interrupted and resumed; sample; compare. The teacher is a folder of diffusers."""
    words = "distill digits --max-steps 4 --batch 4 --device cpu --network teacher --guidance 1 4 --teacher".split()
    assert cdedu(*words, labelled, "--out", "whole", "--picture-every", 3)[0] == 0
    assert png_size(Path("whole/student-0000003.png"))
    with monkeypatch.context() as patch:
        interrupt(patch, "student", 2)
        assert cdedu(*words, labelled, "--out", "parts")[0] == 130
    code, _, err = cdedu(*words, labelled, "--out", "parts", "--resume")
    path = Path("parts/student.safetensors")
    assert code == 0 and path.read_bytes() == Path("whole/student.safetensors").read_bytes(), err
    student = checkpoints.load(path)
    assert isinstance(student, DenoiserStudent) and student.sigma_min == pytest.approx(0.01, rel=0.01)
    assert student.header.guidance == (1.0, 4.0) and student.header.labels == 10
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        low, high = (student(x, 2.0, labels=labels, guidance=w) for w in (1.0, 4.0))
    assert not low.equal(high)
    pictures = []
    for more in (["--guidance", 1], ["--guidance", 1, "--label", 7]):
        assert cdedu("sample", path, "--number", 4, "--device", "cpu", "--out", "a.png", *more)[0] == 0
        pictures.append(Path("a.png").read_bytes())
    assert pictures[0] != pictures[1]
    make_comparison_cheap(monkeypatch)
    monkeypatch.setattr(cli, "load_data", lambda *_: digits_with_few_tests())
    compared = ["evaluate", "digits", "--teacher", labelled, "--student", path, "--device", "cpu"]
    code, out, err = cdedu(*compared, "--guidance", 2)
    assert code == 0 and "student_1" in out, err
    for words, message in {
        ("sample", path): "takes the guidance weight as an input, from 1 to 4; give --guidance in that range",
        tuple(compared): "takes the guidance weight as an input, from 1 to 4; give --guidance in that range",
        ("sample", path, "--guidance", 2, "--label", 11): "--label = '11', but parts/student.safetensors knows the labels 0 to 10",
        ("sample", path, "--guidance", -1): "--guidance = -1.0, but it must be at least 0",
        ("export", path, "x"): "DenoiserStudent is not of the form",
        ("train", "digits", "--from-weights", path): "--from-weights takes a model of this package's form",
        ("distill", "digits", "--out", "z", "--teacher", path): "is a student; distillation needs a teacher",
    }.items():  # fmt: skip
        code, _, err = cdedu(*words)
        assert code == 2 and message in err and "Traceback" not in err, words


def digits_with_few_tests() -> Dataset:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, 8, 8, generator=g).clamp(-1, 1)
    labels = torch.arange(60) % 10
    return Dataset("digits", x[:40], x[40:], labels[:40], labels[40:])


@pytest.mark.parametrize("guidance", [(), (2.0,), (1.0, 4.0)])
def test_a_labelled_student_is_called_whatever_weights_it_was_distilled_at(guidance):
    """None, one, or a range, of which the network is not told."""
    student = ConsistencyModel(unet(8, 1, (8, 16), classes=11))
    student.header = checkpoints.Header((1, 8, 8), recipes["digits"], 11, 10, guidance=guidance)
    model, cond = fitting.conditioned(student, "mine", None)
    assert model is student and cond["labels"].tolist() == list(range(10))
    with pytest.raises(ValueError, match="mine is a student that takes no guidance weight"):
        fitting.conditioned(student, "mine", 2.0)


@pytest.mark.weekly
def test_a_guided_student_leaves_at_one_weight_and_its_folder_is_a_student(cdedu, labelled, monkeypatch):
    """The recipe's own network, the weight as an input and then fixed; the folder is sampled and compared by its name."""
    small = replace(recipes["digits"], network=Network("unet", width=8, depth=1))
    monkeypatch.setitem(recipes, "digits", small)
    words = "distill digits --max-steps 2 --batch 4 --device cpu --teacher".split()
    assert cdedu(*words, labelled, "--out", "free", "--guidance", 1, 4)[0] == 0
    assert cdedu(*words, labelled, "--out", "fixed", "--guidance", 2)[0] == 0
    free = "free/student.safetensors"
    code, _, err = cdedu("export", free, "pipe")
    assert code == 2 and "fix it: guidance=2.0, or --guidance 2 on the command line" in err
    assert cdedu("export", free, "pipe", "--guidance", 3)[0] == 0
    code, out, err = cdedu("sample", "pipe", "--number", 4, "--steps", 2, "--device", "cpu")
    assert code == 0 and png_size(Path("runs/pipe/student-2.png")), err
    teacher = ["sample", labelled, "--steps", 2, "--number", 4, "--device", "cpu"]
    assert cdedu(*teacher, "--guidance", 2)[0] == 0 and png_size(Path("runs/labelled/teacher-2.png"))
    make_comparison_cheap(monkeypatch)
    monkeypatch.setattr(cli, "load_data", lambda *_: digits_with_few_tests())
    for student in ("pipe", "fixed/student.safetensors"):
        compared = ["evaluate", "digits", "--teacher", labelled, "--student", student, "--device", "cpu"]
        code, out, err = cdedu(*compared, "--guidance", 2)
        assert code == 0 and "student_1" in out, err


GUIDANCE = {
    "distill digits --guidance 2": "digits-teacher has no labels, so there is nothing to guide toward",
    "distill toy --guidance 1 4": "toy-teacher has no labels, so there is nothing to guide toward",
    "distill digits --teacher labelled --guidance 4 1": "--guidance 4 1: give one weight, or a lower and a higher one",
    "distill digits --teacher labelled --guidance 1 2 3": "--guidance 1 2 3: give one weight",
    "distill digits --teacher labelled --guidance -1": "--guidance = -1.0, but it must be at least 0, each",
    "distill digits --teacher ten --guidance 2": "ten knows 10 labels, as many as digits has; guidance needs a teacher with one more",
    "sample digits --guidance 2": "digits-student knows no labels; leave --guidance out",
    "sample toy --label 1": "toy-student knows no labels; leave --label out",
    "sample labelled --steps 2 --label 11": "--label = '11', but labelled knows the labels 0 to 10",
    "evaluate digits --guidance 2": "digits-teacher knows no labels; leave --guidance out",
    "sample labelled --steps 1": "labelled is a teacher, whose walk has at least 2 points; give --steps, such as 18",
    "export digits-student labelled/unet/config.json/x": "cannot write into",
    "sample empty": "there is no empty/config.json; is empty a folder that diffusers saved?",
    "sample nobody/nothing": "there is no folder nobody/nothing",
}


def test_guidance_without_what_it_needs_ends_with_code_2(cdedu, labelled, monkeypatch):
    import huggingface_hub
    from diffusers import DDPMPipeline, DDPMScheduler

    from scripts.weights.ddpm_digits import small_unet

    def offline(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr("scripts.weights.ddpm_digits.NO_LABEL", 9)
    DDPMPipeline(small_unet(labels=True), DDPMScheduler()).save_pretrained("ten")
    Path("empty").mkdir()
    for words, message in GUIDANCE.items():
        code, out, err = cdedu(*words.split())
        assert code == 2 and message in err.strip().splitlines()[-1] and "Traceback" not in err, (words, err)


@pytest.mark.parametrize("name", ["modes", "points", "frames", "labelled-digits"])
def test_a_recipe_of_a_single_chapter_trains(cdedu, name):
    code, out, err = cdedu("train", name, "--max-steps", 1, "--batch", 4)
    assert code == 0 and f"runs/{name}/teacher.safetensors" in out, err


@pytest.mark.parametrize(
    "words, lock",
    [
        ("train toy --out run", "run/.lock"),
        ("distill toy --out run", "run/.lock"),
        ("sample toy --format npz --out many.npz", ".many.npz.lock"),
        ("sample digits --format png --out many", ".many.lock"),
    ],
)
def test_two_commands_never_write_in_one_place(cdedu, tmp_path, words, lock):
    """Two that add to one file would both end well, with each other's samples in it."""
    command = [*words.split(), *(["--number", 4, "--device", "cpu"] if "sample" in words else FAST)]
    with locked(lock, ""):
        code, _, err = cdedu(*command)
        assert code == 2 and "cdedu: another " in err and "wait for its end" in err and "--out" in err, err
        assert not [p for p in tmp_path.rglob("[!.]*") if p.is_file()]
    assert cdedu(*command)[0] == 0


def test_other_data_are_refused_by_a_state_and_the_weights_can_be_taken_along(cdedu, tmp_path):
    """Pictures that were removed, another size, other labels: what is trained on them is another run. A folder may move."""
    for i in range(12):
        path = tmp_path / "pictures" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.byte().numpy()).save(path)
    own = 'like = "cifar10-small"\nnetwork = { width = 8, multipliers = [1], attention = [] }\ndata = "pictures"\nflip = false\n'
    (tmp_path / "mine.toml").write_text(f"[mine]\n{own}")
    words = ["train", "mine.toml", "--batch", 4, "--block", 4, "--device", "cpu", "--out", "run"]
    begun = [*words, "--data", "pictures", "--max-steps", 2]
    assert cdedu(*begun)[0] == 0
    on = [*words, "--resume", "--max-steps", 3]
    state = Path("run/teacher.state.safetensors")
    before = state.read_bytes()
    for other in (["--data", "pictures", "--size", 8], ["--data", "pictures/0"]):
        code, _, err = cdedu(*on, *other)
        assert code == 2 and "was trained on pictures, 11 of 3 x 16 x 16" in err and "--from-weights" in err
        assert state.read_bytes() == before
    shutil.move("pictures", "moved")
    assert cdedu(*on, "--data", "moved")[0] == 0
    (tmp_path / "moved" / "0" / "0.png").unlink()
    assert "was trained on" in cdedu(*on, "--data", "moved")[2]
    taken = ["--from-weights", state, "--data", "moved", "--out", "other"]
    assert cdedu(*words, "--max-steps", 1, *taken)[0] == 0


def test_a_resumed_run_has_the_teacher_the_guidance_and_the_precision_that_it_began_with(cdedu, tmp_path):
    """Its end would be that of neither; the state and the way on are named, and nothing is written."""
    fast = ["digits", "--batch", 4, "--device", "cpu", "--out", "run"]
    assert cdedu("distill", *fast, "--max-steps", 1, "--teacher", "digits-teacher")[0] == 0
    assert (
        cdedu("train", "digits", "--max-steps", 1, "--batch", 4, "--device", "cpu", "--out", "other")[0] == 0
    )
    state = Path("run/student.state.safetensors")
    before = state.read_bytes()
    on = ["distill", *fast, "--max-steps", 2, "--resume"]
    for more, words in (
        (["--teacher", "other/teacher.safetensors"], "began with --teacher digits-teacher, now it is other/"),
        (
            ["--teacher", "digits-teacher", "--precision", "bf16"],
            "began with --precision fp32, now it is bf16",
        ),
    ):
        code, _, err = cdedu(*on, *more)
        assert code == 2 and words in err and "--from-weights" in err and state.read_bytes() == before, err
    assert cdedu(*on, "--teacher", "digits-teacher")[0] == 0

    begun = {"teacher": {"source": "t", "sha256": "a"}, "guidance": [1.0, 3.0], "precision": "fp32"}
    run = replace(
        cli._prepare(cli.Train("toy", device="cpu"), "teacher"), facts=begun | {"guidance": [0.0, 9.0]}
    )
    with pytest.raises(ValueError, match=r"began with --guidance \[1.0, 3.0\], now it is \[0.0, 9.0\]"):
        cli._same_run(cli.Train("toy"), run, begun)


@pytest.mark.parametrize(
    "words, wanted",
    [
        (
            "evaluate digits --student digits-teacher",
            "digits-teacher is a teacher; --student takes a student",
        ),
        (
            "evaluate digits --teacher digits-student",
            "digits-student is a student; --teacher takes a teacher",
        ),
        (
            "train digits --from-weights digits-student --out x",
            "is a student; --from-weights takes a teacher",
        ),
        ("evaluate digits --samples 999999", "--samples 999,999, but digits has 600 to compare with"),
        ("train toy --micro-batch 4 --out x", "--micro-batch 4, but 512 samples share a random generator"),
        ("train cifar10-small --data p.zip --micro-batch 8 --out x", "8, but 16 samples share"),
    ],
)
def test_what_cannot_be_meant_is_refused(cdedu, words, wanted):
    with zipfile.ZipFile("p.zip", "w") as file:
        for i in range(4):
            data = io.BytesIO()
            Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(data, "png")
            file.writestr(f"{i % 2}/{i}.png", data.getvalue())
    code, _, err = cdedu(*words.split(), "--device", "cpu")
    assert code == 2 and wanted in err and not Path("x/teacher.safetensors").exists(), err
