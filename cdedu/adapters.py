"""Adapters: networks that other people trained with another notion of time, as denoisers in σ.

:mod:`cdedu.pretrained` reads their files.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.networks import UNet
from cdedu.networks.text import TextNetwork
from cdedu.noise import at_hand, sigma_like
from cdedu.teacher import in_weights


class VP(nn.Module):
    r"""A score network of the variance-preserving process, as in EDM's baseline files.

    .. math:: D(x, \sigma) = x - \sigma\,F\Big(\frac{x}{\sqrt{1+\sigma^2}},\ (M-1)\,t(\sigma)\Big), \qquad
              t(\sigma) = \frac{\sqrt{\beta_{\min}^2 + 2\,\beta_d \ln(1+\sigma^2)} - \beta_{\min}}{\beta_d}

    The network was trained for σ from ``sigma_min`` to ``sigma_max``; outside, it is asked all the same.

    Args:
        network: F, called as ``network(x, c_noise, **cond)``.
        steps: M, the number of time steps that the network counts t in.
        first: the smallest t it was trained at.
    """

    def __init__(
        self,
        network: nn.Module,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        steps: int = 1000,
        first: float = 1e-5,
    ) -> None:
        super().__init__()
        self.network, self.beta_d, self.beta_min = network, beta_d, beta_min
        self.steps, self.first = steps, first
        self.sigma_min, self.sigma_max = (
            math.sqrt(math.expm1(beta_d / 2 * t**2 + beta_min * t)) for t in (first, 1.0)
        )

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        s = sigma_like(sigma, x)
        t = ((self.beta_min**2 + 2 * self.beta_d * (s**2).log1p()).sqrt() - self.beta_min) / self.beta_d
        c_noise = ((self.steps - 1) * t).flatten().expand(len(x))
        asked = in_weights(self.network, (x / (1 + s**2).sqrt()).to(x.dtype), c_noise)
        return (x - s * self.network(*asked, **cond)).to(x.dtype)


class VE(nn.Module):
    r"""A score network of the variance-exploding process, as in EDM's baseline files.

    .. math:: D(x, \sigma) = x + \sigma\,F\big(x,\ \ln\tfrac{\sigma}{2}\big)

    The network was trained for σ from ``sigma_min`` to ``sigma_max``; outside, it is asked all the same.
    """

    def __init__(self, network: nn.Module, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        s = sigma_like(sigma, x)
        asked = in_weights(self.network, x, (s / 2).log().flatten().expand(len(x)))
        return (x + s * self.network(*asked, **cond)).to(x.dtype)


class IDDPM(nn.Module):
    r"""A network of improved DDPM, which counts noise in M steps, as in EDM's baseline file for ImageNet.

    .. math:: D(x, \sigma) = x - \sigma\,F\Big(\frac{x}{\sqrt{1+\sigma^2}},\ M - 1 - \arg\min_j |u_j - \sigma|\Big), \qquad
              u_M = 0, \quad u_{j-1}^2 = \frac{u_j^2 + 1}{\max(\bar\alpha_{j-1} / \bar\alpha_j,\ C_1)} - 1, \qquad
              \bar\alpha_j = \sin^2 \frac{\pi j}{2 M (C_2 + 1)}

    The network only ever hears the nearest of the noise levels u, so D is not continuous in σ. It was trained for σ from ``sigma_min``
    = u\ :sub:`M−1` to ``sigma_max`` = u\ :sub:`0`; outside, it is asked all the same. EDM's code makes u in float32, in which its lowest
    levels are off by 5 parts in 10,000; here it is float64.

    Args:
        network: F, called as ``network(x, c_noise, **cond)``; without the second half of its outputs, a learned variance.
        steps: M.
        c_1, c_2: C₁ and C₂, which keep the first and the last step from getting too large.

    Source: Nichol & Dhariwal 2021; Karras et al. 2022, table 1.
    """

    def __init__(self, network: nn.Module, steps: int = 1000, c_1: float = 0.001, c_2: float = 0.008) -> None:
        super().__init__()
        self.network, self.steps, self.c_1, self.c_2 = network, steps, c_1, c_2
        alphas = [math.sin(math.pi / 2 * j / steps / (c_2 + 1)) ** 2 for j in range(steps + 1)]
        levels = [0.0]
        for before, alpha in zip(alphas[-2::-1], alphas[:0:-1], strict=True):
            levels.append(math.sqrt((levels[-1] ** 2 + 1) / max(before / alpha, c_1) - 1))
        self.sigma_min, self.sigma_max = levels[1], levels[-1]
        self.levels = torch.tensor(levels[::-1])  # no buffer: half precision would spoil it

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        s = sigma_like(sigma, x)
        if self.levels.device != s.device:
            self.levels = self.levels.to(s.device)
        nearest = (self.levels - s.flatten()[:, None]).abs().argmin(1)
        c_noise = (self.steps - 1 - nearest).float().expand(len(x))
        asked = in_weights(self.network, (x / (1 + s**2).sqrt()).to(x.dtype), c_noise)
        return (x - s * self.network(*asked, **cond)).to(x.dtype)


PREDICTIONS = ("epsilon", "sample", "v_prediction")


class DiffusersDenoiser(nn.Module):
    r"""A UNet trained as a DDPM, with any schedule, as a denoiser in σ.

    With :math:`u` the network's answer to :math:`x / \sqrt{1 + \sigma^2}` at time t(σ), which is interpolated linearly in ln σ:

    .. math::
        D(x, \sigma) = x - \sigma u \ \ (\varepsilon\text{-prediction}), \qquad
        D = u \ \ (x_0), \qquad
        D = \frac{x}{1 + \sigma^2} - \frac{\sigma u}{\sqrt{1 + \sigma^2}} \ \ (v)

    The guess is never clipped. Below ``sigma_min``, where the network was never trained, it is asked at t = 0. A σ above ``sigma_max``
    raises an error (as always, checked only for a number or a tensor on the CPU).

    Args:
        unet: a diffusers ``UNet2DModel``, or a network that reads text (:mod:`cdedu.networks.text`); output channels beyond those of the
            image (a learned variance) are dropped.
        alphas_cumprod: (T,) the schedule, :math:`\bar\alpha_t`, falling from near 1 to near 0, but never to 0.
        prediction: what the network predicts: ``epsilon``, ``sample`` (x₀) or ``v_prediction``.

    Source: Ho et al. 2020; Salimans & Ho 2022 (v); Karras et al. 2022, table 1, column VP.
    """

    def __init__(
        self, unet: nn.Module, alphas_cumprod: Tensor | Sequence[float], prediction: str = "epsilon"
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction_type {prediction!r} is not a diffusion's; known are {', '.join(PREDICTIONS)}"
            )
        alphas = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        if not alphas[-1] > 0:
            raise ValueError(
                "the schedule ends without any signal (zero terminal SNR), where σ is infinite; "
                "a denoiser in σ cannot start there"
            )
        sigmas = ((1 - alphas) / alphas).sqrt()
        if not (len(sigmas) > 1 and sigmas[0] > 0 and (sigmas[1:] > sigmas[:-1]).all()):
            raise ValueError("the schedule's noise must grow from each time to the next")
        self.network = unet if isinstance(unet, UNet | TextNetwork) else UNet(unet)
        self.prediction, self.alphas_cumprod = prediction, alphas.tolist()
        self.sigma_min, self.sigma_max = float(sigmas[0]), float(sigmas[-1])
        self.log_sigmas = sigmas.log()  # no buffer: it must stay in float64 when weights are cast

    def time(self, sigma: Tensor) -> Tensor:
        """t(σ), a float32 tensor of sigma's shape, between 0 and T − 1."""
        if self.log_sigmas.device != sigma.device:
            double = sigma.device.type != "mps"
            self.log_sigmas = self.log_sigmas.to(sigma.device, torch.float64 if double else torch.float32)
        known = self.log_sigmas
        log_sigma = sigma.to(known.dtype).log()
        # How many lie below: torch.searchsorted, in operations that ONNX has too.
        i = (known < log_sigma[..., None]).sum(-1).clamp(1, len(known) - 1)
        # Not known[i], which would break a compiled graph where i is one number.
        low, high = known.take(i - 1), known.take(i)
        return (i - 1 + (log_sigma - low) / (high - low)).clamp(0, len(known) - 1).float()

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        s = sigma_like(sigma, x)
        if at_hand(s) and (s > self.sigma_max * 1.001).any():
            raise ValueError(
                f"sigma = {s.max():g} lies above {self.sigma_max:g}, the greatest noise level that this teacher knows"
            )
        alpha = 1 / (1 + s**2).sqrt()
        asked = in_weights(self.network, (alpha * x).to(x.dtype), self.time(s).flatten().expand(len(x)))
        out = self.network(*asked, **cond)
        out = out[:, : x.shape[1]]
        if self.prediction == "epsilon":
            out = x - s * out
        elif self.prediction == "v_prediction":
            out = alpha * (alpha * x - s * out)
        return out.to(x.dtype)


