r"""Latent consistency: an autoencoder, and a consistency student of a guided teacher among its latents.

Everything else in this package works on latents as on any data: a :class:`~cdedu.data.Dataset` of encoded images has a teacher and a
student. New are four things of latent consistency models (LCM): the scale of the latents, the guidance weight as an input of the
student, a solver that skips points of the grid, and another boundary condition.

Two numbers are called guidance weight. Here, as in :mod:`cdedu.guidance` and in diffusers' ``guidance_scale``, ``guidance`` is the
scale w, and 1 means the label alone. LCM's weight is :math:`\omega = w - 1`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from cdedu.data import Dataset
from cdedu.guidance import Weight, WeightedUNet
from cdedu.losses import Distance, _disagreement, _draw, l2
from cdedu.networks import UNet
from cdedu.noise import SIGMA_MIN, add_noise, check_grid
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage
from cdedu.solvers import Solver, euler_step
from cdedu.student import ConsistencyModel
from cdedu.teacher import Denoiser, Teacher

NULL = 10
"""The label of a digit that means none."""
LATENT_DIGITS = Recipe(
    name="latent-digits",
    data="digits",
    network=Network("unet", width=8, depth=1, multipliers=(2, 3), classes=NULL + 1),
    teacher=TeacherStage(steps=2000, batch=64, lr=2e-3, ema=0.998, warmup=50),
    student=StudentStage(steps=2000, batch=64, lr=1e-3, points=18, solver="euler", distance="l2", weight="inverse_gap", ema=0.99),
    noise_scale=250.0,
)  # fmt: skip
"""Teacher and student among the latents of digits, with labels; in pixels it is ``replace(LATENT_DIGITS, name=...)``."""


class Autoencoder(nn.Module):
    r"""A small convolutional autoencoder: images (B, 1, S, S) to latents (B, channels, S/2, S/2) and back.

    .. math:: E(x) = s\,\mu(x), \qquad \hat x = G(z / s), \qquad s = \sigma_d / \operatorname{std}\big(\mu(x)\big)

    The scale s gives the latents of the data the standard deviation that teachers and noise grids expect. It is 1 until
    :meth:`calibrate` has seen data, and is stored with the weights. Stable Diffusion's, with 1 for σ_d, is 0.18215.

    Args:
        channels: of a latent.
        width: channels in between.

    Source: Kingma & Welling 2013; Rombach et al. 2022, section 3.1 and appendix G (the scale).
    """

    def __init__(self, channels: int = 2, width: int = 32) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"Autoencoder: channels = {channels}, but a latent needs at least 1")
        self.channels = channels
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 2 * channels, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(1.0))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latent, each (B, channels, S/2, S/2)."""
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"Autoencoder: images of shape {tuple(x.shape)}; it encodes (B, 1, S, S) with an even S"
            )
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, x: Tensor) -> Tensor:
        """E(x): the scaled mean."""
        return self.scale * self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents; undoes the scale first.

        Raises:
            ValueError: for a latent of the wrong shape.
        """
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(
                f"Autoencoder: a latent of shape {tuple(z.shape)}; it decodes (B, {self.channels}, S/2, S/2). "
                "Was the latent made by another autoencoder, or is it an image?"
            )
        images: Tensor = self.decoder(z / self.scale)
        return images

    @torch.no_grad()
    def calibrate(self, x: Tensor, sigma_data: float = 0.5) -> float:
        """Set the scale so that the latents of x have the standard deviation ``sigma_data``; returns the scale."""
        self.scale.copy_(sigma_data / self.posterior(x)[0].std())
        return float(self.scale)


def autoencoder_loss(model: Autoencoder, x: Tensor, noise: Tensor, kl: float = 1e-3) -> Tensor:
    r"""Reconstruction from a noisy latent, and a light pull of the latents towards a standard normal distribution.

    .. math:: \|G(\mu + e^{v/2} z) - x\|^2 + \beta\,\tfrac12\big(\mu^2 + e^v - v - 1\big)

    with the mean μ and the log-variance v that the encoder answers; both terms are means over their dimensions.

    Args:
        noise: z, in the shape of a latent.
        kl: β.

    Returns:
        (B,) losses.
    """
    mean, log_variance = model.posterior(x)
    latent = mean + (log_variance / 2).exp() * noise
    divergence = (mean**2 + log_variance.exp() - log_variance - 1).flatten(1).mean(1) / 2
    return l2(model.decoder(latent), x) + kl * divergence


def train_autoencoder(
    model: Autoencoder, x: Tensor, steps: int, *, batch: int = 128, lr: float = 3e-3, kl: float = 1e-3
) -> Iterator[float]:
    """Train on images (n, 1, S, S), then set the scale; yields the loss of each step. Seed: ``torch.manual_seed``."""
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
    """The data as latents, with their labels: what a latent teacher is trained on."""
    return replace(
        data, name=f"latent-{data.name}", train=model.encode(data.train), test=model.encode(data.test)
    )


def guidance_embedding(omega: Tensor, dim: int = 256) -> Tensor:
    r"""LCM's embedding of the guidance weight ω, the sinusoidal embedding of time with 1000 ω in the place of time.

    .. math:: \big(\sin(1000\,\omega\,r_i),\ \cos(1000\,\omega\,r_i)\big), \qquad r_i = 10000^{-i/(h-1)}, \quad i = 0, \dots, h - 1

    with h = dim/2: waves from 1000 radians to a tenth of one for each unit of ω.

    Args:
        omega: (B,), :math:`\omega = w - 1` for a guidance scale w.
        dim: even, at least 4.

    Returns:
        (B, dim).

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
    """A labelled UNet that takes the guidance scale as LCM's student does: ω = scale − 1 through :func:`guidance_embedding`.

    Args:
        network: a UNet with labels, whose weights are copied; it starts as this network, whatever the scale.
        low, high: the scales that it is trained on.
        dim: of the embedding.

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
        self.trained: Tensor
        self.register_buffer("trained", torch.tensor([float(low), float(high)]))

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, guidance: Weight | None = None
    ) -> Tensor:
        if guidance is not None and self.trained.device.type == "cpu" and not torch.compiler.is_compiling():
            asked, (low, high) = torch.as_tensor(guidance), self.trained.tolist()
            if not ((asked >= low - 1e-4) & (asked <= high + 1e-4)).all():
                raise ValueError(
                    f"guidance runs from {asked.min():g} to {asked.max():g}, but this student was distilled at scales from {low:g} to "
                    f"{high:g} and knows no others; choose one of those, or distil again with a wider range"
                )
        return super().forward(x, c_noise, labels, guidance)

    def _embed(self, w: Tensor) -> Tensor:
        return self.weight(guidance_embedding(w - 1, self.dim).to(self.weight.weight.dtype))


def latent_student(
    teacher: Teacher, guidance: tuple[float, float], sigma_min: float = SIGMA_MIN
) -> ConsistencyModel:
    """A student that starts as a labelled teacher and takes ``guidance=`` within the range."""
    if not isinstance(teacher.network, UNet):
        raise ValueError(f"latent_student: the teacher's network is a {type(teacher.network).__name__}; it must be a UNet with labels")  # fmt: skip
    network = LatentUNet(teacher.network, *guidance)
    return ConsistencyModel(network, teacher.sigma_data, sigma_min, teacher.noise_scale, teacher.angle)


def lcm_coefficients(
    t: float | Tensor, sigma_data: float = 0.5, timestep_scaling: float = 10.0
) -> tuple[Tensor, Tensor]:
    r"""The boundary condition of LCM, ``(c_skip, c_out)``, over the integer time t of a DDPM schedule.

    .. math:: c_\text{skip}(t) = \frac{\sigma_d^2}{(s t)^2 + \sigma_d^2}, \qquad c_\text{out}(t) = \frac{s t}{\sqrt{(s t)^2 + \sigma_d^2}}

    for :math:`f = c_\text{skip}\,x_t + c_\text{out}\,\hat x_0`. There is no σ_d above in c_out, as what it multiplies is a guess of x0
    and not a network's raw output. At t = 0 both are exact; at t = 1 c_skip is already .0025.

    Args:
        t: from 0 to the last step of the schedule.
        timestep_scaling: s.

    Source: Luo et al. 2023 (LCM), as in diffusers' ``LCMScheduler``.
    """
    scaled = timestep_scaling * torch.as_tensor(t, dtype=torch.float64)
    if not (scaled >= 0).all():
        raise ValueError(f"lcm_coefficients: t = {t}, but a time of the schedule is not negative")
    return sigma_data**2 / (scaled**2 + sigma_data**2), scaled / (scaled**2 + sigma_data**2).sqrt()


def skipping_loss(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x0: Tensor,
    sigmas: Tensor,
    skip: int = 1,
    *,
    index: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    solver: Solver = euler_step,
    distance: Distance = l2,
    weight: Callable[[Tensor, Tensor], Tensor] | None = None,
    **cond: Tensor,
) -> Tensor:
    r"""Consistency distillation between points that are k steps of the grid apart.

    .. math:: \mathcal L = \lambda\; d\big(f_\theta(x_{\sigma_i}, \sigma_i),\ f_{\theta^-}(\hat x_{\sigma_j}, \sigma_j)\big), \qquad j = \min(i + k,\ N - 1)

    with *one* step of the solver from σ_i to σ_j. At k = 1 this is :func:`~cdedu.losses.distillation_loss`. The last k steps all end at
    the last point, where the target is the teacher's own point.

    Args:
        sigmas: (N,) the fine grid, descending.
        skip: k, from 1 to N − 1.
        others: as in :func:`~cdedu.losses.distillation_loss`.

    Raises:
        ValueError: for a k outside the grid.

    Source: Luo et al. 2023 (LCM), section 4.3 and algorithm 1, in σ.
    """
    steps = len(check_grid(sigmas, "skipping_loss")) - 1
    if not 1 <= skip <= steps:
        raise ValueError(f"skipping_loss: skip = {skip}, but a grid of {steps + 1} points has 1 to {steps} steps to skip")  # fmt: skip
    noise, index = _draw(x0, steps, noise, index, None, generator, "skipping_loss")
    index = index.to(sigmas.device)
    sigma, sigma_next = sigmas[index], sigmas[(index + skip).clamp(max=steps)]
    x = add_noise(x0, sigma, noise)
    with torch.no_grad():
        x_next = solver(teacher, x, sigma, sigma_next, **cond)
    return _disagreement(student, target, x, sigma, x_next, sigma_next, distance, weight, cond)


def digits_autoencoder() -> Autoencoder:
    """The autoencoder of digits that comes with the course."""
    from cdedu.checkpoints import read_tensors, shipped

    model = Autoencoder()
    model.load_state_dict(read_tensors(shipped("digits-autoencoder"))[0])
    return model.eval().requires_grad_(False)


def digits_latent_student() -> ConsistencyModel:
    """The guided latent student of digits that comes with the course; its teacher is ``cdedu.load("latent-digits-teacher")``."""
    from cdedu.checkpoints import load, read_tensors, shipped

    model = latent_student(load("latent-digits-teacher"), (0.0, 0.0))
    model.network.load_state_dict(read_tensors(shipped("latent-digits-student"))[0])
    return model.eval().requires_grad_(False)
