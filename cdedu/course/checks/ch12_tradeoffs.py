"""The exercises of chapter 12: frontiers, bills, and fair comparisons."""

import torch
from torch import Generator, Tensor, rand, randn

from cdedu.course.checks.core import (
    NotAttempted,
    Wrong,
    agree,
    attempted,
    call,
    choose,
    exercise,
    near,
    number,
)


@exercise(
    "trade-front",
    "Dominated beyond doubt",
    "code",
    "medium",
    15,
    answers=("undominated",),
    hints=(
        "Two questions for each pair: does j cost no more than i, and is even j's worst run better than i's best?",
        (
            "calls[:, None] and calls[None, :] make a table of all pairs. One condition compares the calls, the other "
            "compares two ends of the intervals."
        ),
        (
            "Your table says, for each i and j, whether j beats i. Over which dimension do you ask `any`? And does the "
            "exercise want True for the beaten ones, or for the others?"
        ),
    ),
)
def _(undominated: object, g: Generator) -> str:
    # A tie in calls that counts, two that overlap, two that touch, one that is dear and good, and one that is dearer and beaten.
    rows = torch.tensor([[1, 50, 60], [1, 90, 99], [2, 40, 58], [2, 43, 49], [4, 70, 80], [10, 30, 38], [12, 38, 44], [35, 32, 37], [70, 5, 9], [100, 20, 25.0]])  # fmt: skip
    calls, low, high = rows[torch.randperm(len(rows), generator=g)].T
    calls, scale = calls.long(), 0.5 + rand((), generator=g)
    low, high = scale * low, scale * high

    def front(cheaper: Tensor, better: Tensor) -> Tensor:
        return ~(cheaper & better).any(1)

    def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, None], x[None, :]

    (mine, other), (low_i, low_j), (high_i, high_j) = pairs(calls), pairs(low), pairs(high)
    truth = front(other <= mine, high_j < low_i)
    value = call(undominated, calls, low, high)
    if isinstance(value, list | tuple):
        value = torch.tensor(value)
    if isinstance(value, Tensor) and value.shape != calls.shape and not value.is_floating_point():
        raise Wrong("indices", f"It should return one True or False for each of the {len(calls)} samplers, not the indices of those that are left.")  # fmt: skip
    mistakes = {
        "inverted": (~truth, "These are the beaten ones. The answer is True for those that are *not*."),
        "best cases": (front(other <= mine, low_j < low_i), "You compare the best runs. Beyond doubt means that even the other's worst run is better than this one's best."),
        "worst cases": (front(other <= mine, high_j < high_i), "You compare the worst runs. Beyond doubt means that the other's worst run is better than this one's *best*."),
        "doubtful": (front(other <= mine, low_j < high_i), "Intervals that overlap count as beaten here, and each sampler even beats itself. Compare the other's `high` with this one's `low`."),
        "same price": (front(other < mine, high_j < low_i), "A sampler with equally many calls can beat this one too."),
        "dearer": (front(other >= mine, high_j < low_i), "It lets more expensive samplers beat cheaper ones. A sampler is out only if something is better for *no more* calls."),
        "any price": (front(torch.ones_like(other <= mine), high_j < low_i), "It ignores the calls. Something better but more expensive leaves a cheap sampler on the frontier."),
        "higher is better": (front(other <= mine, low_j > high_i), "A distance is better when it is *smaller*."),
        "touching": (front(other <= mine, high_j <= low_i), "Where the other's worst run only ties this one's best, it isn't smaller, so there's still doubt."),
    }  # fmt: skip
    if isinstance(value, Tensor) and value.shape == truth.shape and ((value == 0) | (value == 1)).all():
        i = int((value.bool() != truth).int().argmax())
        row = f"The sampler with {calls[i]} calls and distances from {low[i]:.1f} to {high[i]:.1f}"
        said = (
            "is left out, but none beats it beyond doubt."
            if truth[i]
            else "stays, but one beats it beyond doubt."
        )
        mistakes["one row"] = value, f"{row} {said}"
    agree(value, truth.double(), mistakes, what="The front")
    return "What's left is a thick line: samplers that these runs can't tell apart stay on it together."


