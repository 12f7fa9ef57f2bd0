"""A canvas to draw on while a model answers. It needs a running notebook kernel."""

from collections.abc import Callable
from io import BytesIO

import torch
from torch import Tensor


class Canvas:
    """A grid of pixels that you switch on and off with the mouse or the keyboard; ``answer`` is called after each change.

    Args:
        answer: takes the drawing (1, 1, size, size), −1 for paper and 1 for ink, and returns pictures (n, C, H, W) in [−1, 1].
        size: pixels on a side.
        start: an initial drawing, (size, size) or with leading ones; above 0 is ink.

    ``canvas.widget`` is what a notebook shows; ``canvas.drawing`` and ``canvas.pictures`` are its two tensors.

    Raises:
        ValueError: for a start of another size.
    """

    def __init__(
        self, answer: Callable[[Tensor], Tensor], size: int = 8, start: Tensor | None = None
    ) -> None:
        import ipywidgets

        ink = torch.zeros(size, size) if start is None else (start > 0).float()
        if ink.numel() != size * size:
            raise ValueError(
                f"Canvas: start has {ink.numel()} pixels, but a canvas of size {size} has {size**2}"
            )
        cell = ipywidgets.Layout(width="26px", height="26px", padding="0", margin="1px")
        self.answer, self.size = answer, size
        self.pixels = []
        for i, v in enumerate(ink.flatten()):
            place = f"row {i // size + 1}, column {i % size + 1}"
            self.pixels.append(ipywidgets.ToggleButton(value=bool(v), layout=cell, tooltip=place))
        self.view = ipywidgets.Image(format="png", layout=ipywidgets.Layout(height="120px"))
        clear = ipywidgets.Button(description="Clear")
        clear.on_click(lambda _: self.clear())
        self._show()
        for pixel in self.pixels:
            pixel.observe(self._show, names="value")
            pixel.observe(self._colour, names="value")
            self._colour({"owner": pixel})
        columns = ipywidgets.Layout(grid_template_columns=f"repeat({size}, 28px)")
        board = ipywidgets.GridBox(self.pixels, layout=columns)
        self.widget = ipywidgets.HBox([board, ipywidgets.VBox([clear, self.view])])

    @property
    def drawing(self) -> Tensor:
        """The current drawing, (1, 1, size, size)."""
        ink = torch.tensor([float(pixel.value) for pixel in self.pixels])
        return 2 * ink.reshape(1, 1, self.size, self.size) - 1

    def clear(self) -> None:
        """Clear the canvas and ask for one answer."""
        for pixel in self.pixels:
            with pixel.hold_trait_notifications():
                pixel.unobserve(self._show, names="value")
                pixel.value = False
            pixel.observe(self._show, names="value")
        self._show()

    def _show(self, change: object = None) -> None:
        with torch.no_grad():
            self.pictures = self.answer(self.drawing)
        self.view.value = png(self.pictures)

    def _colour(self, change: dict[str, object]) -> None:
        pixel = change["owner"]
        pixel.style.button_color = "#333333" if pixel.value else "#dddddd"  # type: ignore[attr-defined]


def png(x: Tensor) -> bytes:
    """Pictures (n, C, H, W) in [−1, 1], C one (ink) or three (colors), side by side as a PNG file."""
    from matplotlib.image import imsave

    from cdedu.plotting import tiled

    file, pixels = BytesIO(), tiled(x, len(x)).repeat_interleave(12, 0).repeat_interleave(12, 1)
    imsave(file, pixels.numpy(), cmap="gray_r", vmin=-1, vmax=1, format="png")
    return file.getvalue()
