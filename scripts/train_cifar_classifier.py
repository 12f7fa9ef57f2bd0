"""Train the frozen classifier whose features the CIFAR-10 distances use.

`python scripts/train_cifar_classifier.py --data cifar10-jpeg-train.zip --test cifar10-jpeg-test.zip` (or `--data cifar10`).
"""

import argparse
import shlex
import sys
import time

import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from cdedu.checkpoints import WEIGHTS, write_tensors
from cdedu.data import load_data, to_unit
from cdedu.evaluation import CifarClassifier
from cdedu.records import write_record

BATCH, LR, SEED = 250, 4e-3, 0


def main() -> None:
    """Train, report held-out accuracy, write the weights and a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--test")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    start, data = time.perf_counter(), load_data(arguments.data, arguments.test)
    assert data.train_labels is not None and data.test_labels is not None
    torch.manual_seed(SEED)
    model = CifarClassifier().to(arguments.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=5e-2)
    steps = arguments.epochs * (len(data.train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps)
    for step in tqdm(range(steps)):
        if step % (len(data.train) // BATCH) == 0:
            order = torch.randperm(len(data.train))
        which = order[(step * BATCH) % (len(order) // BATCH * BATCH) :][:BATCH]
        x = to_unit(data.train[which])
        # Mirroring half the batch and shifting it by up to two pixels.
        x = torch.where((torch.rand(BATCH) < 0.5)[:, None, None, None], x.flip(-1), x)
        x = torch.roll(x, tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3)).to(arguments.device)
        loss = cross_entropy(model(x), data.train_labels[which].to(arguments.device), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model = model.to("cpu").eval()
    with torch.no_grad():
        guesses = torch.cat([model(to_unit(part)).argmax(1) for part in data.test.split(1000)])
    accuracy = (guesses == data.test_labels).float().mean().item()
    name = "cifar10-jpeg-classifier"
    write_tensors(
        WEIGHTS / f"{name}.safetensors", model.state_dict(), {"accuracy": accuracy, "data": data.name}
    )
    write_record(
        f"results/{name}.json",
        command=shlex.join(["python", *sys.argv]),
        metrics={"test_accuracy": accuracy, "epochs": arguments.epochs},
        seed=SEED,
        data=data.describe(),
        seconds=time.perf_counter() - start,
        device=arguments.device,
    )
    print(f"held-out accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
