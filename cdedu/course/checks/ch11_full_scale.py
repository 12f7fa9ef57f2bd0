"""The exercises of chapter 11: one batch on many processes, how often to save, and a ruler that sat in the loss."""

import math

import torch
from torch import Generator, Tensor, rand

from cdedu.course.checks.core import (
    Wrong,
    agree,
    at_edge,
    attempted,
    call,
    exercise,
    near,
    number,
)


@exercise(
    "full-batch",
    "The same step on fewer cards",
    "predict",
    "easy",
    10,
    answers=("images", "parts"),
    hints=(
        "An optimizer step sees what all processes compute in all of their parts.",
        (
            "The batch has to stay as it is. If half as many processes share it, how many images does each have, and how "
            "many parts of 32 is that?"
        ),
    ),
)
def _(images: object, parts: object, g: Generator) -> str:
    near(
        number(images),
        1024,
        {
            "one process": (128, "images: that's one process. All eight contribute to a step."),
            "one part": (
                256,
                "images: that's one part of every process. Each computes four before the step.",
            ),
            "one part of one": (32, "images: that's one part of one process."),
            "blocks": (64, "images: that's the number of blocks of 16. How many images do they hold?"),
            "blocks counted": (
                16 * 1024,
                "images: a block of 16 images is a piece of the batch, not a factor of it.",
            ),
        },
        tolerance=0.001,
        what="images",
    )
    near(
        number(parts),
        8,
        {
            "as before": (4, "parts: four parts on four processes are 512 images. That's half the batch, and a different run."),
            "fewer": (2, "parts: fewer processes have more to do each, not less."),
            "all of them": (32, "parts: that's how many all four processes compute together. The question asks about one."),
        },
        tolerance=0.001,
        what="parts",
    )  # fmt: skip
    return "Images, levels and noise are the same as before: they depend only on the place in the batch."


