"""Checkpoints: exact, atomic, and never unpickled."""

import json
import math
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cdedu import checkpoints, files
from cdedu.adapters import VE, VP
from cdedu.checkpoints import load, load_state, save, save_state, shipped
from cdedu.files import read_header, read_tensors, write_tensors
from cdedu.networks import MLP, unet
from cdedu.networks.guided import WeightedUNet
from cdedu.pretrained import DiffusersDenoiser, load_teacher
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage
from cdedu.samplers import sample_consistency
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher
from cdedu.training import distill, train_teacher

TINY = Recipe(
    "tiny",
    "two_moons",
    Network(width=16, depth=1),
    TeacherStage(steps=4, batch=8),
    StudentStage(steps=4, batch=8, points=5),
)


def model(cls=Teacher, **options):
    torch.manual_seed(0)
    return cls(MLP(2, 16, 1), 0.7, noise_scale=250.0, **options)


@pytest.mark.parametrize(
    "original", [model(), model(ConsistencyModel, sigma_min=0.01)], ids=["teacher", "student"]
)
def test_a_model_comes_back_bitwise(tmp_path, original):
    path = tmp_path / "deep" / "er" / "model.safetensors"
    save(path, original, TINY, (2,), step=7, data={"name": "two_moons"})
    back = load(path)
    assert type(back) is type(original) and not back.training
    assert (back.sigma_data, back.sigma_min, back.noise_scale) == (0.7, original.sigma_min, 250.0)
    assert back.header.step == 7 and back.header.shape == (2,)
    assert back.header.recipe == TINY
    x = torch.randn(5, 2)
    assert back(x, 3.0).equal(original(x, 3.0))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("clip", [1.0, 0.25, None])
def test_a_student_that_is_clipped_stays_so(tmp_path, clip):
    student, path = model(ConsistencyModel), tmp_path / "student.safetensors"
    student.clip = clip
    save(path, student, TINY, (2,))
    assert load(path).clip == clip
    x = 80 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        sample_consistency(f, x, (80.0, 0.8), torch.Generator().manual_seed(1)) for f in (load(path), student)
    )
    assert ours.equal(theirs) and (clip is None or ours.abs().max() <= clip)


def test_what_the_network_is_told_of_the_noise_is_kept_and_older_files_mean_the_logarithm(tmp_path):
    path = tmp_path / "model.safetensors"
    for cls in (Teacher, ConsistencyModel):
        save(path, model(cls, angle=True), TINY, (2,))
        assert load(path).angle
        tensors, header = read_tensors(path)
        assert header.pop("angle")
        write_tensors(path, tensors, header)
        assert not load(path).angle


def test_a_state_comes_back_bitwise(tmp_path):
    recipe = replace(TINY, student=replace(TINY.student, target_rate=0.5))
    steps = distill(recipe, model())
    next(steps)
    state = next(steps)
    save_state(tmp_path / "s.safetensors", state)
    tensors, step = load_state(tmp_path / "s.safetensors", recipe, "student")
    assert step == 2 and tensors.keys() == state.tensors().keys()
    assert {name.split(".")[0] for name in tensors} == {"model", "average", "target", "optimizer"}
    assert all(
        t.equal(tensors[name]) and t.dtype == tensors[name].dtype for name, t in state.tensors().items()
    )


def test_a_state_of_another_recipe_or_role_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, next(distill(TINY, model())))
    with pytest.raises(
        ValueError, match=r"written with recipe.student.lr = 0.001, now it is 0.5; .*--from-weights"
    ):
        load_state(path, replace(TINY, student=replace(TINY.student, lr=0.5)), "student")
    with pytest.raises(ValueError, match="state of a student, not of a teacher"):
        load_state(path, TINY, "teacher")
    longer = replace(TINY, student=replace(TINY.student, steps=99))
    assert load_state(path, longer, "student")[1] == 1
    with pytest.raises(ValueError, match="holds no model for use"):
        load(path)


