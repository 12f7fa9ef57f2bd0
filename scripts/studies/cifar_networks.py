"""Which small network for CIFAR-10: `python scripts/studies/cifar_networks.py --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip`.

Writes `results/cifar10-networks.json`. Each candidate trains for the same processor time on one thread, with the same batches,
noise, learning rate and average; then 1,000 samples of its average are measured. Folded networks see 32 × 32 × 3 pictures as
16 × 16 × 12. `--only NAME` makes one row, so that two can run side by side; a row that exists is kept.

`python scripts/studies/cifar_networks.py --speed` measures training and sampling speed of every candidate, and of the network that the
recipe had before, in turns on a quiet machine: `results/cifar10-throughput.json`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from cdedu import training
from cdedu.data import load_data
from cdedu.evaluation.comparison import Ruler
from cdedu.losses import denoising_loss
from cdedu.networks import unet
from cdedu.recipes import Network, Recipe, TeacherStage
from cdedu.records import write_record
from cdedu.runtime import Runtime, fast_precision
from cdedu.samplers import sample_heun
from cdedu.student import EMA
from cdedu.teacher import Teacher
from cdedu.training import State, seeded
from scripts.studies.bench import Bench, arguments, command, noise

DATA = "--data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip"
CANDIDATES = {
    "folded 96,128": (2, (96, 128)),
    "folded 64,128": (2, (64, 128)),
    "folded 64,96,128": (2, (64, 96, 128)),
    "flat 32,64,128": (1, (32, 64, 128)),
    "flat 16,64,128": (1, (16, 64, 128)),
    "flat 32,64,96,128": (1, (32, 64, 96, 128)),
}
"""Fold, channels from fine to coarse; one block at each level, attention where the side is 8."""
SECONDS, SAMPLES, POINTS = 900.0, 1000, 10
STAGE = TeacherStage(steps=10**9, batch=32, lr=6e-4, ema=0.99, warmup=50, label_dropout=0.1)
RECIPE = Recipe("cifar10-networks", "cifar10", Network(classes=11), STAGE, noise_scale=250.0, flip=True)


class Folded(nn.Module):
    """A network that sees each square of pixels as one pixel with more channels."""

    def __init__(self, network: nn.Module, fold: int) -> None:
        super().__init__()
        self.network, self.fold = network, fold

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return pixel_shuffle(self.network(pixel_unshuffle(x, self.fold), c_noise, labels), self.fold)


BEFORE = "flat 64,128,128, two blocks, attention at 16"
"""The network that the recipe had first: 6.5 million weights, no classes, batches of 8 on a CPU."""


def build(fold: int, widths: tuple[int, ...]) -> nn.Module:
    """One candidate with the recipe's first weights."""
    size = 32 // fold
    attention = tuple(size >> level == 8 for level in range(len(widths)))
    with seeded(RECIPE.seed, "network"):
        network = unet(size, 3 * fold**2, widths, 1, attention, classes=RECIPE.network.classes)
    return network if fold == 1 else Folded(network, fold)


