"""Prepared answers to the exercises of chapter 6."""

import torch
from exercise_answers import right, wrong

import cdedu
from cdedu import evaluation


@right("digits-diagonal")
def by_matrices(mu_x, var_x, mu_y, var_y):
    a, b = var_x.double().diag(), var_y.double().diag()
    root = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    return ((mu_x - mu_y) ** 2).sum() + a.trace() + b.trace() - 2 * root


@right("digits-diagonal")
def with_a_loop(mu_x, var_x, mu_y, var_y):
    total = 0.0
    for m, v, n, w in zip(mu_x.tolist(), var_x.tolist(), mu_y.tolist(), var_y.tolist(), strict=True):
        total += (m - n) ** 2 + (v**0.5 - w**0.5) ** 2
    return total


@wrong("digits-diagonal", "variances compared")
def _(mu_x, var_x, mu_y, var_y):
    return (mu_x - mu_y).square().sum() + (var_x - var_y).square().sum()


@wrong("digits-diagonal", "no root")
def _(mu_x, var_x, mu_y, var_y):
    return (mu_x - mu_y).square().sum() + (var_x + var_y - 2 * var_x * var_y).sum()


@wrong("digits-diagonal", "no last term")
def _(mu_x, var_x, mu_y, var_y):
    return (mu_x - mu_y).square().sum() + var_x.sum() + var_y.sum()


@wrong("digits-diagonal", "root of the traces")
def _(mu_x, var_x, mu_y, var_y):
    root = (var_x.sum() * var_y.sum()).sqrt()
    return (mu_x - mu_y).square().sum() + var_x.sum() + var_y.sum() - 2 * root


@wrong("digits-diagonal", "factor 2")
def _(mu_x, var_x, mu_y, var_y):
    return ((mu_x - mu_y).square() + var_x + var_y - (var_x * var_y).sqrt()).sum()


@wrong("digits-diagonal", "means only")
def _(mu_x, var_x, mu_y, var_y):
    return (mu_x - mu_y).square().sum()


@wrong("digits-diagonal", "widths only")
def _(mu_x, var_x, mu_y, var_y):
    return (var_x.sqrt() - var_y.sqrt()).square().sum()


@wrong("digits-diagonal", "shift not squared")
def _(mu_x, var_x, mu_y, var_y):
    return (mu_x - mu_y).norm() + (var_x.sqrt() - var_y.sqrt()).square().sum()


@wrong("digits-diagonal", "root at the end")
def _(mu_x, var_x, mu_y, var_y):
    return ((mu_x - mu_y).square() + (var_x.sqrt() - var_y.sqrt()).square()).sum().sqrt()


@wrong("digits-diagonal", "mean")
def _(mu_x, var_x, mu_y, var_y):
    return ((mu_x - mu_y).square() + (var_x.sqrt() - var_y.sqrt()).square()).mean()


@wrong("digits-diagonal", "shape")
def _(mu_x, var_x, mu_y, var_y):
    return (mu_x - mu_y).square() + (var_x.sqrt() - var_y.sqrt()).square()


right("digits-share", share=2 / 3)
right("digits-share", share=torch.tensor(0.67))
wrong("digits-share", "half", share=0.5)
wrong("digits-share", "other set", share=1 / 3)
wrong("digits-share", "ratio", share=2)
wrong("digits-share", "all", share=1.0)
wrong("digits-share", "per cent", share=66.6)

right("digits-payback", digits=90_000)
right("digits-payback", digits=4000 * 128 * 6 / 35)
wrong("digits-payback", "one call", digits=15_000)
wrong("digits-payback", "student only", digits=4000 * 128 * 3 / 34)
wrong("digits-payback", "no backward", digits=60_000)
wrong("digits-payback", "Euler", digits=75_000)
wrong("digits-payback", "all backward", digits=180_000)
wrong("digits-payback", "no batch", digits=706)
wrong("digits-payback", "not divided", digits=3_072_000)


@right("digits-clamp")
def by_the_package(denoiser, x, sigmas):
    return cdedu.sample_heun(denoiser, x, sigmas)


@right("digits-clamp")
def in_double(denoiser, x, sigmas):
    x, levels = x.double(), [*sigmas.double().tolist(), 0.0]
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        h, slope = lower - sigma, (x - denoiser(x, sigma)) / sigma
        trial = x + h * slope
        x = trial if lower == 0 else x + h / 2 * (slope + (trial - denoiser(trial, lower)) / lower)
    return x


def heun(first=lambda guess: guess, second=lambda guess: guess, end=lambda x: x):
    def walk(denoiser, x, sigmas):
        for sigma, lower in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            slope = (x - first(denoiser(x, sigma))) / sigma
            ahead = x + (lower - sigma) * slope
            if lower > 0:
                slope = (slope + (ahead - second(denoiser(ahead, lower))) / lower) / 2
            x = x + (lower - sigma) * slope
        return end(x)

    return walk


def clamp(x, most=1):
    return x.clamp(-most, most)


wrong("digits-clamp", "first left", walk=heun(first=clamp))
wrong("digits-clamp", "second left", walk=heun(second=clamp))
wrong("digits-clamp", "at the end", walk=heun(end=clamp))
wrong("digits-clamp", "still limited", walk=heun(lambda x: clamp(x, 5), lambda x: clamp(x, 5)))
wrong("digits-clamp", "Euler", walk=cdedu.sample_euler)


@right("digits-kernel")
def against_the_package(kernel_distance):
    x, y = torch.randn(10, 3).double(), torch.randn(12, 3).double() + 1
    assert abs(float(kernel_distance(x, y)) - evaluation.kernel_distance(x, y)) < 1e-3


@right("digits-kernel")
def with_a_plain_limit(kernel_distance):
    values = [float(kernel_distance(torch.randn(10, 64), torch.randn(10, 64))) for _ in range(50)]
    assert -0.1 < sum(values) / len(values) < 0.1


@wrong("digits-kernel", "refuses right")
def _(kernel_distance):
    x = torch.randn(50, 4)
    assert abs(kernel_distance(x, x)) < 1e-3


@wrong("digits-kernel", "i = j")
def _(kernel_distance):
    assert kernel_distance(torch.randn(20, 4), torch.randn(20, 4) + 3) > 0


@wrong("digits-kernel", "divided by n²")
def _(kernel_distance):
    values = [float(kernel_distance(torch.randn(10, 16), torch.randn(10, 16))) for _ in range(100)]
    assert sum(values) / 100 < 0.2


@wrong("digits-kernel", "one set")
def _(kernel_distance):
    values = [float(kernel_distance(torch.randn(10, 16), torch.randn(10, 16))) for _ in range(100)]
    assert -0.12 < sum(values) / 100 < 1.1


@wrong("digits-kernel", "raised")
def _(kernel_distance):
    assert kernel_distance(torch.randn(20, 4)) == 0
