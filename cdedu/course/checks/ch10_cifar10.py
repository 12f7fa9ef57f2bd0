"""The exercises of chapter 10: what an hour buys, what a distance of few samples is worth, a fair comparison, and a batch in parts."""

import numpy as np
import torch
from torch import Generator, Tensor, rand, randn

from cdedu.course.checks.core import (
    NotAttempted,
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


@exercise(
    "cifar-equal",
    "At equal work",
    "code",
    "medium",
    20,
    answers=("at_equal_work",),
    hints=(
        "Turn each run's looks into forward passes first. How far along that axis have *both* runs come?",
        (
            "The shorter of the two bills is where you compare. How many images had each run seen by then? For one of the two "
            "that's most likely between two looks."
        ),
        (
            "np.interp draws straight lines between the points you give it. Which numbers have to be on its axis, if the "
            "lines are to be straight against the logarithm of the images?"
        ),
    ),
)
def _(at_equal_work: object, g: Generator) -> str:
    def between(seen: list[int], d: list[float], x: float, log: bool = True) -> float:
        axis = np.log if log else np.asarray
        return float(np.interp(axis(x), axis(seen), d))

    def looks(*seen: int) -> tuple[list[int], list[float]]:
        """A record with these looks, more or less, whose distances fall."""
        scale, step = 0.8 + 0.4 * rand((), generator=g).item(), 0.5 + rand(len(seen), generator=g)
        return [int(scale * n) for n in seen], (2 + step.flip(0).cumsum(0).flip(0)).tolist()

    def pair(value: object) -> Tensor:
        if isinstance(value, list | tuple):
            value = torch.tensor([number(one) for one in value], dtype=torch.float64)
        if not isinstance(value, Tensor) and getattr(value, "shape", None) == (2,):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor) or value.shape != (2,):
            raise Wrong("type", "It should return two numbers: the distance of the first run and that of the second.")  # fmt: skip
        return value

    def before(seen: list[int], d: list[float], x: float) -> float:
        return d[max(0, sum(n <= x for n in seen) - 1)]

    (na, da), (nb, db) = looks(25_000, 50_000, 100_000), looks(30_000, 60_000, 120_000, 480_000)
    for first, second, longer in (((na, da, 6), (nb, db, 4), "second"), ((nb, db, 4), (na, da, 6), "first")):
        runs = (first, second)

        def at(work: float, log: bool = True, runs: tuple = runs) -> Tensor:
            return torch.tensor([between(n, d, work / p, log) for n, d, p in runs])

        work = min(n[-1] * p for n, _, p in runs)
        same = min(n[-1] for n, _, _ in runs)
        inverse = min(n[-1] / p for n, _, p in runs)
        last = torch.tensor([d[-1] for _, d, _ in runs])
        mistakes = {
            "swapped": (at(work).flip(0), "The two distances are right, but they come in the wrong order: the first run's goes first."),
            "last looks": (last, f"These are the last looks of both. The {longer} run has done more work by then, so its last look doesn't count yet.")
            if longer == "second"
            else (last, "Here the first run has done more than the second. You can't go further than the *shorter* of the two, whichever of them it is."),
            "equal images": (
                torch.tensor([between(n, d, same) for n, d, _ in runs]),
                "That compares after equally many images. But an image of one run costs more passes than an image of the other.",
            ),
            "upside down": (
                torch.tensor([between(n, d, inverse * p) for n, d, p in runs]),
                "Passes an image: so the work is images *times* passes, not images divided by them.",
            ),
            "straight in images": (at(work, log=False), "Your lines are straight against the images themselves. The exercise draws them against the logarithm."),
            "a look before": (
                torch.tensor([before(n, d, work / p) for n, d, p in runs]),
                "You take the last look before the point. Between two looks the distance went on falling: interpolate.",
            ),
        }  # fmt: skip
        value = pair(attempted(call(at_equal_work, *first, *second)))
        agree(value, at(work), mistakes, what="The pair of distances")
    paper, other = ([100_000_000, 409_600_000], [6.0, 3.0]), ([100_000_000, 300_000_000], [5.0, 4.0])
    truth = torch.tensor([between(*paper, 300_000_000), 4.0])
    if not torch.allclose(
        pair(call(at_equal_work, *paper, 6, *other, 6)).double(), truth.double(), atol=1e-3
    ):
        raise Wrong("overflow", "For 409,600,000 images at 6 passes each, as in the paper's run, it goes wrong. That product doesn't fit into 32 bits; Python's own whole numbers have no such limit.")  # fmt: skip
    return "One line for each method on one axis of forward passes: that's the figure that the research exercise below asks for."