def test_a_state_from_before_a_field_existed_goes_on(tmp_path):
    """What the recipe did not say then meant what is the default now."""
    path = tmp_path / "s.safetensors"
    save_state(path, next(distill(TINY, model())), precision="fp32")
    tensors, header = read_tensors(path)
    assert header == read_header(path) and header["precision"] == "fp32"
    del header["recipe"]["student"]["more_emas"], header["recipe"]["teacher"]["warmup"]
    write_tensors(path, tensors, header)
    assert load_state(path, TINY, "student")[1] == 1
    with pytest.raises(ValueError, match="teacher.warmup = 0, now it is 5"):
        load_state(path, replace(TINY, teacher=replace(TINY.teacher, warmup=5)), "student")


@pytest.mark.parametrize("part", ["model", "average", "optimizer"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_with_a_number_that_is_none_is_damaged(tmp_path, part, value):
    path = tmp_path / "s.safetensors"
    steps = distill(TINY, model())
    next(steps)
    save_state(path, next(steps))
    tensors, header = read_tensors(path)
    name = next(n for n, t in tensors.items() if n.startswith(part) and t.is_floating_point() and t.ndim)
    tensors[name].view(-1)[0] = value
    write_tensors(path, tensors, header)
    with pytest.raises(
        ValueError, match=f"damaged, or it is no state of a run: tensor '{part}.* holds NaN or infinity"
    ):
        load_state(path, TINY, "student")


def test_what_is_no_model_is_not_saved(tmp_path):
    for thing in (MLP(), DenoiserStudent(MLP())):
        with pytest.raises(
            TypeError, match="MLP is none of Teacher, ConsistencyModel, .* nor a DenoiserStudent"
        ):
            save(tmp_path / "m.safetensors", thing, TINY, (2,))


def foreign(kind: str) -> tuple[torch.nn.Module, Network]:
    """Denoisers as :func:`cdedu.pretrained.load_teacher` makes them of other people's files."""
    torch.manual_seed(0)
    if kind == "ddpm":
        net = unet(8, 1, (8, 16), classes=3).net
        alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.3, 50), 0)
        return DiffusersDenoiser(net, alphas, "v_prediction"), Network("foreign", classes=3)
    network = Network("ddpmpp", width=8, depth=1, multipliers=(1,), classes=3)
    net = network.build((1, 8, 8))
    return (VP(net, 18.0, 0.2, 500, 1e-4) if kind == "vp" else VE(net, 0.03, 50.0)), network


@pytest.mark.parametrize("over", [False, True], ids=["teacher", "student over it"])
@pytest.mark.parametrize("kind", ["ddpm", "vp", "ve"])
def test_somebody_elses_denoiser_comes_back_bitwise(tmp_path, kind, over):
    original, network = foreign(kind)
    recipe, path = replace(TINY, network=network), tmp_path / "m.safetensors"
    if over:
        original = DenoiserStudent(original, original.sigma_min)
    save(path, original.eval(), recipe, (1, 8, 8))
    back = load(path)
    assert type(back) is type(original) and back.sigma_min == original.sigma_min
    x, labels = torch.randn(3, 1, 8, 8), torch.arange(3)
    for sigma in (original.sigma_min, 0.7, 20.0):
        assert back(x, sigma, labels=labels).equal(original(x, sigma, labels=labels))
    assert all(p.requires_grad for p in back.parameters())
    assert str(tmp_path) not in json.dumps(read_tensors(path)[1])


@pytest.mark.parametrize("over", [False, True], ids=["recipe's network", "ddpm's network"])
def test_a_network_that_takes_the_guidance_weight_comes_back(tmp_path, over):
    torch.manual_seed(0)
    network = Network("foreign" if over else "unet", width=8, depth=1, classes=3, guided=True)
    if over:
        inner, _ = foreign("ddpm")
        inner.network = WeightedUNet(inner.network)
        model = DenoiserStudent(inner, inner.sigma_min)
    else:
        inner = model = ConsistencyModel(network.build((1, 8, 8)), noise_scale=250.0)
    torch.nn.init.normal_(inner.network.weight.weight)
    save(tmp_path / "m.safetensors", model.eval(), replace(TINY, network=network), (1, 8, 8))
    back, x, labels = load(tmp_path / "m.safetensors"), torch.randn(3, 1, 8, 8), torch.arange(3)
    seen = [back(x, 3.0, labels=labels, guidance=w) for w in (1.0, 4.0)]
    assert seen[0].equal(model(x, 3.0, labels=labels, guidance=1.0)) and not seen[0].equal(seen[1])


