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
        "Count steps first: 10 points have 9 gaps between them, and then there's the step to 0.",
        (
            "A Heun step calls the network twice. The last one can't: its second slope would be divided by 0. And all 64 "
            "pictures go through the network together."
        ),
        (
            "When is the first picture ready: after its own share of the calls, or after the very last one? Could a call "
            "begin before the previous one has finished?"
        ),
    ),
)
def _(calls: object, milliseconds: object, g: Generator) -> str:
    near(
        number(calls),
        19,
        {
            "one a point": (10, "10 calls is what Euler would make. A Heun step makes two."),
            "steps": (9, "There are 9 steps from 80 to ε, but a Heun step makes two calls."),
            "two a point": (20, "Nearly. The step to 0 makes only one call: a second slope there would be divided by 0."),
            "last step": (18, "Nearly. Those are the steps from 80 to ε. One more call goes from ε to 0."),
            "per picture": (19 * 64, "That's the number of calls times 64. One call takes all 64 pictures at once."),
        },
        tolerance=1e-6,
        what="calls",
    )  # fmt: skip
    near(
        number(milliseconds),
        760,
        {
            "one call": (40, "40 ms is the time of one call. The calls come one after another, because each needs what the last one returned."),
            "seconds": (0.76, "That is in seconds."),
            "time per picture": (760 / 64, "That's one picture's share. But nobody gets a picture sooner: all 64 are done after the last call."),
            "time of 64": (760 * 64, "One call takes 40 ms for all 64 pictures together."),
        },
        tolerance=0.01,
        what="milliseconds",
    )  # fmt: skip
    return "A model that needs a single call would answer in 40 ms."


@exercise(
    "paths-order",
    "Sixteen times closer",
    "predict",
    "medium",
    10,
    answers=("evaluations",),
    hints=(
        "Heun's method is of order 2: what does doubling the steps do to the error?",
        "So how many doublings does it take to divide the error by 16?",
        "Now turn steps into evaluations. A Heun step costs two evaluations, before and after.",
    ),
)
def _(evaluations: object, g: Generator) -> str:
    near(
        number(evaluations),
        512,
        {
            "order 1": (16 * 128, "Sixteen times the work is what Euler would need. Heun is of order 2."),
            "steps": (256, "That's the number of steps, or else a single doubling. The question is how many evaluations two doublings take."),
            "counted twice": (1024, "The 128 are evaluations already, and they grow with the steps. Don't double them once more."),
            "fewer": (32, "Fewer evaluations make the error larger."),
            "added": (144, "The error falls by a factor when the work grows by a factor. Sixteen more evaluations change very little."),
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
        (
            "Two Euler steps of different lengths: a trial step to the middle level, then the real one. The trial only "
            "supplies a direction."
        ),
        (
            "At the trial point everything belongs to the middle: the point, the level that the denoiser is told, and the "
            "divisor. And where does the real step start?"
        ),
        (
            "Three lines are enough: the middle level, the trial point, the real step. Check that you never divide by "
            "`sigma_next`, which may be 0."
        ),
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
            "euler": (x_end, "That's Euler's step. The direction must come from the middle."),
            "from the middle": (x_mid + (t - s) * d_mid, "The full step starts at x. The middle point only lends it a direction."),
            "old divisor": (x + (t - s) * slope(D, x_mid, m, s), "The direction in the middle must be divided by the middle level."),
            "old level": (x + (t - s) * slope(D, x_mid, s, m), "Tell the denoiser the level that its point has: the middle one."),
            "all old": (x + (t - s) * slope(D, x_mid, s), "The middle point has the middle level, both for the denoiser and as the divisor."),
            "old place": (x + (t - s) * slope(D, x, m), "The denoiser must see the point in the middle, not x."),
            "averaged": (x + (t - s) * (d + d_mid) / 2, "That's the mean of two directions, the same as two Euler steps of half the length. Use the middle direction alone."),
            "heun": (x + (t - s) * (d + d_end) / 2, "That's Heun's step. Here the second direction comes from the middle, and you use it alone."),
            "root": (
                x + (t - s) * slope(D, x + (geometric - s) * d, geometric),
                "The middle is (σ + σ′) / 2 here, not √(σσ′), which would be 0 in the last step.",
            ),
        },
        what="The point after the step",
    )  # fmt: skip
    last = x + (0.0 - s) * slope(D, x + (s / 2 - s) * d, s / 2)
    why = "Are you dividing by σ′? The middle level is (σ + σ′)/2, which is never 0."
    at_edge("At σ′ = 0", why, last, midpoint_step, D, x, s, 0.0, key="at zero")
    return "It can go to 0 without a special last step, since it never divides by σ′."


