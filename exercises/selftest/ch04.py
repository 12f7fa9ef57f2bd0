"""Prepared answers to the exercises of chapter 4."""

import torch
from exercise_answers import right, wrong

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


@right("consistency-neighbours")
def by_turning_the_grid(sigmas, n):
    t = torch.cat([torch.zeros(1), sigmas.flip(0)])  # t[1] = ε ... t[N] = T, as in the paper
    return t[n + 1], t[n]


@right("consistency-neighbours")
def with_negative_indices(sigmas, n):
    return torch.stack([sigmas[-(n + 1)], sigmas[-n]]).double()


@wrong("consistency-neighbours", "order")
def _(sigmas, n):
    return sigmas[len(sigmas) - n], sigmas[len(sigmas) - n - 1]


@wrong("consistency-neighbours", "wrong end")
def _(sigmas, n):
    return sigmas[n - 1], sigmas[n]


@wrong("consistency-neighbours", "one too low")
def _(sigmas, n):
    i = len(sigmas) - n
    return sigmas[i], sigmas[i + 1]


@wrong("consistency-neighbours", "one too high")
def _(sigmas, n):
    i = len(sigmas) - 2 - n
    return sigmas[i], sigmas[i + 1]


@wrong("consistency-neighbours", "not neighbours")
def _(sigmas, n):
    i = len(sigmas) - 1 - n
    return sigmas[i - 1], sigmas[i + 1]


@wrong("consistency-neighbours", "type")
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


right("consistency-seam", seam=80 * torch.special.ndtri(torch.tensor(0.3)))
right("consistency-seam", seam=-42)
wrong("consistency-seam", "middle", seam=0)
wrong("consistency-seam", "nearest", seam=0.4)
wrong("consistency-seam", "sign", seam=42)
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
