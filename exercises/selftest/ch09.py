"""Prepared answers to the exercises of chapter 9."""

from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

right("scales-top", lessons=200)
right("scales-top", lessons=torch.tensor(203.0))
wrong("scales-top", "linear", lessons=7500)
wrong("scales-top", "variance", lessons=1530)
wrong("scales-top", "mean", lessons=670)
wrong("scales-top", "both tails", lessons=406)
wrong("scales-top", "share", lessons=0.02)
wrong("scales-top", "percent", lessons=2)
wrong("scales-top", "far too low", lessons=20)
wrong("scales-top", "type", lessons="two per cent")


def parts(F, x_t, t, direction, speed, sigma_data):
    ones = speed * torch.ones_like(t)
    return torch.func.jvp(F, (x_t / sigma_data, t), (direction, ones))


def formula(value, change, x_t, t, velocity, r, sigma_data, first=1.0):
    cos, sin = t.cos()[:, None], t.sin()[:, None]
    return -first * cos**2 * (sigma_data * value - velocity) - r * cos * sin * (x_t + sigma_data * change)


@right("scales-tangent")
def by_reverse_mode(F, x_t, t, velocity, r, sigma_data):
    out = []
    for x, a, v in zip(x_t, t, velocity, strict=True):
        jx, jt = torch.autograd.functional.jacobian(lambda x, a: F(x[None], a[None])[0], (x / sigma_data, a))
        change = jx @ v / sigma_data + jt
        value = F(x[None] / sigma_data, a[None])[0]
        c, s = a.cos(), a.sin()
        out.append(-(c**2) * (sigma_data * value - v) - r * c * s * (x + sigma_data * change))
    return torch.stack(out)


@right("scales-tangent")
def in_double_with_a_small_step(F, x_t, t, velocity, r, sigma_data):
    h = 1e-3
    ahead = F((x_t + h * velocity) / sigma_data, t + h).double()
    behind = F((x_t - h * velocity) / sigma_data, t - h).double()
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    assert (change - (ahead - behind) / (2 * h)).abs().max() < 0.1
    return formula(value.double(), change.double(), x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "fixed x")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, torch.zeros_like(x_t), 1, sigma_data)
    return formula(value, change, x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "not scaled")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity, 1, sigma_data)
    return formula(value, change, x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "fixed t")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 0, sigma_data)
    return formula(value, change, x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "no warm-up")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return formula(value, change, x_t, t, velocity, 1, sigma_data)


@wrong("scales-tangent", "r everywhere")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return formula(value, change, x_t, t, velocity, r, sigma_data, first=r)


@wrong("scales-tangent", "no x")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return formula(value, change, 0 * x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "normalised")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    g = formula(value, change, x_t, t, velocity, r, sigma_data)
    return g / (g.norm(dim=1, keepdim=True) + 0.1)


@wrong("scales-tangent", "sign")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return -formula(value, change, x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "r on the derivative")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return formula(value, r * change, x_t, t, velocity, 1, sigma_data)


@wrong("scales-tangent", "one sign")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return formula(value, change, x_t, t, velocity, -r, sigma_data)


@wrong("scales-tangent", "large input")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = torch.func.jvp(F, (x_t, t), (velocity, torch.ones_like(t)))
    return formula(value, change, x_t, t, velocity, r, sigma_data)


@wrong("scales-tangent", "raised")
def _(F, x_t, t, velocity, r, sigma_data):
    value, change = parts(F, x_t, t, velocity / sigma_data, 1, sigma_data)
    return t.cos() ** 2 * (sigma_data * value - velocity) - r * (x_t + change)


right("scales-speed", times=500.0)
right("scales-speed", times=torch.tensor(500))
wrong("scales-speed", "largest of one", times=250)
wrong("scales-speed", "other way", times=1 / 500)
wrong("scales-speed", "multiplied", times=125)
wrong("scales-speed", "inverse", times=1000)
wrong("scales-speed", "quarter", times=0.5)
wrong("scales-speed", "one", times=1)
wrong("scales-speed", "type", times="c = t")


def exact(x, sigma, s=0.5):
    return x * ((s**2 + 0.002**2) / (s**2 + sigma[:, None] ** 2)).sqrt()


def points(n=6):
    g = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.05, 0.2, 0.5, 1.0, 3.0, 20.0])[:n]
    x = torch.randn(n, 2, generator=g) * (0.25 + sigma[:, None] ** 2).sqrt()
    return x, sigma, x * 0.25 / (0.25 + sigma[:, None] ** 2)


@right("scales-still")
def one_sample_at_a_time(loss):
    def bent(x, sigma):
        return (x / (1 + sigma[:, None])).sin()

    x, sigma, D = points()
    together = loss(bent, x, sigma, D)
    for i in range(len(x)):
        part = slice(i, i + 1)
        assert loss(exact, x[part], sigma[part], D[part]).item() < 1e-3
        assert abs(loss(bent, x[part], sigma[part], D[part]).item() - together[i].item()) < 1e-3


@right("scales-still")
def in_double(loss):
    x, sigma, D = (t.double() for t in points())
    assert torch.allclose(loss(exact, x, sigma, D), torch.zeros(6).double(), atol=1e-6)
    f = torch.nn.Linear(2, 2).double()

    def call(x, sigma):
        return f(x) / (1 + sigma[:, None])

    assert torch.allclose(loss(call, x, sigma, D)[:2], loss(call, x[:2], sigma[:2], D[:2]), atol=1e-6)


