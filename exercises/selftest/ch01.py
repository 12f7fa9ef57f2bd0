"""Prepared answers to the exercises of chapter 1."""

import math
from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong


@fragile("noise-weights", "underflow")
def with_a_loop(x, sigma, points, weights):
    out = []
    for row in x:
        p = weights * torch.exp(-((row - points) ** 2).sum(1) / (2 * sigma**2))
        out.append((p[:, None] * points).sum(0) / p.sum())
    return torch.stack(out)


@wrong("noise-weights", "unweighted")
def _(x, sigma, points, weights):
    return (-(torch.cdist(x, points) ** 2) / (2 * sigma**2)).softmax(1) @ points


@wrong("noise-weights", "no normalisation")
def _(x, sigma, points, weights):
    return (weights * torch.exp(-(torch.cdist(x, points) ** 2) / (2 * sigma**2))) @ points


@wrong("noise-weights", "sigma not squared")
def _(x, sigma, points, weights):
    p = weights * torch.exp(-(torch.cdist(x, points) ** 2) / (2 * sigma))
    return p / p.sum(1, keepdim=True) @ points


@wrong("noise-weights", "distance not squared")
def _(x, sigma, points, weights):
    p = weights * torch.exp(-torch.cdist(x, points) / (2 * sigma**2))
    return p / p.sum(1, keepdim=True) @ points


@wrong("noise-weights", "weights in the exponent")
def _(x, sigma, points, weights):
    return (weights - torch.cdist(x, points) ** 2 / (2 * sigma**2)).softmax(1) @ points


@wrong("noise-weights", "normalised too early")
def _(x, sigma, points, weights):
    p = (-(torch.cdist(x, points) ** 2) / (2 * sigma**2)).softmax(1)
    return (p * weights) @ points


@wrong("noise-weights", "whole batch")
def _(x, sigma, points, weights):
    p = weights * (-(torch.cdist(x, points) ** 2) / (2 * sigma**2)).exp()
    return p / p.sum() @ points


@wrong("noise-weights", "nearest")
def _(x, sigma, points, weights):
    return points[torch.cdist(x, points).argmin(1)]


@wrong("noise-weights", "shape")
def _(x, sigma, points, weights):
    return (weights.log() - torch.cdist(x, points) ** 2 / (2 * sigma**2)).softmax(1)


@wrong("noise-weights", "in place")
def _(x, sigma, points, weights):
    x -= points.mean(0)
    return x


right("noise-double", sigma_double=torch.tensor(3.0).sqrt() / 2)
right("noise-double", sigma_double=0.87)
wrong("noise-double", "too narrow", sigma_double=0.5)
wrong("noise-double", "data forgotten", sigma_double=1)
wrong("noise-double", "variance", sigma_double=0.75)
wrong("noise-double", "too low", sigma_double=0.43)
wrong("noise-double", "ratio", sigma_double=2.0)

right("noise-floor", settled_loss=torch.tensor(0.058))
right("noise-floor", settled_loss=1 / (1 / 0.3**2 + 1 / 0.4**2))
wrong("noise-floor", "zero", settled_loss=0)
wrong("noise-floor", "x alone", settled_loss=0.4**2)
wrong("noise-floor", "mean alone", settled_loss=0.09)
wrong("noise-floor", "root", settled_loss=0.24)
wrong("noise-floor", "variance of x", settled_loss=0.25)
wrong("noise-floor", "variance of the guess", settled_loss=0.0324)
wrong("noise-floor", "weight", settled_loss=0.36)
wrong("noise-floor", "noise only", settled_loss=0.021)
wrong("noise-floor", "shrinking only", settled_loss=0.037)
wrong("noise-floor", "weighted", settled_loss=1.0)
wrong("noise-floor", "nan", settled_loss=float("nan"))


@right("noise-stretched")
def by_the_covariance(x, sigma, mean, stds, axes):
    c = (axes * stds**2) @ axes.T
    return mean + (x - mean) @ torch.linalg.inv(c + sigma**2 * torch.eye(len(mean))) @ c


@right("noise-stretched")
def direction_by_direction(x, sigma, mean, stds, axes):
    x, out = x.double(), mean.double().repeat(len(x), 1)
    for s, direction in zip(stds.double(), axes.double().T, strict=True):
        along = ((x - mean) * direction).sum(1, keepdim=True)
        out = out + s**2 / (s**2 + sigma**2) * along * direction
    return out


@wrong("noise-stretched", "wrong turn")
def _(x, sigma, mean, stds, axes):
    return mean + (stds**2 / (stds**2 + sigma**2) * ((x - mean) @ axes.T)) @ axes


@wrong("noise-stretched", "mean turned")
def _(x, sigma, mean, stds, axes):
    return (mean + stds**2 / (stds**2 + sigma**2) * ((x - mean) @ axes)) @ axes.T


@wrong("noise-stretched", "not turned back")
def _(x, sigma, mean, stds, axes):
    return mean + stds**2 / (stds**2 + sigma**2) * ((x - mean) @ axes)


@wrong("noise-stretched", "never turned")
def _(x, sigma, mean, stds, axes):
    return (stds**2 * x + sigma**2 * mean) / (stds**2 + sigma**2)


@wrong("noise-stretched", "not squared")
def _(x, sigma, mean, stds, axes):
    return mean + (stds / (stds + sigma) * ((x - mean) @ axes)) @ axes.T


@wrong("noise-stretched", "share of the noise")
def _(x, sigma, mean, stds, axes):
    return mean + (sigma**2 / (stds**2 + sigma**2) * ((x - mean) @ axes)) @ axes.T


@wrong("noise-stretched", "mean not subtracted")
def _(x, sigma, mean, stds, axes):
    return mean + (stds**2 / (stds**2 + sigma**2) * (x @ axes)) @ axes.T