@exercise(
    "trade-decoder",
    "Faster, with a decoder",
    "predict",
    "easy",
    5,
    answers=("factor",),
    hints=(
        (
            "Write down the milliseconds for one image twice, once for the teacher and once for the student. What happens "
            "once per image, and what once per pass?"
        ),
        (
            "How many passes does a guided step take, and how many does a step of this student? Who needs the decoder, and "
            "how often?"
        ),
    ),
)
def _(factor: object, g: Generator) -> str:
    near(
        number(factor),
        2060 / 140,
        {
            "steps only": (25 / 2, "That's the ratio of the steps. The teacher makes two passes a step, and both decode."),
            "no decoder": (50 / 2, "That's the ratio of the passes. Both also decode, and for the student that's nearly half of its time."),
            "unguided": (1060 / 140, "The teacher is guided without distillation: each of its steps needs two passes."),
            "student guided": (2060 / 220, "The student has guidance built in, so each of its steps is a single pass."),
            "decoder once": (2000 / 140, "The teacher's latents must be decoded too."),
            "teacher's decoder": (2060 / 80, "The student's latents must be decoded too."),
            "decoder each step": ((2000 + 25 * 60) / (80 + 120), "Decoding happens once per image, at the end, and not at every step."),
            "inverse": (140 / 2060, "That's the student's time as a fraction of the teacher's. The question asks the other way around."),
        },
        tolerance=0.015,
    )  # fmt: skip
    return (
        "The decoder takes 60 of the student's 140 ms. The next thing to speed up isn't the sampler anymore."
    )


@exercise(
    "trade-bill",
    "The bill of a published student",
    "predict",
    "medium",
    15,
    answers=("millions", "errs"),
    hints=(
        (
            "Start with one training image: the student forward and backward, the target, and the solver that the question "
            "names. Then count all the images, and the calls that each sample saves."
        ),
        (
            "Distillation is paid for once; each sample saves the teacher's calls minus the student's own. For the second "
            "question: is there a cheaper way to the student's FID than 79 calls?"
        ),
    ),
)
def _(millions: object, errs: object, g: Generator) -> str:
    images, value = 0.6 * 2048, number(millions)
    if value > 1e5:
        raise Wrong("unit", "Give it in millions of samples.")
    near(
        value,
        images * 6 / 77,
        {
            "one step": (images * 6 / 78, "Nearly: that's for one step. This student takes two."),
            "not the student's": (images * 6 / 79, "The student's own calls cost something too: a sample saves 79 − 2."),
            "Euler": (images * 5 / 77, "The row says Heun: its step calls the teacher twice. And the target is a call, too."),
            "no backward": (images * 4 / 77, "Four passes an image are too few: the student learns, and its backward pass counts as two; or you left out the teacher, which takes the solver's step."),
            "student alone": (images * 3 / 77, "Three passes an image: that's the student alone. Who answers at the next point, and who takes the step to it?"),
            "images": (images / 77, "You count one evaluation for each image of a batch. But student, target and teacher are all called, and the student learns."),
            "consistency training": (0.8 * 2048 * 4 / 77, "Those are the iterations and the cost of consistency *training*."),
            "its iterations": (0.8 * 2048 * 6 / 77, "800,000 are the iterations of consistency *training*. Distillation has 600,000."),
            "CIFAR-10": (images * 6 / 33, "35 calls is the teacher on CIFAR-10. Here it makes 79."),
            "not divided": (images * 6, "That's the price of the distillation, in millions of evaluations. How many does a sample save?"),
        },
        tolerance=0.005,
    )  # fmt: skip
    choose(
        errs,
        "a",
        {
            "b": (
                "Think of the teacher's cheapest walk with FID 4.70. It has fewer calls than 79, so a sample saves less, and the "
                "number grows."
            ),
            "c": (
                "It would be right if 79 calls were the cheapest way to FID 4.70. With 79 the teacher gets 2.44, far better than "
                "the student."
            ),
        },
    )
    return "Nearly a hundred million samples, and more against a rival of equal quality: worth it for a service, not for a figure."


