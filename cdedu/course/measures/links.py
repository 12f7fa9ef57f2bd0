"""Where a student's error comes from: the solver's share and the student's own."""

from itertools import pairwise

import torch
from torch import Tensor

from cdedu.noise import check_grid
from cdedu.solvers import Solver, heun_step
from cdedu.teacher import Denoiser


def link_errors(
    student: Denoiser, teacher: Denoiser, x: Tensor, sigmas: Tensor, solver: Solver = heun_step
) -> Tensor:
    r"""By how much the student's answers at neighbors differ, along the teacher's own walk from x.

    .. math:: \delta_i = f_\theta(\hat x_i, \sigma_i) - f_\theta(\hat x_{i+1}, \sigma_{i+1}), \qquad
              \hat x_0 = x, \quad \hat x_{i+1} = \text{one step of the teacher from } \sigma_i \text{ to } \sigma_{i+1}

    They add up to the student's distance from the composed solver,
    :math:`\sum_i \delta_i = f_\theta(x, \sigma_0) - \hat x_{N-1}`, because the last answer, at ε, is the point itself. A student
    whose loss is zero has no links to add: it is the composed solver.

    Args:
        student: f, with f(x, ε) = x at the last point of the grid.
        teacher: the denoiser that walks.
        x: (B, ...) at noise level ``sigmas[0]``.
        sigmas: (N,) grid, descending; solver: one step of it.

    Returns:
        (N − 1, B, ...), the links from the noisiest to the cleanest.

    Raises:
        ValueError: if ``sigmas`` is not a grid.

    Source: the proof of theorem 1 in Song et al. 2023, appendix A, for a loss that is not zero.
    """
    check_grid(sigmas)
    answers = [student(x, sigmas[0])]
    for sigma, sigma_next in pairwise(sigmas):
        x = solver(teacher, x, sigma, sigma_next)
        answers.append(student(x, sigma_next))
    return torch.stack([a - b for a, b in pairwise(answers)])
