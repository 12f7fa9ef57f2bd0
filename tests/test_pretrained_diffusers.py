"""Diffusers' models as denoisers in σ, against diffusers' own schedulers, with random weights saved and read back."""

import json
import shutil
import urllib.error
from dataclasses import replace

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from cdedu import checkpoints, pretrained
from cdedu.adapters import IDDPM, VE, VP, DiffusersDenoiser
from cdedu.data import Dataset
from cdedu.fitting import teacher_and_student
from cdedu.pretrained import load_diffusers, load_teacher
from cdedu.recipes import Network, get_recipe
from cdedu.samplers import sample_consistency, sample_ddpm, sample_euler
from cdedu.solvers import euler_step
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher
from cdedu.training import distill, within


def tiny(classes: int = 0, out: int = 1, seed: int = 0) -> UNet2DModel:
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=out,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=4,
        num_class_embeds=classes or None,
    ).eval()


def noise(n: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def levels(scheduler) -> torch.Tensor:
    a = scheduler.alphas_cumprod.double()
    return ((1 - a) / a).sqrt()


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    DDPMPipeline(tiny(), DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@torch.no_grad()
def test_euler_in_sigma_is_ddim(tmp_path, prediction, schedule):
    """Step by step, on the scale of each: x_σ = x_VP √(1 + σ²)."""
    scheduler = DDIMScheduler(
        beta_schedule=schedule,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    DDIMPipeline(tiny(), scheduler).save_pretrained(tmp_path)
    denoiser, net = load_diffusers(tmp_path), tiny()
    scheduler.set_timesteps(10)
    sigmas = levels(scheduler).tolist()
    x = noise()
    if (
        schedule == "squaredcos_cap_v2"
    ):  # its noise reaches σ = 20,291, where float32 has no digits left for data
        denoiser, net, x = denoiser.double(), net.double(), x.double()
    for t in scheduler.timesteps.tolist():
        sigma, sigma_next = sigmas[t], sigmas[max(t - 100, 0)]
        ours = euler_step(denoiser, x * (1 + sigma**2) ** 0.5, sigma, sigma_next) / (1 + sigma_next**2) ** 0.5
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
        assert (ours - x).abs().max() <= 1e-5 * max(1.0, float(x.abs().max())), t


@torch.no_grad()
def test_ancestral_sampling_is_ddpm_in_mean_and_variance(ddpm):
    """The same draw of noise, the same step."""
    scheduler, net = DDPMScheduler(clip_sample=False, timestep_spacing="trailing"), tiny()
    scheduler.set_timesteps(10)
    denoiser, sigmas = load_diffusers(ddpm), levels(scheduler).tolist()
    for t in scheduler.timesteps.tolist()[:-1]:
        sigma, sigma_next, x = sigmas[t], sigmas[t - 100], noise()
        grid = torch.tensor([sigma, sigma_next], dtype=torch.float64)
        for seed in (0, 1):  # two draws, so that mean and standard deviation must both be right
            first, second = (torch.Generator().manual_seed(seed) for _ in range(2))
            ours = sample_ddpm(denoiser, x * (1 + sigma**2) ** 0.5, grid, to_zero=False, generator=first)
            theirs = scheduler.step(net(x, t).sample, t, x, generator=second).prev_sample
            assert (ours / (1 + sigma_next**2) ** 0.5 - theirs).abs().max() <= 1e-5, t


@torch.no_grad()
def test_predictions_of_the_same_image_agree():
    """Three networks that know the same x0, each in its own terms."""
    x0, alphas = noise(seed=7).clamp(-1, 1), DDPMScheduler().alphas_cumprod

    class Knows(torch.nn.Module):
        def __init__(self, prediction: str) -> None:
            super().__init__()
            self.prediction = prediction

        def forward(self, x, t, class_labels=None, return_dict=True):
            a = alphas[t.round().long()].double()[:, None, None, None]
            eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
            v = a.sqrt() * eps - (1 - a).sqrt() * x0
            return ({"epsilon": eps, "sample": x0.double(), "v_prediction": v}[self.prediction],)

    for t in (0, 10, 500, 999):
        sigma = float(levels(DDPMScheduler())[t])
        x = x0.double() + sigma * noise().double()
        for prediction in ("epsilon", "sample", "v_prediction"):
            denoiser = DiffusersDenoiser(Knows(prediction), alphas, prediction)
            assert torch.allclose(denoiser(x, sigma), x0.double(), atol=1e-5), (prediction, t)


def test_time_is_interpolated_in_the_logarithm_of_sigma(ddpm):
    denoiser = load_diffusers(ddpm)
    sigmas = levels(DDPMScheduler())
    assert torch.allclose(denoiser.time(sigmas), torch.arange(1000.0), atol=1e-4)
    between = (sigmas[:-1] * sigmas[1:]).sqrt()
    assert torch.allclose(denoiser.time(between), torch.arange(999) + 0.5, atol=1e-3)
    assert abs(denoiser.sigma_min - 0.0100) < 1e-4 and abs(denoiser.sigma_max - 157.4) < 0.05


def test_outside_its_range_a_teacher_is_clamped_below_and_refuses_above(ddpm):
    denoiser = load_diffusers(ddpm)
    assert denoiser.time(torch.tensor([1e-4, 0.005, 157.5])).tolist() == [0, 0, 999]
    with torch.no_grad():
        assert (denoiser(noise(), 1e-4) - noise()).abs().max() < 1e-3  # D = x − σ ε
    with pytest.raises(ValueError, match="sigma = 200 lies above 157.4"):
        denoiser(noise(), 200.0)
    recipe = within(get_recipe("digits"), denoiser)
    assert (recipe.sigma_min, recipe.sigma_max) == (denoiser.sigma_min, 80.0)
    assert within(recipe, lambda x, s: x) == recipe


@torch.no_grad()
def test_labels_and_learned_variances(tmp_path):
    net = tiny(classes=3, out=2)
    scheduler = DDPMScheduler(variance_type="learned_range")
    DDPMPipeline(net, scheduler).save_pretrained(tmp_path)
    denoiser, labels = load_diffusers(tmp_path), torch.tensor([0, 1, 2, 2])
    assert denoiser.header == checkpoints.Header((1, 8, 8), classes=3, labels=3)
    sigma = float(levels(scheduler)[300])
    x = noise() * sigma
    answer = net(x / (1 + sigma**2) ** 0.5, 300, labels).sample[:, :1]
    assert torch.allclose(denoiser(x, sigma, labels=labels), x - sigma * answer, atol=1e-5)


class Slope(torch.nn.Module):
    """The least that can stand for a network."""

    def forward(self, x, c_noise, labels=None, class_labels=None, return_dict=True):
        out = x * c_noise[:, None, None, None]
        return out if return_dict else (out,)


@pytest.mark.parametrize(
    "model",
    [
        DiffusersDenoiser(Slope(), DDPMScheduler().alphas_cumprod, "v_prediction"),
        VP(Slope()),
        VE(Slope()),
        IDDPM(Slope()),
        ConsistencyModel(Slope()),
        DenoiserStudent(DiffusersDenoiser(Slope(), DDPMScheduler().alphas_cumprod), 0.01),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize(
    "sigma", [3.0, torch.tensor(3.0), torch.linspace(0.5, 20, 4)], ids=["number", "scalar", "each"]
)
def test_a_compiled_adapter_is_one_graph(model, sigma):
    """``fullgraph`` refuses a graph with a break in it; this backend needs no compiler."""
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(noise(), sigma), model(noise(), sigma), atol=1e-5)


def test_a_student_over_a_ddpm_learns_and_keeps_its_boundary(ddpm):
    teacher, data = load_teacher(ddpm), Dataset("noise", noise(32).clamp(-1, 1), noise(8))
    recipe = get_recipe("digits", network=Network("unet", width=8, depth=1))
    recipe = replace(recipe, student=replace(recipe.student, steps=3, batch=8))
    before = [p.clone() for p in teacher.parameters()]
    for state in distill(recipe, teacher, data):
        pass
    student, eps = state.result, teacher.sigma_min
    assert isinstance(student, DenoiserStudent) and student.sigma_min == eps == state.recipe.sigma_min
    assert torch.equal(student(noise(), eps), noise())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


@torch.no_grad()
def test_a_consistency_pipeline_is_a_ready_student(tmp_path):
    scheduler = CMStochasticIterativeScheduler(clip_denoised=False, sigma_data=0.4)
    ConsistencyModelPipeline(tiny(), scheduler).save_pretrained(tmp_path)
    student = load_teacher(tmp_path)
    assert isinstance(student, ConsistencyModel) and (student.sigma_data, student.noise_scale) == (0.4, 250)
    scheduler.set_timesteps(1)
    t, x = scheduler.timesteps[0], 80 * noise()
    theirs = scheduler.step(tiny()(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    assert torch.allclose(student(x, 80.0), theirs, atol=1e-5)


OPENAI = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "num_class_embeds": 1000, "add_attention": True,
    "block_out_channels": (32, 64), "attention_head_dim": 8, "attn_norm_num_groups": 32, "norm_num_groups": 32, "norm_eps": 1e-5,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), "downsample_type": "resnet", "downsample_padding": 1,
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "upsample_type": "resnet", "class_embed_type": None,
    "resnet_time_scale_shift": "scale_shift", "time_embedding_type": "positional", "flip_sin_to_cos": True, "freq_shift": 0,
    "center_input_sample": False, "mid_block_scale_factor": 1, "act_fn": "silu", "dropout": 0.0,
}  # fmt: skip
"""The fields of openai's ImageNet network in diffusers, which no other pipeline here has, with fewer and narrower blocks."""


@pytest.mark.parametrize("steps", [[0], [22, 0], [30, 20, 10, 0]], ids=len)
@pytest.mark.parametrize("clips", [True, False])
@torch.no_grad()
def test_a_student_as_openai_publishes_them_loads_by_its_name(tmp_path, monkeypatch, clips, steps):
    """And samples what ConsistencyModelPipeline samples from the same noise, clipped where its scheduler clips."""
    import huggingface_hub

    torch.manual_seed(0)
    net = UNet2DModel(**OPENAI)
    net.conv_out.weight *= 2  # so that some of it is clipped
    scheduler = CMStochasticIterativeScheduler(40, 0.002, 80.0, clip_denoised=clips)
    pipeline = ConsistencyModelPipeline(net, scheduler)
    pipeline.save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path)
    )
    student = load_teacher("openai/diffusers-cd_imagenet64_l2")
    assert set(asked) == {"openai/diffusers-cd_imagenet64_l2"} and isinstance(student, ConsistencyModel)
    assert student.header.classes == 1000 and (student.sigma_min, student.sigma_max) == (0.002, 80.0)
    assert student.clip == (1.0 if clips else None)
    pipeline.set_progress_bar_config(disable=True)
    x, labels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 999])
    scheduler.set_timesteps(timesteps=steps)
    sigmas = scheduler.sigmas[: len(steps)].tolist()
    options = {"num_inference_steps": None, "timesteps": steps} if len(steps) > 1 else {}
    seeded = [torch.Generator().manual_seed(2) for _ in range(2)]
    theirs = pipeline(2, labels, latents=x.clone(), generator=seeded[0], output_type="pt", **options).images
    ours = sample_consistency(student, 80 * x, sigmas, seeded[1], labels=labels)
    clipped = (ours.abs() >= 1).float().mean()
    assert 0 < clipped < 1 and (ours.abs().max() <= 1) == clips
    assert ((ours / 2 + 0.5).clamp(0, 1) - theirs).abs().max() <= 2e-5


