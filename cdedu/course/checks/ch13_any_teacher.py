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
        (
            "Three questions, in this order: which σ belongs to ᾱ, which x on our scale belongs to the input, and how much "
            "noise is left when the guess is taken away?"
        ),
        "The input is √ᾱ x₀ + √(1 − ᾱ) ε. What do you have to divide it by to get x₀ + σ ε, and what is σ then?",
        (
            "If D(x, σ) is the clean picture, what is the rest of x? A network that predicts noise gives it with size one. "
            "And use the same x in both places."
        ),
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
                "You multiply by √ᾱ. That's the way from our scale to the network's; you're coming from the network's, so divide.",
            ),
            "sigma": (
                (x - D(x, low)) / low,
                "Your σ is √(1 − ᾱ). That's the size of the noise on the VP scale; on ours it's divided by √ᾱ, just as x is.",
            ),
            "sign": ((guess - x) / sigma, "The sign is flipped: x = guess + σ · noise, so the noise is what x has beyond the guess."),
            "not divided": (x - guess, "That's σ times the noise. A network that predicts noise gives it with size one: divide by σ."),
            "clean": (guess, "That's the clean picture, so it would be x₀-prediction. The exercise asks for the noise."),
            "mixed scales": (
                (x_vp - guess) / sigma,
                "The guess is subtracted from x on the network's scale. Use the same x that D was given.",
            ),
        },
    )  # fmt: skip
    return "Now any sampler in diffusers could walk with a teacher from this course."


@exercise(
    "any-interval",
    "Guidance where it helps",
    "code",
    "medium",
    15,
    answers=("guided",),
    hints=(
        "Outside the interval the plain conditional denoiser should come out. Which weight w gives you that?",
        (
            "So each sample needs a weight of its own: w inside the interval, and that number outside. `torch.where` can "
            "choose."
        ),
        (
            "Watch the shapes: one weight per sample has shape (B,), and it multiplies pairs of coordinates. For the answer "
            "without a label, every label is `null`."
        ),
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
                "Outside the interval your weight is 0, which ignores the label. The plain conditional denoiser has weight 1.",
            ),
            "nothing outside": (
                torch.where(inside, mixed(w, w), 0.0),
                "Outside the interval you return zeros. There the conditional denoiser should come out.",
            ),
            "other convention": (
                mixed(1 + w, 1.0),
                ("You start from the conditional answer and add w times the difference. That's the paper's convention, and its w is one less than ours."),
            ),
            "swapped": (
                with_label - torch.where(inside, w, 1.0) * more,
                ("You go from the answer with the label to the one without. Start without the label, and go in the other direction."),
            ),
            "turned inside out": (mixed(1.0, w), "It guides outside the interval instead of inside."),
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
    return "With w = 1 it's the conditional denoiser at every σ."


@exercise(
    "any-calls",
    "What a guided lesson costs",
    "predict",
    "easy",
    5,
    answers=("passes",),
    hints=(
        (
            "Three take part: the student, with its gradient; the target, without; and the teacher's Heun step. Which of "
            "them are guided?"
        ),
        (
            "How often does a Heun step call the teacher, and how often does a guided teacher run its network for one "
            "answer? Then add the student, forward and backward, and the target."
        ),
    ),
)
def _(passes: object, g: Generator) -> str:
    value = number(passes)
    if value == 6:
        raise Wrong("unguided", "Six would be right without guidance, or if the backward pass were free. A guided teacher runs its network twice for each answer.")  # fmt: skip
    near(
        value,
        8,
        {
            "one of two": (7, "A Heun step calls the teacher twice, and both answers are guided."),
            "all doubled": (12, "Only the teacher is guided. Student and target call their network once: that's what you save."),
            "both networks": (10, "Nearly. Which of the three runs its network twice for one answer: target, student or teacher?"),
            "teacher alone": (4, "That's the teacher's share. The student and the target come on top."),
            "backward": (5, "A Heun step calls the teacher twice, with two runs of its network each; and a backward pass costs two."),
            "too many teachers": (9, "Student 3, target 1. The Heun step has two answers of two runs each."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return (
        "A third more than without guidance, but you pay it only once: after that, a sample costs one call."
    )


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
    "Gray samples from a good model",
    "bug",
    "hard",
    20,
    answers=("test_adapter",),
    hints=(
        (
            "A real network hides what it's given. A false one, a function (x, t) of your own, can write down both and "
            "answer whatever you like. What must its input be, and what must come out if it answers with the true noise?"
        ),
        (
            "Make x from an x0 and a z that you know, at the level of some time in the middle of the schedule. What would a "
            "DDPM network expect to see for these two, and at what time?"
        ),
        (
            "One assertion each for the input, the time and the guess. Some right adapters interpolate the time, so let it "
            "be off by less than one, and leave room for rounding."
        ),
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
            "scale": (_adapter(scaled=False), "It doesn't see the defect of the code above: the network gets x on our scale. Look at what the false network is given, at a σ well above 0.1."),
            "time": (_adapter(time=1e-3), "It passes an adapter that tells the network a time from 0 to 1 instead of 0 to 999. Look at the second argument too."),
            "answer": (_adapter(back=False), "It passes an adapter that subtracts the noise from the scaled x. Look at the guess: with the true noise it must be x0."),
        },
    )  # fmt: skip
    return "An adapter has three jobs, and your test has an assertion for each."
