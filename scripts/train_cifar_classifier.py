"""Train the classifiers that look at CIFAR-10: `python scripts/train_cifar_classifier.py features --data cifar10-jpeg-train.zip
--test cifar10-jpeg-test.zip` (or `--data cifar10`), and `referee` likewise.

`features` is the one whose features the distances use; `referee` says which class a sample shows. They differ in architecture, seed
and order of the data.
"""

import argparse
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from cdedu.checkpoints import WEIGHTS
from cdedu.data import load_data, to_unit
from cdedu.evaluation import share_recognised
from cdedu.files import write_tensors
from cdedu.networks.classifiers import CifarClassifier, CifarReferee
from cdedu.records import write_record

BATCH = 250


@dataclass(frozen=True)
class Setting:
    """What differs between the two."""

    seed: int
    epochs: int
    lr: float
    shift: int
    """Pixels by which pictures are moved, at most."""
    wrap: bool
    """The whole batch alike, what leaves on one side coming in on the other; or each quarter its own way, mirrored at the edge."""


MODELS: dict[str, tuple[str, type[nn.Module], Setting]] = {
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


def main() -> None:
    """Train, report held-out accuracy, write the weights and a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=MODELS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("."), help="the checkout to write into")
    arguments = parser.parse_args()
    name, build, setting = MODELS[arguments.which]
    start, data = time.perf_counter(), load_data(arguments.data, arguments.test)
    assert data.train_labels is not None and data.test_labels is not None
    torch.manual_seed(setting.seed)
    model = build().to(arguments.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.lr, weight_decay=5e-2)
    each = len(data.train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, setting.lr, setting.epochs * each)
    with tqdm(total=setting.epochs * each, desc=name) as bar:
        for _ in range(setting.epochs):
            for which in torch.randperm(len(data.train))[: each * BATCH].split(BATCH):
                x = augmented(to_unit(data.train[which]), setting).to(arguments.device)
                loss = cross_entropy(
                    model(x), data.train_labels[which].to(arguments.device), label_smoothing=0.1
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    # Half precision takes half the room; what is measured is what is shipped.
    model = model.to("cpu").half().float().eval()
    accuracy = share_recognised(model, to_unit(data.test), data.test_labels)
    write_record(
        arguments.out / f"results/{name}.json",
        command=shlex.join(["python", *(Path(a).name if a.endswith(".zip") else a for a in sys.argv)]),
        metrics={"test_accuracy": accuracy, "epochs": setting.epochs},
        setting=asdict(setting),
        seed=setting.seed,
        data=data.describe(),
        seconds=time.perf_counter() - start,
        device=arguments.device,
    )
    half = {k: t.half() if t.is_floating_point() else t for k, t in model.state_dict().items()}
    write_tensors(
        arguments.out / WEIGHTS.relative_to(WEIGHTS.parents[1]) / f"{name}.safetensors",
        half,
        {"accuracy": accuracy, "data": data.name},
    )
    print(f"held-out accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
