"""Preconditioning, the trained teacher, and the exact teachers against closed forms and independent solvers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from cdedu.adapters import VE, VP
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.noise import SIGMA_MIN
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher, preconditioning

F64 = torch.float64
MIX = dict(weights=[0.3, 0.7], means=[-1.0, 0.6], stds=[0.2, 0.35])


def mixture() -> GaussianMixture:
    return GaussianMixture(*(torch.tensor(MIX[k], dtype=F64) for k in ("means", "stds", "weights")))


class Recorder(nn.Module):
    """A network that answers zero and keeps what it was called with."""

    def forward(self, x, c_noise, **cond):
        self.seen = (x, c_noise, cond)
        return torch.zeros_like(x)


@given(st.floats(2e-3, 100), st.floats(0.1, 2), st.sampled_from([0.0, 1e-3, 2e-3]))
def test_coefficients_are_the_papers(sigma, sigma_data, eps):
    c_skip, c_out, c_in = preconditioning(torch.tensor(sigma, dtype=F64), sigma_data, eps)
    assert c_skip.item() == pytest.approx(sigma_data**2 / ((sigma - eps) ** 2 + sigma_data**2), rel=1e-9)
    gap = 0 if abs(sigma - eps) < 1e-6 * eps else sigma - eps
    assert c_out.item() == pytest.approx(sigma_data * gap / math.hypot(sigma, sigma_data), rel=1e-9)
    assert c_in.item() == pytest.approx(1 / math.hypot(sigma, sigma_data), rel=1e-9)


def test_a_network_that_answers_zero_is_exact_for_gaussian_data():
    """EDM's c_skip is the posterior mean of N(0, σ_d²)."""
    x, sigma = torch.randn(9, 2, dtype=F64), torch.logspace(-2, 2, 9, dtype=F64)
    exact = GaussianMixture(torch.zeros(1, 2, dtype=F64), 0.7)
    assert torch.allclose(Teacher(Recorder(), 0.7)(x, sigma), exact(x, sigma), rtol=1e-12)


@pytest.mark.parametrize("noise_scale", [0.25, 250.0])
def test_the_network_sees_scaled_data_and_the_logarithm_of_sigma(noise_scale):
    net, x = Recorder(), torch.randn(4, 3, dtype=torch.bfloat16)
    sigma = torch.tensor([0.01, 0.5, 1.0, 80.0])
    out = Teacher(net, 0.5, noise_scale)(x, sigma, labels="labels")
    seen, c_noise, cond = net.seen
    assert out.dtype == seen.dtype == torch.bfloat16 and cond == {"labels": "labels"}
    assert c_noise.dtype == torch.float32  # bf16 would round 250 ln σ by up to 4
    assert c_noise.tolist() == pytest.approx([noise_scale * math.log(s) for s in sigma.tolist()])
    assert torch.allclose(seen.float(), x.float() / (sigma[:, None] ** 2 + 0.25).sqrt(), rtol=1e-2)


def test_the_network_may_see_trigflows_angle_in_place_of_the_logarithm():
    net, sigma = Recorder(), torch.tensor([0.002, 0.5, 80.0])
    Teacher(net, 0.5, 3.0, angle=True)(torch.ones(3, 2), sigma)
    expected = [3 * math.atan2(s, 0.5) for s in sigma.tolist()]
    assert net.seen[1].tolist() == pytest.approx(expected) and expected[1] == 3 * math.pi / 4


def test_data_of_scaled_size_reach_the_network_with_unit_variance():
    net, g = Recorder(), torch.Generator().manual_seed(0)
    for sigma in (0.01, 0.5, 80.0):
        x = math.hypot(0.5, sigma) * torch.randn(100_000, 1, generator=g)
        Teacher(net)(x, sigma)
        assert net.seen[0].std().item() == pytest.approx(1, abs=0.01)


def test_teacher_refuses_bad_values():
    with pytest.raises(ValueError, match="sigma_data > 0"):
        Teacher(Recorder(), 0.0)
    with pytest.raises(ValueError, match="noise_scale > 0"):
        Teacher(Recorder(), 0.5, -1.0)
    with pytest.raises(ValueError, match=r"turned shape \(2, 3\) into \(2, 1\)"):
        narrow = Recorder()
        narrow.forward = lambda x, c_noise: x[:, :1]  # type: ignore[method-assign]
        Teacher(narrow)(torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match="sigma = 0"):
        Teacher(Recorder())(torch.zeros(2, 3), 0.0)


