"""The picture at the head of the index: `python scripts/book/cover.py` writes book/_static/cover.svg.

Paths of an exact teacher from noise to three blobs in one dimension, drawn against the noise level, and the jumps of a perfect
student from three of their beginnings. Its colours are those of the page, so it is put into the page as text.
"""

from pathlib import Path

import numpy as np
import torch

import cdedu
from cdedu.files import replacing
from cdedu.mixture import GaussianMixture

PATH = Path(__file__).resolve().parents[2] / "book" / "_static" / "cover.svg"
LEFT, RIGHT, MIDDLE, HEIGHT = 120, 600, 90, 68  # of the paths, in pixels of a picture of 720 × 180
TITLE = "From noise to data: a teacher follows curved paths in many small steps, a student leaps to their ends in one."


def main() -> None:
    """Paths from evenly spread noise; those of the student's leaps are the teacher's, too."""
    blobs = GaussianMixture(torch.tensor([-0.75, 0.25, 0.7]).double(), 0.05, torch.tensor([0.45, 0.25, 0.3]))
    sigmas = cdedu.karras_sigmas(49, sigma_max=4.0, rho=4.0).double()
    width = float((blobs.weights * (blobs.means[:, 0] ** 2 + 0.05**2)).sum().sqrt())
    share = torch.linspace(0.015, 0.985, 27).double()
    noise = sigmas[0] * torch.special.ndtri(share)[:, None]
    path: list[torch.Tensor] = []
    end = cdedu.sample_heun(blobs, noise, sigmas, to_zero=False, callback=lambda x, sigma: path.append(x))
    points = torch.stack([*path[: len(sigmas) - 1], end])[..., 0]  # (levels, paths)
    # Drawn at the size that data of that noise level has, so that all levels fit; near the data, without it.
    scale = (sigmas**2 + width**2).sqrt()[:, None] * 1.9
    rows = MIDDLE - HEIGHT * np.asarray(points / scale)
    columns = np.linspace(LEFT, RIGHT, len(sigmas))

    def line(y: np.ndarray) -> str:
        return "M" + " L".join(f"{a:.0f} {b:.1f}" for a, b in zip(columns, y, strict=True))

    paths = "".join(f'<path d="{line(rows[:, i])}"/>' for i in range(rows.shape[1]))
    dots = "".join(
        f'<circle cx="{columns[k]:.0f}" cy="{rows[k, i]:.1f}" r="2"/>'
        for i in (3, 12, 21)
        for k in range(0, len(sigmas), 3)
    )
    leaps = ""
    for i, lift in ((3, 34), (12, -42), (21, -46)):
        first, last = rows[0, i], rows[-1, i]
        leaps += (
            f'<path d="M{LEFT} {first:.1f} C {LEFT + 150} {first + lift:.1f}, {RIGHT - 150} {last + lift:.1f}, {RIGHT} {last:.1f}"/>'
            f'<circle cx="{LEFT}" cy="{first:.1f}" r="4.5"/><circle cx="{RIGHT}" cy="{last:.1f}" r="4.5"/>'
        )
    svg = f"""<svg class="cover" viewBox="0 0 720 180" role="img" aria-label="{TITLE}">
<g class="cover-data"><path d="{density(-1)}"/><path d="{density(1, blobs, width)}"/></g>
<g class="cover-teacher">{paths}{dots}</g>
<g class="cover-student">{leaps}</g>
<g class="cover-words"><text class="data" x="60" y="176">noise</text><text class="data" x="660" y="176">data</text>
<text class="student" x="360" y="16">student: one leap</text><text class="teacher" x="360" y="176">teacher: many small steps</text></g>
</svg>
"""
    with replacing(PATH) as temporary:
        temporary.write_text(svg, encoding="utf-8")


def density(side: int, blobs: GaussianMixture | None = None, width: float = 1.0) -> str:
    """The outline of the noise (left) or of the data (right), as high as they are likely."""
    z = np.linspace(-2.9, 2.9, 117) / 1.9 * 1.9
    if blobs is None:
        p = np.exp(-(z**2) / 2)
    else:
        x = z[:, None] * width
        w, m = np.asarray(blobs.weights), np.asarray(blobs.means[:, 0])
        p = (w * np.exp(-((x - m) ** 2) / (2 * 0.05**2))).sum(1) / w.max()
    edge = LEFT - 12 if side < 0 else RIGHT + 12
    shape = " L".join(
        f"{edge + side * 78 * a:.1f} {MIDDLE - HEIGHT * b / 1.9:.1f}" for a, b in zip(p, z, strict=True)
    )
    return f"M{edge} {MIDDLE + HEIGHT * 2.9 / 1.9:.1f} L{shape} L{edge} {MIDDLE - HEIGHT * 2.9 / 1.9:.1f} Z"


if __name__ == "__main__":
    main()
