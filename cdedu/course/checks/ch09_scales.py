"""The exercises of chapter 9: noise scales, and the continuous limit."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import agree, call, exercise, near, number, spots

Function = Callable[[Tensor, Tensor], Tensor]


@exercise(
    "scales-top",
    "Who ever sees the top?",
    "predict",
    "easy",
    5,
    answers=("lessons",),
    hints=(
        "ln σ is normal with mean −1.1 and standard deviation 2. How many standard deviations above the mean is ln 20 = 3.0?",
        "Turn that number of standard deviations into a share of the normal distribution. One tail counts, not both.",
    ),
)
def _(lessons: object, g: Generator) -> str:
    def above(z: float) -> float:
        return 5000 * math.erfc(z / 2**0.5)

    near(
        number(lessons),
        above((math.log(20) + 1.1) / 2),
        {
            "linear": (7500, "Three quarters of the range of σ lies above 20, but σ isn't drawn evenly: its logarithm is normal, centered near σ = 1/3."),
            "variance": (above((math.log(20) + 1.1) / 4), "You divided by 4. The standard deviation is 2; 4 is the variance."),
            "mean": (above(math.log(20) / 2), "The mean of ln σ is −1.1, not 0: ln 20 is farther from it than 3.0."),
            "both tails": (2 * above((math.log(20) + 1.1) / 2), "That counts both tails. Only the upper one has σ above 20."),
            "share": (0.0203, "That's right as a share. The question asks for a number out of 10,000."),
            "percent": (2.03, "That's right in percent. The question asks for a number out of 10,000."),
        },
        tolerance=0.3,
    )  # fmt: skip
    return "Two in a hundred: what happens up there is learned from very few lessons, and mostly inherited from below."


@exercise(
    "scales-tangent",
    "The tangent as the paper writes it",
    "code",
    "hard",
    20,
    answers=("tangent",),
    hints=(
        (
            "Three steps: the direction in which F's two inputs move as t grows; F and its change, from a single "
            "torch.func.jvp; then the formula."
        ),
        (
            "Both inputs of F move with t. How fast does x_t/σ_d move, and how fast does t? Those are the two directions "
            "that jvp needs."
        ),
        (
            "jvp takes a function, a tuple of inputs and a tuple of directions of the same shapes; it returns the value and "
            "its change. Before cos t and sin t multiply anything, reshape them to (B, 1)."
        ),
    ),
)
def _(tangent: object, g: Generator) -> str:
    a = torch.randn(2, 2, generator=g)

    def F(x: Tensor, t: Tensor) -> Tensor:
        return (x @ a.to(x.dtype)).sin() * (2 * t)[:, None].cos() + 0.5 * x

    sigma_data = 0.4 + 0.2 * torch.rand((), generator=g).item()
    x_t, velocity, t = (
        torch.randn(6, 2, generator=g),
        torch.randn(6, 2, generator=g),
        0.2 + torch.rand(6, generator=g),
    )
    cos, sin, r, ones = t.cos()[:, None], t.sin()[:, None], 0.6, torch.ones_like(t)
    value, change = torch.func.jvp(F, (x_t / sigma_data, t), (velocity / sigma_data, ones))

    def g_of(change: Tensor, first: float = 1.0, second: float = r, x: Tensor = x_t) -> Tensor:
        return first * -(cos**2) * (sigma_data * value - velocity) - second * cos * sin * (
            x + sigma_data * change
        )

    fixed = torch.func.jvp(F, (x_t / sigma_data, t), (torch.zeros_like(x_t), ones))[1]
    unscaled = torch.func.jvp(F, (x_t / sigma_data, t), (velocity, ones))[1]
    still = torch.func.jvp(F, (x_t / sigma_data, t), (velocity / sigma_data, torch.zeros_like(t)))[1]
    large = torch.func.jvp(F, (x_t, t), (velocity, ones))
    denoising = -(cos**2) * (sigma_data * value - velocity)
    agree(
        call(tangent, F, x_t, t, velocity, r, sigma_data),
        g_of(change),
        {
            "fixed x": (g_of(fixed), "Your derivative leaves x where it is. Along the path x moves as well: give jvp the velocity as the first direction."),
            "not scaled": (g_of(unscaled), "F's input is x_t/σ_d, so it moves by velocity/σ_d. Yours moves by the velocity."),
            "fixed t": (g_of(still), "The second direction must be ones: t itself grows at speed 1."),
            "no warm-up": (g_of(change, second=1.0), "The factor r is missing from the second term."),
            "r everywhere": (g_of(change, first=r), "You multiply both terms by r. The first one is there from the start: it's denoising."),
            "no x": (g_of(change, x=torch.zeros_like(x_t)), "x_t is missing from the second bracket."),
            "r on the derivative": (denoising - cos * sin * (x_t + r * sigma_data * change), "r multiplies the whole second term, x_t + σ_d dF/dt, and not the derivative alone."),
            "one sign": (g_of(change, second=-r), "The second term has the wrong sign: both terms have a minus."),
            "large input": (
                -(cos**2) * (sigma_data * large[0] - velocity) - r * cos * sin * (x_t + sigma_data * large[1]),
                "F's first input is x_t/σ_d. Yours is x_t.",
            ),
            "sign": (-g_of(change), "The sign is flipped: both terms have a minus."),
            "normalised": (
                g_of(change) / (g_of(change).norm(dim=1, keepdim=True) + 0.1),
                "You've already normalized. The exercise asks for g itself.",
            ),
        },
    )  # fmt: skip
    return "For r = 1 this is the same vector as the chapter's √(σ² + σ_d²) df/dσ."


@exercise(
    "scales-speed",
    "Reading sCM: which clock?",
    "predict",
    "medium",
    15,
    answers=("times",),
    hints=(
        "Differentiate both clocks with respect to t. The derivative of ln(tan t) is 1/(sin t cos t).",
        (
            "Multiply each derivative by cos t sin t. One of the products is the same at every t. For the other one: how "
            "large can cos t sin t get?"
        ),
    ),
)
def _(times: object, g: Generator) -> str:
    near(
        number(times),
        500,
        {
            "largest of one": (250, "Nearly: you take 1 for the largest value of cos t sin t. It is ½, at t = π/4."),
            "other way": (0.002, "That's the ratio upside down. The question is how many times larger the first is."),
            "multiplied": (125, "You multiplied by the ½ of the second clock; divide by it."),
            "inverse": (1000, "cos t sin t is at most ½, so 1/(cos t sin t) is at least 2; but the factor is multiplied here, once for each clock."),
            "quarter": (0.5, "That's for EDM's ¼ ln σ. The question is about the 250 of the diffusers networks."),
            "one": (1, "The two clocks don't run alike: differentiate both."),
        },
        tolerance=0.02,
    )  # fmt: skip
    return "And without the factor cos t sin t the first would have no bound at all: 250/(sin t cos t) grows at both ends."


def _loss(fixed: bool = False, batch: bool = False, sign: float = 1.0) -> Callable[..., Tensor]:
    """The loss of the exercise; each argument puts one defect in."""

    def loss(f: Function, x: Tensor, sigma: Tensor, D: Tensor) -> Tensor:
        s = sigma.reshape(-1, 1)
        root, slope = (s**2 + 0.25).sqrt(), (x - D) / s
        slope = 0 * slope if fixed else slope
        value, change = torch.func.jvp(f, (x, sigma), (slope, torch.ones_like(sigma)))
        tangent = (root * change).detach()
        norm = tangent.norm() if batch else tangent.norm(dim=1, keepdim=True)
        goal = value.detach() - sign * 0.5 * s / root * tangent / (norm + 0.1)
        return ((f(x, sigma) - goal) * root / (0.5 * s)).square().mean(1)

    return loss


def _by_the_package(f: Function, x: Tensor, sigma: Tensor, D: Tensor) -> Tensor:
    """Right as well: the package's loss, given back the noise of which x was made."""
    from cdedu.losses import continuous_consistency_loss

    noise = torch.zeros_like(x)
    return continuous_consistency_loss(f, f, x, sigma, teacher=lambda _x, _s: D, noise=noise)


