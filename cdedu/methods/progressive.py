"""Progressive distillation: halve the number of sampling steps, again and again.

In each round a student learns to do in one Euler step what its teacher does in two. It is a denoiser like its teacher, so it can teach
the next round::

    grid = karras_sigmas(16)
    while len(grid) > 1:
        for state in halve(recipe, teacher, grid):
            ...
        teacher, grid = state.result, grid[::2]

A grid of n points takes n steps to walk: the last one goes from the last point to σ = 0.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.data import Dataset, load_data
from cdedu.losses import _draw, edm_weight, l2
from cdedu.noise import Sigma, add_noise, check_grid, draw_steps, sigma_like
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime
from cdedu.solvers import euler_step
from cdedu.teacher import Denoiser, Teacher
from cdedu.training import Resume, Setting, State, begin, train


def two_step_target(
    teacher: Denoiser, x: Tensor, sigma: Sigma, middle: Sigma, end: Sigma, **cond: Any
) -> Tensor:
    r"""The guess with which one Euler step from σ to σ'' lands where two of the teacher's do.

    .. math:: \tilde x = \frac{x'' - \frac{\sigma''}{\sigma}\,x}{1 - \frac{\sigma''}{\sigma}}, \qquad
              x'' = \text{two Euler steps of the teacher, } \sigma \to \sigma' \to \sigma''

    At σ'' = 0 this is x'' itself. It is what the student must answer at (x, σ), and costs two teacher calls.

    Args:
        x: (B, ...) at noise level ``sigma``.
        sigma, middle, end: σ > σ' > σ'' ≥ 0, numbers or (B,) each.

    Source: Salimans & Ho 2022, algorithm 2, in σ.
    """
    x_end = euler_step(teacher, euler_step(teacher, x, sigma, middle, **cond), middle, end, **cond)
    ratio = sigma_like(end, x, zero_allowed=True) / sigma_like(sigma, x)
    return ((x_end - ratio * x) / (1 - ratio)).to(x.dtype)


def progressive_loss(
    student: Any,
    teacher: Denoiser,
    x0: Tensor,
    sigmas: Tensor,
    *,
    index: Tensor | None = None,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""The teacher's own training loss, (B,), with the two-step guess in place of the data.

    .. math::
        \mathcal L = \lambda(\sigma)\,\|D_\theta(x_\sigma, \sigma) - \tilde x\|^2, \qquad
        \lambda(\sigma) = \frac{\sigma^2 + \sigma_d^2}{(\sigma\,\sigma_d)^2}, \qquad
        \sigma = \sigma_{2i},\ \sigma' = \sigma_{2i+1},\ \sigma'' = \sigma_{2i+2}

    with :math:`\tilde x` of :func:`two_step_target`, and σ'' = 0 after the last point of the grid.

    Args:
        student: a denoiser with a ``sigma_data``, such as a :class:`~cdedu.teacher.Teacher`.
        teacher: any denoiser; it gets no gradient.
        x0: (B, ...) data.
        sigmas: (n,) the *teacher's* grid, descending, n even; the student's is ``sigmas[::2]``.
        index: (B,) the student's steps i in 0..n/2−1; drawn uniformly if not given.
        noise: z; drawn if not given.

    Raises:
        ValueError: for a grid whose points cannot be paired, or an index outside it.

    Source: Salimans & Ho 2022; λ as in EDM, which is their "SNR + 1" up to σ_d.
    """
    index, noise = _draw(x0, sigmas, _pairs(sigmas), index, None, noise, generator)
    levels = torch.cat([sigmas, sigmas.new_zeros(1)])
    sigma, middle, end = (levels[2 * index + i] for i in range(3))
    x = add_noise(x0, sigma, noise)
    with torch.no_grad():
        goal = two_step_target(teacher, x, sigma, middle, end, **cond)
    return edm_weight(sigma, student.sigma_data).to(x0.device) * l2(student(x, sigma, **cond), goal)


def halve(
    recipe: Recipe,
    teacher: Teacher,
    sigmas: Tensor,
    data: Dataset | None = None,
    *,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
    runtime: Runtime | None = None,
) -> Iterator[State]:
    """One round: train a student that needs half the teacher's steps; yields after every training step.

    Args:
        recipe: its ``student`` part sets the training steps, batch, learning rate and sampling average.
        teacher: the student starts from it and imitates it: a trained teacher, or ``state.result`` of the last round.
        sigmas: (n,) the teacher's grid, n even; the student's is ``sigmas[::2]``.
        data, device, resume, runtime: as in :func:`cdedu.training.train_teacher`.

    Raises:
        ValueError: for a grid whose points cannot be paired.
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.

    Source: Salimans & Ho 2022, algorithm 2.
    """
    steps = _pairs(sigmas)
    data, runtime = data or load_data(recipe.data), runtime or Runtime(device)
    student = copy.deepcopy(teacher).requires_grad_(True)
    state = begin(recipe, "student", student, runtime, optimizer=torch.optim.Adam)
    frozen, grid = runtime.freeze(teacher), sigmas.to(runtime.device)

    def loss(run: Setting, part: range) -> Tensor:
        x0, index, noise, cond = run.draw(part, partial(draw_steps, torch.ones(steps)))
        return progressive_loss(run.model, frozen, x0, grid, index=index, noise=noise, **cond)  # type: ignore[arg-type]

    return train(state, data, runtime, loss, resume=resume)


def _pairs(sigmas: Tensor) -> int:
    """How many steps the student makes on a teacher's grid."""
    if len(check_grid(sigmas)) % 2:
        raise ValueError(
            f"sigmas has {len(sigmas)} points, but two teacher steps make one of the student's; "
            "give an even number, such as karras_sigmas(16)"
        )
    return len(sigmas) // 2
