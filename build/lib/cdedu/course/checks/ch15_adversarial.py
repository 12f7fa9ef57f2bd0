"""The exercises of chapter 15: what a critic can know, what it is shown, and where the noise goes back."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    Wrong,
    agree,
    at_edge,
    call,
    exercise,
    near,
    number,
    spots,
)

Loss = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Tensor, Tensor], Tensor]


@exercise(
    "adversarial-overlap",
    "What the best critic leaves",
    "code",
    "medium",
    15,
    answers=("least_loss",),
    hints=(
        "Look at one x alone. The critic pays p·max(0, 1 − S) + q·max(0, 1 + S) there, and may choose S freely. Where is this smallest?",
        "Between −1 and 1 the price is p + q − (p − q)·S, a straight line in S. So S is +1 or −1, whichever is cheaper.",
        "At S = 1 the price is 2q, at S = −1 it is 2p. Take the smaller of the two at each x, and integrate: sum over the grid, times dx.",
    ),
)
def _(least_loss: object, g: Generator) -> str:
    x, dx = torch.linspace(-8, 8, 801), 0.02
    where, size = torch.randn(2, generator=g), 0.5 + torch.rand(2, generator=g)
    p, q = (
        torch.exp(-(((x - m) / s) ** 2) / 2) / (s * (2 * torch.pi) ** 0.5)
        for m, s in zip(where, size, strict=True)
    )
    low, both = torch.minimum(p, q), (p * q / (p + q).clamp(min=1e-30))
    least = torch.as_tensor(call(least_loss, p, q, dx))
    if least.numel() != 1:
        raise Wrong(
            "vector", f"It returns {least.numel()} numbers: the loss is one. Sum over the grid, times dx."
        )
    agree(
        least.reshape(()),
        2 * low.sum() * dx,
        {
            "half": (low.sum() * dx, "That is the overlap itself. With S = 1 a sample of the student costs 1 + S = 2, not 1."),
            "not integrated": (2 * low.sum(), "The sum over the grid lacks the width of its cells: multiply by dx."),
            "larger": (2 * torch.maximum(p, q).sum() * dx, "You take the dearer of the two choices. The critic minimises."),
            "mean": (2 * low.mean(), "A mean over the grid points is no integral: sum, and multiply by dx."),
            "difference": ((p - q).abs().sum() * dx, "That is how much the two differ, which the critic gains. What is left is 2 minus this."),
            "constant": (2 * torch.minimum(p.sum(), q.sum()) * dx, "That is the best *constant* score, a critic that sees nothing. Choose S at each x by itself."),
            "unbounded": (torch.tensor(0.0), "Beyond ±1 a score gains nothing on its right side, and the other side goes on paying. Only where p or q is 0 is nothing left."),
            "other game": (2 * both.sum() * dx, "p·q/(p + q) belongs to a critic that answers with a probability and is judged by squared error. The hinge loss is made of straight lines: look at their corners."),
        },
    )  # fmt: skip
    even, left = torch.full((100,), 1.0), torch.cat([torch.full((50,), 2.0), torch.zeros(50)])
    for a, b, truth in ((left, left, 2.0), (left, left.flip(0), 0.0), (left, even, 1.0), (even, left, 1.0)):
        at_edge(
            "Where one of the densities is 0,",
            "Do not divide by a density, and take no logarithm of one: the smaller of the two is then simply 0.",
            torch.tensor(truth),
            lambda p, q, dx: torch.as_tensor(call(least_loss, p, q, dx)).reshape(()),
            a,
            b,
            0.01,
            key="no density",
            size=1.0,
        )
    return "It is 2 where samples and data are alike, and 0 where they do not touch."


@exercise(
    "adversarial-pool",
    "Two levels, one critic",
    "predict",
    "easy",
    5,
    answers=("share",),
    hints=(
        "The critic is content when what it is shown, both levels' samples in one heap, has a quarter in each mode. Of 100 samples in the heap, how many come from the low level, and how many must lie in modes 3 and 4?",
        "Half of the heap is the low level's. Modes 3 and 4 are due half of the heap. The high level gives them nothing.",
    ),
)
def _(share: object, g: Generator) -> str:
    value = number(share)
    if 1 < value <= 100:
        raise Wrong("percent", "Give a share from 0 to 1, not a percentage.")
    near(
        value,
        1.0,
        {
            "told": (0.5, "So it would be if the critic were told the level: each level by itself like the data. This one sees the heap only."),
            "of the heap": (0.25, "A quarter is what each single mode has in the heap. Asked is the share of the low level's own samples."),
            "three quarters": (0.75, "Count a heap of 100: fifty of each level. How many of the hundred must lie in modes 3 and 4, and who can bring them?"),
            "the other half": (0.0, "Then nobody would bring modes 3 and 4, and the critic would see at once that they are missing."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "The heap is perfect, and each level is missing half of the data."


@exercise(
    "adversarial-alpha",
    "A formula and its code (paper reading)",
    "predict",
    "medium",
    15,
    answers=("power",),
    hints=(
        "Write the difference of the two scores with the denoisers. From s = −(x_t − α μ)/σ² the x_t drops out.",
        "The difference is α (μ_fake − μ_real)/σ². Multiply by α and by w = (σ²/α) · CS/‖…‖₁, and count.",
        "α from the score, α from the chain rule, 1/α from w.",
    ),
)
def _(power: object, g: Generator) -> str:
    near(
        number(power),
        1,
        {
            "none": (0, "That is what the code has. Count the α once more: one from the scores, one from the chain rule, and one below in w."),
            "two": (2, "Two α stand above, and w brings one below."),
            "below": (-1, "The score's own α, in α μ, stands above: s_fake − s_real = α (μ_fake − μ_real)/σ²."),
            "two below": (-2, "One α stands below, in w; two stand above, in the scores and in the chain rule."),
            "three": (3, "w has α in its denominator, so it takes one away."),
            "half": (0.5, "No root is taken here: the α of the paper is the factor of x₀ itself, which for DDPM is √ᾱ."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "The appendix says itself that its code differs slightly. On our scale α = 1, and both are equal."


def _distillation(
    onto_data: bool = False, clean: bool = False, through: bool = False, own_level: bool = False
) -> Loss:
    """The term of the exercise; each argument puts one defect in."""

    def loss(
        teacher: Callable[[Tensor, Tensor], Tensor], fake: Tensor, x0: Tensor, tau: Tensor, noise: Tensor
    ) -> Tensor:
        base = x0 if onto_data else fake
        base = base if through else base.detach()
        noisy = base if clean else base + tau.reshape(-1, 1) * noise
        with torch.set_grad_enabled(through):
            guess = teacher(noisy, torch.ones_like(tau) if own_level else tau)
        return (fake - guess).square().mean(1) / (1 + tau**2).sqrt()

    return loss


def _in_double(
    teacher: Callable[[Tensor, Tensor], Tensor], fake: Tensor, x0: Tensor, tau: Tensor, noise: Tensor
) -> Tensor:
    """Right as well: written differently, and the detach after the call."""
    guess = teacher(torch.addcmul(fake.detach(), tau[:, None], noise), tau).detach()
    weight = torch.rsqrt(1 + tau.double() ** 2).float()
    return weight * ((fake - guess) ** 2).sum(1) / fake.shape[1]


@exercise(
    "adversarial-renoise",
    "A student that only denoises",
    "bug",
    "hard",
    20,
    answers=("test_term",),
    hints=(
        "What does the teacher see? A false teacher of yours, a function (x, tau), can note what it is given. Give x0 and the sample values that cannot be confused.",
        "Three things are worth an assertion: the teacher's x is fake + τ·noise, its level is τ, and the gradient of the loss with respect to "
        "fake is the one of (fake − guess)², with the guess held fixed. A teacher that returns 3x shows whether a gradient passes through it.",
        "seen = []; def teacher(x, tau): seen.append((x, tau)); return 3 * x. Call with fake.requires_grad_(), compare seen[0][0] with "
        "fake + tau[:, None] * noise, seen[0][1] with tau, and torch.autograd.grad(loss.sum(), fake)[0] with (fake − guess) / (1 + tau**2).sqrt()[:, None].",
    ),
)
def _(test_term: object, g: Generator) -> str:
    spots(
        test_term,
        {"a term that stops the gradient before the teacher": _distillation(), "one that stops it after the teacher": _in_double},
        {
            "data": (_distillation(onto_data=True), "It does not see the defect of the code above: the noise goes onto x0. Let x0 and fake differ, and look at what the teacher is given."),
            "clean": (_distillation(clean=True), "It passes a term that puts no noise back at all. Compare the teacher's input with fake + τ·noise."),
            "level": (_distillation(own_level=True), "It passes a term that tells the teacher σ = 1 whatever τ is. Look at the teacher's second argument."),
            "gradient": (_distillation(through=True), "It passes a term whose gradient goes through the teacher. Differentiate the loss with respect to fake, with a teacher that returns a multiple of its input."),
        },
    )  # fmt: skip
    return "What is given to the teacher, at which level, and what the gradient sees: three assertions."
