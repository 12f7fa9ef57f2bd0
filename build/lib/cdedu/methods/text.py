"""Distillation of text-to-image pipelines: LCM's recipe, for adapters (LCM-LoRA) and for whole networks, diffusions and flows."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from cdedu.adapters import DiffusersDenoiser, Flow
from cdedu.data.dataset import Dataset
from cdedu.limits import Count, Positive, Range, Rate, Seed, Whole, check_ranges
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.methods.latent import huber, lcm_times
from cdedu.networks.lora import with_lora
from cdedu.networks.text import TextNetwork, TextUNet
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.runtime import Runtime
from cdedu.training import Resume, State, begin, distillation, train

EMBEDDING = 256
"""Width of the guidance weight's embedding in a student that takes it as an input; LCM's."""


@dataclass(frozen=True)
class TextStage:
    """How a text-to-image student is distilled; the defaults are those of diffusers' LCM-LoRA scripts."""

    lora: Whole = 64
    """Rank of the adapter; 0 trains the whole network."""
    steps: Count = 1000
    batch: Count = 16
    lr: Positive = 1e-4
    guidance: tuple[float, ...] = (5.0, 15.0)
    """The teacher's weight w: one; or two, between which it is drawn for each picture."""
    input: bool = False
    """Whether the student is told w; of UNets that are trained whole."""
    points: Annotated[int, Range(2, 1000)] = 50
    """Steps of the solver's grid; LCM skips 20 of a schedule's 1000 with each."""
    target_rate: Rate = 0.0
    """μ; LCM trains whole networks with .95, adapters with 0."""
    ema: Rate = 0.95
    """Rate of the sampling average."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        w = self.guidance
        if len(w) not in (1, 2) or sorted(w) != [*w] or not w[0] >= 0:
            raise ValueError(
                f"guidance = {' '.join(f'{x:g}' for x in w)}; give one weight, or a lower and a higher one, none below 0"
            )
        if self.input and (self.lora or len(w) != 2):
            raise ValueError(
                "input: only a student that is trained whole (lora = 0), with two guidance weights, can take the weight as an input"
            )

    def recipe(self, name: str, data: Dataset, model: Any) -> Recipe:
        """As a recipe of this package, which says what a run is resumed with."""
        stage = StudentStage(
            steps=self.steps, batch=self.batch, lr=self.lr, points=self.points + 1, solver="euler", target_rate=self.target_rate, ema=self.ema
        )  # fmt: skip
        network = Network("foreign", classes=len(model.pipeline.network.prompts))
        sigmas = model_sigmas(model, self.points)
        ends = {"sigma_min": max(float(sigmas[-1]), 1e-6), "sigma_max": float(sigmas[0])}
        return Recipe(name, data.name, network, student=stage, seed=self.seed, **ends)


def model_sigmas(model: Any, steps: int = 50) -> Tensor:
    """The solver's grid in σ, (steps + 1,), float64: LCM's times of a diffusion; of a flow equal steps of t with its scheduler's shift, the
    last at t = .001."""
    pipeline = model.pipeline
    if not pipeline.flow:
        known = pipeline.denoiser.log_sigmas.exp().cpu()
        return known[lcm_times(steps, len(known))]
    t = pipeline.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).clamp(
        1e-3, pipeline.denoiser.last
    )
    return t / (1 - t)


def text_student(model: Any, stage: TextStage) -> Any:
    """The student of a pipeline's teacher: its network with an adapter, or a copy of it, which may take the guidance weight as an input.

    Raises:
        ValueError: where the network cannot take it.
    """
    teacher: TextNetwork = model.pipeline.network
    model.pipeline.points = stage.points  # of which its students know no others
    if stage.lora:
        network = with_lora(teacher, stage.lora, stage.seed)
    else:
        network = _taking_guidance(teacher) if stage.input else copy.deepcopy(teacher)
        network.requires_grad_(True)
    known: Any = model.pipeline.denoiser
    if isinstance(known, Flow):
        return model.pipeline.student(Flow(network, known.last))
    return model.pipeline.student(DiffusersDenoiser(network, known.alphas_cumprod, known.prediction))


def _taking_guidance(teacher: TextNetwork) -> TextNetwork:
    """A copy of a UNet with an embedding of the weight beside that of time, without effect at the start."""
    if not isinstance(teacher, TextUNet):
        raise ValueError(
            f"input: a {type(teacher).__name__} cannot take the guidance weight as an input; distil at one weight, or with --lora"
        )
    old: Any = teacher.net
    net = type(old).from_config({**old.config, "time_cond_proj_dim": EMBEDDING}).to(old.dtype)
    net.load_state_dict(old.state_dict(), strict=False)
    nn.init.zeros_(net.time_embedding.cond_proj.weight)
    return TextUNet(net.to(old.device), teacher.prompts)


def distill_text(
    model: Any,
    data: Dataset,
    stage: TextStage = TextStage(),  # noqa: B008
    *,
    name: str = "latents",
    runtime: Runtime | None = None,
    resume: Resume | None = None,
    student: Any = None,
) -> Iterator[State]:
    r"""Latent consistency distillation: :func:`~cdedu.losses.distillation_loss` with Euler's step of a guided teacher over LCM's grid, and
    LCM's :func:`~cdedu.methods.latent.huber`; yields after every step.

    On the scale of LCM, :math:`x_t = x / \sqrt{1 + \sigma^2}`, Euler's step in σ is DDIM's, so this is its algorithm 1.

    Args:
        model: a teacher that :func:`~cdedu.pretrained.text_to_image.load_text_to_image` made, whose texts the labels of ``data`` mean; the
            last one is the empty text.
        data: latents and labels (:func:`~cdedu.data.captioned.encoded`).
        runtime, resume: as in :func:`~cdedu.training.distill`.
        student: as :func:`text_student` made it.

    Source: Luo et al. 2023 (LCM), algorithm 1; Luo et al. 2023 (LCM-LoRA).
    """
    runtime = runtime or Runtime()
    student = student or text_student(model, stage)
    state = begin(stage.recipe(name, data, model), "student", student, runtime, optimizer=ClippedAdamW)
    weights = stage.guidance
    teacher = GuidedDenoiser(
        model.pipeline.denoiser,
        weights[0] if len(weights) == 1 else None,
        len(model.pipeline.network.prompts) - 1,
    )
    ranges = (weights[0], weights[1]) if len(weights) == 2 else None
    sigmas = model_sigmas(model, stage.points)

    def method(setting: Any, part: range) -> Tensor:
        return distillation(setting, part, teacher=frozen, distance=huber, sigmas=sigmas)

    frozen = runtime.freeze(teacher)
    return train(
        state, data, runtime, method, resume=resume, rate=lambda step: stage.target_rate, guidance=ranges
    )


class ClippedAdamW(torch.optim.AdamW):
    """LCM's optimiser: AdamW over the weights that are trained, after their gradients were cut to a norm of 1."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__([p for p in parameters if p.requires_grad], lr=lr, weight_decay=1e-2)

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 1.0)
        return super().step(closure)
