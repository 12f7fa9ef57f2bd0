"""From noise to data.

Every sampler takes a denoiser and pure noise scaled to the first noise level, ``x = sigmas[0] * z``, and returns data in the
shape of x. ``progress`` wraps the loop (``tqdm.auto.tqdm`` for a bar); ``callback(x, sigma)`` sees every intermediate state.
``clip`` clamps every guess to [−clip, clip], as openai's samplers do with 1 and EDM's never do. By default the denoiser decides: a
published consistency model is clipped if its file says so, and all others are not (:func:`~cdedu.teacher.clipped`).

There is only one loop down a noise grid, in :func:`sampler`; the rest of this file says what a step does.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.noise import SIGMA_MIN, Generators, check_grid, normal, sigma_like
from cdedu.solvers import euler_step, heun_step
from cdedu.teacher import Denoiser, clipped

Progress = Callable[[Sequence[Any]], Iterable[Any]]
Callback = Callable[[Tensor, float], None]
Step = Callable[..., Tensor]
"""``step(denoiser, x, sigma, sigma_next, **cond)``: x at ``sigma_next``, both levels numbers; such as :func:`~cdedu.solvers.euler_step`."""
Sampler = Callable[..., Tensor]
"""``sampler(denoiser, x, sigmas, to_zero=True, *, clip=None, progress=None, callback=None, **cond)``: walks x down a noise grid to data."""


def sampler(solver: Callable[[], Step]) -> Sampler:
    """Make a sampler from a solver: one step from each noise level to the next.

    The solver is called once per walk, so a step can remember the one before it. It gives the sampler its name and docstring; keywords of
    its step, such as ``generator``, become the sampler's too.
    """

    @functools.wraps(solver, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def sample(
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        to_zero: bool = True,
        *,
        clip: float | None = None,
        progress: Progress | None = None,
        callback: Callback | None = None,
        **cond: Any,
    ) -> Tensor:
        denoiser = clipped(denoiser, clip)
        step, levels = solver(), check_grid(torch.as_tensor(sigmas).cpu()).tolist() + [0.0] * to_zero
        pairs = list(itertools.pairwise(levels))
        if callback:
            callback(x, levels[0])
        with torch.no_grad():
            for sigma, sigma_next in pairs if progress is None else progress(pairs):
                x = step(denoiser, x, sigma, sigma_next, **cond)
                if callback:
                    callback(x, sigma_next)
        return x

    of_step = [p for p in inspect.signature(solver()).parameters.values() if p.kind is p.KEYWORD_ONLY]
    *shared, cond = inspect.signature(sample, follow_wrapped=False).parameters.values()
    vars(sample)["__signature__"] = inspect.Signature([*shared, *of_step, cond], return_annotation=Tensor)
    return sample


@sampler
def sample_euler() -> Step:
    """Deterministic sampling with Euler steps: DDIM. n points cost n evaluations (n − 1 without ``to_zero``).

    Args:
        x: (B, ...) noise of standard deviation ``sigmas[0]``.
        sigmas: (n,) descending grid.
        to_zero: add a last step from ``sigmas[-1]`` to 0, at which x becomes the denoiser's guess.

    Source: Song, Meng, Ermon 2020.
    """
    return euler_step


@sampler
def sample_heun() -> Step:
    """EDM's deterministic sampler: Heun steps, then one Euler step to 0. n points cost 2n − 1 evaluations.

    At n = 18 that gives the 35 evaluations of the literature. With ``to_zero=False`` the walk ends at ``sigmas[-1]`` after 2n − 2: the
    reference for a consistency student, which also ends there. Arguments as in :func:`sample_euler`.

    Source: Karras et al. 2022, algorithm 1.
    """
    return heun_step


@sampler
def sample_ddpm() -> Step:
    r"""Ancestral sampling: step lower than asked, then add fresh noise back. n points cost n evaluations.

    .. math:: \sigma_\text{up}^2 = \frac{\sigma_s^2\,(\sigma_t^2-\sigma_s^2)}{\sigma_t^2}, \qquad
              \sigma_\text{down}^2 = \sigma_s^2 - \sigma_\text{up}^2 \qquad \text{(from } \sigma_t \text{ to } \sigma_s)

    The generator draws the noise of every step; other arguments as in :func:`sample_euler`.

    Source: Ho et al. 2020 (the ``fixed_small`` variance), in σ.
    """

    def step(
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        *,
        generator: Generator | None = None,
        **cond: Any,
    ) -> Tensor:
        up = (sigma_next**2 * (sigma**2 - sigma_next**2)) ** 0.5 / sigma
        down = (sigma_next**2 - up**2) ** 0.5
        x = euler_step(denoiser, x, sigma, down, **cond)
        return x + up * normal(x.shape, generator, like=x) if up else x

    return step


@sampler
def sample_dpm_solver() -> Step:
    r"""DPM-Solver++(2M): a second-order step for one evaluation, because it reuses the guess from the step before. n points cost n.

    .. math:: x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i}\,x_i + \Big(1 - \frac{\sigma_{i+1}}{\sigma_i}\Big)
              \Big(D_i + \frac{h_{i+1}}{2 h_i}\,(D_i - D_{i-1})\Big),
              \qquad D_i = D(x_i, \sigma_i), \quad h_i = \ln\frac{\sigma_{i-1}}{\sigma_i}

    The first step, which has no earlier guess, is Euler's; so is the last one, to 0, at which x becomes the denoiser's guess.
    Arguments as in :func:`sample_euler`.

    Raises:
        ValueError: for a grid with two equal neighbors, between which no slope can be taken.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """
    before: tuple[float, Tensor] | None = None

    def step(denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, **cond: Any) -> Tensor:
        nonlocal before
        if sigma == sigma_next:
            raise ValueError(f"two neighbors of sigmas are equal, {sigma:g}; leave one of them out")
        guess = ahead = denoiser(x, sigma, **cond)
        if before and sigma_next:
            h, h_next = math.log(before[0] / sigma), math.log(sigma / sigma_next)
            ahead = guess + h_next / (2 * h) * (guess - before[1])
        before = sigma, guess
        return sigma_next / sigma * x + (1 - sigma_next / sigma) * ahead

    return step


def sample_consistency(
    student: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor = (80.0,),
    generator: Generators = None,
    *,
    clip: float | None = None,
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
        generator: draws the noise between the steps; one for all samples, or one for each.

    Source: Song et al. 2023, algorithm 1.
    """
    eps = float(getattr(student, "sigma_min", SIGMA_MIN))
    student, levels = clipped(student, clip), [float(s) for s in sigmas]
    check_grid(torch.tensor(levels, dtype=torch.float64), points=1)
    sigma_like(levels[-1], x, sigma_min=eps)
    with torch.no_grad():
        for i, sigma in enumerate(levels if progress is None else progress(levels)):
            if i:
                x = x + max(sigma**2 - eps**2, 0.0) ** 0.5 * normal(x.shape, generator, like=x)
            if callback:
                callback(x, sigma)
            x = student(x, sigma, **cond)
    if callback:
        callback(x, eps)
    return x
