"""Zero-shot editing: what is known stays, what is not follows the conditional distribution."""

import math

import pytest
import torch

from cdedu.data import tinted_digits
from cdedu.editing import SIGMAS, colorize, edit, inpaint, interpolate, stroke_to_image, super_resolve
from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas
from cdedu.samplers import sample_consistency

F64 = torch.float64
EPS = 0.002


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def wild(x, sigma):
    """Not a student at all: what is known must be kept whatever it answers."""
    return torch.sin(3 * x.flip(-1) + sigma) - 0.7 * x.mean()


def correlated(x, sigma):
    """The exact f of a Gaussian with variances ¼ and covariance 1/5: along each eigenvector, eigenvalue λ, a scale."""
    eigenvalues, v = torch.linalg.eigh(torch.tensor([[0.25, 0.2], [0.2, 0.25]], dtype=F64))
    return (x @ v * ((eigenvalues + EPS**2) / (eigenvalues + sigma**2)).sqrt()) @ v.T


def test_known_pixels_are_kept_bit_for_bit():
    image = torch.randn(3, 2, 8, 8, generator=seeded())
    mask = (torch.rand(1, 1, 8, 8, generator=seeded(1)) < 0.5).float()
    for m in (mask, mask.bool(), mask[0, 0]):
        x = inpaint(wild, image, m, generator=seeded(2))
        known = mask.bool().expand_as(image)
        assert x[known].equal(image[known])
        assert (x != image)[~known].all()


def test_what_stands_in_the_gap_does_not_matter():
    image = torch.randn(2, 1, 4, 4, generator=seeded())
    mask = torch.ones(4, 4)
    mask[1:3] = 0
    other = torch.where(mask.bool(), image, torch.tensor(9.0))
    a, b = (inpaint(wild, y, mask, generator=seeded(1)) for y in (image, other))
    assert a.equal(b)


def test_a_mask_of_zeros_is_plain_sampling():
    """1 is known: with nothing known the loop is the sampler's, from the same noise."""
    levels, g = (80.0, 2.0, 0.5), seeded()
    mixture = GaussianMixture(torch.tensor([[0.3, -0.2]]), 0.5)
    x = inpaint(mixture.consistency, torch.ones(5, 2), torch.zeros(2), levels, seeded())
    noise = 80 * torch.randn(5, 2, generator=g)
    assert x.equal(sample_consistency(mixture.consistency, noise, levels, g))


def test_the_loop_is_the_papers():
    """Algorithm 4 written out with its own mask (1 = missing) and an orthogonal A; two levels and the grey channel."""
    w = torch.tensor([0.299, 0.587, 0.114], dtype=F64)
    a = torch.linalg.qr(torch.cat([w[:, None], torch.eye(3, dtype=F64)[:, :2]], 1))[0].T
    grey, omega = torch.randn(2, 1, 4, 4, generator=seeded(), dtype=F64), torch.tensor([0.0, 1.0, 1.0])
    y = (w / w.square().sum())[None, :, None, None] * grey

    def mix(x, matrix):
        return torch.einsum("ij,bjhw->bihw", matrix, x)

    def back(x):
        keep = omega.to(F64)[None, :, None, None]
        return mix((1 - keep) * mix(y, a) + keep * mix(x, a), a.T)

    g, levels = seeded(3), (80.0, 1.5)
    x = back(torch.zeros_like(y)) + 80 * torch.randn(y.shape, generator=g).double()
    x = back(wild(x, 80.0))
    x = x + math.sqrt(1.5**2 - EPS**2) * torch.randn(y.shape, generator=g).double()
    x = back(wild(x, 1.5))
    assert (colorize(wild, grey, w.tolist(), levels, seeded(3)) - x).abs().max() < 1e-9


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.299, 0.587, 0.114), (1, 2)])
def test_grey_values_are_kept(weights):
    grey = torch.randn(2, 1, 8, 8, generator=seeded(), dtype=F64)
    x = colorize(wild, grey, weights, generator=seeded(1))
    w = torch.tensor(weights, dtype=F64) / sum(weights)
    assert x.shape == (2, len(weights), 8, 8)
    assert (torch.einsum("c,bchw->bhw", w, x) - grey[:, 0]).abs().max() < 1e-12
    assert (x - x.mean(1, keepdim=True)).abs().max() > 0.1


