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
        "With diagonal matrices the trace is a sum over the features, so treat one feature at a time: it has two means and two variances.",
        "The product of two diagonal matrices is diagonal, with entries var_x · var_y; its root has entries √(var_x · var_y).",
        "Sum over the features: (mu_x − mu_y)² + var_x + var_y − 2 √(var_x · var_y).",
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
                "It squares the difference of the variances. var_x + var_y − 2√(var_x · var_y) is the square of another difference.",
            ),
            "no root": (
                (shift + var_x + var_y - 2 * var_x * var_y).sum(),
                "The last term is the root of the product of the covariances, not the product.",
            ),
            "root of the traces": (
                shift.sum() + var_x.sum() + var_y.sum() - 2 * (var_x.sum() * var_y.sum()).sqrt(),
                "The last term sums over the features and then takes the root. The trace comes after the root: take the root for each feature.",
            ),
            "factor 2": (
                (shift + var_x + var_y - (var_x * var_y).sqrt()).sum(),
                "The factor 2 of the last term is missing: two equal Gaussians would not be at distance 0.",
            ),
            "no last term": (
                (shift + var_x + var_y).sum(),
                "The term −2(Σx Σy)^½ is missing: two equal Gaussians would be far apart.",
            ),
            "means only": (shift.sum(), "It compares the means alone. Samples that vary too little must also be far away."),
            "widths only": (widths.sum(), "It compares the widths alone. The first term of the distance, of the means, is missing."),
            "shift not squared": (
                shift.sum().sqrt() + widths.sum(),
                "The first term is the squared length of the shift; this takes the length.",
            ),
            "root at the end": (
                (shift + widths).sum().sqrt(),
                "It takes a root of the whole. The distance of the chapter is left squared.",
            ),
            "mean": ((shift + widths).mean(), "It averages over the features. A squared length and a trace are sums."),
        },
    )  # fmt: skip
    var_x = torch.cat([torch.zeros(3), var_x[3:]])
    at_edge(
        "Where some variances are 0, as those of a generator that draws one picture only,",
        "Do not divide by a variance, and take no logarithm of one.",
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
        "There are 1,197 + 600 pictures. Each has the same chance of being the nearest neighbour; how many of them are training images?",
    ),
)
def _(share: object, g: Generator) -> str:
    near(
        number(share),
        1197 / 1797,
        {
            "half": (0.5, "Half is right for sets of equal size. The larger set has more pictures that may happen to be near."),
            "other set": (600 / 1797, "That is the share whose neighbour is a held-out picture."),
            "ratio": (1197 / 600, "That is the ratio of the two sizes. A share has all the pictures below the line."),
            "all": (1.0, "That would be a copier. Without memory a held-out picture is sometimes nearer."),
            "per cent": (119700 / 1797, "The number is right in per cent. Give it as a share between 0 and 1."),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "1,197 of 1,797: compare at equal sizes, or with the right share."


@exercise(
    "digits-payback",
    "When is it paid back?",
    "predict",
    "medium",
    10,
    answers=("digits",),
    hints=(
        "First one picture in one training step: who is called? The student, which also learns; the target; and the teacher, for a Heun step.",
        "The student counts 1 + 2, the target 1, Heun's step 2: six calls for each picture of each step.",
        "One digit by the student saves 35 − 1 calls. Divide 4000 · 128 · 6 by that.",
    ),
)
def _(digits: object, g: Generator) -> str:
    pictures = 4000 * 128
    near(
        number(digits),
        pictures * 6 / 34,
        {
            "one call": (pictures / 34, "It counts one call for a picture of a step. Student, target and teacher are all called, and the student learns."),
            "student only": (pictures * 3 / 34, "That is the student's share, forward and backward. The target and the teacher's step cost calls too."),
            "no backward": (pictures * 4 / 34, "Student, target and two of Heun's step make four. The student also has a backward pass, which counts two."),
            "Euler": (pictures * 5 / 34, "One call is missing. A step of Heun's method asks the teacher twice."),
            "all backward": (pictures * 12 / 34, "Close in spirit, but only the student has a backward pass: target and teacher are left as they are."),
            "no batch": (4000 * 6 / 34, "A step trains on 128 pictures, and each of them has its own calls."),
            "not divided": (pictures * 6, "That is what distillation costs, in calls. How many calls does each digit save?"),
        },
        tolerance=0.08,
    )  # fmt: skip
    return "About ninety thousand digits, at 34 calls saved with each; the teacher's own training is not in the account."


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
        "Which lines know that a pixel lies between −1 and 1? What do they do to data that lie elsewhere?",
        "A guess is an average of data, so for pixels it stays in the range by itself. Let each guess through as it is, in both places.",
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
        raise NotAttempted("This is still the code as it was given: its samples never leave −1 to 1.")
    far, right_far = ends(walk, 200), ends(cdedu.sample_heun, 200)
    most = far.abs().max()
    if most > 1.5 and (far.abs() > 0.999 * most).sum() > 20:
        raise Wrong(
            "still limited",
            f"With data around 400, many of its samples end at ±{most:.3g}. A wider limit only moves the fault further out.",
        )
    agree(
        got,
        right,
        {
            "first left": (
                ends(_heun(1, None), width),
                "The first guess of a step is still limited to −1 to 1. The second one is mended.",
            ),
            "second left": (
                ends(_heun(None, 1), width),
                "The second guess of a step, the one after the trial step, is still limited. The first one is mended.",
            ),
            "at the end": (
                right.clamp(-1, 1),
                "The walk is right now, but its end is cut off at −1 and 1. The data know of no such limits.",
            ),
            "Euler": (
                ends(cdedu.sample_euler, width),
                "The limits are gone, and so is the second slope: this is Euler's method. Keep the average of the two slopes.",
            ),
        },
    )
    agree(far, right_far)
    return "On pixels it hardly matters, and that is why it stayed unnoticed."


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
        "You cannot say what a single value must be. You can say what it must be on average, when both sets come from the same distribution.",
        "Draw two small sets of normal numbers, many times, and average their distances. The average must be near 0: neither above nor below.",
        "values = torch.tensor([float(kernel_distance(torch.randn(10, 16), torch.randn(10, 16))) for _ in range(100)]), "
        "then assert that abs(values.mean()) is below four times values.std() / √100.",
    ),
)
def _(test_kernel: object, g: Generator) -> str:
    spots(
        test_kernel,
        {
            "the formula of the chapter, whose single values lie on either side of zero": _kernel_distance("left out", "left out"),
            "the package's kernel_distance": lambda x, y: torch.tensor(evaluation.kernel_distance(x, y)),
        },
        {
            "i = j": (
                _kernel_distance("left in", "left in"),
                "It does not notice the code of this exercise, which is too large on average when both sets come from one distribution.",
            ),
            "divided by n²": (
                _kernel_distance("not counted", "not counted"),
                "It lets through code that leaves the pairs i = j out of the sum and still divides by n². That one is too small on average: "
                "look on both sides of zero.",
            ),
            "one set": (
                _kernel_distance("left out", "left in"),
                "It lets through code that leaves i = j in for y alone. That is half as wrong: allow less, and use small sets and many draws.",
            ),
        },
    )  # fmt: skip
    return "It catches the code above and two of its relatives."
