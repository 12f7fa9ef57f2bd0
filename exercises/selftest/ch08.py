"""Prepared answers to the exercises of chapter 8."""

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong


@right("anatomy-perfect")
def by_recursion(teacher, step, sigmas):
    levels = sigmas.tolist()

    def f(x, sigma):
        below = [s for s in levels if s < sigma * (1 - 1e-6)]
        return x if not below else f(step(teacher, x, sigma, below[0]), below[0])

    return f


@right("anatomy-perfect")
def by_skipping(teacher, step, sigmas):
    def f(x, sigma):
        for high, low in zip(sigmas[:-1], sigmas[1:], strict=True):
            if high <= sigma * 1.000001:
                x = step(teacher, x, high.expand(len(x)), low.expand(len(x)))
        return x

    return f


def walking(first=0, last=None, to_zero=False):
    """A wrong perfect student: starts ``first`` places late and stops at ``last``."""

    def perfect(teacher, step, sigmas):
        def f(x, sigma):
            start = int((sigmas - sigma).abs().argmin()) + first
            part = sigmas[start:last]
            for high, low in zip(part[:-1], part[1:], strict=True):
                x = step(teacher, x, high, low)
            return step(teacher, x, sigmas[-1], 0.0) if to_zero else x

        return f

    return perfect


wrong("anatomy-perfect", "one too late", perfect=walking(first=1))
wrong("anatomy-perfect", "one too few", perfect=walking(last=-1))
wrong("anatomy-perfect", "to zero", perfect=walking(to_zero=True))


@wrong("anatomy-perfect", "from the top")
def _(teacher, step, sigmas):
    def f(x, sigma):
        for high, low in zip(sigmas[:-1], sigmas[1:], strict=True):
            x = step(teacher, x, high, low)
        return x

    return f


@wrong("anatomy-perfect", "one step")
def _(teacher, step, sigmas):
    return lambda x, sigma: x if sigma == sigmas[-1] else step(teacher, x, sigma, sigmas[-1])


@wrong("anatomy-perfect", "upwards")
def _(teacher, step, sigmas):
    def f(x, sigma):
        up = sigmas[: int((sigmas - sigma).abs().argmin()) + 1].flip(0)
        for low, high in zip(up[:-1], up[1:], strict=True):
            x = step(teacher, x, low, high)
        return x

    return f


@wrong("anatomy-perfect", "the teacher's guess")
def _(teacher, step, sigmas):
    return lambda x, sigma: teacher(x, sigma)


@wrong("anatomy-perfect", "no return")
def _(teacher, step, sigmas):
    def f(x, sigma):
        for high, low in zip(sigmas[:-1], sigmas[1:], strict=True):
            x = step(teacher, x, high, low)

    return f


@wrong("anatomy-perfect", "raised")
def _(teacher, step, sigmas):
    def f(x, sigma):
        start = sigmas.tolist().index(-sigma)
        return step(teacher, x, sigmas[start], sigmas[start + 1])

    return f


right("anatomy-survives", survives="ynyyn")
right("anatomy-survives", survives="Y N Y Y N")
right("anatomy-survives", survives="y, n, y, y, n")
wrong("anatomy-survives", "change 1", survives="nnyyn")
wrong("anatomy-survives", "change 2", survives="yyyyn")
wrong("anatomy-survives", "change 3", survives="ynnyn")
wrong("anatomy-survives", "change 4", survives="ynynn")
wrong("anatomy-survives", "change 5", survives="ynyyy")
wrong("anatomy-survives", "reversed", survives="nynny")
wrong("anatomy-survives", "type", survives=["y", "n", "y", "y", "n"])

right("anatomy-uniform", c=0.0129, claim="c")
right("anatomy-uniform", c=torch.tensor((1.25 / 4.25) ** 0.5 - (1 - 2 / 4.25)), claim="C")
right("anatomy-uniform", c=-0.01291, claim="c")
wrong("anatomy-uniform", "relative", c=0.0238, claim="c")
wrong("anatomy-uniform", "the denoiser", c=0.4835, claim="c")
wrong(
    "anatomy-uniform", "Heun", c=1 - (2 / 4.25 + (1 - 2 / 4.25) / 1.25) / 2 - (1.25 / 4.25) ** 0.5, claim="c"
)
wrong("anatomy-uniform", "no root", c=0.2353, claim="c")
wrong("anatomy-uniform", "slope below", c=1 - 1 / 1.25 - (1.25 / 4.25) ** 0.5, claim="c")
wrong("anatomy-uniform", "euler", c=0.5294, claim="c")
wrong("anatomy-uniform", "exact", c=0.5423, claim="c")
wrong("anatomy-uniform", "a", c=0.0129, claim="a")
wrong("anatomy-uniform", "b", c=0.0129, claim="b")
wrong("anatomy-uniform", "d", c=0.0129, claim="d")


