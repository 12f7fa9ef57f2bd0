"""The long CIFAR-10 run goes on after anything, and what it leaves can be loaded."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdedu import checkpoints
from cdedu.data import Dataset, to_unit
from cdedu.networks.classifiers import CifarClassifier, CifarReferee
from cdedu.recipes import Network, recipes
from scripts.weights import cifar_run

G = torch.Generator().manual_seed(0)
PICTURES = torch.randint(0, 256, (60, 3, 32, 32), generator=G, dtype=torch.uint8)
NAMES = tuple("abcdefghij")
DATA = Dataset(
    "cifar10-jpeg", PICTURES[:40], PICTURES[40:], torch.arange(40) % 10, torch.arange(20) % 10, NAMES
)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The same run with a network of a few thousand weights and legs of a few steps."""
    network = Network("unet", width=8, depth=1, multipliers=(1, 1), classes=11)
    monkeypatch.setitem(recipes, "cifar10-small", replace(recipes["cifar10-small"], network=network))
    plan = (
        cifar_run.Part("teacher", 64, 16, 1e-3, 0.9, (0.5,)),
        cifar_run.Part("teacher", 128, 32, 1e-3, 0.9, ()),
    )
    for name, value in {
        "PLAN": plan, "EARLY": (32,), "EVERY": 100, "SAMPLES": 20, "SEEDS": 2, "POINTS": 2, "CURVE": 16,
        "CHOICE_SAMPLES": 20, "RECORD": tmp_path / "published.json",
    }.items():  # fmt: skip
        monkeypatch.setattr(cifar_run, name, value)
    monkeypatch.setattr(cifar_run, "fast_precision", lambda device: "fp32")  # runs are compared bit by bit
    monkeypatch.setattr(cifar_run, "cifar_referee", lambda: CifarReferee().eval())
    monkeypatch.setattr(cifar_run, "cifar_classifier", lambda: CifarClassifier().eval())
    monkeypatch.setattr(cifar_run, "_frozen", lambda device: CifarClassifier().eval())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "hashes.json").write_text("{}")
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(cifar_run, "Ruler", lambda data, n, _ruler=cifar_run.Ruler: _FakeRuler(data))
    return tmp_path


class _FakeRuler:
    def __init__(self, data):
        self.real = to_unit(data.test)

    def measure(self, x):
        return {"fd": float(x.square().mean())}


def killed_at(monkeypatch, images: int) -> None:
    """The process dies there without a chance to save: what is on disk is what was saved before."""
    function = cifar_run.Run.images

    def dying(self, state):
        found = function(self, state)
        if found == images:
            raise KeyboardInterrupt("killed")
        return found

    monkeypatch.setattr(cifar_run.Run, "images", dying)


def test_it_goes_on_after_kills_and_its_curve_shows_no_seam(small, monkeypatch, capsys):
    whole, parts = small / "whole", small / "parts"
    cifar_run.go(whole, DATA)
    monkeypatch.setattr("cdedu.runs.SAVE_EVERY", -1.0)
    monkeypatch.setattr("cdedu.runs.SAVING_SHARE", float("inf"))
    for images in (48, 96):
        with monkeypatch.context() as patch:
            killed_at(patch, images)
            with pytest.raises(KeyboardInterrupt):
                cifar_run.go(parts, DATA)
    cifar_run.go(parts, DATA)
    for part in cifar_run.PLAN:
        for name in ("teacher.safetensors", "teacher.state.safetensors"):
            a, b = (checkpoints.read_tensors(part.folder(out) / name)[0] for out in (whole, parts))
            assert a.keys() == b.keys() and all(t.equal(b[k]) for k, t in a.items())
    assert cifar_run.Diary(parts).read("curve") == cifar_run.Diary(whole).read("curve")
    assert [images for images, _ in cifar_run.Diary(parts).read("curve")] == [16, 32, 48, 64, 96, 128]
    starts = cifar_run.Diary(whole).read("starts")
    assert len(cifar_run.Diary(parts).read("starts")) > len(starts) == 2
    assert [start["reached"] for start in starts] == [64, 128]
    assert all(start["processor_seconds"] >= 0 for start in starts)
    looks = json.loads((parts / "looks.json").read_text())["runs"]
    assert [*looks] == ["32", "64", "128"] and {"fd", "recognised"} <= looks["32"].keys()
    assert len(list((parts / "sheets" / "0000032").iterdir())) == 2
    capsys.readouterr()
    cifar_run.status(parts)
    assert "128 images seen" in capsys.readouterr().out


