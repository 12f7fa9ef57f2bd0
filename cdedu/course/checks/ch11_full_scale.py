"""The exercises of chapter 11: one batch on many processes."""

import torch
from torch import Generator

from cdedu.course.checks.core import Wrong, attempted, call, exercise, near, number


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
