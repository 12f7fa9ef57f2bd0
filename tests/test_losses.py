"""Distances and losses against short independent references in float64."""

import copy
import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import nn

from cdedu import losses, perceptual
from cdedu.losses import (
    consistency_training_loss,
    continuous_consistency_loss,
    denoising_loss,
    distillation_loss,
    easy_consistency_loss,
    easy_next_sigma,
    inverse_gap,
    l1,
    l2,
    lpips,
    path_derivative,
    pseudo_huber,
)
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP, unet
from cdedu.noise import karras_sigmas
from cdedu.solvers import euler_step, heun_step
from cdedu.student import EMA, ConsistencyModel
from cdedu.teacher import Teacher

F64 = torch.float64
TEACHER = GaussianMixture(
    torch.tensor([[-0.6, 0.0], [0.5, 0.3]], dtype=F64), torch.tensor([0.2, 0.3], dtype=F64)
)
GRID = karras_sigmas(8, dtype=F64)


class Net(nn.Module):
    """A small network with a label and, if wanted, dropout."""

    def __init__(self, seed: int, dim: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.a = nn.Parameter(torch.randn(dim + 1, 16, generator=g, dtype=F64))
        self.b = nn.Parameter(torch.randn(16, dim, generator=g, dtype=F64))
        self.drop = nn.Dropout(dropout)

    def forward(self, x, c_noise, labels=None):
        h = torch.cat([x, c_noise[:, None].to(x)], 1)
        out = self.drop((h @ self.a).tanh()) @ self.b
        return out if labels is None else out + labels[:, None]


def batch(n: int = 14, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    return {
        "x0": TEACHER.sample(n, g),
        "sigmas": GRID,
        "noise": torch.randn(n, 2, generator=g, dtype=F64),
        "index": torch.arange(n) % 7,
    }


def test_distances_are_those_of_whole_samples():
    a, b = torch.randn(3, 2, 4, 4, dtype=F64), torch.randn(3, 2, 4, 4, dtype=F64)
    c = 0.00054 * math.sqrt(32)
    for i in range(3):
        d = (a[i] - b[i]).flatten().tolist()
        assert l1(a, b)[i].item() == pytest.approx(sum(map(abs, d)) / 32)
        assert l2(a, b)[i].item() == pytest.approx(sum(x * x for x in d) / 32)
        norm = math.sqrt(sum(x * x for x in d))
        assert pseudo_huber(a, b)[i].item() == pytest.approx(math.hypot(norm, c) - c)
        assert pseudo_huber(a, b, 2.0)[i].item() == pytest.approx(math.hypot(norm, 2) - 2)


@pytest.mark.parametrize("distance", [l1, l2, pseudo_huber])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
def test_distances_of_whole_numbers_are_those_of_the_same_numbers(distance, dtype):
    """8-bit pictures would wrap around: 0 − 100 is 156."""
    a, b = torch.tensor([[0, 3, 100], [7, 7, 7]]), torch.tensor([[100, 0, 0], [0, 100, 7]])
    got = distance(a.to(dtype), b.to(dtype))
    assert got.dtype == torch.float32 and got.equal(distance(a.float(), b.float()))


def test_whole_image_pseudo_huber_is_not_the_elementwise_one():
    """All 64 pixels differ by 1: the norm is 8, while the elementwise sum would be 64 and its mean 1."""
    assert pseudo_huber(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)).item() == pytest.approx(8, rel=1e-3)


def test_lpips_refuses_what_is_not_rgb_and_says_what_is_missing_offline(monkeypatch):
    with pytest.raises(ValueError, match=r"RGB images .* got \(2, 1, 8, 8\)"):
        lpips(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))
    import torchmetrics.functional.image.lpips as library

    def offline(**_):
        raise OSError("no network")

    monkeypatch.setattr(library, "_NoTrainLpips", offline)
    perceptual._lpips_network.cache_clear()
    with pytest.raises(RuntimeError, match="vgg16-397923af.pth.*no network.*pseudo_huber"):
        lpips(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (256, 256)])
