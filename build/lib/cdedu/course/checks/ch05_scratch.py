"""The exercises of chapter 5: from scratch or from a teacher."""

import math

import torch
from torch import Generator, Tensor

from cdedu.course.checks.ch01_noise import UNDERFLOW
from cdedu.course.checks.core import (
    NotAttempted,
    Wrong,
    agree,
    at_edge,
    call,
    exercise,
    near,
    number,
    spots,
    tensor,
)
from cdedu.losses import pseudo_huber
from cdedu.mixture import GaussianMixture
from cdedu.noise import curriculum, target_rate


@exercise(
    "scratch-bill",
    "One teacher, several students",
    "predict",
    "easy",
    10,
    answers=("one_image", "students"),
    hints=(
        "The student learns: 1 + 2. The target and the teacher only go forward. How often is the teacher called in one step of Heun, and in two?",
        "In millions: the teacher costs 3 · 8, a student by CD 6 · 1, a student by CT 4 · 4. Compare 24 + 6 n with 16 n.",
    ),
)
def _(one_image: object, students: object, g: Generator) -> str:
    near(
        number(one_image),
        8,
        {
            "one step": (6, "one_image: 6 is the cost with one step of Heun, each of which calls the teacher twice. Here it takes two steps."),
            "target forgotten": (7, "one_image: the target answers too, once, for every image."),
            "all learn": (18, "one_image: only the student learns. The target and the teacher have no backward pass."),
            "everything doubled": (12, "one_image: only the teacher has more to do. Student and target answer once, as before."),
            "target learns": (10, "one_image: no gradient flows into the target, so it has no backward pass. It costs 1."),
            "teacher learns": (16, "one_image: the teacher is not trained any more. Its calls are forward passes, 1 each."),
        },
        tolerance=0.01,
    )  # fmt: skip
    near(
        number(students),
        3,
        {
            "two": (2, "students: with two, CD has spent 24 + 12 = 36 million, CT 32 million."),
            "not whole": (2.4, "students: there is no 0.4 of a student. With which whole number is it paid for the first time?"),
            "teacher for free": (1, "students: with one, the teacher's own training alone, 24 million, costs more than CT's 16."),
            "CT for free": (4, "students: with four it is paid, but already with fewer. Each student by CT costs 16 million evaluations."),
            "images counted": (8 / 3, "students: those are images. An image costs 3, 4 or 6 evaluations, depending on who learns from it."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "Who shares a teacher shares its bill."


def _mean_neighbour(x: Tensor, data: Tensor, sigma: float, sigma_next: float) -> Tensor:
    guess = GaussianMixture(data, 0.0)(x, sigma)
    return x + (sigma_next - sigma) / sigma * (x - guess)


@exercise(
    "scratch-average",
    "The mean of all neighbours",
    "code",
    "medium",
    15,
    answers=("mean_neighbour",),
    hints=(
        "Not every data point is equally likely to be behind x. Chapter 1 has the probabilities: a point counts by exp(−‖x − point‖² / 2σ²).",
        "The neighbour is linear in x₀. So take the mean of the data points first, each with its probability, and put it where x₀ was.",
        "w = (-torch.cdist(x, data) ** 2 / (2 * sigma**2)).softmax(1) has shape (B, M), w @ data is the mean of x₀ for each x, and z is (x − mean)/σ.",
    ),
)
def _(mean_neighbour: object, g: Generator) -> str:
    sigma = 0.6 + 0.6 * float(torch.rand((), generator=g))
    sigma_next, data = 0.6 * sigma, torch.randn(7, 2, generator=g)
    x = data[:5] + sigma * torch.randn(5, 2, generator=g)
    share, square = sigma_next / sigma, torch.cdist(x, data) ** 2

    def to(guess: Tensor) -> Tensor:
        return guess + share * (x - guess)

    def by(exponent: Tensor) -> Tensor:
        return to(exponent.softmax(1) @ data)

    truth = _mean_neighbour(x, data, sigma, sigma_next)
    guess = GaussianMixture(data, 0.0)(x, sigma)
    agree(
        call(mean_neighbour, x, data, sigma, sigma_next),
        truth,
        {
            "all alike": (
                to(data.mean(0).expand(5, 2)),
                "All data points count alike here. A point near x is more likely to be behind it than one far away.",
            ),
            "nearest": (
                to(data[square.argmin(1)]),
                "Only the nearest data point counts here. The others may be behind x as well.",
            ),
            "no half": (by(-square / sigma**2), "The exponent lacks its ½: it is −‖x − x₀‖² / 2σ²."),
            "not squared": (by(-square.sqrt() / (2 * sigma**2)), "In the exponent the distance is squared."),
            "σ not squared": (by(-square / (2 * sigma)), "In the exponent σ is squared: −‖x − x₀‖² / 2σ²."),
            "lower level": (
                by(-square / (2 * sigma_next**2)),
                "The probabilities are those of the lower level. But x has the noise of level σ.",
            ),
            "the guess": (
                guess,
                "That is the mean of the data points behind x, not of their neighbours. Each neighbour still has noise: x₀ + σ′ z.",
            ),
            "other axis": (
                to((-square / (2 * sigma**2)).softmax(0) @ data),
                "For each x the probabilities should add up to 1 over the data points. Here they do so over the points x.",
            ),
            "not probabilities": (
                to((-square / (2 * sigma**2)).exp() @ data),
                "The weights are not probabilities yet: for each x, divide them by their sum.",
            ),
            "σ lost": (
                guess + sigma_next * (x - guess),
                "x − x₀ is σ z, not z: divide it by σ.",
            ),
            "slope not divided": (
                x + (sigma_next - sigma) * (x - guess),
                "The step is (σ′ − σ) times z, and z is (x − x₀)/σ: the division by σ is missing.",
            ),
            "wrong side": (2 * x - truth, "It goes away from the data: the step is (σ′ − σ), which is negative."),
            "other share": (
                guess + (1 - share) * (x - guess),
                "What remains of x − x₀ at the lower level is the share σ′/σ; you leave 1 − σ′/σ.",
            ),
        },
    )  # fmt: skip
    data = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
    for sigma, place in ((0.01, [0.3, 0.2]), (0.002, [-0.8, -0.6]), (80.0, [60.0, -90.0])):
        at = torch.tensor([place])
        guess = (-(torch.cdist(at, data).double() ** 2) / (2 * sigma**2)).softmax(1) @ data.double()
        at_edge(
            f"From σ = {sigma:g} to {sigma / 2:g}, for x = ({place[0]:g}, {place[1]:g}),",
            UNDERFLOW,
            guess + 0.5 * (at.double() - guess),
            mean_neighbour,
            at,
            data,
            sigma,
            sigma / 2,
            key="underflow",
        )
    return "The data are a teacher, and their mean is its step."


@exercise(
    "scratch-coin",
    "Squares or absolute values?",
    "predict",
    "medium",
    10,
    answers=("by_squares", "by_absolute"),
    hints=(
        "At ε the target answers with the data point itself. So the student is told +1 or −1, at random, and never hears which would be right.",
        "How likely is it that +1 is behind x = 0.5? exp(−(x − 1)²/2) against exp(−(x + 1)²/2): the ratio is e to the power 2x = 1, so 0.73 against 0.27.",
        "Squared differences are least at the mean, 0.73 · 1 + 0.27 · (−1). Absolute differences are least at the median.",
    ),
)
def _(by_squares: object, by_absolute: object, g: Generator) -> str:
    mean, likely = math.tanh(0.5), 1 / (1 + math.exp(-1.0))
    near(
        number(by_squares),
        mean,
        {
            "right answer": (1.0, "by_squares: +1 would be right. But at x = 0.5 the student is also told −1, and squared error makes it answer in between."),
            "mean of the data": (0.0, "by_squares: 0 is the mean of all the data. At x = 0.5 more of them are +1 than −1."),
            "probability": (likely, "by_squares: that is the probability of +1. The mean of +1 and −1 with these probabilities is asked."),
            "no half": (math.tanh(1.0), "by_squares: the exponent of a Gaussian has a ½: exp(−(x − x₀)²/2)."),
            "half too many": (math.tanh(0.25), "by_squares: the probabilities are too near to one half. (x + 1)² − (x − 1)² is 4x, and half of it 2x = 1."),
            "point itself": (0.5, "by_squares: 0.5 is the noisy point. The student is told data points, +1 or −1."),
            "sign": (-mean, "by_squares: the point lies nearer to +1, so +1 is the more likely one."),
        },
        tolerance=0.03,
    )  # fmt: skip
    near(
        number(by_absolute),
        1.0,
        {
            "mean again": (mean, "by_absolute: that is the mean again. Move the answer up by a little: 73 % of the differences shrink, 27 % grow."),
            "middle": (0.0, "by_absolute: 0 lies between the two, but the median of the answers that the student is told at x = 0.5 is one of them."),
            "point again": (0.5, "by_absolute: 0.5 is the noisy point. The student is told data points, +1 or −1."),
            "probability again": (likely, "by_absolute: that is the probability of +1. The median of +1 (73 %) and −1 (27 %) is asked."),
            "rarer one": (-1.0, "by_absolute: −1 is told in 27 % of the cases only. The median is the other one."),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "The same data, the same grid; the distance decides what is learned."


@exercise(
    "scratch-rate",
    "A target that is too fast",
    "bug",
    "easy",
    10,
    answers=("schedules",),
    hints=(
        "Compare with the chapter's two formulas, piece by piece. What is `n` here, and which number does μ divide by?",
        "`n` is one less than N(k): the + 1 comes only in the last line. μ needs N(k).",
    ),
)
def _(schedules: object, g: Generator) -> str:
    # fmt: off
    def numbers(value: object) -> Tensor:
        if not (isinstance(value, tuple | list | Tensor) and len(value) == 2):
            raise Wrong("type", "It should return two numbers: the points of the grid and the rate of the target.")
        return torch.tensor([number(v) for v in value], dtype=torch.float64)

    s0, mu0 = int(torch.randint(3, 7, (), generator=g)), 0.8 + 0.15 * float(torch.rand((), generator=g))
    s1, steps = int(torch.randint(20, 90, (), generator=g)), 400
    ks = [0, *torch.randint(1, steps, (4,), generator=g).tolist(), steps]
    got = torch.stack([numbers(call(schedules, k, steps, s0, s1, mu0)) for k in ks])
    points = torch.tensor([curriculum(k, steps, s0, s1) for k in ks], dtype=torch.float64)

    def rates(n: Tensor) -> Tensor:
        return torch.exp(s0 * math.log(mu0) / n)

    # fmt: on
    n, mu = tensor(got[:, 0], (6,)), tensor(got[:, 1], (6,))
    if torch.equal(n, points) and torch.allclose(mu, rates(points - 1), atol=1e-7):
        raise NotAttempted("This is still the code as it was given: at k = 0 its μ is not μ₀.")
    agree(
        n,
        points,
        {
            "points lost": (points - 1, "μ may be right, but now the grid has a point too few: at k = 0 it should have s₀ points."),
            "rounded": (
                torch.tensor([round(math.sqrt(k / steps * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1 for k in ks]),
                "The number of points is rounded to the nearest whole number. The brackets of the formula round up.",
            ),
            "whole numbers": (
                torch.tensor([int(math.sqrt(k / steps * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 2 for k in ks]),
                "Where the root is a whole number, as at k = 0 and k = K, int(…) + 1 is one more than the brackets of the formula, which round "
                "up: math.ceil leaves a whole number as it is.",
            ),
            "points twice": (points + 1, "Now 1 is added twice: at k = 0 the grid should have s₀ points, and at the end s₁ + 1."),
        },
        tolerance=1e-6,
        what="The number of points",
    )  # fmt: skip
    truth = torch.tensor([target_rate(m, s0, mu0) for m in points.int().tolist()], dtype=torch.float64)
    agree(
        mu,
        truth,
        {
            "start only": (torch.exp((s0 - 1) * math.log(mu0) / (points - 1)), "It is right at k = 0 and nowhere else. Mend what μ divides by, not what stands above it."),
            "s₀ lost": (torch.exp(math.log(mu0) / points), "The s₀ of the formula is missing: at k = 0, where N = s₀, μ should be μ₀."),
            "clamped": (rates(points - 1).clamp(min=mu0), "At k = 0 μ is held at μ₀, but afterwards it is still the code's. Mend what μ divides by."),
            "one more": (rates(points + 1), "Now it divides by N + 1. At k = 0 it should divide by s₀, so that μ is μ₀."),
            "constant": (torch.full((6,), mu0), "μ is now μ₀ at every step. It should rise with the number of points."),
        },
        tolerance=1e-6,
        what="The rate of the target",
    )  # fmt: skip
    return "At k = 0 the grid has s₀ points, and so the rate is μ₀: that is why s₀ stands in the formula."


def _by_element(a: Tensor, b: Tensor) -> Tensor:
    """The square root taken element by element, with the c of a whole image."""
    c = 0.00054 * a[0].numel() ** 0.5
    return ((a - b) ** 2 + c**2).sqrt() - c


@exercise(
    "scratch-huber",
    "A distance of whole images",
    "bug",
    "hard",
    20,
    answers=("check_distance",),
    hints=(
        "A distance of whole images depends on ‖a − b‖ alone. Where in the image the difference sits, and among how many pixels it is shared, is all one.",
        "Make two differences of the same length: one pixel that is off by 1, and all n pixels off by 1/√n. Their distances must be equal. Then: "
        "d(a, a) = 0, and an image has the same distance alone as in a batch.",
        "one = torch.zeros(1, 3, 8, 8); one[0, 0, 0, 0] = 1; all_ = torch.full((1, 3, 8, 8), 192**-0.5). Compare distance(one, zero) with "
        "distance(all_, zero) by torch.allclose.",
    ),
)
def _(check_distance: object, g: Generator) -> str:
    def with_offset(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().flatten(1).sum(1) + 0.03**2).sqrt()

    def of_the_batch(a: Tensor, b: Tensor) -> Tensor:
        return (((a - b).square().sum() + 0.03**2).sqrt() - 0.03).expand(len(a))

    def of_pixels(a: Tensor, b: Tensor) -> Tensor:
        return (((a - b).square().sum(1) + 0.03**2).sqrt() - 0.03).flatten(1).mean(1)

    spots(
        check_distance,
        {
            "the pseudo-Huber distance of whole images": pseudo_huber,
            "the same with a large c": lambda a, b: pseudo_huber(a, b, c=0.5),
            "the same, computed from torch.linalg.vector_norm": lambda a, b: torch.hypot(
                torch.linalg.vector_norm((a - b).flatten(1), dim=1), torch.tensor(0.05)
            ) - 0.05,
        },
        {
            "by element": (
                lambda a, b: _by_element(a, b).flatten(1).mean(1),
                "It passes the code above, which takes the root of every element. Try two differences of the same length, one in a single element, "
                "one spread over all.",
            ),
            "summed": (
                lambda a, b: _by_element(a, b).flatten(1).sum(1),
                "It passes a distance that sums over elements instead of taking their mean. Its root is still inside the sum.",
            ),
            "by pixel": (
                of_pixels,
                "It passes a distance whose norm runs over the three colours of a pixel only. Spread your difference over all of the image.",
            ),
            "by batch": (
                of_the_batch,
                "It passes a distance that mixes the images of a batch. Give it a batch of different pairs, and compare with each pair alone.",
            ),
            "offset": (
                with_offset,
                "It passes a distance that is not zero for equal images: its author forgot to subtract c.",
            ),
        },
    )  # fmt: skip
    return "A property that any right code has tells more than a number that one code gave."
