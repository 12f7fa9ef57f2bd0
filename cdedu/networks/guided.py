"""A network that takes the guidance weight as an extra input, which saves a guided teacher's second call."""

import copy

import torch
from torch import Tensor, nn

from cdedu.networks import UNet
from cdedu.noise import per_sample

Weight = float | Tensor


def weight_like(weight: Weight | None, x: Tensor) -> Tensor:
    """w as a tensor that broadcasts over x."""
    if weight is None:
        raise ValueError("guidance: no weight was fixed, so each call must give one: guidance=2.0")
    w = torch.as_tensor(weight, device=x.device)
    w = w if w.dtype == torch.float64 else w.float()
    if w.ndim and w.shape != x.shape[:1]:
        raise ValueError(f"guidance has shape {tuple(w.shape)}; give a number or ({len(x)},)")
    return per_sample(w, x) if w.ndim else w


class WeightedUNet(UNet):
    """A labeled UNet that takes the guidance weight as an extra input: the student of a teacher guided at every w.

    The weight is embedded and added to the label's embedding. At first it has no effect, so the student starts out like the network it's
    made from: a UNet with labels, whose weights are copied.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__(copy.deepcopy(network.net).requires_grad_(True))
        if getattr(self.net, "class_embedding", None) is None:
            raise ValueError(
                "WeightedUNet: the network takes no labels, so there is nothing to guide it toward"
            )
        self.weight = nn.Linear(16, self.net.class_embedding.embedding_dim, bias=False)  # type: ignore[union-attr,arg-type]
        nn.init.zeros_(self.weight.weight)
        self.net.class_embedding = _Sum(self.net.class_embedding)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, guidance: Weight | None = None
    ) -> Tensor:
        w = weight_like(guidance, x).flatten().expand(len(x))
        return super().forward(x, c_noise, (labels, self._embed(w)))  # type: ignore[arg-type]

    def _embed(self, w: Tensor) -> Tensor:
        """(B,) → (B, channels): waves of ln(1 + w), through one matrix."""
        phase = w[:, None].clamp(min=0).log1p() * torch.arange(8, device=w.device)
        return self.weight(torch.cat([phase.cos(), phase.sin()], 1).to(self.weight.weight.dtype))

    @torch.no_grad()
    def at(self, weight: float) -> UNet:
        """The same network at a fixed weight, as a plain UNet: the weight's embedding is added to that of each label."""
        plain = UNet(copy.deepcopy(self.net))
        embedding: nn.Embedding = plain.net.class_embedding.embedding  # type: ignore[assignment,union-attr]
        embedding.weight += self._embed(torch.tensor([float(weight)], device=embedding.weight.device))
        plain.net.class_embedding = embedding  # type: ignore[assignment]
        return plain


class _Sum(nn.Module):
    """The embedding of the labels, plus an extra one passed along with them."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, labels_and_more: tuple[Tensor, Tensor]) -> Tensor:
        labels, more = labels_and_more
        return self.embedding(labels) + more
