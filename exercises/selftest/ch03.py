"""Prepared answers to the exercises of chapter 3."""

from decimal import Decimal
from itertools import pairwise

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong
from torch.nn import functional as F

from cdedu import euler_step

right("distil-calls", calls_pairs=4e5, calls_progressive=torch.tensor(12_000_000), calls_consistency=2e6)
wrong("distil-calls", "pairs: every use", calls_pairs=80_000_000)
wrong("distil-calls", "pairs: two calls a step", calls_pairs=800_000)
wrong("distil-calls", "pairs: walks not counted", calls_pairs=10_000)
wrong("distil-calls", "progressive: one round", calls_progressive=4_000_000)
wrong("distil-calls", "progressive: two rounds", calls_progressive=8_000_000)
wrong("distil-calls", "progressive: one call", calls_progressive=6_000_000)
wrong("distil-calls", "progressive: four rounds", calls_progressive=16_000_000)
wrong("distil-calls", "progressive: whole walks", calls_progressive=140_000_000)
wrong("distil-calls", "consistency: Heun", calls_consistency=4_000_000)
wrong("distil-calls", "consistency: whole walks", calls_consistency=80_000_000)
wrong("distil-calls", "consistency: rounds", calls_consistency=6_000_000)


@right("distil-temperature")
def as_in_the_library(scores, teacher_scores, temperature):
    p = F.softmax(teacher_scores / temperature, dim=1)
    return F.cross_entropy(scores / temperature, p, reduction="none")


@fragile("distil-temperature", "overflow")
def with_exponentials(scores, teacher_scores, temperature):
    p, q = (s.div(temperature).exp() for s in (teacher_scores, scores))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return torch.stack([-(a * b.log()).sum() for a, b in zip(p, q, strict=True)])


@wrong("distil-temperature", "hard")
def _(scores, teacher_scores, temperature):
    return -(teacher_scores.softmax(1) * scores.log_softmax(1)).sum(1)


@wrong("distil-temperature", "label")
def _(scores, teacher_scores, temperature):
    return F.cross_entropy(scores / temperature, teacher_scores.argmax(1), reduction="none")


@wrong("distil-temperature", "student not softened")
def _(scores, teacher_scores, temperature):
    return -((teacher_scores / temperature).softmax(1) * scores.log_softmax(1)).sum(1)


@wrong("distil-temperature", "teacher not softened")
def _(scores, teacher_scores, temperature):
    return -(teacher_scores.softmax(1) * (scores / temperature).log_softmax(1)).sum(1)


@wrong("distil-temperature", "multiplied")
def _(scores, teacher_scores, temperature):
    return -((teacher_scores * temperature).softmax(1) * (scores * temperature).log_softmax(1)).sum(1)


@wrong("distil-temperature", "divided too late")
def _(scores, teacher_scores, temperature):
    p, q = teacher_scores.softmax(1) / temperature, scores.softmax(1) / temperature
    return -(p * q.log()).sum(1)


@wrong("distil-temperature", "roles")
def _(scores, teacher_scores, temperature):
    return -((scores / temperature).softmax(1) * (teacher_scores / temperature).log_softmax(1)).sum(1)


@wrong("distil-temperature", "divergence")
def _(scores, teacher_scores, temperature):
    p, log_q = (teacher_scores / temperature).softmax(1), (scores / temperature).log_softmax(1)
    return F.kl_div(log_q, p, reduction="none").sum(1)


@wrong("distil-temperature", "softmax twice")
def _(scores, teacher_scores, temperature):
    p, q = (teacher_scores / temperature).softmax(1), (scores / temperature).softmax(1)
    return F.cross_entropy(q, p, reduction="none")


@wrong("distil-temperature", "sign")
def _(scores, teacher_scores, temperature):
    return ((teacher_scores / temperature).softmax(1) * (scores / temperature).log_softmax(1)).sum(1)


@wrong("distil-temperature", "squared temperature")
def _(scores, teacher_scores, temperature):
    return temperature**2 * as_in_the_library(scores, teacher_scores, temperature)


@wrong("distil-temperature", "mean over classes")
def _(scores, teacher_scores, temperature):
    return -((teacher_scores / temperature).softmax(1) * (scores / temperature).log_softmax(1)).mean(1)


@wrong("distil-temperature", "shape")
def _(scores, teacher_scores, temperature):
    return F.cross_entropy(scores / temperature, (teacher_scores / temperature).softmax(1))


def landing(teacher, x, sigmas):
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = euler_step(teacher, x, sigma, sigma_next)
    return x


@right("distil-steps")
def without_the_package(teacher, x, sigmas):
    y = x.double()
    for k in range(len(sigmas) - 1):
        y = y + (sigmas[k + 1] - sigmas[k]) * (y - teacher(y, sigmas[k])) / sigmas[k]
    slope = (y - x) / (sigmas[-1] - sigmas[0])
    return x - sigmas[0] * slope


@wrong("distil-steps", "end")
def _(teacher, x, sigmas):
    return landing(teacher, x, sigmas)


@wrong("distil-steps", "last guess")
def _(teacher, x, sigmas):
    return teacher(landing(teacher, x, sigmas), sigmas[-1])


@wrong("distil-steps", "first guess")
def _(teacher, x, sigmas):
    return teacher(x, sigmas[0])


@wrong("distil-steps", "two steps")
def _(teacher, x, sigmas):
    ratio = sigmas[2] / sigmas[0]
    return (landing(teacher, x, sigmas[:3]) - ratio * x) / (1 - ratio)


