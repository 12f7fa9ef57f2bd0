"""Distillation of text-to-image pipelines: LCM's recipe, for adapters (LCM-LoRA) and for whole networks, diffusions and flows."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from cdedu.adapters import DiffusersDenoiser, Flow
from cdedu.data.dataset import Dataset
from cdedu.limits import Count, Positive, Range, Rate, Seed, Whole, check_ranges
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.methods.latent import huber, lcm_times
from cdedu.networks.lora import check_rank, with_lora
from cdedu.networks.text import FluxTransformer, TextNetwork, TextUNet
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.runtime import Runtime
from cdedu.training import Resume, State, begin, distillation, train

EMBEDDING = 256
"""Width of the guidance weight's embedding in a student that takes it as an input; LCM's."""


WEIGHTS = Range(1, 100)
"""Plausible guidance weights w: 1 is unguided, and pictures burn out long before 100."""


def check_guidance(weights: Iterable[float], name: str = "guidance") -> None:
    """Raise a ValueError for a weight that makes no sense.

    Args:
        name: the name of the weights in the message.
    """
    for w in weights:
        if w not in WEIGHTS:
            raise ValueError(
                f"{name} = {w:g}, but a guidance weight is {WEIGHTS}: 1 is the text alone, without guidance, and 0 would be a picture of no "
                "text; give 1 to switch guidance off, or a usual weight such as 7.5"
            )


@dataclass(frozen=True)
class TextStage:
    """How a text-to-image student is distilled. The defaults follow diffusers' LCM-LoRA scripts in rank, learning rate, optimizer, the
    grid of 50 points and the range of the guidance weight: the scripts draw LCM's ω from 5 to 15, and w = 1 + ω, called guidance here and
    ``guidance_scale`` in diffusers, runs from 6 to 16. Three things differ: the loss is LCM's Huber, which in the scripts is an option
    next to the squared error; a latent is the autoencoder's mean, where they draw a sample around it; and the model that is kept is the
    sampling average."""

    lora: Whole = 64
    """Rank of the adapter; 0 trains the whole network."""
    steps: Count = 1000
    batch: Count = 16
    lr: Positive = 1e-4
    guidance: tuple[float, ...] = (6.0, 16.0)
    """The teacher's weight w, or two to draw from for each picture. The defaults are for Stable Diffusion 1 and 2 and SDXL;
    :func:`usual_guidance` has those of other families."""
    input: bool = False
    """Whether the student takes w as an input; only for UNets that are trained whole."""
    points: Annotated[int, Range(2, 1000)] = 50
    """Number of steps in the solver's grid; each of LCM's skips 20 of a schedule's 1000."""
    target_rate: Rate = 0.0
    """μ, the rate of the target average; LCM trains whole networks with .95, adapters with 0."""
    ema: Rate = 0.95
    """Rate of the sampling average."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        w = self.guidance
        if len(w) not in (1, 2) or sorted(w) != [*w]:
            raise ValueError(
                f"guidance = {' '.join(f'{x:g}' for x in w)}; give one weight, or a lower and a higher one"
            )
        check_guidance(w)
        if self.input and (self.lora or len(w) != 2):
            raise ValueError(
                "input (--guidance-input): only a student that is trained whole (lora = 0), with two guidance weights, can take the weight as an input"
            )

    def recipe(self, name: str, data: Dataset, model: Any) -> Recipe:
        """The stage as a recipe of this package, which must match when a run is resumed. Each picture has its own random generator, so a
        batch can be computed in parts of any size (``micro_batch``) and by any number of processes that share it evenly."""
        stage = StudentStage(
            steps=self.steps, batch=self.batch, lr=self.lr, points=self.points + 1, solver="euler", target_rate=self.target_rate, ema=self.ema
        )  # fmt: skip
        network = Network("foreign", classes=len(model.pipeline.network.prompts))
        sigmas = model_sigmas(model, self.points)
        ends = {"sigma_min": max(float(sigmas[-1]), 1e-6), "sigma_max": float(sigmas[0])}
        return Recipe(name, data.name, network, student=stage, seed=self.seed, block=1, **ends)


def usual_guidance(model: Any) -> tuple[float, ...]:
    """A teacher's default guidance. Stable Diffusion 1 and 2 and SDXL: weights from 6 to 16, as in LCM's scripts. Stable Diffusion 3: its
    pipeline's own weight, since a flow would burn out at those. FLUX.1 dev: none, but its network gets its usual number, 3.5. FLUX.1
    schnell, which takes no number: none."""
    network = model.pipeline.network
    if isinstance(network, FluxTransformer):
        return (network.told if network.is_told else 1.0,)
    if model.pipeline.flow:
        return (float(signature(type(model.pipeline.pipe).__call__).parameters["guidance_scale"].default),)
    return TextStage.guidance


def check_student(model: Any, stage: TextStage) -> None:
    """Raise a ValueError, before any work, for a teacher that a stage can't be used with."""
    network: TextNetwork = model.pipeline.network
    if getattr(network.net.config, "time_cond_proj_dim", None):
        raise ValueError(
            "the teacher is a student itself, which takes the guidance weight as an input, and no diffusion that could be guided; distill from "
            "the model that it was made of"
        )
    if stage.input and not isinstance(network, TextUNet):
        raise ValueError(
            f"input (--guidance-input): a {type(network).__name__} cannot take the guidance weight as an input; distill at one weight, or with --lora"
        )
    if network.is_told and len(stage.guidance) > 1:
        given = " ".join(f"{w:g}" for w in stage.guidance)
        raise ValueError(
            f"guidance = {given}, but this FLUX was distilled by guidance already and is told one weight; give one, such as {network.told:g}"
        )
    if stage.lora:
        check_rank(network, stage.lora)
    if not model.pipeline.flow:
        times = len(model.pipeline.denoiser.log_sigmas)
        if times % stage.points:
            near = min(
                (n for n in range(2, times + 1) if times % n == 0), key=lambda n: abs(n - stage.points)
            )
            raise ValueError(
                f"points = {stage.points}, but the schedule's {times:,} times cannot be cut into so many equal steps, and the grid would not begin "
                f"at its greatest noise; give a divisor of {times:,}, such as {near}"
            )


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
    """The student for a pipeline's teacher: its network with an adapter, or a copy of it that may take the guidance weight as an input.

    Raises:
        ValueError: where the network cannot take it.
    """
    check_student(model, stage)
    teacher: TextNetwork = model.pipeline.network
    if teacher.is_told:
        teacher.told = stage.guidance[0]  # which the student, a copy of it, is told as well
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
    """A copy of a UNet with an embedding of the weight next to the one of time; it has no effect at the start."""
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
        model: a teacher from :func:`~cdedu.pretrained.text_to_image.load_text_to_image`, whose texts the labels of ``data`` stand for;
            the last one is the empty text.
        data: latents and labels (:func:`~cdedu.data.captioned.encoded`).
        runtime, resume: as in :func:`~cdedu.training.distill`.
        student: one made by :func:`text_student`.

    Source: Luo et al. 2023 (LCM), algorithm 1; Luo et al. 2023 (LCM-LoRA).
    """
    runtime = runtime or Runtime()
    student = student or text_student(model, stage)
    state = begin(stage.recipe(name, data, model), "student", student, runtime, optimizer=ClippedAdamW)
    weights, known = stage.guidance, model.pipeline.network
    teacher = model.pipeline.denoiser
    if weights != (1.0,) and not known.is_told:
        one = weights[0] if len(weights) == 1 else None
        teacher = GuidedDenoiser(teacher, one, len(known.prompts) - 1)
    ranges = (weights[0], weights[1]) if len(weights) == 2 else None
    sigmas = model_sigmas(model, stage.points)

    def method(setting: Any, part: range) -> Tensor:
        return distillation(setting, part, teacher=frozen, distance=huber, sigmas=sigmas)

    frozen = runtime.freeze(teacher)
    return train(
        state, data, runtime, method, resume=resume, rate=lambda step: stage.target_rate, guidance=ranges
    )


class ClippedAdamW(torch.optim.AdamW):
    """LCM's optimizer: AdamW over the trained weights, with gradients clipped to a norm of 1."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__([p for p in parameters if p.requires_grad], lr=lr, weight_decay=1e-2)

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 1.0)
        return super().step(closure)