@given(st.floats(-3, 3), st.floats(0.05, 2), st.floats(0.002, 80), st.floats(-200, 200))
def test_one_gaussian_has_the_closed_form(m, s, sigma, x):
    gaussian = GaussianMixture(torch.tensor([m], dtype=F64), s)
    point = torch.tensor([[x]], dtype=F64)
    d = (s**2 * x + sigma**2 * m) / (s**2 + sigma**2)
    assert gaussian(point, sigma).item() == pytest.approx(d, rel=1e-9, abs=1e-9)
    f = m + (x - m) * math.sqrt((s**2 + SIGMA_MIN**2) / (s**2 + sigma**2))
    assert gaussian.consistency(point, sigma).item() == pytest.approx(f, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0])
def test_denoiser_is_the_posterior_mean(sigma):
    """Against numerical integration of Bayes' rule."""
    x = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    for point, d in zip(x.flatten().tolist(), mixture()(x, sigma).flatten().tolist(), strict=True):

        def joint(x0: float, power: int, point: float = point) -> float:
            prior = sum(w * norm.pdf(x0, m, s) for w, m, s in zip(*MIX.values(), strict=True))
            return float(x0**power * prior * norm.pdf(point, x0, sigma))

        mass, mean = (quad(joint, -4, 4, (k,), points=[point, -1, 0.6], limit=200)[0] for k in (0, 1))
        assert d == pytest.approx(mean / mass, rel=1e-5, abs=1e-6)


def test_denoiser_is_tweedies_formula():
    """D = x + σ² ∇ log p_σ, with the density written out and differentiated by autograd; a σ per sample."""
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, 3, generator=g, dtype=F64)
    stds, weights = (
        torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64),
        torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64),
    )
    x = torch.randn(20, 3, generator=g, dtype=F64, requires_grad=True)
    sigma = torch.logspace(-1, 1, 20, dtype=F64)
    var = stds**2 + sigma[:, None] ** 2
    parts = weights * torch.exp(-((x[:, None] - means) ** 2).sum(-1) / (2 * var)) / var**1.5
    (score,) = torch.autograd.grad(parts.sum(1).log().sum(), x)
    d = GaussianMixture(means, stds, weights)(x.detach(), sigma)
    assert torch.allclose(d, x.detach() + sigma[:, None] ** 2 * score, rtol=1e-9)


def test_posterior_is_a_mixture_with_the_right_moments():
    """Averaged over x, the posterior gives back the prior: mean and second moment."""
    g, teacher = torch.Generator().manual_seed(0), mixture()
    x0 = teacher.sample(200_000, g)
    x = x0 + 0.5 * torch.randn(x0.shape, generator=g, dtype=F64)
    r, m, s = teacher.posterior(x, 0.5)
    assert torch.allclose(r.sum(1), torch.ones(len(x), dtype=F64))
    assert (r * m[..., 0]).sum(1).mean().item() == pytest.approx(x0.mean().item(), abs=5e-3)
    second = (r * (m[..., 0] ** 2 + s**2)).sum(1).mean().item()
    assert second == pytest.approx(x0.square().mean().item(), abs=5e-3)


def test_a_mixture_of_points_is_the_exact_denoiser_of_a_data_set():
    data = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    exact = GaussianMixture(data, 0.0)
    assert exact(torch.tensor([[0.1, 0.3]]), 0.01).tolist() == [[0.0, 0.0]]
    assert exact(torch.tensor([[0.5, 0.3]]), 1.0).tolist() == [[0.5, 0.0]]
    assert {tuple(x) for x in exact.sample(50, torch.Generator().manual_seed(0)).tolist()} == {(0, 0), (1, 0)}


def test_samples_follow_the_mixture():
    x = mixture().sample(100_000, torch.Generator().manual_seed(0)).flatten()
    for q in (-1.1, -0.8, 0.0, 0.5, 1.0):
        cdf = sum(w * norm.cdf(q, m, s) for w, m, s in zip(*MIX.values(), strict=True))
        assert (x < q).double().mean().item() == pytest.approx(cdf, abs=5e-3)


