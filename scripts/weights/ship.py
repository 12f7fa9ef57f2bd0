"""Put weights into `cdedu/weights`, file and hash together, so that `cdedu.load(name)` works from then on."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from cdedu import checkpoints
from cdedu.recipes import Recipe


def ship(
    name: str,
    model: nn.Module,
    recipe: Recipe | None,
    shape: Sequence[int],
    *,
    half: bool = False,
    **facts: Any,
) -> Any:
    """Save a model among the weights that come with the course, and its hash.

    Args:
        model, recipe, shape, facts: as in :func:`cdedu.checkpoints.save`.
        half: in half precision, which takes half the room.

    Returns:
        The model as readers will load it: what is measured should be what is shipped.
    """
    if half:
        model = copy.deepcopy(model).half()
    checkpoints.save(checkpoints.WEIGHTS / f"{name}.safetensors", model, recipe, shape, **facts)
    checkpoints.write_hashes(name)
    return checkpoints.load(name)
