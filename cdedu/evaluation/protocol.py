"""The ruler, defined once: how many samples of a data set are measured, from which seeds, against what, and in which features.

A distance depends on all of these, so two numbers can only be compared if they share a protocol. Each record holds its own, and the book
prints its ``line`` next to the table.
"""

from dataclasses import asdict, dataclass
from typing import Any

from cdedu.data import Dataset
from cdedu.evaluation import classifier_of
from cdedu.limits import Count, Seed, check_ranges

NAMED = {"standard": (0, 5, 1), "brief": (0, 3, 1), "tuning": (1000, 1, 3)}
"""Name → first sampling seed, number of draws, and the size of a draw as a share of the held-out samples: all, or a third, but never
below :data:`ENOUGH`. ``standard`` is for results, ``brief`` for studies that train many models, and ``tuning`` for choosing: nothing is
ever reported with its seeds."""
ENOUGH = 1000
"""With fewer samples a Fréchet distance is mostly bias, and the bias is smallest for samples that vary the least."""
DRAWS = NAMED["standard"][1]


@dataclass(frozen=True)
class Protocol:
    """How the samples of one data set are measured."""

    data: str
    """The data set; samples are compared with its ``test`` part."""
    n: Count
    """Number of samples in a draw, and of held-out samples that they are compared with."""
    draws: Count = DRAWS
    """How many times all n are drawn, with sampling seeds ``first_seed``, ``first_seed + 1``, ..."""
    first_seed: Seed = 0
    features: str | None = None
    """The shipped classifier in whose features samples are compared; None if the points themselves are compared."""
    name: str = "standard"
    """One of :data:`NAMED`, or ``own``."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.n < 2:
            raise ValueError(f"{self.n} samples are too few to compare; use at least 2")

    @property
    def seeds(self) -> range:
        """The sampling seeds."""
        return range(self.first_seed, self.first_seed + self.draws)

    @property
    def line(self) -> str:
        """The line printed next to a table: ``600 samples in each of 5 draws (seeds 0 to 4), against 600 held-out ones``."""
        last = f"seeds {self.first_seed} to {self.seeds[-1]}" if self.draws > 1 else f"seed {self.first_seed}"
        drawn = (
            f"{self.n:,} samples in each of {self.draws} draws"
            if self.draws > 1
            else f"{self.n:,} samples of 1 draw"
        )
        return f"{drawn} ({last}), against {self.n:,} held-out ones"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the line, for a record."""
        return asdict(self) | {"line": self.line}


def protocol_of(
    data: Dataset, name: str = "standard", *, n: int | None = None, draws: int | None = None
) -> Protocol:
    """The protocol of a data set.

    Args:
        data: its held-out part sets the maximum number of samples, its classifier the features.
        name: one of :data:`NAMED`.
        n: samples per draw; by default as the name says, and never more than there are held-out samples or training data.
        draws: number of draws, if not the one that the name implies.

    Raises:
        ValueError: for an unknown name, fewer than 2 samples, or no draws.
    """
    if name not in NAMED:
        raise ValueError(f"protocol {name!r} is not known; choose among {', '.join(NAMED)}")
    most = min(len(data.test), len(data.train))

    def usual(name: str) -> tuple[int, int, int]:
        first, draws, part = NAMED[name]
        return first, draws, min(max(most // part, ENOUGH), most)

    first, number, size = usual(name)
    number, size = number if draws is None else draws, min(n or size, most)
    known = (key for key in NAMED if usual(key) == (first, number, size))
    return Protocol(data.name, size, number, first, classifier_of(data), next(known, "own"))
