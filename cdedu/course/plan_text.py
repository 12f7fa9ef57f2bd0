"""What distilling a text-to-image pipeline needs: the same count as in :mod:`cdedu.course.plan`, on the networks of Stable Diffusion and FLUX."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from cdedu.course.plan import (
    SHARE,
    USABLE,
    Footprint,
    Plan,
    Precision,
    _card,
    _check,
    _footprint,
    _local_name,
    _no_numbers,
)
from cdedu.methods.text import TextStage
from cdedu.networks import bounds
from cdedu.networks.lora import with_lora
from cdedu.networks.text import FluxTransformer, Prompts, TextNetwork, TextTransformer, TextUNet


def _sd15() -> tuple[TextNetwork, tuple[int, int, int], tuple[int, int], int]:
    from diffusers import UNet2DConditionModel

    return (
        TextUNet(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)),
        (4, 64, 64),
        (77, 768),
        0,
    )


def _sdxl() -> tuple[TextNetwork, tuple[int, int, int], tuple[int, int], int]:
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return TextUNet(net), (4, 128, 128), (77, 2048), 1280


def _sd3() -> tuple[TextNetwork, tuple[int, int, int], tuple[int, int], int]:
    from diffusers import SD3Transformer2DModel

    net = SD3Transformer2DModel(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
        out_channels=16,
    )
    return TextTransformer(net), (16, 128, 128), (333, 4096), 2048


def _flux() -> tuple[TextNetwork, tuple[int, int, int], tuple[int, int], int]:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer(FluxTransformer2DModel(guidance_embeds=True)), (16, 128, 128), (512, 4096), 768


MODELS: dict[str, Callable[[], Any]] = {"sd15": _sd15, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux}
"""Stable Diffusion 1.5 at 512 × 512; SDXL, Stable Diffusion 3 (medium) and FLUX.1 at 1024 × 1024."""


@cache
def adapter_size(model: str, rank: int) -> int:
    """Numbers in an adapter of this rank."""
    with bounds.without_memory():
        network = with_lora(MODELS[model]()[0], rank)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@cache
def text_footprint(model: str, half: bool, checkpointing: bool) -> Footprint:
    """The network of a model in training on one picture. With an adapter it keeps a little less, which is not counted."""
    with _no_numbers(half) as device:
        network, shape, hidden, pooled = MODELS[model]()
        if checkpointing:
            network.net.enable_gradient_checkpointing()  # type: ignore[operator]
        network.train()
        # In half precision a GPU never keeps attention's matrix; left alone, tensors without numbers would.
        attention = patch.object(F, "scaled_dot_product_attention", _flash) if half else nullcontext()

        def forward(n: int) -> Tensor:
            network.prompts = Prompts(
                torch.zeros(1, *hidden, device=device),
                torch.zeros(1, pooled, device=device) if pooled else None,
            )
            x, labels = torch.zeros(n, *shape, device=device), torch.zeros(n, dtype=torch.long, device=device)
            with attention:
                return network(x, torch.zeros(n, device=device), labels)

        return _footprint(network, forward)


def _flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Attention as PyTorch does it on a GPU in half precision, without masks."""
    half = (t.to(torch.bfloat16) for t in (query, key, value))
    return torch.ops.aten._scaled_dot_product_flash_attention(*half)[0]


