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
        "(3.0 + 1.1) / 2 is about two. Two standard deviations leave some 2 % above them.",
    ),
)
def _(lessons: object, g: Generator) -> str:
    def above(z: float) -> float:
        return 5000 * math.erfc(z / 2**0.5)

    near(
        number(lessons),
        above((math.log(20) + 1.1) / 2),
        {
            "linear": (7500, "Three quarters of the range of σ lie above 20, but σ is not drawn evenly: its logarithm is, around 1/3."),
            "variance": (above((math.log(20) + 1.1) / 4), "You divide by 4. The standard deviation is 2; 4 is the variance."),
            "mean": (above(math.log(20) / 2), "The mean of ln σ is −1.1, not 0: ln 20 is further from it than 3.0."),
            "both tails": (2 * above((math.log(20) + 1.1) / 2), "That counts both tails. Only the upper one has σ above 20."),
            "share": (0.0203, "As a share it is right. The question asks for a number out of 10,000."),
            "percent": (2.03, "In per cent it is right. The question asks for a number out of 10,000."),
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
        "Three steps: the direction in which F's two inputs move while t grows; F and its change by one torch.func.jvp; the formula.",
        "The first input is x_t/σ_d, so it moves by velocity/σ_d while t moves by 1. Reshape cos t and sin t to (B, 1).",
        "value, change = torch.func.jvp(F, (x_t / sigma_data, t), (velocity / sigma_data, torch.ones_like(t))); then the two terms of the formula.",
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
            "no warm-up": (g_of(change, second=1.0), "The factor r of the second term is missing."),
            "r everywhere": (g_of(change, first=r), "You multiply both terms by r. The first one is there from the start: it is denoising."),
            "no x": (g_of(change, x=torch.zeros_like(x_t)), "In the second bracket x_t is missing."),
            "r on the derivative": (denoising - cos * sin * (x_t + r * sigma_data * change), "r multiplies the whole second term, x_t + σ_d dF/dt, and not the derivative alone."),
            "one sign": (g_of(change, second=-r), "The second term has the wrong sign: both terms have a minus."),
            "large input": (
                -(cos**2) * (sigma_data * large[0] - velocity) - r * cos * sin * (x_t + sigma_data * large[1]),
                "F's first input is x_t/σ_d. Yours is x_t.",
            ),
            "sign": (-g_of(change), "The sign is turned: both terms have a minus."),
            "normalised": (
                g_of(change) / (g_of(change).norm(dim=1, keepdim=True) + 0.1),
                "You have normalised already. Asked is g itself.",
            ),
        },
    )  # fmt: skip
    return "The same vector as √(σ² + σ_d²) df/dσ of the chapter, when r = 1."


@exercise(
    "scales-speed",
    "Reading sCM: which clock?",
    "predict",
    "medium",
    15,
    answers=("times",),
    hints=(
        "Differentiate both clocks by t. d ln(tan t)/dt = 1/(sin t cos t).",
        "With the factor cos t sin t in front, 250 ln(σ_d tan t) gives 250 at every t. For t itself the factor is all there is: how large can cos t sin t be?",
    ),
)
def _(times: object, g: Generator) -> str:
    near(
        number(times),
        500,
        {
            "largest of one": (250, "Nearly: you take 1 for the largest value of cos t sin t. It is ½, at t = π/4."),
            "other way": (0.002, "That is the ratio turned over. Asked is how many times larger the first is."),
            "multiplied": (125, "You multiply by the ½ of the second clock; divide by it."),
            "inverse": (1000, "cos t sin t is at most ½, so 1/(cos t sin t) is at least 2; but the factor is multiplied here, once for each clock."),
            "quarter": (0.5, "That is for EDM's ¼ ln σ. Asked is the 250 of the diffusers networks."),
            "one": (1, "The two clocks do not run alike: differentiate both by t."),
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
        "For data from one Gaussian N(0, s²) everything is known: D and the consistency function f. What must the loss be for the exact f?",
        "f(x, σ) = x √((s² + ε²)/(s² + σ²)) and D = x s²/(s² + σ²). For this f the loss must be 0 at every x and σ; and for any f the loss of a sample must not depend on who else is in the batch.",
        "Take s = 0.5. assert loss(exact, x, sigma, D).max() < 1e-4; and with another f, such as lambda x, s: x / (1 + s[:, None]), "
        "assert torch.allclose(loss(f, x, sigma, D)[:1], loss(f, x[:1], sigma[:1], D[:1]), atol=1e-4).",
    ),
)
def _(test_loss: object, g: Generator) -> str:
    spots(
        test_loss,
        {"the loss of the chapter": _loss(), "the package's, which has the same values": _by_the_package},
        {
            "fixed": (_loss(fixed=True), "It does not see the defect of the code above: the derivative is taken at a fixed x. An f that is exact must have the loss 0, at several x and σ."),
            "batch": (_loss(batch=True), "It passes a loss whose tangent is normalised over the whole batch. The loss of a sample alone must be what it is among others; try an f that is not exact."),
        },
    )  # fmt: skip
    return "One assertion on what is known exactly, one on independence: they catch most slips of this kind."