def test_a_student_of_a_folder_is_saved_in_one_file(tmp_path):
    """Without a recipe: its network is described by its own configuration."""
    net = UNet2DModel(**OPENAI | {"sample_size": 8}).eval()
    ConsistencyModelPipeline(net, CMStochasticIterativeScheduler(40, 0.01, 50.0)).save_pretrained(tmp_path)
    student, path = load_teacher(tmp_path), tmp_path / "m.safetensors"
    checkpoints.save(path, student, student.header.recipe, student.header.shape)
    back, x, labels = load_teacher(path), torch.randn(2, 3, 8, 8), torch.tensor([3, 999])
    assert type(back) is ConsistencyModel and back.header.recipe is None
    assert (back.sigma_min, back.sigma_max, back.clip) == (0.01, 50.0, 1.0)
    assert (back.header.shape, back.header.classes, back.header.labels) == ((3, 8, 8), 1000, 1000)
    assert back(x, 3.0, labels=labels).equal(student(x, 3.0, labels=labels))


EDMS = [EDMEulerScheduler, EDMDPMSolverMultistepScheduler]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", EDMS)
@torch.no_grad()
def test_a_network_of_an_edm_scheduler_is_an_edm_teacher(tmp_path, kind, prediction):
    """As the scheduler scales what its network sees and says; then along its own steps."""
    scheduler = kind(sigma_min=0.01, sigma_max=50.0, sigma_data=0.4, prediction_type=prediction)
    DDPMPipeline(tiny(classes=3), scheduler).save_pretrained(tmp_path)
    teacher, net = load_teacher(tmp_path).double(), tiny(classes=3).double()
    assert type(teacher) is Teacher and not teacher.training
    assert (teacher.sigma_data, teacher.noise_scale, teacher.sigma_max) == (0.4, 0.25, 50.0)
    recipe = teacher.header.recipe
    assert (recipe.sigma_data, recipe.sigma_min, recipe.sigma_max) == (0.4, 0.01, 50.0)
    assert (recipe.network, recipe.noise_scale) == (Network("foreign", classes=3), 0.25)
    x, labels = noise().double(), torch.tensor([0, 1, 2, 0])
    for sigma in (0.01, 0.4, 7.0, 50.0):
        s = torch.tensor(sigma, dtype=torch.float64)
        asked = scheduler.precondition_inputs(sigma * x, s), scheduler.precondition_noise(s), labels
        want = scheduler.precondition_outputs(sigma * x, net(*asked).sample, s)
        assert (teacher(sigma * x, sigma, labels=labels) - want).abs().max() <= 1e-10


