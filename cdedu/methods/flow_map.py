"""A student with two noise levels: it jumps from one to the other along the teacher's path, without fresh noise (MeanFlow, in σ)."""

import copy
from typing import Any

import torch
from torch import Generator, Tensor, nn

from cdedu.losses import edm_weight, l2, path_derivative
from cdedu.networks import UNet
from cdedu.noise import SIGMA_MIN, Sigma, add_noise, normal, per_sample, sigma_like
from cdedu.teacher import Denoiser, Teacher, in_weights, preconditioning


class TwoLevelUNet(UNet):
    """A UNet without labels that takes a second noise level, embedded like the first and added to it. At the start it has no effect."""

    def __init__(self, network: UNet) -> None:
        super().__init__(copy.deepcopy(network.net).requires_grad_(True))
        if getattr(self.net, "class_embedding", None) is not None:
            raise ValueError(
                "TwoLevelUNet: the network has labels, whose place the second level would take; give one without"
            )
        first: Any = self.net.time_embedding
        second = copy.deepcopy(first)
        nn.init.zeros_(second.linear_2.weight)
        nn.init.zeros_(second.linear_2.bias)
        self.net.class_embedding = nn.Sequential(self.net.time_proj, second)  # type: ignore[arg-type]


class FlowMap(nn.Module):
    r"""The jump from σ to s, with g in the form of EDM's denoiser:

    .. math:: G(x, \sigma, s) = \frac{s}{\sigma}\,x + \Big(1 - \frac{s}{\sigma}\Big)\,g(x, \sigma, s), \qquad G(x, \sigma, \sigma) = x

    At s = σ, where g drops out of G, g should be the denoiser D; at s = 0 it is a consistency function.

    Source: Kim et al. 2023 (CTM), section 3, for the form; Geng et al. 2025 (MeanFlow) for the training.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5, noise_scale: float = 0.25) -> None:
        super().__init__()
        self.network, self.sigma_data, self.noise_scale, self.sigma_min = (
            network,
            sigma_data,
            noise_scale,
            SIGMA_MIN,
        )

    @classmethod
    def from_teacher(cls, teacher: Teacher) -> "FlowMap":
        """A student that starts as a copy of the teacher's network, and answers as the teacher does for every s."""
        if not isinstance(teacher, Teacher) or not isinstance(teacher.network, UNet) or teacher.angle:
            raise TypeError("FlowMap.from_teacher takes a Teacher with a UNet that is told ln σ")
        return cls(TwoLevelUNet(teacher.network), teacher.sigma_data, teacher.noise_scale)

    def guess(self, x: Tensor, sigma: Sigma, s: Sigma) -> Tensor:
        """The guess g: x (B, ...), sigma and s numbers or (B,), s ≤ sigma; the result has the shape of x."""
        high, low = sigma_like(sigma, x), sigma_like(s, x, sigma_min=self.sigma_min)
        c_skip, c_out, c_in = preconditioning(high, self.sigma_data)
        first, second = (self.noise_scale * level.log().flatten().expand(len(x)) for level in (high, low))
        out = self.network(*in_weights(self.network, (c_in * x).to(x.dtype), first), second)
        return (c_skip * x + c_out * out).to(x.dtype)

    def forward(self, x: Tensor, sigma: Sigma, s: Sigma) -> Tensor:
        """G, likewise."""
        ratio = sigma_like(s, x) / sigma_like(sigma, x)
        return (ratio * x + (1 - ratio) * self.guess(x, sigma, s)).to(x.dtype)


def mean_flow_loss(
    student: Any,
    teacher: Denoiser,
    x0: Tensor,
    sigma: Tensor,
    s: Tensor,
    *,
    noise: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""MeanFlow in σ, (B,): the identity for the average slope, using the teacher's slope.

    .. math:: \mathcal L = \lambda(\sigma)\,\Big\|g(x, \sigma, s) - \operatorname{sg}\Big(\frac{s}{\sigma}\,D + \Big(1 - \frac{s}{\sigma}\Big)\,g
              - (\sigma - s)\,\frac{dg}{d\sigma}\Big)\Big\|^2

    with EDM's λ and the derivative along the teacher's path, s held fixed. It is zero for the teacher's flow map.

    Args:
        student: a :class:`FlowMap`, or anything with ``guess(x, sigma, s)`` and ``sigma_data``.
        teacher: D.
        x0: (B, ...) data; sigma, s: (B,), s ≤ sigma; noise: z, drawn where it is not given.

    Raises:
        ValueError: for an s above its sigma.

    Source: Geng et al. 2025 (MeanFlow), section 4, written in σ (chapter 17).
    """
    if not (s <= sigma).all():
        raise ValueError("s must not be above sigma, for any of the samples")
    noise = normal(x0.shape, generator, like=x0) if noise is None else noise
    x, ratio, gap = add_noise(x0, sigma, noise), per_sample(s / sigma, x0), per_sample(sigma - s, x0)
    with torch.no_grad():
        guess = teacher(x, sigma)
    value, change = path_derivative(student.guess, x, sigma, (x - guess) / per_sample(sigma, x), s=s)
    goal = ratio * guess + (1 - ratio) * value - gap * change
    return edm_weight(sigma, student.sigma_data) * l2(student.guess(x, sigma, s), goal)