def test_what_is_published_loads_and_another_machine_goes_on_from_it(small, monkeypatch):
    first, second = small / "first", small / "second"
    monkeypatch.setattr("cdedu.runs.SAVE_EVERY", -1.0)
    monkeypatch.setattr("cdedu.runs.SAVING_SHARE", float("inf"))
    with monkeypatch.context() as patch:
        killed_at(patch, 64)
        with pytest.raises(KeyboardInterrupt):
            cifar_run.go(first, DATA)
    cifar_run.publish(first, DATA)
    chosen = json.loads(cifar_run.RECORD.read_text())["metrics"]["chosen"]["teacher"]
    assert chosen["images"] == 48 and chosen["average"] in (0.9, 0.5)
    model = checkpoints.load("cifar10-small-teacher")
    assert model.header.images == 48 and model.header.class_names == tuple(NAMES)
    best = cifar_run.averages(first / "leg-64" / "teacher.state.safetensors")[0][chosen["average"]]
    pairs = zip(model.parameters(), best.parameters(), strict=True)
    assert all(a.dtype == torch.float32 and torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in pairs)
    cifar_run.go(second, DATA)  # an empty folder
    header = checkpoints.read_header(second / "leg-64" / "teacher.safetensors")
    assert header["warm_restart"]["images"] == 48 and header["images"] == 64
    assert [images for images, _ in cifar_run.Diary(second).read("curve")] == [16, 32, 48, 64, 96, 128]
    assert [*json.loads((second / "looks.json").read_text())["runs"]] == ["32", "64", "128"]


def test_a_student_and_its_ablations_share_a_teacher_and_are_measured_in_one_step_and_two(
    small, monkeypatch, capsys
):
    shorts = [
        cifar_run.Part(p.series, 64, 32, p.lr, 0.9, (), p.stage, p.distance, p.guidance, p.follows)
        for p in cifar_run.PLAN_OF_STUDENTS
    ]
    monkeypatch.setattr(cifar_run, "PLAN", (cifar_run.Part("teacher", 32, 32, 1e-3, 0.9, ()), *shorts))
    cifar_run.go(small / "out", DATA, only=("teacher", "cd"))
    assert "the student was to start at" in capsys.readouterr().out
    cifar_run.publish(small / "out", DATA)
    student, teacher = checkpoints.load("cifar10-small-student"), checkpoints.load("cifar10-small-teacher")
    assert student.header.images == 64 and teacher.header.images == 32
    elsewhere = small / "elsewhere"
    assert cifar_run.current(elsewhere, cifar_run.Diary(elsewhere)).series == "l2"
    cifar_run.go(elsewhere, DATA, only=("l2", "perceptual", "easy", "guided"))
    headers = {p.series: checkpoints.read_header(p.model(elsewhere)) for p in shorts[1:]}
    made = {
        series: (h["recipe"]["student"]["method"], h["recipe"]["student"]["distance"])
        for series, h in headers.items()
    }
    assert made["easy"][0] == "easy" and made["l2"] == ("distillation", "l2")
    assert (
        headers["guided"]["teacher"]["guidance"] == 2.0 and headers["guided"]["warm_restart"]["images"] == 0
    )
    assert all(h["teacher"]["images"] == 32 for h in headers.values())
    cifar_run.publish(small / "out", DATA, [elsewhere])
    assert checkpoints.load("cifar10-small-guided").header.guidance == (2.0,)
    cifar_run.judge(elsewhere, DATA, [cifar_run.published("teacher")])
    then = {"teacher": {"images": 32}, "real": {}, "l2/64": {"images": 64}}
    now = {"teacher": {"images": 64}, "real": {"fd": 1}}
    assert cifar_run.merged(then, now) == then | {"teacher/32": then["teacher"]} | now
    for _ in range(2):  # the second time, there is nothing new
        cifar_run.publish(small / "out", DATA, [elsewhere])
        found = json.loads(cifar_run.RECORD.read_text())["metrics"]
        assert {*found["looks"]} == {"32", *(f"{p.series}/{at}" for p in shorts for at in (32, 64))}
        assert {"fd", "recognised"} <= found["looks"]["cd/32"].keys() & found["looks"]["l2/32"][
            "two_steps"
        ].keys()
        assert [s["model"] for s in found["starts"]] == ["teacher", *(p.series for p in shorts)]
        ablations = {f"{p.series}/64" for p in shorts if p.series not in cifar_run.PUBLISHED}
        teachers = {"teacher", "teacher/32", "teacher-guided"}
        assert {*found["judges"]} == {"cd", "guided", "real", *teachers, *ablations}
        assert all(found["judges"][name]["evaluations"] == 35 for name in teachers)
        assert {*found["judges"]["l2/64"]} == {"classifier", "referee", "images"}
        assert {*found["curves"]} == {"curve", *(f"curve-{p.series}" for p in shorts)}


def test_a_second_process_does_not_disturb_the_first(tmp_path):
    with cifar_run.alone(tmp_path):
        with pytest.raises(SystemExit, match=rf"alive already \(process {os.getpid()}\)"):
            with cifar_run.alone(tmp_path):
                pass
    with cifar_run.alone(tmp_path):
        pass


def test_the_commands_say_what_they_need(tmp_path):
    script = Path(cifar_run.__file__)
    run = [sys.executable, str(script), "go", "--out", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 2 and "give --data" in done.stderr
    done = subprocess.run([str(script.with_suffix(".sh"))], capture_output=True, text=True)
    assert done.returncode == 2 and "FOLDER TRAIN.zip TEST.zip" in done.stdout