def test_a_header_can_name_no_other_class(tmp_path):
    path = tmp_path / "m.safetensors"
    original, network = foreign("ddpm")
    save(path, original, replace(TINY, network=network), (1, 8, 8))
    tensors, header = read_tensors(path)
    for change in ({"class": "system"}, {"class": "Module"}, {"unet": {"_class_name": "X", "command": "ls"}}):
        write_tensors(path, tensors, header | change)
        with pytest.raises(ValueError, match="m.safetensors was written by another version"):
            load(path)
    with pytest.raises(ValueError, match="no recipe can build it"):
        network.build((1, 8, 8))
    with pytest.raises(ValueError, match="needs a unet, not mlp"):
        Network(guided=True).build((2,))


def damaged(kind: str, path: Path) -> None:
    save(path, model(), TINY, (2,))
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "cut in its header":
        path.write_bytes(whole[:30])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not weights at all, but a page that says 404\n")
    elif kind == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    elif kind == "foreign header":
        save_file({"a": torch.zeros(2)}, path, {"cdedu": "{'no': json"})
    elif kind == "bare header":
        write_tensors(path, {"a": torch.zeros(2)}, {"class": "Teacher"})
    elif kind == "other recipe":
        write_tensors(path, *_with_recipe(path, width=8))
    elif kind == "other network":
        tensors, header = read_tensors(path)
        write_tensors(path, tensors, header | {"recipe": header["recipe"] | {"network": {"shape": "round"}}})


def _with_recipe(path: Path, **network):
    tensors, header = read_tensors(path)
    recipe = header["recipe"] | {"network": header["recipe"]["network"] | network}
    return tensors, header | {"recipe": recipe}


DAMAGES = [
    "truncated",
    "cut in its header",
    "empty",
    "text",
    "foreign",
    "foreign header",
    "bare header",
    "other recipe",
    "other network",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    damaged(kind, path)
    with pytest.raises(ValueError, match="model.safetensors") as error:
        load(path)
    assert len(str(error.value).splitlines()) <= 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*nowhere.safetensors"):
        load(tmp_path / "nowhere.safetensors")


class Trap:
    """Runs something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pkl"])
@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path, name, write):
    path, trap = tmp_path / name, tmp_path / "sprung"
    if write == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    else:
        torch.save({"weights": Trap(trap)}, path)
    for read in (load, lambda p: load_state(p, TINY, "teacher")):
        with pytest.raises(ValueError, match="not a checkpoint of this package"):
            read(path)
    assert not trap.exists()


def test_a_failed_write_leaves_the_previous_file_whole_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save(path, model(), TINY, (2,), step=1)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    for module, name in ((files.os, "replace"), (files, "save_file"), (files.os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match="no space left"):
                save(path, model(), TINY, (2,), step=2)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


LOOP = """
import sys, torch
from cdedu.checkpoints import write_tensors
i = 0
while True:
    write_tensors(sys.argv[1], {"a": torch.full((500_000,), float(i))}, {"i": i})
    i += 1
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    """A process that saves again and again, killed with SIGKILL in mid-flight."""
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.full((10,), -1.0)}, {"i": -1})
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(path)])
    try:
        for _ in range(400):  # until it has begun, then some milliseconds more
            time.sleep(0.1)
            if path.stat().st_size > 1_000_000:
                break
        time.sleep(0.237)
    finally:
        process.kill()
        process.wait()
    tensors, header = read_tensors(path)
    assert header["i"] >= 0 and tensors["a"].eq(header["i"]).all()


def test_shipped_weights_are_checked_against_their_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    path = tmp_path / "toy-teacher.safetensors"
    save(path, model(), TINY, (2,))
    hashes = tmp_path / "hashes.json"
    hashes.write_text(json.dumps({"toy-teacher": checkpoints.sha256(path), "gone": "00"}))
    assert shipped("toy-teacher") == path and isinstance(load("toy-teacher"), Teacher)
    with pytest.raises(FileNotFoundError, match="no weights are called 'toy-pupil'; .* toy-teacher, gone"):
        load("toy-pupil")
    with pytest.raises(ValueError, match="missing or differs"):
        load("gone")
    tensors, header = read_tensors(path)
    write_tensors(path, {name: t + 1 for name, t in tensors.items()}, header)
    with pytest.raises(ValueError, match="differs from its recorded SHA-256"):
        load("toy-teacher")


