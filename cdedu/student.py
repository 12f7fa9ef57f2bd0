"""Students: denoisers that get it right in a single call, and the averages of their weights.

Never mix up these four sets of weights: the **teacher** φ is frozen; the **student** θ is trained; the student is compared with the
**target** θ⁻ (at μ = 0 the student itself, gradient stopped); the **sampling average** generates.
"""

import copy
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cdedu.noise import SIGMA_MIN, Sigma, sigma_like
from cdedu.teacher import Preconditioned, Teacher


class ConsistencyModel(Preconditioned):
    r"""A consistency function in the paper's preconditioning.

    .. math:: f_\theta(x, \sigma) = c_\text{skip}(\sigma)\,x + c_\text{out}(\sigma)\,F_\theta\big(c_\text{in}(\sigma)\,x,\ c_\text{noise}\big),
              \qquad f_\theta(x, \varepsilon) = x

    The boundary condition holds bitwise for any network, since c_skip(ε) = 1 and c_out(ε) = 0.

    Args:
        network: F, called as ``network(x, c_noise, **cond)``.
        sigma_data: standard deviation of the data, σ_d.
        sigma_min: ε, the noise level that counts as data.
        noise_scale, angle: as in :class:`~cdedu.teacher.Teacher`, with the teacher's values.

    Up to the shift by ε this is TrigFlow's :math:`\cos t\,x_t - \sin t\,\sigma_d F`, with the sign of F flipped
    (:func:`~cdedu.noise.to_trigflow`), so the continuous limit doesn't need a model of its own.

    Source: Song et al. 2023, eq. 5 and appendix C.
    """

    clip: float | None = None
    """Samplers clamp the answers to [−clip, clip]; 1 for a published model whose scheduler sets ``clip_denoised``."""

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float = 0.5,
        sigma_min: float = SIGMA_MIN,
        noise_scale: float = 0.25,
        angle: bool = False,
    ) -> None:
        if not sigma_min > 0:
            raise ValueError(f"sigma_min = {sigma_min}, but it must be positive")
        super().__init__(network, sigma_data, sigma_min, noise_scale, angle)

    @classmethod
    def from_teacher(cls, teacher: Teacher, sigma_min: float = SIGMA_MIN) -> "ConsistencyModel":
        """A student that starts as a copy of the teacher's network, with every weight trainable.

        Raises:
            TypeError: for a denoiser without such a network; :class:`DenoiserStudent` takes any denoiser.
        """
        if not isinstance(teacher, Teacher):
            raise TypeError(
                f"{type(teacher).__name__} has no preconditioned network to copy; "
                "use DenoiserStudent(denoiser), which works over any denoiser"
            )
        network = copy.deepcopy(teacher.network).requires_grad_(True)
        return cls(network, teacher.sigma_data, sigma_min, teacher.noise_scale, teacher.angle)


class DenoiserStudent(nn.Module):
    r"""A consistency function over any denoiser D, for teachers that have no network F to copy.

    .. math:: f_\theta(x, \sigma) = \frac{\varepsilon}{\sigma}\,x + \Big(1 - \frac{\varepsilon}{\sigma}\Big) D_\theta(x, \sigma)

    At ε it is x, bitwise. Before training it is one Euler step of the denoiser from σ to ε.

    Args:
        denoiser: a module ``D(x, sigma, **cond)``; training changes its weights.
        sigma_min: ε, not below the denoiser's own range (a DDPM knows nothing below .01).
    """

    def __init__(self, denoiser: nn.Module, sigma_min: float = SIGMA_MIN) -> None:
        super().__init__()
        if not sigma_min > 0:
            raise ValueError(f"sigma_min = {sigma_min}, but it must be positive")
        self.denoiser, self.sigma_min = denoiser, sigma_min

    def forward(self, x: Tensor, sigma: Sigma, **cond: Any) -> Tensor:
        keep = self.sigma_min / sigma_like(sigma, x, sigma_min=self.sigma_min)
        return (keep * x + (1 - keep) * self.denoiser(x, sigma, **cond)).to(x.dtype)


class EMA(AveragedModel):
    r"""An exponential moving average of a model's weights: :math:`\bar\theta \leftarrow \mu\,\bar\theta + (1-\mu)\,\theta`.

    It has two roles that must not be confused: target (with the rate μ of the loss) and sampling average. Call it like the model that it
        averages; no gradient reaches it. The first update copies. The rate is μ, 0 ≤ μ < 1; for schedules, :meth:`update` takes another
        one.
    """

    def __init__(self, model: nn.Module, rate: float) -> None:
        super().__init__(model, use_buffers=True)
        self.rate = _check_rate(rate)
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, rate: float | None = None) -> None:
        """One step of the average. The step count stays on the CPU, to avoid waiting for a GPU."""
        rate = _check_rate(self.rate if rate is None else rate)
        mine, new = ([*m.parameters(), *m.buffers()] for m in (self.module, model))
        moving = [t.is_floating_point() and t is not now for t, now in zip(mine, new, strict=True)]
        torch._foreach_lerp_(
            [*compress(mine, moving)], [*compress(new, moving)], 1 - rate if self.n_averaged else 1.0
        )
        for count, now in zip(mine, new, strict=True):
            if not count.is_floating_point():
                count.copy_(now)
        self.n_averaged += 1


def _check_rate(rate: float) -> float:
    if not 0 <= rate < 1:
        raise ValueError(f"rate = {rate}, but it must be at least 0 and below 1")
    return rate
