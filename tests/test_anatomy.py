"""The student's links and the bound of distillation's theorem, with exact teachers."""

import pytest
import torch

from cdedu.course.measures.links import link_errors
from cdedu.losses import distillation_loss
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.noise import karras_sigmas
from cdedu.samplers import sample_euler, sample_heun
from cdedu.solvers import euler_step, heun_step
from cdedu.student import ConsistencyModel

F64 = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([-1.0, 0.6], dtype=F64),
    torch.tensor([0.2, 0.35], dtype=F64),
    torch.tensor([0.3, 0.7], dtype=F64),
)
PLANE = GaussianMixture(torch.tensor([[-0.8, 0.1], [0.5, -0.4]]), 0.2)


@pytest.mark.parametrize("step, sample", [(euler_step, sample_euler), (heun_step, sample_heun)])
def test_links_add_up_to_the_distance_from_the_composed_solver(step, sample):
    torch.manual_seed(0)
    student, grid = ConsistencyModel(MLP(width=16)), karras_sigmas(7)
    x = 80 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        links = link_errors(student, PLANE, x, grid, step)
        apart = student(x, 80.0) - sample(PLANE, x, grid, to_zero=False)
    assert links.shape == (6, 20, 2)
    assert torch.allclose(links.sum(0), apart, atol=1e-5)


def test_each_link_is_what_the_loss_measures_there():
    torch.manual_seed(0)
    student, grid, x0 = ConsistencyModel(MLP(width=16)), karras_sigmas(5), torch.zeros(6, 2)
    x = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        links = link_errors(student, PLANE, x, grid)
        for i, sigma in enumerate(grid[:-1]):
            index = torch.full((6,), i)
            loss = distillation_loss(student, student, PLANE, x0, grid, index=index, noise=x / sigma)
            assert torch.allclose(loss, links[i].square().mean(1), rtol=1e-3, atol=1e-7)
            x = heun_step(PLANE, x, sigma, grid[i + 1])


def test_the_composed_solver_has_no_links():
    grid = karras_sigmas(6, dtype=F64)

    def composed(x, sigma):
        start = int((grid - sigma).abs().argmin())
        return x if start == 5 else sample_heun(MIXTURE, x, grid[start:], to_zero=False)

    x = 80 * torch.linspace(-2, 2, 11, dtype=F64)[:, None]
    assert link_errors(composed, MIXTURE, x, grid).abs().max() < 1e-12


def test_a_rising_grid_is_refused():
    with pytest.raises(ValueError, match="sigmas must run from large to small"):
        link_errors(PLANE, PLANE, torch.zeros(1, 2), karras_sigmas(5).flip(0))


@pytest.mark.parametrize("step, sample", [(euler_step, sample_euler), (heun_step, sample_heun)])
def test_error_is_at_most_lipschitz_times_the_sum_of_local_errors(step, sample):
    """Theorem 1 with its constant: L is the greatest slope of the composed solver at any level of the grid."""
    n = 24
    grid, x = karras_sigmas(n, dtype=F64), 80 * torch.linspace(-2, 2, 401, dtype=F64)[:, None]
    path = [x] + [MIXTURE.consistency(x, 80.0, float(s)) for s in grid[1:]]
    pairs = zip(path[:-1], path[1:], grid[:-1], grid[1:], strict=True)
    local = [float((step(MIXTURE, a, s, t) - b).abs().max()) for a, b, s, t in pairs]
    slopes = [torch.ones(1)]
    for i in range(1, n - 1):
        y = (2 + 2.5 * grid[i]) * torch.linspace(-1, 1, 2001, dtype=F64)[:, None]
        end = sample(MIXTURE, y, grid[i:], to_zero=False)
        slopes.append((end.diff(dim=0) / y.diff(dim=0)).abs())
    bound = float(torch.cat([s.flatten() for s in slopes]).max()) * sum(local)
    error = (sample(MIXTURE, x, grid, to_zero=False) - path[-1]).abs().max()
    assert 0.02 * bound < error < bound