@torch.no_grad()
def test_a_teacher_of_an_edm_scheduler_walks_as_diffusers_does(tmp_path):
    scheduler = EDMEulerScheduler()
    DDPMPipeline(tiny(), scheduler).save_pretrained(tmp_path)
    teacher, net = load_teacher(tmp_path), tiny()
    scheduler.set_timesteps(10)
    x = theirs = 80 * noise()
    for t in scheduler.timesteps:
        out = net(scheduler.scale_model_input(theirs, t), t).sample
        theirs = scheduler.step(out, t, theirs).prev_sample
    ours = sample_euler(teacher, x, scheduler.sigmas[:-1])
    assert (ours - theirs).abs().max() <= 1e-4


def test_a_teacher_of_an_edm_scheduler_is_distilled_within_its_range_and_saved(tmp_path):
    scheduler = EDMEulerScheduler(sigma_min=0.02, sigma_max=60.0, prediction_type="v_prediction")
    DDPMPipeline(tiny(classes=3), scheduler).save_pretrained(tmp_path)
    data = Dataset("noise", noise(6), noise(6), torch.arange(6) % 3, torch.arange(6) % 3)
    usual = get_recipe("digits")
    usual = replace(usual, student=replace(usual.student, steps=1, batch=2, points=3))
    teacher, path = load_teacher(tmp_path), tmp_path / "teacher.safetensors"
    checkpoints.save(path, teacher, teacher.header.recipe, teacher.header.shape)
    x, labels = noise(), torch.tensor([0, 1, 2, 0])
    assert load_teacher(path)(x, 3.0, labels=labels).equal(teacher(x, 3.0, labels=labels))
    for source in (tmp_path, path):
        recipe, teacher, student = teacher_and_student(str(source), usual, data)
        assert student is None and teacher.sigma_max == 60.0
        assert (recipe.sigma_min, recipe.sigma_max, recipe.noise_scale) == (0.02, 60.0, 0.25)
        *_, state = distill(recipe, teacher, data)
        assert isinstance(state.result, ConsistencyModel) and state.result.sigma_min == 0.02
    checkpoints.save(tmp_path / "student.safetensors", state.result.eval(), recipe, (1, 8, 8))
    back = load_teacher(tmp_path / "student.safetensors")
    assert back(x, 3.0, labels=labels).equal(state.result(x, 3.0, labels=labels))


