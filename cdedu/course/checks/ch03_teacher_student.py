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
        (
            "For each lesson ask two things: how many calls does one example need, and how many of the examples are new? "
            "Using an example again costs the teacher nothing."
        ),
        (
            "Pairs: how long is a walk, and how many walks are there? Progressive: what does one target cost, and how many "
            "rounds lead from 40 to 5? Consistency: how many calls does an Euler step make?"
        ),
    ),
)
def _(calls_pairs: object, calls_progressive: object, calls_consistency: object, g: Generator) -> str:
    near(
        number(calls_pairs),
        400_000,
        {
            "pairs: every use": (80_000_000, "Pairs: you charged for every use of a pair. A stored pair costs its walk once, however often it's used."),
            "pairs: two calls a step": (800_000, "Pairs: two calls a step is Heun's price. These walks take Euler steps."),
            "pairs: walks not counted": (10_000, "Pairs: that's the number of pairs. Each is the end of a walk of 40 calls."),
        },
        tolerance=0.01,
        what="calls_pairs",
    )  # fmt: skip
    near(
        number(calls_progressive),
        12_000_000,
        {
            "progressive: one round": (4_000_000, "Progressive: that's one round. From 40 steps to 5 there are three."),
            "progressive: two rounds": (8_000_000, "Progressive: that's two rounds. 40 → 20 → 10 → 5 has three."),
            "progressive: one call": (6_000_000, "Progressive: the target follows the teacher for two steps, so an example costs two calls."),
            "progressive: four rounds": (16_000_000, "Progressive: 40, 20, 10, 5 are four numbers of steps, with three rounds between them."),
            "progressive: whole walks": (
                2_000_000 * (40 + 20 + 10),
                "Progressive: no example needs the whole walk, only two neighboring steps of it.",
            ),
        },
        tolerance=0.01,
        what="calls_progressive",
    )  # fmt: skip
    near(
        number(calls_consistency),
        2_000_000,
        {
            "consistency: Heun": (4_000_000, "Consistency: two calls is the price of a Heun step. Here it is an Euler step."),
            "consistency: whole walks": (80_000_000, "Consistency: the teacher only goes to the neighbor, not down the whole grid."),
            "consistency: rounds": (6_000_000, "Consistency: there's one student and there are no rounds."),
        },
        tolerance=0.01,
        what="calls_consistency",
    )  # fmt: skip
    return "A new example costs 40, 2 and 1 calls. But the bill depends just as much on how many examples are new."


