"""The exercises of chapter 7: editing with a student."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    agree,
    at_edge,
    call,
    choose,
    exercise,
    near,
    number,
    spots,
)
from cdedu.editing import stroke_to_image


@exercise(
    "edit-budget",
    "An edit at once",
    "predict",
    "easy",
    5,
    answers=("call_ms",),
    hints=(
        (
            "How many calls does `inpaint` make with its default levels? And which of the chapter's two limits applies to an "
            "answer?"
        ),
        "The first jump, from 80, is a call too. Once you have the number of calls, let them share the time.",
    ),
)
def _(call_ms: object, g: Generator) -> str:
    near(
        number(call_ms),
        100 / 21,
        {
            "one call": (100, "That would do for one call. Filling in is a loop: a single call can't respect a fact that it hasn't seen."),
            "twenty": (100 / 20, "Nearly. The jump from 80 is a call as well, before the twenty levels. Give two decimals."),
            "a frame": (16 / 21, "16 ms is the time of one frame, for what must move with the hand. An answer may take longer."),
            "one frame": (16, "16 ms is the time of one frame, and you gave it all to a single call. Filling in is a loop."),
            "teacher": (100 / 35, "35 is the number of calls in the teacher's walk. Filling in has levels of its own."),
            "multiplied": (2100, "That's longer than a second for one call. The calls share the time: divide."),
            "seconds": (0.1 / 21, "The number is right in seconds; the question is in milliseconds."),
        },
        tolerance=0.02,
    )  # fmt: skip
    return "A call that just fits into a frame is too slow for this loop."


@exercise(
    "edit-pad",
    "A pad instead of a slider",
    "code",
    "medium",
    15,
    answers=("mix",),
    hints=(
        (
            "The average is a sum of independent random numbers, w₁a₁ + w₂a₂ + …. What is its variance, if each aᵢ has "
            "variance 80²?"
        ),
        "Variances add, and a factor counts squared. So by how much is the average too small?",
        (
            "What you have is a variance, and what you want back is a standard deviation. And the weights need a shape that "
            "multiplies (k, 1, 8, 8)."
        ),
    ),
)
def _(mix: object, g: Generator) -> str:
    noises, weights = 80 * torch.randn(4, 1, 8, 8, generator=g), 0.1 + torch.rand(4, generator=g)
    weights = weights / weights.sum()
    w = weights.reshape(-1, 1, 1, 1)
    average = (w * noises).sum(0)
    right, roots = average / weights.square().sum().sqrt(), (w.sqrt() * noises).sum(0)
    got = call(mix, noises, weights)
    if (
        isinstance(got, Tensor)
        and got.shape == roots.shape
        and torch.allclose(got.double(), roots.double(), atol=1e-2)
    ):
        return "It keeps the size and the corners. It isn't the scaled average, but the square roots work just as well."
    agree(
        got,
        right,
        {
            "not scaled": (average, "That's the weighted average alone. In the middle of the pad its standard deviation is only half of 80."),
            "sum": (noises.sum(0), "It doesn't use the weights."),
            "equal weights": (2 * average, "The factor √k from chapter 6 is right for equal weights. How large is Σ wᵢ aᵢ with other weights?"),
            "divided twice": (
                average / weights.square().sum(),
                "It divides by the sum of the squared weights. That's a variance; the size is its square root.",
            ),
            "multiplied": (
                average * weights.square().sum().sqrt(),
                "It multiplies where it should divide: the average is too small already.",
            ),
            "measured": (
                80 * average / average.std(),
                ("It scales by what it measures in these 64 numbers. Noise scatters: at a corner it wouldn't return the corner's noise. The weights alone determine the factor."),
            ),
            "measured length": (
                80 * 8 * average / average.norm(),
                ("It scales to the length of these 64 numbers. That scatters: at a corner it wouldn't return the corner's noise. The weights alone determine the factor."),
            ),
        },
    )  # fmt: skip
    for corner in torch.eye(4):
        at_edge(
            f"At a corner, with the weights {corner.int().tolist()},",
            "Don't divide by a single weight, and don't take its logarithm: at a corner all but one are 0.",
            (corner.reshape(-1, 1, 1, 1) * noises).sum(0),
            mix,
            noises,
            corner,
            key="corner",
        )
    return "At a corner the weights are 1, 0, 0, 0, and the noise stays as it is."


@exercise(
    "edit-film",
    "What a film has seen",
    "code",
    "medium",
    15,
    answers=("project",),
    hints=(
        (
            "At each pixel the color is a vector with three entries, and the film saw its product with w. Which part of a "
            "vector does that fix?"
        ),
        (
            "If you change a color at right angles to w, the film notices nothing. So which part of the color is fixed, and "
            "which is free?"
        ),
        (
            "How do you project a vector onto the line along w? Test your formula: applied twice it must give the same "
            "result as once. To multiply pictures, w needs the shape (1, 3, 1, 1)."
        ),
    ),
)
def _(project: object, g: Generator) -> str:
    x, w = torch.randn(4, 3, 5, 5, generator=g), 0.1 + torch.rand(3, generator=g)
    w = w / w.sum()
    W = w.reshape(1, 3, 1, 1)
    gray = (W * x).sum(1, keepdim=True)
    right = W * gray / w.square().sum()
    agree(
        call(project, x, w),
        right,
        {
            "copied to all channels": (
                gray.expand_as(x),
                ("PP = P, and the film's value is kept, but P isn't orthogonal: it also fixes what the film hasn't seen. Adding the same amount to all channels moves the color farther than it has to."),
            ),
            "equal weights": (
                x.mean(1, keepdim=True).expand_as(x),
                "That's the chapter's P, with equal weights. This film weighs the channels differently.",
            ),
            "not divided": (W * gray, "Apply it twice: the second time it shrinks again. Divide by w · w, so that PP = P."),
            "divided by the length": (
                W * gray / w.norm(),
                "Apply it twice: the result changes. w occurs twice, so divide by its squared length.",
            ),
            "the rest": (x - right, "That's x − Px, the part that's left to the student."),
            "channel by channel": (
                W * x,
                "It weighs each channel by itself. The film adds the three, so only their weighted sum is known.",
            ),
        },
    )  # fmt: skip
    equal, narrow = torch.full((3,), 1 / 3), torch.tensor([0.998, 0.001, 0.001])
    for w in (equal, narrow):
        unit = w.double() / w.double().norm()
        at_edge(
            f"With the weights {[round(v, 3) for v in w.tolist()]}",
            "Your way to the projection breaks down there. w (w · x) / (w · w) divides by nothing that can vanish.",
            torch.einsum("c,k,bkhw->bchw", unit, unit, x.double()),
            project,
            x,
            w,
            key="some weights",
        )
    return "With w = (1/3, 1/3, 1/3) this is the gray of the chapter."


@exercise(
    "edit-hue",
    "Color from a film",
    "predict",
    "easy",
    5,
    answers=("letter",),
    hints=(
        (
            "With equal weights all inks look the same. Blue weighs little on this film: are a blue digit and a green one "
            "equally dark on it?"
        ),
        (
            "So the gray value says something about the hue. But does each of the ten inks have a gray value that no other "
            "has? And did 21 calls find out everything there was to know before?"
        ),
    ),
)
def _(letter: object, g: Generator) -> str:
    choose(
        letter,
        "c",
        {
            "a": (
                "With equal weights the student knew nothing of those gray values either: it was trained for neither. P says "
                "what is known, and you can swap P."
            ),
            "b": (
                "All inks have the same *mean* over the channels. On this film blue is darker than green, so the gray value does "
                "say something."
            ),
            "d": (
                "Too much. Two hues can have the same value on the film, one on either side of green, and the loop doesn't use "
                "everything that is known."
            ),
            "e": "The loop puts P y back after each jump, so P x = P y holds for any P, up to rounding.",
        },
    )
    return "The film has seen more of the color than the mean has."


def _redraw(
    first: Callable[[int, Tensor], object],
    told: Callable[[int, Tensor], object],
    later: Callable[[int, Tensor], object],
) -> object:
    """The loop of the exercise; each argument makes of (step, grid) what is used for a level in one of three places."""

    def redraw(
        f: object, drawing: Tensor, grid: Tensor, steps: Sequence[int], generator: Generator
    ) -> Tensor:
        x = drawing + first(steps[0], grid) * torch.randn(drawing.shape, generator=generator)
        for n, i in enumerate(steps):
            if n > 0:
                variance = torch.as_tensor(later(i, grid)) ** 2 - 0.002**2
                x = x + variance.clamp(min=0).sqrt() * torch.randn(x.shape, generator=generator)
            x = f(x, told(i, grid))  # type: ignore[operator]
        return x

    redraw.__qualname__ = "redraw"
    return redraw


@exercise(
    "edit-index",
    "Blots, whatever you draw",
    "bug",
    "hard",
    20,
    answers=("test_redraw",),
    hints=(
        (
            "A student is told a level σ and relies on it: the noise in its input must have that standard deviation. How can "
            "you get a look at its input?"
        ),
        (
            "Hand redraw a false student that writes down its x and its σ and returns zeros. Which drawing makes its input "
            "pure noise, so that you can measure the size?"
        ),
        (
            "Take more than one step, and don't begin with index 0: some defects only show there. For each call compare the "
            "size of the noise with the level that was told, and that level with the grid. Noise scatters, so use a large "
            "drawing and leave some room."
        ),
    ),
)
def _(test_redraw: object, g: Generator) -> str:
    def level(i: int, grid: Tensor) -> object:
        return grid[i]

    def index(i: int, grid: Tensor) -> object:
        return i

    def package(
        f: object, drawing: Tensor, grid: Tensor, steps: Sequence[int], generator: Generator
    ) -> Tensor:
        first, *rest = (float(grid[i]) for i in steps)
        return stroke_to_image(f, drawing, first, rest, generator)  # type: ignore[arg-type]

    spots(
        test_redraw,
        {"the code with grid[steps[0]] in its first line (its noise is about as large as the level says, never exactly)": _redraw(level, level, level), "the package's stroke_to_image": package},
        {
            "first noise": (
                _redraw(index, level, level),
                "It doesn't notice the code of this exercise, whose first noise doesn't have the level that the student is told.",
            ),
            "first level": (
                _redraw(lambda i, grid: grid[0], level, level),
                "It lets through code that always begins at grid[0]. Begin at a later index than 0.",
            ),
            "later noise": (
                _redraw(level, level, index),
                "It lets through code whose *second* noise is multiplied by the index. Use two steps, and look at the input of both calls.",
            ),
            "told": (
                _redraw(level, index, level),
                "It lets through code that tells the student the index instead of the level. Compare the noise with what the student is told.",
            ),
        },
    )  # fmt: skip
    return "It catches the code above and three of its relatives."
