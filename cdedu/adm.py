"""The ADM network in EDM's arrangement: its teacher for ImageNet at 64 pixels.

A sibling of DDPM++ (:mod:`cdedu.ddpmpp`, which holds the parts): the noise level scales as well as shifts what is inside a
block, attention has several heads and stands in every block of its resolutions, and the label joins the noise level late.
Tensor names and shapes are those of EDM's own checkpoints.

Source: Dhariwal & Nichol 2021, section 3; Karras et al. 2022, appendix F.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdedu.ddpmpp import Block, Conv, EDMNet, norm, normal


class ADM(EDMNet):
    """See :func:`cdedu.networks.adm`."""

    def __init__(
        self,
        size: int,
        channels: int = 3,
        width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        emb, widths = 4 * width, [width * m for m in multipliers]
        self.map_layer0, self.map_layer1 = nn.Linear(width, emb), nn.Linear(emb, emb)
        self.map_label = nn.Linear(classes, emb, bias=False) if classes else None
        block = partial(Block, c_emb=emb, dropout=dropout, adm=True)
        c = self.stack(block, size, channels, widths[0], widths, blocks, attention, attend_all=True)
        self.out_norm, self.out_conv = norm(c, adm=True), Conv(c, channels, 3)
        # EDM's scales: torch's own, but every branch and the network as a whole start at zero.
        for name, module in self.named_modules():
            if isinstance(module, Conv) and name.endswith(("conv1", "proj", "out_conv")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.map_label is not None:
            normal(self.map_label.weight)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        half = self.map_layer0.in_features // 2
        exponent = torch.arange(half, dtype=torch.float32, device=x.device) / half
        phase = c_noise.float()[:, None] * 1e-4**exponent
        emb = torch.cat([phase.cos(), phase.sin()], dim=1).to(self.map_layer0.weight.dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.map_label(self.one_hot(x, labels, self.map_label.in_features).to(emb))
        return self.out_conv(F.silu(self.out_norm(self.walk(x, F.silu(emb)))))
