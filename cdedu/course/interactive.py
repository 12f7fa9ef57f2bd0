"""Figures that move on the page itself, without a kernel: each is one piece of HTML that contains everything it needs.

Readers without JavaScript, and paper, get a still picture.
"""

import base64
import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from cdedu import plotting
from cdedu.networks import MLP
from cdedu.noise import karras_sigmas
from cdedu.samplers import sample_heun
from cdedu.teacher import Preconditioned


class Page:
    """HTML as a notebook shows it."""

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def explore(
    draw: Callable[[Any], Figure],
    values: Sequence[Any],
    label: str,
    alt: Callable[[Any], str],
    start: int = 0,
    shown: Callable[[Any], str] = str,
    play: float = 0,
) -> Any:
    """A picture with a slider over ``values``: an ipywidget if a kernel is running, drawn in advance for a page.

    Args:
        draw: makes the figure for a value.
        values: the values of the slider.
        label: name of the slider.
        alt: turns a value into a description of its picture.
        start: index of the value shown first, and in print.
        shown: turns a value into text.
        play: pictures per second. If given, a button plays them in a loop.

    Pages are made with the environment variable ``CDEDU_STATIC`` set; then all pictures are drawn now and stored.
    """
    if not 0 <= start < len(values):
        raise ValueError(f"explore: start = {start}, but there are {len(values)} values")
    if not os.environ.get("CDEDU_STATIC"):
        return _widget(draw, values, label, start, shown, play)
    frames = [_encoded(_small_png(draw(value))) for value in values]
    content: dict[str, Any] = {"frames": frames, "values": [*map(shown, values)], "alts": [*map(alt, values)]}
    button = '<button type="button">Play</button> ' if play else ""
    content |= {"play": play} if play else {}
    control = (
        f'<div class="cd-control" hidden>{button}<label>{escape(label)} <input type="range" min="0" max="{len(values) - 1}" step="1" '
        f'value="{start}"></label> <output>{escape(shown(values[start]))}</output></div>'
    )
    return _figure("cd-frames", frames[start], alt(values[start]), control, content, "frames.js")


def _widget(
    draw: Callable[[Any], Figure],
    values: Sequence[Any],
    label: str,
    start: int,
    shown: Callable[[Any], str],
    play: float,
) -> Any:
    import ipywidgets

    slider = ipywidgets.SelectionSlider(
        options=[(shown(value), value) for value in values], index=start, description=label
    )
    picture = ipywidgets.Image(value=_small_png(draw(values[start])), format="png")
    slider.observe(lambda change: setattr(picture, "value", _small_png(draw(change["new"]))), names="value")
    if not play:
        return ipywidgets.VBox([picture, slider])
    player = ipywidgets.Play(value=start, max=len(values) - 1, interval=round(1000 / play), repeat=True)
    player.observe(lambda change: setattr(slider, "index", change["new"]), names="value")
    return ipywidgets.VBox([picture, slider, player])