def test_lpips_resizes_as_openai_does_and_clamps_nothing(size):
    """Its two lines, with another network in the place of VGG: what is smaller than 256 becomes 224 × 224, bilinearly."""

    def network(a, b):
        return (a - b + 50).square().flatten(1).sum(1)[:, None, None, None]

    g = torch.Generator().manual_seed(0)
    a = (2 * torch.randn(2, 3, *size, generator=g)).requires_grad_()
    b = 2 * torch.randn(2, 3, *size, generator=g)
    larger = [
        torch.nn.functional.interpolate(x, size=224, mode="bilinear") if x.shape[-1] < 256 else x
        for x in (a, b)
    ]
    got, theirs = perceptual.enlarged_distance(network, a, b), network(*larger).flatten()
    torch.testing.assert_close(got, theirs)
    slopes = [torch.autograd.grad(value.sum(), a)[0] for value in (got, theirs)]
    torch.testing.assert_close(*slopes)
    assert (slopes[0][a.abs() > 1] != 0).all()


def test_denoising_loss_is_edms():
    teacher = Teacher(Net(0), 0.7)
    b, sigma = batch(4), torch.tensor([0.01, 0.3, 2.0, 50.0], dtype=F64)
    x0, z, s = b["x0"], b["noise"], sigma[:, None]
    weight = (sigma**2 + 0.49) / (sigma * 0.7) ** 2
    expected = weight * (teacher(x0 + s * z, sigma) - x0).square().mean(1)
    assert torch.allclose(denoising_loss(teacher, x0, sigma, noise=z), expected, rtol=1e-12)


def test_untrained_denoising_loss_is_about_one_at_every_noise_level():
    class Zero(nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    g = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(100_000, 2, generator=g)
    for s in (0.02, 0.5, 20.0):
        loss = denoising_loss(Teacher(Zero()), x0, torch.full((100_000,), s), generator=g).mean()
        assert loss.item() == pytest.approx(1, abs=0.02)


def reference_loss(student, target, teacher, x0, sigmas, noise, index, heun, distance, weight, labels):
    """Algorithm 2, sample by sample."""
    out = []
    for i, (x, z, n) in enumerate(zip(x0, noise, index.tolist(), strict=True)):
        s, t = sigmas[n].item(), sigmas[n + 1].item()
        label = {} if labels is None else {"labels": labels[i : i + 1]}
        high = (x + s * z)[None]
        slope = (high - teacher(high, s, **label)) / s
        low = high + (t - s) * slope
        if heun:
            low = high + (t - s) * (slope + (low - teacher(low, t, **label)) / t) / 2
        out.append(weight(s, t) * distance(student(high, s, **label), target(low, t, **label).detach())[0])
    return torch.stack(out)


@pytest.mark.parametrize("heun", [True, False])
@pytest.mark.parametrize("distance", [l1, l2, pseudo_huber])
def test_distillation_loss_is_algorithm_2(heun, distance):
    """Values and gradients: student at the noisier point, target at the other, one teacher step between them."""
    student, target, teacher = ConsistencyModel(Net(0)), ConsistencyModel(Net(1)), Teacher(Net(2))
    b, labels = batch(), torch.randn(14, dtype=F64)
    got = distillation_loss(
        student, target, teacher, **b, labels=labels, distance=distance, weight=inverse_gap,
        solver=heun_step if heun else euler_step,
    )  # fmt: skip
    want = reference_loss(
        student,
        target,
        teacher,
        **b,
        labels=labels,
        heun=heun,
        distance=distance,
        weight=lambda s, t: 1 / (s - t),
    )
    assert torch.allclose(got, want, rtol=1e-10)
    for p, q in zip(
        torch.autograd.grad(got.sum(), [*student.parameters()]),
        torch.autograd.grad(want.sum(), [*student.parameters()]),
        strict=True,
    ):
        assert torch.allclose(p, q, rtol=1e-8)


@pytest.mark.parametrize("average", [True, False])
def test_no_gradient_reaches_target_or_teacher(average):
    student, teacher = ConsistencyModel(Net(0)), Teacher(Net(2))
    target = EMA(student, 0.9) if average else ConsistencyModel(Net(1))
    before = [copy.deepcopy(m.state_dict()) for m in (target, teacher)]
    distillation_loss(student, target, teacher, **batch()).sum().backward()
    assert all(p.grad is None for m in (target, teacher) for p in m.parameters())
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())
    for m, state in zip((target, teacher), before, strict=True):
        assert all(t.equal(state[name]) for name, t in m.state_dict().items())


