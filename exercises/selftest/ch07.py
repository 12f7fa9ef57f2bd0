"""Prepared answers to the exercises of chapter 7."""

from decimal import Decimal

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

import cdedu

right("edit-budget", call_ms=4.8)
right("edit-budget", call_ms=torch.tensor(4.76))
wrong("edit-budget", "one call", call_ms=100)
wrong("edit-budget", "twenty", call_ms=5)
wrong("edit-budget", "a frame", call_ms=0.76)
wrong("edit-budget", "one frame", call_ms=16)
wrong("edit-budget", "teacher", call_ms=2.86)
wrong("edit-budget", "multiplied", call_ms=2100)
wrong("edit-budget", "seconds", call_ms=0.0048)


@right("edit-pad")
def with_a_loop(noises, weights):
    x, variance = torch.zeros_like(noises[0]), 0.0
    for a, w in zip(noises, weights.tolist(), strict=True):
        x = x + w * a
        variance += w * w
    return x / variance**0.5


@right("edit-pad")
def with_square_roots(noises, weights):
    return torch.einsum("k,kchw->chw", weights.sqrt(), noises)


@wrong("edit-pad", "not scaled")
def _(noises, weights):
    return torch.einsum("k,kchw->chw", weights, noises)


@wrong("edit-pad", "sum")
def _(noises, weights):
    return noises.sum(0)


@wrong("edit-pad", "equal weights")
def _(noises, weights):
    return len(noises) ** 0.5 * torch.einsum("k,kchw->chw", weights, noises)


@wrong("edit-pad", "divided twice")
def _(noises, weights):
    return torch.einsum("k,kchw->chw", weights, noises) / (weights**2).sum()


@wrong("edit-pad", "multiplied")
def _(noises, weights):
    return torch.einsum("k,kchw->chw", weights, noises) * weights.norm()


@wrong("edit-pad", "measured length")
def _(noises, weights):
    average = torch.einsum("k,kchw->chw", weights, noises)
    return 80 * average.numel() ** 0.5 * average / average.norm()


@wrong("edit-pad", "measured")
def _(noises, weights):
    x = torch.einsum("k,kchw->chw", weights, noises)
    return 80 * x / x.std()


@wrong("edit-pad", "shape")
def _(noises, weights):
    return weights.reshape(-1, 1, 1, 1) * noises / weights.norm()


@right("edit-film")
def by_a_matrix(x, w):
    P = torch.outer(w, w) / w.dot(w)
    return torch.einsum("ck,bkhw->bchw", P, x)


@right("edit-film")
def with_a_unit_vector(x, w):
    u = (w / w.norm()).double().reshape(1, 3, 1, 1)
    return u * (u * x).sum(1, keepdim=True)


@wrong("edit-film", "copied to all channels")
def _(x, w):
    return (w.reshape(1, 3, 1, 1) * x).sum(1, keepdim=True).expand_as(x)


@wrong("edit-film", "equal weights")
def _(x, w):
    return x.mean(1, keepdim=True).expand_as(x)


@wrong("edit-film", "not divided")
def _(x, w):
    return torch.einsum("ck,bkhw->bchw", torch.outer(w, w), x)


@wrong("edit-film", "divided by the length")
def _(x, w):
    return torch.einsum("ck,bkhw->bchw", torch.outer(w, w) / w.norm(), x)


@wrong("edit-film", "the rest")
def _(x, w):
    return x - by_a_matrix(x, w)


@wrong("edit-film", "channel by channel")
def _(x, w):
    return w.reshape(1, 3, 1, 1) * x


@wrong("edit-film", "shape")
def _(x, w):
    return (w.reshape(1, 3, 1, 1) * x).sum(1, keepdim=True)


right("edit-hue", letter="C")
right("edit-hue", letter=" c")
wrong("edit-hue", "a", letter="a")
wrong("edit-hue", "b", letter="b")
wrong("edit-hue", "d", letter="d")
wrong("edit-hue", "e", letter="e")
wrong("edit-hue", "type", letter="c rises")


def noted(redraw, steps, grid=None, drawing=None):
    """Size of the noise in the input, and level told, at each call of a false student."""
    seen = []

    def student(x, sigma):
        seen.append((float(x.std()), float(sigma)))
        return torch.zeros_like(x)

    grid = cdedu.karras_sigmas(18) if grid is None else grid
    redraw(student, torch.zeros(1, 1, 64, 64) if drawing is None else drawing, grid, steps, torch.Generator())
    return seen


@right("edit-index")
def against_the_grid(test_target):
    grid = torch.tensor([50.0, 20.0, 10.0, 6.0, 1.0])
    for (size, sigma), i in zip(noted(test_target, (2, 3, 4), grid), (2, 3, 4), strict=True):
        assert sigma == grid[i]
        assert abs(size - grid[i]) < 0.1 * grid[i]


