"""Prepared answers to the exercises of chapter 2."""

import functools
from decimal import Decimal
from itertools import pairwise

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

from cdedu import GaussianMixture, karras_sigmas

right("paths-calls", calls=torch.tensor(19), milliseconds=19 * 40.0)
right("paths-calls", calls=19.0, milliseconds=torch.tensor([759.0]))
wrong("paths-calls", "one a point", calls=10)
wrong("paths-calls", "steps", calls=9)
wrong("paths-calls", "two a point", calls=20)
wrong("paths-calls", "last step", calls=18)
wrong("paths-calls", "per picture", calls=1216)
wrong("paths-calls", "one call", milliseconds=40)
wrong("paths-calls", "seconds", milliseconds=0.76)
wrong("paths-calls", "time per picture", milliseconds=11.9)
wrong("paths-calls", "time of 64", milliseconds=48640)
wrong("paths-calls", "type", calls="19")

right("paths-order", evaluations=128 * 16**0.5)
right("paths-order", evaluations=torch.tensor(500.0))
wrong("paths-order", "order 1", evaluations=2048)
wrong("paths-order", "steps", evaluations=256)
wrong("paths-order", "counted twice", evaluations=1024)
wrong("paths-order", "fewer", evaluations=32)
wrong("paths-order", "added", evaluations=144)
wrong("paths-order", "far too low", evaluations=8)


@right("paths-midpoint")
def towards_the_guess(denoiser, x, sigma, sigma_next):
    half = torch.tensor((sigma + sigma_next) / 2, dtype=x.dtype)
    guess = denoiser(x, sigma)
    between = guess + half / sigma * (x - guess)
    return x - (sigma - sigma_next) / half * (between - denoiser(between, half))


@right("paths-midpoint")
def in_single_precision(denoiser, x, sigma, sigma_next):
    x, middle = x.float(), sigma + 0.5 * (sigma_next - sigma)
    x_mid = x + (middle - sigma) * (x - denoiser(x, sigma)) / sigma
    return x + (sigma_next - sigma) * (x_mid - denoiser(x_mid, middle)) / middle


def midpoint(key):
    """A wrong answer that is given d, the middle, and the point there."""

    def decorate(end):
        def step(denoiser, x, s, t):
            d, m = (x - denoiser(x, s)) / s, (s + t) / 2
            return end(denoiser, x, s, t, d, m, x + (m - s) * d)

        wrong("paths-midpoint", key, midpoint_step=step)

    return decorate


midpoint("euler")(lambda D, x, s, t, d, m, y: x + (t - s) * d)
midpoint("from the middle")(lambda D, x, s, t, d, m, y: y + (t - s) * (y - D(y, m)) / m)
midpoint("old divisor")(lambda D, x, s, t, d, m, y: x + (t - s) * (y - D(y, m)) / s)
midpoint("old level")(lambda D, x, s, t, d, m, y: x + (t - s) * (y - D(y, s)) / m)
midpoint("all old")(lambda D, x, s, t, d, m, y: x + (t - s) * (y - D(y, s)) / s)
midpoint("old place")(lambda D, x, s, t, d, m, y: x + (t - s) * (x - D(x, m)) / m)
midpoint("averaged")(lambda D, x, s, t, d, m, y: y + (t - m) * (y - D(y, m)) / m)


@wrong("paths-midpoint", "heun")
def _(denoiser, x, s, t):
    d = (x - denoiser(x, s)) / s
    y = x + (t - s) * d
    return x + (t - s) * (d + (y - denoiser(y, t)) / t) / 2


@wrong("paths-midpoint", "root")
def _(denoiser, x, s, t):
    m = (s * t) ** 0.5
    y = x + (m - s) * (x - denoiser(x, s)) / s
    return x + (t - s) * (y - denoiser(y, m)) / m


@wrong("paths-midpoint", "in place")
def _(denoiser, x, s, t):
    x += (t - s) * (x - denoiser(x, s)) / s
    return x


@right("paths-up")
def by_index(denoiser, x, sigmas):
    for i in range(len(sigmas) - 1, 0, -1):
        guess = denoiser(x, sigmas[i])
        x = guess + sigmas[i - 1] * (x - guess) / sigmas[i]
    return x


