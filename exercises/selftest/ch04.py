"""Prepared answers to the exercises of chapter 4."""

from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

from cdedu import karras_sigmas

right("consistency-roles", unnoticed=" D", kept=3.0)
wrong("consistency-roles", "a", unnoticed="a")
wrong("consistency-roles", "b", unnoticed="b")
wrong("consistency-roles", "c", unnoticed="c")
wrong("consistency-roles", "e", unnoticed="e")
wrong("consistency-roles", "type", unnoticed="the target")
wrong("consistency-roles", "target counted", kept=4)
wrong("consistency-roles", "one forgotten", kept=2)
wrong("consistency-roles", "teacher forgotten", kept=1)


@right("consistency-neighbors")
def by_turning_the_grid(sigmas, n):
    t = torch.cat([torch.zeros(1), sigmas.flip(0)])  # t[1] = ε ... t[N] = T, as in the paper
    return t[n + 1], t[n]


@right("consistency-neighbors")
def with_negative_indices(sigmas, n):
    return torch.stack([sigmas[-(n + 1)], sigmas[-n]]).double()


@wrong("consistency-neighbors", "order")
def _(sigmas, n):
    return sigmas[len(sigmas) - n], sigmas[len(sigmas) - n - 1]


@wrong("consistency-neighbors", "wrong end")
def _(sigmas, n):
    return sigmas[n - 1], sigmas[n]


@wrong("consistency-neighbors", "one too low")
def _(sigmas, n):
    i = len(sigmas) - n
    return sigmas[i], sigmas[i + 1]


@wrong("consistency-neighbors", "one too high")
def _(sigmas, n):
    i = len(sigmas) - 2 - n
    return sigmas[i], sigmas[i + 1]


@wrong("consistency-neighbors", "not neighbors")
def _(sigmas, n):
    i = len(sigmas) - 1 - n
    return sigmas[i - 1], sigmas[i + 1]


@wrong("consistency-neighbors", "type")
def _(sigmas, n):
    return sigmas[len(sigmas) - n]


@right("consistency-anchor")
def as_in_the_paper(guess, x, sigma, eps):
    w = 0.25 / ((sigma - eps) ** 2 + 0.25)
    return w.reshape(-1, 1) * x + (1 - w).reshape(-1, 1) * guess(x, sigma)


@right("consistency-anchor")
def an_exponential(guess, x, sigma, eps):
    g = guess(x, sigma).double()
    return torch.stack([g[k] + torch.exp(eps - s.double()) * (x[k] - g[k]) for k, s in enumerate(sigma)])


@right("consistency-anchor")
def one_over_one_plus(guess, x, sigma, eps):
    w = 1 / (1 + sigma[:, None] - eps)
    return w * x + (1 - w) * guess(x, sigma)


@wrong("consistency-anchor", "no anchor")
def _(guess, x, sigma, eps):
    return guess(x, sigma)


@wrong("consistency-anchor", "swapped")
def _(guess, x, sigma, eps):
    w = (eps / sigma)[:, None]
    return (1 - w) * x + w * guess(x, sigma)


@wrong("consistency-anchor", "almost")
def _(guess, x, sigma, eps):
    w = (0.25 / (sigma**2 + 0.25))[:, None]
    return w * x + (1 - w) * guess(x, sigma)


@wrong("consistency-anchor", "switch")
def _(guess, x, sigma, eps):
    return torch.where((sigma <= eps)[:, None], x, guess(x, sigma))


@wrong("consistency-anchor", "x stays")
def _(guess, x, sigma, eps):
    w = (eps / sigma).pow(0.1)[:, None]
    return w * x + (1 - w) * guess(x, sigma)


@wrong("consistency-anchor", "scaled")
def _(guess, x, sigma, eps):
    gap, sigma_ = (sigma - eps)[:, None], sigma[:, None]
    return 0.25 / (gap**2 + 0.25) * x + 0.5 * gap / (sigma_**2 + 0.25).sqrt() * guess(x, sigma)


