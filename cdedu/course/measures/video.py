"""Metrics of clips: of each frame by itself, and of the frames together."""

import torch
from torch import Tensor

from cdedu.data import Dataset
from cdedu.data.video import DIRECTIONS, as_frames, centre_of_mass, crops
from cdedu.evaluation import digits_classifier, effective_classes
from cdedu.evaluation.comparison import Ruler


def speed(track: Tensor) -> Tensor:
    r"""Root mean square step of a track (B, T, d) from frame to frame, (B,): :math:`\sqrt{\text{mean}_t\|c_{t+1} - c_t\|^2}`."""
    return _rms(track, 1)


def jitter(track: Tensor) -> Tensor:
    r"""Root mean square change of a track's velocity, (B,); 0 for uniform motion, and for none.

    .. math:: J = \Big(\frac{1}{T-2} \sum_{t=2}^{T-1} \big\|c_{t+1} - 2 c_t + c_{t-1}\big\|^2\Big)^{1/2}

    Args:
        track: (B, T, d), a point for each frame, with T at least 3.

    Raises:
        ValueError: for shorter tracks, which have no change of velocity.
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


class ClipRuler:
    """Metrics of clips of moving digits: of each frame by itself, and of the frames together.

    Args:
        data: from :func:`~cdedu.data.video.moving_digits`; samples are compared with its ``test`` part, and must be as many.
    """

    def __init__(self, data: Dataset) -> None:
        self.n, self.classifier = len(data.test), digits_classifier()
        every_eighth = data.train[::8][: self.n]  # every digit once
        frames = self._one_frame(every_eighth), self._one_frame(data.test)
        self.pictures = Ruler(Dataset("frames", *frames, classifier="digits-classifier"))

    def _one_frame(self, clips: Tensor) -> Tensor:
        """One frame of each clip, the first of the first, the second of the second and so on, cropped: (B, 1, 8, 8)."""
        i = torch.arange(len(clips))
        return crops(clips)[i, i % clips.shape[1], None]

    @torch.no_grad()
    def measure(self, clips: Tensor) -> dict[str, float]:
        """Metrics of clips (n, T, H, W).

        ``fd`` is the Fréchet distance of single frames to real ones, in the features of the digits' classifier; ``kept`` the share of
        frames in which the classifier reads the digit that it reads most often in the clip; ``speed`` and ``jitter`` are those of the
        center of mass, their means; ``directions`` how many of the eight directions are in use.
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
