"""Networks of text-to-image models with the calling convention of this package. A prompt is a number, like a label elsewhere.

The number is a row in a table of :class:`Prompts`, so anything that draws from, guides or averages labeled networks works with these too.
"""

import copy
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.networks.guided import Weight, weight_like
from cdedu.networks.latent import guidance_embedding


class Chunks:
    """Tensors that act as one, concatenated along the first axis; each may be mapped from its own file."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts, self.starts = parts, [0, *accumulate(len(part) for part in parts)]
        self.shape, self.ndim = (self.starts[-1], *parts[0].shape[1:]), parts[0].ndim
        self.device = parts[0].device

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: Tensor) -> Tensor:
        places = [bisect_right(self.starts, int(i)) - 1 for i in index]
        return torch.stack(
            [self.parts[p][int(i) - self.starts[p]] for p, i in zip(places, index, strict=True)]
        )


class Prompts:
    """Embeddings of texts, by number. The last one is the text that means "no text", which guidance is measured against.

    Args:
        hidden: (K, L, C) a vector for each token.
        pooled: (K, P) a vector for the whole text, if the family has one.
        texts: K strings.

    The tensors may be mapped from a file; rows are copied where they're needed. Copies of a network share one table.
    """

    def __init__(
        self, hidden: Tensor | Chunks, pooled: Tensor | Chunks | None = None, texts: tuple[str, ...] = ()
    ) -> None:
        if hidden.ndim != 3 or (pooled is not None and (pooled.ndim != 2 or len(pooled) != len(hidden))):
            shapes = tuple(hidden.shape), None if pooled is None else tuple(pooled.shape)
            raise ValueError(
                f"Prompts: shapes {shapes[0]} and {shapes[1]}; want (K, L, C) and (K, P) or None"
            )
        self.hidden, self.pooled, self.texts = hidden, pooled, texts

    def __len__(self) -> int:
        return len(self.hidden)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Prompts":
        return self

    def rows(self, labels: Tensor, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden and pooled embeddings of the labels (B,), on the device and in the precision of ``like``."""
        index = labels.to(self.hidden.device)
        pooled = None if self.pooled is None else self.pooled[index].to(like)
        return self.hidden[index].to(like), pooled


class TextNetwork(nn.Module):
    """A diffusers network that reads text: called as ``network(x, time, labels=..., guidance=...)`` with labels of ``prompts``.

    Subclasses implement :meth:`call` for their family. If only an adapter is trained (:mod:`cdedu.networks.lora`), copies share the
    frozen weights, and ``state_dict`` leaves them out.
    """

    scale = 1.0
    """The unit of the network's time: 1 for the steps of a schedule, 1000 for the t of a flow."""

    told: float
    """The guidance weight that the network gets as a number, if it :attr:`is_told` one."""

    def __init__(self, net: nn.Module, prompts: Prompts | None = None) -> None:
        super().__init__()
        self.net, self.prompts, self.adapted = net, prompts, False
        self._register_state_dict_hook(_leave_out_frozen)
        self.register_load_state_dict_pre_hook(_put_in_frozen)

    def forward(
        self, x: Tensor, time: Tensor, labels: Tensor | None = None, guidance: Weight | None = None
    ) -> Tensor:
        if self.prompts is None or labels is None:
            raise ValueError(
                f"{type(self).__name__}: what is to be drawn? Set texts first, model.pipeline.read([...]), and give labels="
            )
        hidden, pooled = self.prompts.rows(labels, x)
        return self.call(x, self.scale * time, hidden, pooled, guidance)

    @property
    def is_told(self) -> bool:
        """Whether the network was guidance-distilled and takes the weight as a number, so that no further guidance is needed."""
        return False

    def call(
        self, x: Tensor, time: Tensor, hidden: Tensor, pooled: Tensor | None, guidance: Weight | None
    ) -> Tensor:
        """The answer of this family's network."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextNetwork":
        if self.adapted:
            memo |= {id(p): p for name, p in self.named_parameters() if not is_adapter(name)}
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        vars(made).update({key: copy.deepcopy(value, memo) for key, value in vars(self).items()})
        return made


def is_adapter(name: str) -> bool:
    """Whether a weight of this name belongs to a LoRA adapter."""
    return "lora_" in name


def _leave_out_frozen(
    network: TextNetwork, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    if network.adapted:
        for name in [key for key in state if key.startswith(prefix) and not is_adapter(key)]:
            del state[name]


def _put_in_frozen(network: TextNetwork, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if network.adapted:
        tensors = (*network.named_parameters(), *network.named_buffers())
        state |= {prefix + name: t.detach() for name, t in tensors if not is_adapter(name)}


class TextUNet(TextNetwork):
    """``UNet2DConditionModel``: Stable Diffusion 1 and 2, SDXL, and their latent consistency models."""

    def call(
        self, x: Tensor, time: Tensor, hidden: Tensor, pooled: Tensor | None, guidance: Weight | None
    ) -> Tensor:
        more: dict[str, Any] = {}
        config: Any = self.net.config
        if config.time_cond_proj_dim:
            omega = weight_like(guidance, x).flatten().expand(len(x)) - 1
            more["timestep_cond"] = guidance_embedding(omega, config.time_cond_proj_dim).to(x)
        if pooled is not None:
            height, width = (side * 8 for side in x.shape[2:])
            ids = torch.tensor([height, width, 0, 0, height, width], dtype=x.dtype, device=x.device)
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.expand(len(x), 6)}
        return self.net(x, time, encoder_hidden_states=hidden, return_dict=False, **more)[0]


class TextTransformer(TextNetwork):
    """``SD3Transformer2DModel``: Stable Diffusion 3 and 3.5."""

    scale = 1000.0

    def call(
        self, x: Tensor, time: Tensor, hidden: Tensor, pooled: Tensor | None, guidance: Weight | None
    ) -> Tensor:
        return self.net(x, hidden, pooled, time, return_dict=False)[0]


class FluxTransformer(TextNetwork):
    """``FluxTransformer2DModel``: latents go in as 2 × 2 patches, together with the position of each patch. It converts t to thousandths
    itself."""

    told = 3.5
    """The guidance weight that a network which was distilled by guidance, such as FLUX.1 dev, gets as a number: diffusers' ``guidance_scale``,
    with its pipeline's default. It costs no second call. A student keeps its teacher's."""

    @property
    def is_told(self) -> bool:
        """Whether this network takes such a number: FLUX.1 dev does, FLUX.1 schnell does not."""
        config: Any = self.net.config
        return bool(config.guidance_embeds)

    def call(
        self, x: Tensor, time: Tensor, hidden: Tensor, pooled: Tensor | None, guidance: Weight | None
    ) -> Tensor:
        batch, channels, height, width = x.shape
        patches = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        places = torch.zeros(height // 2, width // 2, 3, device=x.device, dtype=x.dtype)
        places[..., 1] = torch.arange(height // 2, device=x.device)[:, None]
        places[..., 2] = torch.arange(width // 2, device=x.device)
        weight = torch.full((batch,), self.told, device=x.device, dtype=x.dtype) if self.is_told else None
        out = self.net(
            hidden_states=patches.reshape(batch, height * width // 4, channels * 4),
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            timestep=time,
            img_ids=places.view(-1, 3),
            txt_ids=torch.zeros(hidden.shape[1], 3, device=x.device, dtype=x.dtype),
            guidance=weight,
            return_dict=False,
        )[0]
        out = out.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(batch, channels, height, width)
