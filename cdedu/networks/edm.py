"""EDM's networks: DDPM++, NCSN++ and ADM.

Tensor names and shapes are those of EDM's own checkpoints (leave out the constant ``resample_filter`` buffers where the filter
is a plain mean), so that published weights load as they are. Three habits of DDPM++ differ from common U-Nets: residual sums
are scaled by √½, query, key and value are interleaved channel by channel, and the time embedding runs from sine to cosine with
both end frequencies included. NCSN++ is DDPM++ with random Fourier features of the noise level, a smoother filter where the resolution
changes, and the image itself passed down the encoder. In ADM the noise level scales as well as shifts what is inside a block, attention
has several heads and stands in every block of its resolutions, and the label joins the noise level late.

Source: Song et al. 2021 (score SDE), appendix H; Dhariwal & Nichol 2021, section 3; Karras et al. 2022, appendix F.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdedu.networks import check_size


class TimeEmbedding(nn.Module):
    r"""Sines and cosines of :math:`c_\text{noise}\,10^{-4 j/(m-1)}`, j = 0..m−1, m = ``channels / 2``. (B,) → (B, channels).

    In ADM the cosines come first, and m takes the place of m − 1.
    """

    def __init__(self, channels: int, adm: bool = False) -> None:
        super().__init__()
        self.half, self.adm = channels // 2, adm

    def forward(self, c_noise: Tensor) -> Tensor:
        # Made here rather than kept as a buffer: EDM's checkpoints hold no such tensor, and half precision would spoil it.
        j = torch.arange(self.half, dtype=torch.float32, device=c_noise.device)
        phase = c_noise.float()[:, None] * 1e-4 ** (j / (self.half if self.adm else self.half - 1))
        waves = (phase.cos(), phase.sin()) if self.adm else (phase.sin(), phase.cos())
        return torch.cat(waves, dim=1)


class FourierEmbedding(nn.Module):
    r"""Sines and cosines of :math:`2\pi f_j\,c_\text{noise}` with fixed :math:`f_j \sim N(0, 16^2)`. (B,) → (B, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", normal(torch.empty(channels // 2), 16.0))

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise.float()[:, None] * (2 * math.pi * self.freqs.float())
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Conv(nn.Conv2d):
    """A convolution of size ``kernel``, after halving or doubling the resolution if asked to.

    Pixels are averaged two by two, or with ``smooth`` under the weights (1, 3, 3, 1) / 8 in both directions.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, resample: str = "", smooth: bool = False) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2)
        self.resample = resample
        self.register_buffer("resample_filter", _smooth() if resample and smooth else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample_filter is not None:
            w = self.resample_filter.to(x.dtype).expand(x.shape[1], 1, -1, -1)
            resize = F.conv2d if self.resample == "down" else F.conv_transpose2d
            gain = 1 if self.resample == "down" else 4  # a pixel becomes four
            x = resize(x, gain * w, stride=2, padding=1, groups=len(w))
        elif self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return super().forward(x)


class ImageDown(nn.Conv2d):
    """The image, or what became of it, one resolution lower: here the convolution comes first, then the filter."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=2)
        self.register_buffer("resample_filter", _smooth())

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        w = self.resample_filter.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, w, stride=2, groups=len(w))


