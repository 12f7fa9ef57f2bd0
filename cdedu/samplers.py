"""From noise to data.

Every sampler takes a denoiser and pure noise scaled to the first noise level, ``x = sigmas[0] * z``, and returns data in the
shape of x. ``progress`` wraps the loop (``tqdm.auto.tqdm`` for a bar); ``callback(x, sigma)`` sees every intermediate state.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cdedu.noise import SIGMA_MIN, check_grid, normal
from cdedu.solvers import Solver, euler_step, heun_step
from cdedu.teacher import Denoiser

Progress = Callable[[Sequence[Any]], Iterable[Any]]
Callback = Callable[[Tensor, float], None]


def sample_euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    to_zero: bool = True,
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Deterministic sampling with Euler steps: DDIM. n points cost n evaluations (n − 1 without ``to_zero``).

    Args:
        x: (B, ...) noise of standard deviation ``sigmas[0]``.
        sigmas: (n,) descending grid.
        to_zero: add a last step from ``sigmas[-1]`` to 0, where x becomes the denoiser's guess.

    Source: Song, Meng, Ermon 2020.
    """
    return _walk(euler_step, denoiser, x, sigmas, to_zero, progress, callback, cond)


def sample_heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    to_zero: bool = True,
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """EDM's deterministic sampler: Heun steps, then one Euler step to 0. n points cost 2n − 1 evaluations.

    At n = 18 that is the 35 of the literature. With ``to_zero=False`` the walk ends at ``sigmas[-1]`` after 2n − 2: the
    reference for a consistency student, which also ends there. Arguments as in :func:`sample_euler`.

    Source: Karras et al. 2022, algorithm 1.
    """
    return _walk(heun_step, denoiser, x, sigmas, to_zero, progress, callback, cond)


def sample_ddpm(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    to_zero: bool = True,
    *,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    r"""Ancestral sampling: step lower than asked, then add fresh noise. n points cost n evaluations.

    .. math:: \sigma_\text{up}^2 = \frac{\sigma_s^2\,(\sigma_t^2-\sigma_s^2)}{\sigma_t^2}, \qquad
              \sigma_\text{down}^2 = \sigma_s^2 - \sigma_\text{up}^2 \qquad \text{(from } \sigma_t \text{ to } \sigma_s)

    Source: Ho et al. 2020 (the ``fixed_small`` variance), in σ. Other arguments as in :func:`sample_euler`.
    """

    def ancestral_step(denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, **cond: Any) -> Tensor:
        up = (sigma_next**2 * (sigma**2 - sigma_next**2)) ** 0.5 / sigma
        down = (sigma_next**2 - up**2) ** 0.5
        x = euler_step(denoiser, x, sigma, down, **cond)
        return x + up * normal(tuple(x.shape), generator, like=x) if up else x

    return _walk(ancestral_step, denoiser, x, sigmas, to_zero, progress, callback, cond)  # type: ignore[arg-type]


def sample_dpm_solver(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    to_zero: bool = True,
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    r"""DPM-Solver++(2M): a second-order step for one evaluation, since it keeps the guess of the step before. n points cost n.

    .. math:: x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i}\,x_i + \Big(1 - \frac{\sigma_{i+1}}{\sigma_i}\Big)
              \Big(D_i + \frac{h_{i+1}}{2 h_i}\,(D_i - D_{i-1})\Big),
              \qquad D_i = D(x_i, \sigma_i), \quad h_i = \ln\frac{\sigma_{i-1}}{\sigma_i}

    The first step has no guess before it and is Euler's, as is the last one, to 0, where x becomes the denoiser's guess.
    Arguments as in :func:`sample_euler`.

    Raises:
        ValueError: for a grid with two equal neighbours, between which no slope can be taken.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2; through diffusers' ``EDMDPMSolverMultistepScheduler``.
    """
    from diffusers import EDMDPMSolverMultistepScheduler

    levels = check_grid(torch.as_tensor(sigmas), "sample_dpm_solver").cpu()
    if (levels[1:] == levels[:-1]).any():
        raise ValueError("sample_dpm_solver: two neighbours of sigmas are equal; leave one of them out")
    scheduler: Any = EDMDPMSolverMultistepScheduler(  # type: ignore[no-untyped-call]
        lower_order_final=False, final_sigmas_type="zero" if to_zero else "sigma_min"
    )
    scheduler.set_timesteps(len(levels) - (not to_zero))
    scheduler.set_begin_index(0)
    scheduler.sigmas = torch.cat([levels, levels.new_zeros(1)])
    scheduler.convert_model_output = lambda output, sample: output  # which is D already

    def step(denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, **cond: Any) -> Tensor:
        moved: Tensor = scheduler.step(denoiser(x, sigma, **cond), None, x, return_dict=False)[0]
        return moved

    return _walk(step, denoiser, x, sigmas, to_zero, progress, callback, cond)  # type: ignore[arg-type]


def sample_consistency(
    student: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor = (80.0,),
    generator: torch.Generator | None = None,
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    r"""Sampling with a consistency model: one evaluation per entry of ``sigmas``.

    The first call jumps from ``sigmas[0]`` to data. Each further entry τ puts noise back and jumps again:

    .. math:: x \leftarrow f\big(x + \sqrt{\tau^2 - \varepsilon^2}\,z,\ \tau\big)

    Args:
        student: f; its ``sigma_min`` is ε (.002 for a plain function).
        x: (B, ...) noise of standard deviation ``sigmas[0]``.
        sigmas: noise levels, descending, none below ε.
        generator: draws the noise between the steps.

    Source: Song et al. 2023, algorithm 1.
    """
    levels = [float(s) for s in sigmas]
    eps = float(getattr(student, "sigma_min", SIGMA_MIN))
    if not levels:
        raise ValueError(
            "sample_consistency: sigmas is empty; give at least the first noise level, such as (80.0,)"
        )
    if len(levels) > 1:
        check_grid(torch.tensor(levels, dtype=torch.float64), "sample_consistency")
    if levels[-1] < eps * (1 - 1e-6):
        raise ValueError(
            f"sample_consistency: sigma = {levels[-1]:g} lies below the student's sigma_min = {eps:g}"
        )
    with torch.no_grad():
        for i, sigma in enumerate(levels if progress is None else progress(levels)):
            if i:
                x = x + max(sigma**2 - eps**2, 0.0) ** 0.5 * normal(tuple(x.shape), generator, like=x)
            if callback:
                callback(x, sigma)
            x = student(x, sigma, **cond)
    if callback:
        callback(x, eps)
    return x


def _walk(
    step: Solver,
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    to_zero: bool,
    progress: Progress | None,
    callback: Callback | None,
    cond: dict[str, Any],
) -> Tensor:
    """The one loop: ``step`` from each noise level to the next."""
    levels = check_grid(torch.as_tensor(sigmas), "sampler").tolist() + [0.0] * to_zero
    pairs = list(zip(levels[:-1], levels[1:], strict=True))
    if callback:
        callback(x, levels[0])
    with torch.no_grad():
        for sigma, sigma_next in pairs if progress is None else progress(pairs):
            x = step(denoiser, x, sigma, sigma_next, **cond)
            if callback:
                callback(x, sigma_next)
    return x