def test_with_the_student_as_target_gradient_flows_through_the_noisier_point_only():
    student = ConsistencyModel(Net(0))
    frozen = copy.deepcopy(student).requires_grad_(False)
    grads = [
        torch.autograd.grad(distillation_loss(student, t, TEACHER, **batch()).sum(), [*student.parameters()])
        for t in (student, frozen)
    ]
    assert all(a.equal(b) for a, b in zip(*grads, strict=True))


def test_at_the_last_step_the_target_is_the_teachers_point_itself():
    """The anchor: without it the zero function would have no loss."""
    b = batch() | {"index": torch.full((14,), 6)}
    x = b["x0"] + GRID[6] * b["noise"]
    goal = heun_step(TEACHER, x, GRID[6].item(), GRID[7].item())
    zero = lambda x, sigma: torch.zeros_like(x)  # noqa: E731
    loss = distillation_loss(zero, ConsistencyModel(Net(1)), TEACHER, **b)
    assert torch.allclose(loss, goal.square().mean(1)) and (loss > 0).all()
    exact = lambda x, sigma: goal  # noqa: E731
    assert distillation_loss(exact, ConsistencyModel(Net(1)), TEACHER, **b).abs().max() < 1e-20


def steps_drawn(n: int, **options) -> torch.Tensor:
    """How often each step of an 8-point grid is drawn, read off the noise level that the student is called with."""
    seen = []

    def student(x, sigma):
        seen.append(sigma)
        return x

    g = torch.Generator().manual_seed(0)
    consistency_training_loss(
        student, lambda x, s: x, torch.zeros(n, 1, dtype=F64), GRID, generator=g, **options
    )
    return torch.stack([(seen[0] == s).double().mean() for s in GRID])


def test_every_step_down_to_the_last_is_drawn_alike_and_none_starts_at_the_end():
    share = steps_drawn(70_000)
    assert share[-1] == 0 and share[:-1].tolist() == pytest.approx([1 / 7] * 7, abs=5e-3)


def test_index_weights_are_followed():
    weights = torch.tensor([0.0, 1, 2, 0, 3, 0, 4])
    assert steps_drawn(50_000, index_weights=weights)[:-1].tolist() == pytest.approx(
        (weights / 10).tolist(), abs=7e-3
    )


def test_consistency_training_is_distillation_with_the_data_as_denoiser():
    student, target, b = ConsistencyModel(Net(0)), ConsistencyModel(Net(1)), batch()
    ct = consistency_training_loss(student, target, **b, weight=inverse_gap)
    cd = distillation_loss(student, target, lambda x, s: b["x0"], **b, solver=euler_step, weight=inverse_gap)
    assert torch.allclose(ct, cd, rtol=1e-10)


