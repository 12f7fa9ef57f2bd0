"""Adversarial distillation: a discriminator says whether a sample looks real, and the teacher says where it should go.

Four networks: the **teacher** is frozen; the **student** is trained and samples in few steps; the **features** are hidden layers of some
frozen network; the **heads** on them are trained against the student, and are the only part of the discriminator that learns::

    features = Features(teacher, ["network.layers.1", "network.layers.3"], sigma=0.1)
    for state in train_adversarial(recipe, teacher, features):
        ...
    student = state.result
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from cdedu.data import Dataset, load_data
from cdedu.losses import l2
from cdedu.noise import add_noise, draw_steps, normal, sigma_like
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel
from cdedu.teacher import Denoiser, Teacher
from cdedu.training import Resume, Setting, State, begin, seeded, train


class Features(nn.Module):
    """Activations of a frozen network's hidden layers for x: (B, ...) → a list of (B, d_k), one for each layer. Its weights get no
    gradient; x does.

    Args:
        network: a frozen copy of it is kept.
        layers: names of its modules, as in ``network.named_modules()``.
        sigma: the noise level given to a denoiser; None for a network that only takes x.

    Raises:
        ValueError: without layers, or for one that the network doesn't have.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], sigma: float | None = None) -> None:
        super().__init__()
        if not layers:
            raise ValueError(
                "no layers are named, but a discriminator needs features to look at; name at least one"
            )
        known = dict(network.named_modules())
        for name in layers:
            if name not in known:
                raise ValueError(
                    f"{type(network).__name__} has no layer {name!r}; its last ones are {', '.join([*known][-3:])}"
                )
        self.network, self.layers, self.sigma = copy.deepcopy(network).eval(), tuple(layers), sigma
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).flatten(1))

        hooks = [self.network.get_submodule(name).register_forward_hook(keep) for name in self.layers]
        try:
            _ = self.network(x) if self.sigma is None else self.network(x, self.sigma)
        finally:
            for hook in hooks:
                hook.remove()
        return found


class Discriminator(nn.Module):
    r"""A small head on each feature; the score is their sum, high where x looks real.

    .. math:: S(x, i) = \sum_k H_{k,i}\big(F_k(x)\big)

    For a student with several noise levels, each head has one output per level, and i says which level a sample came from. A
    discriminator that isn't told compares the data with the samples of all levels *together*, so one level may drop a mode as long as
    another supplies it.

    Args:
        features: :math:`F`, x → a list of (B, d_k); frozen, or a function without weights.
        shape: of one sample, from which the widths :math:`d_k` are found.
        width: of the one hidden layer of each head :math:`H_k`.
        levels: how many noise levels it distinguishes.

    Raises:
        ValueError: if the features are not a list of (B, d), or for fewer than one level.

    Source: Sauer et al. 2023 (ADD), section 3.2; the heads there see the prompt and an embedding of :math:`x_0` in place of i.
    """

    def __init__(self, features: Any, shape: tuple[int, ...], width: int = 64, levels: int = 1) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels = {levels}, but a student has at least 1 noise level")
        with torch.no_grad():
            found = features(torch.zeros(2, *shape))
        if not isinstance(found, list | tuple) or not found or any(f.ndim != 2 or len(f) != 2 for f in found):
            raise ValueError(
                "features must turn (B, ...) into a list of (B, d), with one at least; "
                "make them with Features(network, layers)"
            )
        self.features = features
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(f.shape[1], width), nn.LeakyReLU(0.2), nn.Linear(width, levels))
            for f in found
        )

    def score(self, found: Sequence[Tensor], level: Tensor | None = None) -> Tensor:
        """The score (B,) of features that are already computed; level: (B,) integers, 0 if not given."""
        scores = torch.stack([head(f) for head, f in zip(self.heads, found, strict=True)]).sum(0)
        level = torch.zeros(len(scores), dtype=torch.long, device=scores.device) if level is None else level
        if level.shape != scores.shape[:1]:
            raise ValueError(f"level has shape {tuple(level.shape)}, want one a sample, ({len(scores)},)")
        return scores.gather(1, level[:, None])[:, 0]

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        """The score of samples: (B, ...) → (B,)."""
        return self.score(self.features(x), level)


