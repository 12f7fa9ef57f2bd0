"""The exercises of chapter 3: teacher and student."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    agree,
    at_edge,
    call,
    exercise,
    near,
    number,
    spots,
)
from cdedu.methods.progressive import two_step_target
from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas
from cdedu.samplers import sample_ddpm, sample_euler, sample_heun
from cdedu.solvers import euler_step


@exercise(
    "distil-calls",
    "Three bills",
    "predict",
    "easy",
    8,
    answers=("calls_pairs", "calls_progressive", "calls_consistency"),
    hints=(
        "For each lesson ask two things: how many calls does one example need, and how many examples are new? An example that is used "
        "again costs the teacher nothing.",
        "Pairs: 40 calls each, 10,000 of them. Progressive: 2 calls an example, in each of the rounds 40 → 20 → 10 → 5. Consistency: one "
        "Euler step is one call.",
    ),
)
def _(calls_pairs: object, calls_progressive: object, calls_consistency: object, g: Generator) -> str:
    near(
        number(calls_pairs),
        400_000,
        {
            "pairs: every use": (80_000_000, "Pairs: you charged every use of a pair. A stored pair costs its walk once, however often it is used."),
            "pairs: two calls a step": (800_000, "Pairs: two calls a step is Heun's price. These walks take Euler steps."),
            "pairs: walks not counted": (10_000, "Pairs: that is the number of pairs. Each is the end of a walk of 40 calls."),
        },
        tolerance=0.01,
    )  # fmt: skip
    near(
        number(calls_progressive),
        12_000_000,
        {
            "progressive: one round": (4_000_000, "Progressive: that is one round. From 40 steps to 5 there are three."),
            "progressive: two rounds": (8_000_000, "Progressive: that is two rounds. 40 → 20 → 10 → 5 has three."),
            "progressive: one call": (6_000_000, "Progressive: the target follows the teacher for two steps, so an example costs two calls."),
            "progressive: four rounds": (16_000_000, "Progressive: 40, 20, 10, 5 are four numbers of steps, with three rounds between them."),
            "progressive: whole walks": (
                2_000_000 * (40 + 20 + 10),
                "Progressive: no example needs the whole walk, only two neighbouring steps of it.",
            ),
        },
        tolerance=0.01,
    )  # fmt: skip
    near(
        number(calls_consistency),
        2_000_000,
        {
            "consistency: Heun": (4_000_000, "Consistency: two calls is the price of a Heun step. Here it is an Euler step."),
            "consistency: whole walks": (80_000_000, "Consistency: the teacher goes to the neighbour only, not down the whole grid."),
            "consistency: rounds": (6_000_000, "Consistency: there is one student and no rounds."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "Per new example they ask 40, 2 and 1; the bill depends just as much on how many new examples there are."


@exercise(
    "distil-temperature",
    "Softer answers",
    "code",
    "easy",
    10,
    answers=("soft_loss",),
    hints=(
        "A temperature acts on scores, before the softmax, and on both networks alike.",
        "With p and q the two softened softmaxes, each of shape (B, K), the loss of a sample is −(p · ln q) summed over the classes.",
        "p = (teacher_scores / temperature).softmax(1), ln q = (scores / temperature).log_softmax(1).",
    ),
)
def _(soft_loss: object, g: Generator) -> str:
    scores, theirs = torch.randn(6, 4, generator=g), 3 * torch.randn(6, 4, generator=g)
    t = 2 + float(torch.rand((), generator=g))

    def cross(p: Tensor, log_q: Tensor) -> Tensor:
        return -(p * log_q).sum(1)

    p, log_q = (theirs / t).softmax(1), (scores / t).log_softmax(1)
    agree(
        call(soft_loss, scores, theirs, t),
        cross(p, log_q),
        {
            "hard": (cross(theirs.softmax(1), scores.log_softmax(1)), "The temperature is not used."),
            "label": (-log_q.gather(1, theirs.argmax(1)[:, None])[:, 0], "It keeps the teacher's first choice only. All its probabilities count."),
            "student not softened": (cross(p, scores.log_softmax(1)), "Only the teacher is softened. The student is trained at the same temperature."),
            "teacher not softened": (cross(theirs.softmax(1), log_q), "Only the student is softened. Divide the teacher's scores as well."),
            "multiplied": (
                cross((theirs * t).softmax(1), (scores * t).log_softmax(1)),
                "The scores are multiplied by the temperature, which makes the answers harder. Divide.",
            ),
            "divided too late": (
                cross(theirs.softmax(1) / t, scores.softmax(1).div(t).log()),
                "The probabilities are divided, so they no longer sum to 1. Divide the scores, before the softmax.",
            ),
            "roles": (cross(log_q.exp(), p.log()), "The roles are swapped: the logarithm belongs to the student's probabilities."),
            "divergence": (
                cross(p, log_q) + (p * p.log()).sum(1),
                "This is the Kullback-Leibler divergence: the cross-entropy less that of the perfect student. It trains the same student, but "
                "the exercise asks for the cross-entropy.",
            ),
            "softmax twice": (
                cross(p, (scores / t).softmax(1).log_softmax(1)),
                "The student goes through the softmax twice: `F.cross_entropy` and `log_softmax` want scores, not probabilities.",
            ),
            "sign": (-cross(p, log_q), "The sign is missing: logarithms of probabilities are negative, the loss is not."),
            "squared temperature": (t**2 * cross(p, log_q), "There is a factor temperature² too many. Some authors add it; the chapter's loss has none."),
            "mean over classes": (cross(p, log_q) / 4, "It takes the mean over the classes. A cross-entropy is a sum over them."),
        },
    )  # fmt: skip
    scores = torch.tensor([[0.0, 400.0, -400.0]])
    for theirs in (torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[600.0, 0.0, -600.0]])):
        at_edge(
            f"For the scores {scores[0].tolist()} and {theirs[0].tolist()} of the teacher, at temperature 2,",
            "exp(200) is larger than the largest number that there is, and exp(−400) becomes 0, whose logarithm is infinite. softmax and "
            "log_softmax are written for that: take them of the scores, and no logarithm of a softmax.",
            cross((theirs.double() / 2).softmax(1), (scores.double() / 2).log_softmax(1)),
            soft_loss,
            scores,
            theirs,
            2.0,
            key="overflow",
        )
    return "At temperature 1 it is the loss of the chapter."


def _two_points(g: Generator) -> GaussianMixture:
    return GaussianMixture(torch.randn(3, 2, generator=g), 0.2)


@exercise(
    "distil-steps",
    "Many steps in one",
    "code",
    "medium",
    15,
    answers=("walk_target",),
    hints=(
        "First find out where the walk ends. Then ask which guess takes one Euler step there. Only the second part is algebra, and it does "
        "not care how many steps the walk had.",
        "One Euler step with the guess x̃ from σ₀ to the last level lands at r x + (1 − r) x̃, with r = last level / σ₀.",
        "After the loop over pairwise(sigmas.tolist()), with y at the end of the walk: return (y − r * x) / (1 − r).",
    ),
)
def _(walk_target: object, g: Generator) -> str:
    teacher = _two_points(g)
    levels = torch.tensor([2.0, 1.1, 0.6, 0.3]) * (0.8 + 0.4 * float(torch.rand((), generator=g)))
    x = levels[0] * torch.randn(7, 2, generator=g)
    y = restarted = x
    for s, t in pairwise(levels.tolist()):
        y, restarted = euler_step(teacher, y, s, t), euler_step(teacher, x, s, t)
    r = levels[-1] / levels[0]

    def guess(y: Tensor, r: Tensor = r) -> Tensor:
        return (y - r * x) / (1 - r)

    agree(
        call(walk_target, teacher, x, levels),
        guess(y),
        {
            "end": (y, "It returns the end of the walk. That point is still noisy; the guess lies further along the line."),
            "last guess": (
                teacher(y, levels[-1]),
                "It is the teacher's guess at the end of the walk. Wanted is the point on the line from x through that end.",
            ),
            "first guess": (teacher(x, levels[0]), "It is the teacher's guess at the start. The walk bends away from it."),
            "two steps": (
                two_step_target(teacher, x, *levels[:3]),
                "It stops after two steps. The walk goes on to the last level of `sigmas`.",
            ),
            "one big step": (
                guess(euler_step(teacher, x, levels[0], levels[-1])),
                "The teacher must pass every level of `sigmas`, not go from the first to the last at once.",
            ),
            "restarted": (guess(restarted), "Every step starts from x again. Each must start where the one before ended."),
            "not divided": (y - r * x, "Now divide by 1 − r: it is (1 − r) x̃ that you have."),
            "upside down": (guess(y, 1 / r), "The ratio is upside down. It is the last level over the first, and below 1."),
            "neighbours": (
                guess(y, levels[-1] / levels[-2]),
                "The student's step begins at the first level, so the ratio is the last level over the first.",
            ),
        },
        tolerance=1e-3,
    )  # fmt: skip
    levels, y = torch.cat([levels, torch.zeros(1)]), euler_step(teacher, y, levels[-1], 0.0)
    why = "There it should be the end of the walk. Is there a division by the ratio, which is 0?"
    at_edge("With 0 as the last level", why, y, walk_target, teacher, x, levels, key="at zero")
    return "With three levels it is the chapter's two steps in one."


@exercise(
    "distil-inherit",
    "Like teacher, like student",
    "predict",
    "medium",
    8,
    answers=("student_width",),
    hints=(
        "The student never sees an answer that comes from the data. Whose walk does it repeat?",
        "Each perfect student lands exactly where its teacher lands after two steps. So the last one lands where the first teacher lands "
        "after all its steps.",
    ),
)
def _(student_width: object, g: Generator) -> str:
    near(
        number(student_width),
        0.333,
        {
            "data": (0.5, "0.5 is the width of the data. They only choose the questions; the answers are the teacher's, errors of its walk included."),
            "one step of the teacher": (0.003, "That is the first teacher in one step. The student was trained to do the work of eight in one."),
            "two steps of the teacher": (0.17, "That is the first teacher in two steps. The last student learned from the second student, which is better than that."),
            "four steps of the teacher": (0.20, "That is the first teacher in four steps. The first student also takes four, but each does the work of two."),
            "each round again": (0.5 * 0.666**3, "You let each round shrink the samples anew. A perfect student adds no error of its own."),
            "half way": (0.417, "Halfway between teacher and data? A perfect student repeats its teacher and knows nothing else."),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "The last student repeats the eight-step walk, with all the error that Euler's method makes in it."


def _ends(walk: Callable[..., Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
    """A function from starts to ends; the teacher is exact, for two blobs."""
    teacher, grid = GaussianMixture(torch.tensor([[-0.5, 0.2], [0.5, -0.2]]), 0.1), karras_sigmas(18)
    return lambda starts: walk(teacher, starts, grid, **options)


@exercise(
    "distil-answer",
    "Pairs without an answer",
    "bug",
    "hard",
    20,
    answers=("check_ends",),
    hints=(
        "What must be true of ends, so that a network which sees nothing but the start can learn them? Ask for the ends of some starts twice "
        "and compare.",
        "A fixed seed gives the same numbers each time, and yet the end then depends on the place in the batch. So ask the second time in another "
        "order.",
        "assert torch.allclose(make_ends(starts.flip(0)), make_ends(starts).flip(0), atol=1e-3), for starts = 80 * torch.randn(100, 2).",
    ),
)
def _(check_ends: object, g: Generator) -> str:
    ddpm = _ends(sample_ddpm)

    def seeded(starts: Tensor) -> Tensor:
        with torch.random.fork_rng(()):
            torch.manual_seed(0)
            return ddpm(starts)

    euler = _ends(sample_euler)

    def rounded(starts: Tensor) -> Tensor:
        ends = euler(starts)
        return ends * (1 + 1e-6 * torch.linspace(-1, 1, len(ends))[:, None])

    def shuffled(starts: Tensor) -> Tensor:
        return euler(starts).roll(1, 0)

    spots(
        check_ends,
        {"Heun's walk": _ends(sample_heun, to_zero=False), "Euler's walk to σ = 0": euler, "Euler's walk, rounded a little differently at each place of the batch": rounded},
        {
            "fresh noise": (ddpm, "It passes the code above: the same start has another end each time, and your test does not see it."),
            "fixed seed": (
                seeded,
                "It passes the friend's repair: two calls agree, but the end still depends on the place in the batch. Ask for the same start in "
                "another place.",
            ),
            "shuffled": (
                shuffled,
                "It passes code that returns right ends in the wrong rows, so that starts meet the ends of others. Ask for the same starts in "
                "another order and compare row by row.",
            ),
        },
    )  # fmt: skip
    return "An end must depend on its start and on nothing else. Then there is an answer to learn."
