"""Figures in one style: transparent, mid-gray text, legible on white and on black and in gray; one color for each role."""

import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cdedu.files import replacing

TEACHER, STUDENT, TARGET, DATA, INK = "#0072B2", "#D55E00", "#009E73", "#8a8a8a", "#767676"
"""Colors of the roles, text and axes."""
FONT = Path(__file__).parent / "fonts" / "SourceSans3-Regular.ttf"
"""The typeface used on the book's pages."""
SHEET_DPI = 120

STYLE: dict[str, Any] = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.facecolor": "none",
    "savefig.transparent": True, "figure.dpi": 110, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "grid.color": INK, "grid.alpha": 0.25,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "font.family": ["Source Sans 3", "DejaVu Sans"], "font.size": 11.5, "axes.titlesize": 12, "image.cmap": "gray_r", "lines.linewidth": 1.8,
    "svg.hashsalt": "cdedu",
}  # fmt: skip


@cache
def _add_font() -> None:
    font_manager.fontManager.addfont(FONT)


def use_style() -> None:
    """Apply the style to all figures that follow; in a notebook, they have two pixels for each one shown, for high-density screens."""
    _add_font()
    plt.rcParams.update(STYLE)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from matplotlib_inline.config import InlineBackend

        InlineBackend.instance(parent=shell).figure_formats = {"retina"}


def panels(n: int, titles: Sequence[str] | None = None, size: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A row of ``n`` square panels without axes, for two-dimensional data."""
    use_style()
    figure, axes = plt.subplots(1, n, figsize=(size * n, size), squeeze=False)
    for i, ax in enumerate(axes[0]):
        ax.set(aspect="equal", xticks=[], yticks=[], xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
        ax.spines[:].set_visible(False)
        if titles:
            ax.set_title(titles[i])
    return figure, list(axes[0])


def scatter(
    ax: Axes, x: Tensor, color: str = DATA, label: str | None = None, size: float = 3, **kwargs: Any
) -> None:
    """Draw points (n, 2), at most 2,000 of them."""
    x = x.detach().cpu()[:2000]
    style = {"s": size, "color": color, "label": label, "linewidths": 0, "alpha": 0.7}
    ax.scatter(*x.T, **(style | kwargs))


def tiled(x: Tensor, columns: int, pad: int = 1) -> Tensor:
    """Arrange images (n, C, H, W) in [−1, 1] on one sheet, as matplotlib wants it: ink (H', W') in [−1, 1], or colors (H', W', 3) in [0,
    1]."""
    from torchvision.utils import make_grid

    x = x.detach().cpu().clamp(-1, 1)
    paper = -1.0 if x.shape[1] == 1 else 1.0
    blank = x.new_full((-len(x) % columns, *x.shape[1:]), paper)  # or one short row would make a narrow sheet
    x = torch.cat([x, blank])
    margin = pad if len(x) > 1 else 0  # a single picture is given none
    sheet = make_grid(x, columns, pad, pad_value=paper)[:, margin:, margin:]  # no margin at top and left
    return sheet[0] if x.shape[1] == 1 else (sheet.permute(1, 2, 0) + 1) / 2


def image_grid(ax: Axes, x: Tensor, columns: int = 8, title: str | None = None, pad: int = 1) -> None:
    """Show images (n, C, H, W) in [−1, 1] as one picture, row by row."""
    ax.imshow(tiled(x, columns, pad), vmin=-1, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)


def quality_of_calls(ax: Axes, part: dict[str, Any], metric: str) -> None:
    """Plot distance against evaluations, from a part of the record ``fair.json``: a teacher's samplers on EDM's grid (hollow, dashed) and
    on tuned grids (filled), and the same for its student; medians, with ranges for tuned ones. Anything far above the rest is cut off."""
    lines = (
        ("ddim", "untuned", None, TEACHER, "o--"),
        ("dpm_solver", "untuned", None, TEACHER, "^--"),
        ("heun", "untuned", None, TEACHER, "s--"),
        ("consistency", "untuned", None, STUDENT, "D--"),
        ("consistency", "tuned", "student", STUDENT, "D-"),
        ("ddim", "tuned", "DDIM", TEACHER, "o-"),
        ("dpm_solver", "tuned", "DPM-Solver++", TEACHER, "^-"),
        ("heun", "tuned", "Heun", TEACHER, "s-"),
    )
    for sampler, kind, label, color, style in lines:
        rows = sorted(
            ((int(k), row[kind][metric]) for k, row in part[sampler].items() if kind in row),
            key=lambda row: row[0],
        )
        calls, middle = [k for k, _ in rows], [row["median"] for _, row in rows]
        fill, width = (color, 1.8) if kind == "tuned" else ("none", 1.0)
        ax.plot(calls, middle, style, color=color, mfc=fill, lw=width, ms=5.5, label=label)
        if kind == "tuned":
            ax.vlines(
                calls, [row["min"] for _, row in rows], [row["max"] for _, row in rows], color=color, lw=1
            )
    floor = part["floor"][metric]["median"]
    ax.axhline(floor, color=DATA, ls=":", label="real data")
    ax.set(xscale="log", yscale="log", xlabel="calls", ylim=(0.85 * floor, 60 * floor))
    ax.set_xticks([1, 2, 4, 8, 16, 35], ["1", "2", "4", "8", "16", "35"])
    ax.minorticks_off()


def save_samples(path: str | Path, x: Tensor, title: str, classes: Sequence[str] = ()) -> None:
    """Write a picture of samples, images or points, atomically; images in a square of eight columns or more, never scaled down, and
    where classes take turns, each class in columns of its own."""
    path = Path(path)
    use_style()
    turns = max(1, len(classes))
    columns, inches = turns * math.ceil(max(8, math.sqrt(len(x))) / turns), 5.0
    if x.ndim == 4 and x.shape[1] in (1, 3):
        inches = max(inches, columns * (max(x.shape[2:]) + 1) / SHEET_DPI)
    figure, ax = plt.subplots(figsize=(inches, inches))
    if x.ndim == 4 and x.shape[1] not in (1, 3):  # clips or latents: a row each, of gray pictures
        image_grid(ax, x.flatten(0, 1)[:, None], columns=x.shape[1])
    elif x.ndim == 4:
        image_grid(ax, x, columns)
        if columns == turns:
            width = x.shape[-1] + 1
            ax.set_xticks([width * (i + 0.5) for i in range(turns)], classes, fontsize=7)
            ax.tick_params(axis="x", length=0, labeltop=True, labelbottom=False)
    elif x.ndim == 3:  # clouds of points from above, eight in a row
        i = torch.arange(len(x))
        place = 2.5 * torch.stack([i % 8, -(i // 8)], 1)
        ax.scatter(*(x[..., :2] + place[:, None]).flatten(0, 1).T, s=1, color=STUDENT, linewidths=0)
        ax.set(aspect="equal", xticks=[], yticks=[])
    else:
        scatter(ax, x, STUDENT)
        ax.set(aspect="equal")
    ax.set_title(title)
    try:
        with replacing(path) as temporary:
            kind = path.suffix[1:] or "png"
            figure.savefig(temporary, format=kind, facecolor="white", transparent=False, dpi=SHEET_DPI)
    finally:
        plt.close(figure)
