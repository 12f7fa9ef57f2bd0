"""Train the frozen classifier whose features the digits distances use: `python scripts/train_digits_classifier.py`."""

import time

import torch
from torch.nn.functional import cross_entropy

from cdedu.checkpoints import WEIGHTS
from cdedu.data import digits
from cdedu.files import write_tensors
from cdedu.networks.classifiers import DigitsClassifier
from cdedu.records import write_record

STEPS, BATCH, LR, SEED = 1500, 128, 1e-3, 0


def main() -> None:
    """Train on the training split, report held-out accuracy, write the weights and a record."""
    start, data = time.perf_counter(), digits()
    torch.manual_seed(SEED)
    model = DigitsClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    assert data.train_labels is not None and data.test_labels is not None
    for _ in range(STEPS):
        which = torch.randint(len(data.train), (BATCH,))
        # Shifts by up to one pixel and a little noise keep the features from being brittle.
        x = torch.roll(data.train[which], tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
        loss = cross_entropy(model(x + 0.1 * torch.randn_like(x)), data.train_labels[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        accuracy = (model.eval()(data.test).argmax(1) == data.test_labels).float().mean().item()
    write_tensors(WEIGHTS / "digits-classifier.safetensors", model.state_dict(), {"accuracy": accuracy})
    write_record(
        "results/digits-classifier.json",
        command="python scripts/train_digits_classifier.py",
        metrics={"test_accuracy": accuracy, "steps": STEPS},
        seed=SEED,
        data=data.describe(),
        seconds=time.perf_counter() - start,
    )
    print(f"held-out accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