@right("paths-up")
def in_a_list(denoiser, x, sigmas):
    levels = sorted(float(s) for s in sigmas)
    while len(levels) > 1:
        low = levels.pop(0)
        x = x + (levels[0] - low) * (x - denoiser(x, low)) / low
    return x


def walk(denoiser, x, levels):
    for s, t in pairwise(levels):
        x = x + (t - s) * (x - denoiser(x, s)) / s
    return x


@wrong("paths-up", "downwards")
def _(denoiser, x, sigmas):
    return walk(denoiser, x, sigmas.tolist())


@wrong("paths-up", "order")
def _(denoiser, x, sigmas):
    for t, s in pairwise(sigmas.tolist()):
        x = x + (t - s) * (x - denoiser(x, s)) / s
    return x


@wrong("paths-up", "one step short")
def _(denoiser, x, sigmas):
    return walk(denoiser, x, sigmas.flip(0).tolist()[:-1])


@wrong("paths-up", "skips the first")
def _(denoiser, x, sigmas):
    return walk(denoiser, x, sigmas[:-1].flip(0).tolist())


@wrong("paths-up", "one leap")
def _(denoiser, x, sigmas):
    return walk(denoiser, x, [sigmas[-1], sigmas[0]])


@wrong("paths-up", "raised")
def starts_at_zero(denoiser, x, sigmas):
    return walk(denoiser, x, torch.cat([torch.zeros(1), sigmas.flip(0)]))


@wrong("paths-up", "wrong sign")
def _(denoiser, x, sigmas):
    for s, t in pairwise(sigmas.flip(0)):
        x = x + (s - t) * (x - denoiser(x, s)) / s
    return x


@wrong("paths-up", "next level")
def _(denoiser, x, sigmas):
    for s, t in pairwise(sigmas.flip(0)):
        x = x + (t - s) * (x - denoiser(x, t)) / t
    return x


@wrong("paths-up", "random")
def _(denoiser, x, sigmas):
    return x + (sigmas[0] ** 2 - sigmas[-1] ** 2).sqrt() * torch.randn(x.shape)


@wrong("paths-up", "nothing")
def _(denoiser, x, sigmas):
    for s, t in pairwise([sigmas[-1]]):
        x = x + (t - s) * (x - denoiser(x, s)) / s
    return x


class Spy:
    """A denoiser that always answers 1, and writes down what it is asked."""

    def __init__(self):
        self.levels = []

    def __call__(self, x, sigma):
        self.levels.append(float(sigma))
        return torch.ones_like(x)


def spied(step):
    spy, x = Spy(), torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    return spy, x, step(spy, x, 2.0, 1.0)


def straight(step):
    """Where the guess never moves, Euler's step and Heun's are both exact: half the way from 2 to 1."""
    _, x, end = spied(step)
    assert torch.allclose(end, (x + 1) / 2)


def asks_at_both_levels(step):
    assert spied(step)[0].levels == [2.0, 1.0]


@right("paths-slope")
def one_step_by_hand(step):
    def denoiser(x, sigma):
        return x / (1 + sigma**2)

    x = torch.tensor([[1.0], [-2.0]])
    d = x * 2.0 / 5
    d_next = (x - d) / 2
    assert torch.allclose(step(denoiser, x, 2.0, 1.0), x - (d + d_next) / 2, atol=1e-5)


@right("paths-slope")
def against_the_path(step):
    one = GaussianMixture(torch.tensor([0.3], dtype=torch.float64), 0.5)
    x = torch.linspace(-160, 160, 4, dtype=torch.float64)[:, None]
    end = 0.3 + (x - 0.3) * ((0.5**2 + 0.002**2) / (0.5**2 + 80**2)) ** 0.5
    for s, t in pairwise(karras_sigmas(101, dtype=torch.float64).tolist()):
        x = step(one, x, s, t)
    assert (x - end).abs().max() < 5e-3


@wrong("paths-slope", "port")
def _(step):
    end = spied(step)[2]
    assert end.shape == (1, 2) and end.isfinite().all()


wrong("paths-slope", "divisor", test_heun=asks_at_both_levels)
wrong("paths-slope", "level", test_heun=straight)


@wrong("paths-slope", "place")
def guess_moves_with_x(step):
    x = torch.tensor([[3.0, -1.0]])
    assert torch.allclose(step(lambda x, sigma: x - sigma**2, x, 2.0, 1.0), x - 1.5)


