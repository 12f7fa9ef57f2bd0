"""Prepared answers to the exercises of chapter 1."""

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
wrong("noise-double", "added", sigma_double=0.5)
wrong("noise-double", "data forgotten", sigma_double=1)
wrong("noise-double", "variance", sigma_double=0.75)
wrong("noise-double", "doubled variance", sigma_double=0.125**0.5)
wrong("noise-double", "ratio", sigma_double=2.0)
