"""Search for the best noise grid with few evaluations: what a sampler can do once somebody has tuned it.

A baseline that nobody tuned isn't a baseline. :func:`tune_sigmas` gives a student, and a teacher with any sampler, the same search on the
same budget.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.protocol import NAMED
from cdedu.noise import RHO, SIGMA_MAX, SIGMA_MIN, Sigma, karras_sigmas
from cdedu.samplers import sample_consistency, sample_dpm_solver, sample_euler, sample_heun
from cdedu.teacher import Denoiser

Grid = tuple[float, ...]
WALKS: dict[str, Callable[..., Tensor]] = {
    "ddim": lambda model, x, sigmas, g: sample_euler(model, x, sigmas),
    "dpm_solver": lambda model, x, sigmas, g: sample_dpm_solver(model, x, sigmas),
    "heun": lambda model, x, sigmas, g: sample_heun(model, x, sigmas),
    "consistency": lambda model, x, sigmas, g: sample_consistency(model, x, sigmas, g),
}
"""``walk(model, x, sigmas, generator)`` for each sampler that can be tuned; the last one is for students."""
BUDGET = 160
"""Network evaluations that a search may spend per sample."""
LOW = (0.002, 0.02, 0.1, 0.2, 0.4, 0.8)
RHOS = (7.0, 3.0, 1e4)
HIGH = (80.0, 40.0, 20.0, 10.0, 5.0, 2.5)
"""The ends ε and T and curvatures ρ of the grids a search starts from; ρ = 10⁴ spaces points evenly in ln σ."""
STEP, LEAST, GROW = 0.5, 0.02, 1.5
"""Step sizes for moving a noise level in ln σ: the first one, the one at which a search ends, and the growth factor after a success."""


@dataclass(frozen=True)
class Tuned:
    """The result of a search."""

    sigmas: Grid
    distance: float
    """Its distance on the tuning seeds that chose it; measure it again on other seeds before you report it."""
    untuned: float
    """The distance with EDM's grid on the same seeds."""
    tried: int
    """Grids."""
    spent: int
    """Evaluations spent per sample."""


@dataclass
class _Search:
    """Grids that were measured, and what that may still cost."""

    measure: Callable[[Grid], float]
    ends: tuple[float, float]
    most: int
    known: dict[Grid, float] = field(default_factory=dict)

    def __call__(self, sigmas: Grid) -> float:
        """The distance of a grid; infinite where it is none, and where the budget is spent."""
        low, high = self.ends
        inside = low <= sigmas[-1] and sigmas[0] <= high and all(a > b * 1.001 for a, b in pairwise(sigmas))
        if sigmas not in self.known and inside and not self.spent():
            value = self.measure(sigmas)
            self.known[sigmas] = value if math.isfinite(value) else math.inf
        return self.known.get(sigmas, math.inf)

    def spent(self) -> bool:
        return len(self.known) >= self.most

    def begin(self, points: int) -> list[Grid]:
        """EDM's grid with one parameter after another changed, the best kept; then all of these, the best first."""
        low, high = self.ends
        best = {"sigma_min": low, "rho": RHO, "sigma_max": high}
        for name, values in (("sigma_min", LOW), ("sigma_max", HIGH), ("rho", RHOS)):
            options = [{**best, name: v} for v in (best[name], *values)]
            best = min(options, key=lambda option: self(spaced(points, **option)))
        return sorted(self.known, key=self.known.__getitem__)

    def refine(self, sigmas: Grid) -> None:
        """Move one level after another in ln σ: on after a success, back by half after a failure."""
        steps, value = [-STEP] * len(sigmas), self(sigmas)
        while max(map(abs, steps)) > LEAST and not self.spent():
            for i, step in enumerate(steps):
                moved = (*sigmas[:i], sigmas[i] * math.exp(step), *sigmas[i + 1 :])
                if (found := self(moved)) < value:
                    sigmas, value, steps[i] = moved, found, step * GROW
                else:
                    steps[i] = -step / 2


class _Remembering:
    """A model that is asked each question once: grids that begin alike share their first evaluations."""

    def __init__(self, model: Denoiser) -> None:
        self.model, self.answers = model, dict[tuple[float, bytes], Tensor]()
        self.sigma_min = getattr(model, "sigma_min", SIGMA_MIN)

    def __call__(self, x: Tensor, sigma: Sigma, **cond: Any) -> Tensor:
        key = float(sigma), hashlib.sha256(x.numpy().tobytes()).digest()
        if key not in self.answers:
            self.answers[key] = self.model(x, sigma, **cond)
        return self.answers[key]


