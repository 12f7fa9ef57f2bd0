"""Train the classifiers whose features the distances use, and the referee: `python scripts/weights/classifiers.py digits`.

`features --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip` (or `--data cifar10`), and `referee` likewise, look at CIFAR-10:
`features` is the one whose features the distances use; `referee` says which class a sample shows. They differ in architecture, seed
and order of the data. Each writes its weights and `results/<name>.json`.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from cdedu.data import Dataset, load_data, to_unit
from cdedu.evaluation import share_recognised
from cdedu.networks.classifiers import CifarClassifier, CifarReferee, DigitsClassifier
from cdedu.records import write_record
from scripts.studies.bench import RESULTS
from scripts.weights.ship import ship

Batch = tuple[Tensor, Tensor]
BATCH = 250
DIGITS = {"steps": 1500, "batch": 128, "lr": 1e-3, "seed": 0}


@dataclass(frozen=True)
class Setting:
    """What differs between the two that look at CIFAR-10."""

    seed: int
    epochs: int
    lr: float
    shift: int
    """Pixels by which pictures are moved, at most."""
    wrap: bool
    """The whole batch alike, what leaves on one side coming in on the other; or each quarter its own way, mirrored at the edge."""


CIFAR: dict[str, tuple[str, type[nn.Module], Setting]] = {
    "features": (
        "cifar10-jpeg-classifier",
        CifarClassifier,
        Setting(seed=0, epochs=8, lr=4e-3, shift=2, wrap=True),
    ),
    "referee": (
        "cifar10-jpeg-referee",
        CifarReferee,
        Setting(seed=1234, epochs=6, lr=3e-3, shift=3, wrap=False),
    ),
}


def augmented(x: Tensor, setting: Setting) -> Tensor:
    """Half of a batch mirrored, all of it shifted by a few pixels."""
    shift = setting.shift
    x = torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(-1), x)
    if setting.wrap:
        return torch.roll(x, tuple(torch.randint(-shift, shift + 1, (2,)).tolist()), (2, 3))
    side, out = x.shape[-1], []
    for part in pad(x, (shift,) * 4, mode="reflect").chunk(4):
        top, left = torch.randint(0, 2 * shift + 1, (2,)).tolist()
        out.append(part[..., top : top + side, left : left + side])
    return torch.cat(out)


def fit(
    model: nn.Module, optimizer: torch.optim.Optimizer, schedule: LRScheduler, batches: Iterator[Batch], steps: int, smoothing: float = 0.0
) -> None:  # fmt: skip
    """The loop of all of them, over batches of pictures and labels."""
    for x, y in tqdm(batches, total=steps):
        loss = cross_entropy(model(x), y, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def digits(data: Dataset, device: str) -> nn.Module:
    """The classifier of digits."""
    steps, batch = int(DIGITS["steps"]), int(DIGITS["batch"])
    torch.manual_seed(int(DIGITS["seed"]))
    model = DigitsClassifier().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=DIGITS["lr"], weight_decay=1e-2)

    def batches() -> Iterator[Batch]:
        for _ in range(steps):
            which = torch.randint(len(data.train), (batch,))
            # Shifts by up to one pixel and a little noise keep the features from being brittle.
            x = torch.roll(data.train[which], tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
            yield (x + 0.1 * torch.randn_like(x)).to(device), data.train_labels[which].to(device)

    fit(model, optimizer, CosineAnnealingLR(optimizer, steps), batches(), steps)
    return model


def cifar(build: type[nn.Module], setting: Setting, data: Dataset, device: str) -> nn.Module:
    """A classifier of CIFAR-10."""
    torch.manual_seed(setting.seed)
    model = build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.lr, weight_decay=5e-2)
    each = len(data.train) // BATCH
    steps = setting.epochs * each

    def batches() -> Iterator[Batch]:
        for _ in range(setting.epochs):
            for which in torch.randperm(len(data.train))[: each * BATCH].split(BATCH):
                x = augmented(to_unit(data.train[which]), setting)
                yield x.to(device), data.train_labels[which].to(device)

    fit(model, optimizer, OneCycleLR(optimizer, setting.lr, steps), batches(), steps, smoothing=0.1)
    return model


def main() -> None:
    """Train, report held-out accuracy, write the weights and a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("digits", *CIFAR))
    parser.add_argument("--data")
    parser.add_argument("--test")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    if asked.which != "digits" and not asked.data:
        parser.error(f"{asked.which} needs --data, and --test for held-out pictures")
    start, data = time.perf_counter(), load_data(asked.data or "digits", asked.test)
    facts: dict[str, Any] = {}
    if asked.which == "digits":
        name, model, metrics = "digits-classifier", digits(data, asked.device), {"steps": DIGITS["steps"]}
        seed = DIGITS["seed"]
    else:
        name, build, setting = CIFAR[asked.which]
        model, metrics = cifar(build, setting, data, asked.device), {"epochs": setting.epochs}
        facts, seed = {"setting": asdict(setting)}, setting.seed
    # Of CIFAR-10 in half precision, which takes half the room; what is measured is what is shipped.
    half = asked.which != "digits"
    model = (model.cpu().half().float() if half else model.cpu()).eval()
    accuracy = share_recognised(model, to_unit(data.test), data.test_labels)
    shown = {"accuracy": accuracy, **({"data": data.name} if half else {})}
    ship(name, model, None, data.test.shape[1:], half=half, **shown)
    words = [Path(word).name if word.endswith(".zip") else word for word in sys.argv[1:]]
    write_record(
        RESULTS / f"{name}.json",
        command=shlex.join(["python", "scripts/weights/classifiers.py", *words]),
        metrics={"test_accuracy": accuracy, **metrics},
        seed=seed,
        data=data.describe(),
        seconds=time.perf_counter() - start,
        device=asked.device,
        **facts,
    )
    print(f"held-out accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
