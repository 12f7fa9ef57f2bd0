"""Prepared answers to the exercises of chapter 12."""

import statistics
from fractions import Fraction

import numpy as np
import torch
from exercise_answers import right, unusual, wrong


@right("trade-front")
def by_loops(calls, low, high):
    n = len(calls)
    return [not any(calls[j] <= calls[i] and high[j] < low[i] for j in range(n)) for i in range(n)]


@right("trade-front")
def by_the_best_so_far(calls, low, high):
    best = torch.stack([high[calls <= c].min() for c in calls])
    return (low <= best).float()


@wrong("trade-front", "inverted")
def _(calls, low, high):
    return ((calls <= calls[:, None]) & (high < low[:, None])).any(1)


@wrong("trade-front", "best cases")
def _(calls, low, high):
    return ~((calls <= calls[:, None]) & (low < low[:, None])).any(1)


@wrong("trade-front", "worst cases")
def _(calls, low, high):
    return ~((calls <= calls[:, None]) & (high < high[:, None])).any(1)


@wrong("trade-front", "doubtful")
def _(calls, low, high):
    return ~((calls <= calls[:, None]) & (low < high[:, None])).any(1)


@wrong("trade-front", "same price")
def _(calls, low, high):
    return ~((calls < calls[:, None]) & (high < low[:, None])).any(1)


@wrong("trade-front", "dearer")
def _(calls, low, high):
    return ~((calls >= calls[:, None]) & (high < low[:, None])).any(1)


@wrong("trade-front", "any price")
def _(calls, low, high):
    return low <= high.min()


@wrong("trade-front", "higher is better")
def _(calls, low, high):
    return ~((calls <= calls[:, None]) & (low > high[:, None])).any(1)


@wrong("trade-front", "touching")
def _(calls, low, high):
    return ~((calls <= calls[:, None]) & (high <= low[:, None])).any(1)


@wrong("trade-front", "one row")
def _(calls, low, high):
    return ~((calls <= calls[:, None]) & ((low + high) < (low + high)[:, None])).any(1)


@wrong("trade-front", "indices")
def _(calls, low, high):
    return (~((calls <= calls[:, None]) & (high < low[:, None])).any(1)).nonzero()[:, 0]


right("trade-decoder", factor=14.7)
right("trade-decoder", factor=torch.tensor(2060 / 140))
wrong("trade-decoder", "steps only", factor=12.5)
wrong("trade-decoder", "no decoder", factor=25)
wrong("trade-decoder", "unguided", factor=7.57)
wrong("trade-decoder", "student guided", factor=9.36)
wrong("trade-decoder", "decoder once", factor=14.29)
wrong("trade-decoder", "teacher's decoder", factor=25.75)
wrong("trade-decoder", "decoder each step", factor=17.5)
wrong("trade-decoder", "inverse", factor=0.068)
wrong("trade-decoder", "type", factor="fifteen")


right("trade-bill", millions=95.75, errs="a")
right("trade-bill", millions=torch.tensor(600_000 * 2048 * 6 / 77 / 1e6), errs=" A ")
wrong("trade-bill", "one step", millions=94.5, errs="a")
wrong("trade-bill", "not the student's", millions=93.3, errs="a")
wrong("trade-bill", "Euler", millions=79.8, errs="a")
wrong("trade-bill", "no backward", millions=63.8, errs="a")
wrong("trade-bill", "student alone", millions=47.9, errs="a")
wrong("trade-bill", "images", millions=15.96, errs="a")
wrong("trade-bill", "consistency training", millions=85.1, errs="a")
wrong("trade-bill", "its iterations", millions=127.7, errs="a")
wrong("trade-bill", "CIFAR-10", millions=223.4, errs="a")
wrong("trade-bill", "not divided", millions=7372.8, errs="a")
wrong("trade-bill", "unit", millions=95_750_000, errs="a")
wrong("trade-bill", "b", millions=95.75, errs="b")
wrong("trade-bill", "c", millions=95.75, errs="c")


@right("trade-fair")
def with_median(sampler, real, distance, calls):
    return statistics.median(distance(real, sampler(len(real), seed)) for seed in range(3))


@right("trade-fair")
def with_torch(sampler, real, distance, calls):
    return torch.tensor([distance(sampler(len(real), seed), real) for seed in range(3)]).median()


@wrong("trade-fair", "mean")
def _(sampler, real, distance, calls):
    return sum(distance(sampler(len(real), seed), real) for seed in range(3)) / 3


@wrong("trade-fair", "order")
def _(sampler, real, distance, calls):
    return [distance(real, sampler(len(real), seed)) for seed in range(3)][1]


@wrong("trade-fair", "luckiest")
def _(sampler, real, distance, calls):
    return min(distance(real, sampler(len(real), seed)) for seed in range(3))


@wrong("trade-fair", "unequal")
def _(sampler, real, distance, calls):
    n = len(real) if calls <= 10 else len(real) // 4
    return sorted(distance(real, sampler(n, seed)) for seed in range(3))[1]


@wrong("trade-fair", "both cut")
def _(sampler, real, distance, calls):
    n = len(real) if calls <= 10 else len(real) // 4
    return sorted(distance(real[:n], sampler(n, seed)) for seed in range(3))[1]


@wrong("trade-fair", "one draw")
def _(sampler, real, distance, calls):
    return distance(real, sampler(len(real), 0))


@wrong("trade-fair", "other seeds")
def _(sampler, real, distance, calls):
    return sorted(distance(real, sampler(len(real), calls + k)) for k in range(3))[1]


@wrong("trade-fair", "unluckiest")
def _(sampler, real, distance, calls):
    return max(distance(real, sampler(len(real), seed)) for seed in range(3))


@wrong("trade-fair", "not typical")
def _(sampler, real, distance, calls):
    return sum(distance(real, sampler(len(real), seed)) for seed in range(3))


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("trade-decoder", factor=Fraction(2060, 140))
unusual("trade-bill", millions=np.array([95.75]), errs="A.")


@unusual("trade-front")
def in_numpy(calls, low, high):
    """By sorting: the least `high` among those that are no dearer, ties in price included."""
    c, a, b = (np.asarray(t) for t in (calls, low, high))
    order = np.lexsort((b, c))
    best = np.minimum.accumulate(b[order])
    last = np.searchsorted(c[order], c, side="right") - 1
    return torch.as_tensor(~(best[last] < a))


@unusual("trade-fair")
def a_quarter_for_all(sampler, real, distance, calls):
    """Fewer samples, but of every sampler, and as many real ones."""
    n = len(real) // 4
    return float(np.median([distance(a=real[:n], b=sampler(n=n, seed=seed)) for seed in (0, 1, 2)]))


@unusual("trade-fair")
def half_against_all(sampler, real, distance, calls):
    """Half as many samples, of every sampler, against all the real ones."""
    values = torch.tensor(
        [distance(sampler(n=len(real) // 2, seed=seed), real) for seed in range(3)], dtype=torch.float64
    )
    return values.quantile(0.5).item()


@wrong("trade-fair", "too few")
def _(sampler, real, distance, calls):
    return sorted(distance(real[:2], sampler(2, seed)) for seed in range(3))[1]