def test_expected_gradients_of_training_and_distillation_agree_as_the_grid_gets_finer():
    """With an exact teacher; x0 from the exact posterior by Gauss-Hermite quadrature. The difference is O(1/N)."""
    teacher = GaussianMixture(torch.tensor([-1.0, 0.6], dtype=F64), torch.tensor([0.2, 0.35], dtype=F64))
    student = ConsistencyModel(Net(0, dim=1))
    z, w = map(torch.from_numpy, hermegauss(20))
    w = w / w.sum()

    def difference(n: int) -> float:
        grid = karras_sigmas(n, 0.05, 5.0, dtype=F64)
        index = torch.arange(n - 1).repeat_interleave(21)
        x = torch.linspace(-2, 2, 21, dtype=F64).repeat(n - 1) * (grid[index] ** 2 + 0.5).sqrt()
        s, x = grid[index], x[:, None]
        # Distillation needs the noisy point only; training comes to it from every x0 that it may stem from.
        cd = distillation_loss(
            student, student, teacher, x, grid, index=index, noise=torch.zeros_like(x), solver=euler_step
        )
        r, m, std = teacher.posterior(x, s)
        x0 = (m[..., 0, None] + std[..., None] * z).flatten()[:, None]  # (points, components, nodes)
        probability = (r[..., None] * w).flatten()
        rows = torch.arange(len(x)).repeat_interleave(2 * len(z))
        noise = (x[rows] - x0) / s[rows, None]
        ct = consistency_training_loss(student, student, x0, grid, index=index[rows], noise=noise)
        grads = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*student.parameters()])])
            for loss in (cd.sum(), (probability * ct).sum())
        ]
        return ((grads[0] - grads[1]).norm() / grads[0].norm()).item()

    coarse, middle, fine = difference(40), difference(80), difference(160)
    assert fine < 0.1
    assert coarse / middle == pytest.approx(2, abs=0.4) and middle / fine == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("loss", ["distillation", "training"])
def test_dropout_masks_are_the_same_on_both_sides(device, loss):
    """Student as target, the same point twice: the loss is 0 exactly, although dropout is at work."""
    student = ConsistencyModel(Net(0, dropout=0.5)).to(device).train()
    x0 = torch.randn(6, 2, dtype=F64, device=device)
    grid, index = (
        torch.tensor([2.0, 2.0], dtype=F64, device=device),
        torch.zeros(6, dtype=torch.long, device=device),
    )
    assert not student(x0, 2.0).equal(student(x0, 2.0))
    if loss == "distillation":
        value = distillation_loss(student, student, lambda x, s: 0 * x, x0, grid, index=index)
    else:
        value = consistency_training_loss(student, student, x0, grid, index=index)
    assert value.abs().max() == 0 and value.requires_grad


def test_labels_reach_all_three_networks():
    seen = {}

    def named(name):
        def call(x, sigma, labels):
            seen[name] = labels
            return 0.5 * x

        return call

    distillation_loss(named("student"), named("target"), named("teacher"), **batch(), labels="labels")
    assert seen == dict.fromkeys(("student", "target", "teacher"), "labels")


def test_losses_repeat_with_their_generator():
    student, x0 = ConsistencyModel(Net(0)), batch()["x0"]
    a, b = (
        distillation_loss(student, student, TEACHER, x0, GRID, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert a.equal(b)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sigmas": GRID.flip(0)}, "sigmas must run from large to small"),
        ({"sigmas": GRID[:1]}, "n at least 2, but its shape is"),
        ({"index": torch.full((14,), 7)}, r"one step in 0..6"),
        ({"index": torch.zeros(3, dtype=torch.long)}, r"one step in 0..6"),
        ({"noise": torch.zeros(14, 3, dtype=F64)}, "noise has shape"),
        ({"index": None, "index_weights": torch.ones(3)}, r"index_weights has shape \(3,\), want \(7,\)"),
        ({"distance": lambda a, b: (a - b).abs().mean()}, "one number per sample"),
    ],
)
def test_losses_refuse(change, words):
    with pytest.raises(ValueError, match=words):
        distillation_loss(ConsistencyModel(Net(0)), ConsistencyModel(Net(0)), TEACHER, **batch() | change)


@pytest.mark.parametrize("stage", [0, 3, 8])
def test_easy_next_sigma_takes_whole_numbers(stage):
    """256⁹ is more than a whole number of 64 bits holds."""
    sigma = torch.tensor([0.5, 20.0])
    assert easy_next_sigma(sigma, 256, stage).equal(easy_next_sigma(sigma, 256.0, stage))


