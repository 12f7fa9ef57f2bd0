"""LoRA through peft: a low-rank difference for some matrices of a text network, trained while its own weights stay frozen."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.networks.text import FluxTransformer, TextNetwork, TextUNet, is_adapter

TARGETS: dict[type[TextNetwork], tuple[str, ...]] = {
    TextUNet: (
        "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
        "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
    ),
    FluxTransformer: ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj", "ff.net.2", "proj_mlp"),
}  # fmt: skip
"""The matrices that get an adapter. For a UNet they are those of diffusers' LCM-LoRA script, including convolutions."""
ADAPTER = "pytorch_lora_weights.safetensors"
"""The name of an adapter's file that ``load_lora_weights`` of diffusers looks for in a folder."""
USUAL = 64
"""The rank of diffusers' LCM-LoRA scripts."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def with_lora(
    network: TextNetwork, rank: int, seed: int = 0, targets: Sequence[str] | None = None
) -> TextNetwork:
    r"""A network with an adapter, where only the adapter is trained:

    .. math:: W + \frac{\alpha}{r}\,B A, \qquad A: r \times n, \quad B: m \times r, \quad \alpha = r

    B is 0 at the start, so the network answers as before. The frozen weights are those of ``network`` itself, not copies.

    Args:
        network: a diffusers network without an adapter.
        rank: r, from 1.
        seed: for A's random numbers.
        targets: names of the matrices; by default :data:`TARGETS`.

    Raises:
        ValueError: for a rank below 1 or above that of every matrix, or a network that has an adapter already.

    Source: Hu et al. 2021 (LoRA); Luo et al. 2023 (LCM-LoRA).
    """
    from peft import LoraConfig

    present = check_rank(network, rank, targets)
    adapted = copy.deepcopy(network, {id(p): p for p in network.parameters()})
    adapted.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore")
        net: Any = adapted.net
        net.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=present))
    adapted.adapted = True
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(is_adapter(name))
        if is_adapter(name):
            parameter.data = (
                parameter.data.float()
            )  # an adapter is trained in float32 whatever the frozen weights are
    return adapted


def check_rank(network: TextNetwork, rank: int, targets: Sequence[str] | None = None) -> list[str]:
    """Raise a ValueError where :func:`with_lora` could not; returns those of the targets that the network has.

    A rank above that of every matrix adds weights and no freedom, and one that was mistyped takes all memory. The usual one is let through
    in a tiny network, too, where it costs nothing.
    """
    if rank < 1:
        raise ValueError(f"lora = {rank}, but the rank of an adapter is at least 1")
    if network.adapted:
        raise ValueError(
            "the network has an adapter already; fuse it first, or start from the network without it"
        )
    found, most = set[str](), 0
    for key, weight in network.state_dict().items():
        own = {
            name
            for name in targets or TARGETS.get(type(network), _ATTENTION)
            if key.endswith(f"{name}.weight")
        }
        found |= own
        if own and weight.ndim > 1:
            most = max(most, min(len(weight), weight[0].numel()))
    if rank > max(most, USUAL):
        raise ValueError(
            f"lora = {rank:,}, but the largest matrix of this network has rank {most:,}; give at most that"
        )
    return sorted(found)


def adapter_of(network: TextNetwork) -> dict[str, Tensor]:
    """The adapter's weights, under the names that diffusers' ``load_lora_weights`` expects."""
    from peft.utils import get_peft_model_state_dict

    part = "unet" if isinstance(network, TextUNet) else "transformer"
    state = network.net.state_dict()
    return {
        f"{part}.{key}": t.detach().cpu().contiguous()
        for key, t in get_peft_model_state_dict(network.net, state_dict=state).items()
    }


def fused(network: TextNetwork) -> nn.Module:
    """A plain diffusers network with the adapter merged into its weights; ``network`` itself doesn't change."""
    net: Any = copy.deepcopy(network.net)
    net.fuse_lora()
    net.unload_lora()
    return net