@exercise(
    "paths-up",
    "Back to the noise",
    "code",
    "medium",
    15,
    answers=("to_noise",),
    hints=(
        "The ODE has no direction of its own. Euler's step stays the same; only the levels come in the opposite order.",
        "Start where x is, and go through all the levels. Which entry of `sigmas` is x's level, and which one comes next?",
        (
            "`pairwise`, as in `walk`, gives you neighboring levels. Check two things: the first step must not divide by 0, "
            "and σ′ − σ must be positive in every step."
        ),
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

    turned, heuns = x, x
    for t, s in pairwise(up[::-1]):
        turned = turned + (t - s) * slope(D, turned, s)
    for s, t in pairwise(up):
        heuns = heun_step(D, heuns, s, t)
    first, second = (call(to_noise, D, x, sigmas) for _ in range(2))
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise Wrong(
                "random",
                "Two calls with the same x give different results. There's no randomness along the ODE: add no noise.",
            )
    agree(
        first,
        walk(up),
        {
            "downwards": (walk(up[::-1]), "It walks down the grid, from σ = sigmas[0]. But x has the level sigmas[-1]: start there."),
            "wrong sign": (walk(up, sign=-1), "It walks away from the noise: the sign of the step is σ′ − σ, which is positive on the way up."),
            "order": (turned, "Each of its steps goes up, but the highest comes first. Does your first step start at sigmas[-1]?"),
            "next level": (walk(up, old=False), "It asks for the direction at the level it's going to. x still has the level it comes from."),
            "one step short": (walk(up[:-1]), "It stops one level below sigmas[0]."),
            "skips the first": (walk(up[1:]), "It starts at sigmas[-2]. x has the level sigmas[-1]."),
            "one leap": (walk([up[0], up[-1]]), "It makes a single step over the whole range. Use the levels in between as well."),
            "nothing": (x, "It returns x as it was. Is the loop empty?"),
            "Heun": (heuns, "These are Heun steps, with two calls each. The exercise asks for Euler steps: one direction, taken at the start."),
        },
        what="The noise",
    )  # fmt: skip
    return "The same equation, read upward."


@exercise(
    "paths-slope",
    "Two calls for nothing",
    "bug",
    "hard",
    15,
    answers=("test_heun",),
    hints=(
        "What does the chapter promise for Heun's method that a method of order 1 can't deliver?",
        (
            "What does doubling the number of steps do to the error of a method of order 2, and of order 1? `error_after` "
            "gives you errors to compare."
        ),
        (
            "Assert something about the ratio of two errors. Choose numbers of steps that are large enough for the order to "
            "show, and a limit that lies well between the two orders."
        ),
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
            "divisor": (defect(1, 0), "A step that divides the second slope by σ instead of σ′ passes your test."),
            "level": (defect(0, 1), "A step that tells the denoiser σ the second time, instead of σ′, passes your test."),
            "place": (defect(1, 1, old_place=True), "A step that takes its second slope at x, instead of after the Euler step, passes your test."),
            "unused": (defect(1, 1, share=0.0), "Euler's step, which computes the second slope and throws it away, passes your test."),
        },
    )  # fmt: skip
    return "It also catches a second slope with the wrong place, level or divisor, and plain Euler."
