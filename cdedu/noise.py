"""Noise: one scale σ, its grids, its distributions, and how much of it a sample gets.

Data with noise is :math:`x_\\sigma = x_0 + \\sigma z`, :math:`z \\sim N(0, I)`, with σ from ``sigma_min`` (ε, where for all practical
purposes only data is left) to ``sigma_max`` (T, where only noise is left). There is no other time variable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from cdedu.limits import Range

Sigma = float | Tensor
"""A noise level: one for all samples, or one for each, (B,)."""
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
ROUNDING = 1e-6
"""Relative tolerance within which a σ counts as ε, since it may have been rounded to float32 on the way."""


def karras_sigmas(
    n: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""The noise grid of EDM, (n,): strictly descending from ``sigma_max`` to ``sigma_min``.

    .. math:: \sigma_i = \Big(T^{1/\rho} + \tfrac{i}{n-1}\,(\varepsilon^{1/\rho} - T^{1/\rho})\Big)^{\rho},
              \qquad i = 0, \dots, n-1

    The two ends are exact. The grid is computed in float64 and cast last, since in float32 neighbors on a fine grid could coincide.

    Args:
        n: number of *points* (one more than the number of steps between them), at least 2.
        sigma_min, sigma_max: the ends ε and T, ``0 < sigma_min < sigma_max``.
        rho: how strongly the points crowd toward ε; 1 spaces them evenly.

    Raises:
        ValueError: for ``n < 2``, ends in the wrong order, or a grid too fine for ``dtype``.

    Source: Karras et al. 2022, eq. 5; Song et al. 2023, section 5 (there counted from the other end).
    """
    if not (n >= 2 and 0 < sigma_min < sigma_max < math.inf and rho > 0):
        raise ValueError(
            "a noise grid needs at least 2 points, 0 < sigma_min < sigma_max and rho > 0, "
            f"got n = {n}, {sigma_min}, {sigma_max} and {rho}"
        )
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    try:
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        raise ValueError(
            f"a noise grid up to {sigma_max:g} cannot be computed with rho = {rho:g}; rho is 7 in EDM"
        ) from None
    sigmas = (high + ramp * (low - high)) ** rho
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    sigmas = sigmas.to(device=device, dtype=dtype)
    if not (sigmas[:-1] > sigmas[1:]).all():
        raise ValueError(f"{n} points are too many for {dtype}; use float64 or fewer points")
    return sigmas


