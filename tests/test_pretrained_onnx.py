"""The ONNX graph of a denoiser is the denoiser."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import cdedu
from cdedu.adapters import IDDPM, DiffusersDenoiser
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.networks import MLP, unet
from cdedu.pretrained import export_onnx
from cdedu.pretrained.onnx import _Graph

pytestmark = pytest.mark.slow


def run(path, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {i.name for i in session.get_inputs()} == set(inputs)
    return torch.from_numpy(session.run(["x0"], {k: np.asarray(v) for k, v in inputs.items()})[0])


def small_student(classes=0):
    torch.manual_seed(0)
    return cdedu.ConsistencyModel(MLP(2, 16, 2, classes)).eval()


@pytest.fixture(scope="module")
def image_teacher():
    torch.manual_seed(0)
    return cdedu.Teacher(unet(4, 1, widths=(8, 8)), noise_scale=250.0).eval()


@pytest.fixture(scope="module")
def image_graph(image_teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "made" / "teacher.onnx"
    error = export_onnx(image_teacher, path, shape=(1, 4, 4))
    assert error < 1e-5
    return path


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_a_teacher_with_sigma_as_an_input(image_teacher, image_graph, batch):
    sigma = torch.linspace(-6, 4.3, batch).exp()
    x = sigma[:, None, None, None] * torch.randn(batch, 1, 4, 4)
    assert torch.allclose(
        run(image_graph, x=x, sigma=sigma), image_teacher(x, sigma).detach(), rtol=1e-5, atol=1e-5
    )


def test_the_sampler_may_use_the_graph(image_teacher, image_graph):
    def graph(x, sigma):
        return run(image_graph, x=x, sigma=np.full(len(x), float(sigma), np.float32))

    x, sigmas = 80 * torch.randn(3, 1, 4, 4), cdedu.karras_sigmas(4)
    assert torch.allclose(
        cdedu.sample_heun(graph, x, sigmas), cdedu.sample_heun(image_teacher, x, sigmas), atol=1e-4
    )


def test_a_network_that_is_told_the_nearest_of_its_levels(tmp_path):
    torch.manual_seed(0)
    model = IDDPM(unet(4, 1, widths=(8, 8)), 50).eval()
    assert export_onnx(model, tmp_path / "m.onnx", shape=(1, 4, 4)) < 1e-5
    sigma = torch.linspace(-4, 4, 9).exp()
    x = sigma[:, None, None, None] * torch.randn(9, 1, 4, 4)
    assert torch.allclose(
        run(tmp_path / "m.onnx", x=x, sigma=sigma), model(x, sigma).detach(), rtol=1e-4, atol=1e-5
    )


def test_no_file_name_or_version_in_the_graph(image_graph):
    data = image_graph.read_bytes()
    assert os.getcwd().encode() not in data and b"site-packages" not in data
    assert torch.__version__.encode() not in data and list(image_graph.parent.iterdir()) == [image_graph]


def test_a_student_with_sigma_fixed_and_the_same_bytes_again(tmp_path):
    student = small_student()
    assert export_onnx(student, tmp_path / "a.onnx", sigma=80.0, shape=[2]) < 1e-5
    export_onnx(student, tmp_path / "b.onnx", sigma=80.0, shape=[2])
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    x = 80 * torch.randn(5, 2)
    assert torch.allclose(run(tmp_path / "a.onnx", x=x), student(x, 80.0).detach(), atol=1e-5)


def test_labels_are_an_input(tmp_path):
    student = small_student(classes=3).train()
    export_onnx(student, tmp_path / "a.onnx", shape=[2], classes=3)
    assert student.training
    x, sigma, labels = torch.randn(4, 2), torch.full((4,), 2.0), torch.tensor([0, 1, 2, 0])
    wanted = student(x, sigma, labels=labels).detach()
    assert torch.allclose(run(tmp_path / "a.onnx", x=x, sigma=sigma, labels=labels), wanted, atol=1e-5)


def test_a_guided_teacher_asks_its_network_twice_within_one_graph(tmp_path):
    torch.manual_seed(0)
    guided = GuidedDenoiser(cdedu.Teacher(MLP(2, 16, 2, 4)).eval(), 3.0, null=3)
    export_onnx(guided, tmp_path / "a.onnx", shape=[2], classes=4)
    for batch in (1, 5):
        x, sigma = torch.randn(batch, 2), torch.linspace(0.5, 3, batch)
        labels = torch.arange(batch) % 3
        wanted = guided(x, sigma, labels=labels).detach()
        assert torch.allclose(run(tmp_path / "a.onnx", x=x, sigma=sigma, labels=labels), wanted, atol=1e-5)


def test_half_the_room_and_float32_inside(tmp_path):
    """The file is the model with its weights rounded; the model keeps its own."""
    torch.manual_seed(0)
    model = cdedu.ConsistencyModel(MLP(2, 96, 3, 3)).eval()
    before = copy.deepcopy(model.state_dict())
    assert export_onnx(model, tmp_path / "a.onnx", shape=[2], classes=3, half=True) < 1e-5
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert (tmp_path / "a.onnx").stat().st_size < 3 * sum(p.numel() for p in model.parameters())
    sigma, labels = torch.tensor([0.01, 1.0, 80.0]), torch.tensor([0, 1, 2])
    x = sigma[:, None] * torch.randn(3, 2)
    found = run(tmp_path / "a.onnx", x=x, sigma=sigma, labels=labels)
    rounded = copy.deepcopy(model).half().float()
    assert found.dtype == torch.float32
    assert torch.allclose(found, rounded(x, sigma, labels=labels).detach(), atol=1e-6)
    assert not torch.allclose(found, model(x, sigma, labels=labels).detach(), atol=1e-6)


def test_half_precision_refuses_a_weight_that_it_does_not_have(tmp_path):
    model = small_student()
    with torch.no_grad():
        next(model.parameters())[0] = 1e6
    with pytest.raises(ValueError, match="a weight is beyond 65,504"):
        export_onnx(model, tmp_path / "a.onnx", shape=[2], half=True)
    assert not list(tmp_path.iterdir())


def test_shape_comes_from_the_checkpoint(tmp_path):
    student = cdedu.load("toy-student")
    export_onnx(student, tmp_path / "a.onnx", sigma=80.0)
    x = 80 * torch.randn(9, 2)
    assert torch.allclose(run(tmp_path / "a.onnx", x=x), student(x, 80.0).detach(), atol=1e-5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"shape": None}, ValueError, "does not say its shape"),
        ({"path": "a.pt"}, ValueError, r"must end in \.onnx"),
        ({"sigma": -1.0}, ValueError, "sigma = -1.0"),
        ({"sigma": 0.001}, ValueError, "at least 0.002"),
        ({"sigma": float("nan")}, ValueError, "sigma = nan"),
        ({"shape": [3]}, ValueError, "cannot be called on"),
        ({"model": lambda x, sigma: x}, TypeError, "not a torch module"),
        ({"model": "wrong shape"}, ValueError, "into"),
        ({"model": "untraceable"}, ValueError, "cannot be traced"),
    ],
)
def test_errors_come_before_the_file(arguments, error, message, tmp_path):
    class Narrow(torch.nn.Module):
        def forward(self, x, sigma):
            return x[:, :1]

    class Branches(torch.nn.Module):
        def forward(self, x, sigma):
            return x if float(x.sum()) > 0 else -x

    models = {"wrong shape": Narrow(), "untraceable": Branches()}
    arguments = {"model": small_student(), "path": "a.onnx", "shape": [2], **arguments}
    model = models.get(arguments["model"]) if isinstance(arguments["model"], str) else arguments["model"]
    with pytest.raises(error, match=message) as caught:
        export_onnx(model, tmp_path / arguments["path"], arguments.get("sigma"), shape=arguments["shape"])
    assert str(caught.value).count("\n") <= 1
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"before")
    forward = _Graph.forward

    def other_when_called(self, *inputs):
        return forward(self, *inputs) + (0.0 if torch.compiler.is_compiling() else 0.01)

    monkeypatch.setattr(_Graph, "forward", other_when_called)
    with pytest.raises(RuntimeError, match=r"differ by .*e-0\d.*not written"):
        export_onnx(small_student(), tmp_path / "a.onnx", shape=[2])
    assert (tmp_path / "a.onnx").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'needs onnxscript: pip install "cdedu\[onnx\]"'):
        export_onnx(copy.deepcopy(small_student()), tmp_path / "a.onnx", shape=[2])


def test_the_import_loads_no_onnx():
    code = "import sys, cdedu, cdedu.pretrained; print([m for m in sys.modules if m.startswith(('onnx', 'diffusers'))])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_ddpm_is_one_graph_up_to_its_own_highest_level(tmp_path):
    """Which lies below 80 here; above it the model itself refuses."""
    torch.manual_seed(0)
    net = unet(4, 1, widths=(8, 8), classes=3).net
    model = DiffusersDenoiser(net, torch.cumprod(1 - torch.linspace(1e-3, 0.1, 60), 0), "v_prediction").eval()
    assert 1 < model.sigma_max < 10
    with pytest.raises(ValueError, match="sigma = 80.0, but it must be at most"):
        export_onnx(model, tmp_path / "a.onnx", 80.0, shape=(1, 4, 4), classes=3)
    assert export_onnx(model, tmp_path / "a.onnx", shape=(1, 4, 4), classes=3) < 1e-4
    sigma, labels = torch.linspace(0.001, model.sigma_max, 40), torch.arange(40) % 3
    x = sigma[:, None, None, None] * torch.randn(40, 1, 4, 4)
    found = run(tmp_path / "a.onnx", x=x, sigma=sigma, labels=labels)
    assert torch.allclose(found, model(x, sigma, labels=labels).detach(), atol=1e-4)