@exercise(
    "scales-still",
    "The loss that stood still",
    "bug",
    "hard",
    25,
    answers=("test_loss",),
    hints=(
        (
            "For data from one Gaussian N(0, s²) you know everything: D and the consistency function f. What must the loss "
            "be for the exact f?"
        ),
        (
            "Write down D and the exact f for that Gaussian; chapters 1 and 4 have both. And how would you find out whether "
            "a sample's loss depends on who else is in the batch?"
        ),
        (
            "Two assertions: zero loss for the exact f, at several x and σ; and a sample alone against the same sample in a "
            "batch. The second one needs an f that *isn't* exact. Do you see why?"
        ),
    ),
)
def _(test_loss: object, g: Generator) -> str:
    spots(
        test_loss,
        {"the loss of the chapter": _loss(), "the package's, which has the same values": _by_the_package},
        {
            "fixed": (_loss(fixed=True), "It doesn't see the defect of the code above: the derivative is taken at a fixed x. An exact f must have zero loss, at several x and σ."),
            "batch": (_loss(batch=True), "It passes a loss whose tangent is normalized over the whole batch. A sample must have the same loss alone and among others; try an f that isn't exact."),
        },
    )  # fmt: skip
    return (
        "One assertion about something known exactly, one about independence: together they catch most slips of this "
        "kind."
    )