def plane(
    teacher: Preconditioned, student: Preconditioned, data: Tensor, start: tuple[float, float] = (0.6, 0.9)
) -> Page:
    """A noise point to drag in the plane: the teacher's path from it and the student's answer, computed on the page.

    Args:
        teacher, student: two-dimensional, over :class:`~cdedu.networks.MLP`.
        data: (n, 2), drawn in gray.
        start: the first noise point, in units of σ_max.

    Raises:
        ValueError: for networks that the page cannot compute.
    """
    for name, model in (("teacher", teacher), ("student", student)):
        network = model.network
        if not isinstance(network, MLP) or network.label is not None or model.noise_scale != 0.25:
            raise ValueError(
                f"plane: the {name} must be an MLP in two dimensions without labels, got {type(network).__name__}"
            )
    sigmas, extent = karras_sigmas(18), 2.6
    content = {
        "teacher": _numbers(teacher),
        "student": _numbers(student),
        "sigmas": sigmas.double().tolist(),
        "sigmaData": teacher.sigma_data,
        "data": _packed(data[:400]),
        "start": list(start),
        "extent": extent,
        "colors": {role: getattr(plotting, role.upper()) for role in ("teacher", "student", "data", "ink")},
    }
    z = torch.tensor([start])
    still = _encoded(_small_png(_still(teacher, student, data[:400], z, sigmas, extent)))
    alt = (
        "Two moons in gray, a noise point as a circle, the teacher's path from it to a moon as a blue line with dots, and the "
        "student's one-step answer as an orange dot close to the path's end."
    )
    live = (
        '<div class="cd-live" hidden style="max-width: 30rem; padding: 0.8rem 1rem; border: 1px solid var(--pst-color-border, #8888); '
        'border-radius: 0.4rem"><canvas tabindex="0" role="application" aria-label="Noise point: move it with the arrow keys, '
        'faster with Shift, or drag it" style="display: block; width: 100%; aspect-ratio: 1; touch-action: pan-y"></canvas>'
        '<p><button type="button">Throw 500 points</button></p>'
        '<div><label><input type="checkbox"> the student\'s answer from every point of the path</label></div>'
        '<output aria-live="polite"></output></div>'
    )
    return _figure("cd-plane", still, alt, live, content, "plane.js")


def _figure(kind: str, image: str, alt: str, live: str, content: dict[str, Any], script: str) -> Page:
    """One <figure>: its picture for paper, its controls, its data and its script. The name comes from the content, so that the same
    figure is the same text."""
    data = json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
    name = f"{kind}-{sha256(data.encode()).hexdigest()[:10]}"
    code = (files("cdedu") / "course" / "assets" / script).read_text(encoding="utf-8").strip()
    return Page(
        f'<figure class="{kind}" id="{name}"><img src="data:image/png;base64,{image}" alt="{escape(alt, quote=True)}">{live}'
        f'<script type="application/json">{data}</script>'
        f'<script>({code})(document.getElementById("{name}"))</script></figure>'
    )


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _small_png(figure: Figure) -> bytes:
    """The figure as a PNG of at most 64 colors, closed."""
    from PIL import Image

    file, small = BytesIO(), BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    Image.open(file).quantize(64, method=Image.Quantize.FASTOCTREE).save(small, format="png", optimize=True)
    return small.getvalue()


def _packed(x: Tensor) -> dict[str, Any]:
    """A tensor as 16-bit integers with one scale."""
    x = x.detach().double().flatten()
    scale = max(float(x.abs().max()), 1e-12) / 32767
    data = (x / scale).round().numpy().astype("<i2").tobytes()
    return {"scale": scale, "data": _encoded(data)}


def _numbers(model: Preconditioned) -> dict[str, Any]:
    linear = [layer for layer in model.network.modules() if isinstance(layer, nn.Linear)]
    layers = [{"weight": _packed(layer.weight), "bias": _packed(layer.bias)} for layer in linear]
    return {"layers": layers, "epsilon": model.sigma_min}


@torch.no_grad()
def _still(
    teacher: Preconditioned, student: Preconditioned, data: Tensor, z: Tensor, sigmas: Tensor, extent: float
) -> Figure:
    """What the page shows at first, for paper."""
    path: list[Tensor] = []
    x = sigmas[0] * z
    end = sample_heun(teacher, x, sigmas, to_zero=False, callback=lambda x, sigma: path.append(x))
    points = torch.cat([*path, end])[: len(sigmas)]
    shown = points / (sigmas[:, None] ** 2 + teacher.sigma_data**2).sqrt()
    figure, (ax,) = plotting.panels(1, size=4)
    plotting.scatter(ax, data / teacher.sigma_data, plotting.DATA, size=3)
    ax.plot(*np.asarray(shown.T), ".-", color=plotting.TEACHER)
    ax.plot(*(student(x, sigmas[0]) / teacher.sigma_data).T, "o", color=plotting.STUDENT, markersize=8)
    ax.plot(*z.T, "o", color=plotting.INK, fillstyle="none", markersize=11)
    ax.set(xlim=(-extent, extent), ylim=(-extent, extent))
    return figure
