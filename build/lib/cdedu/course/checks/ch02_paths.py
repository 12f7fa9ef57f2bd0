"""The exercises of chapter 2: walking from noise to data, and what a step costs."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    Wrong,
    agree,
    at_edge,
    call,
    exercise,
    near,
    number,
    spots,
)
from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas
from cdedu.solvers import heun_step


def blobs(g: Generator) -> GaussianMixture:
    """Three Gaussians in the plane, in double precision."""
    return GaussianMixture(torch.randn(3, 2, generator=g).double(), 0.3)


def slope(denoiser: Callable[..., Tensor], x: Tensor, sigma: float, divisor: float | None = None) -> Tensor:
    """(x − D(x, σ)) / σ; with a ``divisor``, the mistake of dividing by another level."""
    return (x - denoiser(x, sigma)) / (sigma if divisor is None else divisor)


@exercise(
    "paths-calls",
    "The bill",
    "predict",
    "easy",
    10,
    answers=("calls", "milliseconds"),
    hints=(
        "Count steps first: 10 points have 9 gaps between them, and then there is the step to 0.",
        "A step of Heun asks the network twice. The last one cannot: its second slope would be divided by 0. All 64 pictures go "
        "through the network together.",
        "9 · 2 + 1 calls, and 40 ms for each of them.",
    ),
)
def _(calls: object, milliseconds: object, g: Generator) -> str:
    near(
        number(calls),
        19,
        {
            "one a point": (10, "10 calls is what Euler makes. A step of Heun makes two."),
            "steps": (9, "There are 9 steps from 80 to ε, but a step of Heun makes two calls."),
            "two a point": (20, "Nearly. The step to 0 makes one call only: a second slope there would be divided by 0."),
            "last step": (18, "Nearly. You have the steps from 80 to ε. One call more goes from ε to 0."),
            "per picture": (19 * 64, "That is the calls times 64. One call takes all 64 pictures at once."),
        },
        tolerance=1e-6,
    )  # fmt: skip
    near(
        number(milliseconds),
        760,
        {
            "one call": (40, "40 ms is the time of one call. The calls come one after another, because each needs what the last one gave."),
            "seconds": (0.76, "That is in seconds."),
            "time per picture": (760 / 64, "That is the share of one picture. Nobody gets a picture sooner: all 64 are done after the last call."),
            "time of 64": (760 * 64, "A call takes 40 ms for the 64 pictures together."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "A model that needs a single call would answer in 40 ms."


@exercise(
    "paths-order",
    "Sixteen times nearer",
    "predict",
    "medium",
    10,
    answers=("evaluations",),
    hints=(
        "Heun's method is of order 2: what does doubling the steps do to the error?",
        "A quarter of the error for twice the steps. A quarter of that for twice as many again.",
        "Four times the steps. The evaluations grow with them, by the same factor, from 128.",
    ),
)
def _(evaluations: object, g: Generator) -> str:
    near(
        number(evaluations),
        512,
        {
            "order 1": (16 * 128, "Sixteen times the work is what Euler would need. Heun is of order 2."),
            "steps": (256, "That is the number of steps, or else one doubling only. The question is how many evaluations two doublings need."),
            "counted twice": (1024, "128 are evaluations already, and they grow with the steps. They need not be doubled once more."),
            "fewer": (32, "Fewer evaluations make the error larger."),
            "added": (144, "The error falls by a factor when the work grows by a factor. 16 evaluations more change little."),
        },
        tolerance=0.04,
    )  # fmt: skip
    return "Euler would need 16 times as many."


@exercise(
    "paths-midpoint",
    "Ask in the middle",
    "code",
    "medium",
    15,
    answers=("midpoint_step",),
    hints=(
        "Two Euler steps of different length: a trial step to the middle level, then the true one. Only the direction comes from the trial.",
        "x_mid = x + (middle − σ) d. The direction there is (x_mid − D(x_mid, middle)) / middle. The step starts at x again.",
        "return x + (sigma_next - sigma) * (x_mid - denoiser(x_mid, middle)) / middle",
    ),
)
def _(midpoint_step: object, g: Generator) -> str:
    D, x, s, t = blobs(g), 1.5 * torch.randn(6, 2, generator=g).double(), 1.5, 0.7
    x = x + 1.0
    d, m, geometric = slope(D, x, s), (s + t) / 2, (s * t) ** 0.5
    x_mid, x_end = x + (m - s) * d, x + (t - s) * d
    d_mid, d_end = slope(D, x_mid, m), slope(D, x_end, t)
    agree(
        call(midpoint_step, D, x, s, t),
        x + (t - s) * d_mid,
        {
            "euler": (x_end, "That is Euler's step. The direction must come from the middle."),
            "from the middle": (x_mid + (t - s) * d_mid, "The full step starts at x. The point in the middle only lends its direction."),
            "old divisor": (x + (t - s) * slope(D, x_mid, m, s), "The direction in the middle is divided by the level in the middle."),
            "old level": (x + (t - s) * slope(D, x_mid, s, m), "Tell the denoiser the level that its point has: the middle one."),
            "all old": (x + (t - s) * slope(D, x_mid, s), "The point in the middle has the level in the middle, both for the denoiser and as divisor."),
            "old place": (x + (t - s) * slope(D, x, m), "The denoiser must see the point in the middle, not x."),
            "averaged": (x + (t - s) * (d + d_mid) / 2, "That is the mean of two directions, the same as two Euler steps of half the length. Use the direction of the middle alone."),
            "heun": (x + (t - s) * (d + d_end) / 2, "That is Heun's step. Here the second direction comes from the middle, and is used alone."),
            "root": (
                x + (t - s) * slope(D, x + (geometric - s) * d, geometric),
                "The middle is (σ + σ′) / 2 here, not √(σσ′), which would be 0 in the last step.",
            ),
        },
        what="The point after the step",
    )  # fmt: skip
    last = x + (0.0 - s) * slope(D, x + (s / 2 - s) * d, s / 2)
    why = "Is there a division by σ′? The middle level is (σ + σ′)/2, which is never 0."
    at_edge("At σ′ = 0", why, last, midpoint_step, D, x, s, 0.0, key="at zero")
    return "It may go to 0 without a special last step, since it never divides by σ′."


@exercise(
    "paths-up",
    "Back to the noise",
    "code",
    "medium",
    15,
    answers=("to_noise",),
    hints=(
        "The ODE has no direction of its own. Euler's step is the same; only the levels come in the other order.",
        "sigmas.flip(0) runs from small to large. There is no step from 0: it would divide by 0.",
        "for sigma, sigma_next in pairwise(sigmas.flip(0).tolist()): then the two lines of `walk`.",
    ),
)
def _(to_noise: object, g: Generator) -> str:
    D, sigmas = blobs(g), karras_sigmas(12, sigma_min=0.02, sigma_max=10.0, dtype=torch.float64)
    x = D.means + 0.3 * torch.randn(3, 2, generator=g).double()
    up = sigmas.flip(0).tolist()

    def walk(levels: list[float], old: bool = True, sign: int = 1) -> Tensor:
        y = x
        for s, t in pairwise(levels):
            y = y + sign * (t - s) * slope(D, y, s if old else t)
        return y

    heuns = x
    for s, t in pairwise(up):
        heuns = heun_step(D, heuns, s, t)
    first, second = (call(to_noise, D, x, sigmas) for _ in range(2))
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise Wrong(
                "random",
                "Two calls with the same x differ. Along the ODE there is no randomness: add no noise.",
            )
    agree(
        first,
        walk(up),
        {
            "downwards": (walk(up[::-1]), "It walks down the grid, from σ = sigmas[0]. x has the level sigmas[-1]: start there."),
            "wrong sign": (walk(up, sign=-1), "It walks away from the noise: the sign of the step is σ′ − σ, which is positive on the way up."),
            "next level": (walk(up, old=False), "It asks for the direction at the level that it goes to. x still has the level it comes from."),
            "one step short": (walk(up[:-1]), "It stops one level below sigmas[0]."),
            "skips the first": (walk(up[1:]), "It starts at sigmas[-2]. x has the level sigmas[-1]."),
            "one leap": (walk([up[0], up[-1]]), "It makes a single step over the whole range. Take the levels between as well."),
            "nothing": (x, "It returns x as it was. Is the loop empty?"),
            "Heun": (heuns, "These are Heun's steps, with two calls each. Asked are Euler's: the direction at the start of the step alone."),
        },
        what="The noise",
    )  # fmt: skip
    return "The same equation, read upwards."


@exercise(
    "paths-slope",
    "Two calls for nothing",
    "bug",
    "hard",
    15,
    answers=("test_heun",),
    hints=(
        "What does the chapter promise of Heun's method that a method of order 1 does not do?",
        "Twice the steps must divide the error by about 4, where order 1 divides it by about 2. `error_after` gives you the errors.",
        "assert error_after(step, 32) / error_after(step, 64) > 3",
    ),
)
def _(test_heun: object, g: Generator) -> str:
    def heun(denoiser: Any, x: Any, sigma: Any, sigma_next: Any) -> Any:
        d = (x - denoiser(x, sigma)) / sigma
        x_euler = x + (sigma_next - sigma) * d
        return x + (sigma_next - sigma) * (d + (x_euler - denoiser(x_euler, sigma_next)) / sigma_next) / 2

    def averaged(denoiser: Any, x: Any, sigma: Any, sigma_next: Any) -> Any:
        guess = denoiser(x, sigma)
        x_euler = guess + sigma_next * (x - guess) / sigma
        x_other = x + (sigma_next - sigma) * slope(denoiser, x_euler, sigma_next)
        return (x_euler + x_other) / 2

    def defect(level: int, divisor: int, old_place: bool = False, share: float = 0.5) -> Callable[..., Any]:
        def step(denoiser: Any, x: Any, sigma: Any, sigma_next: Any) -> Any:
            D, s, t = denoiser, sigma, sigma_next
            d = slope(D, x, s)
            place = x if old_place else x + (t - s) * d
            d_next = (place - D(place, (s, t)[level])) / (s, t)[divisor]
            return x + (t - s) * ((1 - share) * d + share * d_next)

        return step

    spots(
        test_heun,
        {"Heun's step as in the chapter": heun, "Heun's step as the mean of the ends along its two slopes": averaged},
        {
            "port": (defect(0, 0), "The code as given passes your test."),
            "divisor": (defect(1, 0), "A step that divides the second slope by σ, not by σ′, passes your test."),
            "level": (defect(0, 1), "A step that asks the denoiser at σ the second time, not at σ′, passes your test."),
            "place": (defect(1, 1, old_place=True), "A step that takes its second slope at x, not after the Euler step, passes your test."),
            "unused": (defect(1, 1, share=0.0), "Euler's step, which works out the second slope and drops it, passes your test."),
        },
    )  # fmt: skip
    return "It also catches other places, levels and divisors of the second slope, and plain Euler."