def train(name: str, data: Any, seconds: float) -> tuple[State, dict[str, float]]:
    """One candidate for so many seconds of its thread."""
    network = build(*CANDIDATES[name])
    x, c = torch.randn(1, 3, 32, 32), torch.zeros(1)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(x, c, torch.zeros(1, dtype=torch.int64))
    runtime, teacher = Runtime(channels_last=True), Teacher(network, RECIPE.sigma_data, RECIPE.noise_scale)
    state = training.begin(RECIPE, "teacher", teacher, runtime)
    states = training.train(state, data, runtime, training.denoising)
    start, losses = time.process_time(), []
    with tqdm(total=round(seconds), desc=name, unit="s") as bar:
        while (spent := time.process_time() - start) < seconds:
            next(states)
            losses.append(state.loss)
            bar.update(int(spent) - bar.n)
    images, last = state.step * STAGE.batch, losses[-len(losses) // 5 :]
    return state, {
        "weights": sum(p.numel() for p in network.parameters()),
        "forward_gflop": flops.get_total_flops() / 1e9,
        "images": images,
        "images_per_second": images / spent,
        "training_loss": sum(last) / len(last),
    }


@torch.no_grad()
def measure(state: State, ruler: Ruler) -> dict[str, float]:
    """Distances of the average's samples, classes in turn, 2 · POINTS − 1 evaluations each."""
    generator, parts = torch.Generator().manual_seed(0), []
    labels = torch.arange(SAMPLES) % 10
    for which in tqdm(labels.split(100), desc="samples"):
        x = noise(RECIPE, (len(which), 3, 32, 32), generator)
        parts.append(sample_heun(state.result, x, RECIPE.sigmas(POINTS), labels=which))
    return ruler.measure(torch.cat(parts))


def speed(results: Path, seconds: float, rounds: int) -> None:
    """Images a second of each network in turns, one thread; medians over the rounds, ratios within a round."""
    with seeded(RECIPE.seed, "network"):
        before = unet(32, 3, (64, 128, 128), 2, (False, True, False), dropout=0.05)
    precision = fast_precision(torch.device("cpu"))
    settings = {BEFORE: (before, 8, Runtime())}
    for name, candidate in CANDIDATES.items():
        settings[name] = (build(*candidate), STAGE.batch, Runtime(precision=precision, channels_last=True))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for _ in tqdm(range(rounds), desc="rounds"):
        for name, (network, batch, runtime) in settings.items():
            found[name].append(one_speed(network, batch, runtime, seconds, name != BEFORE))
    rows = {}
    for name, rounds_of_it in found.items():
        rows[name] = {key: median(r[key] for r in rounds_of_it) for key in rounds_of_it[0]}
        pairs = zip(rounds_of_it, found[BEFORE], strict=True)
        rows[name]["times_before"] = median(a["training"] / b["training"] for a, b in pairs)
        rows[name]["weights"] = sum(p.numel() for p in settings[name][0].parameters())
        rows[name]["batch"] = settings[name][1]
        print(name, rows[name])
    write_record(
        results / "cifar10-throughput.json",
        metrics=rows,
        command=command(__file__, "--speed"),
        settings={"rounds": rounds, "seconds": seconds, "precision": {"before": "fp32", "now": precision}},
    )


def one_speed(
    network: nn.Module, batch: int, runtime: Runtime, seconds: float, labelled: bool
) -> dict[str, float]:
    """Training images and sampling evaluations a second, each for so many seconds after a first step."""
    teacher = runtime.place(Teacher(network, RECIPE.sigma_data, RECIPE.noise_scale)).train()
    call, average = runtime.prepare(teacher), EMA(teacher, STAGE.ema)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-4)
    x0 = torch.rand(batch, 3, 32, 32) * 2 - 1
    sigma, noise = STAGE.log_sigma.sample(batch), torch.randn(batch, 3, 32, 32)
    cond = {"labels": torch.arange(batch) % 10} if labelled else {}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        denoising_loss(call, x0, sigma, noise=noise, **cond).mean().backward()
        optimizer.step()
        average.update(teacher)

    @torch.no_grad()
    def evaluation() -> None:
        call(x0, 1.0, **cond)

    def rate(function: Callable[[], None]) -> float:
        function()
        start, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            function()
            count += batch
        return count / spent

    return {"training": rate(step), "evaluations": rate(evaluation)}


def main() -> None:
    """Every candidate, or one; a row as soon as it is measured."""
    asked = arguments(
        __doc__,
        speed={"action": "store_true", "help": "only measure speed"},
        data={},
        test={},
        only={"choices": CANDIDATES, "nargs": "*", "default": list(CANDIDATES)},
        seconds={"type": float, "default": SECONDS},
    )
    if asked.speed:
        return speed(asked.results, seconds=4.0, rounds=3)
    if not asked.data:
        raise SystemExit("cifar_networks: give --data, and --test for held-out images")
    data = load_data(asked.data, asked.test)
    ruler = Ruler(data, SAMPLES)
    settings = {"seconds": asked.seconds, "samples": SAMPLES, "points": POINTS}
    recipe = RECIPE.to_dict() | {"network": "each candidate's own, with 11 classes"}
    fixed = {"settings": settings, "recipe": recipe, "data": data.describe()}
    for name in asked.only:
        if not asked.afresh and name in Bench("cifar10-networks", __file__, asked, DATA, **fixed).runs:
            continue
        state, row = train(name, data, asked.seconds)
        row |= measure(state, ruler)
        latest = Bench("cifar10-networks", __file__, asked, DATA, **fixed)  # another process may have written
        asked.afresh = False
        latest.run(name, lambda row=row: row)
        ranking = sorted(latest.runs, key=lambda n: latest.runs[n]["fd"])  # noqa: B023
        latest.write({"floor": ruler.floor(3), "ranking": ranking})


if __name__ == "__main__":
    main()
