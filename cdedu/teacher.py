"""Teachers: denoisers that have learned what clean data look like. The one in :mod:`cdedu.mixture` knows it exactly."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cdedu.noise import Sigma, sigma_like


class Denoiser(Protocol):
    """A guess of the clean data behind ``x = x0 + sigma * noise``; the result has the shape and dtype of ``x``."""

    def __call__(self, x: Tensor, sigma: Sigma, /, **cond: Any) -> Tensor: ...


def clipped(denoiser: Denoiser, clip: float | None = None) -> Denoiser:
    """The denoiser with its guesses clamped to [−clip, clip]. The default is its attribute ``clip``; without one, nothing is clamped.

    ``math.inf`` switches clipping off.

    Raises:
        ValueError: for a ``clip`` that is not positive.
    """
    most = getattr(denoiser, "clip", None) if clip is None else clip
    if not isinstance(most, int | float):
        return denoiser
    if not most > 0:
        raise ValueError(f"clip = {most}, but it must be positive: guesses are clamped to [−clip, clip]")

    def within(x: Tensor, sigma: Sigma, /, **cond: Any) -> Tensor:
        return denoiser(x, sigma, **cond).clamp(-most, most)

    return within


def preconditioning(sigma: Tensor, sigma_data: float, sigma_min: float = 0.0) -> tuple[Tensor, ...]:
    r"""The coefficients that wrap a network: ``(c_skip, c_out, c_in)``, each of sigma's shape.

    .. math::
        c_\text{skip} = \frac{\sigma_d^2}{(\sigma-\varepsilon)^2 + \sigma_d^2}, \qquad
        c_\text{out} = \frac{\sigma_d\,(\sigma-\varepsilon)}{\sqrt{\sigma_d^2 + \sigma^2}}, \qquad
        c_\text{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}

    With ε = 0 these are EDM's (a teacher); with ε > 0 they make :math:`f(x, \varepsilon) = x` (a consistency student).

    Source: Karras et al. 2022, table 1; Song et al. 2023, appendix C.
    """
    gap = sigma - sigma_min
    c_skip = sigma_data**2 / (gap**2 + sigma_data**2)
    c_out = sigma_data * gap / (sigma_data**2 + sigma**2).sqrt()
    c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
    return c_skip, c_out, c_in


def in_weights(network: nn.Module, x: Tensor, c_noise: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of a network, in the precision of its weights; c_noise is at least float32.

    A state may be in float64 while the network is in float32, so that solvers add up small steps exactly.
    """
    weights = next((p.dtype for p in network.parameters() if p.is_floating_point()), x.dtype)
    return x.to(weights), c_noise.to(torch.promote_types(weights, torch.float32))


class Preconditioned(nn.Module):
    r"""A raw network F as a denoiser: :math:`c_\text{skip}\,x + c_\text{out}\,F(c_\text{in}\,x,\ c_\text{noise})`.

    The network is called as ``network(x, c_noise, **cond)`` with c_noise of shape (B,): ``noise_scale`` times ln σ, or times
    the angle arctan(σ/σ_d) of TrigFlow. The sum is computed in float32 (or float64), whatever the network's precision; c_noise is never
    rounded to half precision.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float, sigma_min: float, noise_scale: float, angle: bool = False
    ) -> None:
        super().__init__()
        if not (sigma_data > 0 and sigma_min >= 0 and noise_scale > 0):
            raise ValueError(
                f"{type(self).__name__}: need sigma_data > 0, sigma_min >= 0 and noise_scale > 0, "
                f"got {sigma_data}, {sigma_min}, {noise_scale}"
            )
        self.network, self.sigma_data, self.sigma_min = network, sigma_data, sigma_min
        self.noise_scale, self.angle = noise_scale, angle

    def forward(self, x: Tensor, sigma: Sigma, **cond: Any) -> Tensor:
        s = sigma_like(sigma, x, sigma_min=self.sigma_min)
        c_skip, c_out, c_in = preconditioning(s, self.sigma_data, self.sigma_min)
        time = (s / self.sigma_data).atan() if self.angle else s.log()
        c_noise = self.noise_scale * time.flatten().expand(len(x))
        out = self.network(*in_weights(self.network, (c_in * x).to(x.dtype), c_noise), **cond)
        if out.shape != x.shape:
            raise ValueError(
                f"the network turned shape {tuple(x.shape)} into {tuple(out.shape)}; they must be equal"
            )
        return (c_skip * x + c_out * out).to(x.dtype)


class Teacher(Preconditioned):
    r"""The trained denoiser of EDM.

    .. math:: D_\phi(x, \sigma) = c_\text{skip}(\sigma)\,x + c_\text{out}(\sigma)\,F_\phi\big(c_\text{in}(\sigma)\,x,\ c_\text{noise}\big),
              \qquad c_\text{noise} = \texttt{noise\_scale} \cdot \ln\sigma

    Args:
        network: F, called as ``network(x, c_noise, **cond)``; x (B, ...), c_noise (B,), result of x's shape.
        sigma_data: standard deviation of the data, σ_d.
        noise_scale: ¼ as in EDM; 250 if a diffusers pipeline needs to read the network. Never mix the two.
        angle: give the network the angle t = arctan(σ/σ_d) instead of ln σ, as sCM does (Lu & Song 2024).

    Source: Karras et al. 2022, table 1.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float = 0.5, noise_scale: float = 0.25, angle: bool = False
    ) -> None:
        super().__init__(network, sigma_data, 0.0, noise_scale, angle)
