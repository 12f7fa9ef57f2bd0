"""Training: written to be read from top to bottom.

``train_teacher``, ``distill`` and ``train_consistency`` are generators that yield their :class:`State` after every step, so that progress
bars, plots, checkpoints and early stopping stay outside the loop::

    for state in train_teacher(recipes["toy"]):
        ...
    teacher = state.result

Everything random about a sample depends only on the recipe's seed, the step, and the sample's place in the batch. That's why an
interrupted run can continue exactly, and why the number of processes only changes the speed.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cdedu import solvers
from cdedu.data import Dataset, load_data, to_unit
from cdedu.data.pixels import Ahead, is_mapped
from cdedu.losses import (
    DISTANCES,
    Distance,
    consistency_training_loss,
    continuous_consistency_loss,
    denoising_loss,
    distillation_loss,
    easy_consistency_loss,
    inverse_gap,
)
from cdedu.networks import set_dropout
from cdedu.noise import curriculum, draw_steps, per_sample, stage_of, target_rate
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime
from cdedu.student import EMA, ConsistencyModel, DenoiserStudent
from cdedu.teacher import Denoiser, Teacher


@dataclass
class State:
    """The state of a run after ``step`` of ``steps`` steps."""

    recipe: Recipe
    role: str
    """``teacher`` or ``student``."""
    steps: int
    model: nn.Module
    average: EMA
    optimizer: torch.optim.Optimizer
    target: EMA | None = None
    """θ⁻, if its rate is not 0; otherwise the student itself is the target."""
    more: list[EMA] = field(default_factory=list)
    """Extra sampling averages, with the rates ``more_emas`` of the recipe."""
    step: int = 0
    mean_loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    """Loss of the last step, on the device."""
    scaler: torch.amp.GradScaler | None = None
    """The scale of fp16 gradients, which adapts during training."""

    @property
    def loss(self) -> float:
        """Loss of the last step. Waits for the GPU if there is one, so don't look at it every step."""
        return float(self.mean_loss)

    @property
    def result(self) -> nn.Module:
        """The model to sample from: its sampling average, in evaluation mode."""
        return self.average.module.eval()

    def modules(self) -> dict[str, nn.Module | None]:
        """The networks whose weights change, by the names that ``tensors()`` gives them."""
        further = {f"average{i}": average for i, average in enumerate(self.more, 2)}
        return {"model": self.model, "average": self.average, "target": self.target, **further}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers that change them, by the names that ``tensors()`` gives them."""
        return {"optimizer": self.optimizer}

    def tensors(self) -> dict[str, Tensor]:
        """Everything an exact continuation needs, under flat names."""
        out: dict[str, Tensor] = {}
        for part, module in self.modules().items():
            if module is not None:
                out |= {f"{part}.{name}": t for name, t in module.state_dict().items()}
        for part, optimizer in self.optimizers().items():
            for i, slots in optimizer.state_dict()["state"].items():
                out |= {f"{part}.{i}.{name}": t for name, t in slots.items()}
        if self.scaler is not None:  # nothing where gradients are not scaled
            numbers = self.scaler.state_dict()
            out |= {f"scaler.{name}": torch.tensor(x, dtype=torch.float64) for name, x in numbers.items()}
        return out

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """The inverse of :meth:`tensors`; a ValueError if they belong to another recipe, or to another kind of run."""
        names = (*self.modules(), *self.optimizers(), "scaler")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part not in parts:
                raise ValueError(
                    f"the checkpoint has a part {part!r}, which this kind of run has not; resume it with the function that made it"
                )
            parts[part][rest] = tensor
        try:
            for part, module in self.modules().items():
                if module is not None:
                    module.load_state_dict(parts[part])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"the checkpoint does not fit recipe {self.recipe.name!r}: {reason}") from None
        for part, optimizer in self.optimizers().items():
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in parts[part].items():
                i, _, slot = name.partition(".")
                slots.setdefault(int(i), {})[slot] = tensor
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.scaler is not None and self.scaler.is_enabled() and parts["scaler"]:
            usual = self.scaler.state_dict()
            self.scaler.load_state_dict({key: type(usual[key])(t) for key, t in parts["scaler"].items()})
        self.step = step


Resume = tuple[dict[str, Tensor], int]
"""Tensors and step of an earlier :class:`State`."""
Level = Callable[[int, torch.Generator], Tensor]
"""Draws a number of noise levels, or of steps of a grid."""
S = TypeVar("S", bound=State)


@dataclass
class Setting:
    """Everything a method needs to compute the loss of a step."""

    state: State
    model: Denoiser
    """f_θ, or the teacher being trained, as prepared by the runtime."""
    target: Denoiser
    """f_θ⁻."""
    batches: "Batches"
    grids: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def recipe(self) -> Recipe:
        return self.state.recipe

    def sigmas(self, n: int | None = None) -> Tensor:
        """The recipe's noise grid of n points, on the device; computed once."""
        return self._grid(n or self.recipe.student.points)[0]

    def often(self, n: int | None = None) -> Tensor:
        """How often each step of that grid is drawn, (n − 1,); computed once."""
        return self._grid(n or self.recipe.student.points)[1]

    def _grid(self, n: int) -> tuple[Tensor, Tensor]:
        if n not in self.grids:
            sigmas, stage = self.recipe.sigmas(n), self.recipe.student
            often = stage.log_sigma.grid_weights(sigmas) if stage.index == "lognormal" else torch.ones(n - 1)
            self.grids[n] = sigmas.to(self.batches.device), often.to(self.batches.device)
        return self.grids[n]

    def draw(self, part: range, level: Level) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """x0, noise levels or steps of the grid by ``level``, noise, and condition, for a part of this step's batch."""
        return self.batches.draw(self.state.step, part, level)

    def draw_levels(self, part: range) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Like :meth:`draw`, with noise levels from the student's ``log_sigma``, within the recipe's range."""
        x0, sigma, noise, cond = self.draw(part, self.recipe.student.log_sigma.sample)
        return x0, sigma.clamp(self.recipe.sigma_min, self.recipe.sigma_max), noise, cond


def train_teacher(
    recipe: Recipe,
    data: Dataset | None = None,
    *,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
    start: nn.Module | None = None,
    runtime: Runtime | None = None,
) -> Iterator[State]:
    """Train a :class:`~cdedu.teacher.Teacher` from scratch by denoising; yields after every step.

    Args:
        recipe: its ``network`` and ``teacher`` parts.
        data: by default, the data set that the recipe names.
        device: where to train.
        resume: continue from ``(state.tensors(), state.step)`` of an interrupted run, to the same end.
        start: a model of the same kind whose weights are used at step 0, with a fresh optimizer and fresh averages.
        runtime: instead of ``device``: several processes, mixed precision, compilation.

    Raises:
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.
    """
    data, runtime = data or load_data(recipe.data), runtime or Runtime(device)
    teacher = Teacher(_network(recipe, data), recipe.sigma_data, recipe.noise_scale, recipe.angle)
    state = begin(recipe, "teacher", teacher, runtime, start)
    return train(state, data, runtime, denoising, resume=resume)


def distill(
    recipe: Recipe,
    teacher: Denoiser,
    data: Dataset | None = None,
    *,
    student: nn.Module | None = None,
    guidance: tuple[float, float] | None = None,
    method: Callable[..., Tensor] | None = None,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
    start: nn.Module | None = None,
    runtime: Runtime | None = None,
    **options: Any,
) -> Iterator[State]:
    """Distill a consistency student from a teacher (the paper's algorithm 2); yields after every step.

    Args:
        recipe: its ``student`` part and its noise range, narrowed to what the teacher knows (:func:`within`).
        teacher: a :class:`~cdedu.teacher.Teacher`, whose network the student starts from, or any denoiser that is a module;
            with a plain function the student starts from random weights.
        student: the model to train, instead of the one that the teacher suggests.
        guidance: lowest and highest guidance weight; one is drawn uniformly for each sample and passed to teacher and student as
            ``guidance=`` (see :mod:`cdedu.methods.guidance`).
        method: :func:`distillation`, :func:`easy`, :func:`continuous` or a function of your own, called as
            ``method(setting, part, teacher=...)`` for the losses of a part of a batch; the recipe's by default.
        data, device, resume, start, runtime: as in :func:`train_teacher`.
        options: further arguments of the method: ``distance``, ``loss`` and ``sigmas`` of :func:`distillation`.

    Raises:
        ValueError: for an option that the method does not take.
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.
    """
    data, runtime = data or load_data(recipe.data), runtime or Runtime(device)
    method, rate = method or METHODS[recipe.student.method], recipe.student.target_rate
    options = {name: value for name, value in options.items() if value is not None}
    _taken(recipe, method, guidance=guidance, **options)
    recipe = within(recipe, teacher)
    state = begin(recipe, "student", student or student_of(teacher, recipe, data), runtime, start)
    if _takes(method, "teacher"):
        options["teacher"] = runtime.freeze(teacher) if isinstance(teacher, nn.Module) else teacher
    loss = partial(method, **options)
    return train(state, data, runtime, loss, resume=resume, rate=lambda step: rate, guidance=guidance)


def train_consistency(
    recipe: Recipe,
    data: Dataset | None = None,
    *,
    s0: int | None = None,
    schedule: Callable[[int, int, int, int], int] | None = None,
    distance: Distance | None = None,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
    start: nn.Module | None = None,
    runtime: Runtime | None = None,
) -> Iterator[State]:
    """Train a consistency student without a teacher, from random weights (the paper's algorithm 3); yields after every step.

    The step alone decides how fine the grid is and how slowly the target moves: ``schedule`` gives N(k), and
        :func:`~cdedu.noise.target_rate` the μ(k) that goes with it. With ``method="continuous"`` there is no grid (sCT).

    Args:
        recipe: its ``student`` part and its noise range. ``points`` is the *last* N, s₁ + 1, and ``target_rate`` is μ₀; if it is 0, the
            student itself is the target throughout. ``solver`` is not used.
        s0: the first N; 2 by default.
        schedule: N(k), called with k, K, s₀ and s₁: :func:`~cdedu.noise.curriculum`, the default, or iCT's
            :func:`~cdedu.noise.improved_curriculum`.
        distance: your own d, (B, ...), (B, ...) → (B,), in place of the recipe's.
        data, device, resume, start, runtime: as in :func:`train_teacher`.

    Raises:
        ValueError: if ``points`` is not above ``s0``, or for an option that the recipe's method does not take.
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.

    Source: Song et al. 2023, algorithm 3 and appendix C.
    """
    stage, data, runtime = recipe.student, data or load_data(recipe.data), runtime or Runtime(device)
    if stage.method == "easy":
        raise ValueError(
            f"recipe {recipe.name!r}: student.method = 'easy' tunes a student that starts from a teacher; use distill, or choose the "
            "method 'distillation' or 'continuous'"
        )

    without_grid = stage.method == "continuous"
    first, scheduled = 2 if s0 is None else s0, schedule or curriculum

    def points(step: int) -> int:
        return scheduled(step, stage.steps, first, stage.points - 1)

    loss = continuous if without_grid else partial(consistency, points=points, distance=distance)
    # A target that follows takes its rate from N(k), also where there is no grid.
    used = {} if stage.target_rate else {"s0": s0, "schedule": schedule}
    _taken(recipe, loss, distance=distance, **used)
    if stage.points <= first and not without_grid:
        raise ValueError(
            f"recipe {recipe.name!r}: student.points = {stage.points} is the last N of consistency training and must be "
            f"above the first, s0 = {first}"
        )
    options = {"resume": resume, "rate": lambda step: target_rate(points(step), first, stage.target_rate)}
    state = begin(recipe, "student", new_student(recipe, data), runtime, start)
    return train(state, data, runtime, loss, **options)


def denoising(run: Setting, part: range) -> Tensor:
    """The losses of a teacher, (B,)."""
    x0, sigma, noise, cond = run.draw(part, run.recipe.teacher.log_sigma.sample)
    return denoising_loss(run.model, x0, sigma, noise=noise, **cond)


def distillation(
    run: Setting,
    part: range,
    *,
    teacher: Denoiser,
    loss: Callable[..., Tensor] | None = None,
    distance: Distance | None = None,
    sigmas: Tensor | None = None,
) -> Tensor:
    """Consistency distillation: the losses of a part of a batch, (B,).

    Args:
        sigmas: a noise grid instead of the recipe's, such as LCM's; all its steps are drawn equally often.
        loss: a replacement for :func:`~cdedu.losses.distillation_loss` with the same arguments (see
            :func:`cdedu.methods.latent.skipping_loss`).
        distance: your own d, (B, ...), (B, ...) → (B,), in place of the recipe's.
    """
    solver = solvers.heun_step if run.recipe.student.solver == "heun" else solvers.euler_step
    n = None
    if sigmas is not None:
        n = len(sigmas)
        run.grids[n] = sigmas.to(run.batches.device), torch.ones(n - 1, device=run.batches.device)
    x0, options = _on_grid(run, part, n, distance)
    loss = loss or distillation_loss
    return loss(run.model, run.target, teacher, x0, run.sigmas(n), solver=solver, **options)


def consistency(
    run: Setting, part: range, *, points: Callable[[int], int], distance: Distance | None = None
) -> Tensor:
    """Consistency training: like :func:`distillation`, but without a teacher, on a grid of ``points(step)`` points."""
    n = points(run.state.step)
    x0, options = _on_grid(run, part, n, distance)
    return consistency_training_loss(run.model, run.target, x0, run.sigmas(n), **options)


def _on_grid(
    run: Setting, part: range, n: int | None, distance: Distance | None
) -> tuple[Tensor, dict[str, Any]]:
    """x0 of a part of a batch, and the other arguments of a loss on a noise grid of n points."""
    stage = run.recipe.student
    x0, index, noise, cond = run.draw(part, partial(draw_steps, run.often(n)))
    weight = inverse_gap if stage.weight == "inverse_gap" else None
    measure = {"distance": distance or DISTANCES[stage.distance], "weight": weight}
    return x0, {"index": index, "noise": noise, **measure, **cond}


def easy(run: Setting, part: range) -> Tensor:
    """Easy consistency tuning, which uses the teacher only as a starting point: the losses of a part of a batch, (B,)."""
    recipe, stage = run.recipe, run.recipe.student
    x0, sigma, noise, cond = run.draw_levels(part)
    options = {"q": stage.easy_q, "sigma_min": recipe.sigma_min, "noise": noise, **cond}
    options["stage"] = stage_of(run.state.step, stage.steps, stage.easy_stages)
    return easy_consistency_loss(run.model, run.target, x0, sigma, **options)


def continuous(run: Setting, part: range, *, teacher: Denoiser | None = None) -> Tensor:
    """The continuous limit, with a teacher (sCD) or without (sCT); its ratio r rises over the first steps."""
    recipe, stage = run.recipe, run.recipe.student
    x0, sigma, noise, cond = run.draw_levels(part)
    ratio = min(1.0, (run.state.step + 1) / max(stage.tangent_warmup, 1))
    options = {"teacher": teacher, "noise": noise, "sigma_data": recipe.sigma_data, "ratio": ratio, **cond}
    return continuous_consistency_loss(run.model, run.target, x0, sigma, **options)


METHODS = {"distillation": distillation, "easy": easy, "continuous": continuous}
"""The methods that train a student, by their names in recipes."""


def within(recipe: Recipe, denoiser: Any) -> Recipe:
    """The recipe with its noise range narrowed to that of a denoiser, if it has one (``sigma_min``, ``sigma_max``).

    A DDPM knows nothing below σ = .01, and its largest σ may be below the recipe's.
    """
    low = max(recipe.sigma_min, float(getattr(denoiser, "sigma_min", 0.0)))
    high = min(recipe.sigma_max, float(getattr(denoiser, "sigma_max", math.inf)))
    return replace(recipe, sigma_min=low, sigma_max=high)


def new_student(recipe: Recipe, data: Dataset) -> ConsistencyModel:
    """A student with random weights, drawn with the recipe's seed."""
    network = _network(recipe, data)
    return ConsistencyModel(network, recipe.sigma_data, recipe.sigma_min, recipe.noise_scale, recipe.angle)


def _network(recipe: Recipe, data: Dataset) -> nn.Module:
    with seeded(recipe.seed, "network"):
        return recipe.network.build(tuple(data.train.shape[1:]))


def student_of(teacher: Denoiser, recipe: Recipe, data: Dataset) -> nn.Module:
    """The student that a teacher suggests: a copy of its network where it has one."""
    if isinstance(teacher, Teacher):
        return ConsistencyModel.from_teacher(teacher, recipe.sigma_min)
    if isinstance(teacher, nn.Module):
        return DenoiserStudent(copy.deepcopy(teacher).requires_grad_(True), recipe.sigma_min)
    return new_student(recipe, data)


def _takes(method: Callable[..., Tensor], name: str) -> bool:
    return name in signature(method).parameters


def _taken(recipe: Recipe, method: Callable[..., Tensor], **options: Any) -> None:
    """Refuse options and fields that the method would silently ignore: a guidance weight without a teacher, or settings of a grid without
    one."""
    for name, value in options.items():
        needed = {"guidance": "teacher", "s0": "points", "schedule": "points"}.get(name, name)
        if value is not None and not _takes(method, needed):
            others = [repr(known) for known, function in METHODS.items() if _takes(function, needed)]
            raise ValueError(
                f"recipe {recipe.name!r}: the method {getattr(method, '__name__', method)!r} does not use {name}=; leave it out"
                + f", or choose the method {' or '.join(others)}" * bool(others)
            )


def begin(
    recipe: Recipe,
    role: str,
    model: nn.Module,
    runtime: Runtime,
    start: nn.Module | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    kind: type[S] = State,  # type: ignore[assignment]
    **more: Any,
) -> S:
    """The state at step 0: the model on its device, target, averages and optimizer.

    Args:
        role: "teacher" or "student", whose stage of the recipe counts.
        start: a model of the same kind whose weights are used.
        optimizer: Adam for a teacher and RAdam for a student by default.
        kind, more: a subclass of :class:`State`, and its extra fields.
    """
    stage = getattr(recipe, role)
    if role == "student":
        set_dropout(model, stage.dropout)
    model = runtime.place(model).train()
    if start is not None:
        model.load_state_dict(start.state_dict())
    rate = getattr(stage, "target_rate", 0.0)
    target = EMA(model, rate).train() if rate else None
    average, *averages = (EMA(model, rate) for rate in (stage.ema, *stage.more_emas))
    optimizer = optimizer or {"teacher": torch.optim.Adam, "student": torch.optim.RAdam}[role]
    moving = optimizer(model.parameters(), lr=stage.lr)
    more["scaler"] = runtime.scaler
    return kind(recipe, role, stage.steps, model, average, moving, target, averages, **more)


def train(
    state: S,
    data: Dataset,
    runtime: Runtime,
    loss: Callable[[Setting, range], Tensor],
    *,
    resume: Resume | None = None,
    rate: Callable[[int], float] = lambda step: 0.0,
    guidance: tuple[float, float] | None = None,
) -> Iterator[S]:
    """The training loop: a step of the optimizer, then one of the target, if there is one; yields after each.

    Args:
        state: from :func:`begin`; modified in place.
        loss: a method: the losses of a part of this step's batch, (B,).
        resume: as in :func:`train_teacher`.
        rate: μ of the target at a step.
        guidance: range of the guidance weights that samples get.
    """
    if resume:
        state.restore(*resume)
    batch = getattr(state.recipe, state.role).batch
    batches = Batches(state.recipe, state.role, batch, data, runtime, guidance)
    model, target = runtime.prepare(state.model), runtime.follow(state.target or state.model)
    setting = Setting(state, model, target, batches)
    while (step := state.step) < state.steps:
        optimise(setting, runtime, loss)
        if state.target is not None:
            state.target.update(state.model, rate(step))
        yield state


def optimise(setting: Setting, runtime: Runtime, loss: Callable[[Setting, range], Tensor]) -> None:
    """One step: the losses of this process's samples, part by part; then the optimizer; then the sampling averages.

    Raises:
        FloatingPointError: if the loss is not finite (checked every :attr:`~cdedu.runtime.Runtime.look` steps), or the last step's
            weights are not.
        MemoryError: if there isn't enough memory for a single block.
    """
    state, batches = setting.state, setting.batches
    stage = getattr(state.recipe, state.role)
    while True:
        size = len(batches.parts(runtime.micro_batch)[0])
        total = _gradients(setting, runtime, loss)
        if runtime.agree(total is not None, size, state.model) and total is not None:
            break
        runtime.shrink(size, batches.block)
    state.mean_loss = runtime.mean(total)
    if (state.step + 1) % runtime.look == 0 and not math.isfinite(state.loss):
        raise FloatingPointError(
            f"the loss became {state.loss} at step {state.step + 1} of {state.steps}; the weights of step {state.step} "
            f"are kept. Try a smaller {state.role}.lr than {state.optimizer.param_groups[0]['lr']:g}"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = stage.lr * min(1.0, (state.step + 1) / max(stage.warmup, 1))
    try:
        runtime.update(state.optimizer)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise _not_finite(
            state, state.step + 1
        ) from None  # a rate that no float32 holds, which some versions of torch refuse
    # A young average would remember its random start, so the rate rises to its final value.
    for average in (state.average, *state.more):
        average.update(state.model, min(average.rate, (1 + state.step) / (10 + state.step)))
    state.step += 1
    if state.step == state.steps:
        check_finite(state)


def _gradients(setting: Setting, runtime: Runtime, loss: Callable[[Setting, range], Tensor]) -> Tensor | None:
    """Compute the gradients of a step. Returns the mean loss of this process's samples, or None if memory ran out.

    When it returns, nothing holds on to the graph anymore, so its memory is free for another try.
    """
    state, batches = setting.state, setting.batches
    parts = batches.parts(runtime.micro_batch)
    alone = runtime.trying(len(parts[0]))
    total = torch.zeros((), device=runtime.device)
    state.optimizer.zero_grad(set_to_none=True)
    try:
        for part in parts:
            with (
                runtime.waiting(setting.model) if alone or part is not parts[-1] else nullcontext(),  # type: ignore[arg-type]
                seeded(*batches.key(state.step, part.start)),
            ):
                mean = loss(setting, part).sum() / batches.mine
                runtime.backward(mean)
            total += mean.detach()
    except torch.OutOfMemoryError:
        state.optimizer.zero_grad(set_to_none=True)
        return None
    return total


def check_finite(state: State) -> None:
    """Raise a FloatingPointError for a useless state: before it is saved, and after the last step, whose weights no loss has checked."""
    if not all(t.isfinite().all() for t in state.tensors().values()):
        raise _not_finite(state, state.step)


def _not_finite(state: State, step: int) -> FloatingPointError:
    return FloatingPointError(
        f"weights or optimizer are not finite after step {step} of {state.steps}; what was saved before is kept. "
        f"Try a smaller {state.role}.lr than {state.optimizer.param_groups[0]['lr']:g}"
    )


class Batches:
    """Data and noise of each step, independent of the number of processes and parts.

    The global batch is cut into blocks of ``recipe.block`` samples; each block has its own generator, seeded by the recipe's seed, the
    role, the step and the place of its first sample. A process draws only the blocks it needs, on its device.

    Data that take at most a certain share of the device's free memory (:meth:`~cdedu.runtime.Runtime.holds`) are copied there completely.
    All others, and on a CPU those mapped from a file (:mod:`cdedu.data.pixels`), stay where they are, and a thread gathers this process's
    samples for the next step while the current one is computed. The samples are the same either way, to the last bit.

    Args:
        role: "teacher" or "student", so that the two don't see the same noise.
        batch: samples per step, over all processes.
        guidance: lowest and highest guidance weight; one is drawn uniformly for each sample.

    Raises:
        ValueError: for a batch that the processes cannot share in whole blocks.
    """

    def __init__(
        self,
        recipe: Recipe,
        role: str,
        batch: int,
        data: Dataset,
        runtime: Runtime,
        guidance: tuple[float, float] | None = None,
    ) -> None:
        self.recipe, self.role, self.device, self.guidance = recipe, role, runtime.device, guidance
        self._check(data)
        self.block = min(recipe.block or batch, batch)
        self.mine, rest = divmod(batch, runtime.world)
        if rest or self.mine % self.block:
            raise ValueError(
                f"a batch of {batch} on {runtime.world} processes is {batch / runtime.world:g} samples each, which must be "
                f"a multiple of recipe.block = {self.block}; change the batch, the number of processes or the block"
            )
        self.first = runtime.rank * self.mine
        # What fits lives on the device, images as uint8; the rest stays where it is, a step's samples are fetched ahead of it.
        mapped = is_mapped(data.train) and self.device.type != "cuda"
        self.ahead = None if runtime.holds(data.train.nbytes) and not mapped else Ahead()
        self.train = data.train.to(self.device) if self.ahead is None else data.train
        self.stream = torch.cuda.Stream(self.device) if self.ahead and self.device.type == "cuda" else None
        labels = data.train_labels if recipe.network.classes else None
        self.labels = None if labels is None else labels.to(self.device)
        self.null = recipe.network.classes - 1
        self.dropped = recipe.teacher.label_dropout if role == "teacher" else 0.0

    def _check(self, data: Dataset) -> None:
        classes, name = self.recipe.network.classes, self.recipe.name
        if not len(data.train):
            raise ValueError(f"{data.name} holds no training data")
        if not classes:
            return
        if data.train_labels is None or len(data.train_labels) != len(data.train):
            count = 0 if data.train_labels is None else len(data.train_labels)
            raise ValueError(
                f"{data.name} has {count} labels for {len(data.train)} samples; recipe {name!r} with network.classes = {classes} needs "
                "one for each, or network.classes = 0"
            )
        dropped = self.role == "teacher" and self.recipe.teacher.label_dropout > 0
        if data.label_count() > classes - dropped:
            none = f"; with teacher.label_dropout the last of them, {classes - 1}, means none" * dropped
            raise ValueError(
                f"{data.name} has {data.label_count()} labels, and recipe {name!r} network.classes = {classes}{none}; it needs "
                f"network.classes = {data.label_count() + dropped}"
            )

    def key(self, step: int, place: int) -> tuple[int | str, ...]:
        """The seed for the samples from ``place`` on."""
        return (self.recipe.seed, self.role, step, *([place] if place else []))

    def parts(self, micro_batch: int | None) -> list[range]:
        """This process's samples of the global batch, in parts of at most ``micro_batch`` samples, made of whole blocks."""
        size = max(self.block, (micro_batch or self.mine) // self.block * self.block)
        stop = self.first + self.mine
        return [range(i, min(i + size, stop)) for i in range(self.first, stop, size)]

    def draw(self, step: int, part: range, level: Level) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """x0, noise levels (or steps of the grid) by ``level``, noise, and condition, for one part of a batch.

        Each block draws its own numbers; everything after that happens once for the whole part.
        """
        starts = range(part.start, part.stop, self.block)
        noise = torch.empty(len(starts) * self.block, *self.train.shape[1:], device=self.device)
        into = noise.split(self.block)
        blocks = [self._block(step, start, level, z) for start, z in zip(starts, into, strict=True)]
        drawn = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        which, cond = drawn["which"], {}
        x = self._samples(step, part, which)
        if self.recipe.flip:
            x = torch.where(per_sample(drawn["flip"] < 0.5, x), x.flip(-1), x)
        if self.labels is not None:
            cond["labels"] = self.labels[which]
            if self.dropped:
                cond["labels"] = cond["labels"].masked_fill(drawn["drop"] < self.dropped, self.null)
        if self.guidance is not None:
            low, high = self.guidance
            cond["guidance"] = low + (high - low) * drawn["guidance"]
        return to_unit(x), drawn["levels"], noise, cond

    def _block(self, step: int, start: int, level: Level, noise: Tensor) -> dict[str, Tensor]:
        """The numbers of the samples that share a generator, with ``noise`` filled; the order of the draws is part of the seed."""
        generator = self._generator(step, start)
        uniform = partial(torch.rand, self.block, generator=generator, device=self.device)
        out = {"which": self._which(generator)}
        if self.recipe.flip:
            out["flip"] = uniform()
        out["levels"] = level(self.block, generator)
        noise.normal_(generator=generator)
        if self.labels is not None and self.dropped:
            out["drop"] = uniform()
        if self.guidance is not None:
            out["guidance"] = uniform()
        return out

    def _generator(self, step: int, start: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed_of(*self.key(step, start)))

    def _which(self, generator: torch.Generator) -> Tensor:
        """Which data a block gets: the first draw of its generator, so that it's known before the others."""
        return torch.randint(len(self.train), (self.block,), generator=generator, device=self.device)

    def _samples(self, step: int, part: range, which: Tensor) -> Tensor:
        """The data of a part, as stored, on the device."""
        if self.ahead is None:
            return self.train[which]
        last = getattr(self.recipe, self.role).steps - 1
        mine = self.ahead(self._gather, step, max(step, last))
        rows = mine[part.start - self.first : part.stop - self.first]
        return rows.to(self.device, non_blocking=True)

    def _gather(self, step: int) -> Tensor:
        """The data for this process's samples of a step, in memory that a GPU can copy from while it computes.

        On CUDA the sample numbers come from generators on the GPU, and have to be waited for. That happens here, on the prefetching
        thread and its own stream, so that the current step neither waits nor is waited for.
        """
        cuda = self.stream is not None
        with torch.cuda.stream(self.stream) if cuda else nullcontext():
            starts = range(self.first, self.first + self.mine, self.block)
            which = torch.cat([self._which(self._generator(step, start)) for start in starts]).cpu()
            rows = torch.empty(len(which), *self.train.shape[1:], dtype=self.train.dtype, pin_memory=cuda)
            return torch.index_select(self.train, 0, which, out=rows)


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from numbers and names, well mixed."""
    words = [k if isinstance(k, int) else int.from_bytes(k.encode(), "little") for k in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed PyTorch's global generators (initial weights, dropout masks) inside the context, and restore them afterward."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed_of(*key))
        yield