@wrong("consistency-anchor", "raised")
def _(guess, x, sigma, eps):
    w = eps / sigma
    return w * x + (1 - w) * guess(x, sigma)


right("consistency-seam", seam=0.4 + 80 * torch.special.ndtri(torch.tensor(0.3)))
right("consistency-seam", seam=-41.6)
wrong("consistency-seam", "mean forgotten", seam=80 * torch.special.ndtri(torch.tensor(0.3)))
wrong("consistency-seam", "middle", seam=0)
wrong("consistency-seam", "nearest", seam=0.4)
wrong("consistency-seam", "sign", seam=42.35)
wrong("consistency-seam", "sign and mean", seam=42)
wrong("consistency-seam", "linear", seam=-32)
wrong("consistency-seam", "fraction of T", seam=-24)
wrong("consistency-seam", "in units of σ", seam=-0.524)
wrong("consistency-seam", "reversed", seam=-56)


class Spy:
    def __init__(self):
        self.w = torch.tensor(1.0, requires_grad=True)
        self.asked = []

    def __call__(self, x, sigma):
        self.asked.append(sigma)
        return self.w * x


def spied(loss, n=50, steps=17):
    student, target, i = Spy(), Spy(), torch.randint(steps, (n,))
    loss(student, target, torch.zeros(n, 2), torch.randn(n, 2), i).sum().backward()
    return student, target, karras_sigmas(18)[i], karras_sigmas(18)[i + 1]


@right("consistency-spy")
def by_comparing(loss):
    student, target, sigma, sigma_next = spied(loss)
    assert (student.asked[0] > target.asked[0]).all()
    assert set(target.asked[0].tolist()) == set(sigma_next.tolist())
    assert target.w.grad is None and student.w.grad is not None


@right("consistency-spy")
def with_plain_functions(loss):
    seen, weight = {}, torch.ones(1, requires_grad=True)

    def student(x, sigma):
        seen["student"] = sigma
        return 2 * x

    def target(x, sigma):
        seen["target"] = sigma
        return weight * x

    i = torch.arange(17)
    value = loss(student, target, torch.ones(17, 2), torch.randn(17, 2), i)
    assert not value.requires_grad
    assert torch.equal(seen["student"], karras_sigmas(18)[i])
    assert torch.equal(seen["target"], karras_sigmas(18)[i + 1])


@wrong("consistency-spy", "told wrong")
def _(loss):
    student, target, sigma, _ = spied(loss)
    assert torch.equal(student.asked[0], sigma) and target.w.grad is None


@wrong("consistency-spy", "student told wrong")
def _(loss):
    _, target, _, sigma_next = spied(loss)
    assert torch.equal(target.asked[0], sigma_next) and target.w.grad is None


@wrong("consistency-spy", "noisier target")
def _(loss):
    student, target, _, _ = spied(loss)
    assert not torch.equal(student.asked[0], target.asked[0])
    assert target.w.grad is None


@wrong("consistency-spy", "gradient")
def _(loss):
    student, target, sigma, sigma_next = spied(loss)
    assert torch.equal(student.asked[0], sigma) and torch.equal(target.asked[0], sigma_next)
    assert student.w.grad is not None


@wrong("consistency-spy", "refuses right")
def _(loss):
    student, target, _, _ = spied(loss)
    assert student.w.grad is None and target.w.grad is None


@wrong("consistency-spy", "raised")
def _(loss):
    student, target = Spy(), Spy()
    loss(student, target).sum().backward()


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("consistency-roles", unnoticed="(d)", kept=np.int32(3))
wrong("consistency-roles", "far too high", kept=20)
unusual("consistency-seam", seam=Fraction(-416, 10))


@unusual("consistency-neighbors")
def by_sorting(sigmas, n):
    rising = np.sort(sigmas.numpy())
    return [torch.from_numpy(rising[n.numpy()]), torch.from_numpy(rising[n.numpy() - 1])]


