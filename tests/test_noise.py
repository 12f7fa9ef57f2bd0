"""Noise grids, noise-level distributions, and the checks that every other part relies on."""

import math

import pytest
import torch
from float32_device import there
from hypothesis import given
from hypothesis import strategies as st

from cdedu.editing import interpolate
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.noise import (
    LogNormal,
    add_noise,
    check_grid,
    curriculum,
    from_trigflow,
    improved_curriculum,
    karras_sigmas,
    normal,
    sigma_like,
    stage_of,
    target_rate,
    to_trigflow,
)
from cdedu.solvers import euler_step
from cdedu.teacher import Teacher


@pytest.mark.parametrize(
    "x",
    [torch.full((2, 3), 200, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3).bool()],
)
def test_whole_numbers_cannot_hold_noise(x):
    """8-bit pictures would wrap around, others be cut off."""
    for call in (
        lambda: add_noise(x, 100.0, torch.ones(2, 3)),
        lambda: to_trigflow(x, 1.0),
        lambda: GaussianMixture(torch.zeros(2, 3), 0.1)(x, 1.0),
        lambda: Teacher(MLP(3, 8, 1))(x, 1.0),
        lambda: euler_step(lambda x, s: x, x, 2.0, 1.0),
    ):
        with pytest.raises(
            ValueError, match=r"x has type torch.\w+, which cannot hold noise; use to_unit\(x\)"
        ):
            call()


@pytest.mark.parametrize("sigmas", [[80, 10, 2, 1], [80.0, 10.0, 2.0, 1.0]])
def test_weights_of_a_grid_of_whole_numbers_are_those_of_the_same_numbers(sigmas):
    weights = LogNormal().grid_weights(torch.tensor(sigmas))
    assert weights.dtype == torch.float32 and weights.sum().item() == pytest.approx(1)
    assert weights.equal(LogNormal().grid_weights(torch.tensor(sigmas, dtype=torch.float32)))


def test_grid_has_the_published_values():
    """The values that published second sampling steps were chosen from."""
    g = karras_sigmas(18, dtype=torch.float64)
    assert g[[0, 1, 11]].tolist() == pytest.approx([80, 57.586, 0.58535], rel=1e-5)
    assert karras_sigmas(40)[22].item() == pytest.approx(1.38237, rel=1e-5)


def test_grid_is_the_papers_counted_from_the_other_end():
    n, eps, T, rho = 23, 0.01, 50.0, 5.0
    t = [(eps ** (1 / rho) + i / (n - 1) * (T ** (1 / rho) - eps ** (1 / rho))) ** rho for i in range(n)]
    g = karras_sigmas(n, eps, T, rho, dtype=torch.float64)
    assert g.flip(0).tolist() == pytest.approx(t, rel=1e-12)


@given(st.integers(2, 300), st.floats(1e-3, 0.5), st.floats(1, 200), st.floats(1, 10))
def test_grid_descends_between_exact_ends(n, sigma_min, sigma_max, rho):
    g = karras_sigmas(n, sigma_min, sigma_max, rho, dtype=torch.float64)
    assert len(g) == n and g[0] == sigma_max and g[-1] == sigma_min
    assert (g[:-1] > g[1:]).all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((1,), "at least 2"),
        ((18, 80.0, 0.002), "sigma_min < sigma_max"),
        ((18, 0.0, 80.0), "sigma_min < sigma_max"),
        ((18, 0.002, math.inf), "sigma_min < sigma_max"),
        ((18, math.nan, 80.0), "sigma_min < sigma_max"),
        ((18, 0.002, 80.0, 0.0), "rho"),
    ],
)
def test_grid_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        karras_sigmas(*arguments)


def test_grid_too_fine_for_the_dtype_is_refused():
    with pytest.raises(ValueError, match="use float64"):
        karras_sigmas(2000, dtype=torch.bfloat16)


def test_lognormal_draws_have_the_moments_of_the_logarithm():
    s = LogNormal(-1.2, 1.2).sample(200_000, torch.Generator().manual_seed(0)).log()
    assert s.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert s.std().item() == pytest.approx(1.2, abs=0.01)


def test_index_weights_are_the_published_differences_of_erf():
    g, m, s = karras_sigmas(11, dtype=torch.float64), -1.1, 2.0
    e = [math.erf((math.log(x) - m) / (math.sqrt(2) * s)) for x in g.tolist()]
    mass = [a - b for a, b in zip(e[:-1], e[1:], strict=True)]
    weights = LogNormal(m, s).grid_weights(g)
    assert weights.tolist() == pytest.approx([x / sum(mass) for x in mass], rel=1e-9)


