"""The exercises of chapter 8: the theorem of consistency distillation, and what may be changed without losing it."""

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    Wrong,
    agree,
    attempted,
    call,
    choose,
    empty,
    exercise,
    near,
    number,
    own,
    spots,
)
from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas
from cdedu.solvers import euler_step, heun_step
from cdedu.teacher import preconditioning


@exercise(
    "anatomy-perfect",
    "The student with zero loss",
    "code",
    "medium",
    15,
    answers=("perfect",),
    hints=(
        (
            "A student with zero loss agrees with its neighbor on every link, so its answer at σ is the end of the chain "
            "that starts there. Which solver steps are those?"
        ),
        (
            "Find the place of σ in the grid. From there go on to the end of the grid, one solver step at a time. What "
            "should come out at the last point, where no step is left?"
        ),
        (
            "σ comes as a number and may differ from the grid's own in the last digit, so look for the *closest* grid point. "
            "Then loop over neighboring levels from there on."
        ),
    ),
)
def _(perfect: object, g: Generator) -> str:
    n = 6
    teacher = GaussianMixture(torch.randn(3, 2, generator=g, dtype=torch.double) / 2, 0.2)
    x = torch.randn(4, 2, generator=g, dtype=torch.double)
    grid = karras_sigmas(n, 0.01, 10.0, dtype=torch.double)
    for step in (heun_step, euler_step):

        def walk(first: int, last: int = n - 1, step: Callable[..., Tensor] = step) -> Tensor:
            y = x
            for i in range(first, last):
                y = step(teacher, y, grid[i], grid[i + 1])
            return y

        places = range(n)
        f = call(perfect, teacher, step, grid)
        if callable(f) and not empty(f):
            with own():
                first = f(x, float(grid[0]))
            if first is None:
                raise Wrong("no return", "Your f returns None. Is there a `return` at its end?")
        agree(
            torch.stack([call(f, x, float(s)) for s in grid]),
            torch.stack([walk(i) for i in places]),
            {
                "from the top": (
                    torch.stack([walk(0) for _ in places]),
                    "It always walks the whole grid. A point that's already at σ only has the rest of the way ahead of it.",
                ),
                "one too late": (
                    torch.stack([walk(i + 1) for i in places]),
                    "It leaves out the first step: the one that starts at σ itself.",
                ),
                "one too few": (
                    torch.stack([walk(i, n - 2) for i in places]),
                    "It stops one point short of ε. The last step, down to the last point of the grid, belongs to the walk.",
                ),
                "to zero": (
                    torch.stack([step(teacher, walk(i), grid[-1], 0.0) for i in places]),
                    "It goes on to σ = 0, as a sampler does. A consistency function ends at ε, the last point of the grid.",
                ),
                "one step": (
                    torch.stack([step(teacher, x, s, grid[-1]) if s > grid[-1] else x for s in grid]),
                    "It takes one solver step from σ to ε. The student with zero loss takes all of the grid's steps in between.",
                ),
                "upwards": (
                    torch.stack([_upwards(step, teacher, x, grid, i) for i in places]),
                    "It walks from σ up to T. The grid descends, and the end is at its last point.",
                ),
                "the teacher's guess": (
                    torch.stack([teacher(x, s) for s in grid]),
                    "That's D, the mean of what may be behind x. The exercise asks where the solver's walk ends.",
                ),
            },
            tolerance=1e-6,
        )  # fmt: skip
    return "Its loss is zero at every step of the grid, for every λ and every distance."


def _upwards(
    step: Callable[..., Tensor], teacher: GaussianMixture, x: Tensor, grid: Tensor, i: int
) -> Tensor:
    for j in range(i, 0, -1):
        x = step(teacher, x, grid[j], grid[j - 1])
    return x


_SURVIVES = "ynyyn"
_WHY = (
    "λ = 1: every weight is still positive, so a loss of zero still means that each pair agrees.",
    "No boundary condition: the chain is whole, but it hangs on nothing. Every constant has zero loss too.",
    "The switch: at ε the student is exactly x. That's all the proof asks of the boundary.",
    "Five points: the theorem holds for every N. The composed solver is a worse one, but it's what comes out.",
    (
        "The last step never drawn: the link that ends at ε is the only one that touches the anchor. Without it, "
        "constants above ε have zero loss again."
    ),
)


@exercise(
    "anatomy-survives",
    "What the theorem can spare",
    "predict",
    "medium",
    10,
    answers=("survives",),
    hints=(
        "For each change, look for a student that has zero loss and is wrong. If there is one, the answer is n.",
        "The argument walks down from σ, one equality for each step of the grid, to an answer that is known. Is an equality missing? Is the known answer missing?",
        "Try a student that answers 7 everywhere, or everywhere but at ε. Under which of the changes is its loss zero?",
    ),
)
def _(survives: object, g: Generator) -> str:
    text = attempted(survives)
    letters = re.sub(r"[\W_]", "", text.lower()) if isinstance(text, str) else ""
    if len(letters) != 5 or set(letters) - set("yn"):
        raise Wrong("type", f'Give five letters y or n in one string, such as "yynnn"; this is {survives!r}.')
    wrong = [i for i in range(5) if letters[i] != _SURVIVES[i]]
    if len(wrong) == 5:
        raise Wrong(
            "reversed",
            "All five are the wrong way around. y means: zero loss still forces the composed solver.",
        )
    if wrong:
        more = f" ({len(wrong) - 1} more after this one.)" if len(wrong) > 1 else ""
        raise Wrong(f"change {wrong[0] + 1}", _WHY[wrong[0]] + more)
    return "Three changes leave the theorem standing. How well they train is another question: see the chapter's figure."