def formula(sigma, sigma_d, eps):
    """The three coefficients, as chapter 4 has them."""
    total = (sigma**2 + sigma_d**2).sqrt()
    return sigma_d**2 / ((sigma - eps) ** 2 + sigma_d**2), sigma_d * (sigma - eps) / total, 1 / total


@right("anatomy-coefficients")
def against_the_formula(coefficients):
    s = torch.linspace(0.4, 8, 20)
    for ours, theirs in zip(formula(s, 1.3, 0.4), coefficients(s, 1.3, 0.4), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4)


@right("anatomy-coefficients")
def by_properties(coefficients):
    s = torch.tensor([0.6, 3.0], dtype=torch.double)
    skip, out, inp = coefficients(s, 0.8, 0.6)
    assert abs(skip[0] - 1) < 1e-9 and abs(out[0]) < 1e-9
    assert ((inp * (s**2 + 0.64).sqrt() - 1).abs() < 1e-6).all()
    assert abs(out[1] / inp[1] - 0.8 * 2.4) < 1e-6


@wrong("anatomy-coefficients", "root")
def _(coefficients):
    s = torch.tensor([0.002, 0.5, 10.0])
    for ours, theirs in zip(formula(s, 0.5, 0.002), coefficients(s, 0.5, 0.002), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-6)


@wrong("anatomy-coefficients", "size")
def _(coefficients):
    s = torch.linspace(0.4, 8, 20)
    for ours, theirs in zip(formula(s, 1.0, 0.4), coefficients(s, 1.0, 0.4), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4)


@wrong("anatomy-coefficients", "input")
def _(coefficients):
    s = torch.linspace(0.4, 8, 20)
    for ours, theirs in list(zip(formula(s, 1.3, 0.4), coefficients(s, 1.3, 0.4), strict=True))[:2]:
        assert torch.allclose(ours, theirs, rtol=1e-4)


@wrong("anatomy-coefficients", "teacher")
def _(coefficients):
    s = torch.tensor([3.0])
    skip, out, inp = coefficients(s, 0.7, 1e-4)
    for ours, theirs in zip(formula(s, 0.7, 1e-4), (skip, out, inp), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3)
    skip, out, inp = coefficients(s, 0.7, 2.0)
    assert torch.allclose(inp, formula(s, 0.7, 2.0)[2])
    assert out[0] / inp[0] < 2.2 and not torch.allclose(out, torch.tensor([0.7 * 1 / 1.49**0.5]), rtol=1e-3)


@wrong("anatomy-coefficients", "refuses right")
def _(coefficients):
    skip, out, inp = coefficients(torch.tensor([1.0]), 0.5, 0.002)
    assert torch.allclose(skip**2 + out**2, torch.ones(1))


@wrong("anatomy-coefficients", "raised")
def _(coefficients):
    coefficients(torch.tensor([1.0]))


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("anatomy-survives", survives="y-n-y-y-n")
unusual("anatomy-uniform", c=np.float32(0.01291), claim="(c)")


@unusual("anatomy-perfect")
def as_a_class(teacher, step, sigmas):
    """With keywords, a stack of levels in numpy, and a class that is called."""

    class Student:
        def __init__(self):
            self.levels = np.sort(sigmas.numpy())

        def __call__(self, x, sigma):
            levels = list(self.levels[self.levels <= sigma * (1 + 1e-9)])
            here = levels.pop()
            while levels:
                x = step(denoiser=teacher, x=x, sigma=float(here), sigma_next=float(levels[-1]))
                here = levels.pop()
            return x.clone()

    return Student()


@fragile("anatomy-perfect", "raised")
def looked_up_in_single_precision(teacher, step, sigmas):
    def f(x, sigma):
        start = (sigmas == torch.tensor(sigma)).nonzero()[0, 0]  # torch.tensor(…) of a float has seven digits
        for high, low in zip(sigmas[start:-1], sigmas[start + 1 :], strict=True):
            x = step(teacher, x, high, low)
        return x

    return f


@unusual("anatomy-coefficients")
def by_the_library(coefficients):
    """By keyword, in double, with torch.testing, on powers of two."""
    sigma = torch.tensor([2.0, 4.0, 16.0], dtype=torch.float64)
    skip, out, inp = coefficients(sigma=sigma, sigma_d=0.25, eps=2.0)
    gap, root = sigma - 2, torch.hypot(sigma, torch.tensor(0.25).double())
    for got, right_one in ((skip, 1 / (1 + (4 * gap) ** 2)), (out, gap / root / 4), (inp, root**-1)):
        torch.testing.assert_close(got, right_one, rtol=1e-6, atol=1e-9)


@fragile("anatomy-coefficients", "refuses some right")
def to_the_last_bit(coefficients):
    from cdedu.teacher import preconditioning

    s = torch.linspace(0.4, 8, 50)
    for got, known in zip(coefficients(s, 1.3, 0.4), preconditioning(s, 1.3, 0.4), strict=True):
        assert torch.equal(got, known)
