"""What the studies share: a command line, runs over seeds that a record keeps, budgets, and the measure of a sampler."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cdedu.checkpoints import sha256, shipped
from cdedu.data import load_data
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Row, Ruler, Sampler
from cdedu.evaluation.protocol import protocol_of
from cdedu.recipes import Recipe, get_recipe
from cdedu.records import Study
from cdedu.samplers import sample_consistency
from cdedu.solvers import euler_step
from cdedu.teacher import Denoiser
from cdedu.training import State

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


def arguments(doc: str | None, parts: Iterable[str] = (), **options: dict[str, Any]) -> argparse.Namespace:
    """The command line of a study; PyTorch gets one thread.

    Args:
        doc: what ``--help`` says.
        parts: of the study, to be named on the command line; all of them by default.
        options: further options and how ``add_argument`` is to make them, beside ``--results`` and ``--afresh``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(parts)

    def part(name: str) -> str:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not known; choose among {', '.join(known)}")
        return name

    if known:
        parser.add_argument("parts", nargs="*", type=part, default=known, help=", ".join(known))
    for name, option in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument(
        "--afresh", action="store_true", help="start over instead of continuing from the record"
    )
    torch.set_num_threads(1)
    return parser.parse_args()


def command(script: str, words: str = "") -> str:
    """What a reader types to run a script."""
    return f"python {Path(script).resolve().relative_to(ROOT)} {words}".strip()


class Bench(Study):
    """A study's record, and its runs over seeds.

    Args:
        name: of the record.
        script: ``__file__`` of the study, which with ``words`` is the command in the record.
        asked: what :func:`arguments` found: the folder of the record, and whether to begin afresh.
        fixed: as in :class:`~cdedu.records.Study`.
    """

    def __init__(
        self, name: str, script: str, asked: argparse.Namespace, words: str = "", **fixed: Any
    ) -> None:
        super().__init__(asked.results / f"{name}.json", command(script, words), afresh=asked.afresh, **fixed)

    def finished(self, arm: str, seeds: int) -> list[Any]:
        """The runs of an arm that there are, by seed."""
        return [self.runs[key] for seed in range(seeds) if (key := f"{arm}/{seed}") in self.runs]

    def arms(
        self, arms: Iterable[str], seeds: int, one: Callable[[str, int], Any]
    ) -> Iterator[tuple[str, list[Any]]]:
        """Run every arm with every seed; yields an arm and its runs so far, then writes the metrics."""
        for seed, arm in ((seed, arm) for seed in range(seeds) for arm in list(arms)):
            run = self.run(f"{arm}/{seed}", partial(one, arm, seed))
            yield arm, self.finished(arm, seeds)
            self.write(self.metrics)
            print(f"{self.path.stem} {arm}/{seed}", brief(run), flush=True)

    def along(
        self, stops: dict[int, str], train: Callable[[], Iterator[State]], measure: Callable[..., Any]
    ) -> None:
        """Runs of which each is the beginning of the next: train once, and at some steps measure the average.

        Args:
            stops: step → key of the run that ends there.
            train: the longest run.
            measure: called with the average and the processor seconds that its training took.
        """
        if all(key in self.runs for key in stops.values()):
            return
        seconds, start = 0.0, time.process_time()
        for state in tqdm(train(), total=max(stops), desc=stops[max(stops)], leave=False):
            if state.step in stops:
                seconds += time.process_time() - start
                row = self.run(stops[state.step], partial(measure, state.result, seconds))
                print(f"{self.path.stem} {stops[state.step]}", brief(row), flush=True)
                start = time.process_time()


