"""Latents, the guidance weight as an input, LCM's boundary and the solver that skips: against diffusers and by hand."""

import ast
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from cdedu.data import Dataset
from cdedu.losses import distillation_loss, inverse_gap
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.methods.latent import (
    LATENT_DIGITS,
    autoencoder_loss,
    latent_data,
    latent_student,
    lcm_coefficients,
    skipping_loss,
    train_autoencoder,
)
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP, unet
from cdedu.networks.latent import Autoencoder, LatentUNet, guidance_embedding
from cdedu.noise import karras_sigmas
from cdedu.solvers import euler_step, heun_step
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill

MIXTURE = GaussianMixture(torch.tensor([[-0.5, 0.0], [0.5, 0.3]]), 0.1)


def tiny_teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(unet(4, 2, (8, 16), classes=3), noise_scale=250.0).eval()


def batch(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 4, 4, generator=g), torch.arange(n) % 3


def test_the_boundary_is_lcms():
    from diffusers import LCMScheduler

    scheduler = LCMScheduler()
    t = torch.arange(1000)
    theirs = scheduler.get_scalings_for_boundary_condition_discrete(t.double())
    for ours, wanted in zip(lcm_coefficients(t), theirs, strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-12)
    assert [float(c) for c in lcm_coefficients(0)] == [1.0, 0.0]
    assert float(lcm_coefficients(1)[0]) == pytest.approx(0.25 / 100.25)
    with pytest.raises(ValueError, match="not negative"):
        lcm_coefficients(-1)


def diffusers_embedding():
    """The function of diffusers' LCM pipeline, taken out of its file: the pipeline itself can be imported with transformers only."""
    import diffusers

    path = Path(diffusers.__file__).parent / "pipelines/latent_consistency_models/pipeline_latent_consistency_text2img.py"  # fmt: skip
    source = path.read_text()
    function = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "get_guidance_scale_embedding"
    )
    space = {"torch": torch}
    exec(textwrap.dedent(ast.get_source_segment(source, function, padded=True)), space)
    return partial(space["get_guidance_scale_embedding"], None)


def test_the_embedding_of_the_weight_is_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    omega, theirs = torch.tensor([0.0, 0.37, 2.0, 7.0, 14.0]), diffusers_embedding()
    for dim in (4, 64, 256, 512):
        ours = guidance_embedding(omega, dim)
        assert torch.allclose(
            ours, theirs(omega, embedding_dim=dim), atol=2e-3
        )  # phases up to 14,000 in float32
        clock = get_timestep_embedding(1000 * omega, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
        assert torch.allclose(ours, clock, atol=2e-3)
    for omega, dim in ((torch.tensor(7.0), 64), (torch.ones(2), 5), (torch.ones(2), 2)):
        with pytest.raises(ValueError, match="guidance_embedding"):
            guidance_embedding(omega, dim)


def test_lcms_weight_is_the_scale_minus_one():
    """(1 + ω) D(c) − ω D(∅) is guidance at the scale 1 + ω, and what the student's network embeds is ω."""
    x, labels = batch()
    teacher, omega = tiny_teacher(), torch.tensor([0.0, 0.5, 1.0, 2.0, 7.0])
    with torch.no_grad():
        with_label, without = teacher(x, 2.0, labels=labels), teacher(x, 2.0, labels=torch.full_like(labels, 2))  # fmt: skip
        w = omega[:, None, None, None]
        augmented = (1 + w) * with_label - w * without
        guided = GuidedDenoiser(teacher, None, null=2)(x, 2.0, labels=labels, guidance=1 + omega)
        assert torch.allclose(guided, augmented, atol=1e-5)
        network = LatentUNet(teacher.network, 1.0, 8.0)
        torch.nn.init.normal_(network.weight.weight)
        assert torch.allclose(network._embed(1 + omega), network.weight(guidance_embedding(omega, 64)))
        fixed = network.at(2.5)
        c_noise = torch.zeros(len(x))
        assert torch.allclose(fixed(x, c_noise, labels), network(x, c_noise, labels, guidance=2.5), atol=1e-5)


def test_the_student_starts_as_its_teacher_whatever_the_scale():
    x, labels = batch()
    teacher = tiny_teacher()
    student, plain = latent_student(teacher, (1.0, 4.0)).eval(), ConsistencyModel.from_teacher(teacher).eval()
    with torch.no_grad():
        wanted = plain(x, 3.0, labels=labels)
        for scale in (1.0, 2.2, torch.linspace(1, 4, len(x))):
            assert torch.allclose(student(x, 3.0, labels=labels, guidance=scale), wanted, atol=1e-6)
        assert torch.equal(student(x, student.sigma_min, labels=labels, guidance=2.0), x)
    with pytest.raises(ValueError, match="MLP; it must be a UNet"):
        latent_student(Teacher(MLP()), (1.0, 4.0))


def test_a_scale_that_was_never_trained_is_refused():
    x, labels = batch()
    student = latent_student(tiny_teacher(), (1.0, 4.0))
    for scale in (0.0, 7.5, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])):
        with pytest.raises(ValueError, match="was distilled at scales from 1 to 4"):
            student(x, 3.0, labels=labels, guidance=scale)
    with pytest.raises(ValueError, match="each call must give one"):
        student(x, 3.0, labels=labels)
    with pytest.raises(ValueError, match="low <= high"):
        latent_student(tiny_teacher(), (4.0, 1.0))