@exercise(
    "distil-temperature",
    "Softer answers",
    "code",
    "easy",
    10,
    answers=("soft_loss",),
    hints=(
        "A temperature acts on scores, before the softmax, and on both networks alike.",
        (
            "Call the two softened softmaxes p and q. What is the cross-entropy of one picture? Which of the two goes inside "
            "the logarithm?"
        ),
        (
            "With scores in the hundreds, a softmax followed by a logarithm gives infinities: the small probabilities have "
            "already become 0. torch has one function for the two together."
        ),
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
            "hard": (cross(theirs.softmax(1), scores.log_softmax(1)), "The temperature isn't used."),
            "label": (-log_q.gather(1, theirs.argmax(1)[:, None])[:, 0], "It keeps only the teacher's first choice. All of its probabilities count."),
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
                ("This is the Kullback-Leibler divergence: the cross-entropy minus the lowest value it can reach. It trains the same student, but the exercise asks for the cross-entropy."),
            ),
            "softmax twice": (
                cross(p, (scores / t).softmax(1).log_softmax(1)),
                "The student goes through the softmax twice: `F.cross_entropy` and `log_softmax` want scores, not probabilities.",
            ),
            "sign": (-cross(p, log_q), "The sign is missing: logarithms of probabilities are negative, but the loss isn't."),
            "squared temperature": (t**2 * cross(p, log_q), "There's an extra factor of temperature². Some authors include it; the chapter's loss doesn't."),
            "mean over classes": (cross(p, log_q) / 4, "It averages over the classes. A cross-entropy is a sum over them."),
        },
    )  # fmt: skip
    scores = torch.tensor([[0.0, 400.0, -400.0]])
    for theirs in (torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[600.0, 0.0, -600.0]])):
        at_edge(
            f"For the scores {scores[0].tolist()} and {theirs[0].tolist()} of the teacher, at temperature 2,",
            "exp(200) is too large for a float, and exp(−400) becomes 0, whose logarithm is infinite. softmax and "
            "log_softmax are built for this: give them the scores, and never take the logarithm of a softmax.",
            cross((theirs.double() / 2).softmax(1), (scores.double() / 2).log_softmax(1)),
            soft_loss,
            scores,
            theirs,
            2.0,
            key="overflow",
        )
    return "At temperature 1 this is the loss of the chapter."


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
        (
            "First find out where the walk ends. Then ask which guess takes a single Euler step there. Only the second part "
            "is algebra, and it doesn't care how many steps the walk had."
        ),
        (
            "Where does one Euler step with the guess x̃ land, going from σ₀ to the last level? Write it as a mixture of x "
            "and x̃, and call the ratio of the two levels r."
        ),
        (
            "Now you have two expressions for the same place: the end of the walk, and that mixture. Solve for x̃. The "
            "result must still work when the last level is 0."
        ),
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
            "end": (y, "It returns the end of the walk. That point is still noisy; the guess lies farther along the line."),
            "last guess": (
                teacher(y, levels[-1]),
                ("That's the teacher's guess at the end of the walk. The exercise asks for the point on the line from x through that end."),
            ),
            "first guess": (teacher(x, levels[0]), "That's the teacher's guess at the start. The walk bends away from it."),
            "two steps": (
                two_step_target(teacher, x, *levels[:3]),
                "It stops after two steps. The walk continues to the last level of `sigmas`.",
            ),
            "one big step": (
                guess(euler_step(teacher, x, levels[0], levels[-1])),
                "The teacher must stop at every level of `sigmas`, not go from the first to the last in one step.",
            ),
            "restarted": (guess(restarted), "Every step starts from x again. Each should start where the one before ended."),
            "not divided": (y - r * x, "Now divide by 1 − r: what you have is (1 − r) x̃."),
            "upside down": (guess(y, 1 / r), "The ratio is upside down. It's the last level over the first, so it's below 1."),
            "neighbors": (
                guess(y, levels[-1] / levels[-2]),
                "The student's step begins at the first level, so the ratio is the last level over the first.",
            ),
        },
        tolerance=1e-3,
    )  # fmt: skip
    levels, y = torch.cat([levels, torch.zeros(1)]), euler_step(teacher, y, levels[-1], 0.0)
    why = "There it should be the end of the walk. Are you dividing by the ratio, which is 0?"
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
        (
            "After one round, the student's four steps land where eight of the teacher's do. Apply the same thought to the "
            "next round, and the one after that."
        ),
    ),
)
def _(student_width: object, g: Generator) -> str:
    near(
        number(student_width),
        0.333,
        {
            "data": (0.5, "0.5 is the width of the data. The data only choose the questions; the answers are the teacher's, with all the errors of its walk."),
            "one step of the teacher": (0.003, "That's the first teacher in one step. The student was trained to do the work of eight steps in one."),
            "two steps of the teacher": (0.17, "That's the first teacher in two steps. The last student learned from the second student, which is better than that."),
            "four steps of the teacher": (0.20, "That's the first teacher in four steps. The first student also takes four, but each does the work of two."),
            "each round again": (0.5 * 0.666**3, "You let each round shrink the samples again. A perfect student adds no error of its own."),
            "half way": (0.417, "Halfway between teacher and data? A perfect student repeats its teacher and knows nothing else."),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "The last student repeats the eight-step walk, including all of Euler's errors."


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
        (
            "What has to be true of the ends if a network that sees only the start is to learn them? Ask for the ends of the "
            "same starts twice, and compare."
        ),
        (
            "A fixed seed gives the same numbers every time, but then an end depends on its place in the batch. How can you "
            "ask about the same starts in other places?"
        ),
        (
            "If you hand in the starts in reverse, what should happen to the ends? Compare row by row, and allow for "
            "rounding as the exercise says."
        ),
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
            "fresh noise": (ddpm, "It passes the code above: the same start gets a different end each time, and your test doesn't notice."),
            "fixed seed": (
                seeded,
                ("It passes the friend's fix: two calls agree, but an end still depends on its place in the batch. Ask for the same start in another place."),
            ),
            "shuffled": (
                shuffled,
                ("It passes code that puts the right ends in the wrong rows, so that starts get each other's ends. Ask for the same starts in another order, and compare row by row."),
            ),
        },
    )  # fmt: skip
    return "An end must depend on its start and on nothing else. Then there's an answer to learn."
