"""EDM's pickles: every tensor comes back, and nothing in a file runs, whatever it holds."""

import io
import os
import pickle
import sys
from collections import Counter, OrderedDict
from dataclasses import replace
from pathlib import Path

import edm_layout
import numpy as np
import pytest
import torch
from edm_layout import ECMLoss, edm_bytes
from torch import nn

from cdedu import checkpoints
from cdedu.adapters import IDDPM, VE, VP
from cdedu.data import Dataset, images
from cdedu.fitting import teacher_and_student
from cdedu.networks.edm import ADM, Conv, DDPMpp, ImageDown
from cdedu.pretrained import load_teacher
from cdedu.pretrained.edm import is_edm, load_edm
from cdedu.recipes import StudentStage, recipes
from cdedu.samplers import sample_consistency
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill

SONG = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
NCSN = {"embedding_type": "fourier", "channel_mult_noise": 2} | {
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
KINDS = {
    "ddpmpp": ("SongUNet", SONG),
    "ncsnpp": ("SongUNet", SONG | NCSN),
    "adm": ("DhariwalUNet", SONG | {"model_channels": 64, "channel_mult": [1, 1]}),
}


@pytest.fixture
def layout(monkeypatch):
    """The names that NVIDIA's files refer to can be written."""
    for name, module in edm_layout.persistence().items():
        monkeypatch.setitem(sys.modules, name, module)


def shaken(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape) / max(p[0].numel(), 1) ** 0.5)
    return net


def wrapped(
    kind: str = "ddpmpp", classes: int = 0, wrapper: str = "EDMPrecond", edm: tuple | None = None, **facts
) -> nn.Module:
    """A network of ours inside a module that will be written as EDM's."""
    edm_name, options = edm or KINDS[kind]
    make = ADM if edm_name == "DhariwalUNet" else DDPMpp
    more = {"ncsn": True} if kind == "ncsnpp" else {}
    net = shaken(
        make(8, 3, options["model_channels"], options["channel_mult"], 1, (4,), 0.1, classes, **more)
    )
    net.map_augment = nn.Linear(9, 8, bias=False)
    net.edm_name = edm_name
    net._init_kwargs = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "label_dim": classes}
    net._init_kwargs |= {"augment_dim": 9} | options
    outer = nn.Module()
    outer.model, outer.edm_name, outer._init_kwargs = net, wrapper, {}
    for key, value in ({"sigma_data": 0.5} | facts).items():
        setattr(outer, key, value)
    return outer


def with_variances(outer: nn.Module) -> nn.Module:
    """Twice the outputs, as iDDPM has them; the second half is a learned variance."""
    net = outer.model
    parts, last = (net._modules, "out_conv") if net.edm_name == "DhariwalUNet" else (net.dec, "8x8_aux_conv")
    torch.manual_seed(1)
    parts[last] = Conv(parts[last].in_channels, 6, 3)
    net._init_kwargs["out_channels"] = 6
    return outer


IDDPM_FACTS = {"M": 1000, "C_1": 0.001, "C_2": 0.008}


