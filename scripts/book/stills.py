"""What paper, and readers without JavaScript, get instead of the live planes of chapters 1 and 2.

    python scripts/book/stills.py

The same start as the page's: five points and a noisy one; one noise point and its walks. Writes book/_static/denoise.png and walk.png.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from cdedu import GaussianMixture, karras_sigmas, plotting, sample_euler, sample_heun

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
SIGMA_DATA = 0.5


def denoise() -> Figure:
    """Five points, a noisy one, and the mean of what may be behind it."""
    points = torch.tensor([[-1, -0.6], [-0.7, 0.9], [0.1, -0.9], [0.5, 0.4], [1.1, 0.9]])
    exact, x, sigma = GaussianMixture(points, 0.0), torch.tensor([[0.1, 0.35]]), 0.6
    side = torch.linspace(-1.4, 1.4, 13)
    grid = torch.cartesian_prod(side, side)
    r, guess = exact.posterior(x, sigma)[0][0], exact(x, sigma)[0]
    figure, (ax,) = plotting.panels(1, size=4.2)
    arrows = (exact(grid, sigma) - grid).T
    ax.quiver(
        *grid.T,
        *arrows,
        color=plotting.TEACHER,
        alpha=0.5,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
    )
    ax.scatter(*points.T, s=80 + 900 * r, color=plotting.DATA, zorder=3)
    for point, share in zip(points, r, strict=True):
        ax.annotate(
            f"{share:.0%}",
            point,
            (0, 14 + 12 * float(share)),
            textcoords="offset points",
            ha="center",
            color=plotting.INK,
            weight="bold",
        )
    ax.plot(*torch.stack([x[0], guess]).T, color=plotting.TEACHER, lw=2.5, zorder=4)
    ax.plot(*guess, "o", color=plotting.TEACHER, zorder=5)
    ax.plot(*x[0], "o", color=plotting.INK, fillstyle="none", ms=11, mew=2.5, zorder=5)
    ax.annotate(
        "x", x[0], (-14, 0), textcoords="offset points", va="center", color=plotting.INK, weight="bold"
    )
    words = {"textcoords": "offset points", "ha": "center", "color": plotting.TEACHER, "weight": "bold"}
    ax.annotate("best guess D(x, σ)", guess, (0, -18), **words)
    return figure


def walk() -> Figure:
    """From one noise point, Euler's and Heun's walk, and what hardly differs from the path itself."""
    means = torch.tensor([[-0.64, -0.32], [0.0, 0.64], [0.64, -0.32]], dtype=torch.float64)
    blobs = GaussianMixture(means, 0.2, torch.tensor([0.3, 0.4, 0.3]))
    start = 80 * torch.tensor([[1.8, 1.5]], dtype=torch.float64)
    figure, (ax,) = plotting.panels(1, size=4.2)
    plotting.scatter(ax, blobs.sample(500, torch.Generator().manual_seed(0)) / SIGMA_DATA, alpha=0.4)
    looks = {
        "the path itself": (sample_heun, 400, "-", plotting.DATA, 4),
        "Euler, 17 evaluations": (sample_euler, 17, "-o", plotting.TEACHER, 1.8),
        "Heun, 17 evaluations": (sample_heun, 9, "--s", plotting.TEACHER, 1.8),
    }
    for name, (sampler, n, style, color, width) in looks.items():
        path: list[np.ndarray] = []
        sampler(
            blobs,
            start,
            karras_sigmas(n, dtype=torch.float64),
            callback=lambda x, s, path=path: path.append(np.asarray(x[0]) / np.hypot(s, SIGMA_DATA)),
        )
        ax.plot(*np.stack(path).T, style, color=color, lw=width, ms=4, label=name)
    ax.plot(*start[0] / 80, "o", color=plotting.INK, fillstyle="none", ms=11, mew=2.5)
    ax.annotate("noise", start[0] / 80, (0, 12), textcoords="offset points", ha="center", color=plotting.INK)
    ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    ax.legend(loc="lower left")
    return figure


def main() -> None:
    for draw in (denoise, walk):
        path = STATIC / f"{draw.__name__}.png"
        draw().savefig(path, dpi=220)
        Image.open(path).quantize(64, method=Image.Quantize.FASTOCTREE).save(
            path, optimize=True, dpi=(220, 220)
        )
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
