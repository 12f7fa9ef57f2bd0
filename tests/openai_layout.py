"""The UNet of openai's consistency models, written anew from its description, and files in its layout.

Names of tensors are those of openai's files; how one is computed is written here without diffusers. That it is openai's network is
shown by :data:`GOLDEN`, which openai's own code made.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GOLDEN = {
    (True, 0): [1.635548699367354, 0.5607438949135385, 1.2400975624961603, 1.1200181655592276],
    (True, 5): [1.4619251403255722, 0.6330866405797009, 1.0852300809468833, 1.1471641337440832],
    (False, 0): [1.4037231564902763, 0.6773509430526845, 1.0656166829174432, 0.9846366635270712],
    (False, 5): [2.270949134505189, 0.09540998763067077, 1.1557663146401875, 1.21909142475515],
}
"""Scale and shift, classes → what :func:`answer` is for ``UNetModel`` (cm/unet.py of github.com/openai/consistency_models at
e32b69ee436d518377db86fb2127a3972d0d8716), with image_size 16, model_channels 64, num_res_blocks 1, attention_resolutions (2, 4),
channel_mult (1, 2, 3), num_head_channels 64 and resblock_updown: weights of :func:`filled`, float64 throughout, the group norms not
cast down, and flash attention replaced by softmax(q kᵀ / √64) v, which it computes."""


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class Res(nn.Module):
    """``resize`` is 1, 2 or ½: how the resolution changes between activation and first convolution."""

    def __init__(self, c_in: int, c_out: int, emb: int, scale_shift: bool, resize: float = 1) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, c_out * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            norm(c_out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def resized(self, x: Tensor) -> Tensor:
        if self.resize == 0.5:
            return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return x.repeat_interleave(int(self.resize), -1).repeat_interleave(int(self.resize), -2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resized(F.silu(self.in_layers[0](x))))
        more = self.emb_layers(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = more.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + more)
        return self.skip_connection(self.resized(x)) + h


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.heads = norm(channels), channels // 64
        self.qkv, self.proj_out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        # Channels: first all of the query, then of the key, then of the value; within each, head by head.
        q, k, v = self.qkv(self.norm(x)).unflatten(1, (3, self.heads, 64)).flatten(-2).unbind(1)
        weight = (q.transpose(-1, -2) @ k / math.sqrt(64)).softmax(-1)
        return x + self.proj_out((v @ weight.transpose(-1, -2)).reshape(x.shape))


class OpenaiUNet(nn.Module):
    def __init__(
        self,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 3),
        layers: int = 1,
        attention: tuple[int, ...] = (1, 2),
        classes: int = 0,
        scale_shift: bool = True,
    ) -> None:
        super().__init__()
        self.width, emb = width, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes:
            self.label_emb = nn.Embedding(classes, emb)
        c, widths = width, [width * m for m in multipliers]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, c, 3, padding=1)])])
        skips = [c]

        def blocks(c_in: int, c_out: int, level: int) -> list[nn.Module]:
            return [Res(c_in, c_out, emb, scale_shift), *[Attention(c_out)] * (level in attention)]

        for level, c_out in enumerate(widths):
            for _ in range(layers):
                self.input_blocks.append(nn.ModuleList(blocks(c, c := c_out, level)))
                skips.append(c)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([Res(c, c, emb, scale_shift, 0.5)]))
                skips.append(c)
        self.middle_block = nn.ModuleList(
            [Res(c, c, emb, scale_shift), Attention(c), Res(c, c, emb, scale_shift)]
        )
        self.output_blocks = nn.ModuleList()
        for level, c_out in reversed(list(enumerate(widths))):
            for i in range(layers + 1):
                parts = blocks(c + skips.pop(), c := c_out, level)
                if level and i == layers:
                    parts.append(Res(c, c, emb, scale_shift, 2))
                self.output_blocks.append(nn.ModuleList(parts))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, 3, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        half = self.width // 2
        phase = c_noise.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([phase.cos(), phase.sin()], 1).to(x))
        if labels is not None:
            emb = emb + self.label_emb(labels)
        skips = []
        for parts in self.input_blocks:
            x = run(parts, x, emb)
            skips.append(x)
        x = run(self.middle_block, x, emb)
        for parts in self.output_blocks:
            x = run(parts, torch.cat([x, skips.pop()], 1), emb)
        return self.out(x)


def run(parts: nn.ModuleList, x: Tensor, emb: Tensor) -> Tensor:
    for part in parts:
        x = part(x) if isinstance(part, nn.Conv2d) else part(x, emb)
    return x


def numbers(*shape: int, step: float) -> Tensor:
    """Numbers that no random generator has to make."""
    return torch.cos(step * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape).float()


@torch.no_grad()
def filled(net: nn.Module) -> nn.Module:
    """The network with weights that depend on names and shapes alone, in evaluation mode."""
    for i, (_, p) in enumerate(sorted(net.named_parameters())):
        p.copy_(numbers(*p.shape, step=1 + i / 7) / max(p[0].numel(), 1) ** 0.5)
    return net.eval()


@torch.no_grad()
def answer(net: nn.Module, classes: int = 0) -> Tensor:
    """What :data:`GOLDEN` holds, of a network in float64."""
    more = (torch.tensor([1, 4]),) if classes else ()
    return net(numbers(2, 3, 16, 16, step=0.7).double(), torch.tensor([-300.0, 1000.0]).double(), *more)[
        0, 0, 0, :4
    ]


def combinations() -> Iterator[tuple[bool, int]]:
    return ((scale_shift, classes) for scale_shift in (True, False) for classes in (0, 5))


def write(path: Path, net: nn.Module, flat: bool = False, **changes: Tensor | None) -> Path:
    """A file as openai's training leaves it; ``flat`` as it does in half precision, all tensors in one storage."""
    state = net.state_dict()
    if flat:
        whole = torch.cat([t.flatten() for t in state.values()])
        parts = whole.split([t.numel() for t in state.values()])
        for (name, t), part in zip(list(state.items()), parts, strict=True):
            state[name] = part.view(t.shape)
    for name, tensor in changes.items():
        del state[name]
        if tensor is not None:
            state[name] = tensor
    torch.save(state, path)
    return path
