"""Steps of the probability-flow ODE: formulas, orders of error, and distillation's theorem without any training."""

import pytest
import torch

from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas
from cdedu.solvers import euler_step, heun_step

F64 = torch.float64
GAUSSIAN = GaussianMixture(torch.tensor([0.3], dtype=F64), 0.5)
MIXTURE = GaussianMixture(
    torch.tensor([-1.0, 0.6], dtype=F64),
    torch.tensor([0.2, 0.35], dtype=F64),
    torch.tensor([0.3, 0.7], dtype=F64),
)


def cubic(x, sigma):
    """A made-up denoiser, so that no formula holds by accident."""
    s = torch.as_tensor(sigma, dtype=x.dtype)
    return x**3 / 10 + (s.reshape(-1, 1) if s.ndim else s).sin()


def test_euler_step_is_its_formula():
    x, s, t = torch.tensor([[1.0], [-2.0]], dtype=F64), (3.0, 0.5), (1.0, 0.2)
    expected = [
        [y + (b - a) * (y - cubic(torch.tensor(y, dtype=F64), a).item()) / a]
        for y, a, b in zip((1.0, -2.0), s, t, strict=True)
    ]
    got = euler_step(cubic, x, torch.tensor(s, dtype=F64), torch.tensor(t, dtype=F64))
    assert torch.allclose(got, torch.tensor(expected, dtype=F64), rtol=1e-12)


def test_heun_step_is_the_mean_of_two_slopes():
    x, s, t = torch.randn(5, 1, generator=torch.Generator().manual_seed(0), dtype=F64), 3.0, 1.0
    slope = lambda y, a: (y - cubic(y, a)) / a  # noqa: E731
    end = x + (t - s) * slope(x, s)
    expected = x + (t - s) * (slope(x, s) + slope(end, t)) / 2
    assert torch.allclose(heun_step(cubic, x, s, t), expected, rtol=1e-12)


@pytest.mark.parametrize("step", [euler_step, heun_step])
def test_a_step_to_zero_is_the_guess(step):
    x = torch.randn(3, 1, dtype=F64)
    assert torch.allclose(step(cubic, x, 2.0, 0.0), cubic(x, 2.0))


@pytest.mark.parametrize("step", [euler_step, heun_step])
def test_steps_keep_dtype_pass_labels_and_check_sigma(step):
    seen = []

    def denoiser(x, sigma, labels):
        seen.append(labels)
        return 0.5 * x

    y = step(denoiser, torch.ones(2, 3, dtype=torch.float16), 2.0, torch.ones(2), labels="labels")
    assert y.dtype == torch.float16 and set(seen) == {"labels"}
    with pytest.raises(ValueError, match="positive and finite"):
        step(denoiser, torch.ones(2, 3), -1.0, 0.5, labels=0)
    with pytest.raises(ValueError, match="sigma = -1"):
        step(denoiser, torch.ones(2, 3), 1.0, -1.0, labels=0)


@pytest.mark.parametrize("step, order", [(euler_step, 1), (heun_step, 2)])
def test_error_of_one_step_shrinks_with_its_order_plus_one(step, order):
    x = torch.linspace(-2, 2, 101, dtype=F64)[:, None]
    exact = lambda t: MIXTURE.consistency(x, 1.0, sigma_min=t)  # noqa: E731
    errors = [(step(MIXTURE, x, 1.0, 1 - h) - exact(1 - h)).square().mean().sqrt() for h in (0.02, 0.01)]
    assert (errors[0] / errors[1]).log2().item() == pytest.approx(order + 1, abs=0.1)


def solver_error(teacher: GaussianMixture, step, n: int) -> torch.Tensor:
    """Of the student without loss, which is the solver composed over the grid: its error at T."""
    x = 80 * torch.linspace(-2, 2, 2001, dtype=F64)[:, None]
    exact, grid = teacher.consistency(x, 80.0), karras_sigmas(n, dtype=F64).tolist()
    for s, t in zip(grid[:-1], grid[1:], strict=True):
        x = step(teacher, x, s, t)
    return (x - exact).abs()


@pytest.mark.parametrize(
    "teacher, step, errors",
    [
        (GAUSSIAN, euler_step, {18: 0.154, 36: 0.0780, 72: 0.0392, 240: 0.0118}),
        (GAUSSIAN, heun_step, {18: 0.0553, 36: 0.0122, 72: 0.00288, 240: 2.49e-4}),
        (MIXTURE, euler_step, {18: 0.449, 36: 0.338, 72: 0.236, 240: 0.0968}),
        (MIXTURE, heun_step, {18: 0.0914, 36: 0.0353, 72: 0.0104, 240: 0.00103}),
    ],
    ids=["gaussian-euler", "gaussian-heun", "mixture-euler", "mixture-heun"],
)
def test_a_student_without_loss_errs_as_the_solver_does(teacher, step, errors):
    """The bound of consistency distillation: largest error at T over x/T in [−2, 2]."""
    for n, largest in errors.items():
        assert solver_error(teacher, step, n).max().item() == pytest.approx(largest, rel=0.02), n


@pytest.mark.parametrize(
    "teacher, step, slope",
    [
        (GAUSSIAN, euler_step, 1.00),
        (GAUSSIAN, heun_step, 2.01),
        (MIXTURE, euler_step, 0.99),
        (MIXTURE, heun_step, 2.02),
    ],
    ids=["gaussian-euler", "gaussian-heun", "mixture-euler", "mixture-heun"],
)
def test_error_falls_with_the_order_of_the_solver(teacher, step, slope):
    """Root mean square, between 240 and 480 points: 1 for Euler, 2 for Heun."""
    a, b = (solver_error(teacher, step, n).square().mean().sqrt() for n in (240, 480))
    assert (a / b).log2().item() == pytest.approx(slope, abs=0.02)