@pytest.mark.parametrize("q, stage", [(256, 8), (2, 70), (2, 2000)])
def test_easy_levels_of_whole_numbers_do_not_overflow(q, stage):
    sigma = torch.tensor([0.1, 1.0, 80.0])
    assert easy_next_sigma(sigma, q, stage).allclose(sigma) and (easy_next_sigma(sigma, q, 1) < sigma).all()


def test_easy_next_sigma_has_its_limits():
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    r = easy_next_sigma(sigma, q=2, stage=0)
    by_hand = [max(0.0, s * (1 - 0.5 * (1 + 8 / (1 + math.exp(s))))) for s in sigma.tolist()]
    assert r.tolist() == pytest.approx(by_hand, abs=1e-12)
    assert r[:3].eq(0).all() and r[3].item() == pytest.approx(
        40
    )  # at first, all but the highest levels pair with clean data
    gaps = [(sigma - easy_next_sigma(sigma, q=2, stage=stage)).max().item() for stage in range(8)]
    assert (
        gaps == sorted(gaps, reverse=True) and gaps[-1] < 1
    )  # and close in on their partner as the stage grows
    with pytest.raises(ValueError, match="q > 1"):
        easy_next_sigma(sigma, q=1)


def test_easy_consistency_loss_is_the_distance_over_the_gap():
    torch.manual_seed(0)
    student, target = ConsistencyModel(MLP()), ConsistencyModel(MLP())
    x0, z, sigma = torch.randn(6, 2), torch.randn(6, 2), torch.tensor([0.3, 0.5, 1.0, 4.0, 20.0, 80.0])
    r = easy_next_sigma(sigma, q=256)
    loss = easy_consistency_loss(student, target, x0, sigma, noise=z, q=256)
    a, b = student(x0 + sigma[:, None] * z, sigma), target(x0 + r[:, None] * z, r)
    assert torch.allclose(loss, (a - b).norm(dim=1) / (sigma - r), rtol=1e-4)
    loss.sum().backward()
    assert all(p.grad is None for p in target.parameters())


def test_easy_consistency_at_r_0_regresses_on_clean_data_and_asks_no_target():
    def target(x, sigma):
        raise AssertionError("the target was asked")

    student = ConsistencyModel(MLP())
    x0, z, sigma = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0.01, 0.1, 0.5, 1.0])
    loss = easy_consistency_loss(student, target, x0, sigma, noise=z, q=2)
    distance = (student(x0 + sigma[:, None] * z, sigma) - x0).norm(dim=1)
    assert torch.allclose(loss, distance / sigma, rtol=1e-4)


def test_the_easy_loss_is_ects_on_both_sides_of_r_0():
    """Its loss, written out again: levels t, r = max(0, ...), targets x0 where r = 0, its c under the root, and the weight 1/(t − r)."""

    def f(x, sigma):
        return x / (1 + sigma.reshape(-1, 1) ** 2) + 0.1 * sigma.reshape(-1, 1)

    g = torch.Generator().manual_seed(0)
    t = (-1.1 + 2.0 * torch.randn(400, generator=g, dtype=F64)).exp().clamp(min=0.0025)
    x0, z = torch.randn(2, 400, 2, generator=g, dtype=F64)
    r = (t * (1 - (1 + 8 * torch.sigmoid(-t)) / 2)).clamp(min=0)
    target = torch.where(r[:, None] > 0, f(x0 + r[:, None] * z, r), x0)
    c, squared = 1e-6, (f(x0 + t[:, None] * z, t) - target).square().sum(1)
    ect = ((squared + c**2).sqrt() - c) / (t - r)
    got = easy_consistency_loss(f, f, x0, t, noise=z, q=2, stage=0)
    assert (r == 0).sum() > 100 and (r > 0.002).sum() > 30
    known = (r == 0) | (r > 0.002)  # in between, our students' ε is above r
    torch.testing.assert_close(got[known], ect[known])


