"""Prepared answers to the exercises of chapter 6."""

from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

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


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("digits-share", share=Fraction(1197, 1797))
unusual("digits-payback", digits=np.int32(90_353))


@unusual("digits-diagonal")
def by_the_library(mu_x, var_x, mu_y, var_y):
    """As for full covariances, in double: the trace of the root by its eigenvalues."""
    x, y = (torch.diag(v.double()) for v in (var_x, var_y))
    roots = torch.linalg.eigvals(x @ y).real.clamp(min=0).sqrt()
    shift = torch.dist(mu_x.double(), mu_y.double()) ** 2
    return (shift + torch.trace(x + y) - 2 * roots.sum()).item()


@unusual("digits-diagonal")
def in_numpy_feature_by_feature(mu_x, var_x, mu_y, var_y):
    total = 0.0
    for m, v, n, w in zip(*(t.numpy() for t in (mu_x, var_x, mu_y, var_y)), strict=True):
        total += np.hypot(m - n, np.sqrt(v) - np.sqrt(w)) ** 2
    return float(total)


@fragile("digits-diagonal", "no variance")
def by_the_ratio(mu_x, var_x, mu_y, var_y):
    return ((mu_x - mu_y) ** 2 + var_x * (1 - (var_y / var_x).sqrt()) ** 2).sum()


@unusual("digits-clamp")
def with_lerp(denoiser, x, sigmas):
    """Heun's step as the mean of two points, with an index, in place, and the last step by itself."""
    x = x.clone()
    for k in range(len(sigmas) - 1):
        high, low = sigmas[k], sigmas[k + 1]
        guess = denoiser(x=x, sigma=high)
        euler = torch.lerp(guess, x, low / high)
        second = x + (low - high) * torch.div(euler - denoiser(x=euler, sigma=low), low)
        x.copy_(torch.stack([euler, second]).mean(dim=0))
    return denoiser(x=x, sigma=sigmas[-1])


@fragile("digits-clamp", "nan")
def divided_by_nothing(denoiser, x, sigmas):
    for sigma, lower in zip(sigmas, torch.cat([sigmas[1:], torch.zeros(1)]), strict=True):
        slope = (x - denoiser(x, sigma)) / sigma
        ahead = x + (lower - sigma) * slope
        x = x + (lower - sigma) * (slope + (ahead - denoiser(ahead, lower)) / lower) / 2
    return x


@unusual("digits-kernel")
def with_sets_of_two(kernel_distance):
    """The smallest sets, where the pairs i = j weigh most; by keyword, in double, with a loop over pairs as the truth."""
    rng = np.random.default_rng(0)

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    for _ in range(5):
        x, y = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)) + 1
        inside = [
            np.mean([k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (x, y)
        ]
        truth = sum(inside) - 2 * np.mean([k(a, b) for a in x for b in y])
        value = kernel_distance(x=torch.from_numpy(x), y=torch.from_numpy(y))
        np.testing.assert_allclose(float(value), truth, rtol=1e-4, atol=1e-6)


@fragile("digits-kernel", "refuses right")
def one_draw(kernel_distance):
    assert abs(float(kernel_distance(torch.randn(10, 16), torch.randn(10, 16)))) < 1e-3
