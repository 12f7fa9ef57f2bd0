"""Short clips: a data set of moving digits, frames in and out of a batch, and what is measured along time.

A clip is one data point (T, H, W): its T grey frames stand where an image has its channels, so that every network, loss and sampler
for images takes clips as they are. The noise of a clip is one draw for all of its frames together.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cdedu.comparison import Ruler
from cdedu.data import Dataset, digits
from cdedu.evaluation import digits_classifier, effective_classes
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage

DIRECTIONS = torch.tensor([(v, h) for v in (-1, 0, 1) for h in (-1, 0, 1) if (v, h) != (0, 0)])
"""(8, 2) pixels a frame, downwards and to the right."""

RECIPE = Recipe(
    name="moving-digits",
    data="moving-digits",
    network=Network("unet", width=16, depth=1, multipliers=(1, 2)),
    teacher=TeacherStage(steps=7200, batch=64, lr=3e-3, ema=0.998),
    student=StudentStage(steps=800, batch=64, lr=1e-3, distance="l2", weight="inverse_gap", ema=0.99),
    noise_scale=250.0,
)
"""Teacher and students of moving digits. Single frames, which are easier, have the same network and a third of the teacher's steps."""


def moving_digits(frames: int = 6, size: int = 14, seed: int = 0) -> Dataset:
    """The digits, each gliding through an empty square in the eight directions, one pixel a frame: clips (n, T, H, W) in [−1, 1].

    Each of :func:`~cdedu.data.digits` is there eight times to learn from, once in each direction, and once to compare with, in a
    direction drawn for it. The starting points are drawn among those from which the digit stays inside.

    Args:
        frames: T, at least 2.
        size: height and width; the digit is 8 pixels wide and needs room to move: at least ``frames + 7``.
        seed: of the generator that draws starting points and directions.

    Raises:
        ValueError: for a clip of one frame, or a square that is too small.
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
    chosen = DIRECTIONS[torch.randint(8, (len(plain.test),), generator=generator)]
    assert plain.train_labels is not None
    return Dataset(
        "moving-digits",
        train,
        glide(plain.test, chosen),
        plain.train_labels.repeat_interleave(8),
        plain.test_labels,
    )


def as_frames(clips: Tensor) -> Tensor:
    """Clips (B, T, H, W) as single pictures (B·T, 1, H, W): all frames of the first clip in their order, then the second's."""
    if clips.ndim != 4:
        raise ValueError(f"as_frames: clips have shape {tuple(clips.shape)}, want (B, T, H, W)")
    return clips.reshape(-1, 1, *clips.shape[2:])


def single_frames(data: Dataset) -> Dataset:
    """The frames of all clips as pictures of their own, (n·T, 1, H, W), without labels."""
    return Dataset(f"{data.name}-frames", as_frames(data.train), as_frames(data.test))


