"""Noise grids found by search: within the budget, on seeds of their own, never worse than where the search began."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from cdedu.data import Dataset
from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.protocol import protocol_of
from cdedu.evaluation.tuning import WALKS, _Remembering, _Search, draw_with, points_of, spaced, tune_sigmas
from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas

EXACT = GaussianMixture(torch.tensor([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5]]), 0.05)
G = torch.Generator().manual_seed(0)
X = EXACT.sample(540, G)
DATA = Dataset("three", X[:300], X[300:])
TUNING = Ruler(DATA, protocol=protocol_of(DATA, "tuning"))


class Counting:
    """A model that counts the samples that it is asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        return EXACT(x, sigma)


@pytest.mark.parametrize("sampler, evaluations", [(s, k) for s in WALKS for k in (1, 3, 5)])
def test_a_sampler_makes_the_evaluations_that_it_is_tuned_for(sampler, evaluations):
    model, sigmas = Counting(), spaced(points_of(sampler, evaluations), 0.01, 80.0, 7.0)
    x = draw_with(model, sampler, sigmas, TUNING)(torch.Generator().manual_seed(0))
    assert model.calls == evaluations and x.shape == (TUNING.n, 2)


def test_samples_start_from_noise_of_the_first_level():
    starts = []

    def model(x, sigma):
        starts.append(x)
        return x

    draw_with(model, "ddim", (5.0, 1.0), TUNING)(torch.Generator().manual_seed(3))
    assert starts[0].equal(5 * torch.randn(TUNING.n, 2, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("goal", [(30.0, 0.5), (80.0, 3.0, 0.9, 0.05)])
def test_the_search_finds_a_single_best_grid(goal):
    def far(sigmas):
        return sum(math.log(a / b) ** 2 for a, b in zip(sigmas, goal, strict=True))

    search = _Search(far, (0.002, 80.0), 400)
    for grid in search.begin(len(goal)):
        search.refine(grid)
    best = min(search.known, key=search.known.__getitem__)
    assert best == pytest.approx(goal, rel=0.05) and search.known[best] == far(best)


@pytest.mark.parametrize(
    "sampler, k, budget", [("ddim", 4, 100), ("dpm_solver", 3, 50), ("heun", 3, 50), ("consistency", 2, 31)]
)
def test_a_search_keeps_to_budget_ends_and_order_and_counts_what_it_spends(sampler, k, budget):
    tried, model = [], Counting()
    found = tune_sigmas(
        model,
        sampler,
        k,
        TUNING,
        budget=budget,
        sigma_min=0.01,
        sigma_max=40.0,
        tried=lambda *each: tried.append(each),
    )
    grids = [sigmas for _, sigmas, _ in tried]
    assert [spent for spent, *_ in tried] == [k * (i + 1) for i in range(len(tried))]
    assert (found.tried, found.spent) == (len(tried), k * len(tried)) and budget - k < found.spent <= budget
    assert len({*grids}) == len(grids) and all(len(s) == points_of(sampler, k) for s in grids)
    assert all(s[0] <= 40 and s[-1] >= 0.01 and all(a > b for a, b in pairwise(s)) for s in grids)
    assert model.calls < found.spent, "grids that begin alike share evaluations"
    best = min(tried, key=lambda each: each[2])
    assert (found.sigmas, found.distance) == best[1:]
    assert tried[0][1:] == (spaced(points_of(sampler, k), 0.01, 40.0, 7.0), found.untuned)


def test_a_distance_is_that_of_fresh_samples_with_the_seeds_of_tuning():
    found = tune_sigmas(EXACT, "consistency", 3, TUNING, budget=60)
    g, x = torch.Generator().manual_seed(1000), None
    for i, sigma in enumerate(found.sigmas):
        noise = torch.randn(TUNING.n, 2, generator=g)
        x = EXACT(sigma * noise if i == 0 else x + (sigma**2 - 0.002**2) ** 0.5 * noise, sigma)
    assert found.distance == pytest.approx(TUNING.measure(x)["sw"], rel=1e-4)


def test_a_memory_tells_samples_apart_and_asks_once():
    model = Counting()
    once, x = _Remembering(model), torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    for part in (*x, *x):
        for sigma in (0.5, 2.0):
            assert once(part, sigma).equal(EXACT(part, sigma))
    assert model.calls == 4


def test_two_steps_gain_by_tuning_also_on_seeds_that_they_were_not_tuned_on():
    found, other = tune_sigmas(EXACT, "ddim", 2, TUNING), Ruler(DATA)
    tuned, untuned = (
        other.nearness(draw_with(EXACT, "ddim", sigmas, other)) for sigmas in (found.sigmas, (80.0, 0.002))
    )
    assert found.distance < 0.8 * found.untuned and tuned < 0.8 * untuned


def test_a_grid_whose_samples_are_no_numbers_is_not_chosen():
    def model(x, sigma):
        return EXACT(x, sigma) * (math.nan if sigma < 0.1 else 1.0)

    found = tune_sigmas(model, "ddim", 2, TUNING, budget=40)
    assert found.untuned == math.inf and found.sigmas[-1] >= 0.1 and math.isfinite(found.distance)


def test_spaced_is_the_grid_of_edm():
    assert spaced(5, 0.002, 80.0, 7.0) == pytest.approx(karras_sigmas(5).tolist())
    assert spaced(1, 0.002, 80.0, 7.0) == (80.0,)
    assert spaced(3, 0.01, 1.0, 1e4) == pytest.approx((1.0, 0.1, 0.01), rel=1e-2)


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"sampler": "euler"},
            "sampler 'euler' is not known; choose among ddim, dpm_solver, heun, consistency",
        ),
        ({"evaluations": 0}, "evaluations = 0, but a sampler makes at least 1"),
        ({"sampler": "heun", "evaluations": 4}, "odd number of evaluations, 2n − 1 for n points, not 4"),
        ({"budget": 3}, "budget = 3, but one grid costs 4 evaluations a sample"),
        ({"ruler": Ruler(DATA)}, "must not be chosen with the seeds that results are reported with, 0 to 4"),
        (
            {"ruler": Ruler(DATA, protocol=replace(protocol_of(DATA), first_seed=4, draws=1))},
            "must not be chosen with the seeds",
        ),
    ],
)
def test_tuning_refuses(options, words):
    asked = {"model": EXACT, "sampler": "ddim", "evaluations": 4, "ruler": TUNING} | options
    with pytest.raises(ValueError, match=words):
        tune_sigmas(**asked)
