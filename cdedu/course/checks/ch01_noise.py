"""The exercises of chapter 1: noise, and the best guess of what it hides."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import agree, at_edge, call, exercise, near, number, spots
from cdedu.teacher import preconditioning

UNDERFLOW = (
    "When every point is many σ away, each exp(−‖x − point‖²/2σ²) is smaller than the smallest number a float can "
    "hold. It becomes 0, and so does their sum. softmax, applied to the exponents themselves, subtracts the largest "
    "one first, so that its exp is 1."
)


@exercise(
    "noise-weights",
    "Points that count more than once",
    "code",
    "medium",
    15,
    answers=("denoise_weighted",),
    hints=(
        "Before you see x, point i has probability weights[i]. Once you've seen x, the points near it become more likely.",
        (
            "Two factors make a point likely: its weight, and the density of the noise that leads from it to x. What do you "
            "have to do to a row of such products to make it a row of probabilities?"
        ),
        (
            "At σ = 0.002 every exponential underflows to 0, so work with logarithms. What does a product of two factors "
            "become there? And which torch function turns logarithms into probabilities, row by row?"
        ),
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
            "unweighted": (mean(log_odds.softmax(1)), "It gives every point the same weight. A point that's drawn twice as often should count twice."),
            "no normalisation": (mean(weights * likelihood), "The weights in a row don't sum to 1: divide them by their sum."),
            "normalised too early": (mean(log_odds.softmax(1) * weights), "Multiply by `weights` first, and divide by the sum of the row after that."),
            "whole batch": (
                mean(weights * likelihood / (weights * likelihood).sum()),
                "It divides by the sum over the whole batch. Each row must sum to 1 on its own: `.sum(1, keepdim=True)`.",
            ),
            "sigma not squared": (
                mean((-(torch.cdist(x, points) ** 2) / (2 * sigma) + weights.log()).softmax(1)),
                "The distance is divided by 2σ, but the Gaussian has 2σ².",
            ),
            "distance not squared": (
                mean((-torch.cdist(x, points) / (2 * sigma**2) + weights.log()).softmax(1)),
                "The Gaussian has the *squared* distance in its exponent.",
            ),
            "weights in the exponent": (
                mean((log_odds + weights).softmax(1)),
                "The weights multiply the probabilities, so what you add to the exponent is their logarithm.",
            ),
            "nearest": (points[torch.cdist(x, points).argmin(1)], "It returns the nearest point. The best guess is an average of all of them."),
            "most likely": (
                points[(log_odds + weights.log()).argmax(1)],
                "It returns the most probable point. Squared error calls for the average of all points, weighted by probability.",
            ),
        },
    )  # fmt: skip
    points, weights = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]]), torch.tensor([0.2, 0.5, 0.3])
    for sigma, place in ((0.01, [0.3, 0.2]), (0.002, [-0.8, -0.6]), (80.0, [60.0, -90.0])):
        log_odds = (
            -(torch.cdist(torch.tensor([place]), points).double() ** 2) / (2 * sigma**2)
            + weights.double().log()
        )
        at_edge(
            f"At σ = {sigma:g}, for x = ({place[0]:g}, {place[1]:g}),",
            UNDERFLOW,
            log_odds.softmax(1) @ points.double(),
            denoise_weighted,
            torch.tensor([place]),
            sigma,
            points,
            weights,
            key="underflow",
        )
    return "With equal weights this is the denoiser of the chapter."


@exercise(
    "noise-double",
    "Twice as wide",
    "predict",
    "easy",
    5,
    answers=("sigma_double",),
    hints=(
        "Data and noise are independent. What adds, their standard deviations or their variances?",
        "Write the variance of x_σ in two ways: as a sum, and as the square of the width you want.",
    ),
)
def _(sigma_double: object, g: Generator) -> str:
    near(
        number(sigma_double),
        0.75**0.5,
        {
            "too narrow": (0.5, "With σ = 0.5 the variance is 0.25 + 0.25 and the width only 0.71. Twice the width is four times the variance."),
            "data forgotten": (1.0, "σ = 1 alone already has width 1, and the data add their own."),
            "variance": (0.75, "0.75 is σ². The noise level is its square root."),
            "ratio": (2.0, "σ is a noise level in the units of the data, not a ratio: what is 0.5² + 2²?"),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "σ² = 1 − 0.25, so the noise is larger than the data by a factor of √3."


@exercise(
    "noise-floor",
    "A loss that won't fall",
    "predict",
    "easy",
    10,
    answers=("settled_loss",),
    hints=(
        "The best denoiser's loss is what can't be known: the variance of x₀ once you've seen x.",
        (
            "For a single Gaussian, chapter 1 gives this variance where it talks about the floor. It depends only on s² and "
            "σ², and it's smaller than either."
        ),
        (
            "Try your formula on two easy cases. With σ = 0 the loss must be 0; with a huge σ it must be s². Then put in the "
            "numbers."
        ),
    ),
)
def _(settled_loss: object, g: Generator) -> str:
    near(
        number(settled_loss),
        0.09 * 0.16 / 0.25,
        {
            "zero": (0.0, "Zero would mean that x gives x₀ away. But several x₀ lead to the same x, and the best you can name is their mean."),
            "x alone": (0.16, "σ² is the loss of leaving x as it is. The best denoiser pulls x toward the mean and does better."),
            "mean alone": (0.09, "s² is the loss of answering 0 no matter what you see. The best denoiser also looks at x."),
            "variance of x": (0.25, "0.25 = s² + σ² is the variance of x. The question is how much of x₀'s variance is left once you've seen x."),
            "variance of the guess": (0.0324, "That's the variance of the best guess. The question is how much of s² remains."),
            "weight": (0.36, "s² / (s² + σ²) is the factor w of the best guess w x, not its loss."),
            "root": (0.24, "That's the square root of the loss: the size of a typical error, not its mean square."),
            "noise only": (0.36**2 * 0.16, "That's the noise left in the guess. But the guess is also pulled away from x₀, toward the mean."),
            "shrinking only": (0.64**2 * 0.09, "That's what pulling x₀ toward the mean costs. Some noise is left in the guess as well."),
            "weighted": (1.0, "The loss here has no weight λ."),
        },
        tolerance=0.015,
    )  # fmt: skip
    return (
        "Its square root is 0.24: better than 0.3 (always answering the mean) or 0.4 (answering x), and still far from "
        "zero."
    )


@exercise(
    "noise-stretched",
    "Data that are long and thin",
    "code",
    "medium",
    15,
    answers=("denoise_stretched",),
    hints=(
        "Seen along its axes, the Gaussian is d separate problems in one dimension. Chapter 1 solves each of them.",
        (
            "Go into the axes, solve the d problems there, and come back. The exercise tells you how to turn in both "
            "directions; what do you have to do before the first turn, and after the last?"
        ),
        (
            "Along one axis the best guess keeps a fraction of the distance from the mean. What is it when s is much larger "
            "than σ, and when it's much smaller? Write it so that you never divide by s."
        ),
    ),
)
def _(denoise_stretched: object, g: Generator) -> str:
    x, mean, sigma = torch.randn(6, 3, generator=g), 1 + torch.rand(3, generator=g), 0.6
    stds = torch.tensor([0.1, 0.5, 1.2]) * (0.8 + 0.4 * torch.rand(3, generator=g))
    axes = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    covariance = axes @ torch.diag(stds**2) @ axes.T
    truth = mean + torch.linalg.solve(covariance + sigma**2 * torch.eye(3), (x - mean).T).T @ covariance

    def guess(shrink: Tensor, into: Tensor, back: Tensor, centre: Tensor = mean) -> Tensor:
        return mean + shrink * ((x - centre) @ into) @ back

    shrink, one = stds**2 / (stds**2 + sigma**2), torch.eye(3)
    agree(
        call(denoise_stretched, x, sigma, mean, stds, axes),
        truth,
        {
            "wrong turn": (guess(shrink, axes.T, axes), "It turns the wrong way: `(x - mean) @ axes` goes into the axes, and `@ axes.T` comes back."),
            "not turned back": (guess(shrink, axes, one), "The result is still in coordinates along the axes: turn it back with `@ axes.T`."),
            "never turned": (guess(shrink, one, one), "`stds` belong to the axes, not to the coordinates of x: turn x − mean into the axes first."),
            "not squared": (guess(stds / (stds + sigma), axes, axes.T), "The guesses are weighed by *variances*: square both `stds` and `sigma`."),
            "share of the noise": (
                guess(1 - shrink, axes, axes.T),
                "σ² / (s² + σ²) is the weight of the mean. The factor on x − mean is s² / (s² + σ²).",
            ),
            "mean not subtracted": (guess(shrink, axes, axes.T, 0 * mean), "Shrink x − mean, not x."),
            "mean turned": ((mean + shrink * ((x - mean) @ axes)) @ axes.T, "The mean gets turned as well. Turn back first, then add it."),
            "mean not added": (truth - mean, "This is a distance from the mean: add `mean` at the end."),
            "one width": (
                guess((stds**2).mean() / ((stds**2).mean() + sigma**2), axes, axes.T),
                "It shrinks all directions by the same factor. Each has its own s.",
            ),
        },
    )  # fmt: skip
    stds = torch.tensor([1e-4, 0.5, 1.2])
    for sigma in (0.05, 80.0):
        shrink = stds.double() ** 2 / (stds.double() ** 2 + sigma**2)
        into = axes.double()
        at_edge(
            f"With a standard deviation of 0.0001 along one axis, and σ = {sigma:g},",
            "Data may be very thin: don't divide by s, and don't invert the covariance. s² / (s² + σ²) is safe for any s.",
            mean + shrink * ((x - mean).double() @ into) @ into.T,
            denoise_stretched,
            x,
            sigma,
            mean,
            stds,
            axes,
            key="thin",
        )
    return (
        "Where the data are thin, the guess drops nearly all of x; where they are long, it keeps nearly all."
    )


@exercise(
    "noise-time",
    "A network that can't tell the time",
    "bug",
    "hard",
    15,
    answers=("test_time",),
    hints=(
        "`network` is an argument of `denoise`. Hand in one of your own that only writes down what it's given.",
        (
            "Call `denoise` with a batch of several noise levels, small ones included. According to the chapter, what should "
            "the network have been told at each of them?"
        ),
        (
            "Compare all levels at once, up to rounding: that's what `torch.allclose` is for. And pick your levels so that "
            "σ, σ/80 and ¼ ln(1 + σ) would each look different from the right time."
        ),
    ),
)
def _(test_time: object, g: Generator) -> str:
    def denoiser(time: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def denoise(network: Any, x: Tensor, sigma: Tensor) -> Tensor:
            c_skip, c_out, c_in = preconditioning(sigma[:, None], 0.5)
            return c_skip * x + c_out * network(c_in * x, time(sigma))

        return denoise

    spots(
        test_time,
        {
            "c_noise = sigma.log() / 4": denoiser(lambda s: s.log() / 4),
            "c_noise = 0.5 * sigma.sqrt().log()": denoiser(lambda s: 0.5 * s.sqrt().log()),
        },
        {
            "port": (
                denoiser(lambda s: s),
                "The code as given, with σ itself as the time, passes your test.",
            ),
            "scaled": (
                denoiser(lambda s: s / 80),
                "c_noise = σ / 80 passes your test. It lies between 0 and 1, but the network still can't tell 0.002 from 0.02.",
            ),
            "shifted": (
                denoiser(lambda s: s.log1p() / 4),
                "c_noise = ¼ ln(1 + σ) passes your test. It's fine for large σ; look at levels far below 1 as well.",
            ),
            "constant": (
                denoiser(lambda s: 0 * s),
                "c_noise = 0 at all levels passes your test: the network wouldn't be told σ at all.",
            ),
        },
    )
    return "It also catches σ / 80, ¼ ln(1 + σ), and a time that never changes."