@wrong("distil-steps", "restarted")
def _(teacher, x, sigmas):
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        y = euler_step(teacher, x, sigma, sigma_next)
    ratio = sigmas[-1] / sigmas[0]
    return (y - ratio * x) / (1 - ratio)


@wrong("distil-steps", "not divided")
def _(teacher, x, sigmas):
    return landing(teacher, x, sigmas) - sigmas[-1] / sigmas[0] * x


@wrong("distil-steps", "upside down")
def _(teacher, x, sigmas):
    ratio = sigmas[0] / sigmas[-1]
    return (landing(teacher, x, sigmas) - ratio * x) / (1 - ratio)


@wrong("distil-steps", "neighbors")
def _(teacher, x, sigmas):
    ratio = sigmas[-1] / sigmas[-2]
    return (landing(teacher, x, sigmas) - ratio * x) / (1 - ratio)


right("distil-inherit", student_width=1 / 3)
right("distil-inherit", student_width=torch.tensor(0.33))
wrong("distil-inherit", "data", student_width=0.5)
wrong("distil-inherit", "one step of the teacher", student_width=0.003)
wrong("distil-inherit", "two steps of the teacher", student_width=0.17)
wrong("distil-inherit", "four steps of the teacher", student_width=0.2)
wrong("distil-inherit", "each round again", student_width=0.15)
wrong("distil-inherit", "half way", student_width=0.415)
wrong("distil-inherit", "too low", student_width=0.25)


@right("distil-answer")
def alone_and_in_company(make_ends):
    starts = 80 * torch.randn(20, 2)
    ends = make_ends(starts)
    for k in (0, 7, 19):
        assert (make_ends(starts[k : k + 1])[0] - ends[k]).norm() < 0.01


@wrong("distil-answer", "fresh noise")
def _(make_ends):
    assert make_ends(80 * torch.randn(100, 2)).shape == (100, 2)


@wrong("distil-answer", "fixed seed")
def _(make_ends):
    starts = 80 * torch.randn(100, 2)
    assert torch.allclose(make_ends(starts), make_ends(starts))


@wrong("distil-answer", "shuffled")
def _(make_ends):
    ends = make_ends(80 * torch.randn(1, 2).expand(50, 2))
    assert torch.allclose(ends, ends[:1], atol=1e-3)


@wrong("distil-answer", "refuses right")
def _(make_ends):
    starts = 80 * torch.randn(100, 2)
    assert torch.allclose(make_ends(starts), starts, atol=1e-3)


@wrong("distil-answer", "raised")
def _(make_ends):
    starts, ends = make_ends(100)
    assert starts.shape == ends.shape


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual(
    "distil-calls",
    calls_pairs=torch.tensor([400_000]),
    calls_progressive=np.float64(1.2e7),
    calls_consistency=Decimal(2_000_000),
)
unusual("distil-inherit", student_width=np.float32(0.33))


@unusual("distil-temperature")
def picture_by_picture(scores, teacher_scores, temperature):
    """In numpy and double, with logsumexp by hand."""
    out = []
    for a, b in zip(
        scores.double().numpy() / temperature, teacher_scores.double().numpy() / temperature, strict=True
    ):
        p = np.exp(b - b.max())
        log_q = a - a.max() - np.log(np.exp(a - a.max()).sum())
        out.append(-np.vdot(p / p.sum(), log_q))
    return torch.tensor(np.array(out))


@fragile("distil-temperature", "overflow")
def with_distributions(scores, teacher_scores, temperature):
    p, q = (torch.distributions.Categorical(logits=s / temperature) for s in (teacher_scores, scores))
    return torch.distributions.kl_divergence(p, q) + p.entropy()


@fragile("distil-temperature", "overflow")
def log_of_softmax(scores, teacher_scores, temperature):
    p = (teacher_scores / temperature).softmax(1)
    return -(p * (scores / temperature).softmax(1).log()).sum(1)


@fragile("distil-temperature", "overflow")
def exponentials_alone(scores, teacher_scores, temperature):
    e = (teacher_scores / temperature).exp()
    return -(e / e.sum(1, keepdim=True) * (scores / temperature).log_softmax(1)).sum(1)


@fragile("distil-temperature", "overflow")
def a_small_number_added(scores, teacher_scores, temperature):
    p, q = ((s / temperature).softmax(1) for s in (teacher_scores, scores))
    return -(p * (q + 1e-12).log()).sum(1)


@unusual("distil-steps")
def by_recursion_in_double(teacher, x, sigmas):
    def end(y, levels):
        if len(levels) == 1:
            return y
        guess = teacher(x=y, sigma=levels[0])
        return end(torch.lerp(guess, y, levels[1] / levels[0]), levels[1:])

    x, levels = x.double(), sigmas.double()
    return x + (end(x, levels) - x) * levels[0] / (levels[0] - levels[-1])


@fragile("distil-steps", "at zero")
def divided_by_the_ratio(teacher, x, sigmas):
    y = x
    for s, t in pairwise(sigmas):
        y = euler_step(teacher, y, s, t)
    r = sigmas[-1] / sigmas[0]
    return (y / r - x) / (1 / r - 1)


@unusual("distil-answer")
def alone_and_together(make_ends):
    """Every start alone, by its keyword, in numpy."""
    starts = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    together = make_ends(starts=starts).numpy()
    alone = np.concatenate([make_ends(starts=starts[k, None]).numpy() for k in range(6)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-3)


@fragile("distil-answer", "refuses some right")
def to_the_last_bit(make_ends):
    starts = 80 * torch.randn(100, 2)
    assert torch.equal(make_ends(starts.flip(0)).flip(0), make_ends(starts))
