"""Prepared answers to the exercises of chapter 11."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

right("full-batch", images=1024.0, parts=8)
unusual("full-batch", images=np.int16(1024), parts=Decimal(8))
wrong("full-batch", "one process", images=128)
wrong("full-batch", "one part", images=256)
wrong("full-batch", "one part of one", images=32)
wrong("full-batch", "blocks", images=64)
wrong("full-batch", "blocks counted", images=16_384)
wrong("full-batch", "as before", parts=4)
wrong("full-batch", "fewer", parts=2)
wrong("full-batch", "all of them", parts=32)


@right("full-part")
def by_counting_parts(batch, processes, block, image, fixed, memory):
    mine = batch // processes
    for count in range(1, mine + 1):
        size, rest = divmod(mine, count)
        if not rest and not size % block and size * image <= memory - fixed:
            return size
    return 0


@unusual("full-part")
def in_numpy(batch, processes, block, image, fixed, memory):
    """A table of all sizes, with masks, in 64 bits."""
    sizes = np.arange(block, batch // processes + 1, block, dtype=np.int64)
    good = sizes[((batch // processes) % sizes == 0) & (fixed + sizes * np.int64(image) <= memory)]
    return torch.tensor(good).max() if good.size else torch.tensor(0)


@unusual("full-part")
def by_recursion(batch, processes, block, image, fixed, memory):
    blocks = batch // processes // block if (batch // processes) % block == 0 else 0

    def down(k):
        if k == 0 or (blocks % k == 0 and fixed + k * block * image <= memory):
            return k * block
        return down(k - 1)

    return float(down(blocks))


@fragile("full-part", "one too many")
def in_single_precision(batch, processes, block, image, fixed, memory):
    sizes = torch.arange(block, batch // processes + 1, block)
    fits = fixed + sizes.float() * image <= torch.tensor(float(memory))
    good = sizes[fits & ((batch // processes) % sizes == 0)]
    return int(good.max()) if len(good) else 0


def largest(batch, processes, block, image, fixed, memory, most=None, fits=None, least=0):
    mine = most or batch // processes
    fits = fits or (lambda p: fixed + p * image <= memory)
    return max((p for p in range(block, mine + 1, block) if mine % p == 0 and fits(p)), default=least)


@wrong("full-part", "own share")
def _(batch, processes, block, image, fixed, memory):
    return largest(batch, processes, block, image, fixed, memory, most=batch)


@wrong("full-part", "shares")
def _(batch, processes, block, image, fixed, memory):
    part = largest(batch, processes, block, image, fixed, memory)
    return 2 ** int(math.log2(part)) if part else 0


@wrong("full-part", "unequal")
def _(batch, processes, block, image, fixed, memory):
    return max(0, min(batch // processes, (memory - fixed) // image // block * block))


@wrong("full-part", "one too many")
def _(batch, processes, block, image, fixed, memory):
    return largest(
        batch, processes, block, image, fixed, memory, fits=lambda p: fixed + (p - 1) * image <= memory
    )


@wrong("full-part", "broken block")
def _(batch, processes, block, image, fixed, memory):
    return largest(batch, processes, 1, image, fixed, memory)


@wrong("full-part", "too little")
def _(batch, processes, block, image, fixed, memory):
    return largest(batch, processes, block, image, fixed, memory, least=block)


@wrong("full-part", "just fits")
def _(batch, processes, block, image, fixed, memory):
    return largest(batch, processes, block, image, fixed, memory, fits=lambda p: fixed + p * image < memory)


@wrong("full-part", "type")
def _(batch, processes, block, image, fixed, memory):
    return "sixteen"


# --- how often to save -------------------------------------------------------------------------------

right("full-save", minutes=9.5, lost=5.3)
unusual("full-save", minutes=torch.tensor([9.487]), lost=Fraction(527, 100))
wrong("full-save", "seconds", minutes=569)
wrong("full-save", "whole interval", minutes=6.7)
wrong("full-save", "hours", minutes=0.158)
wrong("full-save", "squared", minutes=2 * 15 * 10_800 / 60)
wrong("full-save", "all the time", minutes=0.25)
wrong("full-save", "at the end", minutes=180)
wrong("full-save", "half a session", minutes=90)
wrong("full-save", "one of two", lost=2.6)
wrong("full-save", "a share", lost=0.053)
wrong("full-save", "whole interval lost", lost=7.9)
wrong("full-save", "a session's", lost=9.5)


# --- the ruler in the loss ---------------------------------------------------------------------------


@right("full-ruler")
def by_what_is_left(plain, tuned, floor, plain_2, tuned_2, floor_2):
    left = ((tuned - floor) / (plain - floor)).mean()
    left_2 = ((tuned_2 - floor_2) / (plain_2 - floor_2)).mean()
    return (1 - left_2) / (1 - left)


@unusual("full-ruler")
def by_loops(plain, tuned, floor, plain_2, tuned_2, floor_2):
    """Sums over as many seeds are as good as means."""
    total = [0.0, 0.0]
    for i, (p, t, f) in enumerate(((plain, tuned, floor), (plain_2, tuned_2, floor_2))):
        for before, after in zip(p.tolist(), t.tolist(), strict=True):
            total[i] += (before - after) / (before - f)
    return total[1] / total[0]


@fragile("full-ruler", "cancellation")
def rulers_in_single_precision(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return by_what_is_left(plain.float(), tuned.float(), floor, plain_2.float(), tuned_2.float(), floor_2)


@wrong("full-ruler", "raw")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return (plain_2 - tuned_2).mean() / (plain - tuned).mean()


@wrong("full-ruler", "no floor")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return (1 - tuned_2 / plain_2).mean() / (1 - tuned / plain).mean()


@wrong("full-ruler", "swapped")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return by_what_is_left(plain, tuned, floor_2, plain_2, tuned_2, floor)


@wrong("full-ruler", "inverse")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return 1 / by_what_is_left(plain, tuned, floor, plain_2, tuned_2, floor_2)


@wrong("full-ruler", "remains")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return ((tuned_2 - floor_2) / (plain_2 - floor_2)).mean() / ((tuned - floor) / (plain - floor)).mean()


@wrong("full-ruler", "in the ruler")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return 1 - by_what_is_left(plain, tuned, floor, plain_2, tuned_2, floor_2)


@wrong("full-ruler", "mean of ratios")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return ((plain_2 - tuned_2) / (plain_2 - floor_2) / ((plain - tuned) / (plain - floor))).mean()


@wrong("full-ruler", "own gain")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return ((plain - tuned) / (plain - floor)).mean()


@wrong("full-ruler", "other gain")
def _(plain, tuned, floor, plain_2, tuned_2, floor_2):
    return ((plain_2 - tuned_2) / (plain_2 - floor_2)).mean()
