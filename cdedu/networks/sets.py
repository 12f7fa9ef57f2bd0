"""A network for clouds of points, which have no order."""

import torch
from torch import Tensor, nn


class SetNetwork(nn.Module):
    r"""A network for sets: the same layers for each point (``depth`` of ``width`` units), which learn about the other points by pooling.

    .. math:: h_i \leftarrow h_i + W_2\,s\big(W_1 h_i + W_c\,[\text{mean}_j h_j,\ \max_j h_j,\ \text{noise level}]\big)

    with s the SiLU. Mean and maximum don't depend on the order, so permuting the points permutes the result.

    Source: Zaheer et al. 2017 (Deep Sets).
    """

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1.0, 9.0), persistent=False)
        self.first = nn.Linear(3, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.context = nn.ModuleList(nn.Linear(2 * width + 16, width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.ndim != 3 or x.shape[2] != 3:
            raise ValueError(f"SetNetwork: x has shape {tuple(x.shape)}, want clouds of points (B, N, 3)")
        phase = c_noise[:, None] * self.frequencies
        level = torch.cat([phase.cos(), phase.sin()], 1).to(x.dtype)
        h = self.first(x)
        for own, context, out in zip(self.own, self.context, self.out, strict=True):
            pooled = torch.cat([h.mean(1), h.amax(1), level], 1)
            h = h + out(nn.functional.silu(own(h) + context(pooled)[:, None]))
        return self.last(h)
