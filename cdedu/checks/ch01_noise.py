"""The exercises of chapter 1: noise, and the best guess of what it hides."""

import torch
from torch import Generator, Tensor

from cdedu.checks.core import agree, call, exercise, near, number


@exercise(
    "noise-weights",
    "Points that count more than once",
    "code",
    "medium",
    15,
    answers=("denoise_weighted",),
    hints=(
        "Before any noise is seen, point i has probability weights[i]. After x is seen it has more if it lies near x.",
        "Multiply weights[i] by exp(−‖x − point i‖² / 2σ²), then divide by the sum over i: each row of numbers must sum to 1.",
        "In logarithms: (weights.log() − torch.cdist(x, points)**2 / (2 * sigma**2)).softmax(1) has shape (B, n). Then average the points "
        "with it: … @ points.",
    ),
)
def _(denoise_weighted: object, g: Generator) -> str:
    points, x = torch.randn(5, 2, generator=g), torch.randn(8, 2, generator=g)
    weights, sigma = 0.1 + torch.rand(5, generator=g), 0.7
    weights = weights / weights.sum()
    log_odds = -(torch.cdist(x, points) ** 2) / (2 * sigma**2)
    likelihood = log_odds.exp()

    def mean(p: Tensor) -> Tensor:
        return p @ points

    agree(
        call(denoise_weighted, x, sigma, points, weights),
        mean((log_odds + weights.log()).softmax(1)),
        {
            "unweighted": (mean(log_odds.softmax(1)), "It gives all points the same weight. A point that occurs twice counts twice."),
            "no normalisation": (mean(weights * likelihood), "The weights of a row do not sum to 1: divide by their sum."),
            "sigma not squared": (
                mean((-(torch.cdist(x, points) ** 2) / (2 * sigma) + weights.log()).softmax(1)),
                "The distance is divided by 2σ where the Gaussian has 2σ².",
            ),
            "distance not squared": (
                mean((-torch.cdist(x, points) / (2 * sigma**2) + weights.log()).softmax(1)),
                "The Gaussian has the *squared* distance in its exponent.",
            ),
            "weights in the exponent": (
                mean((log_odds + weights).softmax(1)),
                "The weights multiply the probabilities, so their logarithm is what adds to the exponent.",
            ),
            "nearest": (points[torch.cdist(x, points).argmin(1)], "It returns the nearest point. The best guess is an average of all."),
            "most likely": (
                points[(log_odds + weights.log()).argmax(1)],
                "It returns the most probable point. Squared error wants the average of all, weighted by probability.",
            ),
        },
    )  # fmt: skip
    return "With equal weights it is the denoiser of the chapter."


@exercise(
    "noise-double",
    "Twice as wide",
    "predict",
    "easy",
    5,
    answers=("sigma_double",),
    hints=(
        "Data and noise are independent. What adds, their standard deviations or their variances?",
        "0.5² + σ² = (2 · 0.5)².",
    ),
)
def _(sigma_double: object, g: Generator) -> str:
    near(
        number(sigma_double),
        0.75**0.5,
        {
            "added": (0.5, "You added standard deviations. With independent noise, variances add: 0.5² + 0.5² gives 0.71, not 1."),
            "data forgotten": (1.0, "σ = 1 alone has width 1 already; the data add their own."),
            "variance": (0.75, "0.75 is σ². The noise level is its root."),
            "doubled variance": (0.3535, "The *variance* may not be doubled, the standard deviation is: the variance grows fourfold."),
            "ratio": (2.0, "σ is a noise level in the units of the data, no ratio: what is 0.5² + 2²?"),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "σ² = 1 − 0.25, so the noise is larger than the data by a factor of √3."
