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
        "How many calls does `inpaint` make with its default levels, and which of the two limits is the one for an answer?",
        "80 and then twenty levels from 3 to 0.2 are 21 calls. They share 100 ms.",
    ),
)
def _(call_ms: object, g: Generator) -> str:
    near(
        number(call_ms),
        100 / 21,
        {
            "one call": (100, "That would do for one call. Filling in is a loop: a single call cannot respect a fact that it has not seen."),
            "twenty": (100 / 20, "Nearly. The jump from 80 is a call as well, before the twenty levels. Give two decimals."),
            "a frame": (16 / 21, "16 ms is the time of a frame, for what must move with the hand. An answer may take longer."),
            "one frame": (16, "16 ms is the time of a frame, and it would be for one call. Filling in is a loop."),
            "teacher": (100 / 35, "35 is the number of calls of the teacher's walk. Filling in has levels of its own."),
            "multiplied": (2100, "That is longer than a second for one call. The calls share the time: divide."),
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
        "The average is a sum of independent random numbers, w₁a₁ + w₂a₂ + …. Which variance has it, if each aᵢ has variance 80²?",
        "Its variance is 80² · (w₁² + w₂² + …): variances add, and a factor counts squared. What must you divide by?",
        "Divide the weighted average by weights.square().sum().sqrt(). For the average itself, reshape the weights to (k, 1, 1, 1).",
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
        return "It keeps the size and the corners. It is not the scaled average, but the square roots serve as well."
    agree(
        got,
        right,
        {
            "not scaled": (average, "It is the weighted average alone. In the middle of the pad its standard deviation is half of 80."),
            "sum": (noises.sum(0), "It does not use the weights."),
            "equal weights": (2 * average, "The factor √k of chapter 6 is right for equal weights. Which size has Σ wᵢ aᵢ with other weights?"),
            "divided twice": (
                average / weights.square().sum(),
                "It divides by the sum of the squared weights. That is a variance; the size is its root.",
            ),
            "multiplied": (
                average * weights.square().sum().sqrt(),
                "It multiplies where it must divide: the average is too small already.",
            ),
            "measured": (
                80 * average / average.std(),
                "It scales to what it measures in these 64 numbers. Noise scatters: at a corner it would not return the corner's noise. "
                "The weights alone say by how much.",
            ),
            "measured length": (
                80 * 8 * average / average.norm(),
                "It scales to the length of these 64 numbers. That scatters: at a corner it would not return the corner's noise. "
                "The weights alone say by how much.",
            ),
        },
    )  # fmt: skip
    for corner in torch.eye(4):
        at_edge(
            f"At a corner, with the weights {corner.int().tolist()},",
            "Do not divide by a single weight, and take no logarithm of one: there all but one are 0.",
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
        "At each pixel the colour is a vector with three entries, and the film saw its product with w. Which part of a vector does that fix?",
        "The part along w. The part perpendicular to w does not change the product and is left free.",
        "The projection of c onto w is w (w · c) / (w · w). With W = w.reshape(1, 3, 1, 1) the product w · c at each pixel is "
        "(W * x).sum(1, keepdim=True).",
    ),
)
def _(project: object, g: Generator) -> str:
    x, w = torch.randn(4, 3, 5, 5, generator=g), 0.1 + torch.rand(3, generator=g)
    w = w / w.sum()
    W = w.reshape(1, 3, 1, 1)
    grey = (W * x).sum(1, keepdim=True)
    right = W * grey / w.square().sum()
    agree(
        call(project, x, w),
        right,
        {
            "copied to all channels": (
                grey.expand_as(x),
                "PP = P, and the film's value is kept, but P is not orthogonal: it also fixes what the film has not seen. "
                "Adding to all channels alike moves the colour further than is needed.",
            ),
            "equal weights": (
                x.mean(1, keepdim=True).expand_as(x),
                "That is the P of the chapter, with equal weights. This film weighs the channels differently.",
            ),
            "not divided": (W * grey, "Apply it twice: the second time it shrinks further. Divide by w · w, so that PP = P."),
            "divided by the length": (
                W * grey / w.norm(),
                "Apply it twice: the result changes. w occurs twice, so divide by the squared length of w.",
            ),
            "the rest": (x - right, "That is x − Px, the part that is left to the student."),
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
            "Its way to the projection breaks down there. w (w · x) / (w · w) divides by nothing that can vanish.",
            torch.einsum("c,k,bkhw->bchw", unit, unit, x.double()),
            project,
            x,
            w,
            key="some weights",
        )
    return "With w = (1/3, 1/3, 1/3) it is the grey of the chapter."


@exercise(
    "edit-hue",
    "Colour from a film",
    "predict",
    "easy",
    5,
    answers=("letter",),
    hints=(
        "With equal weights all inks look the same. Blue weighs little on this film: are a blue numeral and a green one equally dark on it?",
        "Then the grey value says something of the hue. Does each of the ten inks have a grey value that no other has? "
        "And did 21 calls get out all that was to be known before?",
    ),
)
def _(letter: object, g: Generator) -> str:
    choose(
        letter,
        "c",
        {
            "a": "With equal weights the student knew nothing of these grey values either: it was trained for none of this. "
            "P says what is known, and P can be exchanged.",
            "b": "All inks have the same *mean* of the channels. On this film blue is darker than green, so the grey value has something to say.",
            "d": "Too much. Two hues can have the same value on the film, one on either side of green, and the loop does not use all that is known.",
            "e": "The loop puts P y back after each jump, so P x = P y holds for every P, up to rounding.",
        },
    )
    return "The film has seen more of the colour than the mean has."


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
        "A student is told a level σ, and relies on it: the noise in its input must have that standard deviation. Can you look at its input?",
        "Hand redraw a false student, a function of (x, sigma) that notes both and returns zeros. With a large drawing of zeros its input is "
        "all noise, at every step.",
        "seen = [], and in the false student: seen.append((x.std(), sigma)). Call redraw with two steps, such as (5, 10). Then assert for both "
        "entries that size and level differ by less than a tenth, and that the levels are grid[5] and grid[10].",
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
        {"with grid[steps[0]] in its first line, and noise whose size is near the level, never exactly on it": _redraw(level, level, level), "the package's stroke_to_image": package},
        {
            "first noise": (
                _redraw(index, level, level),
                "It does not notice the code of this exercise, whose first noise has not the level that the student is told.",
            ),
            "first level": (
                _redraw(lambda i, grid: grid[0], level, level),
                "It lets through code that always begins at grid[0]. Begin with a later step than 0.",
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
