"""The exercises of chapter 13: teachers from elsewhere, and guidance."""

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
from cdedu.mixture import GaussianMixture

Network = Callable[[Tensor, Tensor], Tensor]
Adapter = Callable[[Network, Tensor], Callable[[Tensor, float], Tensor]]


@exercise(
    "any-epsilon",
    "The adapter backwards",
    "code",
    "medium",
    15,
    answers=("as_epsilon",),
    hints=(
        "Three things, in this order: which σ belongs to ᾱ, which x in our scale belongs to the input, and which noise the guess leaves over.",
        "σ = √((1 − ᾱ)/ᾱ), and the input is √ᾱ times our x. If D(x, σ) is the clean image, the rest of x is σ times the noise.",
        "sigma = ((1 - alpha_bar) / alpha_bar).sqrt(); x = x_vp / alpha_bar.sqrt(); then the noise is (x - D(x, sigma)) / sigma.",
    ),
)
def _(as_epsilon: object, g: Generator) -> str:
    D = GaussianMixture(torch.randn(3, 2, generator=g) / 2, 0.2)
    alpha_bar = 0.3 + 0.4 * torch.rand((), generator=g)
    sigma, x_vp = ((1 - alpha_bar) / alpha_bar).sqrt(), torch.randn(5, 2, generator=g)
    x = x_vp / alpha_bar.sqrt()
    guess, low = D(x, sigma), (1 - alpha_bar).sqrt()
    agree(
        call(as_epsilon, D, x_vp, alpha_bar),
        (x - guess) / sigma,
        {
            "not scaled": ((x_vp - D(x_vp, sigma)) / sigma, "D is given x on the network's scale. Its own x has the factor √ᾱ taken out: divide by it first."),
            "multiplied": (
                (x_vp * alpha_bar.sqrt() - D(x_vp * alpha_bar.sqrt(), sigma)) / sigma,
                "You multiply by √ᾱ. That is the way from our scale to the network's; here you come from the network's: divide.",
            ),
            "sigma": (
                (x - D(x, low)) / low,
                "Your σ is √(1 − ᾱ). That is the size of the noise on the VP scale; on ours it is divided by √ᾱ, as x is.",
            ),
            "sign": ((guess - x) / sigma, "The sign is turned: x = guess + σ · noise, so the noise is what x has more than the guess."),
            "not divided": (x - guess, "That is σ times the noise. A network that predicts noise gives it with size one: divide by σ."),
            "clean": (guess, "That is the clean image, so it would be x₀-prediction. Asked is the noise."),
            "mixed scales": (
                (x_vp - guess) / sigma,
                "The guess is subtracted from x on the network's scale. Use the same x that D was given.",
            ),
        },
    )  # fmt: skip
    return "Any sampler of diffusers could now walk with a teacher of this course."