def written(tmp_path: Path, layout: None, outer: nn.Module, protocol: int = 4, **content) -> Path:
    path = tmp_path / "edm.pkl"
    path.write_bytes(edm_bytes({"ema": outer, "dataset_kwargs": {"a": 1}} | content, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_published_file_comes_back(tmp_path, layout, kind, protocol):
    outer = wrapped(kind, classes=3, sigma_data=0.7)
    path = written(tmp_path, layout, outer, protocol)
    before = {name: t.clone() for name, t in outer.model.state_dict().items() if "map_augment" not in name}
    assert is_edm(path)
    teacher = load_edm(path)
    after = teacher.network.state_dict()
    assert after.keys() == before.keys() and all(t.equal(after[name]) for name, t in before.items())
    assert type(teacher) is Teacher and not teacher.training
    assert (teacher.sigma_data, teacher.noise_scale) == (0.7, 0.25)
    net, x, labels = outer.model.eval(), torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    assert teacher(x, 2.0, labels=labels).equal(Teacher(net, 0.7)(x, 2.0, labels=labels))
    assert teacher(x, 2.0).equal(Teacher(net, 0.7)(x, 2.0)) and teacher(x, 2.0).requires_grad


@pytest.mark.parametrize("name, end", [("cifar10-easy", "vp"), ("cifar10", "ve")])
def test_a_published_teacher_is_distilled_by_its_address(tmp_path, layout, monkeypatch, name, end):
    """As chapter 11 and the README print it, but for the size: the file has the recipe's kind of network."""
    recipe = recipes[name]
    path, asked = written(tmp_path, layout, wrapped(recipe.network.kind)), []

    def download(address, to, digest):
        asked.append((address, to.name, digest))
        return path

    monkeypatch.setattr(images, "download", download)
    address = f"https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-uncond-{end}.pkl"
    data = Dataset("noise", torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8))
    got, teacher, student = teacher_and_student(address, recipe, data)
    assert set(asked) == {(address, address.rsplit("/", 1)[-1], None)}
    assert type(teacher) is Teacher and student is None and got.network.kind == recipe.network.kind
    assert got.student == recipe.student and got.network.width == 8


def test_baselines_come_back_in_their_own_preconditioning(tmp_path, layout):
    """D = x ∓ σ F with time counted as in those papers, computed here by hand."""
    x = torch.randn(2, 3, 8, 8)
    vp = wrapped(wrapper="VPPrecond", beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5)
    model, net = load_edm(written(tmp_path, layout, vp)), vp.model.eval()
    assert type(model) is VP
    for sigma, t in ((0.5, 0.1448), (20.0, 0.7709)):  # exp(9.95 t² + .1 t) − 1 = σ²
        t = torch.tensor(t, dtype=torch.float64)
        for _ in range(20):  # Newton
            t = t - ((9.95 * t**2 + 0.1 * t) - np.log1p(sigma**2)) / (19.9 * t + 0.1)
        want = x - sigma * net(x / (1 + sigma**2) ** 0.5, (999 * t).float().expand(2))
        assert torch.allclose(model(x, sigma), want, atol=1e-3 * sigma)
    assert model.sigma_min == pytest.approx(1.0e-3, rel=0.01) and model.sigma_max == pytest.approx(
        152, rel=0.01
    )

    ve = wrapped("ncsnpp", wrapper="VEPrecond", sigma_min=0.02, sigma_max=100)
    model, net = load_edm(written(tmp_path, layout, ve)), ve.model.eval()
    assert type(model) is VE and (model.sigma_min, model.sigma_max) == (0.02, 100.0)
    for sigma in (0.5, 20.0):
        want = x + sigma * net(x, torch.tensor(sigma / 2).log().expand(2))
        assert torch.allclose(model(x, torch.full((2,), sigma)), want, atol=1e-5 * sigma)


LEVELS = {
    (1000, 0.001, 0.008): {
        0: 20291.16961002147,
        1: 641.6623451182552,
        250: 2.4354356842037395,
        999: 0.006425412771141183,
    },
    (100, 0.01, 0.02): {
        0: 649.0690776924002,
        1: 64.8992810142349,
        50: 1.030334953843817,
        99: 0.03445443684336702,
    },
}
"""u of iDDPMPrecond in training/networks.py of github.com/NVlabs/edm at 008a4e5316c8e3bfe61a62f874bddba254295afb, by its own code in
float64 (in float32, as published, the lowest levels differ by 5 parts in 10,000)."""


@pytest.mark.parametrize("kind", ["adm", "ddpmpp"])
@pytest.mark.parametrize("steps, c_1, c_2", LEVELS)
def test_iddpm_comes_back_in_its_own_preconditioning(tmp_path, layout, kind, steps, c_1, c_2):
    """D = x − σ F with the nearest of its levels counted from the lowest; of twice the outputs the first half."""
    outer = with_variances(wrapped(kind, 3, "iDDPMPrecond", M=steps, C_1=c_1, C_2=c_2))
    outer.register_buffer("u", torch.zeros(steps + 1))
    model = load_edm(written(tmp_path, layout, outer))
    net, x, labels = outer.model.double().eval(), torch.randn(2, 3, 8, 8).double(), torch.tensor([0, 2])
    assert type(model) is IDDPM and (model.steps, model.c_1, model.c_2) == (steps, c_1, c_2)
    known = LEVELS[steps, c_1, c_2]
    for j, level in known.items():
        assert float(model.levels[j]) == pytest.approx(level, rel=1e-6)
    assert (model.sigma_max, model.sigma_min) == pytest.approx((known[0], known[steps - 1]), rel=1e-12)
    assert len(model.levels) == steps + 1 and model.levels[-1] == 0
    model = model.double()
    for j in known:
        for sigma in (float(model.levels[j]), 1.001 * float(model.levels[j])):
            with torch.no_grad():
                out = net(x / (1 + sigma**2) ** 0.5, torch.full((2,), steps - 1.0 - j), labels)[:, :3]
            got = model(x, torch.full((2,), sigma, dtype=torch.float64), labels=labels)
            assert (got - (x - sigma * out)).abs().max() <= 1e-10 * max(1, sigma)
            assert got.equal(model(x, sigma, labels=labels))
    path, recipe = tmp_path / "m.safetensors", model.header.recipe
    checkpoints.save(path, model.float(), recipe, model.header.shape)
    back, x = checkpoints.load(path), x.float()
    assert type(back) is IDDPM and back.levels.equal(model.levels) and back.header.recipe == recipe
    assert back(x, 3.0, labels=labels).equal(model(x, 3.0, labels=labels))


def test_each_sample_is_told_its_own_nearest_level(tmp_path, layout):
    class Time(nn.Module):
        def forward(self, x, c_noise):
            return c_noise[:, None, None, None].expand_as(x)

    model = IDDPM(Time(), 100, 0.01, 0.02)
    u = model.levels
    assert ((u[:-1] - u[1:]) > 0).all()
    for towards in (0.49, -0.49):  # of the way to the neighbours
        sigma = u[1:-1] + towards * ((u[:-2] - u[1:-1]) if towards > 0 else (u[1:-1] - u[2:]))
        x = torch.zeros(len(sigma), 1, 1, 1)
        assert torch.allclose(-model(x, sigma)[:, 0, 0, 0] / sigma, torch.arange(98.0, -1, -1))
    assert float(model(torch.zeros(1, 1, 1, 1), 1e-3)) == pytest.approx(
        1e-3
    )  # M − 1 − M: below all of its own


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickle_of_ect_is_a_student(tmp_path, layout, protocol):
    """ECMPrecond in evaluation mode (training/networks.py of github.com/locuslab/ect at 4311059770f54821d151a9b0e1f76770a5f3930e), by
    hand; its loss beside it is not touched."""
    outer = wrapped(wrapper="ECMPrecond", sigma_min=0.003, sigma_max=float("inf"), sigma_data=0.4)
    student = load_edm(written(tmp_path, layout, outer, protocol, loss_fn=ECMLoss()))
    assert type(student) is ConsistencyModel and not student.training
    assert (student.sigma_data, student.sigma_min, student.noise_scale) == (0.4, 0.003, 0.25)
    recipe = student.header.recipe
    assert (recipe.sigma_min, recipe.student.second_sigma, recipe.student.method) == (0.003, 0.821, "easy")
    net, student, x = outer.model.double().eval(), student.double(), torch.randn(2, 3, 8, 8).double()
    for sigma in (0.01, 0.821, 80.0):
        with torch.no_grad():
            out = net(sigma * x / (sigma**2 + 0.16) ** 0.5, torch.full((2,), np.log(sigma) / 4))
        want = sigma * x * 0.16 / ((sigma - 0.003) ** 2 + 0.16)
        want = want + out * (sigma - 0.003) * 0.4 / (sigma**2 + 0.16) ** 0.5
        assert (student(sigma * x, sigma) - want).abs().max() <= 1e-10
    assert student(x, 0.003).equal(x)


def test_a_student_of_ect_samples_as_ect_does_and_is_saved(tmp_path, layout):
    """One step and two, as its generator_fn: from σ = 80, then from .821."""
    outer = wrapped(wrapper="ECMPrecond", sigma_min=0.003)
    student = load_teacher(written(tmp_path, layout, outer, loss_fn=ECMLoss()))
    z, more = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    recipe = student.header.recipe
    one = student(80 * z, 80.0)
    two = student(one + 0.821 * more, 0.821)
    assert recipe.student_sigmas(2) == pytest.approx((80.0, 0.821))
    assert sample_consistency(student, 80 * z, recipe.student_sigmas(1)).equal(one)
    ours = sample_consistency(student, 80 * z, recipe.student_sigmas(2), torch.Generator().manual_seed(0))
    assert 0 < (ours - two).abs().max() <= 1e-4  # √(.821² − .003²) = .820995
    path = tmp_path / "m.safetensors"
    checkpoints.save(path, student, recipe, student.header.shape)
    back = checkpoints.load(path)
    assert (
        type(back) is ConsistencyModel and back.sigma_min == 0.003 and back(z, 80.0).equal(student(z, 80.0))
    )


def test_a_pickle_becomes_a_teacher_like_any_other(tmp_path, layout):
    """Distilled, saved as safetensors and loaded again, with its network in the recipe."""
    teacher = load_edm(written(tmp_path, layout, wrapped("ncsnpp", classes=3)))
    known = teacher.header.recipe
    assert (known.network.kind, known.network.classes, known.network.dropout) == ("ncsnpp", 3, 0.1)
    recipe = replace(known, student=StudentStage(steps=1, batch=2, points=3))
    pictures = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(4) % 3
    *_, state = distill(recipe, teacher, Dataset("pictures", pictures, pictures, labels, labels))
    assert isinstance(state.result, ConsistencyModel)
    x = torch.randn(2, 3, 8, 8)
    for name, model in (("teacher", teacher), ("student", state.result.eval())):
        checkpoints.save(tmp_path / f"{name}.safetensors", model, recipe, teacher.header.shape)
        assert checkpoints.load(tmp_path / f"{name}.safetensors")(x, 3.0).equal(model(x, 3.0))


class Trap:
    """Calls something when it is unpickled in the ordinary way."""

    def __init__(self, *call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def blob(content) -> bytes:
    """What a storage of the file would hold."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


# A class that the file may name, handed a method of the file's own choice: OrderedDict.__setstate__ = OrderedDict
SETS_A_METHOD = (
    b"\x80\x02ccollections\nOrderedDict\n(N}X\x0c\x00\x00\x00__setstate__ccollections\nOrderedDict\nstb."
)

POISONS = {
    "os.system": lambda mark: Trap(os.system, f"touch {mark}"),
    "os.mkdir": lambda mark: Trap(os.mkdir, mark),
    "eval": lambda mark: Trap(eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Trap(exec, f"open({mark!r}, 'w')"),
    "getattr": lambda mark: Trap(getattr, "a", "upper"),
    "another class": lambda mark: Counter("ab"),
    "another function of torch": lambda mark: Trap(torch.load, mark),
    "a method": lambda mark: Trap(OrderedDict.fromkeys, "ab"),
    "a module": lambda mark: Trap(__import__, "this"),
    "nested": lambda mark: Trap(OrderedDict, [("a", Trap(os.mkdir, mark))]),
    "in a storage": lambda mark: Trap(torch.storage._load_from_bytes, blob(Trap(os.mkdir, mark))),
}


@pytest.mark.parametrize("place", ["top", "beside", "state", "parameter", "arguments"])
@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_file_is_refused_and_nothing_in_it_runs(tmp_path, layout, poison, place):
    mark, path = tmp_path / "mark", tmp_path / "edm.pkl"
    trap, outer = POISONS[poison](str(mark)), wrapped()
    if poison == "in a storage" and place == "parameter":
        trap = Trap(torch._utils._rebuild_tensor_v2, trap, 0, (8,), (1,), False, OrderedDict())
    content = {"ema": outer}
    if place == "top":
        content = trap
    elif place == "beside":
        content["loss_fn"] = trap
    elif place == "state":
        outer.model.mystery = trap
    elif place == "parameter":
        outer.model.map_layer0._parameters["bias"] = trap
    else:
        outer.model._init_kwargs["model_channels"] = trap
    path.write_bytes(edm_bytes(content))
    if poison in ("in a storage", "getattr") and place in ("beside", "state"):
        load_edm(
            path
        )  # a storage that no tensor of the network lies in is not opened, and a method of ECT's loss not fetched
    else:
        with pytest.raises(ValueError, match="edm.pkl is refused, and nothing in it was run") as error:
            load_edm(path)
        assert len(str(error.value).splitlines()) == 1
    assert not mark.exists()


def test_source_code_in_the_file_is_not_run(tmp_path, layout):
    mark, path = tmp_path / "mark", tmp_path / "edm.pkl"
    path.write_bytes(edm_bytes({"ema": wrapped()}, source=f"open({str(mark)!r}, 'w')"))
    assert isinstance(load_edm(path), Teacher) and not mark.exists()


@pytest.mark.parametrize(
    "code", [SETS_A_METHOD, b"\x80\x02X\x01\x00\x00\x00aQ.", b"\x80\x02(cos\nsystem\no."]
)
def test_strange_codes_of_a_pickle_change_nothing(tmp_path, layout, code):
    path = tmp_path / "strange.pkl"
    path.write_bytes(code)
    with pytest.raises(ValueError, match="strange.pkl is refused"):
        load_edm(path)
    assert isinstance(load_edm(written(tmp_path, layout, wrapped())), Teacher)


def test_a_module_that_contains_itself_ends(tmp_path, layout):
    outer = wrapped()
    net = outer.model
    again = nn.ModuleDict()
    again._modules |= {str(i): net.enc for i in range(3)} | {"self": again}
    net._modules["again"] = again
    with pytest.raises(ValueError, match="is refused"):
        load_edm(written(tmp_path, layout, outer))


DAMAGES = {
    "empty": lambda b: b"",
    "text": lambda b: b"<html>404</html>\n",
    "half": lambda b: b[: len(b) // 2],
    "without its end": lambda b: b[:-1],
    "cut in its head": lambda b: b[:100],
    "without its middle": lambda b: b[: len(b) // 3] + b[len(b) // 2 :],
    "no network": lambda b: pickle.dumps({"weights": [1, 2]}, 4),
    "not a dictionary": lambda b: pickle.dumps([1, 2], 4),
    "no module": lambda b: pickle.dumps({"ema": OrderedDict(a=1)}, 4),
    "of torch": lambda b: blob({"a": torch.zeros(2)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_or_truncated_file_is_refused_in_one_line(tmp_path, layout, damage):
    path = written(tmp_path, layout, wrapped())
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match="edm.pkl is refused") as error:
        load_edm(path)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(FileNotFoundError):
        load_edm(tmp_path / "nowhere.pkl")
    assert not is_edm(tmp_path / "nowhere.pkl") and not is_edm(tmp_path)


def other(change) -> nn.Module:
    outer = wrapped()
    change(outer, outer.model, outer.model._init_kwargs)
    return outer


def _last(net: nn.Module, outputs: int) -> None:
    net.dec["8x8_aux_conv"] = Conv(8, outputs, 3)


UNKNOWN = {
    "network 'UNet2'": lambda o, n, kw: setattr(n, "edm_name", "UNet2"),
    "preconditioning 'EDM3Precond' is not known here; known": lambda o, n, kw: setattr(
        o, "edm_name", "EDM3Precond"
    ),
    "its network is EDM2's": lambda o, n, kw: setattr(o, "edm_name", "Precond"),
    "sigma_min = 0, but it must be": lambda o, n, kw: vars(o).update(edm_name="ECMPrecond", sigma_min=0),
    "SongUNet is none of ddpmpp": lambda o, n, kw: vars(o).update(edm_name="iDDPMPrecond", **IDDPM_FACTS),
    "has shape .8, 8, 3, 3.": lambda o, n, kw: (
        with_variances(o),
        vars(o).update(edm_name="iDDPMPrecond"),
        _last(n, 16),
    ),
    "has shape .7, 8, 3, 3.": lambda o, n, kw: (
        with_variances(o),
        vars(o).update(edm_name="iDDPMPrecond"),
        _last(n, 7),
    ),
    "M = 1": lambda o, n, kw: vars(with_variances(o)).update(
        edm_name="iDDPMPrecond", **IDDPM_FACTS | {"M": 1}
    ),
    "C_1 = 1,": lambda o, n, kw: vars(with_variances(o)).update(
        edm_name="iDDPMPrecond", **IDDPM_FACTS | {"C_1": 1}
    ),
    "KeyError: 'C_2'": lambda o, n, kw: vars(with_variances(o)).update(
        edm_name="iDDPMPrecond", M=10, C_1=0.1
    ),
    "option 'logvar_channels'": lambda o, n, kw: kw.update(logvar_channels=8),
    "none of ddpmpp, ncsnpp": lambda o, n, kw: kw.update(encoder_type="skip"),
    "SongUNet is none of": lambda o, n, kw: kw.update(out_channels=6),
    "tensor '.*' is in only one": lambda o, n, kw: kw.update(num_blocks=2),
    "tensor '.*' has shape": lambda o, n, kw: kw.update(model_channels=16),
    "KeyError: 'in_channels'": lambda o, n, kw: kw.pop("in_channels"),
    "tensor 'map_layer1.bias' is in only one": lambda o, n, kw: setattr(n.map_layer1, "bias", None),
    "tensor 'scale' is in only one": lambda o, n, kw: n.register_buffer("scale", torch.ones(1)),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_an_unknown_architecture_is_named(tmp_path, layout, why):
    with pytest.raises(ValueError, match=why) as error:
        load_edm(written(tmp_path, layout, other(UNKNOWN[why])))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, layout):
    outer = wrapped()
    bias = Trap(
        torch._utils._rebuild_tensor_v2, torch.zeros(3).storage(), 0, (32,), (1,), False, OrderedDict()
    )
    outer.model.map_layer1._parameters["bias"] = bias
    with pytest.raises(ValueError, match="out of bounds"):
        load_edm(written(tmp_path, layout, outer))


def test_half_precision_is_read_as_float32(tmp_path, layout):
    outer = wrapped()
    outer.model.half()
    teacher = load_edm(written(tmp_path, layout, outer))
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert teacher.network.map_layer0.weight.equal(outer.model.map_layer0.weight.float())


def test_image_down_is_told_apart_by_its_name():
    """The walk down the encoder goes by type; the file goes by names."""
    net = wrapped("ncsnpp").model
    assert {n for n, m in net.enc.items() if isinstance(m, ImageDown)} == {"4x4_aux_residual"}
