"""Prepared answers to the exercises of chapter 5."""

import math
from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

from cdedu.losses import pseudo_huber

right("scratch-bill", one_image=torch.tensor(8.0), students=3.0)
wrong("scratch-bill", "one step", one_image=6)
wrong("scratch-bill", "target forgotten", one_image=7)
wrong("scratch-bill", "everything doubled", one_image=12)
wrong("scratch-bill", "target learns", one_image=10)
wrong("scratch-bill", "teacher learns", one_image=16)
wrong("scratch-bill", "all learn", one_image=18)
wrong("scratch-bill", "two", students=2)
wrong("scratch-bill", "not whole", students=2.4)
wrong("scratch-bill", "teacher for free", students=1)
wrong("scratch-bill", "CT for free", students=4)
wrong("scratch-bill", "images counted", students=8 / 3)


@fragile("scratch-average", "underflow")
def in_loops(x, data, sigma, sigma_next):
    rows = []
    for point in x.double():
        weights = [math.exp(-float((point - d).square().sum()) / (2 * sigma**2)) for d in data]
        neighbours = [d + sigma_next * (point - d) / sigma for d in data]
        rows.append(sum(w * n for w, n in zip(weights, neighbours, strict=True)) / sum(weights))
    return torch.stack(rows)


@fragile("scratch-average", "underflow")
def all_neighbours_at_once(x, data, sigma, sigma_next):
    z = (x[:, None] - data) / sigma
    w = torch.exp(-z.square().sum(2) / 2)
    w = w / w.sum(1, keepdim=True)
    return (w[:, :, None] * (data + sigma_next * z)).sum(1)


def step(x, guess, sigma, sigma_next):
    return guess + sigma_next / sigma * (x - guess)


def weighted(exponent, data):
    return exponent.softmax(1) @ data


@wrong("scratch-average", "all alike")
def _(x, data, sigma, sigma_next):
    return step(x, data.mean(0), sigma, sigma_next)


@wrong("scratch-average", "nearest")
def _(x, data, sigma, sigma_next):
    return step(x, data[torch.cdist(x, data).argmin(1)], sigma, sigma_next)


@wrong("scratch-average", "no half")
def _(x, data, sigma, sigma_next):
    return step(x, weighted(-((torch.cdist(x, data) / sigma) ** 2), data), sigma, sigma_next)


@wrong("scratch-average", "not squared")
def _(x, data, sigma, sigma_next):
    return step(x, weighted(-torch.cdist(x, data) / (2 * sigma**2), data), sigma, sigma_next)


@wrong("scratch-average", "lower level")
def _(x, data, sigma, sigma_next):
    w = -(torch.cdist(x, data) ** 2) / (2 * sigma_next**2)
    return step(x, weighted(w, data), sigma, sigma_next)


@wrong("scratch-average", "the guess")
def _(x, data, sigma, sigma_next):
    return weighted(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), data)


@wrong("scratch-average", "wrong side")
def _(x, data, sigma, sigma_next):
    guess = weighted(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), data)
    return x + (sigma - sigma_next) * (x - guess) / sigma


@wrong("scratch-average", "other share")
def _(x, data, sigma, sigma_next):
    guess = weighted(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), data)
    return guess + (sigma - sigma_next) * (x - guess) / sigma


@wrong("scratch-average", "other axis")
def _(x, data, sigma, sigma_next):
    w = (-(torch.cdist(x, data) ** 2) / (2 * sigma**2)).softmax(0)
    return step(x, w @ data, sigma, sigma_next)


@wrong("scratch-average", "not probabilities")
def _(x, data, sigma, sigma_next):
    w = torch.exp(-(torch.cdist(x, data) ** 2) / (2 * sigma**2))
    return step(x, w @ data, sigma, sigma_next)


@wrong("scratch-average", "σ lost")
def _(x, data, sigma, sigma_next):
    guess = weighted(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), data)
    return guess + sigma_next * (x - guess)


@wrong("scratch-average", "slope not divided")
def _(x, data, sigma, sigma_next):
    guess = weighted(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), data)
    return x + (sigma_next - sigma) * (x - guess)


@wrong("scratch-average", "shape")
def _(x, data, sigma, sigma_next):
    return step(x[:, None], data, sigma, sigma_next)


