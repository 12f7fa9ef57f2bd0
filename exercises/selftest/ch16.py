"""Prepared answers to the exercises of chapter 16."""

from fractions import Fraction

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong

right("video-group", level=1.789)
right("video-group", level=torch.tensor(0.8) * 5**0.5)
wrong("video-group", "all frames", level=4)
wrong("video-group", "other way", level=0.358)
wrong("video-group", "one look", level=0.8)
wrong("video-group", "no root", level=20.0)
wrong("video-group", "other way, all", level=0.16)
wrong("video-group", "too high", level=2.5)
wrong("video-group", "type", level="root five")


@right("points-score")
def by_a_product(render, teacher, theta, tau, noise):
    t = theta.clone().requires_grad_(True)
    x = render(t)
    guess = teacher((x + tau * noise).detach(), tau).detach()
    (((x.detach() - guess) / tau) * x).sum().backward()
    return t.grad


@right("points-score")
def with_the_jacobian(render, teacher, theta, tau, noise):
    theta = theta.double()
    jacobian = torch.autograd.functional.jacobian(lambda t: render(t).double(), theta)
    x = render(theta.float()).detach()
    noisy = x + tau * noise
    vector = (noisy - teacher(noisy, tau)) / tau - noise
    return torch.einsum("bd,bdp->p", vector.double(), jacobian)


def scored(render, teacher, theta, tau, noise, vector, clean=False):
    t = theta.detach().requires_grad_()
    x = render(t)
    with torch.no_grad():
        guess = teacher(x if clean else x + tau * noise, tau)
        v = vector(x, guess)
    return torch.autograd.grad(x, t, v)[0]


@wrong("points-score", "through")
def _(render, teacher, theta, tau, noise):
    t = theta.detach().requires_grad_()
    x = render(t)
    return torch.autograd.grad((x - teacher(x + tau * noise, tau)).square().sum() / (2 * tau), t)[0]


@wrong("points-score", "clean")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: (x - d) / tau, clean=True)


@wrong("points-score", "scale")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: x - d)


@wrong("points-score", "square")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: (x - d) / tau**2)


@wrong("points-score", "noise")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: (x + tau * noise - d) / tau)


@wrong("points-score", "sign")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: (d - x) / tau)


@wrong("points-score", "mean")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: (x - d) / tau) / len(noise)


@wrong("points-score", "plain noise")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise / tau, lambda x, d: (x - d) / tau)


@wrong("points-score", "level")
def _(render, teacher, theta, tau, noise):
    return scored(render, lambda x, t: teacher(x, 1.0), theta, tau, noise, lambda x, d: (x - d) / tau)


@wrong("points-score", "double")
def _(render, teacher, theta, tau, noise):
    return scored(render, teacher, theta, tau, noise, lambda x, d: 2 * (x - d))


@wrong("points-score", "shape")
def _(render, teacher, theta, tau, noise):
    x = render(theta)
    return (x - teacher(x + tau * noise, tau)) / tau


def result(per_frame, clips, sigma):
    return per_frame(lambda frames, levels: 2 * frames + levels.reshape(-1, 1, 1, 1), clips, sigma)


CLIPS, SIGMA = torch.arange(48.0).reshape(3, 4, 2, 2), torch.tensor([0.5, 3.0, 7.0])
TRUTH = 2 * CLIPS + SIGMA[:, None, None, None]


@right("video-fold")
def all_at_once(per_frame):
    out = result(per_frame, CLIPS, SIGMA)
    assert out.shape == CLIPS.shape and torch.allclose(out, TRUTH)


@right("video-fold")
def frame_by_frame(per_frame):
    out = result(per_frame, CLIPS, SIGMA)
    for b in range(3):
        for t in range(4):
            assert (out[b, t] - TRUTH[b, t]).abs().max() < 1e-4


@wrong("video-fold", "levels")
def _(per_frame):
    assert torch.allclose(result(per_frame, CLIPS, torch.ones(3)), 2 * CLIPS + 1)