def test_noise_is_added_per_sample():
    x0, z = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    x = add_noise(x0, torch.tensor([0.0, 1.0, 80.0]), z)
    assert x[0].equal(x0[0]) and x[1].equal(x0[1] + z[1]) and x[2].equal(x0[2] + 80 * z[2])
    assert add_noise(x0.half(), 2.0, z.half()).dtype == torch.float16
    with pytest.raises(ValueError, match=r"noise has shape \(3,\)"):
        add_noise(x0, 1.0, torch.randn(3))


def test_noise_of_one_seed_is_the_same_whatever_it_is_moved_to():
    a = normal((5, 2), torch.Generator().manual_seed(1))
    b = normal((5, 2), torch.Generator().manual_seed(1), like=torch.zeros(1, dtype=torch.float64))
    assert b.dtype == torch.float64 and b.float().equal(a)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, -2.0, 3.0])])
def test_sigma_must_be_positive_and_finite(sigma):
    with pytest.raises(ValueError, match="positive and finite"):
        sigma_like(sigma, torch.zeros(3, 2))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1,)])
def test_sigma_must_be_a_number_or_one_per_sample(shape):
    with pytest.raises(ValueError, match="sigma has shape"):
        sigma_like(torch.ones(shape), torch.zeros(3, 2))