@right("edit-index")
def exactly(redraw):
    grid, seen = cdedu.karras_sigmas(18), []

    def student(x, sigma):
        seen.append((x, float(sigma)))
        return x / 2

    drawing = torch.ones(3, 1, 8, 8)
    redraw(student, drawing, grid, [7, 12], torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    first = drawing + grid[7] * torch.randn(3, 1, 8, 8, generator=g)
    second = first / 2 + (grid[12] ** 2 - 0.002**2).sqrt() * torch.randn(3, 1, 8, 8, generator=g)
    assert torch.allclose(seen[0][0], first, atol=1e-3) and torch.allclose(seen[1][0], second, atol=1e-3)
    assert [s for _, s in seen] == [grid[7], grid[12]]


@fragile("edit-index", "refuses right")
def _(redraw):
    for size, sigma in noted(redraw, (5, 10)):
        assert size == sigma


@wrong("edit-index", "first noise")
def _(redraw):
    x = redraw(
        lambda x, sigma: 0 * x, torch.zeros(1, 1, 8, 8), cdedu.karras_sigmas(18), (5,), torch.Generator()
    )
    assert x.shape == (1, 1, 8, 8) and x.isfinite().all()


@wrong("edit-index", "first level")
def _(redraw):
    for size, sigma in noted(redraw, (0, 10)):
        assert abs(size / sigma - 1) < 0.1


@wrong("edit-index", "later noise")
def _(redraw):
    for size, sigma in noted(redraw, (5,)):
        assert abs(size / sigma - 1) < 0.1


@wrong("edit-index", "told")
def _(redraw):
    grid = cdedu.karras_sigmas(18)
    for (size, _), i in zip(noted(redraw, (5, 10)), (5, 10), strict=True):
        assert abs(size / grid[i] - 1) < 0.1


@wrong("edit-index", "raised")
def _(redraw):
    assert redraw(torch.zeros(1, 1, 8, 8)) is not None


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("edit-budget", call_ms=Decimal(100) / 21)
unusual("edit-hue", letter="(c)")
wrong("edit-budget", "not positive", call_ms=0)


@unusual("edit-pad")
def in_numpy(noises, weights):
    w = np.asarray(weights, dtype=np.float64)
    return torch.from_numpy(np.tensordot(w / np.sqrt(w @ w), noises.double().numpy(), axes=1))


@unusual("edit-pad")
def added_in_place(noises, weights):
    mixed = torch.zeros(noises.shape[1:])
    for noise, weight in zip(noises.unbind(0), torch.nn.functional.normalize(weights, dim=0), strict=True):
        mixed.add_(noise, alpha=float(weight))
    return mixed


@fragile("edit-pad", "corner")
def by_ratios(noises, weights):
    """All weights as multiples of the first."""
    ratio = weights / weights[0]
    return torch.einsum("k,kchw->chw", ratio, noises) / (ratio**2).sum().sqrt()


@unusual("edit-film")
def by_least_squares(x, w):
    """At each pixel the multiple of w that is nearest, in double."""
    colours = x.double().movedim(1, 0).reshape(3, -1)
    multiple = torch.linalg.lstsq(w.double()[:, None], colours).solution
    return (w.double()[:, None] @ multiple).reshape(3, len(x), *x.shape[2:]).movedim(0, 1)


@unusual("edit-film")
def pixel_by_pixel(x, w):
    out, v = x.clone(), w.numpy()
    for b, h, k in np.ndindex(x.shape[0], *x.shape[2:]):
        out[b, :, h, k] = torch.from_numpy(v * np.dot(v, x[b, :, h, k].numpy()) / np.dot(v, v))
    return out


@fragile("edit-film", "some weights")
def by_what_is_left(x, w):
    """x without its parts along two vectors that are perpendicular to w and to each other."""
    u = torch.linalg.cross(w, torch.ones(3))
    v = torch.linalg.cross(w, u)
    for p in (u / u.norm(), v / v.norm()):
        x = x - torch.einsum("c,k,bkhw->bchw", p, p, x)
    return x


@unusual("edit-index")
def by_moments(redraw):
    """By keyword, with a drawing that is not zero, three steps, and a student that answers with its input's mean."""
    grid, drawing = (
        torch.linspace(20.0, 1.0, 12, dtype=torch.float64),
        torch.full((2, 1, 48, 48), 3.0, dtype=torch.float64),
    )
    noted = []

    def student(*given):
        x, sigma = given
        noted.append((x.var(), torch.as_tensor(sigma)))
        return x.mean().expand_as(x)

    redraw(f=student, drawing=drawing, grid=grid, steps=[2, 5, 9], generator=torch.Generator().manual_seed(5))
    for (variance, level), place in zip(noted, (2, 5, 9), strict=True):
        np.testing.assert_allclose(float(level), float(grid[place]), rtol=1e-6)
        np.testing.assert_allclose(float(variance) ** 0.5, float(grid[place]), rtol=0.08)