def discriminator_loss(
    discriminator: Any, real: Tensor, fake: Tensor, r1: float = 0.1, level: Tensor | None = None
) -> Tensor:
    r"""What the discriminator minimizes, (B,): the hinge loss, and a penalty on its slope at real data (R1).

    .. math::
        \mathcal L_S = \max\big(0,\ 1 - S(x_0)\big) + \max\big(0,\ 1 + S(\hat x)\big)
        + \frac{\gamma}{2}\,\big\|\nabla_{F} S(x_0)\big\|^2

    The slope is taken with respect to the features, where the heads begin, not the pixels. The sample gets no gradient.

    Args:
        discriminator: a :class:`Discriminator`.
        real: :math:`x_0`, (B, ...); fake: :math:`\hat x`, the same number of samples from the student.
        r1: γ ≥ 0.
        level: (B,) the noise level that each sample comes from; its partner in the data is judged by the same output.

    Source: Lim & Ye 2017 (hinge); Mescheder et al. 2018 (R1); Sauer et al. 2023, section 3.2, where each head has a hinge of
    its own and γ is 1e-5; here the hinge sees the sum.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"real has shape {tuple(real.shape)} and fake {tuple(fake.shape)}; they must be equal"
        )
    if not r1 >= 0:
        raise ValueError(f"r1 = {r1}, but a penalty's weight cannot be negative")
    with torch.no_grad():
        found, made = discriminator.features(real), discriminator.features(fake)
    found = [f.requires_grad_(r1 > 0) for f in found]
    score = discriminator.score(found, level)
    loss = (1 - score).relu() + (1 + discriminator.score(made, level)).relu()
    if r1:
        slopes = torch.autograd.grad(score.sum(), found, create_graph=True)
        loss = loss + r1 / 2 * sum(s.square().sum(1) for s in slopes)
    return loss


def adversarial_loss(discriminator: nn.Module, fake: Tensor, level: Tensor | None = None) -> Tensor:
    r"""The student's side of the game: it minimizes :math:`\mathcal L_G = -S(\hat x)`, (B, ...) → (B,).

    The gradient flows through heads and features to the sample; the discriminator's weights get none.
    """
    weights = {name: p.detach() for name, p in discriminator.named_parameters()}
    return -functional_call(discriminator, weights, (fake, level))


def renoised_distillation_loss(
    teacher: Denoiser,
    fake: Tensor,
    sigma: Tensor,
    *,
    noise: Tensor | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""The distillation term of ADD, (B,): the student's sample against the teacher's guess of it, after noise has been put back.

    .. math::
        \mathcal L_D = c(\tau)\,\big\|\hat x - D_\phi\big(\operatorname{sg}(\hat x) + \tau z',\ \tau\big)\big\|^2, \qquad
        c(\tau) = \frac{1}{\sqrt{1 + \tau^2}}

    sg stops the gradient: it reaches :math:`\hat x` directly, never through the teacher. c is :math:`\sqrt{\bar\alpha}` at this noise
        level, so high noise counts less. Mean over the dimensions, as in :func:`~cdedu.losses.l2`.

    Args:
        teacher: any denoiser.
        fake: :math:`\hat x`, (B, ...), the student's samples.
        sigma: τ, (B,); noise: z', drawn where it is not given.

    Source: Sauer et al. 2023, section 3.3, with the "exponential" weighting, the default of its ablations; the final model was
    trained with another, noise-free score distillation.
    """
    if sigma.shape != fake.shape[:1]:
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)}, want one noise level a sample, ({len(fake)},)"
        )
    noise = normal(fake.shape, generator, like=fake) if noise is None else noise
    with torch.no_grad():
        guess = teacher(add_noise(fake.detach(), sigma, noise), sigma, **cond)
    weight = (1 + sigma_like(sigma, fake).flatten() ** 2) ** -0.5
    return weight.to(fake) * l2(fake, guess)


@dataclass(kw_only=True)
class Duel(State):
    """A :class:`~cdedu.training.State` that also holds the student's opponent."""

    opponent: nn.Module
    """The discriminator or, in :mod:`cdedu.methods.dmd`, the denoiser of the student's samples."""
    learner: nn.Module
    """The part of the opponent that is trained: the heads, or all of it."""
    opponent_optimizer: torch.optim.Optimizer
    opponent_mean_loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    """The opponent's loss in the last step, on the device."""

    @property
    def opponent_loss(self) -> float:
        """The opponent's loss in the last step. Waits for the GPU if there is one, as ``loss`` does."""
        return float(self.opponent_mean_loss)

    def modules(self) -> dict[str, nn.Module | None]:
        return super().modules() | {"opponent": self.learner}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return super().optimizers() | {"opponent_optimizer": self.opponent_optimizer}

    def step_opponent(self, losses: Tensor) -> None:
        """One step of the opponent on its own losses (B,)."""
        self.opponent_optimizer.zero_grad(set_to_none=True)
        loss = losses.mean()
        loss.backward()
        self.opponent_optimizer.step()
        self.opponent_mean_loss = loss.detach()