@unusual("consistency-neighbors")
def one_by_one(sigmas, n):
    turned = sigmas.tolist()[::-1]
    pairs = torch.tensor([(turned[k], turned[k - 1]) for k in n.tolist()])
    return tuple(pairs.unbind(dim=1))


@unusual("consistency-anchor")
def with_lerp_and_keywords(guess, x, sigma, eps):
    w = torch.exp(eps - sigma).unsqueeze(-1)
    return torch.lerp(guess(x=x, sigma=sigma), x, w.expand_as(x))


@unusual("consistency-anchor")
def in_numpy_and_double(guess, x, sigma, eps):
    g, level = guess(x.double(), sigma.double()).numpy(), sigma.double().numpy()
    w = 0.25 / (0.25 + np.square(level - eps))
    return torch.from_numpy(np.einsum("b,bd->bd", w, x.double().numpy()) + (1 - w)[:, None] * g)


@unusual("consistency-anchor")
def row_by_row_in_place(guess, x, sigma, eps):
    out = torch.zeros_like(x)
    for k, level in enumerate(sigma):
        share = float((level - eps) / (1 + level - eps))
        out[k] += x[k] - share * x[k]
        out[k].add_(guess(x[k : k + 1], level[None])[0], alpha=share)
    return out


@unusual("consistency-anchor")
def of_each_sample_by_vmap(guess, x, sigma, eps):
    def one(point, level):
        w = 0.25 / (0.25 + (level - eps) ** 2)
        return w * point + (1 - w) * guess(point[None], level[None])[0]

    return torch.vmap(one)(x, sigma)


@fragile("consistency-anchor", "rounding")
def from_the_guess(guess, x, sigma, eps):
    g, w = guess(x, sigma), (eps / sigma)[:, None]
    return g + w * (x - g)


@fragile("consistency-anchor", "rounding")
def one_up_to_rounding(guess, x, sigma, eps):
    w = (eps / (sigma + 1e-7))[:, None]  # "so that nothing is ever divided by zero"
    return w * x + (1 - w) * guess(x, sigma)


@unusual("consistency-spy")
def by_the_library(loss):
    """With torch.testing, autograd.grad, modules, and keywords."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.level = torch.nn.Parameter(torch.ones(2)), None

        def forward(self, x, sigma):
            self.level = sigma
            return x * self.w

    student, target, i = Net(), Net(), torch.tensor([0, 3, 8, 16])
    x0, z = torch.zeros(4, 2), torch.ones(4, 2)
    value = loss(student=student, target=target, x0=x0, z=z, i=i).sum()
    ours, theirs = torch.autograd.grad(value, [student.w, target.w], allow_unused=True)
    assert theirs is None and ours is not None
    levels = karras_sigmas(18)
    torch.testing.assert_close(student.level, levels[i])
    torch.testing.assert_close(target.level, levels[i + 1])


@unusual("consistency-spy")
def by_torch_func(loss):
    """Gradients by both scales at once, of functions that close over them."""
    i, x0, z = torch.arange(17), torch.zeros(17, 2), torch.randn(17, 2)
    asked = {}

    def value(w):
        def network(who):
            def f(x, sigma):
                asked[who] = sigma
                return w[who] * x

            return f

        return loss(network("student"), network("target"), x0, z, i).sum()

    one = torch.tensor(1.0)
    slopes = torch.func.grad(value)({"student": one, "target": one})
    assert slopes["student"] != 0 and slopes["target"] == 0
    levels = karras_sigmas(18)
    assert torch.equal(asked["student"], levels[i]) and torch.equal(asked["target"], levels[i + 1])


@fragile("consistency-spy", "refuses some right")
def by_the_size_of_the_gradient(loss):
    """Gradients of right losses differ by orders of magnitude, with weight and distance."""
    student, target, sigma, sigma_next = spied(loss)
    assert torch.equal(student.asked[0], sigma) and torch.equal(target.asked[0], sigma_next)
    assert target.w.grad is None and student.w.grad.abs() > 5e3