# The continuous limit


def points(n: int = 8, seed: int = 0):
    """x0, z and noise levels from .01 to 60."""
    g = torch.Generator().manual_seed(seed)
    return (
        TEACHER.sample(n, g),
        torch.randn(n, 2, generator=g, dtype=F64),
        torch.logspace(-2, 1.8, n, dtype=F64),
    )


def grad(loss, model) -> torch.Tensor:
    return torch.cat([p.flatten() for p in torch.autograd.grad(loss.sum(), list(model.parameters()))])


def test_the_path_derivative_is_the_central_difference():
    f, (x0, z, sigma) = ConsistencyModel(Net(0)), points()
    x, labels, h = x0 + sigma[:, None] * z, torch.randn(8, dtype=F64), 1e-5 * sigma
    value, change = path_derivative(f, x, sigma, z, labels=labels)
    with torch.no_grad():
        ahead = f(x + h[:, None] * z, sigma + h, labels=labels)
        behind = f(x - h[:, None] * z, sigma - h, labels=labels)
        assert torch.allclose(value, f(x, sigma, labels=labels), rtol=1e-14)
    assert torch.allclose(change, (ahead - behind) / (2 * h[:, None]), rtol=1e-6, atol=1e-9)
    assert not value.requires_grad and not change.requires_grad
    one = torch.ones((), dtype=F64).expand(8)  # one number for all, without memory of its own
    assert torch.equal(path_derivative(f, x, one, z)[1], path_derivative(f, x, one.clone(), z)[1])


@pytest.mark.parametrize("sizes", [(False, False), (False, True)])
def test_image_networks_have_a_forward_mode_with_and_without_attention(sizes):
    f = ConsistencyModel(unet(8, 1, (16, 32), 1, sizes), noise_scale=1.0).double().eval()
    g = torch.Generator().manual_seed(0)
    x, sigma = torch.randn(3, 1, 8, 8, generator=g, dtype=F64), torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    _, change = path_derivative(f, x, sigma, x)
    with torch.no_grad():
        h = 1e-4
        expected = (f(x + h * x, sigma + h) - f(x - h * x, sigma - h)) / (2 * h)
    assert torch.allclose(change, expected, atol=1e-4)  # the time embedding is computed in float32


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g


def test_a_network_without_forward_mode_is_refused_with_a_remedy():
    class Network(nn.Module):
        def forward(self, x, c_noise):
            return NoForwardMode.apply(x)

    f, (x0, z, sigma) = ConsistencyModel(Network()), points()
    with pytest.raises(
        NotImplementedError, match="cannot be differentiated in forward mode .* method 'easy'"
    ):
        continuous_consistency_loss(f, f, x0, sigma, noise=z)
    with pytest.raises(ValueError, match=r"slope \(8, 3\)"):
        path_derivative(f, x0, sigma, torch.zeros(8, 3))
    with pytest.raises(RuntimeError, match="something else"):
        path_derivative(lambda x, sigma: (_ for _ in ()).throw(RuntimeError("something else")), x0, sigma, z)