def plan_text(
    model: str,
    gpu: str | None = None,
    gpus: int = 1,
    *,
    lora: int = 64,
    steps: int = TextStage.steps,
    batch: int = TextStage.batch,
    checkpointing: bool = False,
    target_rate: float = 0.0,
    share: float | None = None,
    price: float | None = None,
    precision: Precision = "bf16",
    peak: float | None = None,
    memory: float | None = None,
) -> Plan:
    """Estimate what the distillation of a model needs, once its latents and texts are encoded.

    One training picture costs six forward passes: three of the student with its gradients, one of the target, two of the guided teacher.
    With an adapter, student and teacher share the frozen weights, which are kept in bf16 where that is the precision. Autoencoder and
    text encoders are not counted: they leave the GPU once everything is encoded.

    Args:
        model: one of :data:`MODELS`.
        lora: rank of the adapter; 0 trains the whole network.
        steps, batch: of the run.
        checkpointing: compute activations twice to save memory; one more forward pass.
        target_rate: of the target's average, which takes memory of its own where it is not 0.
        gpu, gpus, share, price, precision, peak, memory: as for :func:`~cdedu.course.plan.plan`.

    Raises:
        ValueError: as there.
    """
    if model not in MODELS:
        raise ValueError(f"model = {model!r} is not known; choose one of {', '.join(MODELS)}")
    _check(gpus, share, price, precision=(precision, Precision))
    if not 0 <= target_rate < 1:
        raise ValueError(f"target_rate = {target_rate}, but it must be at least 0 and below 1")
    gpu, card = _card(_local_name() if gpu is None else gpu, peak, memory)
    notes = list[str]()
    if precision == "bf16" and not card.bf16:
        precision = "fp16"
        notes.append(f"A {gpu} has no bf16; this is a plan for fp16.")
    half = precision != "fp32"
    net = text_footprint(model, half, checkpointing)
    notes.append(
        f"The teacher has {net.parameters / 1e6:,.0f} M parameters. Not counted: the encoding of pictures and texts, which is done once."
    )
    trained = adapter_size(model, lora) if lora else net.parameters
    flops = (6 + checkpointing) * net.flops
    share = SHARE if share is None else share
    rate = gpus * share * (card.half if half else card.single) * 1e12 / flops
    frozen = 2 if lora and precision == "bf16" else 4
    parts = {
        "frozen weights of the teacher": net.parameters * frozen,
        "weights that are trained": 4 * trained,
        "gradients": 4 * trained,
        "optimizer, two moments": 8 * trained,
        "average of the weights": 4 * trained,
        "average of the target": 4 * trained * bool(target_rate),
        "gradients on their way between GPUs": 4 * trained if gpus > 1 else 0,
        "weights in half precision": (2 * trained + (2 * net.parameters if frozen == 4 else 0)) * half,
    }
    fixed = {part: size for part, size in parts.items() if size}
    mine = max(1, batch // gpus)
    room = int(max(0.0, USABLE * card.memory * 1e9 - sum(fixed.values())) // max(net.activations, 1))
    micro_batch = min(mine, room)
    if not micro_batch:
        notes.append(_advice(fixed, card.memory, lora, checkpointing))
    images = micro_batch or 1
    sizes = fixed | {f"activations of {images} pictures": images * net.activations}
    what = f"{model}, " + (f"LoRA {lora}" if lora else "whole")
    return Plan(
        what, "student", gpu, gpus, precision, card, share, trained, steps * batch, flops, 0, rate, tuple(sizes.items()), micro_batch,
        math.ceil(mine / images), price, tuple(notes),
    )  # fmt: skip


def _advice(fixed: dict[str, int], memory: float, lora: int, checkpointing: bool) -> str:
    """What to do where not one picture fits, by what takes the room."""
    room, (most, size) = USABLE * memory * 1e9, max(fixed.items(), key=lambda item: item[1])
    text = f"Not one picture fits into {memory:g} GB, of which {room / 1e9:.1f} are usable."
    frozen = fixed.get("frozen weights of the teacher", 0)
    ways = []
    if not lora:
        ways.append("an adapter (--lora 64) in place of the whole network" if frozen < room else "")
    elif frozen < room <= sum(fixed.values()):
        ways.append("a smaller --lora")
    if not checkpointing and sum(fixed.values()) < room:
        ways.append("--checkpointing")
    ways = [*filter(None, ways), "a larger card"]
    return f"{text} Most of it would be {most}, {size / 1e9:.1f} GB. What helps: {', or '.join(ways)}."
