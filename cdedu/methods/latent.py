r"""Latent consistency: an autoencoder, and a consistency student of a guided teacher among its latents.

Everything else in this package works on latents as on any data: a :class:`~cdedu.data.Dataset` of encoded images has a teacher and a
student. Latent consistency models (LCM) add four things: the scale of the latents, the guidance weight as an input of the student, a
solver that skips points of the grid, and another boundary condition.

Two different numbers are called "guidance weight". Here, as in :mod:`cdedu.methods.guidance` and in diffusers' ``guidance_scale``,
``guidance`` is the scale w, and 1 means the label alone. LCM's weight is :math:`\omega = w - 1`.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.adapters import Flow
from cdedu.data import Dataset
from cdedu.losses import distillation_loss, l2
from cdedu.networks import UNet
from cdedu.networks.latent import Autoencoder, LatentUNet
from cdedu.noise import SIGMA_MIN, Sigma, sigma_like
from cdedu.recipes import recipes
from cdedu.solvers import Solver, euler_step
from cdedu.student import ConsistencyModel
from cdedu.teacher import Denoiser, Teacher

NULL = 10
"""The label that means "no digit"."""
LATENT_DIGITS = recipes["latent-digits"]
"""The recipe for teacher and student in the latent space of digits, with labels."""


def autoencoder_loss(model: Autoencoder, x: Tensor, noise: Tensor, kl: float = 1e-3) -> Tensor:
    r"""Reconstruction from a noisy latent, and a light pull of the latents toward a standard normal distribution; (B,).

    .. math:: \|G(\mu + e^{v/2} z) - x\|^2 + \beta\,\tfrac12\big(\mu^2 + e^v - v - 1\big)

    with the encoder's mean μ and log-variance v, z the noise in the shape of a latent, and β = ``kl``; both terms are means over their
    dimensions.
    """
    mean, log_variance = model.posterior(x)
    latent = mean + (log_variance / 2).exp() * noise
    divergence = (mean**2 + log_variance.exp() - log_variance - 1).flatten(1).mean(1) / 2
    return l2(model.decoder(latent), x) + kl * divergence


def train_autoencoder(
    model: Autoencoder, x: Tensor, steps: int, *, batch: int = 128, lr: float = 3e-3, kl: float = 1e-3
) -> Iterator[float]:
    """Train on images (n, 1, S, S), then set the scale; yields the loss of each step. For a seed, call ``torch.manual_seed`` first."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        part = x[torch.randint(len(x), (batch,))]
        noise = torch.randn(batch, model.channels, x.shape[2] // 2, x.shape[3] // 2)
        loss = autoencoder_loss(model, part, noise, kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step == steps - 1:
            model.calibrate(x)
        yield float(loss.detach())


@torch.no_grad()
def latent_data(model: Autoencoder, data: Dataset) -> Dataset:
    """The data as latents, with their labels: training data for a latent teacher."""
    train, test = model.encode(data.train), model.encode(data.test)
    return replace(data, name=f"latent-{data.name}", train=train, test=test, classifier="")


def latent_student(
    teacher: Teacher, guidance: tuple[float, float], sigma_min: float = SIGMA_MIN
) -> ConsistencyModel:
    """A student that starts as a labeled teacher and takes ``guidance=`` within the range."""
    if not isinstance(teacher.network, UNet):
        kind = type(teacher.network).__name__
        raise ValueError(f"the teacher's network is a {kind}; it must be a UNet with labels")
    network = LatentUNet(teacher.network, *guidance)
    return ConsistencyModel(network, teacher.sigma_data, sigma_min, teacher.noise_scale, teacher.angle)


def lcm_coefficients(
    t: float | Tensor, sigma_data: float = 0.5, timestep_scaling: float = 10.0
) -> tuple[Tensor, Tensor]:
    r"""The boundary condition of LCM, ``(c_skip, c_out)``, as functions of the integer time t of a DDPM schedule.

    .. math:: c_\text{skip}(t) = \frac{\sigma_d^2}{(s t)^2 + \sigma_d^2}, \qquad c_\text{out}(t) = \frac{s t}{\sqrt{(s t)^2 + \sigma_d^2}}

    for :math:`f = c_\text{skip}\,x_t + c_\text{out}\,\hat x_0`. There is no σ_d in the numerator of c_out, because it multiplies a guess
    of x0, not a network's raw output. At t = 0 both are exact; at t = 1 c_skip is already .0025.

    Args:
        t: from 0 to the last step of the schedule.
        timestep_scaling: s.

    Source: Luo et al. 2023 (LCM), as in diffusers' ``LCMScheduler``.
    """
    scaled = timestep_scaling * torch.as_tensor(t, dtype=torch.float64)
    if not (scaled >= 0).all():
        raise ValueError(f"t = {t}, but a time of the schedule is not negative")
    return sigma_data**2 / (scaled**2 + sigma_data**2), scaled / (scaled**2 + sigma_data**2).sqrt()


def lcm_times(steps: int = 50, of: int = 1000) -> Tensor:
    """The ``steps`` + 1 times of LCM's grid, falling: for a schedule of 1000 steps 999, 979, ..., 19, with a 0 at the end."""
    if not 1 <= steps <= of:
        raise ValueError(f"a schedule of {of} steps has 1 to {of} of them to choose, not {steps}")
    return torch.cat([torch.arange(steps, 0, -1) * (of // steps) - 1, torch.zeros(1, dtype=torch.long)])


class LatentConsistencyModel(nn.Module):
    r"""LCM's consistency function, made from the denoiser D of a discrete-time diffusion:

    .. math:: f(x, \sigma) = c_\text{skip}(t)\,\frac{x}{\sqrt{1+\sigma^2}} + c_\text{out}(t)\,D(x, \sigma), \qquad t = t(\sigma)

    with :func:`lcm_coefficients`. The first term is LCM's :math:`x_t`, which lives on the variance-preserving scale; it is 0.25 % of the
    answer at t = 1 and less at larger t. Over a :class:`~cdedu.adapters.Flow` the answer is D itself, which is x at σ = 0 already.

    ``sigma_min`` is 0: between two calls LCM puts back noise of the full next level.

    Source: Luo et al. 2023 (LCM), in σ.
    """

    sigma_min = 0.0
    clip: float | None = None

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Sigma, **cond: Any) -> Tensor:
        guess = self.denoiser(x, sigma, **cond)
        if isinstance(self.denoiser, Flow):
            return guess
        s = sigma_like(sigma, x)
        c_skip, c_out = (c.to(s) for c in lcm_coefficients(self.denoiser.time(s)))  # type: ignore[operator,union-attr]
        return (c_skip * x / (1 + s**2).sqrt() + c_out * guess).to(x.dtype)


def huber(a: Tensor, b: Tensor, c: float = 1e-3) -> Tensor:
    r"""LCM's distance, element by element: :math:`\operatorname{mean}\big(\sqrt{(a-b)^2 + c^2} - c\big)`, (B, ...) and (B, ...) → (B,).

    :func:`~cdedu.losses.pseudo_huber` takes the root of the whole sample's norm instead.

    Source: Luo et al. 2023 (LCM), as in diffusers' training scripts.
    """
    return ((a - b).flatten(1).square() + c**2).sqrt().mean(1) - c


def skipping_loss(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x0: Tensor,
    sigmas: Tensor,
    skip: int = 1,
    *,
    solver: Solver = euler_step,
    **options: Any,
) -> Tensor:
    r"""Consistency distillation between points that are k steps of the grid apart.

    .. math:: \mathcal L = \lambda\; d\big(f_\theta(x_{\sigma_i}, \sigma_i),\ f_{\theta^-}(\hat x_{\sigma_j}, \sigma_j)\big), \qquad j = \min(i + k,\ N - 1)

    with *one* step of the solver from σ_i to σ_j, N points of a fine grid, and k = ``skip`` from 1 to N − 1. At k = 1 this is
    :func:`~cdedu.losses.distillation_loss`, which has the other arguments, labels and the like included. The last k steps all end at the
    last point, where the target is the teacher's own point.

    Raises:
        ValueError: for a k outside the grid.

    Source: Luo et al. 2023 (LCM), section 4.3 and algorithm 1, in σ.
    """
    return distillation_loss(student, target, teacher, x0, sigmas, skip=skip, solver=solver, **options)