@exercise(
    "anatomy-uniform",
    "For all x",
    "predict",
    "hard",
    20,
    answers=("c", "claim"),
    hints=(
        (
            "Data N(0, s²) have D(x, σ) = s² x / (s² + σ²), so both Euler's step and the exact path multiply x by a number. "
            "The local error is the difference between those numbers."
        ),
        (
            "Work out both factors for σ = 2 and σ′ = 1. Then ask: is there a single bound on this error that works for all "
            "x?"
        ),
        (
            "For the second question, go through what the theorem assumes, one thing at a time. Which of it holds for this "
            "teacher? And what would the conclusion say about x = 1,000,000?"
        ),
    ),
)
def _(c: object, claim: object, g: Generator) -> str:
    exact, euler = (1.25 / 4.25) ** 0.5, 1 - 2 / 4.25
    near(
        abs(number(c)),
        exact - euler,
        {
            "relative": ((exact - euler) / exact, "That's the error relative to the exact point. The question asks for the factor on |x|."),
            "the denoiser": (abs(0.25 / 4.25 - exact), "You're comparing with the denoiser's guess. Compare Euler's point at σ′ = 1 with the exact point at σ′ = 1."),
            "Heun": (abs(1 - (2 / 4.25 + euler / 1.25) / 2 - exact), "That's Heun's step. The question asks about Euler's."),
            "no root": (abs(1.25 / 4.25 - euler), "The exact factor is the root of the ratio of the variances: standard deviations, not variances."),
            "slope below": (abs(1 - 1 / 1.25 - exact), "You took the slope at σ′. Euler's step takes it where the step starts, at σ = 2."),
            "s for s²": (abs(1 - 2 / 4.5 - (1.5 / 4.5) ** 0.5), "You have s where s² belongs."),
            "euler": (euler, "That's Euler's point for x = 1. Subtract the exact one."),
            "exact": (exact, "That's the exact point for x = 1. The question is how far Euler's point is from it."),
        },
        tolerance=0.01,
    )  # fmt: skip
    choose(
        claim,
        "c",
        {
            "a": (
                "A small L and a small step make the bound small for any given x. But the supremum is over all x: what does c "
                "|x| do there?"
            ),
            "b": "The perfect student of a Gaussian is x times a number, plus a number: Lipschitz, with L about 1. That hypothesis holds.",
            "d": (
                "For each x, Euler's local error does fall with the square of the step, so p = 1. What's missing is one constant "
                "for all x."
            ),
        },
    )
    return (
        "It holds on every bounded set, and noise of size 80 rarely leaves one. That's why the chapter takes the "
        "supremum over |x| ≤ 2 T."
    )


Coefficients = Callable[[Tensor, float, float], tuple[Tensor, Tensor, Tensor]]


def _other_form(sigma: Tensor, sigma_d: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Right as well, in another form."""
    total = torch.hypot(sigma, torch.full_like(sigma, sigma_d))
    return 1 / (1 + ((sigma - eps) / sigma_d) ** 2), (sigma - eps) / total * sigma_d, total.reciprocal()


def _slip(kind: str, sigma: Tensor, sigma_d: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The coefficients with one published slip."""
    c_skip, c_out, c_in = preconditioning(sigma, sigma_d, 0.0 if kind == "teacher" else eps)
    gap = sigma - eps
    if kind == "root":
        c_out = sigma_d * gap / (sigma_d**2 + gap**2).sqrt()
    elif kind == "size":
        c_out = c_out / sigma_d
    elif kind == "input":
        c_in = c_in**2
    return c_skip, c_out, c_in


@exercise(
    "anatomy-coefficients",
    "A slip that nobody sees",
    "bug",
    "medium",
    15,
    answers=("test_coefficients",),
    hints=(
        (
            "With ε = 0.002 the right and the wrong formula differ by two thousandths at most. Who says that your test has "
            "to use that ε, or σ_d = ½?"
        ),
        (
            "Which ε, σ_d and σ would make the two formulas differ a lot? Choose those, and compare each of the three "
            "coefficients with the formula of chapter 4."
        ),
        (
            "Three assertions, one for each coefficient, with a small tolerance. Let ε and σ_d differ from each other and "
            "from 1, so that a missing factor or root has nowhere to hide."
        ),
    ),
)
def _(test_coefficients: object, g: Generator) -> str:
    spots(
        test_coefficients,
        {"the package's formula": lambda sigma, sigma_d, eps: preconditioning(sigma, sigma_d, eps), "the same in another form": _other_form},
        {
            "root": (partial(_slip, "root"), "It passes the code above, with (σ − ε)² under the root of c_out. Compare c_out with its formula, at levels other than ε, with a large ε and a small tolerance."),
            "size": (partial(_slip, "size"), "It passes a c_out without σ_d, which is twice too large for our data. Compare c_out with its formula, for a σ_d other than 1."),
            "input": (partial(_slip, "input"), "It passes a c_in without its square root. Look at the third coefficient."),
            "teacher": (partial(_slip, "teacher"), "It passes the teacher's coefficients, which don't know ε: no boundary condition. Look at σ = ε, or make ε large."),
        },
    )  # fmt: skip
    return "The slip satisfies the boundary condition too: on its own, that condition doesn't test the coefficients."