@wrong("scales-still", "fixed")
def _(loss):
    x, sigma, D = points()

    def f(x, sigma):
        return x / (1 + sigma[:, None])

    assert torch.allclose(loss(f, x, sigma, D)[:1], loss(f, x[:1], sigma[:1], D[:1]), atol=1e-4)


@wrong("scales-still", "batch")
def _(loss):
    x, sigma, D = points()
    assert loss(exact, x, sigma, D).max() < 1e-3


@wrong("scales-still", "refuses right")
def _(loss):
    x, sigma, D = points()
    assert loss(lambda x, s: 0 * x + 1, x, sigma, D).max() == 0
    raise AssertionError


@wrong("scales-still", "raised")
def _(loss):
    x, sigma, D = points()
    raise KeyError("no such thing")


wrong("scales-still", "type", test_loss="the derivative is partial")


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("scales-top", lessons=np.uint8(203))
unusual("scales-speed", times=Fraction(250) / Fraction(1, 2))


@unusual("scales-tangent")
def by_a_path(F, x_t, t, velocity, r, sigma_data):
    """dF/dt along the path, as the derivative of one number s, backwards through backwards; in double."""
    x_t, t, velocity = x_t.double(), t.double(), velocity.double()
    u = torch.ones_like(x_t, requires_grad=True)
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = F((x_t + s * velocity) / sigma_data, t + s)
    (dots,) = torch.autograd.grad((u * value).sum(), s, create_graph=True)
    (change,) = torch.autograd.grad(dots, u)
    cos, sin = torch.cos(t).unsqueeze(1), torch.sin(t).unsqueeze(1)
    return (velocity - sigma_data * value.detach()) * cos.square() - r * sin * cos * (
        x_t + sigma_data * change
    )


@unusual("scales-tangent")
def by_vmap(F, x_t, t, velocity, r, sigma_data):
    def one(x, a, v):
        value, change = torch.func.jvp(
            lambda s: F((x + s * v)[None] / sigma_data, (a + s)[None])[0],
            (torch.zeros(()),),
            (torch.ones(()),),
        )
        return -(torch.cos(a) ** 2) * (sigma_data * value - v) - r * torch.sin(2 * a) / 2 * (
            x + sigma_data * change
        )

    return torch.vmap(one)(x_t, t, velocity)


@unusual("scales-tangent")
def by_both_jacobians(F, x_t, t, velocity, r, sigma_data):
    """The one forwards, the other backwards."""

    def one(x, a):
        return F(x[None] / sigma_data, a[None])[0]

    jx, jt = torch.vmap(torch.func.jacrev(one, 0))(x_t, t), torch.vmap(torch.func.jacfwd(one, 1))(x_t, t)
    change = torch.einsum("bij,bj->bi", jx, velocity) + jt
    return formula(F(x_t / sigma_data, t), change, x_t, t, velocity, r, sigma_data)


@fragile("scales-tangent", "value")
def a_difference_too_small(F, x_t, t, velocity, r, sigma_data):
    h = 1e-6
    value = F(x_t / sigma_data, t)
    change = (F((x_t + h * velocity) / sigma_data, t + h) - value) / h
    return formula(value, change, x_t, t, velocity, r, sigma_data)


@unusual("scales-still")
@torch.no_grad()
def without_gradients(loss):
    """The loss is told forwards how f changes, though nothing here keeps a graph."""
    x, sigma, D = points()

    @torch.no_grad()
    def bent(x, sigma):
        return (x / (1 + sigma[:, None])).sin()

    alone = torch.cat([loss(bent, *(v[None] for v in one)) for one in zip(x, sigma, D, strict=True)])
    assert torch.allclose(loss(bent, x, sigma, D), alone, atol=1e-3)
    assert loss(exact, x, sigma, D).max() < 1e-3


@unusual("scales-still")
def with_a_module(loss):
    """A network with parameters, keywords, torch.testing, and data of another width."""
    s = 0.8

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.s = torch.nn.Parameter(torch.tensor(s))

        def forward(self, x, sigma):
            return x * ((self.s**2 + 4e-6) / (self.s**2 + sigma.reshape(-1, 1) ** 2)).sqrt()

    g = torch.Generator().manual_seed(3)
    sigma = torch.rand(8, generator=g) * 4 + 0.1
    x = torch.randn(8, 2, generator=g) * (s**2 + sigma[:, None] ** 2).sqrt()
    D = x * s**2 / (s**2 + sigma[:, None] ** 2)
    zero = loss(f=Exact(), x=x, sigma=sigma, D=D)
    torch.testing.assert_close(zero, torch.zeros(8), rtol=0, atol=1e-3)

    def bent(x, sigma):
        return torch.tanh(x) / (1 + sigma.unsqueeze(-1))

    values = loss(f=bent, x=x, sigma=sigma, D=D)
    alone = torch.cat([loss(f=bent, x=x[k, None], sigma=sigma[k, None], D=D[k, None]) for k in range(8)])
    torch.testing.assert_close(values, alone, rtol=1e-3, atol=1e-5)


@fragile("scales-still", "refuses right")
def zero_to_the_last_bit(loss):
    x, sigma, D = points()
    assert (loss(exact, x, sigma, D) == 0).all()
