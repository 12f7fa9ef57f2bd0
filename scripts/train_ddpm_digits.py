"""A small DDPM on scikit-learn's digits, by diffusers alone: `python scripts/train_ddpm_digits.py [folder]`.

A stand-in for any pretrained model of that kind: the folder is what `DDPMPipeline.save_pretrained` writes, and
`cdedu distill digits --teacher <folder>` takes it. Under three minutes on two cores.
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


def small_unet() -> UNet2DModel:
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
    )


def train(folder: Path, steps: int, batch: int = 128, lr: float = 2e-3, seed: int = 0) -> float:
    """Train, save the averaged weights, and return the mean loss of the last tenth of the steps."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; choose another folder")
    torch.manual_seed(seed)
    images, unet, scheduler = digits().train, small_unet(), DDPMScheduler()
    average = EMAModel(unet.parameters(), decay=0.995)
    optimizer = torch.optim.Adam(unet.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr / 50)
    losses = []
    for _ in trange(steps, desc="ddpm", unit="step"):
        x0 = images[torch.randint(len(images), (batch,))]
        noise, t = torch.randn_like(x0), torch.randint(len(scheduler), (batch,))
        loss = mse_loss(unet(scheduler.add_noise(x0, noise, t), t).sample, noise)  # type: ignore[arg-type]
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
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    loss = train(arguments.folder, arguments.steps)
    print(f"{arguments.folder}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