def spaced(points: int, sigma_min: float, sigma_max: float, rho: float) -> Grid:
    """:func:`~cdedu.noise.karras_sigmas` as numbers; one point is ``sigma_max``, and none where the ends are not ordered."""
    if points == 1:
        return (sigma_max,)
    if not sigma_min < sigma_max:
        return (sigma_min, sigma_max)
    return tuple(karras_sigmas(points, sigma_min, sigma_max, rho, dtype=torch.float64).tolist())


def points_of(sampler: str, evaluations: int) -> int:
    """The number of noise levels for a sampler that makes this many evaluations.

    Raises:
        ValueError: for an unknown sampler, or a number of evaluations that it cannot make.
    """
    if sampler not in WALKS:
        raise ValueError(f"sampler {sampler!r} is not known; choose among {', '.join(WALKS)}")
    if evaluations < 1:
        raise ValueError(f"evaluations = {evaluations}, but a sampler makes at least 1")
    if sampler == "heun":
        if evaluations % 2 == 0:
            raise ValueError(
                f"Heun's sampler makes an odd number of evaluations, 2n − 1 for n points, not {evaluations}"
            )
        return (evaluations + 1) // 2
    return evaluations


def draw_with(
    model: Denoiser, sampler: str, sigmas: Grid, ruler: Ruler
) -> Callable[[torch.Generator], Tensor]:
    """``draw(generator)`` for :meth:`Ruler.over_seeds <cdedu.evaluation.comparison.Ruler.over_seeds>`: samples of a grid, from noise of
    its first level."""
    walk, levels = WALKS[sampler], torch.tensor(sigmas, dtype=torch.float64)

    def draw(g: torch.Generator) -> Tensor:
        x = sigmas[0] * torch.randn((ruler.n, *ruler.shape), generator=g)
        if len(sigmas) > 1:
            return walk(model, x, levels, g)
        with torch.no_grad():  # of whatever sampler, one step to 0 is one guess
            return model(x, sigmas[0])

    return draw


def tune_sigmas(
    model: Denoiser,
    sampler: str,
    evaluations: int,
    ruler: Ruler,
    *,
    budget: int = BUDGET,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    tried: Callable[[int, Grid, float], Any] | None = None,
) -> Tuned:
    r"""Find the noise grid with which a sampler gets closest to the data in a given number of evaluations.

    The search starts with EDM's grid and changes its lower end, its upper end and its ρ, one at a time, keeping the best. From the best
    of these grids it then moves one level at a time, :math:`\sigma_i \leftarrow \sigma_i e^{\delta_i}`, with :math:`\delta_i \leftarrow
    1.5\,\delta_i` after a success and :math:`-\delta_i/2` after a failure, until all :math:`|\delta_i|` are below 0.02; then from the
    next best, until the budget is spent. Every grid is measured with the same noise, so evaluations that two grids share are made once,
    but counted twice.

    Args:
        model: a teacher, or a student for ``consistency``.
        sampler: a key of :data:`WALKS`.
        evaluations: network evaluations per sample.
        ruler: one whose protocol has its own seeds, such as ``protocol_of(data, "tuning")``.
        budget: evaluations per sample that all grids together may cost, for each of the ruler's draws.
        sigma_min, sigma_max: the range of levels that a grid may use.
        tried: called after every grid with the evaluations spent so far, the grid and its distance.

    Raises:
        ValueError: for a bad sampler or number of evaluations (see :func:`points_of`), for a budget too small for one grid, and for seeds
            that results are reported with, since a grid chosen on them looks better than it is.
    """
    points = points_of(sampler, evaluations)
    if budget < evaluations:
        raise ValueError(f"budget = {budget}, but one grid costs {evaluations} evaluations a sample")
    first, draws, _ = NAMED["standard"]
    if {*ruler.protocol.seeds} & {*range(first, first + draws)}:
        raise ValueError(
            f"a grid must not be chosen with the seeds that results are reported with, {first} to {first + draws - 1}; "
            'give Ruler(data, protocol=protocol_of(data, "tuning"))'
        )

    once = _Remembering(model)

    def measure(sigmas: Grid) -> float:
        value = ruler.nearness(draw_with(once, sampler, sigmas, ruler))
        if tried:
            tried((len(search.known) + 1) * evaluations, sigmas, value)
        return value

    search = _Search(measure, (sigma_min, sigma_max), budget // evaluations)
    untuned = search(spaced(points, sigma_min, sigma_max, RHO))
    for grid in search.begin(points):
        search.refine(grid)
        if search.spent():
            break
    best = min(search.known, key=search.known.__getitem__)
    return Tuned(best, search.known[best], untuned, len(search.known), len(search.known) * evaluations)
