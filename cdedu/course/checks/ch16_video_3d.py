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
        (
            "How many independent looks at the picture does the clip give you? Frames with the same noise are copies of each "
            "other."
        ),
        "Average one frame from each group. What's the standard deviation of the noise that's left?",
        "What's left may be as large as the noise that a single frame can bear. Solve that for σ.",
    ),
)
def _(level: object, g: Generator) -> str:
    near(
        number(level),
        0.8 * 5**0.5,
        {
            "all frames": (4.0, "That would take 25 independent frames. Five frames that share one draw of noise say the same thing five times."),
            "other way": (0.8 / 5**0.5, "More looks make the clip readable at more noise, not less: multiply by the root."),
            "one look": (0.8, "That would be right if all frames had the same noise. Here there are five draws."),
            "no root": (20.0, "Averaging divides the variance by the number of draws, and the standard deviation by its root."),
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
        (
            "Start with pencil and paper: take the guess D away from x + τ·noise and divide by τ, and you have the teacher's "
            "noise. Then subtract the noise that was put in."
        ),
        (
            "What's left of ε̂ − ε contains only x, D and τ. As far as θ is concerned it's a constant vector: how do you "
            "tell torch so?"
        ),
        (
            "The product of a vector with ∂x/∂θ is what torch.autograd.grad computes when you hand it that vector. Before "
            "you render, theta must ask for a gradient."
        ),
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
        "through": (
            "The teacher is differentiated as well: compute its guess under torch.no_grad(). That's the factor that the "
            "paper leaves out."
        ),
        "clean": "The teacher is given the clean picture. Add the noise first: x + τ·noise.",
        "scale": "x − D is missing a factor: ε̂ is (x + τ·noise − D) divided by τ.",
        "square": "One τ too many: (x − D)/τ² is a difference of scores, and the paper has a difference of noises.",
        "noise": "That's ε̂ alone. Subtract the noise that was put in.",
        "sign": "The sign is flipped: parameters move against the gradient, so it must point away from the guess.",
        "mean": "That's the mean over the pictures; the exercise asks for the sum.",
        "plain noise": "The noise goes in with standard deviation 1. It should have τ: x + τ·noise.",
        "level": "The teacher is called at another level. Tell it τ.",
        "double": "That's the gradient of ‖x − D‖², with a factor 2 and no 1/τ. Hand (x − D)/τ to autograd.grad instead.",
    }
    wrong = {
        kind: (_gradient(render, teacher, theta, tau, noise, kind=kind), text) for kind, text in says.items()
    }
    agree(call(sds, render, teacher, theta, tau, noise), truth, wrong, tolerance=1e-3, what="The gradient")
    return "Up to its weight this is the second term of ADD, with a renderer as the student."


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
    "Fine in every test, and a student that doesn't learn",
    "bug",
    "medium",
    20,
    answers=("test_per_frame",),
    hints=(
        (
            "For B = 2 and T = 3, write down which clip each of the six frames belongs to after the reshape, and which level "
            "sigma.repeat(3) gives it."
        ),
        (
            "Take clips and levels that all differ, and a false denoiser whose answer gives away both the frame and the "
            "level. Then you know every number of the right result."
        ),
        "At least two clips, at least two frames each, no two numbers alike. First assert the shape, then the numbers.",
    ),
)
def _(test_per_frame: object, g: Generator) -> str:
    spots(
        test_per_frame,
        {"one that folds clip by clip": _folded, "one that folds frame by frame, and back": _by_time, "a loop over the frames": _one_by_one},
        {
            "levels": (partial(_folded, defect="levels"), "It doesn't see the defect of the code above. Take at least two clips, give them different levels, and look at the level that each frame gets."),
            "fold": (partial(_folded, defect="fold"), "It passes a wrapper that returns the frames in a different order. Let all frames differ, and compare each with its own."),
            "one level": (partial(_folded, defect="one level"), "It passes a wrapper that gives all clips the level of the first. Look at every clip."),
            "last": (partial(_folded, defect="last"), "It passes a wrapper that leaves the last frame untouched. Look at every frame."),
            "turned": (partial(_folded, defect="turned"), "It passes a wrapper that returns the right frames in reverse. Let the frames of a clip differ, and compare each with its own."),
        },
    )  # fmt: skip
    return "Levels, order, forgotten frames: a batch in which everything differs shows all three."


@exercise(
    "captions-reference",
    "A score with references (paper reading)",
    "predict",
    "easy",
    10,
    answers=("score",),
    hints=(
        (
            "There are two formulas in section 3. RefCLIPScore combines CLIP-S with how well the caption matches the "
            "references. Which of the references counts, and what kind of mean is it?"
        ),
        "CLIP-S carries the factor w. Do the cosines with the references carry it too?",
        (
            "The harmonic mean of two numbers lies closer to the smaller one than their ordinary mean does. Check your "
            "answer with that."
        ),
    ),
)
def _(score: object, g: Generator) -> str:
    a, b = 0.6, 0.9
    near(
        number(score),
        2 * a * b / (a + b),
        {
            "arithmetic": ((a + b) / 2, "That's the arithmetic mean. The paper takes the harmonic one."),
            "geometric": ((a * b) ** 0.5, "That's the geometric mean. The paper takes the harmonic one."),
            "no factor": (2 * 0.24 * b / (0.24 + b), "CLIP-S carries the factor w = 2.5, inside the mean too."),
            "mean of references": (2 * a * 0.7 / (a + 0.7), "Only the nearest reference counts: the greatest cosine, not their mean."),
            "without references": (a, "That's CLIP-S itself. Now bring in the references."),
            "factor on both": (2 * a * 2.5 * b / (a + 2.5 * b), "The factor w belongs to CLIP-S; the cosines between captions have none."),
        },
        tolerance=0.01,
    )  # fmt: skip
    return "A caption has to please the image and a reference; the mean stays close to the worse of the two."