class Flow(nn.Module):
    r"""A network trained by flow matching, which predicts a velocity, as a denoiser in σ.

    Such a network lives on the straight line :math:`x_t = (1 - t)\,x_0 + t\,z` from data at t = 0 to noise at t = 1, and learns
    :math:`v = z - x_0`. Divide its input by 1 − t, the share of data in it, and you get our noisy sample; its answer gives a guess of the
    data:

    .. math:: \sigma = \frac{t}{1 - t}, \qquad x = \frac{x_t}{1 - t} = x_0 + \sigma z, \qquad
              D(x, \sigma) = x_t - t\,v(x_t, t) = \frac{x - \sigma\,v\big(x / (1+\sigma),\ \sigma / (1+\sigma)\big)}{1 + \sigma}

    At t = 1 there is no data left and σ is infinite, so walks begin at ``last``, where σ is ``sigma_max``. A larger σ raises an error (if
    it is a number, or a tensor on the CPU).

    Args:
        network: v, called as ``network(x_t, t, **cond)`` with t (B,).
        last: the largest t, below 1; at .999, σ is 999.

    Source: Lipman et al. 2023 and Liu et al. 2023 for the line; Esser et al. 2024 (Stable Diffusion 3), section 2, for its use here.
    """

    def __init__(self, network: nn.Module, last: float = 0.999) -> None:
        super().__init__()
        if not 0 < last < 1:
            raise ValueError(f"last = {last}, but a walk begins at a t between 0 and 1, both excluded")
        self.network, self.last = network, last
        self.sigma_min, self.sigma_max = 0.0, last / (1 - last)

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        s = sigma_like(sigma, x)
        if at_hand(s) and (s > self.sigma_max * 1.001).any():
            raise ValueError(
                f"sigma = {s.max():g} lies above {self.sigma_max:g}, where this flow's walks begin (t = {self.last:g})"
            )
        time = (s / (1 + s)).flatten().expand(len(x))
        velocity = self.network(*in_weights(self.network, (x / (1 + s)).to(x.dtype), time), **cond)
        return ((x - s * velocity) / (1 + s)).to(x.dtype)