@wrong("noise-stretched", "mean not added")
def _(x, sigma, mean, stds, axes):
    return (stds**2 / (stds**2 + sigma**2) * ((x - mean) @ axes)) @ axes.T


@wrong("noise-stretched", "one width")
def _(x, sigma, mean, stds, axes):
    s2 = (stds**2).mean()
    return mean + s2 / (s2 + sigma**2) * (x - mean)


@wrong("noise-stretched", "in place")
def _(x, sigma, mean, stds, axes):
    x -= mean
    return mean + (stds**2 / (stds**2 + sigma**2) * (x @ axes)) @ axes.T


LEVELS = torch.tensor([0.002, 0.02, 0.2, 2.0, 20.0])


def times(denoise):
    """What a network is told at LEVELS."""
    seen = []

    def network(x, c_noise):
        seen.append(c_noise)
        return x

    denoise(network, torch.zeros(5, 2), LEVELS)
    return seen[0]


@right("noise-time")
def equal_steps(denoise):
    steps = times(denoise).diff()
    assert steps.std() < 1e-4 and steps[0] != 0


@right("noise-time")
def one_level_at_a_time(denoise):
    class Network(torch.nn.Module):
        def forward(self, x, c_noise):
            self.time = float(c_noise[0])
            return torch.zeros_like(x)

    network = Network()
    for level in (0.002, 0.5, 80.0):
        denoise(network, torch.ones(3, 2), torch.full((3,), level))
        assert abs(network.time - math.log(level) / 4) < 1e-3, level


@wrong("noise-time", "port")
def _(denoise):
    out = denoise(lambda x, c_noise: x, torch.ones(5, 2), LEVELS)
    assert out.shape == (5, 2) and out.isfinite().all()


@wrong("noise-time", "scaled")
def _(denoise):
    assert times(denoise).abs().max() < 2


@wrong("noise-time", "shifted")
def _(denoise):
    time = times(denoise)
    assert time.abs().max() < 2 and time.max() - time.min() > 0.5


@wrong("noise-time", "constant")
def _(denoise):
    steps = times(denoise).diff()
    assert torch.allclose(steps, steps[0].expand(4), atol=1e-4)


@wrong("noise-time", "refuses right")
def _(denoise):
    assert times(denoise).min() >= 0


@wrong("noise-time", "raised")
def _(denoise):
    assert abs(float(times(denoise)) - LEVELS.log() / 4) < 1e-4


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("noise-double", sigma_double=Fraction(433, 500))
unusual("noise-floor", settled_loss=np.array([0.0576], dtype=np.float32))


@unusual("noise-weights")
def in_numpy(x, sigma, points, weights):
    """Logarithms by hand, with the largest taken out, in numpy and double."""
    x, points, weights = (np.asarray(a, dtype=np.float64) for a in (x, points, weights))
    odds = np.log(weights) - ((x[:, None, :] - points[None]) ** 2).sum(axis=-1) / (2 * sigma * sigma)
    odds = odds - odds.max(axis=1, keepdims=True)
    p = np.exp(odds)
    return torch.from_numpy(np.einsum("bn,nd->bd", p / p.sum(axis=1, keepdims=True), points)).float()


@unusual("noise-weights")
def with_a_distribution(x, sigma, points, weights):
    each = torch.distributions.MultivariateNormal(
        points.double(), float(sigma) ** 2 * torch.eye(points.shape[1]).double()
    )
    odds = each.log_prob(x.double()[:, None]) + torch.log(weights)
    p = torch.exp(odds - torch.logsumexp(odds, dim=1, keepdim=True))
    out = torch.zeros_like(x, dtype=torch.double)
    for k, point in enumerate(points):
        out += p[:, k : k + 1] * point  # in place, on a tensor of its own
    return out


@fragile("noise-weights", "underflow")
def guarded(x, sigma, points, weights):
    p = weights * torch.exp(-(torch.cdist(x, points) ** 2) / (2 * sigma**2))
    return p @ points / p.sum(1, keepdim=True).clamp(min=1e-30)


@unusual("noise-stretched")
def with_einsum(x, sigma, mean, stds, axes):
    keep = torch.diag_embed(1 / (1 + (sigma / stds) ** 2))
    moved = torch.einsum("ij,jk,lk,bl->bi", axes, keep, axes, torch.sub(x, mean))
    return torch.add(input=moved, other=mean)


@fragile("noise-stretched", "thin")
def by_precisions(x, sigma, mean, stds, axes):
    """(C⁻¹ + 1/σ²)⁻¹ (C⁻¹ m + x/σ²)."""
    inverse = torch.linalg.inv((axes * stds**2) @ axes.T)
    return torch.linalg.solve(inverse + torch.eye(len(mean)) / sigma**2, (mean @ inverse + x / sigma**2).T).T


@unusual("noise-time")
def by_the_library(denoise):
    """With torch.testing, keywords, in double, and a network that is a class."""

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.empty(0))

        def forward(self, *given):
            self.seen = given[1].detach().clone()
            return given[0] * 0

    spy, sigma = Spy(), torch.logspace(-2, 1, 7, dtype=torch.float64)
    denoise(network=spy, x=torch.zeros(7, 2).double(), sigma=sigma)
    torch.testing.assert_close(spy.seen, torch.log(sigma) / 4, rtol=1e-4, atol=1e-5)


@fragile("noise-time", "refuses some right")
def to_the_last_bit(denoise):
    levels = torch.logspace(-2, 1, 50)
    seen = []
    denoise(lambda x, c: (seen.append(c), x)[1], torch.zeros(50, 2), levels)
    assert torch.equal(seen[0], levels.log() / 4)
