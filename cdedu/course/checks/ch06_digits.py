"""The exercises of chapter 6: digits, and rulers for them."""

import torch
from torch import Generator, Tensor

import cdedu
from cdedu import evaluation
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


@exercise(
    "digits-diagonal",
    "A Fréchet distance without a matrix root",
    "code",
    "medium",
    10,
    answers=("frechet_diagonal",),
    hints=(
        (
            "With diagonal matrices the trace is a sum over the features, so treat one feature at a time: two means and two "
            "variances."
        ),
        "The product of two diagonal matrices is diagonal, and so is its root. What are the entries?",
        (
            "Try your formula on two cases: two equal Gaussians must be at distance 0, and a feature that never varies must "
            "cause no trouble."
        ),
    ),
)
def _(frechet_diagonal: object, g: Generator) -> str:
    mu_x, mu_y = torch.randn(2, 6, generator=g)
    var_x, var_y = 0.3 + 2 * torch.rand(2, 6, generator=g)
    var_y = 3 * var_y  # far enough from var_x to tell every mistake from the next
    shift = (mu_x - mu_y).square()
    widths = (var_x.sqrt() - var_y.sqrt()).square()
    agree(
        call(frechet_diagonal, mu_x, var_x, mu_y, var_y),
        (shift + widths).sum(),
        {
            "variances compared": (
                (shift + (var_x - var_y).square()).sum(),
                ("It squares the difference of the variances. var_x + var_y − 2√(var_x · var_y) is the square of a different difference."),
            ),
            "no root": (
                (shift + var_x + var_y - 2 * var_x * var_y).sum(),
                "The last term is the root of the product of the covariances, not the product.",
            ),
            "root of the traces": (
                shift.sum() + var_x.sum() + var_y.sum() - 2 * (var_x.sum() * var_y.sum()).sqrt(),
                ("The last term sums over the features and then takes the root. In the trace the root comes first: take it for each feature."),
            ),
            "factor 2": (
                (shift + var_x + var_y - (var_x * var_y).sqrt()).sum(),
                "The factor 2 of the last term is missing: two equal Gaussians would not be at distance 0.",
            ),
            "no last term": (
                (shift + var_x + var_y).sum(),
                "The term −2(Σx Σy)^½ is missing: two equal Gaussians would be far apart.",
            ),
            "means only": (shift.sum(), "It compares only the means. Samples that vary too little must be far away too."),
            "widths only": (widths.sum(), "It compares only the widths. The first term of the distance, the one with the means, is missing."),
            "shift not squared": (
                shift.sum().sqrt() + widths.sum(),
                "The first term is the squared length of the shift; this takes the length.",
            ),
            "root at the end": (
                (shift + widths).sum().sqrt(),
                "It takes the root of the whole thing. The chapter leaves the distance squared.",
            ),
            "mean": ((shift + widths).mean(), "It averages over the features. A squared length and a trace are sums."),
        },
    )  # fmt: skip
    var_x = torch.cat([torch.zeros(3), var_x[3:]])
    at_edge(
        "Where some variances are 0, as for a generator that always draws the same picture,",
        "Don't divide by a variance, and don't take its logarithm.",
        ((mu_x - mu_y).square() + (var_x.sqrt() - var_y.sqrt()).square()).sum(),
        frechet_diagonal,
        mu_x,
        var_x,
        mu_y,
        var_y,
        key="no variance",
    )
    return "Each feature adds the squared differences of its two means and of its two standard deviations."


