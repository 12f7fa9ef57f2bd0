"""The exercises of chapter 10: what an hour buys, and what a distance of few samples is worth."""

import torch
from torch import Generator, rand

from cdedu.course.checks.core import Wrong, agree, at_edge, call, exercise, near, number


@exercise(
    "cifar-hour",
    "What an hour buys",
    "predict",
    "easy",
    10,
    answers=("millions",),
    hints=(
        "How many operations does the card really do in a second, and how many does one training image take?",
        (
            "In forward passes, what does one training image cost? Count the student, the target and Heun's step. Of the "
            "promised operations the card does 15 %."
        ),
    ),
)
def _(millions: object, g: Generator) -> str:
    value, forward = number(millions), 0.15 * 65e12 * 3600 / 1.3e9 / 1e6
    if value > 1e5:
        raise Wrong("unit", "Give it in millions of images.")
    near(
        value,
        forward / 6,
        {
            "forward only": (forward, "That's how many images can go through the network once. A training image takes more than one pass."),
            "teacher": (forward / 3, "Three passes is what the teacher's own training takes. In distillation the target and the teacher are called too."),
            "consistency training": (forward / 4, "Four passes is consistency training. Distillation also calls the teacher."),
            "Euler": (forward / 5, "Five passes is Euler's step. Heun's calls the teacher twice."),
            "all backward": (forward / 12, "Only the student has a backward pass, which counts as two."),
            "peak": (forward / 6 / 0.15, "That's what the peak rate would give. The run gets 15 % of it."),
            "other share": (forward / 6 * 0.85 / 0.15, "15 % is what the run gets, not what it loses."),
            "a second": (forward / 6 / 3600, "That's per second. An hour has 3,600."),
        },
        tolerance=0.03,
    )  # fmt: skip
    return (
        "That's 1,250 images a second. The 15 % is the shakiest number in it: the first minute of the run will tell you "
        "the real one."
    )


@exercise(
    "cifar-floor",
    "The distance without its floor",
    "code",
    "medium",
    15,
    answers=("without_floor",),
    hints=(
        "Two unknown numbers, D and c, and two equations: d1 = D + c/n1 and d2 = D + c/n2. Which combination has no c in it?",
        "Multiply each equation by its own n. What do the two have in common then, and how do you get rid of it?",
    ),
)
def _(without_floor: object, g: Generator) -> str:
    small = int(torch.randint(500, 2000, (), generator=g))
    large, true, c = 3 * small, 5 + 10 * rand((), generator=g).item(), 20_000.0
    d1, d2 = true + c / small, true + c / large
    agree(
        call(without_floor, small, d1, large, d2),
        torch.tensor(true),
        {
            "larger set": (torch.tensor(d2), "That's the distance of the larger set. Its floor is lower, but it's still there."),
            "average": (torch.tensor((d1 + d2) / 2), "The mean of the two still has a floor in it. Both are too large, so the answer lies below both."),
            "weighted": (
                torch.tensor((small * d1 + large * d2) / (small + large)),
                "A mean weighted by the sizes lies between the two. The answer lies below both.",
            ),
            "doubled": (torch.tensor(2 * d2 - d1), "2·d2 − d1 is right when the second set is twice as large as the first. Here it can have any size."),
            "straight in n": (
                torch.tensor(d1 - small * (d2 - d1) / (large - small)),
                ("It follows a straight line in n, back to n = 0. The distance is a straight line in 1/n, and you want 1/n = 0. Or did n1 and n2 get swapped? Each distance goes with its own n."),
            ),
            "floor": (torch.tensor(c / large), "That's the floor of the larger set. Subtract it from its distance."),
            "constant": (torch.tensor(c), "That's c. The exercise asks for D, what's left with ever more samples."),
        },
        tolerance=1e-5,
    )  # fmt: skip
    for near_by in (49_999, 49_997, 49_990):
        at_edge(
            f"For n1 = {near_by:,} and n2 = 50,000 samples",
            "n2·d2 − n1·d1 is a small difference of large numbers, and seven digits are too few for it. Python's own numbers "
            "have sixteen.",
            torch.tensor(true),
            without_floor,
            near_by,
            true + c / near_by,
            50_000,
            true + c / 50_000,
            key="cancellation",
            tolerance=1e-5,
        )
    return "It's an estimate that scatters more than either distance, which is why papers agree on one n instead."
