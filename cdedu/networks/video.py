"""A network for clips: one for pictures, with layers for time put into it."""

import copy
from typing import Any

from torch import Tensor, nn


class TimeLayer(nn.Module):
    r"""At every place, mixes the channels of all frames; with :math:`h` the channels of all ``frames`` at one place,

    .. math:: h \leftarrow h + W_2\,s\big(W_1 \operatorname{norm}(h)\big)

    and s the SiLU. W₂ is zero at the start, so the layer changes nothing before it's trained. Features (B·T, C, H, W) keep their shape.
    """

    def __init__(self, channels: int, frames: int, width: int) -> None:
        super().__init__()
        self.frames = frames
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(frames * channels, width, 1)
        self.last = nn.Conv2d(width, frames * channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        _, channels, height, width = h.shape
        clips = self.norm(h).reshape(-1, self.frames * channels, height, width)
        return h + self.last(nn.functional.silu(self.first(clips))).reshape(h.shape)


class InTime(nn.Module):
    """A block of a network for pictures, followed by a layer for time."""

    def __init__(self, block: nn.Module, time: nn.Module) -> None:
        super().__init__()
        self.block, self.time = block, time

    def forward(self, *args: Any, **options: Any) -> Tensor:
        return self.time(self.block(*args, **options))


class VideoUNet(nn.Module):
    """diffusers' ``UNet2DModel`` for gray pictures as a network for clips (B, T, H, W): a :class:`TimeLayer` follows each residual block.

    At the start it treats each frame as the network for pictures does, and knows nothing about the others.

    Args:
        net: for pictures of one channel.
        frames: T.
        width: hidden units of the layers for time.
        copied: whether to copy the network or make it a part of this one.

    Raises:
        ValueError: for a network of pictures with colors.

    Source: Ho et al. 2022 (video diffusion), and Blattmann et al. 2023 for the start; their layers are attention, these are not.
    """

    def __init__(self, net: nn.Module, frames: int, width: int = 32, copied: bool = True) -> None:
        super().__init__()
        channels = net.conv_in.in_channels
        if channels != 1:
            raise ValueError(
                f"VideoUNet: the network takes pictures of {channels} channels, want gray ones, of 1"
            )
        self.frames, self.net = frames, copy.deepcopy(net) if copied else net
        for part in (*self.net.down_blocks, self.net.mid_block, *self.net.up_blocks):
            for i, block in enumerate(part.resnets):
                part.resnets[i] = InTime(block, TimeLayer(block.out_channels, frames, width))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.frames:
            raise ValueError(f"VideoUNet: x has shape {tuple(x.shape)}, want clips (B, {self.frames}, H, W)")
        pictures = x.reshape(-1, 1, *x.shape[2:])
        out = self.net(pictures, c_noise.repeat_interleave(self.frames), return_dict=False)[0]
        return out.reshape(x.shape)
