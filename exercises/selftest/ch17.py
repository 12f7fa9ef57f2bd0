"""Prepared answers to the exercises of chapter 17."""

from decimal import Decimal

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong


@right("frontier-flow")
def one_by_one(v, x, sigma):
    out = []
    for point, level in zip(x, sigma, strict=True):
        t = level / (1 + level)
        x_t = (1 - t) * point[None]
        out.append(x_t - t * v(x_t, t.reshape(1)))
    return torch.cat(out)


@right("frontier-flow")
def by_the_slope(v, x, sigma):
    """D = x − σ · slope, where the slope on our scale follows from the velocity."""
    x, s = x.double(), sigma.double()[:, None]
    t = s / (1 + s)
    x_t = (1 - t) * x
    slope = (1 - t) * v(x_t, t[:, 0]) + x_t
    return x - s * slope


def parts(x, sigma):
    s = sigma[:, None]
    return s, (s / (1 + s)), x / (1 + s)


@wrong("frontier-flow", "not scaled")
def _(v, x, sigma):
    s, t, _ = parts(x, sigma)
    return x - t * v(x, t)


@wrong("frontier-flow", "mixed scales")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x - t * v(x_t, t)


@wrong("frontier-flow", "as noise")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x - s * v(x_t, t)


@wrong("frontier-flow", "sigma as time")
def _(v, x, sigma):
    s, _, x_t = parts(x, sigma)
    return x_t - s * v(x_t, sigma)


@wrong("frontier-flow", "velocity")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return v(x_t, t[:, 0])


@wrong("frontier-flow", "time backwards")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x_t - (1 - t) * v(x_t, 1 - t[:, 0])


@wrong("frontier-flow", "all backwards")
def _(v, x, sigma):
    t = 1 / (1 + sigma)
    x_t = (1 - t)[:, None] * x
    return x_t - t[:, None] * v(x_t, t)


@wrong("frontier-flow", "shape of times")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x_t - t * v(x_t, t)


@wrong("frontier-flow", "whole way")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x_t - v(x_t, t)


@wrong("frontier-flow", "to the noise")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x_t + (1 - t) * v(x_t, t)


@wrong("frontier-flow", "sign")
def _(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return x_t + t * v(x_t, t)


@wrong("frontier-flow", "variance-preserving")
def _(v, x, sigma):
    root = (1 + sigma[:, None] ** 2).sqrt()
    t = sigma[:, None] / root
    return x / root - t * v(x / root, t)


@wrong("frontier-flow", "shape")
def _(v, x, sigma):
    t = sigma / (1 + sigma)
    return (x.T / (1 + sigma)) - t * v(x / (1 + sigma[:, None]), t).T


right("frontier-diagonal", deviation=0.0051)
right("frontier-diagonal", deviation=torch.tensor(0.00512))
wrong("frontier-diagonal", "perfect", deviation=0.5)
wrong("frontier-diagonal", "noise left", deviation=0.002)
wrong("frontier-diagonal", "denoiser", deviation=0.0031)
wrong("frontier-diagonal", "variance", deviation=0.0051**2)
wrong("frontier-diagonal", "noise", deviation=80)
wrong("frontier-diagonal", "type", deviation="small")

right("frontier-table", hours=140, pair="A")
right("frontier-table", hours=torch.tensor(139.0), pair="a")
wrong("frontier-table", "last run", hours=70, pair="a")
wrong("frontier-table", "all", hours=193, pair="a")
wrong("frontier-table", "wrong start", hours=123, pair="a")
wrong("frontier-table", "second", hours=53, pair="a")
wrong("frontier-table", "b", hours=140, pair="b")
wrong("frontier-table", "c", hours=140, pair="c")


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("frontier-diagonal", deviation=np.float32(0.005124))
unusual("frontier-table", hours=Decimal(140), pair="(a)")


@unusual("frontier-flow")
def of_each_sample_by_vmap(v, x, sigma):
    def one(point, level):
        t = level / (1 + level)
        x_t = (1 - t) * point
        return x_t - t * v(x_t[None], t[None])[0]

    return torch.vmap(one)(x, sigma)


@unusual("frontier-flow")
def by_the_ends_of_the_line(v, x, sigma):
    """The noise end first, then the clean one from both; keywords, double, in place."""
    t = torch.sigmoid(torch.log(sigma.double()))
    at = torch.einsum("b,bd->bd", 1 - t, x.double())
    noise_end = at + (1 - t)[:, None] * v(x_t=at, t=t)
    clean = at.clone()
    clean -= t[:, None] * noise_end
    clean /= (1 - t)[:, None]
    return clean


@fragile("frontier-flow", "half precision")
def in_half_precision(v, x, sigma):
    s, t, x_t = parts(x, sigma)
    return (x_t - t * v(x_t, t[:, 0])).bfloat16()