@pytest.mark.parametrize("factor", [2, 4])
def test_patch_means_are_kept(factor):
    small = torch.randn(2, 3, 2, 2, generator=seeded(), dtype=F64)
    x = super_resolve(wild, small, factor, generator=seeded(1))
    means = x.reshape(2, 3, 2, factor, 2, factor).mean((3, 5))
    assert x.shape[2:] == (2 * factor, 2 * factor) and (means - small).abs().max() < 1e-12
    assert x[0, 0, :factor, :factor].std() > 0.1


def test_many_small_steps_draw_from_the_conditional_distribution():
    """Known x₁ = .6: x₂ should be N(.48, .09). One jump knows nothing of x₁; more steps come nearer."""
    y = torch.tensor([[0.6, 0.0]], dtype=F64).expand(3000, 2)
    mask = torch.tensor([1, 0])

    def second(levels):
        return inpaint(correlated, y, mask, levels, seeded())[:, 1]

    one, some = second((80.0,)), second((80.0, *karras_sigmas(20, 0.15, 2.0).tolist()))
    many = second((80.0, *[0.3] * 20, *[0.1] * 100, *[0.05] * 100))
    assert one.mean().item() == pytest.approx(0, abs=0.02) and one.var().item() == pytest.approx(
        0.25, abs=0.02
    )
    assert one.mean() < some.mean() < many.mean()
    assert many.mean().item() == pytest.approx(0.48, abs=0.02)
    assert many.var().item() == pytest.approx(0.09, abs=0.01)


def test_one_small_step_is_langevins():
    """u ← u + τ²/2 · ∂ log p(u | k)/∂u to order τ²: the conditional is N(.8 k, .09), so its slope is (.8 k − u)/.09."""
    k, u, tau = 0.6, torch.linspace(-1, 1, 9, dtype=F64), 0.01
    x = torch.stack([torch.full_like(u, k), u], 1)
    answer = correlated(x, tau)[:, 1]
    # The path ends at ε, so the step covers τ² − ε².
    expected = u + (tau**2 - EPS**2) / 2 * (0.8 * k - u) / 0.09
    assert (answer - expected).abs().max() < 2e-5 and (answer - u).abs().max() > 3e-4


def test_inpainting_goes_to_the_right_component():
    """Two blobs on the diagonal, at ±(.6, .6): turned by 45° their f is one of one dimension, times a Gaussian's."""
    along = GaussianMixture(torch.tensor([-1.0, 1.0], dtype=F64) * 0.6 * 2**0.5, 0.1)
    across = GaussianMixture(torch.zeros(1, dtype=F64), 0.1)
    turn = torch.tensor([[1, 1], [1, -1]], dtype=F64) / 2**0.5

    def two_blobs(x, sigma):
        u = x @ turn
        return torch.cat([g.consistency(u[:, [i]], sigma) for i, g in enumerate((along, across))], 1) @ turn

    y = torch.tensor([[0.6, 0.0]], dtype=F64).expand(200, 2)
    x = inpaint(two_blobs, y, torch.tensor([1, 0]), generator=seeded())
    assert (x[:, 1] > 0.2).double().mean() > 0.9


def test_interpolation_ends_at_the_plain_samples():
    a, b = 80 * torch.randn(2, 3, 4, generator=seeded())
    x = interpolate(wild_rows, a, b, n=5)
    assert x.shape == (5, 3, 4)
    ends = sample_consistency(wild_rows, torch.stack([a, b]))
    assert torch.allclose(x[[0, -1]], ends, atol=1e-4)


def wild_rows(x, sigma):
    return torch.tanh(x.cumsum(-1) / sigma)


def test_the_noises_between_keep_their_size():
    seen = []

    def look(x, sigma):
        seen.append(x)
        return x

    a, b = 80 * torch.randn(2, 1000, generator=seeded())
    interpolate(look, a, b, n=9)
    norms = seen[0].norm(dim=1)
    assert norms.min() > 0.98 * min(a.norm(), b.norm()) and norms.max() < 1.02 * max(a.norm(), b.norm())
    assert interpolate(wild_rows, a, a, n=3).isfinite().all()


def test_a_stroke_starts_at_the_level_given():
    seen = []

    def look(x, sigma):
        seen.append((x, sigma))
        return x

    stroke = torch.full((1, 1, 100, 100), 0.7, dtype=F64)
    stroke_to_image(look, stroke, 5.38, (1.0,), seeded())
    (x, first), (_, second) = seen
    assert (first, second) == (5.38, 1.0)
    assert x.mean().item() == pytest.approx(0.7, abs=0.2) and x.std().item() == pytest.approx(5.38, rel=0.03)