@exercise(
    "cifar-accumulate",
    "A batch in parts",
    "bug",
    "medium",
    15,
    answers=("gradient",),
    hints=(
        "Try it on paper: 40 images, 16 at once. Which parts are there, and what does `total` hold after each of them?",
        (
            "There are two defects. What becomes of the first part's gradient when the second one comes? And how much should "
            "8 images count beside 16?"
        ),
        (
            "A mean is a sum divided by a count. Which sum can you recover from a part's mean gradient? And before you add: "
            "the largest number in fp16 is 65,504."
        ),
    ),
)
def _(gradient: object, g: Generator) -> str:
    def each(x: Tensor) -> Tensor:
        """The gradient of one image's loss, a row for each."""
        return torch.stack([x[:, 1], x[:, 1] * x[:, 2], x[:, 2].square() + 1], 1)

    old = []
    for n, at_once in ((48, 16), (40, 16), (12, 16), (37, 10)):
        images = torch.cat([torch.arange(n)[:, None], randn(n, 2, generator=g)], 1)
        sizes: list[int] = []
        seen: list[int] = []

        def part_gradient(x: Tensor, sizes: list[int] = sizes, seen: list[int] = seen) -> Tensor:
            sizes.append(len(x))
            seen += x[:, 0].long().tolist()
            return each(x).mean(0)

        parts = images.split(at_once)
        means, counts = torch.stack([each(x).mean(0) for x in parts]), torch.tensor([len(x) for x in parts])
        weighted = (means * counts[:, None]).sum(0)
        truth, k = each(images).mean(0), len(parts)
        value = attempted(call(gradient, part_gradient, images, at_once))
        where = f"For {n} images, {at_once} at once,"
        if k > 1 and isinstance(value, Tensor) and torch.equal(value, means[-1] / k):
            old.append(n)
            continue
        if sizes and max(sizes) > at_once:
            raise Wrong("too many at once", f"{where} it computes {max(sizes)} at once. Memory doesn't hold more than {at_once}.")  # fmt: skip
        if len(seen) > len(set(seen)):
            raise Wrong("twice", f"{where} some images are computed more than once. That costs time, and counts them double.")  # fmt: skip
        if set(seen) < set(range(n)):
            raise Wrong("lost", f"{where} it looks at {len(seen)} of them. The last part is shorter than the others, but it belongs to the batch too.")  # fmt: skip
        agree(
            value,
            truth,
            {
                "last part": (means[-1], f"{where} it returns the gradient of the last part alone. What became of the others?"),
                "mean of means": (means.mean(0), f"{where} every part counts the same. But the last one has fewer images, and each of them would count more than the others."),
                "sum of means": (means.sum(0), f"{where} it adds up the parts' means. That's {k} times too large where the parts are alike, and wrong where they aren't."),
                "not divided": (weighted, f"{where} it returns a sum over the images. The loss is a mean, and so is its gradient."),
                "by the parts": (weighted / k, f"{where} the sum over images gets divided by the number of parts. How many terms are in that sum?"),
                "full parts": (means.sum(0) * at_once / n, f"{where} it counts the last part as if it had {at_once} images."),
            },
            tolerance=1e-5,
            what="The gradient",
        )  # fmt: skip
    if old:
        raise NotAttempted("This is still the code you were given: it keeps only the last part, and lets a short part count as much as a full one.")  # fmt: skip
    images = torch.cat([torch.arange(40)[:, None], 3000 + 10 * randn(40, 2, generator=g)], 1)
    at_edge(
        "Where gradients come in fp16 and are around 3,000,",
        "Sixteen times 3,000 still fits into fp16, but not the sum over a few parts, whose limit is 65,504. Turn each part's gradient into float32 before you multiply or add.",
        torch.full((2,), 3000.0),
        gradient,
        lambda x: torch.full((2,), 3000.0, dtype=torch.float16),
        images,
        16,
        key="overflow",
    )
    return "Now the parts are up to the card's memory, and the batch stays the recipe's."
