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
        "An optimiser step sees what all processes compute in all of their parts.",
        "The batch stays as it is. Half as many processes have twice as many images each, in parts of 32 as before.",
    ),
)
def _(images: object, parts: object, g: Generator) -> str:
    near(
        number(images),
        1024,
        {
            "one process": (128, "images: that is one process. All eight contribute to a step."),
            "one part": (
                256,
                "images: that is one part of every process. Each computes four before the step.",
            ),
            "one part of one": (32, "images: that is one part of one process."),
            "blocks": (64, "images: that is the number of blocks of 16. How many images do they hold?"),
            "blocks counted": (
                16 * 1024,
                "images: a block of 16 images is a piece of the batch, not a factor of it.",
            ),
        },
        tolerance=0.001,
    )
    near(
        number(parts),
        8,
        {
            "as before": (4, "parts: four parts of four processes are 512 images, half of the batch, and another run."),
            "fewer": (2, "parts: fewer processes have more to do each, not less."),
            "all of them": (32, "parts: that is how many all four processes compute together. Asked is one."),
        },
        tolerance=0.001,
    )  # fmt: skip
    return "Images, levels and noise are those of before: they depend on the place in the batch alone."


@exercise(
    "full-part",
    "The largest part",
    "code",
    "medium",
    15,
    answers=("largest_part",),
    hints=(
        "First how many images a process has: batch // processes. Then which parts it may be cut into, and which of them fit.",
        "A part is a multiple of `block`, divides what the process has, and needs fixed + part · image bytes at most.",
        "Go through the numbers from mine = batch // processes down to 1, and return the first that fulfils all three; after the loop return 0.",
    ),
)
def _(largest_part: object, g: Generator) -> str:
    def truth(batch: int, processes: int, block: int, image: int, fixed: int, memory: int) -> int:
        mine = batch // processes
        return max((p for p in range(block, mine + 1, block) if mine % p == 0 and fixed + p * image <= memory), default=0)  # fmt: skip

    image, fixed = int(torch.randint(3, 9, (), generator=g)) * 10**7 + 1, 10**9 + 7
    cases = (
        (1024, 8, 16, fixed + 10**4 * image, "own share", "With memory to spare a process takes all that it has at once, 1024/8 = 128 images, and no more."),
        (960, 2, 16, fixed + 250 * image, "shares", "A process has 480 images, and 240 of them fit: the part need not be a power of two."),
        (960, 2, 16, fixed + 210 * image, "unequal", "The part divides what a process has, so that all parts are alike: 480 is not a multiple of 208."),
        (960, 2, 16, fixed + 240 * image - 1, "one too many", "240 images would need one byte more than there is. Numbers of bytes are long: float32 keeps seven digits of them."),
        (480, 2, 16, fixed + 200 * image, "broken block", "A part holds whole blocks, and 120 is not a multiple of 16."),
        (512, 4, 16, fixed + 15 * image, "too little", "Not even one block fits. Then the answer is 0."),
        (512, 4, 16, fixed // 2, "too little", "The weights alone do not fit. Then the answer is 0."),
        (512, 4, 16, fixed + 32 * image, "just fits", "32 images take the memory to the last byte, and that is enough: compare with <=, and whole numbers with whole numbers."),
    )  # fmt: skip
    for batch, processes, block, memory, key, message in cases:
        value = attempted(call(largest_part, batch, processes, block, image, fixed, memory))
        got, right = number(value), truth(batch, processes, block, image, fixed, memory)
        if got != right:
            numbers = f"batch {batch}, {processes} processes, block {block}, {image:,} bytes an image, {fixed:,} fixed, {memory:,} in all"
            raise Wrong(key, f"For {numbers} it gives {got:g} where {right} is right. {message}")
    return "What is computed at once is the machine's affair; what a step sees is the recipe's."
