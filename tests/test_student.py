"""The boundary condition, the start from a teacher, and averages of weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cdedu.networks import MLP
from cdedu.solvers import euler_step
from cdedu.student import EMA, ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher, preconditioning

F64 = torch.float64


class Mixer(nn.Module):
    """A random network for data of any shape."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        size = math.prod(shape)
        self.weight = nn.Parameter(torch.randn(size, size, generator=g))

    def forward(self, x, c_noise, labels=None):
        out = x.flatten(1) @ self.weight + c_noise[:, None].to(x.dtype)
        return (out if labels is None else out + labels[:, None]).reshape(x.shape)


@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from([0.002, 0.01, 0.05]),
    st.sampled_from(["number", "scalar tensor", "one per sample"]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_boundary_holds_bitwise_for_any_network(batch, shape, dtype, eps, form, over_denoiser, seed):
    net = Mixer(tuple(shape), seed).to(dtype)
    student = DenoiserStudent(Teacher(net), eps) if over_denoiser else ConsistencyModel(net, sigma_min=eps)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    sigma = {"number": eps, "scalar tensor": torch.tensor(eps), "one per sample": torch.full((batch,), eps)}
    y = student(x, sigma[form])
    assert y.dtype == dtype and y.equal(x)


def test_student_is_skip_plus_network():
    x, sigma = torch.randn(3, 2, dtype=F64), torch.tensor([0.01, 1.0, 80.0], dtype=F64)
    net = Mixer((2,), 0).double()
    labels = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    s = sigma[:, None]
    c_skip, c_out = 0.25 / ((s - 0.002) ** 2 + 0.25), 0.5 * (s - 0.002) / (0.25 + s**2).sqrt()
    f = c_skip * x + c_out * net(x / (s**2 + 0.25).sqrt(), sigma.log() / 4, labels)
    assert torch.allclose(ConsistencyModel(net)(x, sigma, labels=labels), f, rtol=1e-12)


def test_golden_coefficients():
    """At σ = σ_d with a large ε, so that every wrong variant of the formula shows."""
    c_skip, c_out, c_in = preconditioning(torch.tensor(0.5, dtype=F64), 0.5, 0.1)
    assert c_skip.item() == pytest.approx(0.25 / 0.41, rel=1e-12)
    assert c_out.item() == pytest.approx(0.2 / math.sqrt(0.5), rel=1e-12)
    assert c_in.item() == pytest.approx(1 / math.sqrt(0.5), rel=1e-12)


def test_student_is_not_defined_below_its_boundary():
    with pytest.raises(ValueError, match="below sigma_min = 0.002"):
        ConsistencyModel(Mixer((2,), 0))(torch.zeros(1, 2), 0.001)
    for cls in (ConsistencyModel, DenoiserStudent):
        with pytest.raises(ValueError, match="sigma_min = 0, but it must be positive"):
            cls(Mixer((2,), 0), sigma_min=0)


def test_student_starts_as_a_free_copy_of_the_teachers_network():
    teacher = Teacher(MLP(width=8), 0.7, noise_scale=250.0).requires_grad_(False)
    student = ConsistencyModel.from_teacher(teacher, 0.01)
    assert (student.sigma_data, student.sigma_min, student.noise_scale) == (0.7, 0.01, 250.0)
    assert all(p.requires_grad for p in student.parameters())
    for (name, a), b in zip(student.network.state_dict().items(), teacher.network.parameters(), strict=True):
        assert a.equal(b) and a.data_ptr() != b.data_ptr(), name
    with pytest.raises(TypeError, match="DenoiserStudent"):
        ConsistencyModel.from_teacher(nn.Identity())  # type: ignore[arg-type]


def test_student_over_a_denoiser_starts_as_one_euler_step():
    teacher, x = Teacher(Mixer((2,), 0).double()), torch.randn(4, 2, dtype=F64)
    sigma = torch.tensor([0.02, 0.5, 3.0, 80.0], dtype=F64)
    assert torch.allclose(DenoiserStudent(teacher, 0.01)(x, sigma), euler_step(teacher, x, sigma, 0.01))


def test_average_follows_its_recurrence():
    """First update copies; after that θ̄ ← μ θ̄ + (1 − μ) θ; no gradient reaches it, the model is left alone."""
    model = nn.Linear(1, 1, bias=False)
    average, values = EMA(model, 0.9), [2.0, 3.0, 5.0]
    expected = None
    for value in values:
        model.weight.data.fill_(value)
        average.update(model)
        expected = value if expected is None else 0.9 * expected + 0.1 * value
        assert average.module.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 5.0
    average.update(model, rate=0.0)
    assert average.module.weight.item() == 5.0
    assert not any(p.requires_grad for p in average.parameters())
    for rate in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="rate"):
            EMA(model, rate)


def test_average_takes_buffers_along_and_is_called_like_the_model():
    model = nn.BatchNorm1d(2)
    average = EMA(model, 0.5).eval()
    model.running_mean.fill_(1.0)
    average.update(model)
    assert average.module.running_mean.tolist() == [1.0, 1.0]
    assert average(torch.zeros(1, 2)).equal(model.eval()(torch.zeros(1, 2)))
