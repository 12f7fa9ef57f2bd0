"""Prepared answers to the exercises of chapter 15."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong


@right("adversarial-overlap")
def one_by_one(p, q, dx):
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        total += 2 * min(a, b) * dx
    return total


@right("adversarial-overlap")
def from_the_difference(p, q, dx):
    p, q = p.double(), q.double()
    return ((p + q) - (p - q).abs()).sum() * dx


@right("adversarial-overlap")
def with_the_score(p, q, dx):
    score = torch.sign(p - q)
    return (p * (1 - score).relu() + q * (1 + score).relu()).sum() * dx


@wrong("adversarial-overlap", "half")
def _(p, q, dx):
    return torch.minimum(p, q).sum() * dx


@wrong("adversarial-overlap", "not integrated")
def _(p, q, dx):
    return 2 * torch.minimum(p, q).sum()


@wrong("adversarial-overlap", "larger")
def _(p, q, dx):
    return 2 * torch.maximum(p, q).sum() * dx


@wrong("adversarial-overlap", "mean")
def _(p, q, dx):
    return 2 * torch.minimum(p, q).mean()


@wrong("adversarial-overlap", "difference")
def _(p, q, dx):
    return (p - q).abs().sum() * dx


@wrong("adversarial-overlap", "vector")
def _(p, q, dx):
    return 2 * torch.minimum(p, q)


@wrong("adversarial-overlap", "constant")
def _(p, q, dx):
    return 2 * min(p.sum() * dx, q.sum() * dx)


@wrong("adversarial-overlap", "unbounded")
def _(p, q, dx):
    return 0.0


@wrong("adversarial-overlap", "other game")
def _(p, q, dx):
    return 2 * (p * q / (p + q).clamp(min=1e-30)).sum() * dx


right("adversarial-pool", share=1.0)
right("adversarial-pool", share=torch.tensor(1))
wrong("adversarial-pool", "told", share=0.5)
wrong("adversarial-pool", "of the heap", share=0.25)
wrong("adversarial-pool", "three quarters", share=0.75)
wrong("adversarial-pool", "the other half", share=0)
wrong("adversarial-pool", "percent", share=100)
wrong("adversarial-pool", "type", share="all")

right("adversarial-alpha", power=1.0)
right("adversarial-alpha", power=torch.tensor(1))
wrong("adversarial-alpha", "none", power=0)
wrong("adversarial-alpha", "two", power=2)
wrong("adversarial-alpha", "below", power=-1)
wrong("adversarial-alpha", "two below", power=-2)
wrong("adversarial-alpha", "three", power=3)
wrong("adversarial-alpha", "half", power=0.5)
wrong("adversarial-alpha", "type", power="alpha")


def tried(term, teacher_factor=3.0):
    """The sample, what the teacher was given, and the gradient; the teacher multiplies its input."""
    g, seen = torch.Generator().manual_seed(0), []
    fake, x0, noise = torch.randn(3, 4, 2, generator=g)
    tau = torch.tensor([0.1, 0.5, 2.0, 5.0])

    def teacher(x, level):
        seen.append((x.detach(), level))
        return teacher_factor * x

    fake = fake.requires_grad_()
    loss = term(teacher, fake, 10 + x0, tau, noise)
    return fake.detach(), tau, noise, *seen[0], torch.autograd.grad(loss.sum(), fake)[0]


@right("adversarial-renoise")
def all_three(term):
    fake, tau, noise, x, level, grad = tried(term)
    assert torch.allclose(x, fake + tau[:, None] * noise, atol=1e-4)
    assert torch.allclose(level, tau)
    assert torch.allclose(grad, (fake - 3 * x) / (1 + tau[:, None] ** 2).sqrt(), atol=1e-3)


@right("adversarial-renoise")
def as_numbers(term):
    fake, tau, noise, x, level, grad = tried(term, -1.0)
    assert (x - fake - tau[:, None] * noise).abs().max() < 1e-3
    assert (level - tau).abs().max() < 1e-4
    assert ((fake + x) / (1 + tau[:, None] ** 2).sqrt() - grad).abs().max() < 1e-3


@wrong("adversarial-renoise", "data")
def _(term):
    fake, tau, noise, x, level, grad = tried(term)
    assert torch.allclose(level, tau)


@wrong("adversarial-renoise", "clean")
def _(term):
    fake, tau, noise, x, level, grad = tried(term)
    assert (x - fake).abs().max() < 12  # fake, give or take the noise
    assert x.mean() < 5
    assert torch.allclose(level, tau)


@wrong("adversarial-renoise", "level")
def _(term):
    fake, tau, noise, x, level, grad = tried(term)
    assert torch.allclose(x, fake + tau[:, None] * noise, atol=1e-4)


@wrong("adversarial-renoise", "gradient")
def _(term):
    fake, tau, noise, x, level, grad = tried(term)
    assert torch.allclose(x, fake + tau[:, None] * noise, atol=1e-4)
    assert torch.allclose(level, tau)


@wrong("adversarial-renoise", "refuses right")
def _(term):
    assert tried(term)[5].abs().sum() == 0


@wrong("adversarial-renoise", "returned")
def _(term):
    fake, tau, noise, x, level, grad = tried(term)
    return torch.allclose(x, fake + tau[:, None] * noise, atol=1e-4)


@wrong("adversarial-renoise", "raised")
def _(term):
    term(None, torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2), torch.zeros(2, 2))


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("adversarial-pool", share=Fraction(2, 2))
unusual("adversarial-alpha", power=Decimal("1.0"))


@unusual("adversarial-overlap")
def by_trying_scores(p, q, dx):
    """The least over a grid of scores at each x, in numpy, summed by the exact sum of floats."""
    scores = np.linspace(-1.5, 1.5, 61)[:, None]
    price = p.numpy() * np.maximum(0, 1 - scores) + q.numpy() * np.maximum(0, 1 + scores)
    return math.fsum(price.min(axis=0).tolist()) * dx


@fragile("adversarial-overlap", "no density")
def by_the_ratio(p, q, dx):
    return 2 * (q * (p / q).clamp(max=1)).sum() * dx


@unusual("adversarial-renoise")
def by_the_library(term):
    """By keyword, in double, with modules and torch.testing, and a teacher that does not touch its input in place."""
    g = torch.Generator().manual_seed(4)
    fake, x0, noise = torch.randn(3, 6, 2, generator=g, dtype=torch.float64).unbind(0)
    tau = torch.linspace(0.2, 3, 6, dtype=torch.float64)

    class Teacher(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

        def forward(self, *given):
            self.given = [a.detach().clone() for a in given]
            return self.w * given[0] + 1

    teacher, fake = Teacher(), torch.nn.Parameter(fake)
    loss = term(teacher=teacher, fake=fake, x0=x0 - 7, tau=tau, noise=noise)
    loss.sum().backward()
    noisy = fake.detach() + torch.einsum("b,bd->bd", tau, noise)
    torch.testing.assert_close(teacher.given[0], noisy, rtol=0, atol=1e-4)
    torch.testing.assert_close(teacher.given[1].flatten(), tau, rtol=0, atol=1e-4)
    right_one = (fake.detach() + 2 * noisy - 1) * torch.rsqrt(1 + tau**2)[:, None]
    torch.testing.assert_close(fake.grad, right_one, rtol=1e-3, atol=1e-3)
    assert teacher.w.grad is None


@unusual("adversarial-renoise")
def by_torch_func(term):
    g = torch.Generator().manual_seed(5)
    fake, x0, noise = torch.randn(3, 6, 2, generator=g).unbind(0)
    tau = torch.linspace(0.2, 3, 6)
    weight, noisy = torch.rsqrt(1 + tau**2)[:, None], fake + tau[:, None] * noise

    levels = []

    def loss(fake, scale):
        return term(lambda x, level: (levels.append(level), scale * x)[1], fake, x0, tau, noise).sum()

    assert torch.allclose(torch.func.grad(loss)(fake, 3.0), (fake - 3 * noisy) * weight, atol=1e-3)
    assert torch.func.grad(loss, argnums=1)(fake, torch.tensor(3.0)).abs() < 1e-3
    assert all(torch.allclose(level.flatten(), tau) for level in levels)


@fragile("adversarial-renoise", "refuses some right")
def to_the_last_bit(term):
    g, seen = torch.Generator().manual_seed(0), []
    fake, x0, noise = torch.randn(3, 50, 2, generator=g)
    tau = torch.linspace(0.1, 5, 50)
    fake.requires_grad_()
    loss = term(lambda x, level: (seen.append(x.detach()), 3 * x)[1], fake, x0, tau, noise)
    expected = (fake - 3 * seen[0]).square().mean(1) / (1 + tau**2).sqrt()
    assert torch.equal(loss, expected)