def train_adversarial(
    recipe: Recipe,
    teacher: Teacher,
    features: Any,
    data: Dataset | None = None,
    *,
    levels: Sequence[float] | None = None,
    distillation: float = 2.5,
    adversarial: float = 1.0,
    r1: float = 0.1,
    told: bool = True,
    critic_lr: float = 3e-3,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
) -> Iterator[Duel]:
    r"""Adversarial diffusion distillation (ADD); yields after every step.

    .. math:: \mathcal L = \mathcal L_G + \lambda\,\mathcal L_D, \qquad \hat x = f_\theta(x_0 + s z,\ s), \quad s \in \{s_1, \dots, s_4\}

    Each step draws a batch of data and one of the student's few noise levels for each sample; first the heads are updated, then the
    student, on the same samples. A step costs 8 evaluations per image: student 3, teacher 1, features 2 + 2 (of data and sample without a
    gradient, for the heads; of the sample with a backward pass, for the student). The heads are small and not counted.

    Args:
        recipe: its ``student`` part sets steps, batch, learning rate and sampling average; ``points`` sets the grid on which τ is drawn,
            evenly by index.
        teacher: the student starts from it, and the distillation term calls it.
        features: what the discriminator sees: :class:`Features`, or a function.
        data, device: as in :func:`cdedu.training.train_teacher`.
        levels: noise levels s that the student samples at; by default ``recipe.student_sigmas(4)``.
        distillation: λ; 0 drops the term, and the teacher is never called.
        adversarial: weight of the game; 0 drops it, and the discriminator is not trained.
        r1, critic_lr: γ and the learning rate of the heads.
        told: whether the discriminator is told the noise level that a sample comes from.
        resume: continue from ``(state.tensors(), state.step)`` of an interrupted run with the same arguments, to the same end.

    Raises:
        ValueError: if a weight is negative or both are 0, or for levels outside the recipe's range.
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.

    Source: Sauer et al. 2023 (ADD), section 3; four levels and λ = 2.5 are theirs.
    """
    if min(distillation, adversarial) < 0 or not distillation + adversarial > 0:
        raise ValueError(
            f"distillation = {distillation} and adversarial = {adversarial}, but neither may be negative, "
            "nor both 0"
        )
    data, runtime = data or load_data(recipe.data), Runtime(device)
    few = few_levels(recipe, levels)
    with seeded(recipe.seed, "discriminator"):
        critic = Discriminator(features, tuple(data.train.shape[1:]), levels=len(few) if told else 1)
    critic = critic.to(runtime.device)
    optimizer = torch.optim.Adam(critic.heads.parameters(), lr=critic_lr, betas=(0.5, 0.9))
    frozen = runtime.freeze(teacher)

    def loss_of(state: Duel, turn: Turn) -> Tensor:
        level = turn.level if told else torch.zeros_like(turn.level)
        loss = torch.zeros(len(level), device=level.device)
        if adversarial:
            state.step_opponent(discriminator_loss(critic, turn.x0, turn.fake.detach(), r1, level))
            loss = loss + adversarial * adversarial_loss(critic, turn.fake, level)
        if distillation:
            term = renoised_distillation_loss(frozen, turn.fake, turn.again, **turn.cond)
            loss = loss + distillation * term
        return loss

    return duel(recipe, teacher, few, critic, critic.heads, optimizer, loss_of, data, runtime, resume)


def few_levels(recipe: Recipe, levels: Sequence[float] | None) -> Tensor:
    """The student's few noise levels, checked: (n,)."""
    few = torch.tensor(recipe.student_sigmas(4) if levels is None else list(levels))
    if not len(few) or not ((few > recipe.sigma_min) & (few <= recipe.sigma_max)).all():
        raise ValueError(
            f"levels = {few.tolist()}, but the student needs at least one, each above {recipe.sigma_min:g} and at "
            f"most {recipe.sigma_max:g}"
        )
    return few


@dataclass
class Turn:
    """What a step of :func:`duel` is about."""

    x0: Tensor
    """(B, ...) data, to which the noise of a level was added."""
    fake: Tensor
    """(B, ...) the student's samples of it, with their graph."""
    level: Tensor
    """(B,) which of the student's few noise levels each comes from."""
    again: Tensor
    """(B,) τ, the noise that is to be put back."""
    cond: dict[str, Any]


def duel(
    recipe: Recipe,
    teacher: Teacher,
    few: Tensor,
    opponent: nn.Module,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Duel, Turn], Tensor],
    data: Dataset,
    runtime: Runtime,
    resume: Resume | None,
) -> Iterator[Duel]:
    """The loop of ADD and DMD: the student, a copy of the teacher, samples at its few levels, and its opponent answers.

    Args:
        recipe, teacher, data, runtime, resume: as in :func:`train_adversarial`.
        few: the student's noise levels, (n,).
        opponent, learner, optimizer: as in :class:`Duel`.
        loss_of: moves the opponent by :meth:`Duel.step_opponent`, then gives the student's losses, (B,).
    """
    student, few = ConsistencyModel.from_teacher(teacher, recipe.sigma_min), few.to(runtime.device)
    adam = partial(torch.optim.Adam, betas=(0.5, 0.9))
    more = {"opponent": opponent, "learner": learner, "opponent_optimizer": optimizer}
    state = begin(recipe, "student", student, runtime, optimizer=adam, kind=Duel, **more)
    grid = recipe.sigmas().to(runtime.device)
    pairs = partial(draw_steps, torch.ones(len(few) * len(grid)))

    def loss(run: Setting, part: range) -> Tensor:
        x0, which, noise, cond = run.draw(part, pairs)
        level, again = which % len(few), grid[which // len(few)]
        fake = run.model(add_noise(x0, few[level], noise), few[level], **cond)
        return loss_of(state, Turn(x0, fake, level, again, cond))

    return train(state, data, runtime, loss, resume=resume)
