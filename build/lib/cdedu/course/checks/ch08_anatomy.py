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
    "The student without loss",
    "code",
    "medium",
    15,
    answers=("perfect",),
    hints=(
        "A student without loss agrees with its neighbour on every link, so its answer at σ is the end of the chain of links that starts there. Which steps of the solver are those?",
        "Find the place of σ in the grid. From there go on to the end of the grid, one step of the solver at a time. At the last point there is no step left, and x comes out.",
        "start = int((sigmas - sigma).abs().argmin()); then for high, low in zip(sigmas[start:-1], sigmas[start + 1:]): x = step(teacher, x, high, low).",
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
                    "It always walks the whole grid. A point that is at σ already has only the rest of the way before it.",
                ),
                "one too late": (
                    torch.stack([walk(i + 1) for i in places]),
                    "It leaves out the first step: the one that starts at σ itself.",
                ),
                "one too few": (
                    torch.stack([walk(i, n - 2) for i in places]),
                    "It stops one point before ε. The last step, down to the last point of the grid, belongs to the walk.",
                ),
                "to zero": (
                    torch.stack([step(teacher, walk(i), grid[-1], 0.0) for i in places]),
                    "It goes on to σ = 0, as a sampler does. A consistency function ends at ε, the last point of the grid.",
                ),
                "one step": (
                    torch.stack([step(teacher, x, s, grid[-1]) if s > grid[-1] else x for s in grid]),
                    "It takes one step of the solver from σ to ε. The student without loss takes all the steps of the grid that lie between.",
                ),
                "upwards": (
                    torch.stack([_upwards(step, teacher, x, grid, i) for i in places]),
                    "It walks from σ up to T. The grid descends, and the end is at its last point.",
                ),
                "the teacher's guess": (
                    torch.stack([teacher(x, s) for s in grid]),
                    "That is D, the mean of what may be behind x. Asked is where the solver's walk ends.",
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
    "No boundary condition: the chain is whole, but it hangs on nothing. Every constant has loss zero, too.",
    "The switch: at ε the student is x, exactly. That is all that the proof asks of the boundary.",
    "Five points: the theorem holds for each N. The composed solver is a worse one, and it is what comes out.",
    "The last step never drawn: the link that ends in ε is the only one that touches the anchor. Without it, constants above ε have loss zero again.",
)


@exercise(
    "anatomy-survives",
    "What the theorem can spare",
    "predict",
    "medium",
    10,
    answers=("survives",),
    hints=(
        "For each change look for a student that has loss zero and is wrong. If there is one, the answer is n.",
        "The argument walks down from σ, one equality for each step of the grid, to an answer that is known. Is an equality missing? Is the known answer missing?",
        "Two of the five break the chain: one at its end, one just before its end.",
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
            "All five are the wrong way round. y means: zero loss still forces the composed solver.",
        )
    if wrong:
        more = f" ({len(wrong) - 1} more after this.)" if len(wrong) > 1 else ""
        raise Wrong(f"change {wrong[0] + 1}", _WHY[wrong[0]] + more)
    return "Three changes keep the theorem. How well they train is another question: see the figure of the chapter."


@exercise(
    "anatomy-uniform",
    "For all x",
    "predict",
    "hard",
    20,
    answers=("c", "claim"),
    hints=(
        "Data N(0, s²) have D(x, σ) = s² x / (s² + σ²), so both Euler's step and the exact path are x times a number. The local error is the difference of the two numbers.",
        "Euler: 1 − (σ − σ′) σ / (s² + σ²). Exact: √((s² + σ′²) / (s² + σ²)). Then: is there one bound for this error that serves all x?",
        "Euler's factor is 1 − 2/4.25, the exact one √(1.25/4.25); c is the distance between them. And |x| has no bound.",
    ),
)
def _(c: object, claim: object, g: Generator) -> str:
    exact, euler = (1.25 / 4.25) ** 0.5, 1 - 2 / 4.25
    near(
        abs(number(c)),
        exact - euler,
        {
            "relative": ((exact - euler) / exact, "That is the error relative to the exact point. Asked is the factor of |x|."),
            "the denoiser": (abs(0.25 / 4.25 - exact), "You compare with the denoiser's guess. Compare Euler's point at σ′ = 1 with the exact point at σ′ = 1."),
            "Heun": (abs(1 - (2 / 4.25 + euler / 1.25) / 2 - exact), "That is Heun's step. Asked is Euler's."),
            "no root": (abs(1.25 / 4.25 - euler), "The exact factor is the root of the ratio of the variances: standard deviations, not variances."),
            "slope below": (abs(1 - 1 / 1.25 - exact), "You took the slope at σ′. Euler's step takes it where it starts, at σ = 2."),
            "s for s²": (abs(1 - 2 / 4.5 - (1.5 / 4.5) ** 0.5), "You have s where s² belongs."),
            "euler": (euler, "That is Euler's point for x = 1. Subtract the exact one."),
            "exact": (exact, "That is the exact point for x = 1. Asked is how far Euler's point is from it."),
        },
        tolerance=0.01,
    )  # fmt: skip
    choose(
        claim,
        "c",
        {
            "a": "A small L and a small step make the bound small for a given x. The supremum is over all x; look at what c |x| does there.",
            "b": "The perfect student of a Gaussian is x times a number, plus a number: Lipschitz, with L about 1. That hypothesis holds.",
            "d": "Euler's local error falls with the square of the step for each x, so p = 1. What is missing is one constant for all x.",
        },
    )
    return "On every bounded set it holds, and noise of size 80 rarely leaves one. The supremum in the chapter is therefore taken over |x| ≤ 2 T."


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
        "With ε = 0.002 the right and the wrong formula differ by two thousandths at most. Who says that a test must use that ε, or σ_d = ½?",
        "Take ε and σ_d large and unequal, say 0.5 and 0.7, a few σ from ε to 10, and compare each of the three coefficients with the formula of chapter 4.",
        "s = torch.tensor([0.5, 1.0, 10.0]); skip, out, inp = coefficients(s, 0.7, 0.5); assert torch.allclose(out, 0.7 * (s - 0.5) / (s**2 + 0.49).sqrt()); and two more lines like this.",
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
            "teacher": (partial(_slip, "teacher"), "It passes the teacher's coefficients, which do not know ε: no boundary condition. Look at σ = ε, or make ε large."),
        },
    )  # fmt: skip
    return "The boundary condition holds for the slip as well: it alone is no test of the coefficients."
