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
        (
            "The student learns: 1 + 2. The target and the teacher only go forward. How often does one Heun step call the "
            "teacher, and how often do two?"
        ),
        (
            "Write both bills in millions, for n students: something that's paid once, plus n times the cost of a student. "
            "From which n on is one bill smaller than the other?"
        ),
    ),
)
def _(one_image: object, students: object, g: Generator) -> str:
    near(
        number(one_image),
        8,
        {
            "one step": (6, "one_image: 6 is the cost with one Heun step, which calls the teacher twice. Here it takes two steps."),
            "target forgotten": (7, "one_image: the target answers too, once, for every image."),
            "all learn": (18, "one_image: only the student learns. The target and the teacher have no backward pass."),
            "everything doubled": (12, "one_image: only the teacher has more to do. Student and target answer once, as before."),
            "target learns": (10, "one_image: no gradient flows into the target, so it has no backward pass. It costs 1."),
            "teacher learns": (16, "one_image: the teacher isn't being trained anymore. Its calls are forward passes, 1 each."),
        },
        tolerance=0.01,
        what="one_image",
    )  # fmt: skip
    near(
        number(students),
        3,
        {
            "two": (2, "students: with two, CD has spent 24 + 12 = 36 million, CT 32 million."),
            "not whole": (2.4, "students: there's no such thing as 0.4 of a student. At which whole number is the teacher paid off for the first time?"),
            "teacher for free": (1, "students: with one, the teacher's own training alone, 24 million, costs more than CT's 16."),
            "CT for free": (4, "students: with four it's paid off, but it already was with fewer. Each student by CT costs 16 million evaluations."),
            "images counted": (8 / 3, "students: those are images. An image costs 3, 4 or 6 evaluations, depending on who learns from it."),
        },
        tolerance=0.01,
        what="students",
    )  # fmt: skip
    return "Students who share a teacher share its bill."


def _mean_neighbor(x: Tensor, data: Tensor, sigma: float, sigma_next: float) -> Tensor:
    guess = GaussianMixture(data, 0.0)(x, sigma)
    return x + (sigma_next - sigma) / sigma * (x - guess)


