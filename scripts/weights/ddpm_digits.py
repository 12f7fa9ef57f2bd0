"""A small DDPM on scikit-learn's digits, by diffusers alone: `python scripts/weights/ddpm_digits.py [folder] [--labels]`.

A stand-in for any pretrained model of that kind: the folder is what `DDPMPipeline.save_pretrained` writes, and
`cdedu distill digits --teacher <folder>` takes it. Under three minutes on two cores. With `--labels` it learns the ten classes,
and an eleventh label that means none, so that it can be guided.
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch.nn.functional import mse_loss
from tqdm.auto import trange

from cdedu.data import digits

NO_LABEL = 10
"""The label after the ten digits: it says nothing."""


def small_unet(labels: bool = False) -> UNet2DModel:
    """0.6 M parameters for one channel of 8 × 8."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=8,
        num_class_embeds=NO_LABEL + 1 if labels else None,
    )


def train(
    folder: Path, steps: int, labels: bool = False, batch: int = 64, lr: float = 2e-3, seed: int = 0
) -> float:
    """Train, save the averaged weights, and return the mean loss of the last tenth of the steps."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; choose another folder")
    torch.manual_seed(seed)
    data, unet, scheduler = digits(), small_unet(labels), DDPMScheduler()
    assert data.train_labels is not None
    average = EMAModel(unet.parameters(), decay=0.995)
    optimizer = torch.optim.Adam(unet.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr / 50)
    losses = []
    for _ in trange(steps, desc="ddpm", unit="step"):
        which = torch.randint(len(data.train), (batch,))
        x0, y = data.train[which], data.train_labels[which]
        y = torch.where(torch.rand(batch) < 0.1, NO_LABEL, y)
        noise, t = torch.randn_like(x0), torch.randint(len(scheduler), (batch,))
        noisy = scheduler.add_noise(x0, noise, t)  # type: ignore[arg-type]
        loss = mse_loss(unet(noisy, t, class_labels=y if labels else None).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        average.step(unet.parameters())
        losses.append(loss.item())
    average.copy_to(unet.parameters())
    DDPMPipeline(unet.eval(), scheduler).save_pretrained(folder)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/ddpm-digits"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--labels", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    loss = train(arguments.folder, arguments.steps, arguments.labels)
    print(
        f"{arguments.folder}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s "
        f"({time.process_time():.0f} s of computing)"
    )


if __name__ == "__main__":
    main()
