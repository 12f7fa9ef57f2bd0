"""The DDPM++ network in EDM's arrangement, for the full CIFAR-10 recipe.

Tensor names and shapes are those of EDM's own checkpoints (leave out their constant ``resample_filter`` buffers), so that
published weights load as they are. Three habits of that network differ from common U-Nets: residual sums are scaled by √½, query, key and
value are interleaved channel by channel, and the time embedding runs from sine to cosine with both end frequencies included.

Source: Song et al. 2021 (score SDE), appendix H; Karras et al. 2022, appendix F.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    r"""Sines and cosines of :math:`c_\text{noise}\,10^{-4 j/(m-1)}`, j = 0..m−1, m = ``channels / 2``. (B,) → (B, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2

    def forward(self, c_noise: Tensor) -> Tensor:
        # Made here rather than kept as a buffer: EDM's checkpoints hold no such tensor, and half precision would spoil it.
        exponent = torch.arange(self.half, dtype=torch.float32, device=c_noise.device) / (self.half - 1)
        phase = c_noise.float()[:, None] * 1e-4**exponent
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Conv(nn.Conv2d):
    """A convolution of size ``kernel``, after halving or doubling the resolution if asked to."""

    def __init__(self, c_in: int, c_out: int, kernel: int, resample: str = "") -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return super().forward(x)


class Block(nn.Module):
    """Two convolutions that see the noise level, a scaled residual sum, and attention where asked for."""

    def __init__(
        self, c_in: int, c_out: int, c_emb: int, dropout: float, attention: bool = False, resample: str = ""
    ) -> None:
        super().__init__()
        self.c_in, self.dropout = c_in, dropout
        self.norm0 = _norm(c_in)
        self.conv0 = Conv(c_in, c_out, 3, resample)
        self.affine = nn.Linear(c_emb, c_out)
        self.norm1 = _norm(c_out)
        self.conv1 = Conv(c_out, c_out, 3)
        self.skip = Conv(c_in, c_out, 1, resample) if c_in != c_out or resample else None
        self.norm2 = _norm(c_out) if attention else None
        if attention:
            self.qkv = Conv(c_out, 3 * c_out, 1)
            self.proj = Conv(c_out, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = F.silu(self.norm1(h + self.affine(emb).to(h.dtype)[:, :, None, None]))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        if self.norm2 is None:
            return x
        # One head; channel 3c of qkv is the query's c, 3c + 1 the key's, 3c + 2 the value's.
        q, k, v = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (-1, 3)).transpose(1, 3).unbind(2)
        a = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return (x + self.proj(a.transpose(1, 2).reshape(x.shape))) * math.sqrt(0.5)


class DDPMpp(nn.Module):
    """See :func:`cdedu.networks.ddpmpp`."""

    def __init__(
        self,
        size: int,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        emb = 4 * width

        def block(c_in: int, c_out: int, attend: bool = False, resample: str = "") -> Block:
            return Block(c_in, c_out, emb, dropout, attend, resample)

        self.map_noise = TimeEmbedding(width)
        self.map_label = nn.Linear(classes, width) if classes else None
        self.map_layer0, self.map_layer1 = nn.Linear(width, emb), nn.Linear(emb, emb)

        self.enc, c = nn.ModuleDict(), width
        self.enc[f"{size}x{size}_conv"] = Conv(channels, width, 3)
        skips = [width]
        for level, multiplier in enumerate(multipliers):
            res = size >> level
            if level:
                self.enc[f"{res}x{res}_down"] = block(c, c, resample="down")
                skips.append(c)
            for i in range(blocks):
                self.enc[f"{res}x{res}_block{i}"] = block(c, c := width * multiplier, res in attention)
                skips.append(c)

        self.dec = nn.ModuleDict()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            res = size >> level
            if level == len(multipliers) - 1:
                self.dec[f"{res}x{res}_in0"] = block(c, c, attend=True)
                self.dec[f"{res}x{res}_in1"] = block(c, c)
            else:
                self.dec[f"{res}x{res}_up"] = block(c, c, resample="up")
            for i in range(blocks + 1):
                attend = i == blocks and res in attention
                self.dec[f"{res}x{res}_block{i}"] = block(c + skips.pop(), c := width * multiplier, attend)
        self.dec[f"{size}x{size}_aux_norm"] = _norm(c)
        self.dec[f"{size}x{size}_aux_conv"] = Conv(c, channels, 3)
        self._initialise()

    def _initialise(self) -> None:
        """EDM's scales: uniform with fan-average, small where a branch ends, so that the network starts near its skips."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                ends = name.endswith(("conv1", "proj", "aux_conv"))
                gain = 1e-5 if ends else math.sqrt(0.2) if name.endswith("qkv") else 1.0
                nn.init.xavier_uniform_(module.weight, gain)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.map_noise(c_noise).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            if labels is None:
                one_hot = torch.zeros(
                    len(x), self.map_label.in_features, device=x.device
                )  # no class: EDM's convention
            else:
                one_hot = F.one_hot(labels, self.map_label.in_features)
            emb = emb + self.map_label(one_hot.to(emb) * math.sqrt(self.map_label.in_features))
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

        skips = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            if isinstance(layer, Block):
                x = layer(x if x.shape[1] == layer.c_in else torch.cat([x, skips.pop()], dim=1), emb)
            elif isinstance(layer, nn.GroupNorm):
                x = F.silu(layer(x))
            else:
                x = layer(x)
        return x


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)
