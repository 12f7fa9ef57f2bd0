"""Prepared answers to the exercises of chapter 10."""

import math
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


# --- at equal work -----------------------------------------------------------------------------------


def on_a_line(images, d, x, axis=np.log):
    return np.interp(axis(x), axis(images), d)


@right("cifar-equal")
def by_hand(images_a, d_a, passes_a, images_b, d_b, passes_b):
    work = min(images_a[-1] * passes_a, images_b[-1] * passes_b)

    def at(images, d, x):
        for n0, n1, d0, d1 in zip(images, images[1:], d, d[1:], strict=False):
            if x <= n1:
                return d0 + (d1 - d0) * math.log(x / n0) / math.log(n1 / n0)
        return d[-1]

    return [at(images_a, d_a, work / passes_a), at(images_b, d_b, work / passes_b)]


@unusual("cifar-equal")
def in_passes(images_a, d_a, passes_a, images_b, d_b, passes_b):
    """A factor shifts a logarithm, so passes do as well as images; interp stops at the last look by itself."""
    a, b = np.array(images_a) * passes_a, np.array(images_b) * passes_b
    work = np.log2([min(a[-1], b[-1])])
    return torch.tensor([float(np.interp(work, np.log2(n), d)[0]) for n, d in ((a, d_a), (b, d_b))])


@fragile("cifar-equal", "overflow")
def in_32_bits(images_a, d_a, passes_a, images_b, d_b, passes_b):
    a, b = (torch.tensor(n, dtype=torch.int32) * p for n, p in ((images_a, passes_a), (images_b, passes_b)))
    work = min(int(a[-1]), int(b[-1]))
    return on_a_line(a.abs(), d_a, abs(work)), on_a_line(b.abs(), d_b, abs(work))


@wrong("cifar-equal", "swapped")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    return by_hand(images_a, d_a, passes_a, images_b, d_b, passes_b)[::-1]


@wrong("cifar-equal", "last looks")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    return d_a[-1], d_b[-1]


@wrong("cifar-equal", "equal images")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    seen = min(images_a[-1], images_b[-1])
    return on_a_line(images_a, d_a, seen), on_a_line(images_b, d_b, seen)


@wrong("cifar-equal", "upside down")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    work = min(images_a[-1] / passes_a, images_b[-1] / passes_b)
    return on_a_line(images_a, d_a, work * passes_a), on_a_line(images_b, d_b, work * passes_b)


@wrong("cifar-equal", "straight in images")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    work = min(images_a[-1] * passes_a, images_b[-1] * passes_b)
    return on_a_line(images_a, d_a, work / passes_a, np.asarray), on_a_line(
        images_b, d_b, work / passes_b, np.asarray
    )


@wrong("cifar-equal", "a look before")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    work = min(images_a[-1] * passes_a, images_b[-1] * passes_b)
    return [
        [y for n, y in zip(images, d, strict=True) if n * passes <= work][-1]
        for images, d, passes in ((images_a, d_a, passes_a), (images_b, d_b, passes_b))
    ]


@wrong("cifar-equal", "type")
def _(images_a, d_a, passes_a, images_b, d_b, passes_b):
    return d_a[-1] - d_b[-1]


# --- a batch in parts --------------------------------------------------------------------------------


@right("cifar-accumulate")
def by_shares(part_gradient, images, at_once):
    total = torch.zeros(())
    for start in range(0, len(images), at_once):
        part = images[start : start + at_once]
        total = total + part_gradient(part).float() * (len(part) / len(images))
    return total


@unusual("cifar-accumulate")
def in_double(part_gradient, images, at_once):
    """Parts that are as alike as can be, from the end, in numpy."""
    parts = torch.tensor_split(images, -(-len(images) // at_once))[::-1]
    rows = [part_gradient(x=part).double().numpy() for part in parts]
    return torch.as_tensor(np.average(rows, axis=0, weights=[len(part) for part in parts]))


@fragile("cifar-accumulate", "overflow")
def in_half(part_gradient, images, at_once):
    return sum(len(part) * part_gradient(part) for part in images.split(at_once)) / len(images)


@wrong("cifar-accumulate", "mean of means")
def _(part_gradient, images, at_once):
    parts = images.split(at_once)
    return sum(part_gradient(part).float() for part in parts) / len(parts)


@wrong("cifar-accumulate", "sum of means")
def _(part_gradient, images, at_once):
    return sum(part_gradient(part).float() for part in images.split(at_once))


@wrong("cifar-accumulate", "last part")
def _(part_gradient, images, at_once):
    return [part_gradient(part).float() for part in images.split(at_once)][-1]


@wrong("cifar-accumulate", "not divided")
def _(part_gradient, images, at_once):
    return sum(len(part) * part_gradient(part).float() for part in images.split(at_once))


@wrong("cifar-accumulate", "by the parts")
def _(part_gradient, images, at_once):
    parts = images.split(at_once)
    return sum(len(part) * part_gradient(part).float() for part in parts) / len(parts)


@wrong("cifar-accumulate", "full parts")
def _(part_gradient, images, at_once):
    return sum(part_gradient(part).float() * at_once / len(images) for part in images.split(at_once))


@wrong("cifar-accumulate", "too many at once")
def _(part_gradient, images, at_once):
    return part_gradient(images)


@wrong("cifar-accumulate", "lost")
def _(part_gradient, images, at_once):
    n = len(images) // at_once * at_once or len(images)
    parts = images[:n].split(at_once)
    return sum(part_gradient(part).float() for part in parts) / len(parts)


@wrong("cifar-accumulate", "twice")
def _(part_gradient, images, at_once):
    parts = images.split(at_once)
    count = sum(len(part_gradient(part)) * len(part) for part in parts)
    return sum(len(part) * part_gradient(part).float() for part in parts) / count