right("scratch-coin", by_squares=math.tanh(0.5), by_absolute=torch.tensor(1.0))
right("scratch-coin", by_squares=0.46, by_absolute=0.998)
wrong("scratch-coin", "right answer", by_squares=1)
wrong("scratch-coin", "mean of the data", by_squares=0)
wrong("scratch-coin", "probability", by_squares=0.73)
wrong("scratch-coin", "no half", by_squares=0.76)
wrong("scratch-coin", "half too many", by_squares=0.245)
wrong("scratch-coin", "point itself", by_squares=0.5)
wrong("scratch-coin", "sign", by_squares=-0.46)
wrong("scratch-coin", "mean again", by_absolute=0.462)
wrong("scratch-coin", "middle", by_absolute=0)
wrong("scratch-coin", "probability again", by_absolute=0.731)
wrong("scratch-coin", "point again", by_absolute=0.5)
wrong("scratch-coin", "rarer one", by_absolute=-1)


def size(k, steps, s0, s1):
    return math.sqrt(k / steps * ((s1 + 1) ** 2 - s0**2) + s0**2)


@right("scratch-rate")
def one_at_a_time(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1)
    return n + 1, math.exp(s0 * math.log(mu0) / (n + 1))


@right("scratch-rate")
def as_a_power(k, steps, s0=2, s1=150, mu0=0.9):
    n = torch.tensor(size(k, steps, s0, s1), dtype=torch.float64).sub(1).ceil() + 1
    return n, torch.tensor(mu0) ** (s0 / n)


@wrong("scratch-rate", "points lost")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1)
    return n, mu0 ** (s0 / (n + 1))


@wrong("scratch-rate", "rounded")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = round(size(k, steps, s0, s1) - 1) + 1
    return n, mu0 ** (s0 / n)


@wrong("scratch-rate", "s₀ lost")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1) + 1
    return n, mu0 ** (1 / n)


@wrong("scratch-rate", "points twice")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1) + 1
    return n + 1, mu0 ** (s0 / n)


@wrong("scratch-rate", "start only")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1)
    return n + 1, mu0 ** ((s0 - 1) / n)


@wrong("scratch-rate", "clamped")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1)
    return n + 1, max(mu0, mu0 ** (s0 / n))


@wrong("scratch-rate", "one more")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    n = math.ceil(size(k, steps, s0, s1) - 1) + 1
    return n, mu0 ** (s0 / (n + 1))


@wrong("scratch-rate", "constant")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    return math.ceil(size(k, steps, s0, s1) - 1) + 1, mu0


@wrong("scratch-rate", "type")
def _(k, steps, s0=2, s1=150, mu0=0.9):
    return mu0 ** (s0 / (math.ceil(size(k, steps, s0, s1) - 1) + 1))


ZERO, ALL = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 192**-0.5)
ONE = torch.zeros(1, 3, 8, 8)
ONE[0, 0, 0, 0] = 1


@right("scratch-huber")
def by_a_shuffle(distance):
    a = torch.randn(3, 3, 6, 6)
    turned = (a.flatten(1) @ torch.linalg.qr(torch.randn(108, 108)).Q).reshape(a.shape)
    zero = torch.zeros_like(a)
    assert torch.allclose(distance(a, zero), distance(turned, zero), rtol=1e-3)
    for k in range(3):
        assert torch.allclose(distance(a, zero)[k], distance(a[k : k + 1], zero[:1])[0], rtol=1e-3)
    assert distance(a, a).abs().max() < 1e-5


@right("scratch-huber")
def with_numbers(distance):
    assert abs(distance(ONE, ZERO).item() - distance(ALL, ZERO).item()) < 1e-3
    pair = distance(torch.cat([ZERO, ONE]), torch.cat([ZERO, ZERO])).tolist()
    assert abs(pair[0]) < 1e-6 and pair[1] > 0.1


@wrong("scratch-huber", "by element")
def _(distance):
    assert (distance(ONE, ONE).abs() < 1e-6).all()
    a = torch.cat([ONE, 2 * ONE])
    assert torch.allclose(distance(a, 0 * a)[:1], distance(ONE, ZERO))


@wrong("scratch-huber", "summed")
def _(distance):
    assert distance(ONE, ONE).item() == 0 and distance(ONE, ZERO) > 0.1


@wrong("scratch-huber", "by pixel")
def _(distance):
    first = torch.zeros(1, 3, 8, 8)
    first[0, :, 0, 0] = 3**-0.5
    assert torch.allclose(distance(ONE, ZERO), distance(first, ZERO), rtol=1e-3)
    assert distance(ONE, ONE).abs().item() < 1e-6


