"""The picture at the head of the index, and the card that a shared link shows: `python scripts/book/cover.py`.

Paths of an exact teacher from noise to three blobs in one dimension, drawn against the noise level, and the jumps of a perfect
student from three of their beginnings. Its colors are those of the page, so it is put into the page as text: book/_static/cover.svg.
Where Chromium is installed, book/_static/card.png is drawn from it, 1200 × 630, in the page's typeface.
"""

from base64 import b64encode
from pathlib import Path

import numpy as np
import oxipng
import torch

import cdedu
from cdedu.files import replacing
from cdedu.mixture import GaussianMixture
from scripts.book.release import chromium, launched

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
    if chromium():
        write_card(svg)


CARD = """<!DOCTYPE html><meta charset="utf-8"><style>
@font-face {{ font-family: "Source Sans 3"; font-weight: 200 900; src: url({font}) format("woff2"); }}
* {{ margin: 0; box-sizing: border-box; }}
body {{ width: 1200px; height: 630px; padding: 84px 60px 0; background: #fff; color: #1a1a1a; font-family: "Source Sans 3"; }}
h1 {{ font-size: 76px; font-weight: 700; letter-spacing: -0.015em; line-height: 1.05; }}
p {{ margin-top: 14px; font-size: 34px; color: #444; }}
svg {{ display: block; width: 1080px; margin-top: 40px; }}
.cover-data path {{ fill: #6b6b6b; fill-opacity: 0.4; }}
.cover-teacher path {{ fill: none; stroke: #0072b2; stroke-opacity: 0.5; stroke-width: 1.1; }}
.cover-teacher circle {{ fill: #0072b2; }}
.cover-student path {{ fill: none; stroke: #b54e00; stroke-width: 2.6; stroke-linecap: round; }}
.cover-student circle {{ fill: #b54e00; }}
text {{ font-size: 17px; font-weight: 600; text-anchor: middle; }}
.data {{ fill: #555; }} .teacher {{ fill: #0072b2; }} .student {{ fill: #b54e00; }}
</style><h1>Consistency distillation</h1><p>From a diffusion model that takes many steps to a student that takes one.</p>{svg}"""


def write_card(svg: str) -> None:
    """The cover below the book's name."""
    font = PATH.parent / "vendor" / "source-sans-3" / "source-sans-3-latin-wght-normal.woff2"
    data = f"data:font/woff2;base64,{b64encode(font.read_bytes()).decode()}"
    with launched() as browser:
        tab = browser.new_page(viewport={"width": 1200, "height": 630})
        tab.set_content(CARD.format(font=data, svg=svg))
        tab.evaluate("() => document.fonts.ready")
        picture = oxipng.optimize_from_memory(tab.screenshot(), level=4)
    with replacing(PATH.with_name("card.png")) as temporary:
        temporary.write_bytes(picture)


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
