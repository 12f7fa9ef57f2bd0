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
        "First write down all times that the student was distilled at, for train = 1000 and original = 50: 19, 39, 59, …, 999.",
        "In that list the i-th, counted from 1, is i·(train // original) − 1. Turn the list round, so that it begins with 999.",
        "Take entry number floor(j·original/steps) of the turned list for j = 0, …, steps − 1: never the last entry, and with one step the first.",
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
            "first of each": (truth - 19, "Of each twenty times the student knows the last one, 19, and not the first, 0."),
            "rising": (truth.flip(0), "Sampling begins with noise: the largest time comes first."),
            "to the end": (known[(j * (original - 1)).div(steps - 1).floor().long()], "You go down to the smallest time. LCM stops before: cut the list into equal parts and take the beginning of each."),
            "stride": (known[j * (original // steps)], "You step by a whole number of places, original // steps, and the rest adds up. Part j begins at entry j·original/steps, rounded down at the end."),
            "rounded": (known[(j * original / steps).round().long()], "A part begins at the place rounded down, not to the nearest."),
            "whole clock": ((train - j * train / steps).floor() - 1, "You divide the thousand times. The student knows fifty of them only: divide the list of those."),
        },
        tolerance=1e-6,
    )  # fmt: skip
    for n in range(1, original + 1):
        at_edge(
            f"With steps = {n}",
            "Is there a fraction in it, such as j / steps, or linspace? Its rounding shows. j * original // steps stays among whole numbers."
            if n > 1
            else "With one step only the noisiest time is asked for.",
            known[torch.arange(n) * original // n],
            lcm_times,
            n,
            original,
            train,
            key="rounded early",
            tolerance=0,
        )
    return "One of these times that is not among the fifty would be one that the student has never seen."


@exercise(
    "latent-weight",
    "Which scales has it seen? (code reading)",
    "predict",
    "medium",
    10,
    answers=("lowest",),
    hints=(
        "Do not believe the help, read the formula. Is w = 0 the text alone in it, or w = 1?",
        "cond + w·(cond − uncond) is LCM's formula, so the w of the script is ω. The least ω in training is 5.",
        "The pipeline embeds guidance_scale − 1. For which guidance_scale is that 5?",
    ),
)
def _(lowest: object, g: Generator) -> str:
    near(
        number(lowest),
        6,
        {
            "help": (5, "So the help says. But the formula is LCM's: at w = 0 it gives the text alone. The script's w is ω."),
            "other way": (4, "You subtract the one where it must be added: the pipeline embeds guidance_scale − 1, and that should be 5."),
            "twice": (7, "The two conventions are one apart, not two."),
            "highest": (16, "That is the highest. Asked is the lowest."),
            "zero": (1, "At 1 the pipeline embeds ω = 0, and the student has seen no ω below 5."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "So scales 6 to 16. The common 5 lies below what such a student has seen, and nothing complains."


@exercise(
    "latent-switch",
    "Half of the input (paper reading)",
    "predict",
    "easy",
    5,
    answers=("t",),
    hints=(
        "c_skip is σ_d² over (s·t)² plus σ_d². When is a/(b + a) one half?",
        "When b = a: s·t = σ_d.",
    ),
)
def _(t: object, g: Generator) -> str:
    near(
        number(t),
        0.05,
        {
            "divided": (5.0, "You divide t by the scaling. In the formula it multiplies."),
            "no scaling": (0.5, "So it would be without the timestep scaling of 10."),
            "out": (0.5 / 10 / 3**0.5, "There c_out is one half. Asked is c_skip."),
            "sigma_d one": (0.1, "With σ_d = 1 it would be. It is ½ here."),
            "square": (0.025, "(s·t)² = σ_d² = ¼ gives s·t = ½, not ¼."),
        },
        tolerance=0.02,
    )  # fmt: skip
    return "Between 0 and 1 there is no whole time, so the formula only ever says 1 or nearly 0."


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
        "You need a false student and a false autoencoder whose answers you know. The autoencoder needs two attributes: scale, say 0.25, and decoder, a function.",
        "Let the student return a multiple of what it is given, so that a change of the noise shows. Let the decoder be no straight line, "
        "x³ for example: through a straight line a factor can be taken before or after, and nobody sees the difference.",
        "from types import SimpleNamespace; ae = SimpleNamespace(scale=0.25, decoder=lambda z: z**3); then compare "
        "sample(lambda x, sigma: 2 * x, ae, noise) with (2 * noise / 0.25)**3 by torch.allclose.",
    ),
)
def _(test_sample: object, g: Generator) -> str:
    spots(
        test_sample,
        {"a sampler that divides by the scale": _sample(), "one that multiplies with its reciprocal": _reciprocal},
        {
            "factor": (_sample(factor=False), "It does not see the defect of the code above: the latent goes into the decoder as it is. Use a scale other than 1."),
            "multiplied": (_sample(multiplied=True), "It passes a sampler that multiplies by the scale. Compare with the right result, not only with the wrong one."),
            "after": (_sample(after=True), "It passes a sampler that divides the picture and not the latent. Is your decoder a straight line? Then both are the same."),
            "noise": (_sample(noise_too=True), "It passes a sampler that rescales the noise as well. Let your student's answer depend on what it is given."),
        },
    )  # fmt: skip
    return "A published pipeline lacked this division for a while; this test would have found it."
