r"""Editing without training: a loop that puts the known part back after each jump of the student.

What you know about the picture is a set of linear measurements :math:`A x_0`, where A has orthonormal rows: some pixels, the mean over
the channels, the means of patches. With :math:`P = A^\top A`, the orthogonal projection onto what they fix, the step is

.. math:: x \leftarrow f\big(x + \sqrt{\tau^2 - \varepsilon^2}\,z,\ \tau\big), \qquad x \leftarrow P y + (x - P x),

so every answer has exactly the measurements of y. The loop is
:func:`~cdedu.samplers.sample_consistency`, with :class:`Projected` as the student.

Few steps are an approximation. With many at small τ the loop becomes Langevin's: for smooth data one step is, to order τ²,
:math:`u \leftarrow u + \tfrac{\tau^2}{2} \nabla_u \log p(u \mid Py) + \tau z` on the unknown part u, so it draws from the conditional
distribution.

Source: Song et al. 2023, algorithm 4 and appendix D.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cdedu.noise import SIGMA_MIN, Sigma, karras_sigmas, normal
from cdedu.samplers import sample_consistency
from cdedu.teacher import Denoiser, clipped

Levels = Sequence[float] | Tensor
SIGMAS = (80.0, *karras_sigmas(20, 0.2, 3.0).tolist())
"""Default noise levels of an edit: one jump from noise, then twenty levels at which the picture is decided and cleaned up."""


class Projected:
    r"""A student whose every answer x becomes :math:`P y + (x - P x)`. Arguments as in :func:`edit`."""

    def __init__(self, student: Denoiser, known: Tensor, project: Callable[[Tensor], Tensor]) -> None:
        self.student, self.project, self.fixed = clipped(student), project, project(known)
        self.sigma_min = float(getattr(student, "sigma_min", SIGMA_MIN))

    def __call__(self, x: Tensor, sigma: Sigma, /, **cond: Any) -> Tensor:
        x = self.student(x, sigma, **cond)
        return self.fixed + (x - self.project(x))


def edit(
    student: Denoiser,
    known: Tensor,
    project: Callable[[Tensor], Tensor],
    sigmas: Levels = SIGMAS,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    """Draw samples x (B, ...) with P x = P y, up to rounding: the loop behind inpainting, colorizing and super-resolution.

    Args:
        student: f, for data shaped like ``known``.
        known: y (B, ...); only P y matters.
        project: P, linear, (B, ...) → (B, ...), with P(P(x)) = P(x) and symmetric; not checked.
        sigmas: noise levels from large to small, one evaluation each.
        generator: draws all noise.

    Raises:
        ValueError: if ``known`` is not finite, or if levels rise, are not positive, or lie below ε.
    """
    f = Projected(student, known, project)
    return _redraw(f, f.fixed, sigmas, generator, **cond)


def _redraw(f: Denoiser, picture: Tensor, sigmas: Levels, generator: Generator | None, **cond: Any) -> Tensor:
    """The picture under noise of the first level, and from there the sampler's way."""
    if not picture.is_floating_point() or not picture.isfinite().all():
        raise ValueError("the picture must be finite floating-point numbers; put 0 where it is unknown")
    noise = float(max(sigmas, default=0.0)) * normal(picture.shape, generator, like=picture)
    return sample_consistency(f, picture + noise, sigmas, generator, **cond)