def mixture_case(n: int = 64):
    g = torch.Generator().manual_seed(2)
    torch.manual_seed(0)
    student = ConsistencyModel(MLP())
    return MIXTURE.sample(n, g), torch.randn(n, 2, generator=g), karras_sigmas(30), student


@pytest.mark.parametrize("solver", [euler_step, heun_step])
def test_a_skip_of_one_is_the_ordinary_loss(solver):
    x0, noise, sigmas, student = mixture_case()
    index = torch.arange(64) % 29
    options = {"index": index, "noise": noise, "solver": solver, "weight": inverse_gap}
    ordinary = distillation_loss(student, student, MIXTURE, x0, sigmas, **options)
    assert torch.equal(skipping_loss(student, student, MIXTURE, x0, sigmas, 1, **options), ordinary)


def test_skipping_is_one_solver_step_over_k_points_and_ends_at_the_last():
    x0, noise, sigmas, student = mixture_case(29)
    index = torch.arange(29)
    student.requires_grad_(False)
    loss = skipping_loss(student, student, MIXTURE, x0, sigmas, 7, index=index, noise=noise)
    for i in (0, 3, 21, 22, 28):
        high, low = float(sigmas[i]), float(sigmas[min(i + 7, 29)])
        part = slice(i, i + 1)
        x = x0[part] + high * noise[part]
        goal = student(euler_step(MIXTURE, x, high, low), low)
        assert float(loss[i]) == pytest.approx(float((student(x, high) - goal).square().mean()), rel=1e-4)


def test_a_skip_must_lie_on_the_grid():
    x0, _, sigmas, student = mixture_case()
    for skip in (0, -1, 30):
        with pytest.raises(ValueError, match="skip = .*has 1 to 29 steps"):
            skipping_loss(student, student, MIXTURE, x0, sigmas, skip)


def test_distill_takes_the_loss_that_skips():
    """With k = 1 it is the ordinary run to the last bit; with k = 3 another one."""
    recipe = replace(
        LATENT_DIGITS,
        network=replace(LATENT_DIGITS.network, width=8, multipliers=(1, 2), classes=3),
        student=replace(LATENT_DIGITS.student, steps=3, batch=8),
    )
    x, labels = batch(20)
    data, teacher = Dataset("noise", x, x, labels), tiny_teacher()

    def weights(**options):
        student = latent_student(teacher, (1.0, 3.0))
        guided = GuidedDenoiser(teacher, None, null=2)
        *_, state = distill(recipe, guided, data, student=student, guidance=(1.0, 3.0), **options)
        return torch.cat([p.flatten() for p in state.model.parameters()])

    ordinary = weights()
    assert torch.equal(weights(loss=partial(skipping_loss, skip=1)), ordinary)
    assert not torch.equal(weights(loss=partial(skipping_loss, skip=3)), ordinary)


