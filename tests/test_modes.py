"""Counting modes: true draws reach all of them, a collapse is seen, and samples between modes count for none."""

import math

import pytest
import torch

from cdedu.course.measures.modes import mode_coverage
from cdedu.data.modes import mode_data, mode_grid
from cdedu.evaluation import effective_classes
from cdedu.mixture import GaussianMixture

GRID = mode_grid()


def test_true_draws_reach_every_mode_evenly():
    found = mode_coverage(mode_data(GRID).test, GRID)
    assert found["near"] == pytest.approx(1 - math.exp(-9 / 2), abs=0.005)
    assert found["hit"] == 25 and 24.8 < found["effective"] <= 25


def test_the_data_have_the_size_that_networks_expect():
    assert mode_data(GRID).train.std().item() == pytest.approx(0.5, abs=0.01)


def test_a_collapse_is_seen():
    x = mode_data(GRID).test
    few = x[torch.cdist(x, GRID.means).argmin(1) < 4]
    assert mode_coverage(few, GRID)["hit"] == 4
    assert mode_coverage(few, GRID)["effective"] == pytest.approx(4, abs=0.05)


def test_a_mode_with_a_few_strays_is_not_hit():
    x = torch.cat([GRID.means[:1].expand(980, 2), GRID.means[1:2].expand(20, 2)])
    assert mode_coverage(x, GRID)["hit"] == 2  # due 40 each, and a tenth of that is enough
    x = torch.cat([GRID.means[:1].expand(997, 2), GRID.means[1:2].expand(3, 2)])
    found = mode_coverage(x, GRID)
    assert found["hit"] == 1
    assert found["effective"] == pytest.approx(effective_classes(torch.arange(1000) // 997, 25))


def test_samples_between_the_modes_belong_to_none():
    x = (GRID.means[0] + GRID.means[1]).expand(10, 2) / 2
    found = mode_coverage(x, GRID)
    assert found.pop("blur") == pytest.approx(1 - math.exp(-(3.5**2) / 2), abs=1e-4)
    assert found == {"near": 0.0, "hit": 0, "effective": 0.0}


def around_the_modes(scale, dim=2):
    """Draws whose modes are ``scale`` times as wide as they should be, and what they are compared with."""
    mixture = GaussianMixture(10 * torch.eye(4, dim), 0.5)
    wide = GaussianMixture(mixture.means, 0.5 * scale)
    return wide.sample(40_000, torch.Generator().manual_seed(0)), mixture


def test_blur_is_the_gap_of_two_rayleigh_distributions():
    for scale in (2.0, 1.3, 0.7):
        x, mixture = around_the_modes(scale)
        r = torch.linspace(0, 6, 6001)
        gap = (1 - (-(r**2) / 2).exp()) - (1 - (-((r / scale) ** 2) / 2).exp())
        assert mode_coverage(x, mixture)["blur"] == pytest.approx(gap[gap.abs().argmax()].item(), abs=0.01)


def test_blur_agrees_with_scipy_in_more_dimensions():
    from scipy.stats import chi, kstest

    x, mixture = around_the_modes(1.2, dim=5)
    u = torch.cdist(x, mixture.means).amin(1) / 0.5
    assert mode_coverage(x, mixture)["blur"] == pytest.approx(
        kstest(u.numpy(), chi(5).cdf).statistic, abs=1e-4
    )


def test_uniform_noise_has_every_mode_and_is_blurred():
    x = 1.7 * torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) - 0.85
    found, true = mode_coverage(x, GRID), mode_coverage(mode_data(GRID).test, GRID)
    assert found["hit"] == 25 and found["effective"] > 24.8  # no count of modes tells it from data
    assert found["blur"] > 0.5 and abs(true["blur"]) < 0.03


def test_data_are_the_same_each_time():
    assert torch.equal(mode_data(GRID).train, mode_data(GRID).train)
    assert not torch.equal(mode_data(GRID).train[:5000], mode_data(GRID).test)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mode_grid(1), "at least 2 in a row"),
        (lambda: mode_grid(std=0.2), "told apart"),
        (lambda: mode_grid(std=0.0), "told apart"),
        (lambda: mode_coverage(torch.zeros(5, 3), GRID), r"want \(n, 2\)"),
        (lambda: mode_coverage(torch.zeros(0, 2), GRID), r"want \(n, 2\)"),
        (
            lambda: mode_coverage(
                torch.zeros(5, 2), GaussianMixture(torch.zeros(2, 2), 0.1, torch.tensor([0.3, 0.7]))
            ),
            "equal weights",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
