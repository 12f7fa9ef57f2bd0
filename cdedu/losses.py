"""What is minimized. Every loss returns one number per sample, (B,); the training loop takes the mean."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cdedu.noise import (
    SIGMA_MIN,
    add_noise,
    at_hand,
    check_grid,
    draw_steps,
    floating,
    normal,
    per_sample,
    sigma_like,
)
from cdedu.perceptual import lpips as lpips
from cdedu.perceptual import perceptual as perceptual
from cdedu.solvers import Solver, heun_step
from cdedu.teacher import Denoiser

Distance = Callable[[Tensor, Tensor], Tensor]


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each sample: (B, ...) and (B, ...) → (B,)."""
    return _difference(a, b).abs().mean(1)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each sample: (B, ...) and (B, ...) → (B,)."""
    return _difference(a, b).square().mean(1)


def pseudo_huber(a: Tensor, b: Tensor, c: float | None = None) -> Tensor:
    r"""Pseudo-Huber distance of *whole samples*: :math:`\sqrt{\|a-b\|_2^2 + c^2} - c`, with :math:`c = .00054\sqrt{\dim}`.

    The norm runs over the whole sample. Taking it element by element with this c, as some ports do, gives a different (and worse) loss.

    Source: Song & Dhariwal 2023 (iCT), section 3.3.
    """
    c = 0.00054 * a[0].numel() ** 0.5 if c is None else c
    return (_difference(a, b).square().sum(1) + c**2).sqrt() - c


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """The difference, (B, -1); integers are compared in float32, since 8-bit differences would wrap around."""
    return (a.to(floating(a)) - b.to(floating(b))).flatten(1)


DISTANCES: Mapping[str, Distance] = MappingProxyType(
    {"l1": l1, "l2": l2, "pseudo_huber": pseudo_huber, "lpips": lpips}
)
"""The distances that a recipe can name; pass any other as a function."""


def denoising_loss(
    teacher: Any,
    x0: Tensor,
    sigma: Tensor,
    *,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""EDM's teacher loss.

    .. math:: \lambda(\sigma)\,\|D_\phi(x_0 + \sigma z,\ \sigma) - x_0\|^2, \qquad
              \lambda(\sigma) = \frac{\sigma^2 + \sigma_d^2}{(\sigma\,\sigma_d)^2}

    With this weight, an untrained network's loss is about 1 at every noise level.

    Args:
        x0: (B, ...) clean data; sigma: (B,), for instance ``LogNormal().sample(B)``.
        noise: z, drawn with ``generator`` if not given.

    Source: Karras et al. 2022, eq. 8 and table 1.
    """
    noise = normal(x0.shape, generator, like=x0) if noise is None else noise
    guess = teacher(add_noise(x0, sigma, noise), sigma, **cond)
    return edm_weight(sigma, teacher.sigma_data).to(x0.device) * l2(guess, x0)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    r"""EDM's :math:`\lambda(\sigma) = (\sigma^2 + \sigma_d^2) / (\sigma\,\sigma_d)^2`: one over the network's share of the guess, squared."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def inverse_gap(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    r"""The weight :math:`\lambda = 1/(\sigma_i - \sigma_{i+1})` of iCT (Song & Dhariwal 2023, section 3.4)."""
    return 1 / (sigma - sigma_next)


def distillation_loss(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x0: Tensor,
    sigmas: Tensor,
    *,
    skip: int = 1,
    index: Tensor | None = None,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    solver: Solver = heun_step,
    distance: Distance = l2,
    weight: Callable[[Tensor, Tensor], Tensor] | None = None,
    index_weights: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    r"""Consistency distillation.

    .. math::
        \mathcal L = \lambda(\sigma_{i+1})\; d\big(f_\theta(x_{\sigma_i}, \sigma_i),\ f_{\theta^-}(\hat x_{\sigma_{i+1}}, \sigma_{i+1})\big),
        \qquad x_{\sigma_i} = x_0 + \sigma_i z, \qquad
        \hat x_{\sigma_{i+1}} = \text{one step of the teacher from } \sigma_i \text{ to } \sigma_{i+1}

    Gradient flows through the *noisier* point only. At the last step, i = N − 2, the target is the teacher's point itself
    (the boundary condition): the only place where the loss touches data. The grid descends, so i here is the paper's
    N − 1 − n.

    Args:
        student, target: f_θ and f_θ⁻. The target gets no gradient; for μ = 0 pass the student twice.
        teacher: any denoiser.
        x0: (B, ...) data.
        sigmas: (N,) noise grid, descending, from T to the student's ε.
        skip: how many steps of the grid the target is ahead, up to the last point (:func:`~cdedu.methods.latent.skipping_loss`).
        index: (B,) the steps i in 0..N−2; drawn with ``index_weights`` (uniform by default) if not given.
        noise: z; drawn where not given.
        solver: ``heun_step`` or ``euler_step``.
        distance: d, one of ``l1``, ``l2``, ``pseudo_huber``, ``lpips`` or your own (B, ...), (B, ...) → (B,).
        weight: λ as a function of the two noise levels; 1 by default.
        **cond: labels and so on, passed to all three networks.

    Raises:
        ValueError: for an invalid grid, an index or ``skip`` outside it, or a distance that doesn't return one number per sample.

    Source: Song et al. 2023, algorithm 2.
    """
    steps = len(check_grid(sigmas)) - 1
    if not 1 <= skip <= steps:
        raise ValueError(f"skip = {skip}, but a grid of {steps + 1} points has 1 to {steps} steps to skip")
    index, noise = _draw(x0, sigmas, steps, index, index_weights, noise, generator)
    sigma, sigma_next = sigmas[index], sigmas[(index + skip).clamp(max=steps)]
    x = add_noise(x0, sigma, noise)
    with torch.no_grad():
        x_next = solver(teacher, x, sigma, sigma_next, **cond)
    return _disagreement(student, target, x, sigma, x_next, sigma_next, distance, weight, cond)


def consistency_training_loss(
    student: Denoiser,
    target: Denoiser,
    x0: Tensor,
    sigmas: Tensor,
    *,
    index: Tensor | None = None,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    distance: Distance = l2,
    weight: Callable[[Tensor, Tensor], Tensor] | None = None,
    index_weights: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    r"""Consistency training: no teacher; both points get the *same* noise.

    .. math:: \mathcal L = \lambda(\sigma_{i+1})\; d\big(f_\theta(x_0 + \sigma_i z, \sigma_i),\ f_{\theta^-}(x_0 + \sigma_{i+1} z, \sigma_{i+1})\big)

    This is :func:`distillation_loss` with an Euler step of the "denoiser" that always answers x0. It takes the same arguments.

    Source: Song et al. 2023, algorithm 3.
    """
    steps = len(check_grid(sigmas)) - 1
    index, noise = _draw(x0, sigmas, steps, index, index_weights, noise, generator)
    sigma, sigma_next = sigmas[index], sigmas[index + 1]
    x, x_next = add_noise(x0, sigma, noise), add_noise(x0, sigma_next, noise)
    return _disagreement(student, target, x, sigma, x_next, sigma_next, distance, weight, cond)


def easy_next_sigma(sigma: Tensor, q: float = 2.0, stage: int = 0, k: float = 8.0, b: float = 1.0) -> Tensor:
    r"""The lower noise level r that easy consistency tuning pairs with each σ; 0 means clean data.

    .. math:: r = \max\Big(0,\ \sigma\,\big(1 - q^{-(s+1)}\,(1 + k\,\operatorname{sigmoid}(-b\,\sigma))\big)\Big)

    As the stage s grows, r closes in on σ.

    Source: Geng et al. 2024 (ECT), section 3.
    """
    if not (q > 1 and stage >= 0):
        raise ValueError(f"need q > 1 and stage >= 0, got {q} and {stage}")
    return (sigma * (1 - (1 + k * torch.sigmoid(-b * sigma)) * float(q) ** -(stage + 1))).clamp(min=0)


def easy_consistency_loss(
    student: Denoiser,
    target: Denoiser,
    x0: Tensor,
    sigma: Tensor,
    *,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    q: float = 2.0,
    stage: int = 0,
    sigma_min: float = SIGMA_MIN,
    **cond: Any,
) -> Tensor:
    r"""Easy consistency tuning: consistency training of a student that starts from a teacher, without a grid.

    .. math:: \mathcal L = \frac{1}{\sigma - r}\,\big\|f_\theta(x_0 + \sigma z,\ \sigma) - f_{\theta^-}(x_0 + r z,\ r)\big\|_2

    with r from :func:`easy_next_sigma`. At r = 0 the target is x0, the weight is 1/σ, and the target network is not called. Other levels
    below ``sigma_min``, where our students end, are raised to it.

    Args:
        x0: (B, ...) data; sigma: (B,), for instance ``LogNormal(-1.1, 2.0).sample(B)``.
        q, stage: how close r is to σ; the one-hour recipe uses q = 256 and stage 0 throughout.

    Source: Geng et al. 2024 (ECT), section 3.
    """
    noise = normal(x0.shape, generator, like=x0) if noise is None else noise
    r = easy_next_sigma(sigma, q, stage)
    known, r = r > 0, r.clamp(min=sigma_min)
    sigma = torch.maximum(sigma, r * (1 + 1e-3))
    x, x_next = add_noise(x0, sigma, noise), add_noise(x0, r, noise)

    def goal(x: Tensor, level: float | Tensor, /, **cond: Any) -> Tensor:
        if at_hand(known) and not known.any():
            return x0
        return torch.where(per_sample(known, x), target(x, level, **cond), x0)

    def weight(sigma: Tensor, r: Tensor) -> Tensor:
        return inverse_gap(sigma, torch.where(known, r, 0))

    norm = partial(pseudo_huber, c=1e-6)  # the root has no slope at 0
    return _disagreement(student, goal, x, sigma, x_next, r, norm, weight, cond)


def path_derivative(f: Denoiser, x: Tensor, sigma: Tensor, slope: Tensor, **cond: Any) -> tuple[Tensor, ...]:
    r"""The value of a function and how fast it changes along a path through (x, σ), by forward-mode differentiation, in one pass:

    .. math:: f(x, \sigma), \qquad \frac{d}{d\sigma} f(x_\sigma, \sigma) = \frac{\partial f}{\partial x}\,\frac{dx}{d\sigma} + \frac{\partial f}{\partial\sigma}

    for x (B, ...), sigma (B,) and slope dx/dσ in the shape of x. Neither carries a gradient. Attention runs without its fused kernels,
    which don't support forward mode.

    Raises:
        NotImplementedError: if the network uses an operation without forward mode.
    """
    if slope.shape != x.shape or sigma.shape != x.shape[:1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, slope {tuple(slope.shape)} and sigma {tuple(sigma.shape)}; "
            f"want twice the same and ({len(x)},)"
        )
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            at, direction = (x, sigma.contiguous()), (slope.to(x.dtype), torch.ones_like(sigma).contiguous())
            return torch.func.jvp(partial(f, **cond), at, direction)[:2]
    except (RuntimeError, NotImplementedError) as error:
        if not any(word in str(error) for word in ("forward", "jvp", "functorch", "storage")):
            raise
        raise NotImplementedError(
            f"{type(f).__name__} cannot be differentiated in forward mode ({str(error).splitlines()[0]}); give the operation a "
            "jvp, or train with method 'easy' or 'distillation', which need none"
        ) from None


def continuous_consistency_loss(
    student: Denoiser,
    target: Denoiser,
    x0: Tensor,
    sigma: Tensor,
    *,
    teacher: Denoiser | None = None,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    sigma_data: float = 0.5,
    ratio: float = 1.0,
    c: float | None = 0.1,
    balance: Callable[[Tensor], Tensor] | None = None,
    **cond: Any,
) -> Tensor:
    r"""Consistency in the limit of an infinitely fine grid (sCM), with a teacher (sCD) or without (sCT).

    .. math::
        \mathcal L = \frac{1}{c_\text{out}^2}\,\big\|f_\theta(x_\sigma, \sigma) - f_{\theta^-} + c_\text{out}\,\hat g\big\|^2,
        \qquad \hat g = \frac{g}{\|g\| + c}, \qquad
        g = r\,\sqrt{\sigma^2+\sigma_d^2}\;\frac{df_{\theta^-}}{d\sigma}
            + (1-r)\,\frac{\sigma_d^2}{\sigma\sqrt{\sigma^2+\sigma_d^2}}\,\big(f_{\theta^-} - D\big)

    The derivative is taken along the path, whose slope is :math:`dx/d\sigma = (x_\sigma - D)/\sigma`, where D is the teacher's guess or,
    without a teacher, x0 itself. At r = 0 only the network's fit to D is left, which is denoising; at r = 1 the tangent is complete. The
    value of this loss says little: it is about ‖ĝ‖², however good the student is.

    In TrigFlow, t = arctan(σ/σ_d), this is the paper's :math:`\|F_\theta - F_{\theta^-} - \hat g\|^2` with
    :math:`g = \cos t\,df/dt` and F of the other sign than EDM's network. Mean over the dimensions, as in :func:`l2`.

    Args:
        student, target: f_θ and f_θ⁻; pass the student twice. The target gets no gradient, and must be differentiable in
            forward mode (:func:`path_derivative`).
        x0: (B, ...) data; sigma: (B,), for instance ``LogNormal(-1.0, 1.4).sample(B)``.
        ratio: r, from 0 to 1; let it rise early in training.
        c: of the normalization; None leaves the tangent as it is.
        balance: a learned ln-weight w(σ) → (B,): the loss becomes :math:`e^w \mathcal L - w`, smallest where :math:`e^w = 1/\mathcal L`.
            Only this function takes it: :func:`~cdedu.training.distill` trains nothing but the student, and refuses it; a method of your
            own can train w as well. There is no prior weight in front of :math:`e^w`; for SANA-Sprint's 1/σ, subtract ln σ from
            ``balance``.

    Source: Lu & Song 2024 (sCM), section 4 and algorithm 1, written in σ.
    """
    if not (0 <= ratio <= 1 and (c is None or c > 0)):
        raise ValueError(f"need 0 <= ratio <= 1 and c > 0 (or None), got ratio = {ratio} and c = {c}")
    noise = normal(x0.shape, generator, like=x0) if noise is None else noise
    x, s = add_noise(x0, sigma, noise), sigma_like(sigma, x0)
    with torch.no_grad():
        guess = x0 if teacher is None else teacher(x, sigma, **cond)
        slope = noise if teacher is None else (x - guess) / s
    with _same_masks_after(x):
        answer, change = path_derivative(target, x, sigma.to(s), slope, **cond)
    root = (s**2 + sigma_data**2).sqrt()
    c_out = s * sigma_data / root
    tangent = root * change
    prior = sigma_data**2 / (s * root) * (answer - guess)
    g = ratio * tangent + (1 - ratio) * prior
    if c is not None:
        g = g / per_sample(g.flatten(1).norm(dim=1) + c, g)
    goal = answer - c_out * g
    loss = edm_weight(sigma, sigma_data).to(x) * l2(student(x, sigma, **cond), goal)
    if balance is None:
        return loss
    weight = balance(sigma)
    return weight.exp() * loss - weight


def _draw(
    x0: Tensor,
    sigmas: Tensor,
    steps: int,
    index: Tensor | None,
    index_weights: Tensor | None,
    noise: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """One of the grid's ``steps`` steps for each sample, and z: checked if given, drawn if not."""
    if index is None:
        weights = torch.ones(steps) if index_weights is None else index_weights
        if weights.shape != (steps,):
            raise ValueError(f"index_weights has shape {tuple(weights.shape)}, want ({steps},)")
        index = draw_steps(weights, len(x0), generator)
    elif index.shape != x0.shape[:1] or (at_hand(index) and not ((index >= 0) & (index < steps)).all()):
        raise ValueError(f"index must hold one step in 0..{steps - 1} for each of the {len(x0)} samples")
    return index.to(sigmas.device), normal(x0.shape, generator, like=x0) if noise is None else noise


def _disagreement(
    student: Denoiser,
    target: Denoiser,
    x: Tensor,
    sigma: Tensor,
    x_next: Tensor,
    sigma_next: Tensor,
    distance: Distance,
    weight: Callable[[Tensor, Tensor], Tensor] | None,
    cond: dict[str, Any],
) -> Tensor:
    """λ d(f_θ(x, σ), stop-gradient f_θ⁻(x', σ')), with the same dropout masks on both sides."""
    with torch.no_grad(), _same_masks_after(x):
        goal = target(x_next, sigma_next, **cond)
    loss = distance(student(x, sigma, **cond), goal)
    if loss.shape != x.shape[:1]:
        raise ValueError(
            f"the distance returned shape {tuple(loss.shape)}; it must return one number per sample, ({len(x)},)"
        )
    return loss if weight is None else weight(sigma, sigma_next).to(loss) * loss


def _same_masks_after(x: Tensor) -> AbstractContextManager[None]:
    """Random numbers drawn inside, on x's device, repeat afterward: target and student get the same dropout masks."""
    kind = x.device.type
    return torch.random.fork_rng([x.device] if kind != "cpu" else [], device_type=kind)