def test_all_shipped_weights_match_their_hashes():
    names = json.loads((checkpoints.WEIGHTS / "hashes.json").read_text())
    assert {*names} == {p.stem for p in checkpoints.WEIGHTS.glob("*.safetensors")}
    for name in names:
        shipped(name)


def test_all_shipped_names_load_through_either_door():
    for name in json.loads((checkpoints.WEIGHTS / "hashes.json").read_text(encoding="utf-8")):
        for model in (load(name), load_teacher(name)):
            assert not model.training and model.header.shape


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"recipe": 5}, "recipe = 5, but it must be an object"),
        ({"step": None}, "step = None, but it must be a whole number"),
        ({"step": -1}, "step = -1"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused_by_name(tmp_path, changes, why):
    path = tmp_path / "s.safetensors"
    save_state(path, next(distill(TINY, model())))
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header | changes)
    with pytest.raises(ValueError, match=f"s.safetensors is damaged, or it is no state of a run: {why}"):
        load_state(path, TINY, "student")
    name = next(name for name in tensors if name.startswith("model."))
    write_tensors(path, tensors | {name: tensors[name].float() * float("nan")}, header)
    with pytest.raises(ValueError, match=f"tensor '{name}' holds NaN"):
        load_state(path, TINY, "student")


@pytest.mark.parametrize(
    "change, why",
    [
        ({"shape": []}, "shape is a tuple of 0, but it must be a list of 1 to 4"),
        ({"sigma_data": "a"}, "sigma_data = 'a', but it must be a number from 0"),
        ({"angle": 1}, "angle = 1, but it must be true or false"),
        (
            {"network": {"width": -1}},
            r"network.width = -1, but it must be at least 1",
        ),
        (
            {"network": {"width": 8}},
            r"tensor 'layers.0.weight' has shape \(16, 18\), its network wants \(8, 18\)",
        ),
        ({"student": {"points": 10**7}}, "recipe.student.points = 10000000, but it must be a whole"),
        ({"weights": float("inf")}, "tensor 'layers.0.bias' holds NaN or infinity"),
        ({"weights": float("nan")}, "tensor 'layers.0.bias' holds NaN or infinity"),
    ],
    ids=str,
)
def test_a_header_or_weights_out_of_bounds_are_refused_by_name(tmp_path, change, why):
    """By file, field and value, in one line, before anything is built."""
    path = tmp_path / "m.safetensors"
    save(path, model(), TINY, (2,))
    tensors, header = read_tensors(path)
    for part in ("network", "student"):
        header["recipe"][part] |= change.get(part, {})
    tensors["layers.0.bias"][3] = change.get("weights", 0.0)
    write_tensors(path, tensors, header | {k: v for k, v in change.items() if k in header})
    with pytest.raises(ValueError, match=f"m.safetensors .*{why}") as error:
        load(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "begun, kind",
    [
        (lambda: train_teacher(TINY), Teacher),
        (lambda: distill(TINY, model()), ConsistencyModel),
        (lambda: distill(TINY, model(), student=DenoiserStudent(model())), DenoiserStudent),
    ],
)
def test_the_average_in_a_state_is_a_model_of_its_own(tmp_path, begun, kind):
    """What a run leaves that was stopped can be drawn from, and gone on from in another folder."""
    path, states = tmp_path / "s.safetensors", begun()
    state = [next(states) for _ in range(3)][-1]
    save_state(path, state, shape=[2], images=24, data={"name": "mine"})
    loaded, x = load(path), torch.randn(5, 2)
    assert type(loaded) is kind
    assert loaded(x, 1.5).equal(state.result(x, 1.5)) and not loaded(x, 1.5).equal(state.model(x, 1.5))
    assert loaded.header.step == 3 and loaded.header.images == 24 and loaded.header.recipe == TINY
    assert loaded.header.facts["data"] == {"name": "mine"}
    with pytest.raises(ValueError, match="holds no model for use; .* finish the run first"):
        save_state(path, state)  # as one of an earlier version, which does not say its shape
        load(path)
