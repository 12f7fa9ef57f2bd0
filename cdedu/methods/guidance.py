r"""Guidance: a denoiser that follows its condition more closely than the data do, at the expense of variety.

Both kinds change the score by a multiple of :math:`\nabla_x \ln p(y \mid x)`, and by Tweedie's formula
:math:`D = x + \sigma^2\,\nabla_x \ln p_\sigma(x)` a change of the score is a change of the denoiser. The result is again a denoiser, so
it works wherever one does: in samplers, and in distillation, which saves a guided teacher's second call.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.data import Dataset
from cdedu.networks.guided import Weight, weight_like
from cdedu.noise import Sigma, sigma_like
from cdedu.teacher import Denoiser


def _take_range(wrapper: nn.Module, denoiser: Any) -> None:
    """A wrapper around a denoiser, with the same range of noise levels."""
    for name in ("sigma_min", "sigma_max"):
        if hasattr(denoiser, name):
            setattr(wrapper, name, getattr(denoiser, name))


class GuidedDenoiser(nn.Module):
    r"""Classifier-free guidance: one denoiser, called with the label and with the null label.

    .. math:: D_w(x, \sigma, y) = D(x, \sigma, \varnothing) + w\,\big(D(x, \sigma, y) - D(x, \sigma, \varnothing)\big)

    w = 0 ignores the label, w = 1 is the conditional denoiser, w > 1 guides. This w is diffusers' ``guidance_scale`` and the
    :math:`1 + w` of Ho & Salimans. Both calls are made as one, of twice the batch.

    Args:
        denoiser: ``D(x, sigma, labels=...)``, trained with the null label too.
        weight: w, a number; or None, in which case every call must give it: ``guidance=``, a number or (B,).
        null: the null label; by convention the last one, after the classes.

    Source: Ho & Salimans 2022, eq. 6.
    """

    def __init__(self, denoiser: Denoiser, weight: float | None, null: int) -> None:
        super().__init__()
        self.denoiser, self.weight, self.null = denoiser, weight, null
        _take_range(self, denoiser)

    def forward(self, x: Tensor, sigma: Sigma, *, labels: Tensor, guidance: Weight | None = None) -> Tensor:
        w = weight_like(self.weight if guidance is None else guidance, x)
        twice = sigma.repeat(2) if isinstance(sigma, Tensor) and sigma.ndim else sigma
        both = torch.cat([torch.full_like(labels, self.null), labels])
        answers, n = self.denoiser(torch.cat([x, x]), twice, labels=both), x.shape[0]
        without, with_label = answers[:n], answers[n:]  # a graph with a free batch size has no chunk(2)
        return (without + w * (with_label - without)).to(x.dtype)


def guided_for(student: Any, teacher: Any) -> GuidedDenoiser:
    """The teacher as this student met it: guided with the weight in the student's header, whose last label means none.

    Args:
        student, teacher: with headers, as ``cdedu.load`` gives them; the student was distilled at one weight.
    """
    (weight,) = student.header.guidance
    return GuidedDenoiser(teacher, weight, null=student.header.classes - 1)


class ClassifierGuidedDenoiser(nn.Module):
    r"""Classifier guidance: a denoiser that knows no labels, pushed by a classifier that can handle noise.

    .. math:: D_w(x, \sigma, y) = D(x, \sigma) + w\,\sigma^2\,\nabla_x \ln p(y \mid x, \sigma)

    w = 0 ignores the label, w = 1 is the conditional denoiser if both are exact, w > 1 guides.

    Args:
        denoiser: ``D(x, sigma)``.
        classifier: ``classifier(x, sigma)`` → logits (B, K), for *noisy* x.
        weight: as in :class:`GuidedDenoiser`.

    Source: Dhariwal & Nichol 2021, section 4.
    """

    def __init__(self, denoiser: Denoiser, classifier: Callable[..., Tensor], weight: float | None) -> None:
        super().__init__()
        self.denoiser, self.classifier, self.weight = denoiser, classifier, weight
        _take_range(self, denoiser)

    def forward(
        self, x: Tensor, sigma: Sigma, *, labels: Tensor, guidance: Weight | None = None, **cond: Any
    ) -> Tensor:
        w, s = weight_like(self.weight if guidance is None else guidance, x), sigma_like(sigma, x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            chosen = self.classifier(leaf, sigma).log_softmax(-1).gather(1, labels[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, leaf)
        return (self.denoiser(x, sigma, **cond) + w * s**2 * gradient).to(x.dtype)


class Labelled(nn.Module):
    """A denoiser with fixed labels, for code that knows nothing about labels: each batch gets the same ones, over and over.

    Args:
        denoiser: ``D(x, sigma, labels=..., **cond)``.
        labels: (K,), in any order: they are shuffled once, so that each batch gets its share of every class.
        cond: anything else to pass to each call.
    """

    def __init__(self, denoiser: nn.Module, labels: Tensor, **cond: Any) -> None:
        super().__init__()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.denoiser, self.labels, self.cond = denoiser, labels[order], cond
        _take_range(self, denoiser)

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        labels = self.labels[torch.arange(len(x)) % len(self.labels)].to(x.device)
        return self.denoiser(x, sigma, labels=labels, **self.cond)


def with_null_labels(data: Dataset, null: int, every: int = 10) -> Dataset:
    """Data with each sample repeated ``every`` times, once with the null label: training data for a guided denoiser.

    So a random draw drops one label in ``every``. Only for small data: the copies take memory.
    """
    if data.train_labels is None:
        raise ValueError(f"{data.name} has no labels, so none can be left out")
    labels = data.train_labels.repeat(every)
    labels[: len(data.train)] = null
    return replace(data, train=data.train.repeat(every, *[1] * (data.train.ndim - 1)), train_labels=labels)