def brief(value: Any) -> Any:
    """Numbers in three digits, and nothing long."""
    if isinstance(value, dict):
        return {k: brief(v) for k, v in value.items() if not (isinstance(v, list | tuple) and len(v) > 4)}
    if isinstance(value, list | tuple):
        return [brief(v) for v in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def trained(states: Iterator[State], desc: str | None = None) -> tuple[State, float]:
    """A run to its end: the last state, and the processor seconds that it took."""
    start = time.process_time()
    for state in (bar := tqdm(states, desc=desc, leave=False, mininterval=1)):
        bar.total = state.steps
    return state, time.process_time() - start


def spreads(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and greatest over runs, of numbers and of groups of numbers."""
    rows = {key: [run[key] for run in runs] for key in runs[0]}
    return {
        key: spreads(values) if isinstance(values[0], dict) else spread(values)
        for key, values in rows.items()
    }


def medians(row: dict[str, dict[str, float]]) -> dict[str, float]:
    """The medians of a row of spreads."""
    return {key: value["median"] for key, value in row.items()}


def pooled(rows: Sequence[Row]) -> Row:
    """Over trainings that each have a row of spreads over draws: the median of medians, and the ends of all draws."""
    return {
        key: {
            "median": spread([row[key]["median"] for row in rows])["median"],
            "min": min(row[key]["min"] for row in rows),
            "max": max(row[key]["max"] for row in rows),
        }
        for key in rows[0]
    }


def protocols(names: Iterable[str], kind: str = "standard") -> dict[str, Any]:
    """The field ``protocol`` of a record: how samples of each of these recipes are measured."""
    return {name: protocol_of(load_data(get_recipe(name).data), kind).to_dict() for name in names}


def weights(names: Iterable[str], roles: Sequence[str] = ("teacher", "student")) -> dict[str, str]:
    """The field ``weights`` of a record: hashes of the shipped teachers and students of these recipes."""
    return {f"{name}-{role}": sha256(shipped(f"{name}-{role}")) for name in names for role in roles}


def bought(recipe: Recipe, evaluations: float, cost: int, seed: int, **changes: Any) -> Recipe:
    """A recipe with changes in its student's stage, and with the steps that ``evaluations`` buy, an image at ``cost``."""
    stage = replace(recipe.student, **changes)
    steps = int(evaluations) // (cost * stage.batch)
    return replace(recipe, student=replace(stage, steps=steps), seed=seed)


def noise(recipe: Recipe, shape: Sequence[int], generator: torch.Generator | int) -> Tensor:
    """What sampling starts from; by a seed or a generator."""
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    return recipe.sigma_max * torch.randn(tuple(shape), generator=generator)


@torch.no_grad()
def euler_walk(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Euler steps along the grid and on to 0; a grid of one point is one call."""
    for sigma, sigma_next in pairwise([*sigmas.tolist(), 0.0]):
        x = euler_step(denoiser, x, sigma, sigma_next)
    return x


class Measure:
    """The common ruler with a recipe's data, and what it says of samplers.

    Args:
        recipe: its data, noise range and levels of a student.
        n, draws: samples and sampling seeds, where they shall not be the protocol's.
        protocol: a name of :data:`~cdedu.evaluation.protocol.NAMED`.
    """

    def __init__(
        self, recipe: Recipe, n: int | None = None, draws: int | None = None, protocol: str = "standard"
    ) -> None:
        self.recipe, self.data = recipe, load_data(recipe.data)
        self.ruler = Ruler(self.data, protocol=protocol_of(self.data, protocol, n=n, draws=draws))
        self.protocol = self.ruler.protocol

    def over_draws(self, sampler: Sampler) -> Row:
        """Of ``sampler(noise, generator)``, each metric's median and range over the draws."""

        def draw(g: torch.Generator) -> Tensor:
            return sampler(noise(self.recipe, self.ruler.real.shape, g), g)

        return self.ruler.over_seeds(draw)

    def sampler(self, sampler: Sampler) -> dict[str, float]:
        """Of ``sampler(noise, generator)``, each metric's median."""
        return medians(self.over_draws(sampler))

    def student_over_draws(self, model: nn.Module, steps: Iterable[int]) -> dict[str, Row]:
        """Of a student in so many steps each, median and range over the draws; :func:`pooled` joins those of several trainings."""
        levels = {str(k): self.recipe.student_sigmas(k) for k in steps}
        return {
            k: self.over_draws(lambda x, g, s=s: sample_consistency(model, x, s, g))
            for k, s in levels.items()
        }

    def student(self, model: nn.Module, steps: Iterable[int]) -> dict[str, dict[str, float]]:
        """Of a student in so many steps each, the medians."""
        return {k: medians(row) for k, row in self.student_over_draws(model, steps).items()}

    def floor(self) -> dict[str, float]:
        """Of real against real."""
        return medians(self.ruler.floor())