@pytest.mark.parametrize("sigma", [80.0, 5.0, 0.3])
def test_in_one_dimension_paths_keep_their_quantile(sigma):
    """f = F_ε⁻¹(F_σ(x)): checked through scipy's distribution functions, in whichever tail is thinner."""
    z = torch.linspace(-3, 3, 41, dtype=F64)[:, None]
    x = sigma * z
    y = mixture().consistency(x, sigma)

    def tail(points: torch.Tensor, noise: float, sign: int) -> np.ndarray:
        scale = [math.hypot(s, noise) for s in MIX["stds"]]
        parts = zip(MIX["weights"], MIX["means"], scale, strict=True)
        return sum(w * norm.cdf(sign * (points.numpy() - m) / s) for w, m, s in parts)

    below, above = tail(x, sigma, 1), tail(x, sigma, -1)
    assert np.where(below < above, tail(y, SIGMA_MIN, 1), tail(y, SIGMA_MIN, -1)) == pytest.approx(
        np.where(below < above, below, above), rel=1e-7
    )
    assert (y.diff(dim=0) > 0).all()


def test_quantile_and_ode_agree_also_turned_in_the_plane():
    """A product of two one-dimensional mixtures flows coordinate by coordinate; a rotation turns its paths with it."""
    s, u, v = 0.25, torch.tensor([-1.0, 0.6], dtype=F64), torch.tensor([-0.5, 0.1, 0.8], dtype=F64)
    wu, wv = torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    c, d = math.cos(0.4), math.sin(0.4)
    turn = torch.tensor([[c, d], [-d, c]], dtype=F64)
    plane = GaussianMixture(torch.cartesian_prod(u, v) @ turn, s, torch.outer(wu, wv).flatten())
    sigma = torch.tensor([80.0, 3.0, 0.5, 20.0, 0.1, 1.0], dtype=F64)
    x = sigma[:, None] * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    lines = GaussianMixture(u, s, wu), GaussianMixture(v, s, wv)
    ends = [line.consistency(x[:, i : i + 1], sigma) for i, line in enumerate(lines)]
    assert torch.allclose(plane.consistency(x @ turn, sigma), torch.cat(ends, 1) @ turn, atol=1e-6)


def test_consistency_is_the_identity_at_its_own_end():
    x = torch.randn(5, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.allclose(mixture().consistency(x, 0.01, sigma_min=0.01), x, atol=1e-12)


def test_mixture_refuses_bad_values():
    one = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="finite floating-point"):
        GaussianMixture(torch.tensor([[math.nan]]), 1.0)
    with pytest.raises(ValueError, match="none may be negative"):
        GaussianMixture(one, -1.0)
    for weights in ([1.0], [0.5, 0.6], [0.0, 1.0]):
        with pytest.raises(ValueError, match="2 positive numbers of sum 1"):
            GaussianMixture(one, 1.0, torch.tensor(weights))
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\), want \(B, 1\)"):
        GaussianMixture(one, 1.0)(torch.zeros(3, 2), 1.0)
    with pytest.raises(ValueError, match="below sigma_min"):
        GaussianMixture(one, 1.0).consistency(torch.zeros(3, 1), 1e-3)


@pytest.mark.parametrize("around", [Teacher, ConsistencyModel, VP, VE])
@pytest.mark.parametrize(
    "weights, state", [(torch.float32, F64), (F64, torch.float32), (torch.bfloat16, torch.float32)]
)
def test_a_state_may_be_in_another_precision_than_the_weights(around, weights, state):
    """Solvers add up small steps in float64; the network is asked in its own precision, but for the noise level."""
    torch.manual_seed(0)
    network = MLP(2, 16, 1)
    model, x = around(network), torch.randn(4, 2, dtype=state)
    wanted = model(x.float(), 2.0)
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.extend(a.dtype for a in args))
    got = around(network.to(weights))(x, 2.0)
    assert got.dtype == state and seen == [weights, torch.promote_types(weights, torch.float32)]
    assert torch.allclose(got.float(), wanted, rtol=0.1 if weights == torch.bfloat16 else 1e-4, atol=0.05)
