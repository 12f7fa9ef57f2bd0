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
        (
            "Look at a single x. The critic pays p·max(0, 1 − S) + q·max(0, 1 + S) there, and may choose S freely. Where is "
            "that smallest?"
        ),
        "Draw the price as a function of S: it's made of straight pieces. Where can a curve like that have its minimum?",
        "At each x the critic takes the cheapest corner. Then add up over the grid, and remember how wide a cell is.",
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
            "half": (low.sum() * dx, "That's the overlap itself. With S = 1 one of the student's samples costs 1 + S = 2, not 1."),
            "not integrated": (2 * low.sum(), "The sum over the grid needs the width of its cells: multiply by dx."),
            "larger": (2 * torch.maximum(p, q).sum() * dx, "You take the more expensive of the two choices. The critic minimizes."),
            "mean": (2 * low.mean(), "A mean over the grid points isn't an integral: sum, and multiply by dx."),
            "difference": ((p - q).abs().sum() * dx, "That's how much the two differ, which is what the critic gains. What's left is 2 minus this."),
            "constant": (2 * torch.minimum(p.sum(), q.sum()) * dx, "That's the best *constant* score, from a critic that sees nothing. Choose S at each x separately."),
            "unbounded": (torch.tensor(0.0), "Beyond ±1 a score gains nothing on its good side, and the other side keeps paying. Only where p or q is 0 is nothing left."),
            "other game": (2 * both.sum() * dx, "p·q/(p + q) belongs to a critic that answers with a probability and is judged by squared error. The hinge loss is made of straight lines: look at their corners."),
        },
    )  # fmt: skip
    even, left = torch.full((100,), 1.0), torch.cat([torch.full((50,), 2.0), torch.zeros(50)])
    for a, b, truth in ((left, left, 2.0), (left, left.flip(0), 0.0), (left, even, 1.0), (even, left, 1.0)):
        at_edge(
            "Where one of the densities is 0,",
            "Don't divide by a density, and don't take its logarithm: the smaller of the two is simply 0 there.",
            torch.tensor(truth),
            lambda p, q, dx: torch.as_tensor(call(least_loss, p, q, dx)).reshape(()),
            a,
            b,
            0.01,
            key="no density",
            size=1.0,
        )
    return "It's 2 where samples and data are alike, and 0 where they don't touch."


@exercise(
    "adversarial-pool",
    "Two levels, one critic",
    "predict",
    "easy",
    5,
    answers=("share",),
    hints=(
        (
            "The critic is satisfied when everything it's shown, both levels' samples in one pile, has a quarter in each "
            "mode. Of 100 samples in the pile, how many come from the low level, and how many must lie in modes 3 and 4?"
        ),
        "If the high level never supplies modes 3 and 4, who has to? And how large is its part of the pile?",
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
            "told": (0.5, "That would be right if the critic were told the level: then each level by itself would look like the data. This critic sees only the pile."),
            "of the heap": (0.25, "A quarter is what each single mode has in the pile. The question is about the low level's own samples."),
            "three quarters": (0.75, "Picture a pile of 100: fifty from each level. How many of the hundred must lie in modes 3 and 4, and who can supply them?"),
            "the other half": (0.0, "Then nobody would supply modes 3 and 4, and the critic would notice right away."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "The pile is perfect, and each level is missing half of the data."


@exercise(
    "adversarial-alpha",
    "A formula and its code (paper reading)",
    "predict",
    "medium",
    15,
    answers=("power",),
    hints=(
        (
            "Write the difference of the two scores in terms of the denoisers. What happens to the x_t in s = −(x_t − α "
            "μ)/σ²?"
        ),
        "Now multiply that difference by α and by w, and count the powers of α.",
        (
            "Three places carry an α: the score, the chain rule and w. In each of them, does it stand above the line or "
            "below?"
        ),
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
            "half": (0.5, "There's no root here: the paper's α is the factor of x₀ itself, which for DDPM is √ᾱ."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return (
        "The appendix itself says that its code differs slightly. On our scale α = 1, and the two are equal."
    )


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
        (
            "What does the teacher see? A false teacher of your own, a function (x, tau), can write down what it's given. "
            "Choose values for x0 and the sample that can't be confused."
        ),
        (
            "Three things deserve an assertion: what the teacher is given, the level it's told, and the gradient of the loss "
            "with respect to fake. Which kind of teacher would give away a gradient that flows through it?"
        ),
        (
            "With the guess held fixed, you can work out the gradient of the loss by hand; remember c(τ). Compare it with "
            "torch.autograd.grad. A teacher that multiplies its input by 3 makes every leak visible."
        ),
    ),
)
def _(test_term: object, g: Generator) -> str:
    spots(
        test_term,
        {"a term that stops the gradient before the teacher": _distillation(), "one that stops it after the teacher": _in_double},
        {
            "data": (_distillation(onto_data=True), "It doesn't see the defect of the code above: the noise goes onto x0. Let x0 and fake differ, and look at what the teacher is given."),
            "clean": (_distillation(clean=True), "It passes a term that puts no noise back at all. Compare the teacher's input with fake + τ·noise."),
            "level": (_distillation(own_level=True), "It passes a term that tells the teacher σ = 1 whatever τ is. Look at the teacher's second argument."),
            "gradient": (_distillation(through=True), "It passes a term whose gradient goes through the teacher. Differentiate the loss with respect to fake, with a teacher that returns a multiple of its input."),
        },
    )  # fmt: skip
    return "What the teacher is given, at which level, and what the gradient sees: three assertions."
