"""Which small network for CIFAR-10: `python scripts/study_cifar_networks.py --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip`.

Writes `results/cifar10-networks.json`. Each candidate trains for the same processor time on one thread, with the same batches,
noise, learning rate and average; then 1,000 samples of its average are measured. Folded networks see 32 × 32 × 3 pictures as
16 × 16 × 12. `--only NAME` makes one row, so that two can run side by side; a row that exists is kept.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from cdedu.comparison import Ruler
from cdedu.data import load_data
from cdedu.losses import denoising_loss
from cdedu.networks import unet
from cdedu.recipes import Network, Recipe, TeacherStage
from cdedu.records import Study
from cdedu.runtime import Runtime
from cdedu.samplers import sample_heun
from cdedu.student import EMA
from cdedu.teacher import Teacher
from cdedu.training import Batches, State, optimise, seeded

ROOT = Path(__file__).resolve().parents[1]
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
    teacher = (
        Teacher(network, RECIPE.sigma_data, RECIPE.noise_scale).train().to(memory_format=torch.channels_last)
    )
    optimizer = torch.optim.Adam(teacher.parameters(), lr=STAGE.lr)
    state = State(RECIPE, "teacher", STAGE.steps, teacher, EMA(teacher, STAGE.ema), optimizer)
    runtime = Runtime(channels_last=True)
    sampler = Batches(RECIPE, "teacher", STAGE.batch, data, runtime)

    def loss_of(part: range) -> Tensor:
        x0, sigma, noise, cond = sampler.draw(state.step, part, STAGE.log_sigma.sample)
        return denoising_loss(teacher, x0, sigma, noise=noise, **cond)

    start, losses = time.process_time(), []
    with tqdm(total=round(seconds), desc=name, unit="s") as bar:
        while (spent := time.process_time() - start) < seconds:
            optimise(state, teacher, loss_of, sampler, runtime)
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
        x = RECIPE.sigma_max * torch.randn(len(which), 3, 32, 32, generator=generator)
        parts.append(sample_heun(state.result, x, RECIPE.sigmas(POINTS), labels=which))
    return ruler.measure(torch.cat(parts))


def main() -> None:
    """Every candidate, or one; a row as soon as it is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--test")
    parser.add_argument("--only", choices=CANDIDATES, nargs="*", default=list(CANDIDATES))
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--record", type=Path, default=ROOT / "results" / "cifar10-networks.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(arguments.data, arguments.test)
    ruler = Ruler(data, SAMPLES)
    settings = {"seconds": arguments.seconds, "samples": SAMPLES, "points": POINTS}

    def study() -> Study:
        command = "python scripts/study_cifar_networks.py --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip"
        return Study(
            arguments.record, command, settings=settings, recipe=RECIPE.to_dict(), data=data.describe()
        )

    def one(name: str) -> dict[str, float]:
        state, facts = train(name, data, arguments.seconds)
        return facts | measure(state, ruler)

    for name in arguments.only:
        if name in study().runs:
            continue
        row = one(name)
        latest = study()  # another process may have written rows meanwhile
        latest.run(name, lambda row=row: row)
        latest.write(
            {"floor": ruler.floor(3), "ranking": sorted(latest.runs, key=lambda n: latest.runs[n]["fd"])}
        )


if __name__ == "__main__":
    main()