@pytest.mark.parametrize("kind", EDMS)
@pytest.mark.parametrize(
    "place, change, message",
    [
        ("scheduler", {"prediction_type": "sample"}, "prediction_type = 'sample', but the EDM.* knows epsilon and v_pre"),
        ("scheduler", {"prediction_type": ["epsilon"]}, "prediction_type = a list"),
        ("scheduler", {"prediction_type": None}, "prediction_type = None"),
        ("scheduler", {"sigma_data": 0}, "sigma_data = 0, but it must be a number"),
        ("scheduler", {"sigma_min": "low"}, "sigma_min = 'low'"),
        ("scheduler", {"sigma_min": 80.0}, "sigma_min = 80.0 is not below sigma_max"),
        ("scheduler", {"sigma_max": 10**9}, "sigma_max = 1000000000"),
        ("unet", {"time_embedding_type": "fourier"}, "'fourier', but the EDM.* gives ¼ ln σ to a network of positional time"),
        ("unet", {"time_embedding_type": "learned", "num_train_timesteps": 9}, "time_embedding_type = 'learned'"),
        ("unet", {"out_channels": 2}, "its network makes 2 channels of 1"),
    ],
)  # fmt: skip
def test_what_an_edm_scheduler_cannot_stand_around_is_refused(tmp_path, kind, place, change, message):
    folder = tmp_path / "pipeline"
    DDPMPipeline(tiny(), kind()).save_pretrained(folder)
    path = folder / place / ("config.json" if place == "unet" else "scheduler_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"pipeline cannot be used: .*{message}") as error:
        load_teacher(folder)
    assert len(str(error.value).splitlines()) == 1


def test_a_network_that_adds_to_its_last_convolution_cannot_change_its_sign(tmp_path):
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("SkipDownBlock2D",) * 2, up_block_types=("SkipUpBlock2D",) * 2, add_attention=False,
    )  # fmt: skip
    for prediction in ("epsilon", "v_prediction"):
        scheduler = EDMEulerScheduler(prediction_type=prediction)
        DDPMPipeline(net, scheduler).save_pretrained(tmp_path / prediction)
    assert type(load_teacher(tmp_path / "epsilon")) is Teacher
    with pytest.raises(ValueError, match="adds to the last convolution, so its sign cannot be changed"):
        load_teacher(tmp_path / "v_prediction")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is flow matching, not a diffusion"),
        ({"prediction_type": "flow_prediction"}, "is flow matching, not a diffusion"),
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "no discrete schedule"),
        ({"_class_name": "os.system"}, "no discrete schedule"),
        ({"prediction_type": "score"}, "prediction_type 'score' is not a diffusion's"),
    ],
)
def test_schedulers_that_are_no_diffusion_are_refused(ddpm, tmp_path, change, message):
    folder = shutil.copytree(ddpm, tmp_path / "copy")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_teacher(folder)


