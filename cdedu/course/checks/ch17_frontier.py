"""The exercises of chapter 17: translating a paper, its limits, and its table."""

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import Wrong, agree, call, choose, exercise, near, number


@exercise(
    "frontier-flow",
    "A flow model as a teacher",
    "code",
    "medium",
    15,
    answers=("denoise",),
    hints=(
        "Three translations, in this order: which t belongs to σ, which input belongs to x, and which clean point belongs to the velocity.",
        "Take the factor 1 − t out of x_t = (1 − t) x0 + t z. What remains is x0 + σ z: for which σ? Solve that for t.",
        (
            "Now go from x_t back to x0. The velocity is z − x0: how far along it does clean data lie, and in which "
            "direction? Mind the columns: σ and t have shape (B,), the points (B, 2)."
        ),
    ),
)
def _(denoise: object, g: Generator) -> str:
    A, b = torch.randn(2, 2, generator=g), torch.randn(2, generator=g)
    times = []

    def v(x_t: Tensor, t: Tensor) -> Tensor:
        times.append(tuple(torch.as_tensor(t).shape) == (len(x_t),))
        return torch.sin(x_t.float() @ A + b) + 2 * torch.as_tensor(t).reshape(-1, 1).float()

    x = 2 * torch.randn(6, 2, generator=g)
    sigma = 0.2 + 4 * torch.rand(6, generator=g)
    s, t = sigma[:, None], sigma / (1 + sigma)
    x_t, root = x / (1 + s), (1 + s**2).sqrt()
    column, vp, late = t[:, None], (s / root), 1 - t
    answer, own = call(denoise, v, x, sigma), list(times)
    agree(
        answer,
        x_t - column * v(x_t, t),
        {
            "not scaled": (x - column * v(x, t), "The network is given x on our scale. It has only ever seen x_t = (1 − t) x, of size one."),
            "mixed scales": (x - column * v(x_t, t), "The velocity is right, but it is subtracted from x on our scale. Use the x_t that the network was given."),
            "as noise": (x - s * v(x_t, t), "x − σ · (output) is for a network that predicts the noise z. This one predicts z − x0."),
            "sigma as time": (x_t - s * v(x_t, sigma), "Your time is σ itself, which goes up to 80. Theirs ends at 1: solve σ = t/(1 − t) for t."),
            "whole way": (x_t - v(x_t, t), "A whole unit of time along the velocity goes past the data. From time t, clean data is only t away."),
            "to the noise": (x_t + (1 - column) * v(x_t, t), "That's the noise end of the line, at t = 1. Clean data is at t = 0: go back by t."),
            "velocity": (v(x_t, t), "That's the velocity itself. The clean point lies t times that far back from x_t."),
            "time backwards": (x_t - late[:, None] * v(x_t, late), "Your time runs the wrong way: 1/(1 + σ) is 1 − t, so a lot of noise would count as early."),
            "all backwards": (column * x - late[:, None] * v(column * x, late), "Time and scale both run the wrong way: with t = 1/(1 + σ) you've swapped t and 1 − t."),
            "sign": (x_t + column * v(x_t, t), "The velocity z − x0 points to the noise. Go against it."),
            "variance-preserving": (x / root - vp * v(x / root, vp), "You divide by √(1 + σ²), as for DDPM. A flow mixes with 1 − t and t, which add to one: divide by 1 + σ."),
        },
    )  # fmt: skip
    if not all(own):
        raise Wrong("shape of times", "The numbers are right. But call v with times of shape (B,), one for each point, the way a network wants them.")  # fmt: skip
    return (
        "With this adapter every sampler and every loss in the course can take a flow model as its teacher."
    )


@exercise(
    "frontier-diagonal",
    "Only the diagonal",
    "predict",
    "medium",
    10,
    answers=("deviation",),
    hints=(
        "On s = σ the best g is the denoiser. And this network gives the same answer for every s.",
        (
            "Write out G's two terms with the denoiser of this Gaussian. Everything is linear in x, so the jump just "
            "multiplies x by a number."
        ),
        (
            "Both terms are tiny at s = 0.002, but neither is negligible next to the other. And the x you start from has "
            "standard deviation 80."
        ),
    ),
)
def _(deviation: object, g: Generator) -> str:
    keep, shrink = 0.002 / 80, 0.25 / (0.25 + 80**2)
    near(
        number(deviation),
        80 * (keep + (1 - keep) * shrink),
        {
            "perfect": (0.5, "That's the spread of the data, which a perfect student would have. This one was never told what s is for."),
            "noise left": (80 * keep, "That's only the first term, what's left of the noise. The denoiser's share is even larger."),
            "denoiser": (80 * shrink, "That's only the denoiser's share. The jump also keeps s/σ of x, which is just as tiny and still counts."),
            "variance": ((80 * (keep + shrink)) ** 2, "That's the variance. The question asks for the standard deviation."),
            "noise": (80.0, "That's the start. The jump goes almost all the way to what the denoiser says."),
        },
        tolerance=0.05,
    )  # fmt: skip
    return "One Euler step of the teacher, from the top to the bottom: every sample lands in the middle of the data."


@exercise(
    "frontier-table",
    "A table with three rows (paper reading)",
    "predict",
    "easy",
    10,
    answers=("hours", "pair"),
    hints=(
        (
            "Read the footnote first: where does the third run begin? Then see what changes between two rows besides the "
            "discriminator."
        ),
        (
            "The third run starts from weights that somebody had trained before. And in a clean comparison only one thing "
            "changes: check each pair for its learning rate and its start."
        ),
        (
            "Whose hours does the third run inherit? And which two runs differ in the discriminator and in as little else as "
            "possible?"
        ),
    ),
)
def _(hours: object, pair: object, g: Generator) -> str:
    near(
        number(hours),
        140.0,
        {
            "last run": (70.0, "That's the third run alone, and it didn't start from scratch."),
            "all": (
                193.0,
                "The second run has no part in it. Which run's weights does the third one start from?",
            ),
            "wrong start": (123.0, "You add the second run. The footnote names the first."),
            "second": (53.0, "That's the second run, with 1.51."),
        },
        tolerance=0.015,
        what="hours",
    )
    choose(
        pair,
        "a",
        {
            "b": (
                "Between A and C the discriminator changes, the learning rate is a quarter, and there are 140k more iterations. "
                "Which did what?"
            ),
            "c": "B and C both have the discriminator.",
        },
    )
    return "B beats A with half the iterations. How much of the rest is due to the small learning rate, the table can't say."