@exercise(
    "full-part",
    "The largest part",
    "code",
    "medium",
    15,
    answers=("largest_part",),
    hints=(
        "First, how many images does a process have? Then, which parts can it be cut into, and which of those fit?",
        (
            "A part has to meet three conditions: it's a multiple of `block`, it divides what the process has, and its bytes "
            "fit into memory together with the fixed ones."
        ),
        (
            "There are few enough candidates to try them all. In which order would you try them, so that you can stop at the "
            "first one that fits? And what if none does?"
        ),
    ),
)
def _(largest_part: object, g: Generator) -> str:
    def truth(batch: int, processes: int, block: int, image: int, fixed: int, memory: int) -> int:
        mine = batch // processes
        return max((p for p in range(block, mine + 1, block) if mine % p == 0 and fixed + p * image <= memory), default=0)  # fmt: skip

    image, fixed = int(torch.randint(3, 9, (), generator=g)) * 10**7 + 1, 10**9 + 7
    cases = (
        (1024, 8, 16, fixed + 10**4 * image, "own share", "With memory to spare a process takes all that it has at once, 1024/8 = 128 images, and no more."),
        (960, 2, 16, fixed + 250 * image, "shares", "A process has 480 images, and 240 of them fit: the part doesn't have to be a power of two."),
        (960, 2, 16, fixed + 210 * image, "unequal", "The part divides what a process has, so that all parts are alike: 480 is not a multiple of 208."),
        (960, 2, 16, fixed + 240 * image - 1, "one too many", "240 images would need one byte more than there is. Numbers of bytes are long: float32 keeps only seven digits of them."),
        (480, 2, 16, fixed + 200 * image, "broken block", "A part holds whole blocks, and 120 is not a multiple of 16."),
        (512, 4, 16, fixed + 15 * image, "too little", "Not even one block fits. Then the answer is 0."),
        (512, 4, 16, fixed // 2, "too little", "The weights alone don't fit. Then the answer is 0."),
        (512, 4, 16, fixed + 32 * image, "just fits", "32 images fill the memory to the last byte, and that's allowed: compare with <=, and whole numbers with whole numbers."),
    )  # fmt: skip
    for batch, processes, block, memory, key, message in cases:
        value = attempted(call(largest_part, batch, processes, block, image, fixed, memory))
        got, right = number(value), truth(batch, processes, block, image, fixed, memory)
        if got != right:
            numbers = f"batch {batch}, {processes} processes, block {block}, {image:,} bytes an image, {fixed:,} fixed, {memory:,} in all"
            raise Wrong(key, f"For {numbers} it gives {got:g} where {right} is right. {message}")
    return "What is computed at once is up to the machine; what a step sees is up to the recipe."


@exercise(
    "full-save",
    "How often to save",
    "predict",
    "medium",
    10,
    answers=("minutes", "lost"),
    hints=(
        (
            "Save after every t seconds. What share of the time goes into saving, and what share into work that's done twice? "
            "One falls with t, the other rises."
        ),
        (
            "A session that ends at no particular moment ends, on average, in the middle of an interval. How often does that "
            "happen, and what does it cost each time?"
        ),
        "The two shares are s/t and (t/2)/M. Where a falling and a rising term of this kind add up to the least, how do they compare?",
    ),
)
def _(minutes: object, lost: object, g: Generator) -> str:
    save, session = 15.0, 3 * 3600.0
    best = math.sqrt(2 * save * session)
    near(
        number(minutes),
        best / 60,
        {
            "seconds": (best, "minutes: that's in seconds."),
            "whole interval": (math.sqrt(save * session) / 60, "minutes: a break costs half an interval on average, not a whole one."),
            "hours": (best / 3600, "minutes: that's in hours."),
            "squared": (best**2 / 60, "minutes: you have the square of it. The best interval goes with the root of the two times."),
            "all the time": (save / 60, "minutes: then the run does nothing but save: half of its time goes into that."),
            "at the end": (session / 60, "minutes: that's a whole session. It ends without warning, and most of the time you'd have saved nothing."),
            "half a session": (session / 120, "minutes: then a break costs 45 minutes of work. Saving is far cheaper than that."),
        },
        tolerance=0.05,
    )  # fmt: skip
    least = 100 * (save / best + best / 2 / session)
    near(
        number(lost),
        least,
        {
            "one of two": (least / 2, "lost: that's one of the two losses. At the best interval they're equal, and both are paid."),
            "a share": (least / 100, "lost: give it in percent."),
            "whole interval lost": (100 * (save / best + best / session), "lost: a break costs half an interval on average, not a whole one."),
            "a session's": (least / 100 * session / 60, "lost: those are the minutes that a session of three hours loses. What percent of it is that?"),
        },
        tolerance=0.06,
    )  # fmt: skip
    return "The valley is flat: half or twice the interval costs only a quarter more."


@exercise(
    "full-ruler",
    "The ruler in the loss",
    "code",
    "medium",
    20,
    answers=("gain_left",),
    hints=(
        "Take one ruler first. Of its distance, how much could training have removed at all? And what share of that did it remove?",
        (
            "Real images against real ones have a distance too, and no training removes it. Subtract it on both sides before "
            "you form a ratio. Each ruler has its own."
        ),
        (
            "You have a gain per seed and ruler. When one seed's gain happens to be almost 0, what would its ratio do to a "
            "mean over ratios? Average first."
        ),
    ),
)
def _(gain_left: object, g: Generator) -> str:
    def ruler(size: float, gain: float) -> tuple[Tensor, Tensor, float]:
        floor = size * (0.2 + 0.2 * rand((), generator=g).item())
        excess = size * (1 + 0.3 * rand(5, generator=g).double())
        share = gain * (0.5 + rand(5, generator=g).double())
        return floor + excess, floor + excess * (1 - share), floor

    def gains(plain: Tensor, tuned: Tensor, floor: float = 0.0) -> Tensor:
        return 1 - (tuned - floor) / (plain - floor)

    own, other = ruler(4.0, 0.5), ruler(30.0, 0.2)
    (plain, tuned, floor), (plain_2, tuned_2, floor_2) = own, other
    truth = gains(*other).mean() / gains(*own).mean()
    raw = (plain_2 - tuned_2).mean() / (plain - tuned).mean()
    bare = gains(plain_2, tuned_2).mean() / gains(plain, tuned).mean()
    swapped = gains(plain_2, tuned_2, floor).mean() / gains(plain, tuned, floor_2).mean()
    remains = (1 - gains(*other)).mean() / (1 - gains(*own)).mean()
    of_ratios = (gains(*other) / gains(*own)).mean()
    agree(
        call(gain_left, *own, *other),
        truth,
        {
            "raw": (raw, "You compare gains in the rulers' own units. One has distances around 5, the other around 40: measure each gain as a share of what there was to gain."),
            "no floor": (bare, "Part of each distance is its floor, which no training removes. The gain is a share of what lies *above* the floor."),
            "swapped": (swapped, "Each ruler has a floor of its own, and here they got swapped."),
            "inverse": (1 / truth, "It's upside down: the question is how much of the loss's own ruler's gain the *other* one confirms."),
            "remains": (remains, "That compares what is still there after the training. A gain is what went away: 1 minus that."),
            "in the ruler": (1 - truth, "That's the part that the second ruler doesn't confirm. The question asks for the part that it does."),
            "mean of ratios": (of_ratios, "You average ratios. One seed with a small gain moves such a mean as it likes: average the gains first, then divide."),
            "own gain": (gains(*own).mean(), "That's the gain by the ruler in the loss. What does the other one say, and how do the two compare?"),
            "other gain": (gains(*other).mean(), "That's the gain by the second ruler. How does it compare with the gain by the first?"),
        },
    )  # fmt: skip
    excess = torch.tensor([3e-5, 4e-5, 5e-5], dtype=torch.float64)
    at_edge(
        "For distances that lie only 0.0001 above a floor of 1,000",
        "Small differences of large numbers: seven digits aren't enough for them. The distances come in float64; keep them there.",
        torch.tensor(0.5),
        gain_left,
        1000 + 2 * excess,
        1000 + excess,
        1000.0,
        1000 + 4 * excess,
        1000 + 3 * excess,
        1000.0,
        key="cancellation",
    )
    return "A number near 1 says that the gain was real, near 0 that it was in the ruler. Which one it is, nobody can tell from FID alone."