def test_real_flow_matching_is_refused_by_name(tmp_path):
    DDPMPipeline(tiny(), FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler is flow matching"):
        load_teacher(tmp_path)


def test_a_schedule_that_reaches_pure_noise_is_refused():
    with pytest.raises(ValueError, match="σ is infinite"):
        DiffusersDenoiser(tiny(), torch.tensor([0.9, 0.5, 0.0]))
    with pytest.raises(ValueError, match="must grow"):
        DiffusersDenoiser(tiny(), torch.tensor([0.5, 0.9]))


def test_damaged_and_foreign_folders_are_refused(ddpm, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder that diffusers saved"):
        load_teacher(tmp_path)
    folder = shutil.copytree(ddpm, tmp_path / "copy")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_teacher(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_teacher(folder)
    config = folder / "unet" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"sample_size": 8', '"sample_size": null'))
    with pytest.raises(ValueError, match="has no sample_size; write"):
        load_teacher(folder)
    weights.write_bytes(whole)
    config.write_text(text.replace("      8,", "      4,").replace("    8,", "    4,"))
    with pytest.raises(ValueError, match="cannot be read: size mismatch"):
        load_teacher(folder)
    config.write_text(text)
    config.write_text(config.read_text().replace("UNet2DModel", "UNet2DConditionModel"))
    with pytest.raises(ValueError, match="is a UNet2DConditionModel, not a UNet2DModel"):
        load_teacher(folder)
    config.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_teacher(folder)


def test_half_precision_weights_are_used_in_float32(tmp_path):
    DDPMPipeline(tiny().half(), DDPMScheduler()).save_pretrained(tmp_path, variant="fp16")
    with pytest.warns(UserWarning, match="half precision; they are used in float32"):
        denoiser = load_teacher(tmp_path)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert torch.isfinite(denoiser(noise(), 1.0)).all()


def test_sources_of_other_kinds(tmp_path, monkeypatch):
    def denoiser(x, sigma, **cond):
        return 0 * x

    assert load_teacher(denoiser) is denoiser
    assert isinstance(load_teacher("digits-teacher"), Teacher)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"none of them")
    with pytest.raises(ValueError, match="is not a checkpoint: neither"):
        load_teacher(path)
    for missing in (tmp_path / "gone.safetensors", "runs/gone.pkl", "/not/there/at/all"):
        with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
            load_teacher(missing)
    with pytest.raises(FileNotFoundError, match="digits-teacher"):
        load_teacher("nobody")


def test_hub_names_and_addresses(ddpm, monkeypatch):
    """The client of the hub is asked for configuration and weights alone; without a network one line says so."""
    import huggingface_hub

    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(ddpm)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for name in (
        "google/ddpm-x",
        "https://huggingface.co/google/ddpm-x",
        "https://huggingface.co/google/ddpm-x/tree/main",
    ):
        assert isinstance(load_teacher(name), DiffusersDenoiser)
    assert asked == [("google/ddpm-x", ["*.json"]), ("google/ddpm-x", ["*.safetensors"])] * 3

    def offline(*_, **__):
        raise ConnectionError("no route\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(OSError, match="no folder google/ddpm-x, and .* cannot be had .*: no route$"):
        load_teacher("google/ddpm-x")

    from cdedu.data import images

    seen = []
    monkeypatch.setattr(
        images, "download", lambda *a: seen.append(a) or checkpoints.shipped("digits-teacher")
    )
    for end, digest in (("", None), ("#sha256=abc", "abc")):
        assert isinstance(load_teacher(f"https://example.org/t.safetensors{end}"), Teacher)
        assert seen[-1][0] == "https://example.org/t.safetensors" and seen[-1][2] == digest
    assert pretrained.locate(ddpm) == ddpm

    def unreachable(*_):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(images, "download", unreachable)
    with pytest.raises(OSError, match="https://example.org/t.pkl cannot be fetched: no route"):
        load_teacher("https://example.org/t.pkl")


@pytest.mark.parametrize("place", ["inside", "around", "nowhere"])
@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_of_a_training_is_read_and_its_average_is_preferred(tmp_path, place, averaged):
    """As diffusers' script leaves it: no scheduler in it, and with --use_ema the averaged network beside the other."""
    folder = tmp_path / "run" / "checkpoint-500"
    tiny(seed=0).save_pretrained(folder / "unet")
    if averaged:
        EMAModel(
            tiny(seed=1).parameters(), model_cls=UNet2DModel, model_config=tiny(seed=1).config
        ).save_pretrained(folder / "unet_ema")
    if place == "nowhere":
        with pytest.raises(
            FileNotFoundError, match="checkpoint-500 is a checkpoint of a training and does not say its"
        ):
            load_teacher(folder)
        return
    DDPMScheduler(100).save_pretrained((folder if place == "inside" else folder.parent) / "scheduler")
    model = load_teacher(folder)
    wanted = tiny(seed=int(averaged)).state_dict()
    assert len(model.alphas_cumprod) == 100
    assert all(t.equal(wanted[name]) for name, t in model.network.net.state_dict().items())


def test_older_weights_of_torch_are_read(tmp_path):
    DDPMPipeline(tiny(), DDPMScheduler()).save_pretrained(tmp_path, safe_serialization=False)
    assert [*tmp_path.glob("unet/*.bin")] and not [*tmp_path.rglob("*.safetensors")]
    found, wanted = load_teacher(tmp_path).network.net.state_dict(), tiny().state_dict()
    assert all(t.equal(found[name]) for name, t in wanted.items())


@pytest.mark.filterwarnings("ignore:Some weights")
def test_a_network_is_never_left_partly_random(ddpm, tmp_path):
    """diffusers itself only warns."""
    folder = shutil.copytree(ddpm, tmp_path / "copy")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["more"] = tensors.pop("conv_in.bias")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match="cannot be read: its weights lack the tensor 'conv_in.bias'"):
        load_teacher(folder)


def test_the_time_of_a_noise_level_lies_where_torch_would_find_it(ddpm):
    """Counted in operations that ONNX has, below, at, between and above the levels."""
    denoiser = load_diffusers(ddpm)
    known = denoiser.log_sigmas
    sigma = torch.cat(
        [known.exp(), (known[1:] + known[:-1]).div(2).exp(), torch.tensor([1e-6, 1e6]).double()]
    )
    i = torch.searchsorted(known, sigma.log()).clamp(1, len(known) - 1)
    low, high = known[i - 1], known[i]
    wanted = (i - 1 + (sigma.log() - low) / (high - low)).clamp(0, len(known) - 1).float()
    assert denoiser.time(sigma).equal(wanted) and denoiser.time(sigma[:6].reshape(2, 3)).equal(
        wanted[:6].reshape(2, 3)
    )
