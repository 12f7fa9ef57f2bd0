"""Prepared answers to the exercises of chapter 1."""

import math

import torch
from exercise_answers import right, wrong


@right("noise-weights")
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
