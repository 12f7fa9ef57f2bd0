"""Short clips: a data set of moving digits, and ways to get frames into and out of a batch.

A clip is one data point (T, H, W): its T gray frames stand where an image has its channels, so that every network, loss and sampler
for images takes clips as they are. The noise of a clip is one draw for all of its frames together.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cdedu.data.dataset import Dataset
from cdedu.data.small import digits

DIRECTIONS = torch.tensor([(v, h) for v in (-1, 0, 1) for h in (-1, 0, 1) if (v, h) != (0, 0)])
"""(8, 2) pixels a frame, downward and to the right."""


def moving_digits(frames: int = 6, size: int = 14, seed: int = 0) -> Dataset:
    """The digits, each gliding through an empty square in the eight directions, one pixel a frame: clips (n, T, H, W) in [−1, 1].

    Each training digit of :func:`~cdedu.data.digits` appears eight times, once in each direction; each held-out one appears once, in a
    random direction. Starting points are drawn so that the digit stays inside.

    Args:
        frames: T, at least 2.
        size: height and width; the digit is 8 pixels wide and needs room to move: at least ``frames + 7``.

    Raises:
        ValueError: for a clip of one frame, or a square that's too small.
    """
    if frames < 2:
        raise ValueError(f"moving_digits: frames = {frames}, but a clip needs at least 2")
    room = size - 8
    if room < frames - 1:
        raise ValueError(
            f"moving_digits: size = {size} leaves {room} pixels to move in, but {frames} frames need {frames - 1}; "
            f"use size = {frames + 7} or fewer frames"
        )
    generator = torch.Generator().manual_seed(seed)

    def glide(x: Tensor, step: Tensor) -> Tensor:
        """x (n, 1, 8, 8) and step (n, 2) → clips (n, T, size, size)."""
        span = (frames - 1) * step.abs()  # a digit that does not move along an axis may stand anywhere on it
        start = (torch.rand(step.shape, generator=generator) * (room + 1 - span)).long() + span * (step < 0)
        t = torch.arange(frames)[None, :, None]
        corner = start[:, None] + t * step[:, None]  # (n, T, 2)
        row, column = (corner[..., i, None] + torch.arange(8) for i in (0, 1))  # (n, T, 8)
        clips = x.new_full((len(x), frames, size, size), -1.0)
        n, t = torch.arange(len(x))[:, None, None, None], torch.arange(frames)[None, :, None, None]
        clips[n, t, row[..., :, None], column[..., None, :]] = x
        return clips

    plain = digits()
    train = glide(plain.train.repeat_interleave(8, 0), DIRECTIONS.repeat(len(plain.train), 1))
    labels = plain.train_labels.repeat_interleave(8)
    chosen = DIRECTIONS[torch.randint(8, (len(plain.test),), generator=generator)]
    return Dataset("moving-digits", train, glide(plain.test, chosen), labels, plain.test_labels)


def as_frames(clips: Tensor) -> Tensor:
    """Clips (B, T, H, W) as single pictures (B·T, 1, H, W): all frames of the first clip in their order, then the second's."""
    if clips.ndim != 4:
        raise ValueError(f"as_frames: clips have shape {tuple(clips.shape)}, want (B, T, H, W)")
    return clips.reshape(-1, 1, *clips.shape[2:])


def single_frames(data: Dataset) -> Dataset:
    """The frames of all clips as pictures of their own, (n·T, 1, H, W), without labels."""
    return Dataset(f"{data.name}-frames", as_frames(data.train), as_frames(data.test))


class FrameByFrame(nn.Module):
    r"""A denoiser of pictures (B, 1, H, W) as a denoiser of clips that knows nothing about time.

    .. math:: D(x, \sigma)_{b,t} = D_1(x_{b,t},\ \sigma_b)

    This turns a consistency student of single frames into one of clips.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma_min = float(getattr(denoiser, "sigma_min", 0.0))

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.numel() > 1:
            sigma = sigma.flatten().repeat_interleave(x.shape[1])
        return self.denoiser(as_frames(x), sigma, **cond).reshape(x.shape)


def centre_of_mass(clips: Tensor) -> Tensor:
    """Where the ink of each frame lies: (B, T, H, W) in [−1, 1] → (B, T, 2), row and column in pixels."""
    if clips.ndim != 4:
        raise ValueError(f"centre_of_mass: clips have shape {tuple(clips.shape)}, want (B, T, H, W)")
    ink = (clips.clamp(-1, 1) + 1) / 2
    ink = ink * (ink > 0.1)  # a breath of gray over the whole frame would pull to its middle
    total = ink.sum((2, 3)).clamp(min=1e-6)
    rows, columns = (torch.arange(n, dtype=ink.dtype) for n in clips.shape[2:])
    return torch.stack([(ink.sum(3) * rows).sum(2) / total, (ink.sum(2) * columns).sum(2) / total], -1)


def crops(clips: Tensor) -> Tensor:
    """The 8 × 8 pixels around the center of mass of each frame, (B, T, H, W) → (B, T, 8, 8)."""
    n, frames, *size = clips.shape
    corner = (centre_of_mass(clips) - 3.5).round().long()
    row, column = (corner[..., i].clamp(0, size[i] - 8)[..., None] + torch.arange(8) for i in (0, 1))
    at = torch.arange(n)[:, None, None, None], torch.arange(frames)[None, :, None, None]
    return clips[*at, row[..., :, None], column[..., None, :]]
