"""Pictures with captions: one to three digits of a kind on a gray canvas, dark or bright, along one of its sides.

A caption names four attributes: how many, in what shade, which digit and where, as in "three dark sevens on the left".
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cdedu.data.small import digits

COUNTS = ("one", "two", "three")
SHADES = ("dark", "bright")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
NAMES = ("count", "shade", "digit", "place")
"""Of the four attributes, in the order of a caption."""
VALUES = (COUNTS, SHADES, DIGITS, PLACES)
SIZE, CELL = 32, 9
"""Pixels along a side of a canvas, and of the square that a digit is enlarged to."""


class Captioned(NamedTuple):
    """Canvases, and the attributes of what each one shows."""

    images: Tensor
    """(n, 3, 32, 32) in [−1, 1]; the three channels are one piece of memory, since the pictures are gray."""
    captions: list[str]
    attributes: Tensor
    """(n, 4) int64: the places of count, shade, digit and place in :data:`VALUES`."""


def caption(attributes: Tensor) -> str:
    """Put (4,) attributes into words.

    Raises:
        ValueError: for numbers out of range.
    """
    a = attributes.tolist() if attributes.shape == (4,) else []
    if len(a) != 4 or any(not 0 <= i < len(v) for i, v in zip(a, VALUES, strict=True)):
        want = ", ".join(f"{name} 0..{len(v) - 1}" for name, v in zip(NAMES, VALUES, strict=True))
        raise ValueError(f"caption: attributes = {attributes.tolist()}, but they are four numbers: {want}")
    count, shade, digit, place = (values[i] for i, values in zip(a, VALUES, strict=True))
    return f"{count} {shade} {digit if count == 'one' else plural(digit)} {place}"


def attributes_of(text: str) -> Tensor:
    """The inverse of :func:`caption`: (4,) int64.

    Raises:
        ValueError: for any other text.
    """
    found = _CAPTIONS.get(text)
    if found is None:
        raise ValueError(
            f"attributes_of: {text!r:.80} is no caption of a canvas; one reads 'three dark sevens on the left'"
        )
    return torch.tensor(found)


def plural(digit: str) -> str:
    """Of a digit's name."""
    return digit + ("es" if digit == "six" else "s")


def combinations() -> Tensor:
    """All the attributes there are, (240, 4)."""
    return torch.cartesian_prod(*(torch.arange(len(values)) for values in VALUES))


_CAPTIONS = {caption(row): row.tolist() for row in combinations()}


def canvases(n: int, seed: int, held_out: bool = False) -> Captioned:
    """Canvases with captions, every attribute drawn evenly. The same seed gives the same canvases on any machine, up to rounding.

    Each digit is one of :func:`~cdedu.data.digits` with the label, enlarged to 9 × 9. A canvas is gray (0), and ink of the strength
    i ∈ [0, 1] makes it i brighter or darker. The digits of a canvas stand in a row along its upper or lower side, or in a column along
    the left or right one, in the middle of that side up to a few pixels. Their squares have no pixel in common.

    Args:
        n: how many.
        seed: for everything that is drawn at random.
        held_out: use the held-out digits, which no other canvas uses.

    Raises:
        ValueError: unless the number of canvases is positive.
    """
    if n < 1:
        raise ValueError(f"canvases: n = {n}, but there must be at least one")
    g = torch.Generator().manual_seed(seed)
    attributes = torch.stack([torch.randint(len(values), (n,), generator=g) for values in VALUES], 1)
    count, shade, digit, place = attributes.T
    source = digits()
    x, labels = (source.test, source.test_labels) if held_out else (source.train, source.train_labels)
    assert labels is not None
    which = _pick(digit, labels, g)
    row, column = _corners(count + 1, place, g)
    ink = interpolate(x, (CELL, CELL), mode="bicubic").clamp(-1, 1)
    signed = (ink[which, 0] + 1) / 2 * torch.tensor([-1.0, 1.0])[shade][:, None, None, None]
    images = torch.zeros(n, SIZE, SIZE)
    everywhere, cell = torch.arange(n)[:, None, None], torch.arange(CELL)
    for i in range(len(COUNTS)):
        rows, columns = row[:, i, None, None] + cell[:, None], column[:, i, None, None] + cell
        images[everywhere, rows, columns] += signed[:, i] * (i <= count)[:, None, None]
    captions = [caption(a) for a in attributes]
    return Captioned(images[:, None].expand(-1, 3, -1, -1), captions, attributes)


def _pick(digit: Tensor, labels: Tensor, g: torch.Generator) -> Tensor:
    """For each canvas, (n,), three pictures of its digit among those with these labels: (n, 3) rows."""
    which = torch.empty(len(digit), len(COUNTS), dtype=torch.long)
    for label in range(10):
        rows = (labels == label).nonzero()[:, 0]
        here = digit == label
        which[here] = rows[torch.randint(len(rows), (int(here.sum()), len(COUNTS)), generator=g)]
    return which


def _corners(count: Tensor, place: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Upper left corners of the squares: rows and columns, (n, 3) each, of which the first ``count`` (n,) are used."""
    n = len(count)

    def draw(most: Tensor) -> Tensor:
        """Whole numbers from 0 to ``most``, both included."""
        return (torch.rand(most.shape, generator=g) * (most + 1)).long()

    # Along the side: squares with gaps of 1 to 4 pixels between them, about the middle. Free are 23, 14 or 5 pixels.
    free = SIZE - CELL * count
    gap = 1 + draw(torch.clamp(free // 2 - 1, max=3))
    slack = free - gap * (count - 1)
    sway = torch.clamp(slack // 2, max=3)
    start = slack // 2 - sway + draw(2 * sway)
    along = start[:, None] + torch.arange(len(COUNTS)) * (CELL + gap)[:, None]
    along = torch.where(torch.arange(len(COUNTS)) < count[:, None], along, 0)
    # Across it: within five pixels of the edge, each digit a little out of line.
    across = draw(torch.full((n,), 3))[:, None] + draw(torch.full((n, len(COUNTS)), 1))
    across = torch.where((place % 2 == 1)[:, None], SIZE - CELL - across, across)  # right and bottom
    beside = (place < 2)[:, None]
    return torch.where(beside, along, across), torch.where(beside, across, along)