def test_little_noise_keeps_the_stroke():
    mixture = GaussianMixture(torch.tensor([[0.0, 0.0]]), 0.5)
    stroke = torch.tensor([[0.4, -0.3]])
    x = stroke_to_image(mixture.consistency, stroke, 0.01, generator=seeded())
    assert torch.allclose(x, stroke, atol=0.05)


def test_labels_reach_the_student():
    def labelled(x, sigma, labels):
        return x * 0 + labels.reshape(-1, 1)

    labels, zeros = torch.tensor([3.0, 4.0]), torch.zeros(2, 2)
    for x in (
        inpaint(labelled, zeros, torch.tensor([1, 0]), labels=labels),
        stroke_to_image(labelled, zeros, labels=labels),
    ):
        assert x[:, 1].tolist() == [3, 4]


def test_the_default_levels_are_a_grid():
    assert list(SIGMAS) == sorted(SIGMAS, reverse=True) and SIGMAS[0] == 80


def test_tinted_digits_have_one_grey_value_for_all_hues():
    data = tinted_digits()
    assert data.train.shape == (1197, 3, 8, 8) and data.train.abs().max() <= 1
    for hue in (0.0, 0.1, 0.35):
        tint = 0.5 + 0.5 * (2 * math.pi * (hue - torch.arange(3) / 3)).cos()
        assert tint.mean().item() == pytest.approx(0.5)
    from cdedu.data import digits

    assert torch.allclose(data.train.mean(1, keepdim=True), 1 - (digits().train + 1) / 2, atol=1e-5)
    zero = data.train[data.train_labels == 0].mean((0, 2, 3))
    assert zero.argmax() == 0 and zero[1].item() == pytest.approx(zero[2].item(), abs=0.03)


PICTURE, GREY = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inpaint(wild, PICTURE, torch.ones(5, 8)), r"mask has shape \(5, 8\), which does not fit"),
        (lambda: inpaint(wild, PICTURE, torch.full((8, 8), 0.5)), "1 where the image is known and 0"),
        (lambda: inpaint(wild, PICTURE, torch.full((8, 8), math.nan)), "1 where the image is known and 0"),
        (lambda: inpaint(wild, PICTURE / 0, torch.ones(8, 8)), "put 0 where it is unknown"),
        (lambda: inpaint(wild, PICTURE.long(), torch.ones(8, 8)), "finite floating-point"),
        (lambda: inpaint(wild, PICTURE, torch.ones(8, 8), ()), "n at least 1, but its shape is"),
        (lambda: inpaint(wild, PICTURE, torch.ones(8, 8), (-1.0,)), r"finite, but sigmas\[0\] = -1"),
        (lambda: inpaint(wild, PICTURE, torch.ones(8, 8), (1.0, 2.0)), "from large to small"),
        (lambda: inpaint(wild, PICTURE, torch.ones(8, 8), (1.0, 0.001)), "below sigma_min = 0.002"),
        (lambda: edit(wild, PICTURE, lambda x: x, (math.nan,)), r"finite, but sigmas\[0\] = nan"),
        (lambda: colorize(wild, PICTURE), r"want a gray picture \(B, 1, H, W\), got \(2, 3, 8, 8\)"),
        (lambda: colorize(wild, GREY, (1, -1, 1)), "all must be positive"),
        (lambda: super_resolve(wild, GREY[0], 2), "want small pictures"),
        (lambda: super_resolve(wild, GREY, 1), "factor = 1"),
        (lambda: super_resolve(wild, GREY, 1.5), "factor = 1.5"),
        (lambda: stroke_to_image(wild, GREY, 0.0), r"finite, but sigmas\[0\] = 0"),
        (lambda: stroke_to_image(wild, GREY, math.inf), r"finite, but sigmas\[0\] = inf"),
        (lambda: stroke_to_image(wild, GREY, 1.0, (2.0,)), "from large to small"),
        (lambda: stroke_to_image(wild, GREY / 0), "picture must be finite"),
        (lambda: interpolate(wild, GREY[0], PICTURE[0]), "the noises have shapes"),
        (lambda: interpolate(wild, GREY[0], GREY[0]), "not 0"),
        (lambda: interpolate(wild, GREY[0] + 1, GREY[0] - 1), "not opposite"),
        (lambda: interpolate(wild, GREY[0] + 1, GREY[0] + 1, n=1), "n = 1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