def test_latents_have_the_wanted_size_and_the_scale_is_undone():
    torch.manual_seed(0)
    model, x = Autoencoder(2, 8), torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        before = model.decode(model.encode(x))
        factor = model.calibrate(x)
        assert model.encode(x).shape == (40, 2, 4, 4)
        assert float(model.encode(x).std()) == pytest.approx(0.5, rel=1e-5)
        assert factor == pytest.approx(0.5 / float(model.posterior(x)[0].std()), rel=1e-6)
        assert torch.allclose(model.decode(model.encode(x)), before, atol=1e-5)
    other = Autoencoder(2, 8)
    other.load_state_dict(model.state_dict())
    assert float(other.scale) == factor  # it is stored with the weights


def test_wrong_shapes_are_named():
    model = Autoencoder(2, 8)
    for z in (torch.zeros(3, 1, 4, 4), torch.zeros(2, 4, 4)):
        with pytest.raises(ValueError, match="it decodes"):
            model.decode(z)
    for x in (torch.zeros(3, 3, 8, 8), torch.zeros(3, 1, 7, 7), torch.zeros(3, 64)):
        with pytest.raises(ValueError, match="it encodes"):
            model.encode(x)
    with pytest.raises(ValueError, match="at least 1"):
        Autoencoder(0)


def test_the_autoencoders_loss_by_hand():
    torch.manual_seed(0)
    model, x, noise = Autoencoder(1, 8), torch.randn(3, 1, 8, 8), torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        mean, log_variance = model.posterior(x)
        image = model.decoder(mean + log_variance.exp().sqrt() * noise)
        wanted = (image - x).square().mean((1, 2, 3))
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0))
        loss = autoencoder_loss(model, x, noise, kl=0.3)
    assert torch.allclose(loss, wanted + 0.3 * kl.mean((1, 2, 3)), atol=1e-5)


def test_training_lowers_the_loss_and_sets_the_scale():
    torch.manual_seed(0)
    model, x = Autoencoder(2, 8), torch.rand(64, 1, 8, 8)
    losses = list(train_autoencoder(model, x, 30, batch=32))
    assert losses[-1] < losses[0] / 2
    data = latent_data(model, Dataset("toy", x, x[:8], torch.arange(64) % 3, torch.zeros(8).long()))
    assert (data.name, data.train.shape, data.test.shape) == ("latent-toy", (64, 2, 4, 4), (8, 2, 4, 4))
    assert float(data.train.std()) == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(data.train_labels, torch.arange(64) % 3) and not data.train.requires_grad


def test_the_shipped_digits_and_their_slider():
    """Half precision on disk costs nothing that shows; the student reads as its teacher's labels, and the scale matters."""
    from cdedu import load
    from cdedu.data import digits
    from cdedu.evaluation import digits_classifier

    model, student, data = (
        load("digits-autoencoder").requires_grad_(False),
        load("latent-digits-student"),
        digits(),
    )
    assert float((model.decode(model.encode(data.test)) - data.test).square().mean()) < 0.02
    assert float(latent_data(model, data).train.std()) == pytest.approx(0.5, rel=1e-3)
    labels = torch.arange(100) % 10
    z = 80 * torch.randn(100, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        low, high = (model.decode(student(z, 80.0, labels=labels, guidance=w)) for w in (1.0, 4.0))
        assert (digits_classifier()(low).argmax(1) == labels).float().mean() > 0.9
    assert (low - high).square().mean().sqrt() > 0.1
    with pytest.raises(ValueError, match="scales from 1 to 4"):
        student(z, 80.0, labels=labels, guidance=8.0)
