"""Networks: called as ``network(x, c_noise, labels=None)``; x (B, ...), c_noise (B,), result of x's shape."""

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """The network of the two-dimensional chapters: ``depth`` layers of ``width`` units that see x (B, dim), the noise level and, if there
    are ``classes``, a label."""

    def __init__(self, dim: int = 2, width: int = 128, depth: int = 3, classes: int = 0) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, 16) if classes else None
        self.register_buffer("frequencies", torch.arange(1.0, 9.0), persistent=False)
        sizes = [dim + 16 + 16 * bool(classes), *[width] * depth]
        layers: list[nn.Module] = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(size_in, size_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], dim))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        phase = c_noise[:, None] * self.frequencies
        inputs = [x, phase.cos().to(x.dtype), phase.sin().to(x.dtype)]
        if self.label is not None:
            inputs.append(self.label(labels))
        return self.layers(torch.cat(inputs, dim=1))


class UNet(nn.Module):
    """diffusers' ``UNet2DModel`` with the calling convention of this package. Give it 250 ln σ (``noise_scale=250``)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.net(x, c_noise, class_labels=labels, return_dict=False)[0]


def check_size(height: int, width: int, halvings: int) -> None:
    """Raise a ValueError, with the nearest sizes that work, for pictures that can't be halved this many times."""
    step = 2**halvings
    if height % step or width % step:
        below, above = ([n // step * step for n in (height + up, width + up)] for up in (0, step - 1))
        sizes = [f"{h} × {w}" for h, w in (below, above) if h and w]
        raise ValueError(
            f"pictures of {height} × {width} cannot be halved {halvings} times, as this network does; the next sizes that can: "
            f"{' and '.join(sizes)}"
        )


def unet(
    size: int | tuple[int, int],
    channels: int = 3,
    widths: tuple[int, ...] = (64, 128),
    layers: int = 1,
    attention: tuple[bool, ...] | None = None,
    classes: int = 0,
    dropout: float = 0.0,
) -> UNet:
    """A small image network, exportable as a diffusers pipeline.

    Args:
        size: of the image, height and width; a single number is both. Divisible by ``2 ** (len(widths) - 1)``.
        channels: of the image.
        widths: channels at each resolution, from fine to coarse, each divisible by 8.
        layers: residual blocks at each resolution.
        attention: for each resolution, whether it has self-attention; none by default. Heads have 32 channels, or all those of the
            narrowest such resolution.
        classes: number of labels, 0 for none.
    """
    height, width = (size, size) if isinstance(size, int) else size
    check_size(height, width, len(widths) - 1)
    if any(width % 8 for width in widths):
        raise ValueError(f"unet: widths = {widths}, but each must be divisible by 8")
    from diffusers import UNet2DModel

    attend = attention or (False,) * len(widths)
    # Heads of 32 channels, or one of all channels where there are fewer; the middle has attention where any resolution has.
    attended = (width for width, a in zip((*widths, widths[-1]), (*attend, any(attend)), strict=True) if a)
    head = min([32, *attended])
    net = UNet2DModel(
        sample_size=height if height == width else (height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attend),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attend)),
        add_attention=any(attend),
        attention_head_dim=head,
        norm_num_groups=8,
        num_class_embeds=classes or None,
        dropout=dropout,
    )
    return UNet(net)


def set_dropout(network: nn.Module, rate: float) -> None:
    """Set the rate of every dropout in a network."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(vars(module).get("dropout"), float):
            module.dropout = rate