def test_sigma_broadcasts_in_full_precision():
    assert sigma_like(torch.ones(3), torch.zeros(3, 2, 4, 4)).shape == (3, 1, 1, 1)
    assert sigma_like(2.0, torch.zeros(3, 2)).shape == ()
    assert sigma_like(2.0, torch.zeros(3, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert sigma_like(2.0, torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert sigma_like(0.0, torch.zeros(3, 2), zero_allowed=True) == 0


def test_a_grid_the_wrong_way_round_is_named():
    with pytest.raises(ValueError, match=r"large to small, but sigmas\[1\] = 1 < sigmas\[2\] = 2"):
        check_grid(torch.tensor([3.0, 1.0, 2.0]))
    check_grid(torch.tensor([2.0, 1.0, 1.0]))  # equal neighbours may stand


@pytest.mark.parametrize("grid", [[1.0], [[2.0, 1.0]], [1.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_what_is_no_grid_is_refused(grid):
    with pytest.raises(ValueError, match="sigmas must be"):
        check_grid(torch.tensor(grid))


def test_curriculum_starts_at_s0_ends_at_s1_plus_1_and_never_falls():
    n = [curriculum(k, 1000, 2, 150) for k in range(1001)]
    assert n[0] == 2 and n[-1] == 151 and n == sorted(n)
    assert n[250] == math.ceil((0.25 * (151**2 - 4) + 4) ** 0.5)
    for bad in [(-1, 10), (11, 10), (0, 10, 1, 5), (0, 10, 5, 2)]:
        with pytest.raises(ValueError, match="curriculum"):
            curriculum(*bad)


def test_target_rate_is_the_papers_and_not_that_of_published_code():
    assert target_rate(2, 2, 0.9) == pytest.approx(0.9)  # with N − 1: .81
    assert target_rate(151, 2, 0.9) == pytest.approx(0.9 ** (2 / 151))
    with pytest.raises(ValueError, match="mu0"):
        target_rate(2, 2, 1.0)


def test_improved_curriculum_doubles_at_equal_intervals():
    """Against the formula, written out with other means: eight grids, 11 to 1281 points, an eighth of the steps each."""
    got = [improved_curriculum(k, 8000) for k in range(8001)]
    assert got[:8000] == [10 * 2**i + 1 for i in range(8) for _ in range(1000)] and got[-1] == 1281
    for steps, s0, s1 in ((1003, 10, 1280), (700, 10, 50), (64, 3, 20)):
        interval = math.floor(steps / (math.log(s1 // s0, 2) + 1))
        for k in range(steps + 1):
            n = s0
            for _ in range(k // interval):
                n *= 2
            assert improved_curriculum(k, steps, s0, s1) == min(n, s1) + 1
    assert improved_curriculum(0, 1, 5, 5) == 6


@pytest.mark.parametrize("function", [curriculum, improved_curriculum])
def test_an_empty_curriculum_is_refused(function):
    for arguments, words in (
        ((0, 0), "steps = 0"),
        ((0, 10, 1, 5), "2 <= s0 <= s1; .* s0 = 1 and s1 = 5"),
        ((0, 10, 5, 2), "2 <= s0 <= s1; .* s0 = 5 and s1 = 2"),
        ((11, 10, 2, 4), "got step 11, steps = 10"),
    ):
        with pytest.raises(ValueError, match=words):
            function(*arguments)
    with pytest.raises(ValueError, match="7 steps are too few for 8 grids"):
        improved_curriculum(0, 7)


def test_stages_are_equal_parts_of_a_training():
    assert [stage_of(k, 10, 4) for k in range(11)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    assert {stage_of(k, 10, 1) for k in range(11)} == {0}
    for arguments in ((0, 3, 4), (0, 3, 0), (4, 3, 1)):
        with pytest.raises(
            ValueError, match=rf"step {arguments[0]} of 3 lies in none of {arguments[2]} stages"
        ):
            stage_of(*arguments)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_trigflow_is_edm_in_another_scale(dtype, tolerance):
    """x_t = cos t x0 + sin t σ_d z; EDM's denoiser is cos t x_t + σ_d sin t F(x_t / σ_d): TrigFlow's, with −F for F."""

    class Network(torch.nn.Module):
        def forward(self, x, c_noise):
            return (3 * x).sin() + c_noise[:, None].to(x)

    g, sigma_data = torch.Generator().manual_seed(0), 0.7
    x0, z = (torch.randn(6, 2, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    sigma = torch.logspace(-2, 1.9, 6, dtype=torch.float64).to(dtype)
    x = x0 + sigma[:, None] * z
    x_t, t = to_trigflow(x, sigma, sigma_data)
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    assert t.shape == (6,) and torch.allclose(x_t, cos * x0 + sin * sigma_data * z, atol=10 * tolerance)
    F = -Network()(x_t / sigma_data, 0.25 * (sigma_data * t.tan()).log())
    D = Teacher(Network(), sigma_data)(x, sigma)
    assert torch.allclose(D, cos * x_t - sin * sigma_data * F, rtol=tolerance, atol=20 * tolerance)
    # the path's slope in t, of the flow that F stands for
    back, level = from_trigflow(x_t, t, sigma_data)
    assert torch.allclose(back, x, rtol=10 * tolerance) and torch.allclose(level, sigma, rtol=1e3 * tolerance)
    slope_in_sigma = (x - D) / sigma[:, None]
    dx_dt = cos * slope_in_sigma * sigma_data / cos**2 - sin * x  # d(cos t x_σ)/dt, with dσ/dt = σ_d / cos²t
    assert torch.allclose(dx_dt, sigma_data * F, rtol=1e3 * tolerance, atol=1e3 * tolerance)


def test_trigflow_takes_one_angle_or_many_and_refuses_others():
    x = torch.ones(3, 2)
    x_t, t = to_trigflow(x, 0.5)
    assert t.shape == () and t.item() == pytest.approx(math.pi / 4) and torch.allclose(x_t, x / 2**0.5)
    assert to_trigflow(x, 0.0)[1].item() == 0
    with pytest.raises(ValueError, match="an angle must lie in"):
        from_trigflow(x, math.pi / 2)
    with pytest.raises(ValueError, match="noise level"):
        to_trigflow(x, -1.0)


def no_float64(of):
    """What a function of tensors gives on a device without float64, and on the CPU."""
    with pytest.raises(TypeError, match="to float64"):
        there(torch.zeros(2)).double()
    return [of(put) for put in (there, lambda tensor: tensor)]


@pytest.mark.parametrize(
    "of",
    [
        lambda put: LogNormal().grid_weights(put(karras_sigmas(9))),
        lambda put: interpolate(lambda x, s: x, put(torch.linspace(-1, 1, 6)), put(torch.ones(6)), 4),
        lambda put: GaussianMixture(torch.zeros(1, 2), 0.5).consistency(put(torch.ones(3, 2)), 2.0),
        lambda put: GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.5).consistency(
            put(torch.ones(3, 1)), 2.0
        ),
        lambda put: GaussianMixture(torch.eye(2), 0.5).consistency(
            put(torch.ones(3, 2)), put(torch.full((3,), 2.0))
        ),
    ],
    ids=["grid_weights", "interpolate", "one component", "one dimension", "by the ODE"],
)
def test_no_device_is_asked_for_float64(of):
    on_device, on_cpu = no_float64(of)
    assert on_device.dtype == torch.float32 and on_device.as_subclass(torch.Tensor).equal(on_cpu)
