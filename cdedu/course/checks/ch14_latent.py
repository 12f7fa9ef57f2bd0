"""The exercises of chapter 14: a clock, a weight, a switch, and a forgotten factor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    agree,
    at_edge,
    call,
    exercise,
    near,
    number,
    spots,
)

Sample = Callable[[Callable[[Tensor, float], Tensor], Any, Tensor], Tensor]


@exercise(
    "latent-clock",
    "Four times out of a thousand",
    "code",
    "medium",
    15,
    answers=("lcm_times",),
    hints=(
        (
            "What are the fifty times, if they're evenly spaced and 999 is one of them? Write down the first few and the "
            "last."
        ),
        (
            "Turn the list around, so that it begins with 999, and cut it into `steps` parts. At which place does part j "
            "begin?"
        ),
        (
            "Pick from the fifty, never from the thousand. And stay with whole numbers: multiply first, then divide with "
            "`//`, so that you round only once."
        ),
    ),
)
def _(lcm_times: object, g: Generator) -> str:
    train, original = 1000, 50
    steps = (3, 4, 6, 8)[int(torch.randint(4, (1,), generator=g))]
    known = torch.arange(original, 0, -1) * train // original - 1
    j = torch.arange(steps)
    truth = known[j * original // steps]
    agree(
        torch.as_tensor(call(lcm_times, steps, original, train)),
        truth,
        {
            "off by one": (truth + 1, "The times are counted from 0, so the last one is 999. Subtract 1."),
            "first of each": (truth - 19, "Out of every twenty times the student knows the last one, 19, not the first one, 0."),
            "rising": (truth.flip(0), "Sampling begins with noise: the largest time comes first."),
            "to the end": (known[(j * (original - 1)).div(steps - 1).floor().long()], "You go down to the smallest time. LCM stops before that: cut the list into equal parts and take the beginning of each."),
            "stride": (known[j * (original // steps)], "You step by a whole number of places, original // steps, and the remainders add up. Part j begins at entry j·original/steps, rounded down at the end."),
            "rounded": (known[(j * original / steps).round().long()], "A part begins at the place rounded down, not at the nearest one."),
            "whole clock": ((train - j * train / steps).floor() - 1, "You divide up the thousand times. The student knows only fifty of them: divide up the list of those."),
        },
        tolerance=1e-6,
    )  # fmt: skip
    for n in range(1, original + 1):
        at_edge(
            f"With steps = {n}",
            (
                "Is there a fraction in it, such as j / steps, or a linspace? Its rounding shows. j * original // steps stays "
                "with whole numbers."
            )
            if n > 1
            else "With one step, only the noisiest time is used.",
            known[torch.arange(n) * original // n],
            lcm_times,
            n,
            original,
            train,
            key="rounded early",
            tolerance=0,
        )
    return "The student has never seen a time that isn't among these fifty."


@exercise(
    "latent-weight",
    "Which scales has it seen? (code reading)",
    "predict",
    "medium",
    10,
    answers=("lowest",),
    hints=(
        "Don't trust the help, read the formula. Which w in it gives the text alone: 0 or 1?",
        "Compare cond + w·(cond − uncond) with LCM's formula. Is the script's w the paper's ω, or is it one more?",
        (
            "The pipeline embeds guidance_scale − 1. Which guidance_scale leads to the smallest number that the student saw "
            "in training?"
        ),
    ),
)
def _(lowest: object, g: Generator) -> str:
    near(
        number(lowest),
        6,
        {
            "help": (5, "That's what the help says. But the formula is LCM's: at w = 0 it gives the text alone. The script's w is ω."),
            "other way": (4, "You subtracted the one where you should add it: the pipeline embeds guidance_scale − 1, and that should be 5."),
            "twice": (7, "The two conventions are one apart, not two."),
            "highest": (16, "That's the highest. The question asks for the lowest."),
            "zero": (1, "At 1 the pipeline embeds ω = 0, and the student has seen no ω below 5."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "So it's scales 6 to 16. The common 5 lies below anything that such a student has seen, and nothing complains."


@exercise(
    "latent-switch",
    "Half of the input (paper reading)",
    "predict",
    "easy",
    5,
    answers=("t",),
    hints=(
        "c_skip is σ_d² over (s·t)² plus σ_d². When is a/(b + a) one half?",
        "When a and b are equal. So what must s·t be?",
    ),
)
def _(t: object, g: Generator) -> str:
    near(
        number(t),
        0.05,
        {
            "divided": (5.0, "You divided t by the scaling. In the formula it multiplies."),
            "no scaling": (0.5, "That would be right without the timestep scaling of 10."),
            "out": (0.5 / 10 / 3**0.5, "There c_out is one half. The question is about c_skip."),
            "sigma_d one": (0.1, "That would be right with σ_d = 1. Here it's ½."),
            "square": (0.025, "(s·t)² = σ_d² = ¼ gives s·t = ½, not ¼."),
        },
        tolerance=0.02,
    )  # fmt: skip
    return "There's no whole time between 0 and 1, so the formula only ever says 1 or nearly 0."


def _sample(
    factor: bool = True, multiplied: bool = False, after: bool = False, noise_too: bool = False
) -> Sample:
    """The sampler of the exercise; each argument puts one defect in."""

    def sample(student: Callable[[Tensor, float], Tensor], autoencoder: Any, noise: Tensor) -> Tensor:
        z = student(noise / autoencoder.scale if noise_too else noise, 80.0)
        if multiplied:
            z = z * autoencoder.scale
        elif factor and not after:
            z = z / autoencoder.scale
        x = autoencoder.decoder(z)
        return x / autoencoder.scale if after else x

    return sample


def _reciprocal(student: Callable[[Tensor, float], Tensor], autoencoder: Any, noise: Tensor) -> Tensor:
    """Right as well, with other rounding."""
    return autoencoder.decoder(student(noise, 80.0) * (1 / autoencoder.scale))


@exercise(
    "latent-factor",
    "Pale digits",
    "bug",
    "hard",
    20,
    answers=("test_sample",),
    hints=(
        (
            "You need a false student and a false autoencoder whose answers you know. The autoencoder needs two attributes: "
            "scale, say 0.25, and decoder, a function."
        ),
        (
            "Let the student's answer depend on its input, so that a change in the noise shows. Then think about the "
            "decoder: if it's a straight line, can you tell a factor before it from a factor after it?"
        ),
        (
            "Work out by hand what should come out for your two stand-ins, and compare with that. It's not enough that the "
            "wrong result doesn't come out."
        ),
    ),
)
def _(test_sample: object, g: Generator) -> str:
    spots(
        test_sample,
        {"a sampler that divides by the scale": _sample(), "one that multiplies with its reciprocal": _reciprocal},
        {
            "factor": (_sample(factor=False), "It doesn't see the defect of the code above: the latent goes into the decoder as it is. Use a scale other than 1."),
            "multiplied": (_sample(multiplied=True), "It passes a sampler that multiplies by the scale. Compare with the right result, not only with the wrong one."),
            "after": (_sample(after=True), "It passes a sampler that divides the picture instead of the latent. Is your decoder a straight line? Then the two are the same."),
            "noise": (_sample(noise_too=True), "It passes a sampler that rescales the noise as well. Let your student's answer depend on what it is given."),
        },
    )  # fmt: skip
    return "A published pipeline lacked this division for a while; this test would have caught it."