@exercise(
    "digits-share",
    "All of the training images",
    "predict",
    "easy",
    5,
    answers=("share",),
    hints=(
        "A generator without memory treats training images and held-out ones alike: any of them may be the nearest.",
        (
            "Put all the pictures in one pile. If each has the same chance of being the nearest neighbor, what fraction of "
            "the pile are training images?"
        ),
    ),
)
def _(share: object, g: Generator) -> str:
    near(
        number(share),
        1197 / 1797,
        {
            "half": (0.5, "Half is right for sets of equal size. The larger set has more pictures that can happen to be close."),
            "other set": (600 / 1797, "That's the share whose neighbor is a held-out picture."),
            "ratio": (1197 / 600, "That's the ratio of the two sizes. For a share, divide by all the pictures."),
            "all": (1.0, "That would be a copier. Without memory a held-out picture is sometimes closer."),
            "per cent": (119700 / 1797, "The number is right as a percentage. Give it as a share between 0 and 1."),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "1,197 out of 1,797: compare sets of equal size, or compare with the right share."


@exercise(
    "digits-payback",
    "When does it pay off?",
    "predict",
    "medium",
    10,
    answers=("digits",),
    hints=(
        (
            "Start with one picture in one training step: who gets called? The student, which also learns; the target; and "
            "the teacher, for a Heun step."
        ),
        "How many calls is that, if a backward pass counts as two? And how many pictures go through training in all?",
        "Now the other side of the account: how many calls does each digit save?",
    ),
)
def _(digits: object, g: Generator) -> str:
    pictures = 4000 * 128
    near(
        number(digits),
        pictures * 6 / 34,
        {
            "one call": (pictures / 34, "It counts one call for each picture of a step. But student, target and teacher are all called, and the student learns."),
            "student only": (pictures * 3 / 34, "That's the student's share, forward and backward. The target and the teacher's step cost calls too."),
            "no backward": (pictures * 4 / 34, "Student, target and the two calls of Heun's step make four. The student also has a backward pass, which counts as two."),
            "Euler": (pictures * 5 / 34, "One call is missing. A step of Heun's method asks the teacher twice."),
            "all backward": (pictures * 12 / 34, "Close in spirit, but only the student has a backward pass: target and teacher aren't trained."),
            "no batch": (4000 * 6 / 34, "A step trains on 128 pictures, and each of them has its own calls."),
            "not divided": (pictures * 6, "That's what distillation costs, in calls. How many calls does each digit save?"),
        },
        tolerance=0.08,
    )  # fmt: skip
    return "About ninety thousand digits, each of which saves 34 calls. The teacher's own training isn't in the account."


def _heun(first: float | None, second: float | None) -> object:
    """Heun's walk with the first and the second guess limited to ±first and ±second."""

    def limit(guess: Tensor, most: float | None) -> Tensor:
        return guess if most is None else guess.clamp(-most, most)

    def walk(denoiser: object, x: Tensor, sigmas: Tensor) -> Tensor:
        for sigma, lower in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            slope = (x - limit(denoiser(x, sigma), first)) / sigma  # type: ignore[operator]
            ahead = x + (lower - sigma) * slope
            if lower > 0:
                slope = (slope + (ahead - limit(denoiser(ahead, lower), second)) / lower) / 2  # type: ignore[operator]
            x = x + (lower - sigma) * slope
        return x

    return walk


@exercise(
    "digits-clamp",
    "It was right on digits",
    "bug",
    "easy",
    10,
    answers=("walk",),
    hints=(
        "Which lines assume that a pixel lies between −1 and 1? What do they do to data that lie elsewhere?",
        (
            "A guess is an average of data, so for pixels it stays in range by itself. What would the walk lose if nobody "
            "limited it? A step makes two guesses."
        ),
    ),
)
def _(walk: object, g: Generator) -> str:
    sigmas, noise = cdedu.karras_sigmas(7), 80 * torch.randn(256, 2, generator=g)

    def ends(code: object, width: float) -> Tensor:
        """Where a walk ends, for Gaussian data of this standard deviation and a mean of twice as much."""

        def gaussian(x: Tensor, sigma: float | Tensor) -> Tensor:
            return 2 * width + width**2 / (width**2 + sigma**2) * (x - 2 * width)

        return tensor(call(code, gaussian, noise, sigmas), (256, 2))

    width = 0.8 + 0.4 * float(torch.rand((), generator=g))
    got, right = ends(walk, width), ends(cdedu.sample_heun, width)
    if torch.allclose(got, ends(_heun(1, 1), width), atol=1e-4):
        raise NotAttempted("This is still the code you were given: its samples never leave −1 to 1.")
    far, right_far = ends(walk, 200), ends(cdedu.sample_heun, 200)
    most = far.abs().max()
    if most > 1.5 and (far.abs() > 0.999 * most).sum() > 20:
        raise Wrong(
            "still limited",
            f"With data around 400, many of its samples end at ±{most:.3g}. A wider limit only moves the problem farther out.",
        )
    agree(
        got,
        right,
        {
            "first left": (
                ends(_heun(1, None), width),
                "The first guess of a step is still limited to −1 to 1. The second one is fixed.",
            ),
            "second left": (
                ends(_heun(None, 1), width),
                "The second guess of a step, the one after the trial step, is still limited. The first one is fixed.",
            ),
            "at the end": (
                right.clamp(-1, 1),
                "The walk is right now, but its end is cut off at −1 and 1. The data have no such limits.",
            ),
            "Euler": (
                ends(cdedu.sample_euler, width),
                "The limits are gone, but so is the second slope: this is Euler's method. Keep the average of the two slopes.",
            ),
        },
    )
    agree(far, right_far)
    return "On pixels it hardly matters, which is why nobody noticed."


def _kernel_distance(within_x: str, within_y: str) -> object:
    """The kernel distance; ``within`` says how the pairs i = j are treated: "left out", "left in", "not counted" (divided by n²)."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor, how: str) -> Tensor:
        k, n = kernel(a, a), len(a)
        if how == "left in":
            return k.mean()
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1) if how == "left out" else n**2)

    def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
        return within(x, within_x) + within(y, within_y) - 2 * kernel(x, y).mean()

    kernel_distance.__qualname__ = "kernel_distance"
    return kernel_distance


@exercise(
    "digits-kernel",
    "Always a little too far",
    "bug",
    "hard",
    20,
    answers=("test_kernel",),
    hints=(
        (
            "You can't say what a single value must be. But you can say what it must be on average, when both sets come from "
            "the same distribution."
        ),
        (
            "Draw two small sets from one distribution, many times over. What should their distances average to? Remember "
            "that a wrong distance can be too small as well as too large."
        ),
        (
            "How far from zero may that average be, just by chance? Its standard error tells you: the standard deviation of "
            "the values, divided by the square root of how many there are. Allow a few of those."
        ),
    ),
)
def _(test_kernel: object, g: Generator) -> str:
    spots(
        test_kernel,
        {
            "the chapter's formula (its values lie on both sides of zero)": _kernel_distance("left out", "left out"),
            "the package's kernel_distance": lambda x, y: torch.tensor(evaluation.kernel_distance(x, y)),
        },
        {
            "i = j": (
                _kernel_distance("left in", "left in"),
                ("It doesn't notice the code of this exercise, which is too large on average when both sets come from one distribution."),
            ),
            "divided by n²": (
                _kernel_distance("not counted", "not counted"),
                ("It lets through code that leaves the pairs i = j out of the sum but still divides by n². That one is too small on average: look on both sides of zero."),
            ),
            "one set": (
                _kernel_distance("left out", "left in"),
                ("It lets through code that leaves i = j in for y alone, which is half as wrong. Allow less, and use small sets and many draws."),
            ),
        },
    )  # fmt: skip
    return "It catches the code above and two of its relatives."