@wrong("scratch-huber", "by batch")
def _(distance):
    assert torch.allclose(distance(ONE, ZERO), distance(ALL, ZERO), rtol=1e-3)
    assert distance(ONE, ONE).abs().item() < 1e-6


@wrong("scratch-huber", "offset")
def _(distance):
    assert torch.allclose(distance(ONE, ZERO), distance(ALL, ZERO), rtol=1e-3)
    a = torch.cat([ONE, 2 * ONE])
    assert torch.allclose(distance(a, 0 * a)[:1], distance(ONE, ZERO), rtol=1e-3)


@wrong("scratch-huber", "refuses some right")
def _(distance):
    a = torch.randn(4, 3, 8, 8)
    assert torch.allclose(distance(a, 0 * a), pseudo_huber(a, 0 * a))


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("scratch-bill", one_image=np.array(8), students=Fraction(3))
unusual("scratch-coin", by_squares=np.tanh(np.float32(0.5)), by_absolute=True + 0)


@unusual("scratch-average")
def in_numpy(x, data, sigma, sigma_next):
    """Neighbour by neighbour, in double, with the largest exponent taken out."""
    out = np.zeros(x.shape)
    for k, row in enumerate(x.double().numpy()):
        z = (row - data.double().numpy()) / sigma
        odds = -0.5 * np.einsum("md,md->m", z, z)
        p = np.exp(odds - odds.max())
        out[k] = np.average(data.numpy() + sigma_next * z, axis=0, weights=p)
    return torch.as_tensor(out, dtype=torch.float32)


@unusual("scratch-average")
def by_the_slope_of_the_density(x, data, sigma, sigma_next):
    """z is −σ times the slope of the logarithm of the density of x."""
    at = x.detach().double().requires_grad_()
    log_density = torch.logsumexp(-((at[:, None] - data) ** 2).sum(-1) / (2 * sigma**2), dim=1)
    (score,) = torch.autograd.grad(log_density, at, torch.ones_like(log_density))
    return x + (sigma - sigma_next) * sigma * score


@unusual("scratch-average")
def by_the_softmax_of_a_product(x, data, sigma, sigma_next):
    """‖x − d‖² without ‖x‖², which is the same for all data."""
    odds = torch.addmm(-(data**2).sum(1) / 2, x, data.T) / sigma**2
    share = sigma_next / sigma
    return torch.add(share * x, torch.nn.functional.softmax(odds, dim=-1).matmul(data), alpha=1 - share)


@unusual("scratch-rate")
def in_another_form(k, K, s0=2, s1=150, mu0=0.9):
    inside = Fraction(k, K) * ((s1 + 1) ** 2 - s0**2) + s0**2
    points = math.isqrt(math.ceil(inside) - 1) + 1  # the root, rounded up, in whole numbers alone
    return [np.int64(points), torch.tensor(mu0, dtype=torch.float64).log().mul(s0 / points).exp()]


@fragile("scratch-rate", "whole numbers")
def cut_and_one_more(k, K, s0=2, s1=150, mu0=0.9):
    n = int(math.sqrt(k / K * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 2
    return n, mu0 ** (s0 / n)


@unusual("scratch-huber")
def by_permuting_pixels(distance):
    """Keywords, a permutation of all elements, double, and torch.testing."""
    a, b = torch.randn(2, 3, 3, 5, 7, dtype=torch.float64)
    order = torch.randperm(105)

    def turned(x):
        return x.flatten(1)[:, order].reshape(x.shape)

    torch.testing.assert_close(distance(a=turned(a), b=turned(b)), distance(a=a, b=b), rtol=1e-4, atol=1e-6)
    flat = torch.zeros(3, 105, dtype=torch.float64)
    flat[:, 0] = (a - b).flatten(1).norm(dim=1)
    one = flat.reshape(a.shape)
    torch.testing.assert_close(distance(a=one, b=0 * one), distance(a=a, b=b), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distance(a=a[1:2], b=b[1:2]), distance(a=a, b=b)[1:2], rtol=1e-4, atol=1e-6)
    assert float(distance(a, a).abs().max()) < 1e-5


@fragile("scratch-huber", "refuses right")
def to_the_last_bit(distance):
    a = torch.randn(200, 3, 8, 8)
    turned = a.flatten(1)[:, torch.randperm(192)].reshape(a.shape)
    assert torch.equal(distance(a, 0 * a), distance(turned, 0 * a))
    assert torch.allclose(distance(ONE, ZERO), distance(ALL, ZERO), rtol=1e-3)