@wrong("paths-slope", "unused")
def _(step):
    straight(step)
    asks_at_both_levels(step)


@wrong("paths-slope", "refuses right")
def too_strict(step):
    spy, x, end = spied(step)
    assert len(spy.levels) == 1


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("paths-calls", calls=np.int64(19), milliseconds=Decimal("760"))
unusual("paths-order", evaluations=np.float32(512))


@unusual("paths-midpoint")
def with_helpers_and_keywords(denoiser, x, sigma, sigma_next):
    def direction(at, level):
        return torch.true_divide(at - denoiser(x=at, sigma=level), level)

    def go(start, along, by):
        return torch.add(start, along, alpha=by)

    step = sigma_next - sigma
    return go(x, direction(go(x, direction(x, sigma), step / 2), sigma + step / 2), step)


@unusual("paths-midpoint")
def row_by_row(denoiser, x, sigma, sigma_next):
    """The level as a tensor, one point at a time, filled in place."""
    out, s = torch.empty_like(x), torch.tensor([float(sigma)], dtype=x.dtype)
    middle = (s + sigma_next) / 2
    for k in range(len(x)):
        row = x[k : k + 1].clone()
        row += (middle - s) * (row - denoiser(row, s)) / s
        out[k] = x[k] + float(sigma_next - sigma) * ((row - denoiser(row, middle)) / middle)[0]
    return out


@fragile("paths-midpoint", "at zero")
def by_the_ratio(denoiser, x, sigma, sigma_next):
    """The middle as a multiple of σ′: (1 + σ/σ′)/2 times σ′."""
    middle = sigma_next * (1 + sigma / sigma_next) / 2
    y = x + (middle - sigma) * (x - denoiser(x, sigma)) / sigma
    return x + (sigma_next - sigma) * (y - denoiser(y, middle)) / middle


@fragile("paths-midpoint", "at zero")
def nan_at_zero(denoiser, x, sigma, sigma_next):
    s, t = torch.tensor(sigma), torch.tensor(sigma_next)
    middle = t * (1 + s / t) / 2
    y = x + (middle - s) * (x - denoiser(x, s)) / s
    return x + (t - s) * (y - denoiser(y, middle)) / middle


@unusual("paths-up")
def by_reduce(denoiser, x, sigmas):
    def one(point, pair):
        low, high = pair
        return torch.lerp(denoiser(x=point, sigma=low), point, (high / low).to(point.dtype))

    return functools.reduce(one, pairwise(reversed(list(sigmas))), x)


@fragile("paths-up", "half precision")
def in_half_precision(denoiser, x, sigmas):
    for low, high in pairwise(sigmas.flip(0).tolist()):
        x = (x + (high - low) * (x - denoiser(x.double(), low)) / low).half()
    return x


@wrong("paths-up", "Heun")
def _(denoiser, x, sigmas):
    for s, t in pairwise(sigmas.flip(0)):
        d = (x - denoiser(x, s)) / s
        y = x + (t - s) * d
        x = x + (t - s) * (d + (y - denoiser(y, t)) / t) / 2
    return x


@unusual("paths-slope")
def with_keywords(step):
    """A false denoiser that looks its answers up, on whole numbers, called by names."""
    known = {(8.0, 4.0): 4.0, (6.0, 2.0): -2.0}

    def denoiser(x, sigma):
        return torch.full_like(x, known.get((float(x), float(sigma)), 100.0))

    end = step(denoiser=denoiser, x=torch.tensor([[8.0]]), sigma=4.0, sigma_next=2.0)
    # Slopes: (8 − 4)/4 = 1, so the trial point is 6, then (6 + 2)/2 = 4. Their mean is 2.5.
    np.testing.assert_allclose(end.numpy(), [[3.0]], rtol=1e-5)


@fragile("paths-slope", "refuses some right")
def to_the_last_bit(step):
    x = torch.linspace(-3, 3, 40)[:, None]
    D = GaussianMixture(torch.tensor([[0.3]]), 0.5)
    d = (x - D(x, 2.0)) / 2.0
    y = x + (0.7 - 2.0) * d
    assert torch.equal(step(D, x, 2.0, 0.7), x + (0.7 - 2.0) * (d + (y - D(y, 0.7)) / 0.7) / 2)