@wrong("video-fold", "fold")
def _(per_frame):
    out = result(per_frame, torch.zeros(3, 3, 2, 2), SIGMA)
    assert out.mean() - SIGMA.mean() < 1e-4 and torch.allclose(out[0, 0], SIGMA[0].expand(2, 2))
    seen = []
    per_frame(lambda f, s: seen.append((f.flatten(1)[:, 0], s)) or f, CLIPS, SIGMA)
    if len(seen) == 1:
        first, levels = seen[0]
        assert torch.equal(levels, SIGMA[(first // 16).long()])


@wrong("video-fold", "one level")
def _(per_frame):
    assert torch.allclose(result(per_frame, CLIPS, SIGMA)[0], TRUTH[0])


@wrong("video-fold", "last")
def _(per_frame):
    assert torch.allclose(result(per_frame, CLIPS, SIGMA)[:, :3], TRUTH[:, :3])


@wrong("video-fold", "turned")
def _(per_frame):
    levels_only = result(per_frame, torch.zeros_like(CLIPS), SIGMA)
    assert torch.allclose(levels_only, SIGMA[:, None, None, None].expand(CLIPS.shape))


@wrong("video-fold", "refuses right")
def _(per_frame):
    assert torch.allclose(result(per_frame, CLIPS, SIGMA), CLIPS)


@wrong("video-fold", "raised")
def _(per_frame):
    per_frame(None, CLIPS[0], SIGMA)


right("captions-reference", score=0.72)
right("captions-reference", score=torch.tensor(0.7200))
wrong("captions-reference", "arithmetic", score=0.75)
wrong("captions-reference", "geometric", score=0.735)
wrong("captions-reference", "no factor", score=0.379)
wrong("captions-reference", "mean of references", score=0.646)
wrong("captions-reference", "without references", score=0.6)
wrong("captions-reference", "factor on both", score=0.947)
wrong("captions-reference", "type", score=None or "0.72")


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("video-group", level=np.sqrt(np.float32(3.2)))
unusual("captions-reference", score=Fraction(18, 25))


@unusual("points-score")
def picture_by_picture(render, teacher, theta, tau, noise):
    """ε̂ − ε as the paper has it, keywords, and one backward pass for each picture."""
    total = np.zeros(theta.shape)
    with torch.no_grad():
        x = render(theta=theta)
        noisy = torch.add(x, noise, alpha=tau)
        difference = (noisy - teacher(x=noisy, tau=tau)) / tau - noise
    for k in range(len(noise)):
        leaf = torch.nn.Parameter(theta.clone())
        render(theta=leaf)[k].backward(gradient=difference[k])
        total += leaf.grad.numpy()
    return torch.from_numpy(total)


@unusual("points-score")
def by_vjp(render, teacher, theta, tau, noise):
    x, back = torch.func.vjp(render, theta)
    guess = teacher(x + tau * noise, tau)
    return back((x - guess) / tau)[0]


@unusual("points-score")
def by_a_jacobian_forwards(render, teacher, theta, tau, noise):
    x = render(theta)
    towards = (x - teacher(x + tau * noise, tau)) / tau
    return torch.einsum("b...p,b...->p", torch.func.jacfwd(render)(theta), towards)


@fragile("points-score", "value")
def by_small_differences(render, teacher, theta, tau, noise):
    h, out = 1e-7, torch.zeros_like(theta)
    x = render(theta)
    towards = (x - teacher(x + tau * noise, tau)) / tau
    for k in range(len(theta)):
        ahead = theta.clone()
        ahead[k] += h
        out[k] = ((render(ahead) - x) / h * towards).sum()
    return out


@unusual("video-fold")
def by_what_each_frame_is_told(per_frame):
    """By keyword, in double, with a number for every frame and a denoiser that answers in another dtype."""
    clips = torch.arange(2 * 5 * 3 * 2, dtype=torch.float64).reshape(2, 5, 3, 2)
    sigma = torch.tensor([0.25, 8.0], dtype=torch.float64)

    def denoiser(*given):
        frames, levels = given
        return torch.addcdiv(frames, torch.ones_like(frames), levels.reshape(-1, 1, 1, 1).expand_as(frames))

    out = per_frame(denoiser=denoiser, clips=clips, sigma=sigma)
    np.testing.assert_allclose(out.numpy(), clips.numpy() + 1 / sigma.numpy()[:, None, None, None], rtol=1e-6)