@exercise(
    "scratch-average",
    "The mean of all neighbors",
    "code",
    "medium",
    15,
    answers=("mean_neighbor",),
    hints=(
        "Not every data point is equally likely to be behind x. Chapter 1 gives the probabilities.",
        (
            "The neighbor is linear in x₀. So average the data points first, each with its probability, and put that mean "
            "where x₀ was."
        ),
        (
            "At σ = 0.001 plain exponentials all become 0. Which torch function makes probabilities straight from exponents? "
            "And over which dimension, if there's one row for each x?"
        ),
    ),
)
def _(mean_neighbor: object, g: Generator) -> str:
    sigma = 0.6 + 0.6 * float(torch.rand((), generator=g))
    sigma_next, data = 0.6 * sigma, torch.randn(7, 2, generator=g)
    x = data[:5] + sigma * torch.randn(5, 2, generator=g)
    share, square = sigma_next / sigma, torch.cdist(x, data) ** 2

    def to(guess: Tensor) -> Tensor:
        return guess + share * (x - guess)

    def by(exponent: Tensor) -> Tensor:
        return to(exponent.softmax(1) @ data)

    truth = _mean_neighbor(x, data, sigma, sigma_next)
    guess = GaussianMixture(data, 0.0)(x, sigma)
    agree(
        call(mean_neighbor, x, data, sigma, sigma_next),
        truth,
        {
            "all alike": (
                to(data.mean(0).expand(5, 2)),
                "All data points count the same here. A point near x is more likely to be behind it than one far away.",
            ),
            "nearest": (
                to(data[square.argmin(1)]),
                "Only the nearest data point counts here. The others could be behind x as well.",
            ),
            "no half": (by(-square / sigma**2), "The exponent is missing its ½: it's −‖x − x₀‖² / 2σ²."),
            "not squared": (by(-square.sqrt() / (2 * sigma**2)), "In the exponent the distance is squared."),
            "σ not squared": (by(-square / (2 * sigma)), "In the exponent σ is squared: −‖x − x₀‖² / 2σ²."),
            "lower level": (
                by(-square / (2 * sigma_next**2)),
                "The probabilities use the lower level. But x has the noise of level σ.",
            ),
            "the guess": (
                guess,
                ("That's the mean of the data points behind x, not of their neighbors. Each neighbor still carries noise: x₀ + σ′ z."),
            ),
            "other axis": (
                to((-square / (2 * sigma**2)).softmax(0) @ data),
                "For each x, the probabilities should add up to 1 over the data points. Yours add up over the points x.",
            ),
            "not probabilities": (
                to((-square / (2 * sigma**2)).exp() @ data),
                "The weights aren't probabilities yet: for each x, divide them by their sum.",
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
                "The fraction of x − x₀ that remains at the lower level is σ′/σ; you leave 1 − σ′/σ.",
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
            mean_neighbor,
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
        (
            "At ε the target answers with the data point itself. So the student is told +1 or −1, at random, and never hears "
            "which would be right."
        ),
        (
            "How likely is it that +1 is behind x = 0.5? Compare the two Gaussian densities, exp(−(x − 1)²/2) and exp(−(x + "
            "1)²/2)."
        ),
        (
            "Which single number has the smallest mean squared difference from a set of answers? And which has the smallest "
            "mean absolute difference? Both have names."
        ),
    ),
)
def _(by_squares: object, by_absolute: object, g: Generator) -> str:
    mean, likely = math.tanh(0.5), 1 / (1 + math.exp(-1.0))
    near(
        number(by_squares),
        mean,
        {
            "right answer": (1.0, "by_squares: +1 would be right. But at x = 0.5 the student is sometimes told −1, and squared error makes it answer in between."),
            "mean of the data": (0.0, "by_squares: 0 is the mean of all the data. At x = 0.5 more of them are +1 than −1."),
            "probability": (likely, "by_squares: that's the probability of +1. The question asks for the mean of +1 and −1 with these probabilities."),
            "no half": (math.tanh(1.0), "by_squares: the exponent of a Gaussian has a ½: exp(−(x − x₀)²/2)."),
            "half too many": (math.tanh(0.25), "by_squares: the probabilities are too close to one half. (x + 1)² − (x − 1)² is 4x, and half of that is 2x = 1."),
            "point itself": (0.5, "by_squares: 0.5 is the noisy point. The student is told data points, +1 or −1."),
            "sign": (-mean, "by_squares: the point is closer to +1, so +1 is the more likely one."),
        },
        tolerance=0.03,
        what="by_squares",
    )  # fmt: skip
    near(
        number(by_absolute),
        1.0,
        {
            "mean again": (mean, "by_absolute: that's the mean again. Move the answer up a little: 73 % of the differences shrink, 27 % grow."),
            "middle": (0.0, "by_absolute: 0 lies between the two, but the median of what the student is told at x = 0.5 is one of them."),
            "point again": (0.5, "by_absolute: 0.5 is the noisy point. The student is told data points, +1 or −1."),
            "probability again": (likely, "by_absolute: that's the probability of +1. The question asks for the median of +1 (73 %) and −1 (27 %)."),
            "rarer one": (-1.0, "by_absolute: the student hears −1 only 27 % of the time. The median is the other one."),
        },
        tolerance=0.03,
        what="by_absolute",
    )  # fmt: skip
    return "Same data, same grid: the distance decides what is learned."


@exercise(
    "scratch-rate",
    "A target that's too fast",
    "bug",
    "easy",
    10,
    answers=("schedules",),
    hints=(
        "Compare it with the chapter's two formulas, piece by piece. What is `n` here, and what does μ divide by?",
        (
            "Put k = 0 into both, by hand. How many points should the grid have? And what is `n` at the moment when the code "
            "computes μ?"
        ),
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
        raise NotAttempted("This is still the code you were given: at k = 0 its μ is not μ₀.")
    agree(
        n,
        points,
        {
            "points lost": (points - 1, "μ may be right, but now the grid has one point too few: at k = 0 it should have s₀ points."),
            "rounded": (
                torch.tensor([round(math.sqrt(k / steps * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1 for k in ks]),
                "The number of points is rounded to the nearest whole number. The brackets in the formula round up.",
            ),
            "whole numbers": (
                torch.tensor([int(math.sqrt(k / steps * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 2 for k in ks]),
                ("Where the square root is a whole number, as at k = 0 and k = K, int(…) + 1 is one more than the formula gives. Its brackets round up, and math.ceil leaves a whole number as it is."),
            ),
            "points twice": (points + 1, "Now the 1 is added twice: at k = 0 the grid should have s₀ points, and at the end s₁ + 1."),
        },
        tolerance=1e-6,
        what="The number of points",
    )  # fmt: skip
    truth = torch.tensor([target_rate(m, s0, mu0) for m in points.int().tolist()], dtype=torch.float64)
    agree(
        mu,
        truth,
        {
            "start only": (torch.exp((s0 - 1) * math.log(mu0) / (points - 1)), "It's right at k = 0 and nowhere else. Fix what μ divides by, not what's above the line."),
            "s₀ lost": (torch.exp(math.log(mu0) / points), "The s₀ of the formula is missing: at k = 0, where N = s₀, μ should be μ₀."),
            "clamped": (rates(points - 1).clamp(min=mu0), "At k = 0 μ is held at μ₀, but after that it's still the code's. Fix what μ divides by."),
            "one more": (rates(points + 1), "Now it divides by N + 1. At k = 0 it should divide by s₀, so that μ is μ₀."),
            "constant": (torch.full((6,), mu0), "μ is now μ₀ at every step. It should rise with the number of points."),
        },
        tolerance=1e-6,
        what="The rate of the target",
    )  # fmt: skip
    return "At k = 0 the grid has s₀ points, so the rate is μ₀: that's why s₀ is in the formula."


def _by_element(a: Tensor, b: Tensor) -> Tensor:
    """The square root taken element by element, with the c of a whole image."""
    c = 0.00054 * a[0].numel() ** 0.5
    return ((a - b) ** 2 + c**2).sqrt() - c


@exercise(
    "scratch-huber",
    "A distance between whole images",
    "bug",
    "hard",
    20,
    answers=("check_distance",),
    hints=(
        (
            "A distance between whole images depends only on ‖a − b‖. Where in the image the difference sits, and how many "
            "pixels share it, makes no difference."
        ),
        (
            "Build two differences of equal length that look as unlike as possible: one concentrated, one spread out. What "
            "must hold for their distances? Then think of equal images, and of an image alone and in a batch."
        ),
        (
            "If one pixel is off by 1, by how much must all n pixels be off to make the length the same? For the batch, put "
            "two different pairs together and compare each with the distance it has alone."
        ),
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
                ("It passes the code above, which takes the root of every element. Try two differences of equal length: one in a single element, one spread over all of them."),
            ),
            "summed": (
                lambda a, b: _by_element(a, b).flatten(1).sum(1),
                "It passes a distance that sums over elements instead of averaging them. Its root is still inside the sum.",
            ),
            "by pixel": (
                of_pixels,
                ("It passes a distance whose norm only runs over the three colors of a pixel. Spread your difference over the whole image."),
            ),
            "by batch": (
                of_the_batch,
                ("It passes a distance that mixes the images of a batch. Give it a batch of different pairs, and compare each with the same pair alone."),
            ),
            "offset": (
                with_offset,
                "It passes a distance that isn't zero for equal images: its author forgot to subtract c.",
            ),
        },
    )  # fmt: skip
    return "A property that all correct code shares tells you more than a number that one program gave."
