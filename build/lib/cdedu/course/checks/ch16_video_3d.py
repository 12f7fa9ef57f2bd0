"""The exercises of chapter 16: frames that belong together, a shape that is pulled by a teacher of pictures, and a score of captions."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import agree, call, exercise, near, number, spots

Denoiser = Callable[[Tensor, Tensor], Tensor]


@exercise(
    "video-group",
    "Noise in groups",
    "predict",
    "medium",
    10,
    answers=("level",),
    hints=(
        "How many independent looks at the picture does the clip hold? Frames with the same noise are copies of each other.",
        "Average one frame of each group. What is the standard deviation of the noise that is left?",
        "With n independent looks the noise of the mean is σ/√n. It may be 0.8.",
    ),
)
def _(level: object, g: Generator) -> str:
    near(
        number(level),
        0.8 * 5**0.5,
        {
            "all frames": (4.0, "25 independent frames would give this. Five frames with one draw of noise say the same thing five times."),
            "other way": (0.8 / 5**0.5, "More looks make the clip readable at more noise, not at less: multiply by the root."),
            "one look": (0.8, "So it would be if all frames had the same noise. Here there are five draws."),
            "no root": (20.0, "Averages reduce the variance by their number, the standard deviation by its root."),
            "other way, all": (0.16, "25 looks, and in the wrong direction: how many draws of noise are there, and is the clip easier to read or harder?"),
        },
        tolerance=0.03,
    )  # fmt: skip
    return "Five looks, and a factor of √5."


def _gradient(
    render: Callable[[Tensor], Tensor], teacher: Callable[[Tensor, float], Tensor], theta: Tensor, tau: float, noise: Tensor,
    *, kind: str = "",
) -> Tensor:  # fmt: skip
    """Score distillation, or one of the mistakes that are made with it."""
    theta = theta.detach().requires_grad_()
    x = render(theta)
    if kind == "through":
        loss = (x - teacher(x + tau * noise, tau)).square().sum() / (2 * tau)
        return torch.autograd.grad(loss, theta)[0]
    with torch.no_grad():
        noisy = x if kind == "clean" else x + (1 if kind == "plain noise" else tau) * noise
        guess = teacher(noisy, 1.0 if kind == "level" else tau)
        towards = {
            "scale": x - guess,
            "square": (x - guess) / tau**2,
            "noise": (x + tau * noise - guess) / tau,
            "sign": (guess - x) / tau,
            "mean": (x - guess) / tau / len(x),
            "double": 2 * (x - guess),
        }.get(kind, (x - guess) / tau)
    return torch.autograd.grad(x, theta, towards)[0]


@exercise(
    "points-score",
    "Score distillation in this book's notation (paper reading)",
    "code",
    "medium",
    20,
    answers=("sds",),
    hints=(
        "First with pencil: the teacher's noise is what is left of x + τ·noise when its guess D is taken away, divided by τ. Subtract the noise that was put in.",
        "ε̂ − ε = (x − D)/τ. It is a constant vector as far as θ is concerned: compute it under torch.no_grad().",
        "The product with ∂x/∂θ is torch.autograd.grad(x, theta, vector)[0], with theta = theta.detach().requires_grad_() before the render.",
    ),
)
def _(sds: object, g: Generator) -> str:
    base, mix = torch.randn(4, 2, generator=g), torch.randn(3, 2, generator=g)
    theta, noise = torch.randn(3, generator=g), torch.randn(4, 2, generator=g)
    tau = 0.3 + 0.3 * float(torch.rand(1, generator=g))  # far from 1, where a forgotten τ does not show

    def render(theta: Tensor) -> Tensor:
        return base + torch.sin(theta @ mix.to(theta.dtype)) + theta[0] ** 2

    def teacher(x: Tensor, tau: float | Tensor) -> Tensor:
        return torch.tanh(x) / (1 + torch.as_tensor(tau).reshape(-1)[0] ** 2)

    truth = _gradient(render, teacher, theta, tau, noise)
    says = {
        "through": "The teacher is differentiated as well: compute its guess under torch.no_grad(). That factor is the one that the paper leaves out.",
        "clean": "The teacher is given the clean picture. Noise goes onto it first: x + τ·noise.",
        "scale": "x − D lacks a factor: ε̂ is (x + τ·noise − D) divided by τ.",
        "square": "One τ too many: (x − D)/τ² is the score's difference, and the paper has that of two noises.",
        "noise": "That is ε̂ alone. Subtract the noise that was put in.",
        "sign": "The sign is turned round: parameters go against the gradient, so it must point away from the guess.",
        "mean": "That is the mean over the pictures; the sum is wanted.",
        "plain noise": "The noise is put in with standard deviation 1. It has τ: x + τ·noise.",
        "level": "The teacher is asked at another level. It must be told τ.",
        "double": "That is the gradient of ‖x − D‖², with a factor 2 and no 1/τ. Hand (x − D)/τ to autograd.grad instead.",
    }
    wrong = {
        kind: (_gradient(render, teacher, theta, tau, noise, kind=kind), text) for kind, text in says.items()
    }
    agree(call(sds, render, teacher, theta, tau, noise), truth, wrong, tolerance=1e-3, what="The gradient")
    return "Up to its weight it is the second term of ADD, with a renderer for a student."


def _folded(denoiser: Denoiser, clips: Tensor, sigma: Tensor, *, defect: str = "") -> Tensor:
    """The wrapper of the exercise, or one with a defect."""
    b, t = clips.shape[:2]
    levels = {"levels": sigma.repeat(t), "one level": sigma[:1].expand(b * t)}.get(
        defect, sigma.repeat_interleave(t)
    )
    frames = clips
    if defect == "fold":
        frames, levels = clips.transpose(0, 1), sigma.repeat(t)
    out = denoiser(frames.reshape(b * t, 1, *clips.shape[2:]), levels).reshape(clips.shape)
    changed = {"last": torch.cat([out[:, :-1], clips[:, -1:]], 1), "turned": out.flip(1)}
    return changed.get(defect, out)


def _by_time(denoiser: Denoiser, clips: Tensor, sigma: Tensor) -> Tensor:
    """Right as well: all first frames, then all second ones, and back in the same way."""
    b, t = clips.shape[:2]
    out = denoiser(clips.transpose(0, 1).reshape(b * t, 1, *clips.shape[2:]), sigma.repeat(t))
    return out.reshape(t, b, *clips.shape[2:]).transpose(0, 1)


def _one_by_one(denoiser: Denoiser, clips: Tensor, sigma: Tensor) -> Tensor:
    """Right as well: a loop."""
    return torch.stack([denoiser(clips[:, t, None], sigma)[:, 0] for t in range(clips.shape[1])], 1)


@exercise(
    "video-fold",
    "Fine in every test, and a student that does not learn",
    "bug",
    "medium",
    20,
    answers=("test_per_frame",),
    hints=(
        "Write down for B = 2 and T = 3 which clip each of the six frames belongs to after the reshape, and which level sigma.repeat(3) gives each.",
        "Take clips and levels that all differ, and a false denoiser whose answer shows both, such as 2·frame + level. Then you know every number of the right result.",
        "out = per_frame(lambda frames, levels: 2 * frames + levels.reshape(-1, 1, 1, 1), clips, sigma); assert its shape, and that it is 2 * clips + sigma[:, None, None, None].",
    ),
)
def _(test_per_frame: object, g: Generator) -> str:
    spots(
        test_per_frame,
        {"one that folds clip by clip": _folded, "one that folds frame by frame, and back": _by_time, "a loop over the frames": _one_by_one},
        {
            "levels": (partial(_folded, defect="levels"), "It does not see the defect of the code above. Give the clips different levels, at least two clips, and look at the level that each frame gets."),
            "fold": (partial(_folded, defect="fold"), "It passes a wrapper that returns frames in another order than they came. Let all frames differ, and compare each with its own."),
            "one level": (partial(_folded, defect="one level"), "It passes a wrapper that gives all clips the level of the first. Look at every clip."),
            "last": (partial(_folded, defect="last"), "It passes a wrapper that leaves the last frame as it was. Look at every frame."),
            "turned": (partial(_folded, defect="turned"), "It passes a wrapper that returns the right frames in reverse. Let the frames of a clip differ, and compare each with its own."),
        },
    )  # fmt: skip
    return "Levels, order, frames left out: a batch in which everything differs shows all three."


@exercise(
    "captions-reference",
    "A score with references (paper reading)",
    "predict",
    "easy",
    10,
    answers=("score",),
    hints=(
        "There are two formulas in section 3. RefCLIPScore combines CLIP-S with the caption's likeness to the references. Which of the references, and which kind of mean?",
        "CLIP-S is w times the cosine, and the references enter by the greatest of their cosines.",
        "The harmonic mean of a and b is 2ab/(a + b).",
    ),
)
def _(score: object, g: Generator) -> str:
    a, b = 0.6, 0.9
    near(
        number(score),
        2 * a * b / (a + b),
        {
            "arithmetic": ((a + b) / 2, "That is the arithmetic mean. The paper takes the harmonic one."),
            "geometric": ((a * b) ** 0.5, "That is the geometric mean. The paper takes the harmonic one."),
            "no factor": (2 * 0.24 * b / (0.24 + b), "CLIP-S carries the factor w = 2.5, inside the mean too."),
            "mean of references": (2 * a * 0.7 / (a + 0.7), "Only the nearest reference counts: the greatest cosine, not their mean."),
            "without references": (a, "That is CLIP-S itself. Now the references."),
            "factor on both": (2 * a * 2.5 * b / (a + 2.5 * b), "The factor w belongs to CLIP-S; the cosines of captions among themselves have none."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "A caption must please the image and a reference; the mean stays near the worse of the two."