@dataclass(frozen=True)
class LogNormal:
    r"""The noise-level distribution of teacher training: :math:`\ln\sigma \sim N(\text{mean}, \text{std}^2)`.

    Source: Karras et al. 2022, table 1 (mean −1.2, standard deviation 1.2).
    """

    mean: Annotated[float, Range(-100, 100)] = -1.2
    std: Annotated[float, Range(0, 100, without="low")] = 1.2

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw noise levels, (n,)."""
        return (self.mean + self.std * normal((n,), generator)).exp()

    def grid_weights(self, sigmas: Tensor) -> Tensor:
        r"""How often each step of a descending grid is drawn: (n−1,) weights that sum to 1.

        .. math:: w_i \propto \Phi\Big(\frac{\ln\sigma_i - m}{s}\Big) - \Phi\Big(\frac{\ln\sigma_{i+1} - m}{s}\Big)

        Source: Song & Dhariwal 2023 (iCT), section 3.5, with m = −1.1 and s = 2.
        """
        z = (check_grid(sigmas).cpu().double().log() - self.mean) / self.std  # not every device has float64
        mass = torch.special.ndtr(z[:-1]) - torch.special.ndtr(z[1:])
        return (mass / mass.sum()).to(floating(sigmas)).to(sigmas.device)


def add_noise(x0: Tensor, sigma: Sigma, noise: Tensor) -> Tensor:
    r"""Add noise: :math:`x_\sigma = x_0 + \sigma z`, for x0 and z of the same shape (B, ...), σ a number or one per sample (B,)."""
    if noise.shape != x0.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, x0 has {tuple(x0.shape)}")
    return (x0 + sigma_like(sigma, x0, zero_allowed=True) * noise).to(x0.dtype)


def to_trigflow(x: Tensor, sigma: Sigma, sigma_data: float = 0.5) -> tuple[Tensor, Tensor]:
    r"""A noisy sample on TrigFlow's scale, where an angle t turns a sample from data into noise:

    .. math:: t = \arctan\frac{\sigma}{\sigma_d}, \qquad x_t = \cos t\; x_\sigma = \cos t\; x_0 + \sin t\; \sigma_d z

    For x (B, ...) and σ, a number or (B,): x_t in the shape of x, and t in 0..π/2 in the shape of σ.

    Source: Lu & Song 2024 (sCM), section 3.1 and appendix B.
    """
    s = sigma_like(sigma, x, zero_allowed=True)
    t = (s / sigma_data).atan()
    return (t.cos() * x).to(x.dtype), t.flatten() if s.ndim else t


def from_trigflow(x_t: Tensor, t: float | Tensor, sigma_data: float = 0.5) -> tuple[Tensor, Tensor]:
    r"""The inverse of :func:`to_trigflow`: :math:`x = x_t / \cos t` and :math:`\sigma = \sigma_d \tan t`.

    Raises:
        ValueError: for an angle outside 0 ≤ t < π/2.
    """
    value = torch.as_tensor(t)
    if at_hand(value) and not ((value >= 0) & (value < math.pi / 2)).all():
        raise ValueError(f"t = {t}, but an angle must lie in [0, π/2)")
    angle = sigma_like(value, x_t, zero_allowed=True)
    return (x_t / angle.cos()).to(x_t.dtype), sigma_data * value.tan()


def curriculum(k: int, steps: int, s0: int = 2, s1: int = 150) -> int:
    r"""Number of grid points :math:`N(k)` at step ``k`` of ``steps`` for consistency training.

    .. math:: N(k) = \Big\lceil \sqrt{\tfrac{k}{K}\,\big((s_1+1)^2 - s_0^2\big) + s_0^2} - 1 \Big\rceil + 1

    Source: Song et al. 2023, appendix C.
    """
    _check_curriculum(k, steps, s0, s1)
    return math.ceil(math.sqrt(k / steps * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1


def improved_curriculum(k: int, steps: int, s0: int = 10, s1: int = 1280) -> int:
    r"""Number of grid points at step ``k`` of ``steps`` in iCT: doubled at equal intervals.

    .. math:: N(k) = \min\big(s_0\,2^{\lfloor k/K' \rfloor},\ s_1\big) + 1, \qquad
              K' = \Big\lfloor \frac{K}{\log_2 \lfloor s_1/s_0 \rfloor + 1} \Big\rfloor

    Raises:
        ValueError: as in :func:`curriculum`, and if there are fewer steps than doublings.

    Source: Song & Dhariwal 2023 (iCT), section 3.4.
    """
    _check_curriculum(k, steps, s0, s1)
    stages = math.log2(s1 // s0) + 1
    if steps < stages:
        raise ValueError(
            f"{steps} steps are too few for {math.ceil(stages)} grids from s0 = {s0} to s1 = {s1}; train longer or lower s1"
        )
    return min(s0 * 2 ** (k // int(steps / stages)), s1) + 1


def stage_of(k: int, steps: int, stages: int) -> int:
    """The stage that step ``k`` falls into when ``steps`` training steps are cut into ``stages`` equal parts: 0, 1, ..., ``stages`` − 1.

    Raises:
        ValueError: for a step out of range, or fewer steps than stages.
    """
    if not (1 <= stages <= steps and 0 <= k <= steps):
        raise ValueError(f"step {k} of {steps} lies in none of {stages} stages")
    return min(k * stages // steps, stages - 1)


def _check_curriculum(k: int, steps: int, s0: int, s1: int) -> None:
    if not (0 <= k <= steps and steps >= 1 and 2 <= s0 <= s1):
        raise ValueError(
            f"a curriculum needs a step from 0 to steps, of 1 or more, and 2 <= s0 <= s1; got step {k}, steps = {steps}, "
            f"s0 = {s0} and s1 = {s1}"
        )


def target_rate(n: int, s0: int = 2, mu0: float = 0.9) -> float:
    r"""Rate of the target average to go with :func:`curriculum`: :math:`\mu(k) = \exp(s_0 \ln\mu_0 / N(k))`, as a function of N = ``n``.

    Published code divides by N − 1 instead, which makes μ .81 instead of .90 at the start; this is the paper's formula.

    Source: Song et al. 2023, appendix C.
    """
    if not 0 < mu0 < 1:
        raise ValueError(f"mu0 = {mu0}, but it must lie between 0 and 1")
    return math.exp(s0 * math.log(mu0) / n)


def draw_steps(weights: Tensor, n: int, generator: Generator | None = None) -> Tensor:
    """Draw (n,) steps of a grid, step i with probability proportional to ``weights[i]``: by inversion, on the generator's device."""
    u = torch.rand(n, generator=generator, device=generator.device if generator else "cpu")
    edges = weights.to(u).cumsum(0)
    return torch.searchsorted(edges / edges[-1], u, right=True).clamp(max=len(weights) - 1)


Generators = Generator | Sequence[Generator] | None
"""What draws the noise: PyTorch's global generator, another one, or one for each sample."""


def normal(shape: tuple[int, ...], generator: Generators = None, like: Tensor | None = None) -> Tensor:
    """Standard normal noise, drawn on the generator's device and then moved, so one seed gives the same noise on every device."""
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators for {shape[0]} samples; give one for each")
        noise = torch.stack([normal(shape[1:], own) for own in generator])
        return noise if like is None else noise.to(like)
    noise = torch.randn(shape, generator=generator, device=generator.device if generator else "cpu")
    return noise if like is None else noise.to(like)


def floating(x: Tensor) -> torch.dtype:
    """The dtype for anything computed from x: its own, or float32 if x holds integers."""
    return x.dtype if x.is_floating_point() else torch.float32


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """Reshape one number per sample, (B,), to (B, 1, ...), which broadcasts over ``x``."""
    return value.reshape(-1, *[1] * (x.ndim - 1))


def at_hand(values: Tensor) -> bool:
    """Whether looking at ``values`` is free: on the CPU, and not while a graph is being compiled.

    Anything that checks the values in a tensor asks this first. Looking at a tensor on a GPU means waiting for the GPU at every call, so
    a wrong noise level goes unnoticed there; a number, or a tensor on the CPU, is always checked.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def sigma_like(sigma: Sigma, x: Tensor, *, sigma_min: float = 0.0, zero_allowed: bool = False) -> Tensor:
    """σ as a tensor that broadcasts over ``x``: shape () or (B, 1, ...), float64 if x is, otherwise float32.

    A consistency function has an ε, ``sigma_min``, below which it is not defined. A σ within rounding of it (one part in 10⁶) counts as
    ε.

    Raises:
        ValueError: for a σ that is zero, negative, NaN or infinite, below ``sigma_min``, or of a shape other than () or (B,).
            Values are only checked if they are :func:`at_hand`. Also for an integer x, which can't hold noise.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"x has type {x.dtype}, which cannot hold noise; use to_unit(x) for 8-bit pictures, x.float() otherwise"
        )
    value = torch.as_tensor(sigma, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    if value.ndim and value.shape != x.shape[:1]:
        raise ValueError(
            f"sigma has shape {tuple(value.shape)}; for x of shape {tuple(x.shape)} give a number or ({len(x)},)"
        )
    if at_hand(value):
        good = (value >= 0 if zero_allowed else value > 0) & (value < math.inf)
        if not good.all():
            wanted = "finite and not negative" if zero_allowed else "positive and finite"
            raise ValueError(f"sigma = {value[~good][0].item():g}, but a noise level must be {wanted}")
        if sigma_min and (value < sigma_min * (1 - ROUNDING)).any():
            raise ValueError(
                f"sigma = {value.min().item():g} lies below sigma_min = {sigma_min:g}, where f is not defined"
            )
    if sigma_min:
        value = torch.where((value - sigma_min).abs() <= ROUNDING * sigma_min, sigma_min, value)
    return per_sample(value, x).to(x.device) if value.ndim else value.to(x.device)


def check_grid(sigmas: Tensor, points: int = 2) -> Tensor:
    """``sigmas`` itself if it is a noise grid: one-dimensional, at least ``points`` long, positive, never rising.

    Raises:
        ValueError: naming the first pair in the wrong order.
    """
    if sigmas.ndim != 1 or len(sigmas) < points:
        raise ValueError(
            f"sigmas must be a (n,) tensor, n at least {points}, but its shape is {tuple(sigmas.shape)}"
        )
    if at_hand(sigmas):
        good = (sigmas > 0) & (sigmas < math.inf)
        if not good.all():
            i = int((~good).nonzero()[0])
            raise ValueError(f"sigmas must be positive and finite, but sigmas[{i}] = {sigmas[i]:g}")
        rising = sigmas[1:] > sigmas[:-1]
        if rising.any():
            i = int(rising.nonzero()[0])
            raise ValueError(
                f"sigmas must run from large to small, but sigmas[{i}] = {sigmas[i]:g} < "
                f"sigmas[{i + 1}] = {sigmas[i + 1]:g}; use sigmas.flip(0) or karras_sigmas(n)"
            )
    return sigmas