@pytest.mark.parametrize("teacher", [TEACHER, None])
def test_the_continuous_gradient_is_the_limit_of_the_discrete_one(teacher):
    """One Euler step to σ − Δ, divided by Δ, and weighted: the difference falls in proportion to Δ."""
    f, (x0, z, sigma) = ConsistencyModel(Net(0)), points()
    x, errors = x0 + sigma[:, None] * z, []
    weight = (sigma**2 + 0.25) / (sigma * 0.5)
    want = grad(continuous_consistency_loss(f, f, x0, sigma, teacher=teacher, noise=z, c=None), f)
    for delta in (1e-3, 1e-4):
        lower = sigma * (1 - delta)
        knows = teacher or (lambda x, s: x0)
        goal = f(euler_step(knows, x, sigma, lower), lower).detach()
        got = grad(weight * l2(f(x, sigma), goal) / (sigma - lower), f)
        errors.append(((got - want).norm() / want.norm()).item())
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_at_ratio_0_only_the_fit_to_the_teacher_is_left():
    """The gradient is that of the weighted distance between f and D, with the weight σ_d / σ²."""
    f, (x0, z, sigma) = ConsistencyModel(Net(0)), points()
    for teacher in (TEACHER, None):
        options = {"teacher": teacher, "noise": z, "c": None}
        got = grad(continuous_consistency_loss(f, f, x0, sigma, ratio=0.0, **options), f)
        x = x0 + sigma[:, None] * z
        goal = TEACHER(x, sigma) if teacher else x0
        assert torch.allclose(got, grad(0.5 / sigma**2 * l2(f(x, sigma), goal), f), rtol=1e-9)
        half, whole = (
            grad(continuous_consistency_loss(f, f, x0, sigma, ratio=r, **options), f) for r in (0.5, 1.0)
        )
        assert torch.allclose(half, (got + whole) / 2, rtol=1e-9)


class ExactGaussian(nn.Module):
    """The consistency function of N(m, s²), with s to be learned."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = nn.Parameter(torch.tensor(std, dtype=F64))

    def forward(self, x, sigma):
        sigma = sigma.reshape(-1, 1)
        return 0.3 + (x - 0.3) * ((self.std**2 + 0.002**2) / (self.std**2 + sigma**2)).sqrt()


def test_the_exact_consistency_function_is_a_zero_of_the_gradient_and_others_are_not():
    exact = GaussianMixture(torch.full((1, 2), 0.3, dtype=F64), 0.4)
    x0, z, sigma = points()
    right, wrong = ExactGaussian(0.4), ExactGaussian(0.5)

    def gradient(f, teacher, **options):
        return (
            grad(continuous_consistency_loss(f, f, x0, sigma, teacher=teacher, noise=z, **options), f)
            .abs()
            .item()
        )

    assert gradient(right, exact) < 1e-10 and gradient(right, exact, c=None) < 1e-10
    assert (
        gradient(wrong, exact) > 1e-3 and gradient(right, None) > 1e-3
    )  # single data are right on average only
    # and on average, with x0 drawn from what may lie behind x, training without a teacher agrees
    x = x0[:1] + z[:1]
    _, mean, std = exact.posterior(x, 1.0)
    many = mean[0] + std[0] * torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    noise, ones = x - many, torch.ones(len(many), dtype=F64)
    mean_loss = continuous_consistency_loss(right, right, many, ones, noise=noise, c=None).mean()
    assert abs(grad(mean_loss, right).item()) < 0.02


def test_the_tangent_is_normalised_sample_by_sample_and_the_learned_weight_has_its_optimum():
    f, (x0, z, sigma) = ConsistencyModel(Net(0)), points()
    raw = continuous_consistency_loss(f, f, x0, sigma, noise=z, c=None).detach()
    norm = (2 * raw).sqrt()  # the loss is the mean over two dimensions of g²
    got = continuous_consistency_loss(f, f, x0, sigma, noise=z, c=0.1)
    assert torch.allclose(got, (norm / (norm + 0.1)) ** 2 / 2, rtol=1e-9)
    w = torch.randn(8, dtype=F64, requires_grad=True)
    balanced = continuous_consistency_loss(f, f, x0, sigma, noise=z, balance=lambda s: w)
    assert torch.allclose(balanced, w.exp() * got - w, rtol=1e-9)
    best = torch.autograd.grad(
        continuous_consistency_loss(f, f, x0, sigma, noise=z, balance=lambda s: w + (-got.log() - w).detach()).sum(), w
    )[0]  # fmt: skip
    assert best.abs().max() < 1e-9


def test_the_learned_weight_takes_in_a_prior_such_as_sanas():
    """SANA-Sprint's loss is e^−v/σ ‖·‖² + v with a learned v(σ): ours with w = −v − ln σ, but for a constant."""
    f, (x0, z, sigma) = ConsistencyModel(Net(0)), points()
    v = torch.randn(8, dtype=F64, requires_grad=True)
    plain = continuous_consistency_loss(f, f, x0, sigma, noise=z)
    theirs = (-v).exp() / sigma * plain + v
    got = continuous_consistency_loss(f, f, x0, sigma, noise=z, balance=lambda s: -v - s.log())
    assert torch.allclose(got, theirs + sigma.log(), rtol=1e-9)
    for of in (v, next(f.parameters())):
        slopes = [torch.autograd.grad(loss.sum(), of, retain_graph=True)[0] for loss in (got, theirs)]
        assert torch.allclose(*slopes, rtol=1e-9)