@exercise(
    "trade-fair",
    "A student that beats its teacher",
    "bug",
    "medium",
    15,
    answers=("score",),
    hints=(
        (
            "For every argument and every number, ask: is it the same for all samplers? And what does the Fréchet distance "
            "do when there are fewer samples?"
        ),
        "There are two defects. Who gets fewer samples? And is the number that's reported what a typical seed would give?",
        (
            "Choose one sample size for every sampler, on both sides of the distance. Then keep all three values, and report "
            "one that a single lucky draw can't move."
        ),
    ),
)
def _(score: object, g: Generator) -> str:
    real = randn(40, 3, generator=g)
    outcome = {}
    for calls in (2, 35):
        asked: list[tuple[int, object]] = []
        sizes: list[tuple[int, int]] = []

        def sampler(n: int, seed: int, asked: list[tuple[int, object]] = asked) -> Tensor:
            asked.append((int(n), seed))
            return randn(int(n), 3, generator=g)

        given = (7.0, 1.0, 2.5) if calls == 2 else (2.5, 7.0, 1.0)

        def distance(
            a: Tensor,
            b: Tensor,
            sizes: list[tuple[int, int]] = sizes,
            given: tuple[float, ...] = given,
        ) -> float:
            sizes.append((len(a), len(b)))
            return given[(len(sizes) - 1) % 3]

        value = number(call(score, sampler, real, distance, calls))
        outcome[calls] = (value, asked, sizes)
    (fast, fast_asked, fast_sizes), (slow, slow_asked, slow_sizes) = outcome[2], outcome[35]
    if (
        fast == slow == 1
        and slow_asked
        and {n for n, _ in slow_asked} == {10}
        and {n for n, _ in fast_asked} == {40}
    ):
        raise NotAttempted("This is still the code you were given: slow samplers get fewer samples, and the luckiest seed is reported.")  # fmt: skip
    attempted(slow_asked or None)
    alike = {tuple(sorted(pair)) for pair in fast_sizes} == {tuple(sorted(pair)) for pair in slow_sizes}
    if not alike and all(a == b for a, b in fast_sizes + slow_sizes):
        raise Wrong("both cut", "Each distance now has equal sizes on both sides, but slow samplers are still compared at a different size from fast ones, and the bias depends on the size.")  # fmt: skip
    if not alike or len(set(fast_sizes)) > 1:
        raise Wrong("unequal", f"For a slow sampler it compares {slow_sizes[-1][0]} and {slow_sizes[-1][1]} samples, for a fast one {fast_sizes[-1][0]} and {fast_sizes[-1][1]}. The distance is biased by the size: use the same size everywhere, such as len(real).")  # fmt: skip
    least = min(min(pair) for pair in fast_sizes)
    if least <= real.shape[1]:
        raise Wrong("too few", f"All samplers are treated alike, but {least} samples of {real.shape[1]} features don't give a covariance that means anything. Take more.")  # fmt: skip
    if len({seed for _, seed in slow_asked}) < 3:
        raise Wrong("one draw", "It no longer looks at three seeds. A single draw says nothing about the scatter: keep all three, and report a typical one.")  # fmt: skip
    if [seed for _, seed in fast_asked] != [seed for _, seed in slow_asked]:
        raise Wrong(
            "other seeds", "Fast and slow samplers start from different seeds. Give them all the same ones."
        )
    if slow == fast == 1:
        raise Wrong("luckiest", "The sizes are right. But it still reports the smallest of three distances, which improves the more often you try.")  # fmt: skip
    if fast != slow:
        raise Wrong("order", f"For the distances 7, 1 and 2.5 it reports {fast:g}, and {slow:g} where they come as 2.5, 7, 1. The median doesn't depend on the order.")  # fmt: skip
    if slow == 7:
        raise Wrong("unluckiest", "It reports the largest of the three distances. Take a typical one: the median.")  # fmt: skip
    if abs(slow - 3.5) < 1e-6:
        raise Wrong("mean", "It reports the mean, which one bad draw can move. Take the median.")
    if abs(slow - 2.5) > 1e-6:
        raise Wrong("not typical", f"For the distances 7, 1 and 2.5 it reports {slow:g}. The median is 2.5.")
    return "Equal n, the same seeds, a typical value: now the numbers can go into one table."
