"""Distribution matching distillation (DMD), the bare idea: two denoisers disagree about a sample, and the sample moves accordingly.

One denoiser (the teacher) knows the data. The other knows the student's own samples, and is trained alongside it. Where the two agree,
the student's samples are as dense as the data, and nothing moves.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from cdedu.data import Dataset, load_data
from cdedu.losses import denoising_loss, l2
from cdedu.methods.adversarial import Duel, Turn, duel, few_levels
from cdedu.noise import add_noise, normal, per_sample
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime
from cdedu.teacher import Denoiser, Teacher
from cdedu.training import Resume


def matching_gradient(
    real: Denoiser, fake: Denoiser, x: Tensor, sigma: Tensor, noise: Tensor, **cond: Any
) -> Tensor:
    r"""The direction in which the student's samples are too dense, in the shape of x:

    .. math::
        g = \frac{D_\text{fake}(x_\tau, \tau) - D_\text{real}(x_\tau, \tau)}{\operatorname{mean}|x - D_\text{real}(x_\tau, \tau)|},
        \qquad x_\tau = x + \tau z'

    With exact denoisers the numerator is :math:`\tau^2\,\nabla \ln (p_\text{fake} / p_\text{real})` at noise τ, the gradient of a
    Kullback-Leibler divergence; the denominator, one number per sample, keeps its size similar at all τ. No gradient flows.

    Args:
        real, fake: denoisers of the data and of the student's samples.
        x: (B, ...) samples; sigma: τ, (B,); noise: z', in the shape of x.

    Raises:
        ValueError: for shapes that do not fit.

    Source: Yin et al. 2024 (DMD), section 3.2, eqs. 7 and 8, in σ, as its algorithm 2 computes them.
    """
    if sigma.shape != x.shape[:1] or noise.shape != x.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, sigma {tuple(sigma.shape)} and noise {tuple(noise.shape)}; "
            f"want ({len(x)},) noise levels and noise in the shape of x"
        )
    with torch.no_grad():
        noisy = add_noise(x.detach(), sigma, noise)
        guess = real(noisy, sigma, **cond)
        size = (x.detach() - guess).abs().flatten(1).mean(1).clamp(min=1e-6)
        return (fake(noisy, sigma, **cond) - guess) / per_sample(size, x)


def matching_loss(
    real: Denoiser,
    fake: Denoiser,
    x: Tensor,
    sigma: Tensor,
    *,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""A loss (B,) whose gradient with respect to x is g of :func:`matching_gradient`, over the number of dimensions.

    .. math:: \mathcal L = \tfrac12\,\big\|x - \operatorname{sg}(x - g)\big\|^2

    It is a mean over the dimensions, and its value says nothing about how good the student is. It takes the same arguments.
    """
    noise = normal(x.shape, generator, like=x) if noise is None else noise
    g = matching_gradient(real, fake, x, sigma, noise, **cond)
    return l2(x, (x - g).detach()) / 2


def train_matching(
    recipe: Recipe,
    teacher: Teacher,
    data: Dataset | None = None,
    *,
    levels: Sequence[float] | None = None,
    critic_lr: float = 2e-3,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
) -> Iterator[Duel]:
    """Distribution matching in its plain form; yields after every step.

    The student starts from the teacher, while a second copy of the teacher learns to denoise the student's samples. DMD adds a regression
    on pairs of noise and the teacher's sample; DMD2 replaces that with a discriminator and several steps of the second denoiser for each
    of the student's. Neither is included here. A step costs 8 evaluations per image: student 3, both denoisers 1 each, training the
    second one 3.

    Args:
        recipe, teacher, data, device, resume: as in :func:`cdedu.methods.adversarial.train_adversarial`.
        levels: noise levels of the student; by default only the highest, since the second denoiser can't tell samples of different levels
            apart.
        critic_lr: learning rate of the second denoiser; higher than the student's, since it has to keep up.

    Raises:
        ValueError: for levels outside the recipe's range.
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.

    Source: Yin et al. 2024 (DMD and DMD2).
    """
    data, runtime = data or load_data(recipe.data), Runtime(device)
    few = few_levels(recipe, (recipe.sigma_max,) if levels is None else levels)
    fake = copy.deepcopy(teacher).requires_grad_(True).to(runtime.device)
    optimizer = torch.optim.Adam(fake.parameters(), lr=critic_lr)
    frozen = runtime.freeze(copy.deepcopy(teacher))

    def loss_of(state: Duel, turn: Turn) -> Tensor:
        x = turn.fake
        learn = recipe.teacher.log_sigma.sample(len(x)).to(x)
        state.step_opponent(denoising_loss(fake, x.detach(), learn, **turn.cond))
        return matching_loss(frozen, fake, x, turn.again, **turn.cond)

    return duel(recipe, teacher, few, fake, fake, optimizer, loss_of, data, runtime, resume)