class FrameByFrame(nn.Module):
    r"""A denoiser of pictures as a denoiser of clips that knows nothing of time.

    .. math:: D(x, \sigma)_{b,t} = D_1(x_{b,t},\ \sigma_b)

    A consistency student of single frames becomes a consistency student of clips in this way.

    Args:
        denoiser: of pictures (B, 1, H, W).
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma_min = float(getattr(denoiser, "sigma_min", 0.0))

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.numel() > 1:
            sigma = sigma.flatten().repeat_interleave(x.shape[1])
        return self.denoiser(as_frames(x), sigma, **cond).reshape(x.shape)


def speed(track: Tensor) -> Tensor:
    r"""Root mean square step of a track (B, T, d) from frame to frame, (B,): :math:`\sqrt{\text{mean}_t\|c_{t+1} - c_t\|^2}`."""
    return _rms(track, 1)


def jitter(track: Tensor) -> Tensor:
    r"""Root mean square change of a track's velocity, (B,); 0 for uniform motion, and for none.

    .. math:: J = \Big(\frac{1}{T-2} \sum_{t=2}^{T-1} \big\|c_{t+1} - 2 c_t + c_{t-1}\big\|^2\Big)^{1/2}

    Args:
        track: (B, T, d), a point for each frame, with T at least 3.

    Raises:
        ValueError: for shorter tracks, which cannot change their velocity.
    """
    return _rms(track, 2)


def _rms(track: Tensor, order: int) -> Tensor:
    if track.ndim != 3:
        raise ValueError(f"a track has shape (B, T, d), not {tuple(track.shape)}")
    if track.shape[1] <= order:
        what = "speed" if order == 1 else "change of velocity"
        raise ValueError(
            f"a video of {track.shape[1]} frame(s) has no {what} to measure; give at least {order + 1} frames"
        )
    return track.diff(n=order, dim=1).square().sum(-1).mean(1).sqrt()


def centre_of_mass(clips: Tensor) -> Tensor:
    """Where the ink of each frame lies: (B, T, H, W) in [−1, 1] → (B, T, 2), row and column in pixels."""
    if clips.ndim != 4:
        raise ValueError(f"centre_of_mass: clips have shape {tuple(clips.shape)}, want (B, T, H, W)")
    ink = (clips.clamp(-1, 1) + 1) / 2
    ink = ink * (ink > 0.1)  # a breath of grey over the whole frame would pull to its middle
    total = ink.sum((2, 3)).clamp(min=1e-6)
    rows, columns = (torch.arange(n, dtype=ink.dtype) for n in clips.shape[2:])
    return torch.stack([(ink.sum(3) * rows).sum(2) / total, (ink.sum(2) * columns).sum(2) / total], -1)


def crops(clips: Tensor) -> Tensor:
    """The 8 × 8 pixels around the centre of mass of each frame, (B, T, H, W) → (B, T, 8, 8)."""
    n, frames, *size = clips.shape
    corner = (centre_of_mass(clips) - 3.5).round().long()
    row, column = (corner[..., i].clamp(0, size[i] - 8)[..., None] + torch.arange(8) for i in (0, 1))
    at = torch.arange(n)[:, None, None, None], torch.arange(frames)[None, :, None, None]
    return clips[*at, row[..., :, None], column[..., None, :]]


class ClipRuler:
    """What is measured of clips of moving digits: each frame by itself, and the frames together.

    Args:
        data: from :func:`moving_digits`; samples are compared with its ``test`` part, and must be as many.
    """

    def __init__(self, data: Dataset) -> None:
        self.n, self.classifier = len(data.test), digits_classifier()
        every_eighth = data.train[::8][: self.n]  # every digit once
        self.pictures = Ruler(Dataset("digits", self._one_frame(every_eighth), self._one_frame(data.test)))

    def _one_frame(self, clips: Tensor) -> Tensor:
        """One frame of each clip, the first of the first, the second of the second and so on, cropped: (B, 1, 8, 8)."""
        i = torch.arange(len(clips))
        return crops(clips)[i, i % clips.shape[1], None]

    @torch.no_grad()
    def measure(self, clips: Tensor) -> dict[str, float]:
        """Metrics of clips (n, T, H, W).

        ``fd`` is the Fréchet distance of single frames to real ones, in the features of the digits' classifier; ``kept`` the share of
        frames in which the classifier reads the digit that it reads most often in the clip; ``speed`` and ``jitter`` are those of the
        centre of mass, their means; ``directions`` how many of the eight directions are in use.
        """
        clips = clips.clamp(-1, 1)
        if len(clips) != self.n:
            raise ValueError(f"measure: {len(clips)} clips, but {self.n} real ones; compare equal numbers")
        track, parts = centre_of_mass(clips), crops(clips)
        read = self.classifier(as_frames(parts)).argmax(1).reshape(parts.shape[:2])
        towards = (track[:, -1] - track[:, 0]) / (clips.shape[1] - 1)
        return {
            "fd": self.pictures.measure(self._one_frame(clips))["fd"],
            "kept": float((read == read.mode(1).values[:, None]).float().mean()),
            "speed": float(speed(track).mean()),
            "jitter": float(jitter(track).mean()),
            "directions": effective_classes(torch.cdist(towards, DIRECTIONS.float()).argmin(1), 8),
        }
