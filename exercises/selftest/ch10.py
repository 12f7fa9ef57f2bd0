"""Prepared answers to the exercises of chapter 10."""

from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

right("cifar-hour", millions=4.5)
unusual("cifar-hour", millions=np.array([4.5], dtype=np.float32))
wrong("cifar-hour", "forward only", millions=27)
wrong("cifar-hour", "teacher", millions=9.0)
wrong("cifar-hour", "consistency training", millions=6.75)
wrong("cifar-hour", "Euler", millions=5.4)
wrong("cifar-hour", "all backward", millions=2.25)
wrong("cifar-hour", "peak", millions=30)
wrong("cifar-hour", "other share", millions=25.5)
wrong("cifar-hour", "a second", millions=0.00125)
wrong("cifar-hour", "unit", millions=4_500_000)
wrong("cifar-hour", "not positive", millions=0)


@right("cifar-floor")
def by_the_slope(n1, d1, n2, d2):
    c = (d1 - d2) / (1 / n1 - 1 / n2)
    return d2 - c / n2


@unusual("cifar-floor")
def by_least_squares(n1, d1, n2, d2):
    """A line through both in 1/n, and its value at 0."""
    return np.polynomial.Polynomial.fit([1 / n1, 1 / n2], [d1, d2], deg=1)(0)


@unusual("cifar-floor")
def in_fractions(n1, d1, n2, d2):
    total = Fraction(d2) * n2 - Fraction(d1) * n1
    return torch.tensor(float(total / (n2 - n1)), dtype=torch.float64)


@fragile("cifar-floor", "cancellation")
def in_single_precision(n1, d1, n2, d2):
    n, d = torch.tensor([n1, n2], dtype=torch.float32), torch.tensor([d1, d2])
    return (n * d).diff()[0] / n.diff()[0]


@wrong("cifar-floor", "larger set")
def _(n1, d1, n2, d2):
    return d2


@wrong("cifar-floor", "average")
def _(n1, d1, n2, d2):
    return (d1 + d2) / 2


@wrong("cifar-floor", "weighted")
def _(n1, d1, n2, d2):
    return (n1 * d1 + n2 * d2) / (n1 + n2)


@wrong("cifar-floor", "doubled")
def _(n1, d1, n2, d2):
    return 2 * d2 - d1


@wrong("cifar-floor", "straight in n")
def _(n1, d1, n2, d2):
    return d1 - n1 * (d2 - d1) / (n2 - n1)


@wrong("cifar-floor", "floor")
def _(n1, d1, n2, d2):
    return (d1 - d2) / (1 / n1 - 1 / n2) / n2


@wrong("cifar-floor", "constant")
def _(n1, d1, n2, d2):
    return (d1 - d2) / (1 / n1 - 1 / n2)
