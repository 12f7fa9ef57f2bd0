"""Training: two loops, written to be read from top to bottom.

Each is a generator that yields its :class:`State` after every step, so that progress bars, plots, checkpoints and early
stopping stay outside::

    for state in train_teacher(recipes["toy"]):
        ...
    teacher = state.result

Whatever is random in step k depends on the recipe's seed and on k alone; that is why an interrupted run can go on exactly.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdedu import solvers
from cdedu.data import Dataset, load_data
from cdedu.losses import DISTANCES, denoising_loss, distillation_loss, inverse_gap
from cdedu.noise import LogNormal
from cdedu.recipes import Recipe
from cdedu.student import EMA, ConsistencyModel, DenoiserStudent
from cdedu.teacher import Denoiser, Teacher


@dataclass
class State:
    """Where a run stands after ``step`` of ``steps`` steps."""

    recipe: Recipe
    role: str
    """``teacher`` or ``student``."""
    steps: int
    model: nn.Module
    average: EMA
    optimizer: torch.optim.Optimizer
    target: EMA | None = None
    """θ⁻ where its rate is not 0; otherwise the student itself is the target."""
    step: int = 0
    loss: float = math.nan

    @property
    def result(self) -> nn.Module:
        """The model to sample from: its sampling average, in evaluation mode."""
        return self.average.module.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that an exact continuation needs, under flat names."""
        modules = {"model": self.model, "average": self.average, "target": self.target}
        out = {
            f"{k}.{name}": t
            for k, m in modules.items()
            if m is not None
            for name, t in m.state_dict().items()
        }
        for i, slots in self.optimizer.state_dict()["state"].items():
            out |= {f"optimizer.{i}.{name}": t for name, t in slots.items()}
        return out

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """The inverse of :meth:`tensors`.

        Raises:
            ValueError: if the tensors belong to another recipe.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "target": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        try:
            for part, module in (("model", self.model), ("average", self.average), ("target", self.target)):
                if module is not None:
                    module.load_state_dict(parts[part])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint does not fit recipe {self.recipe.name!r}: {str(error).splitlines()[-1].strip()}"
            ) from None
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            i, _, slot = name.partition(".")
            slots.setdefault(int(i), {})[slot] = tensor
        self.optimizer.load_state_dict(
            {"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.step = step


Resume = tuple[dict[str, Tensor], int]
"""Tensors and step of an earlier :class:`State`."""


def train_teacher(
    recipe: Recipe,
    data: Dataset | None = None,
    *,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
) -> Iterator[State]:
    """Train a :class:`~cdedu.teacher.Teacher` from scratch by denoising; yields after every step.

    Args:
        recipe: its ``network`` and ``teacher`` parts.
        data: loaded by the recipe's name where not given.
        device: where to train.
        resume: continue from ``(state.tensors(), state.step)`` of an interrupted run, to the same end.

    Raises:
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.
    """
    stage, data = recipe.teacher, data or load_data(recipe.data)
    with _seeded(recipe.seed, "network"):
        network = recipe.network.build(tuple(data.train.shape[1:]))
    teacher = Teacher(network, recipe.sigma_data, recipe.noise_scale).to(device).train()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=stage.lr)
    state = State(recipe, "teacher", stage.steps, teacher, EMA(teacher, stage.ema), optimizer)
    if resume:
        state.restore(*resume)

    while state.step < stage.steps:
        generator = _generator(recipe.seed, "teacher", state.step)
        x0, cond = _batch(data, stage.batch, generator, recipe, device)
        sigma = stage.log_sigma.sample(stage.batch, generator).to(device)
        with _seeded(recipe.seed, "teacher", state.step):
            loss = denoising_loss(teacher, x0, sigma, generator=generator, **cond).mean()
        _update(state, loss)
        yield state


def distill(
    recipe: Recipe,
    teacher: Denoiser,
    data: Dataset | None = None,
    *,
    device: str | torch.device = "cpu",
    resume: Resume | None = None,
) -> Iterator[State]:
    """Distil a consistency student from a teacher (the paper's algorithm 2); yields after every step.

    Args:
        recipe: its ``student`` part and its noise range.
        teacher: a :class:`~cdedu.teacher.Teacher`, whose network the student starts from, or any denoiser that is a module.
        data, device, resume: as in :func:`train_teacher`.

    Raises:
        FloatingPointError: when the loss stops being a number; the state yielded last is the last good one.
    """
    stage, data = recipe.student, data or load_data(recipe.data)
    student: nn.Module
    if isinstance(teacher, Teacher):
        teacher = teacher.to(device).eval()
        student = ConsistencyModel.from_teacher(teacher, recipe.sigma_min)
    elif isinstance(teacher, nn.Module):
        student = DenoiserStudent(teacher, recipe.sigma_min)
    else:
        with _seeded(recipe.seed, "network"):
            network = recipe.network.build(tuple(data.train.shape[1:]))
        student = ConsistencyModel(network, recipe.sigma_data, recipe.sigma_min, recipe.noise_scale)
    student = student.to(device).train()
    target = EMA(student, stage.target_rate).train() if stage.target_rate else None
    optimizer = torch.optim.RAdam(student.parameters(), lr=stage.lr)
    state = State(recipe, "student", stage.steps, student, EMA(student, stage.ema), optimizer, target)
    if resume:
        state.restore(*resume)

    sigmas = recipe.sigmas().to(device)
    solver = solvers.heun_step if stage.solver == "heun" else solvers.euler_step
    index_weights = LogNormal(-1.1, 2.0).grid_weights(sigmas) if stage.index == "lognormal" else None
    while state.step < stage.steps:
        generator = _generator(recipe.seed, "student", state.step)
        x0, cond = _batch(data, stage.batch, generator, recipe, device)
        with _seeded(recipe.seed, "student", state.step):
            loss = distillation_loss(
                student,
                target or student,
                teacher,
                x0,
                sigmas,
                generator=generator,
                solver=solver,
                distance=DISTANCES[stage.distance],
                weight=inverse_gap if stage.weight == "inverse_gap" else None,
                index_weights=index_weights,
                **cond,
            ).mean()
        _update(state, loss)
        if target is not None:
            target.update(student)
        yield state


def _update(state: State, loss: Tensor) -> None:
    """One optimiser step and one step of the sampling average, unless the loss is no number."""
    state.loss = loss.item()
    if not math.isfinite(state.loss):
        raise FloatingPointError(
            f"the loss became {state.loss} at step {state.step + 1} of {state.steps}; the weights of step {state.step} "
            f"are kept. Try a smaller {state.role}.lr than {state.optimizer.param_groups[0]['lr']:g}"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    # A young average would remember its random start, so the rate rises to its final value.
    state.average.update(state.model, min(state.average.rate, (1 + state.step) / (10 + state.step)))
    state.step += 1


def _batch(
    data: Dataset, n: int, generator: torch.Generator, recipe: Recipe, device: str | torch.device
) -> tuple[Tensor, dict[str, Any]]:
    which = torch.randint(len(data.train), (n,), generator=generator)
    cond = (
        {"labels": data.train_labels[which].to(device)}
        if recipe.network.classes and data.train_labels is not None
        else {}
    )
    return data.train[which].to(device), cond


def _seed(*key: int | str) -> int:
    """A 63-bit seed from numbers and names, well mixed."""
    words = [k if isinstance(k, int) else int.from_bytes(k.encode(), "little") for k in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def _generator(*key: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*key))


@contextmanager
def _seeded(*key: int | str) -> Iterator[None]:
    """PyTorch's global generators (initial weights, dropout masks) seeded inside, and put back afterwards."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(_seed(*key))
        yield