def inpaint(
    student: Denoiser,
    image: Tensor,
    mask: Tensor,
    sigmas: Levels = SIGMAS,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""Fill in what is missing: :math:`P x = m \odot x`. **Here 1 means known** and 0 missing; in the paper it is the reverse.

    Known pixels stay exactly as they are in ``image``, bit for bit.

    Args:
        image: (B, ...); any finite number where it is missing.
        mask: m, zeros and ones (or bool) of a shape that broadcasts to the image's.
        student, sigmas, generator: as in :func:`edit`.

    Raises:
        ValueError: for a mask of the wrong shape or with values other than 0 and 1.
    """
    try:
        m = mask.to(image).expand_as(image)
    except RuntimeError:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}, which does not fit images of {tuple(image.shape)}"
        ) from None
    if not ((m == 0) | (m == 1)).all():
        raise ValueError("the mask must hold 1 where the image is known and 0 where it is missing")
    return edit(student, image, lambda x: m * x, sigmas, generator, **cond)


def colorize(
    student: Denoiser,
    grey: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    sigmas: Levels = SIGMAS,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""Give color to a gray picture: :math:`(P x)_c = w_c \sum_k w_k x_k \,/\, \sum_k w_k^2`, with :math:`\sum_c w_c = 1`.

    The direction w of color space is known, and the directions orthogonal to it are free. The answer (B, C, H, W) has ``grey`` as its
    weighted mean, up to rounding.

    Args:
        gray: (B, 1, H, W), the weighted mean of the channels.
        weights: w, one for each channel of the student's images; scaled to sum 1. (.299, .587, .114) is video luma.
        student, sigmas, generator: as in :func:`edit`.

    Raises:
        ValueError: for a picture that is not (B, 1, H, W), or weights that are not positive.
    """
    if grey.ndim != 4 or grey.shape[1] != 1:
        raise ValueError(f"want a gray picture (B, 1, H, W), got {tuple(grey.shape)}")
    w = torch.as_tensor(weights, dtype=grey.dtype, device=grey.device).reshape(1, -1, 1, 1)
    if not (w > 0).all() or not w.isfinite().all():
        raise ValueError(f"weights = {tuple(weights)}, but all must be positive")
    w = w / w.sum()

    def project(x: Tensor) -> Tensor:
        return w * (w * x).sum(1, keepdim=True) / w.square().sum()

    # w/|w|² times gray is the shortest color with that gray value.
    return edit(student, w * grey / w.square().sum(), project, sigmas, generator, **cond)


def super_resolve(
    student: Denoiser,
    small: Tensor,
    factor: int,
    sigmas: Levels = SIGMAS,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""Make a small picture ``factor`` times as large: P replaces each patch of factor × factor pixels with its mean.

    The answer (B, C, factor·h, factor·w) has ``small`` as its means, up to rounding.

    Args:
        small: (B, C, h, w).
        factor: an integer, at least 2.
        student, sigmas, generator: as in :func:`edit`.

    Raises:
        ValueError: for a picture that is not (B, C, h, w), or a factor below 2.
    """
    if small.ndim != 4:
        raise ValueError(f"want small pictures (B, C, h, w), got {tuple(small.shape)}")
    if int(factor) != factor or factor < 2:
        raise ValueError(f"factor = {factor}, but it must be an integer of at least 2")
    means = partial(functional.avg_pool2d, kernel_size=int(factor))
    enlarge = partial(functional.interpolate, scale_factor=int(factor), mode="nearest")
    return edit(student, enlarge(small), lambda x: enlarge(means(x)), sigmas, generator, **cond)


def stroke_to_image(
    student: Denoiser,
    stroke: Tensor,
    sigma: float = 1.0,
    sigmas: Levels = (),
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    r"""From a rough drawing to a picture: :math:`x = f(\text{stroke} + \sigma z,\ \sigma)`, then further steps if wanted.

    The noise drowns any detail of the drawing smaller than σ, and the student redraws it. Nothing is projected.

    Args:
        stroke: (B, ...) a drawing in the range of the data.
        sigma: the first noise level: a small one keeps the drawing, a large one keeps little of it. The paper uses 5.38 for bedrooms.
        sigmas: further noise levels, below ``sigma``.
        student, generator: as in :func:`edit`.

    Raises:
        ValueError: for a drawing that is not finite, or levels that rise, are not positive, or lie below ε.

    Source: Meng et al. 2022 (SDEdit); Song et al. 2023, algorithm 5.
    """
    return _redraw(student, stroke, (sigma, *sigmas), generator, **cond)


def interpolate(
    student: Denoiser, start: Tensor, end: Tensor, n: int = 8, sigma: float = 80.0, **cond: Any
) -> Tensor:
    r"""Morph from one picture to another: one jump each from ``n`` noises on the arc between two noises.

    .. math:: x(u) = \frac{\sin((1-u)\,\omega)}{\sin\omega}\,a + \frac{\sin(u\,\omega)}{\sin\omega}\,b, \qquad 0 \le u \le 1,

    with ω the angle between a and b. On this arc the noises in between keep their size; on a straight line they wouldn't. The answer is
    (n, ...), from ``f(a, sigma)`` to ``f(b, sigma)``.

    Args:
        start, end: a and b, noise of standard deviation ``sigma``, (...) each, without a batch dimension.
        n: how many, both ends included, at least 2.

    Raises:
        ValueError: for noises of different shape or of size 0, opposite noises, or ``n`` below 2.
    """
    if start.shape != end.shape:
        raise ValueError(f"the noises have shapes {tuple(start.shape)} and {tuple(end.shape)}")
    if n < 2:
        raise ValueError(f"n = {n}, but the two ends alone are 2")
    a, b = (noise.flatten().cpu().double() for noise in (start, end))  # not every device has float64
    cosine = a @ b / (a.norm() * b.norm())
    if not cosine > -1 + 1e-9:
        raise ValueError("the noises must be finite, not 0, and not opposite to one another")
    angle = cosine.clamp(max=1 - 1e-12).acos()
    u = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    x = (((1 - u) * angle).sin() * a + (u * angle).sin() * b) / angle.sin()
    x = x.reshape(n, *start.shape).to(start.dtype).to(start.device)
    return sample_consistency(student, x, (sigma,), **cond)
