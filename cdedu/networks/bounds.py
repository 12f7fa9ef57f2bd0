"""Limits on the size of a network that a file describes: numbers and shapes are checked before anything is built from them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIZES, WIDTHS, CLASSES = (1, 4096), (1, 8192), (0, 1_000_000)
DEPTH, IMAGE_DEPTH, LEVELS = (1, 128), (1, 32), 8


def shown(value: Any) -> str:
    """A value from a file, for a message: anything complex or huge is shown only by its type."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length():,} bits"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"


def whole(place: str, value: Any, low: int, high: int) -> int:
    """The value, if it is a whole number from ``low`` to ``high``; otherwise a ValueError that names place, value and range."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{place} = {shown(value)}, but it must be a whole number from {low} to {high}")
    return value


def number(place: str, value: Any, low: float, high: float) -> float:
    """Like :func:`whole`, for any number except NaN."""
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(f"{place} = {shown(value)}, but it must be a number from {low:g} to {high:g}")
    return float(value)


def items(place: str, value: Any, low: int, high: int) -> Sequence[Any]:
    """The value, if it is a list of ``low`` to ``high`` items."""
    if not isinstance(value, list | tuple) or not low <= len(value) <= high:
        what = (
            f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | tuple) else shown(value)
        )
        raise ValueError(f"{place} is {what}, but it must be a list of {low} to {high}")
    return value


def check_shape(shape: Any, place: str = "shape") -> tuple[int, ...]:
    """The shape of one sample: a point, a cloud of points, an image, or a clip."""
    return tuple(
        whole(f"{place}[{i}]", n, *((1, 2**20) if i == 0 else SIZES))
        for i, n in enumerate(items(place, shape, 1, 4))
    )


def check_network(network: Any, shape: tuple[int, ...]) -> None:
    """Raises a ValueError if a :class:`~cdedu.recipes.Network` for samples of this shape has a number that no such network has."""
    image = network.kind not in ("mlp", "set")
    place = "recipe.network."
    whole(f"{place}width", network.width, *WIDTHS)
    whole(f"{place}depth", network.depth, *(IMAGE_DEPTH if image else DEPTH))
    whole(f"{place}classes", network.classes, *CLASSES)
    number(f"{place}dropout", network.dropout, 0, 1)
    for n in items(f"{place}multipliers", network.multipliers, 1, LEVELS):
        whole(f"{place}multipliers", n, 1, 64)
    for n in items(f"{place}attention", network.attention, 0, 16):
        whole(f"{place}attention", n, *SIZES)
    dimensions = {"mlp": 1, "set": 2}.get(network.kind, 3)
    if len(shape) != dimensions and network.kind != "foreign":
        raise ValueError(
            f"shape = {list(shape)}, but the network {network.kind} takes {dimensions} dimensions"
        )


def check_unet(config: Mapping[str, Any]) -> None:
    """Raises a ValueError if the configuration of a ``UNet2DModel`` has a number that no such network has."""
    levels = items("block_out_channels", config.get("block_out_channels"), 1, LEVELS)
    for width in levels:
        whole("block_out_channels", width, *WIDTHS)
    for key in ("down_block_types", "up_block_types"):
        for kind in items(key, config.get(key), len(levels), len(levels)):
            if not isinstance(kind, str) or len(kind) > 100:
                raise ValueError(f"{key} holds {shown(kind)}, but they must be names of blocks")
    size = config.get("sample_size")
    for n in size if isinstance(size, list | tuple) and len(size) == 2 else [size]:
        whole("sample_size", n, *SIZES)
    whole("layers_per_block", config.get("layers_per_block", 1), *IMAGE_DEPTH)
    for key in ("in_channels", "out_channels"):
        whole(key, config.get(key, 3), 1, 1024)
    # All others: those that become a size are no larger than these.
    more = {"num_class_embeds": CLASSES, "num_train_timesteps": (1, 100_000), "time_embedding_dim": WIDTHS}
    more |= dict.fromkeys(("attention_head_dim", "norm_num_groups", "attn_norm_num_groups"), WIDTHS)
    more |= {"downsample_padding": (0, 16)}
    for key, (low, high) in more.items():
        if config.get(key) is not None:
            whole(key, config[key], low, high)
    for key, (below, above) in {
        "norm_eps": (0, 1),
        "dropout": (0, 1),
        "mid_block_scale_factor": (0, 1e6),
        "freq_shift": (-1e6, 1e6),
    }.items():
        if config.get(key) is not None:
            number(key, config[key], below, above)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_fits(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError unless a file's tensors have exactly the names and shapes that the network needs."""
    wanted = shapes_of(network.state_dict())
    for name in sorted(shapes.keys() ^ wanted.keys()):
        raise ValueError(f"tensor {name!r:.80} is in only one of file and network")
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise ValueError(f"tensor {name!r:.80} has shape {shapes[name]}, its network wants {shape}")


def size_of(network: nn.Module) -> int:
    """How many numbers all tensors of a network hold."""
    return sum(math.prod(tensor.shape) for tensor in network.state_dict().values())


class _WithoutNumbers(TorchFunctionMode):
    """Leaves tensors as they are where they would be filled at random: for that alone torch would load its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Context in which networks are built with names and shapes, but without memory."""
    with torch.device("meta"), _WithoutNumbers():
        yield