@exercise(
    "any-interval",
    "Guidance where it helps",
    "code",
    "medium",
    15,
    answers=("guided",),
    hints=(
        "Outside the interval the plain conditional denoiser should come out. Which weight w gives it?",
        "w = 1. So make one weight for each sample: w where low ≤ σ ≤ high, and 1 elsewhere. torch.where does it.",
        "weight = torch.where((sigma >= low) & (sigma <= high), w, 1.0), then weight.reshape(-1, 1), so that it multiplies (B, 2). "
        "The label that says nothing is torch.full_like(labels, null).",
    ),
)
def _(guided: object, g: Generator) -> str:
    means = torch.randn(3, 2, generator=g)
    each = [GaussianMixture(means[k : k + 1], 0.3) for k in range(3)]

    def D(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        answers = torch.stack([d(x, sigma) for d in (*each, GaussianMixture(means, 0.3))])
        return answers[labels, torch.arange(len(x))]

    x, labels = torch.randn(6, 2, generator=g), torch.arange(6) % 3
    sigma, w, low, high = torch.tensor([0.1, 0.2, 0.5, 0.9, 3.0, 8.0]), 2.5, 0.3, 2.0
    without, with_label = D(x, sigma, torch.full_like(labels, 3)), D(x, sigma, labels)
    more, inside = with_label - without, ((sigma >= low) & (sigma <= high))[:, None]

    def mixed(inner: float, outer: float) -> Tensor:
        return without + torch.where(inside, inner, outer) * more

    agree(
        call(guided, D, x, sigma, labels, w, low, high, 3),
        mixed(w, 1.0),
        {
            "everywhere": (mixed(w, w), "The weight is w at every noise level. Outside the interval it should be 1."),
            "unlabelled outside": (
                mixed(w, 0.0),
                "Outside the interval your weight is 0, which ignores the label. The plain conditional denoiser has the weight 1.",
            ),
            "nothing outside": (
                torch.where(inside, mixed(w, w), 0.0),
                "Outside the interval you return zeros. There the conditional denoiser should come out.",
            ),
            "other convention": (
                mixed(1 + w, 1.0),
                "You start from the conditional answer and add w times the difference: that is the paper's convention, 1 + w of ours.",
            ),
            "swapped": (
                with_label - torch.where(inside, w, 1.0) * more,
                "You go from the label towards no label. Start from the answer without label, and go in the other direction.",
            ),
            "turned inside out": (mixed(1.0, w), "It guides outside the interval and not inside."),
        },
    )  # fmt: skip
    sigma = torch.tensor([0.5, 0.5, 2.0, 2.0, 0.49, 2.01])
    without, with_label = D(x, sigma, torch.full_like(labels, 3)), D(x, sigma, labels)
    at_edge(
        "For low = 0.5 and high = 2, at σ = 0.5 and σ = 2 themselves,",
        "Both ends belong to the interval: low ≤ σ ≤ high.",
        without + torch.tensor([w] * 4 + [1.0] * 2)[:, None] * (with_label - without),
        guided,
        D,
        x,
        sigma,
        labels,
        w,
        0.5,
        2.0,
        3,
        key="ends of the interval",
    )
    return "With w = 1 it is the conditional denoiser at every σ."


@exercise(
    "any-calls",
    "What a guided lesson costs",
    "predict",
    "easy",
    5,
    answers=("passes",),
    hints=(
        "Three take part: the student, with gradient; the target, without; and the teacher's Heun step. Which of them are guided?",
        "Student 1 + 2, target 1. A Heun step asks the teacher twice, and a guided teacher runs its network twice for each answer.",
    ),
)
def _(passes: object, g: Generator) -> str:
    value = number(passes)
    if value == 6:
        raise Wrong("unguided", "Six it is without guidance, or if the backward pass cost nothing. A guided teacher runs its network twice for each answer.")  # fmt: skip
    near(
        value,
        8,
        {
            "one of two": (7, "A Heun step asks the teacher twice, and both answers are guided."),
            "all doubled": (12, "Only the teacher is guided. Student and target call their network once: that is what is saved."),
            "both networks": (10, "Nearly. Is it the target, the student or the teacher that runs its network twice for an answer?"),
            "teacher alone": (4, "That is the teacher's share. Student and target come on top."),
            "backward": (5, "A Heun step asks the teacher twice, with two runs of its network each; and a backward pass costs two."),
            "too many teachers": (9, "Student 3, target 1. The Heun step has two answers of two runs each."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "A third more than without guidance, and paid once: each sample then costs one call."


def _adapter(scaled: bool = True, time: float = 1.0, back: bool = True) -> Adapter:
    """The adapter of the exercise; each argument puts one defect in."""

    def adapt(network: Network, alphas: Tensor) -> Callable[[Tensor, float], Tensor]:
        known = ((1 - alphas) / alphas).sqrt().log().double()

        def denoise(x: Tensor, sigma: float) -> Tensor:
            level = torch.tensor(float(sigma), dtype=torch.double).log()
            i = torch.searchsorted(known, level).clamp(1, len(known) - 1)
            t = (i - 1 + (level - known[i - 1]) / (known[i] - known[i - 1])).float() * time
            small = x / (1 + float(sigma) ** 2) ** 0.5
            u = network(small if scaled else x, t.expand(len(x)))
            return (x if back else small) - float(sigma) * u

        return denoise

    return adapt


def _nearest(network: Network, alphas: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Right as well: the nearest integer time, handed over as an integer."""
    known = ((1 - alphas) / alphas).sqrt()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = (known.log() - torch.as_tensor(float(sigma)).log()).abs().argmin()
        return x - float(sigma) * network(alphas[t].sqrt() * x, t.expand(len(x)))

    return denoise


@exercise(
    "any-adapter",
    "Grey samples from a good model",
    "bug",
    "hard",
    20,
    answers=("test_adapter",),
    hints=(
        "A real network hides what it is given. A false one, a function (x, t) of yours, can note both and answer what you want. "
        "What must its input be, and what must come out if it answers with the true noise?",
        "Take a time such as 500, and σ = √((1 − ᾱ)/ᾱ) there. Make x = x0 + σ z from an x0 and a z that you know. The network's input must be "
        "√ᾱ x0 + √(1 − ᾱ) z, its time 500, and if it returns z, the guess must be x0.",
        "seen = []; def network(x, t): seen.append((x, t)); return z. After guess = adapt(network, alphas)(x0 + sigma * z, float(sigma)) "
        "assert three things: torch.allclose(seen[0][0], …, atol=1e-3), (seen[0][1] - 500).abs().max() < 1, torch.allclose(guess, x0, atol=1e-2).",
    ),
)
def _(test_adapter: object, g: Generator) -> str:
    spots(
        test_adapter,
        {
            "an adapter that interpolates the time, so that it is 500 up to rounding": _adapter(),
            "an adapter that takes the nearest time, as an integer": _nearest,
        },
        {
            "scale": (_adapter(scaled=False), "It does not see the defect of the code above: the network gets x on our scale. Look at what the false network is given, at a σ well above 0.1."),
            "time": (_adapter(time=1e-3), "It passes an adapter that tells the network a time from 0 to 1, in place of 0 to 999. Look at the second argument, too."),
            "answer": (_adapter(back=False), "It passes an adapter that subtracts the noise from the scaled x. Look at the guess: with the true noise it must be x0."),
        },
    )  # fmt: skip
    return "An adapter has three jobs, and the test has one assertion for each."