def test_the_continuous_loss_gives_no_gradient_to_target_and_teacher_and_the_same_dropout_to_both():
    student, target, teacher = ConsistencyModel(Net(0)), ConsistencyModel(Net(1)), Teacher(Net(2))
    x0, z, sigma = points()
    continuous_consistency_loss(student, target, x0, sigma, teacher=teacher, noise=z).sum().backward()
    assert all(p.grad is None for m in (target, teacher) for p in m.parameters())
    assert all(p.grad is not None for p in student.parameters())
    dropping = ConsistencyModel(Net(0, dropout=0.5))
    loss = continuous_consistency_loss(
        dropping, dropping, x0, sigma, noise=z, c=1e12
    )  # the tangent is shrunk to 0
    assert loss.max() < 1e-12


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ratio": 1.5}, "ratio = 1.5"),
        ({"c": 0.0}, "c = 0.0"),
        ({"noise": torch.zeros(8, 3)}, "noise has shape"),
    ],
)
def test_the_continuous_loss_refuses(change, words):
    f, (x0, z, sigma) = ConsistencyModel(Net(0)), points()
    with pytest.raises(ValueError, match=words):
        continuous_consistency_loss(f, f, x0, sigma, **{"noise": z} | change)


def test_the_perceptual_distance_is_the_formula_and_has_gradients_near_zero():
    g = torch.Generator().manual_seed(0)
    layers = [torch.randn(8, 3, 1, 1, generator=g), torch.randn(5, 8, 2, 2, generator=g)]

    def activations(x):
        first = torch.nn.functional.conv2d(x, layers[0])
        return [first, torch.nn.functional.conv2d(first.relu(), layers[1])]

    d = losses.perceptual(activations)
    a, b = torch.randn(2, 4, 3, 6, 6, generator=g)
    wanted = torch.zeros(4)
    for x, y in zip(activations(a), activations(b), strict=True):
        for n in range(4):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    u, v = x[n, :, i, j], y[n, :, i, j]
                    cosine = (u @ v) / (u.norm() * v.norm())
                    wanted[n] += (2 - 2 * cosine) / (x.shape[2] * x.shape[3]) / 2
    assert torch.allclose(d(a, b), wanted, atol=1e-5)
    assert d(a, a).eq(0).all() and torch.allclose(d(a, b), d(b, a))
    near = (a + 1e-3 * b).requires_grad_(True)
    d(near, a).sum().backward()
    assert near.grad.isfinite().all() and near.grad.abs().max() > 0


def test_the_course_s_classifier_has_five_layers_to_compare():
    from cdedu.evaluation import cifar_classifier

    classifier, x = cifar_classifier(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = classifier.activations(x)
    assert [tuple(t.shape[1:]) for t in layers] == [
        (32, 32, 32),
        (64, 16, 16),
        (64, 16, 16),
        (128, 8, 8),
        (128, 8, 8),
    ]
    assert torch.allclose(layers[-1].mean((2, 3)), classifier.features(x), atol=1e-6)
    d = losses.perceptual(classifier.activations)
    assert d(x, x).eq(0).all() and (d(x, x.flip(-1)) > 0).all()
