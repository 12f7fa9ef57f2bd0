"""The networks of latent consistency: a small autoencoder, and a network that takes LCM's guidance scale."""

import math

import torch
from torch import Tensor, nn

from cdedu.networks import UNet
from cdedu.networks.guided import Weight, WeightedUNet
from cdedu.noise import at_hand


class Autoencoder(nn.Module):
    r"""A small convolutional autoencoder: images (B, 1, S, S) to latents (B, channels, S/2, S/2) and back, with ``width`` channels in between.

    .. math:: E(x) = s\,\mu(x), \qquad \hat x = G(z / s), \qquad s = \sigma_d / \operatorname{std}\big(\mu(x)\big)

    The scale s gives the data's latents the standard deviation that teachers and noise grids expect. It is 1 until you call
    :meth:`calibrate`, and is stored with the weights. Stable Diffusion's, with 1 for σ_d, is 0.18215.

    Source: Kingma & Welling 2013; Rombach et al. 2022, section 3.1 and appendix G (the scale).
    """

    def __init__(self, channels: int = 2, width: int = 32) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"Autoencoder: channels = {channels}, but a latent needs at least 1")
        self.width, self.channels = width, channels
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 2 * channels, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip
        self.register_buffer("scale", torch.tensor(1.0))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latent, each (B, channels, S/2, S/2)."""
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"Autoencoder: images of shape {tuple(x.shape)}; it encodes (B, 1, S, S) with an even S"
            )
        return self.encoder(x).chunk(2, dim=1)

    def encode(self, x: Tensor) -> Tensor:
        """Encode images: E(x), the scaled mean."""
        return self.scale * self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents into images, undoing the scale first.

        Raises:
            ValueError: for a latent of the wrong shape.
        """
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(
                f"Autoencoder: a latent of shape {tuple(z.shape)}; it decodes (B, {self.channels}, S/2, S/2). "
                "Was the latent made by another autoencoder, or is it an image?"
            )
        return self.decoder(z / self.scale)

    @torch.no_grad()
    def calibrate(self, x: Tensor, sigma_data: float = 0.5) -> float:
        """Set the scale so that the latents of x have the standard deviation ``sigma_data``; returns the scale."""
        self.scale.copy_(sigma_data / self.posterior(x)[0].std())
        return float(self.scale)


def guidance_embedding(omega: Tensor, dim: int = 256) -> Tensor:
    r"""LCM's embedding of the guidance weight ω, the sinusoidal embedding of time with 1000 ω in the place of time.

    .. math:: \big(\sin(1000\,\omega\,r_i),\ \cos(1000\,\omega\,r_i)\big), \qquad r_i = 10000^{-i/(h-1)}, \quad i = 0, \dots, h - 1

    with h = dim/2: waves from 1000 radians to a tenth of one for each unit of ω. Of :math:`\omega = w - 1` for guidance scales w, (B,),
    it makes (B, dim); ``dim`` is even and at least 4.

    Source: Luo et al. 2023 (LCM), as in diffusers' ``get_guidance_scale_embedding``.
    """
    if omega.ndim != 1 or dim < 4 or dim % 2:
        raise ValueError(
            f"guidance_embedding: want ω of shape (B,) and an even dim of at least 4, got {tuple(omega.shape)} and {dim}"
        )
    half = dim // 2
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, device=omega.device))
    phase = 1000 * omega.float()[:, None] * rates
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class LatentUNet(WeightedUNet):
    """A labeled UNet that takes the guidance scale as LCM's student does: ω = scale − 1 through :func:`guidance_embedding`.

    Args:
        network: a UNet with labels, whose weights are copied; at first the student equals this network at any scale.
        low, high, dim: the range of scales for training, and the width of their embedding.

    Raises:
        ValueError: in a call, for a scale outside ``low`` to ``high`` (looked at on the CPU only, as for noise levels).
    """

    def __init__(self, network: UNet, low: float, high: float, dim: int = 64) -> None:
        super().__init__(network)
        if not 0 <= low <= high:
            raise ValueError(f"LatentUNet: need 0 <= low <= high, got {low} and {high}")
        self.dim = dim
        self.weight = nn.Linear(dim, self.weight.out_features, bias=False)
        nn.init.zeros_(self.weight.weight)
        self.register_buffer("trained", torch.tensor([float(low), float(high)]))

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, guidance: Weight | None = None
    ) -> Tensor:
        if guidance is not None and at_hand(self.trained):
            asked, (low, high) = torch.as_tensor(guidance), self.trained.tolist()
            if not ((asked >= low - 1e-4) & (asked <= high + 1e-4)).all():
                raise ValueError(
                    f"guidance runs from {asked.min():g} to {asked.max():g}, but this student was distilled at scales from {low:g} to "
                    f"{high:g} and knows no others; choose one of those, or distil again with a wider range"
                )
        return super().forward(x, c_noise, labels, guidance)

    def _embed(self, w: Tensor) -> Tensor:
        return self.weight(guidance_embedding(w - 1, self.dim).to(self.weight.weight.dtype))