class Block(nn.Module):
    """Two convolutions that see the noise level, a residual sum, and attention if asked for.

    With ``adm`` the noise level scales as well as shifts, the sum is not multiplied by √½, attention has a head for every 64
    channels, and a skip that changes nothing but the resolution has no weights.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_emb: int,
        dropout: float,
        attention: bool = False,
        resample: str = "",
        smooth: bool = False,
        adm: bool = False,
    ) -> None:
        super().__init__()
        self.c_in, self.dropout, self.adm = c_in, dropout, adm
        self.heads = 0 if not attention else c_out // 64 if adm else 1
        self.scale = 1.0 if adm else math.sqrt(0.5)
        self.norm0 = norm(c_in, adm)
        self.conv0 = Conv(c_in, c_out, 3, resample, smooth)
        self.affine = nn.Linear(c_emb, 2 * c_out if adm else c_out)
        self.norm1 = norm(c_out, adm)
        self.conv1 = Conv(c_out, c_out, 3)
        self.skip: nn.Module | None = None
        if c_in != c_out or (resample and not adm):
            self.skip = Conv(c_in, c_out, 1, resample, smooth)
        elif resample:
            self.skip = nn.AvgPool2d(2) if resample == "down" else nn.Upsample(scale_factor=2)
        if self.heads:
            self.norm2 = norm(c_out, adm)
            self.qkv = Conv(c_out, 3 * c_out, 1)
            self.proj = Conv(c_out, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(emb).to(h.dtype)[:, :, None, None]
        if self.adm:
            scale, shift = shift.chunk(2, dim=1)
            h = shift + (1 + scale) * self.norm1(h)
        else:
            h = self.norm1(h + shift)
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * self.scale
        if not self.heads:
            return x
        # Of a head's channels in qkv, 3c is the query's c, 3c + 1 the key's, 3c + 2 the value's.
        # Fused attention on a GPU wants a head's channels side by side.
        qkv = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (self.heads, -1, 3)).permute(3, 0, 1, 4, 2)
        q, k, v = qkv.contiguous()
        a = F.scaled_dot_product_attention(q, k, v)
        return (x + self.proj(a.transpose(2, 3).reshape(x.shape))) * self.scale


class EDMNet(nn.Module):
    """EDM's DDPM++; with ``ncsn`` its NCSN++, with ``adm`` its ADM.

    Args:
        size: of the images, height and width; a single number is both.
        channels: of the images.
        width: channels at the finest resolution before ``multipliers``.
        multipliers: channels at each resolution as multiples of the width.
        blocks: residual blocks at each resolution.
        attention: resolutions with self-attention, by their height (the innermost block always has it).
        dropout: rate inside the residual blocks.
        classes: number of labels, 0 for none.
        ncsn: random Fourier features of the noise level, a smoother filter, and the image passed down the encoder.
        adm: see :class:`Block`; attention in all blocks of the decoder, the label late.
    """

    def __init__(
        self,
        size: int | tuple[int, ...] = 32,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        classes: int = 0,
        ncsn: bool = False,
        adm: bool = False,
    ) -> None:
        super().__init__()
        height, across = (size, size) if isinstance(size, int) else size
        check_size(height, across, len(multipliers) - 1)
        size = height  # a fully convolutional network is the same at any width; its parts are named by height
        self.adm, self.classes = adm, classes
        noise, emb, widths = 2 * width if ncsn else width, 4 * width, [width * m for m in multipliers]
        self.map_noise = FourierEmbedding(noise) if ncsn else TimeEmbedding(noise, adm)
        # Optimizers know parameters by their place, so each network keeps its order.
        self.map_label = nn.Linear(classes, noise) if classes and not adm else None
        self.map_layer0, self.map_layer1 = nn.Linear(noise, emb), nn.Linear(emb, emb)
        if classes and adm:
            self.map_label = nn.Linear(classes, emb, bias=False)
        block = partial(Block, c_emb=emb, dropout=dropout, smooth=ncsn, adm=adm)

        c, c_image = widths[0] if adm else width, channels
        self.enc = nn.ModuleDict({f"{size}x{size}_conv": Conv(channels, c, 3)})
        skips = [c]
        for level, c_out in enumerate(widths):
            res = size >> level
            if level:
                self.enc[f"{res}x{res}_down"] = block(c, c, resample="down")
                if ncsn:
                    self.enc[f"{res}x{res}_aux_residual"] = ImageDown(c_image, c)
                    c_image = c
                skips.append(c)
            for i in range(blocks):
                self.enc[f"{res}x{res}_block{i}"] = block(c, c := c_out, attention=res in attention)
                skips.append(c)

        self.dec = nn.ModuleDict()
        for level, c_out in reversed(list(enumerate(widths))):
            res = size >> level
            if level == len(widths) - 1:
                self.dec[f"{res}x{res}_in0"] = block(c, c, attention=True)
                self.dec[f"{res}x{res}_in1"] = block(c, c)
            else:
                self.dec[f"{res}x{res}_up"] = block(c, c, resample="up")
            for i in range(blocks + 1):
                attend = (adm or i == blocks) and res in attention
                self.dec[f"{res}x{res}_block{i}"] = block(c + skips.pop(), c := c_out, attention=attend)
        if adm:
            self.out_norm, self.out_conv = norm(c, adm), Conv(c, channels, 3)
        else:
            self.dec[f"{size}x{size}_aux_norm"] = norm(c)
            self.dec[f"{size}x{size}_aux_conv"] = Conv(c, channels, 3)
        self._initialise()

    def _initialise(self) -> None:
        """EDM's scales: uniform with fan-average, small where a branch ends, so that the network starts near its skips. ADM has torch's
        own, but every branch and the network as a whole start at zero."""
        for name, module in self.named_modules():
            ends = name.endswith(("conv1", "proj", "aux_conv", "out_conv"))
            if not isinstance(module, nn.Linear | nn.Conv2d) or (self.adm and not ends):
                continue
            if self.adm:
                nn.init.zeros_(module.weight)
            else:
                gain = 1e-5 if ends else math.sqrt(0.2) if name.endswith("qkv") else 1.0
                nn.init.xavier_uniform_(module.weight, gain)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.adm and self.map_label is not None:
            normal(self.map_label.weight)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        emb, label = self.map_noise(c_noise).to(self.map_layer0.weight.dtype), 0.0
        if self.map_label is not None:
            # No label is a row of zeros, EDM's convention.
            hot = emb.new_zeros(len(x), self.classes) if labels is None else F.one_hot(labels, self.classes)
            label = self.map_label(hot.to(emb) * (1 if self.adm else math.sqrt(self.classes)))
        emb = self.map_layer1(F.silu(self.map_layer0(emb if self.adm else emb + label)))
        emb = F.silu(emb + label if self.adm else emb)

        skips, image = [], x
        for layer in self.enc.values():
            if isinstance(layer, ImageDown):
                x = skips[-1] = image = (x + layer(image)) * math.sqrt(0.5)
                continue
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        ends = (self.out_norm, self.out_conv) if self.adm else ()
        *blocks, out_norm, out_conv = *self.dec.values(), *ends
        for layer in blocks:
            x = layer(x if x.shape[1] == layer.c_in else torch.cat([x, skips.pop()], dim=1), emb)
        return out_conv(F.silu(out_norm(x)))


class DDPMpp(EDMNet):
    """EDM's DDPM++, by default the 55.7 M parameters of CIFAR-10; with ``ncsn`` its NCSN++, 56.4 M. Give it ¼ ln σ."""


class ADM(EDMNet):
    """EDM's ADM; by default the 295.9 M parameters of ImageNet at 64 pixels. Arguments as in :class:`EDMNet`.

    Where there is attention, the number of channels should be divisible by 64: each 64 are one head.
    """

    def __init__(
        self,
        size: int | tuple[int, ...] = 64,
        channels: int = 3,
        width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
        classes: int = 1000,
    ) -> None:
        super().__init__(size, channels, width, multipliers, blocks, attention, dropout, classes, adm=True)


def norm(channels: int, adm: bool = False) -> nn.GroupNorm:
    """Groups of at least four channels, at most 32 groups."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-5 if adm else 1e-6)


@torch.no_grad()
def normal(tensor: Tensor, std: float = 1.0) -> Tensor:
    """Fill with normal numbers. A tensor without memory is left alone: for that alone torch would load its compiler."""
    return tensor if tensor.is_meta else tensor.normal_(std=std)


def _smooth() -> Tensor:
    w = torch.tensor([1 / 8, 3 / 8, 3 / 8, 1 / 8])
    return w.outer(w)[None, None]
