"""Text-to-image: against diffusers' own LCM scripts, schedulers and pipelines, on tiny models."""

import copy
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import golden_lcm
import pytest
import torch
from torch import Tensor

from cdedu import cli, distillation_loss
from cdedu.adapters import DiffusersDenoiser, Flow
from cdedu.data.captioned import CHUNK, Pairs, encoded
from cdedu.data.dataset import Dataset
from cdedu.latents import check_size, encoders, visiting
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.methods.latent import LatentConsistencyModel, huber, lcm_times
from cdedu.methods.text import (
    ClippedAdamW,
    TextStage,
    check_student,
    distill_text,
    model_sigmas,
    text_student,
    usual_guidance,
)
from cdedu.networks.text import Chunks, Prompts, TextUNet
from cdedu.runtime import Runtime
from cdedu.solvers import euler_step
from cdedu.student import EMA

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from cdedu.networks.lora import adapter_of, fused, is_adapter, with_lora  # noqa: E402
from cdedu.pretrained import load_teacher  # noqa: E402
from cdedu.pretrained.text_export import _unshifted as unshifted  # noqa: E402
from cdedu.pretrained.text_export import export_text, scheduler_of, text_card, usage  # noqa: E402
from cdedu.pretrained.text_to_image import (  # noqa: E402
    TextToImage,
    check_folder,
    load_text_to_image,
    weights_of,
)
from cdedu.pretrained.tiny import KINDS, write_tiny  # noqa: E402

TEXTS = ("two cats", "a dog")
GOLDEN = json.loads(Path(golden_lcm.__file__).with_suffix(".json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: write_tiny(folder / kind, kind) for kind in KINDS}


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A copy of Stable Diffusion's, to break."""
    return shutil.copytree(tiny["sd"], tmp_path / "sd")


def latents(model, n: int = 8) -> Dataset:
    """Latents of 4 × 4 for the texts."""
    x = torch.randn(n, model.header.shape[0], 4, 4, generator=torch.Generator().manual_seed(0))
    return Dataset("random", x, x[:2], torch.arange(n) % 2, torch.arange(2))


def test_any_number_of_calls_begins_at_pure_noise(tiny):
    """Also more of them than the grid has points, and numbers that do not divide the schedule."""
    pipeline = load_text_to_image(tiny["sd"]).pipeline
    top = float(pipeline.denoiser.log_sigmas.exp()[-1])
    for steps in (1, 4, 50, 60, 64, 333, 1000):
        levels = pipeline.levels(steps)
        assert len(levels) == steps and levels[0] == pytest.approx(top)
        assert levels == sorted(set(levels), reverse=True)


def read(path: Path, **options):
    model = load_text_to_image(path, **options)
    model.pipeline.read(TEXTS)
    return model


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- diffusers' scripts


def setting(which: str, prediction: str):
    """The networks and inputs of the golden numbers under this package's names."""
    want = GOLDEN[f"{which}/{prediction}"]
    x0, embeddings = golden_lcm.inputs()
    prompts = Prompts(embeddings)
    alphas = golden_lcm.scheduler(prediction).alphas_cumprod
    teacher = DiffusersDenoiser(TextUNet(golden_lcm.unet(), prompts), alphas, prediction)
    if which == "whole":
        network = TextUNet(golden_lcm.unet(time_cond_proj_dim=32), prompts)
    else:
        network = with_lora(teacher.network, 2, targets=("to_q", "to_k", "to_v"))
        random = golden_lcm.np.random.RandomState(2)
        for p in network.parameters():
            if p.requires_grad:
                p.data = torch.from_numpy(0.2 * random.standard_normal(tuple(p.shape)))
    student = LatentConsistencyModel(DiffusersDenoiser(network, alphas, prediction))
    given = {
        "index": 49 - torch.tensor(want["index"]),
        "noise": torch.tensor(want["noise"], dtype=torch.float64).view_as(x0),
        "labels": torch.arange(len(x0)),
        "guidance": 1 + torch.tensor(want["w"], dtype=torch.float64),
    }
    sigmas = teacher.log_sigmas.exp()[lcm_times()]
    return want, student, GuidedDenoiser(teacher, None, len(x0)), x0, sigmas, given


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("which", ["whole", "lora"])
def test_a_step_is_that_of_diffusers_script(which, prediction):
    """Guided skipping step, loss, gradient clipping and AdamW, in float64."""
    want, student, teacher, x0, sigmas, given = setting(which, prediction)
    target = copy.deepcopy(student)
    loss = distillation_loss(
        student, target, teacher, x0, sigmas, solver=euler_step, distance=huber, **given
    ).mean()
    assert loss.item() == pytest.approx(want["loss"], rel=1e-6)
    optimizer = ClippedAdamW(student.parameters(), golden_lcm.LR)
    loss.backward()
    optimizer.step()
    found = golden_lcm.numbers(student)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(want["after"]), rtol=1e-6, atol=1e-6)
    if which == "whole":
        average = EMA(target, 0.95)
        average.n_averaged += 1  # the scripts average from the first step on
        average.update(student)
        found = [[float(p.sum()), float(p.square().sum())] for p in average.module.parameters()]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(want["target"]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_skipping_step_is_ddims(prediction):
    want, _, teacher, x0, sigmas, given = setting("lora", prediction)
    index = given.pop("index")
    high, low = sigmas[index], sigmas[index + 1]
    with torch.no_grad():
        x = x0 + high[:, None, None, None] * given.pop("noise")
        x = euler_step(teacher, x, high, low, **given)
    on_their_scale = x / (1 + low[:, None, None, None] ** 2).sqrt()
    torch.testing.assert_close(
        on_their_scale.flatten(1).sum(1),
        torch.tensor(want["x_prev"], dtype=torch.float64),
        rtol=1e-6,
        atol=1e-6,
    )


# --- schedulers and pipelines of diffusers


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_the_walk_of_a_flow_scheduler(shift):
    """Euler's steps in σ are Euler's steps in t."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    weight = torch.randn(6, 6, generator=noise(1), dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ weight) + t[:, None] * x

    scheduler.set_timesteps(sigmas=[0.999, 0.7, 0.3, 0.1])
    x = z = torch.randn(3, 6, generator=noise(2), dtype=torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, (t / 1000).double().expand(3)), t, x, return_dict=False)[0].double()
    times = scheduler.sigmas.double()[:-1]

    class Network(torch.nn.Module):
        def forward(self, x, t):
            return velocity(x, t.double())

    flow = Flow(Network(), last=0.9999)
    y = z / (1 - times[0])
    sigmas = [*(times / (1 - times)).tolist(), 0.0]
    for high, low in zip(sigmas, sigmas[1:], strict=False):
        y = euler_step(flow, y, high, low)
    torch.testing.assert_close(y, x, rtol=1e-5, atol=1e-5)


def test_flow_starts_where_sigma_is_finite():
    flow = Flow(torch.nn.Identity(), last=0.999)
    assert flow.sigma_max == pytest.approx(999)
    with pytest.raises(ValueError, match=r"above 999.*t = 0.999"):
        flow(torch.zeros(1, 2), 2000.0)
    with pytest.raises(ValueError, match="last = 1"):
        Flow(torch.nn.Identity(), last=1)


def pictures(
    path: Path, steps: int, seed: int, *, scheduler=None, lora: Path | None = None, **call
) -> Tensor:
    """What diffusers draws of the texts."""
    more = {"text_encoder_3": None, "tokenizer_3": None} if "sd3" in str(path) else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(path, **more)
    if lora is not None:
        pipe.load_lora_weights(lora)
    pipe.scheduler = scheduler or pipe.scheduler
    pipe.set_progress_bar_config(disable=True)
    call.setdefault("guidance_scale", 1.0)
    if "flux" in str(path):
        del call["guidance_scale"]
    torch.manual_seed(seed)  # the pipelines of flows do not hand their generator on
    return pipe(list(TEXTS), num_inference_steps=steps, height=32, width=32, output_type="pt", **call).images


def drawn(loaded, steps: int, seed: int, **options) -> Tensor:
    torch.manual_seed(seed)
    return loaded.pipeline.draw(steps=steps, size=(4, 4), **options) / 2 + 0.5


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_an_adapter_draws_in_diffusers_what_it_draws_here(tiny, tmp_path, kind):
    model = read(tiny[kind])
    stage = TextStage(lora=2, steps=2, batch=4, lr=0.05, points=10)
    *_, state = distill_text(model, latents(model), stage)
    before = drawn(read(tiny[kind], student=True), 3, 5)
    out = export_text(model, state.result, tmp_path / "lora", stage, source=str(tiny[kind]))
    mine = drawn(model, 3, 5, model=state.result)
    assert (mine - before).abs().max() > 1e-3  # it has learned something
    scheduler = scheduler_of(model, stage.points)
    flow = {"sigmas": unshifted(model.pipeline, 3)} if kind == "sd3" else {}
    theirs = pictures(tiny[kind], 3, 5, scheduler=scheduler, lora=out, **flow)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)
    again = read(tiny[kind], lora=out, student=True)
    torch.testing.assert_close(drawn(again, 3, 5), theirs, rtol=0, atol=2e-5)


def test_an_adapter_of_flux_draws_the_same_in_one_step(tiny, tmp_path):
    model = read(tiny["flux"])
    stage = TextStage(lora=2, steps=2, batch=4, lr=0.05, points=10)
    *_, state = distill_text(model, latents(model), stage)
    out = export_text(model, state.result, tmp_path / "lora", stage, source="flux")
    z = torch.randn(2, 4, 4, 4, generator=noise())
    sigma = model.pipeline.levels(1)[0]
    mine = model.pipeline.decode(state.result(model.pipeline.start(z, sigma), sigma, labels=torch.arange(2)))
    packed = diffusers.FluxPipeline._pack_latents(z, 2, 4, 4, 4)
    theirs = pictures(
        tiny["flux"],
        1,
        0,
        lora=out,
        scheduler=scheduler_of(model),
        sigmas=unshifted(model.pipeline, 1),
        latents=packed,
    )
    torch.testing.assert_close(mine / 2 + 0.5, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_a_card_draw_what_is_drawn_here(tiny, tmp_path, monkeypatch, kind):
    """As they stand there. Of several steps, FLUX draws its noise in another order."""
    model = load_text_to_image(tiny[kind])
    model.pipeline.read(["a red fox in snow"])
    stage = TextStage(lora=2, steps=1, batch=2, lr=0.1, points=10, guidance=(2.0,))
    *_, state = distill_text(model, latents(model), stage)
    export_text(model, state.result, tmp_path / "lora", stage, source=str(tiny[kind]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / kind).symlink_to(tiny[kind])
    steps = 1 if kind == "flux" else 3
    lines = usage("lora", model, stage, str(tiny[kind]), steps, (32, 32))
    assert "height" in lines if kind == "flux" else "height" not in lines  # FLUX says no size of its own
    scope: dict = {}
    monkeypatch.setattr(diffusers.DiffusionPipeline, "progress_bar", lambda self, x=None, total=None: _Bar(x))
    lines = lines.replace("image =", "torch.manual_seed(5)\nimage =")
    if kind == "flux":
        z = torch.randn(1, 4, 4, 4, generator=noise())
        packed = diffusers.FluxPipeline._pack_latents(z, 1, 4, 4, 4)
        lines = lines.replace("num_inf", "latents=packed, num_inf")
        scope["packed"] = packed
    exec(lines, scope)
    theirs = torch.tensor(list(scope["image"].tobytes())).view(32, 32, 3).permute(2, 0, 1)
    if kind == "flux":
        sigma = model.pipeline.levels(1)[0]
        start = model.pipeline.start(z, sigma)
        mine = model.pipeline.decode(state.result(start, sigma, labels=torch.zeros(1, dtype=torch.long)))
    else:
        torch.manual_seed(5)
        mine = model.pipeline.draw(steps=3, size=(4, 4), model=state.result)
    assert (127.5 * (mine[0] + 1) - theirs).abs().max() < 1.5


class _Bar(list):
    """No bar."""

    def __init__(self, items=None) -> None:
        super().__init__(items or ())

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...

    def update(self) -> None: ...


def test_a_card_is_safe_and_names_no_path(tiny, tmp_path):
    model = read(tiny["sd"])
    stage = TextStage(lora=2)
    text = text_card("lora", model, stage, 'C:\\new\\my "sd"', None, {"data": "a|b\nc"}, (48, 32))
    assert "base_model" not in text and "C:" not in text and "height=48, width=32" in text
    assert r'from_pretrained("my \"sd\"")' in text and r"| data | a\|b c |" in text
    assert str(tiny["sd"].parent) not in text_card("lora", model, stage, str(tiny["sd"]), None, {})
    with pytest.raises(ValueError, match="one word, such as apache-2.0"):
        export_text(model, None, tmp_path / "x", stage, source="x", license='mit\nfoo: "bar"')


@pytest.mark.parametrize("told", [False, True], ids=["fixed", "input"])
def test_a_whole_student_draws_in_diffusers_what_it_draws_here(tiny, tmp_path, told):
    model = read(tiny["sd"])
    stage = TextStage(
        lora=0,
        steps=3,
        batch=4,
        lr=1e-3,
        guidance=(2.0, 8.0) if told else (4.0,),
        input=told,
        target_rate=0.9,
    )
    *_, state = distill_text(model, latents(model), stage)
    out = export_text(model, state.result, tmp_path / "student", stage, source="sd")
    weight = 6.0 if told else None
    theirs = pictures(out, 2, 3, guidance_scale=6.0 if told else 1.0)
    torch.testing.assert_close(
        drawn(model, 2, 3, model=state.result, guidance=weight), theirs, rtol=0, atol=2e-5
    )
    back = read(out)  # by itself, as a student
    assert isinstance(back, LatentConsistencyModel)
    torch.testing.assert_close(drawn(back, 2, 3, guidance=weight), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_guided_teacher_walks_as_ddim(tmp_path, prediction):
    """Stable Diffusion 1 and 2, on DDIM's own times."""
    path = write_tiny(tmp_path / "sd", "sd", prediction_type=prediction, timestep_spacing="leading")
    model = read(path)
    pipeline = model.pipeline
    known = pipeline.denoiser.log_sigmas.exp()
    pipeline.levels = lambda steps: [float(known[t]) for t in (751, 501, 251, 1)]
    mine = drawn(model, 4, 1, guidance=3.0)
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.pipe.scheduler.config, set_alpha_to_one=True)
    torch.testing.assert_close(
        mine, pictures(path, 4, 1, scheduler=scheduler, guidance_scale=3.0), rtol=0, atol=5e-5
    )


def test_sdxl_reads_the_empty_text_as_zeros(tiny):
    model = read(tiny["sdxl"])
    prompts = model.pipeline.network.prompts
    assert prompts.texts == (*TEXTS, "") and model.header.classes == 3
    assert not prompts.hidden[-1].any() and not prompts.pooled[-1].any() and prompts.pooled[0].any()


def test_latents_and_back_are_on_the_scale_of_the_family(tiny):
    for kind in ("sd", "sd3"):
        pipeline = read(tiny[kind]).pipeline
        vae, x = pipeline.pipe.vae, torch.rand(2, 3, 32, 32, generator=noise()) * 2 - 1
        shift = vae.config.shift_factor or 0.0
        with torch.no_grad():
            wanted = (vae.encode(x).latent_dist.mean - shift) * vae.config.scaling_factor
            back = vae.decode(wanted / vae.config.scaling_factor + shift).sample.clamp(-1, 1)
        torch.testing.assert_close(pipeline.encode(x), wanted)
        torch.testing.assert_close(pipeline.decode(wanted), back)


def test_pictures_go_to_where_the_autoencoder_is(tiny):
    """Those of a folder are on the CPU, the autoencoder on a GPU; meta stands for that."""
    pipeline = read(tiny["sd"]).pipeline
    pipeline.pipe.vae.to("meta")
    assert pipeline.encode(torch.zeros(1, 3, 32, 32)).device.type == "meta"


# --- prompts, adapters, training


def test_prompts_in_chunks_are_prompts_in_one():
    whole = torch.randn(7, 2, 3, generator=noise())
    parts = Chunks([whole[:3], whole[3:4], whole[4:]])
    index = torch.tensor([6, 0, 3, 3, 2, 4])
    assert parts.shape == (7, 2, 3) and len(parts) == 7
    assert parts[index].equal(whole[index])
    with pytest.raises(ValueError, match=r"want \(K, L, C\)"):
        Prompts(whole[0])


def test_an_adapter_shares_what_is_frozen(tiny):
    model = read(tiny["sd"])
    teacher = model.pipeline.network
    before = copy.deepcopy(teacher.net.state_dict())
    network = with_lora(teacher, 3)
    average = EMA(network, 0.5)
    for made in (network, average.module, copy.deepcopy(network)):
        assert all(is_adapter(name) for name in made.state_dict())
        theirs = {id(p) for p in teacher.parameters()}
        assert {id(p) for name, p in made.named_parameters() if not is_adapter(name)} == theirs
        made.load_state_dict(made.state_dict())
    x, t, labels = torch.randn(2, 4, 4, 4), torch.tensor([5.0, 900.0]), torch.arange(2)
    assert network(x, t, labels).equal(teacher(x, t, labels))  # B is 0 at the start
    *_, state = distill_text(model, latents(model), TextStage(lora=3, steps=2, batch=4, lr=0.1))
    assert all(t.equal(before[name]) for name, t in teacher.net.state_dict().items())
    assert not state.result.denoiser.network(x, t, labels).equal(teacher(x, t, labels))
    plain = fused(state.result.denoiser.network)
    assert not any(is_adapter(name) for name in plain.state_dict())
    torch.testing.assert_close(
        TextUNet(plain, teacher.prompts)(x, t, labels),
        state.result.denoiser.network(x, t, labels),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="has an adapter already"):
        with_lora(network, 3)


def test_a_student_that_is_told_the_weight_starts_as_its_teacher(tiny):
    model = read(tiny["sd"])
    student = text_student(model, TextStage(lora=0, input=True))
    x, labels = torch.randn(2, 4, 4, 4), torch.arange(2)
    mine = student.denoiser(x, 3.0, labels=labels, guidance=7.0)
    torch.testing.assert_close(mine, model(x, 3.0, labels=labels))
    with pytest.raises(ValueError, match="cannot take the guidance weight"):
        text_student(read(tiny["sd3"]), TextStage(lora=0, input=True))


def test_the_weights_of_a_family_are_those_that_it_is_drawn_with(tiny):
    """LCM's ω from 5 to 15 is w from 6 to 16; a flow has its pipeline's own; FLUX.1 dev is told a number, and not guided."""
    found = {kind: usual_guidance(load_text_to_image(tiny[kind])) for kind in KINDS}
    assert found == {"sd": (6.0, 16.0), "sdxl": (6.0, 16.0), "sd3": (7.0,), "flux": (1.0,)}


@pytest.fixture
def dev(tiny):
    """A FLUX that is told its guidance weight, as FLUX.1 dev is."""
    model = load_text_to_image(tiny["flux"])
    network = model.pipeline.network
    net = diffusers.FluxTransformer2DModel.from_config({**network.net.config, "guidance_embeds": True})
    missing, _ = net.load_state_dict(network.net.state_dict(), strict=False)
    assert missing
    network.net = net.eval().requires_grad_(False)
    model.pipeline.read(TEXTS)
    return model


def test_a_flux_that_is_told_its_weight_is_not_guided_on_top(dev, monkeypatch):
    assert usual_guidance(dev) == (3.5,)
    monkeypatch.setattr("cdedu.methods.text.GuidedDenoiser", lambda *_: pytest.fail("guided on top"))
    seen = []
    hear = lambda net, _, given: seen.extend(given["guidance"].tolist())  # noqa: E731
    dev.pipeline.network.net.register_forward_pre_hook(hear, with_kwargs=True)
    stage = TextStage(lora=2, steps=1, batch=2, points=10, guidance=(5.0,))
    *_, state = distill_text(dev, latents(dev), stage)
    assert set(seen) == {5.0} and state.result.denoiser.network.told == 5.0
    assert "guidance_scale=5.0" in usage("lora", dev, stage, "a/b")
    with pytest.raises(ValueError, match="is told one weight; give one, such as 5"):
        text_student(dev, TextStage(lora=2))


def test_what_a_teacher_cannot_be_used_with_is_refused_before_any_work(tiny, tmp_path):
    sd = read(tiny["sd"])
    for model, options, text in (
        (sd, {"lora": 100_000}, r"lora = 100,000, but the largest matrix of this network has rank 32"),
        (sd, {"lora": 2, "points": 600}, r"points = 600.*give a divisor of 1,000, such as 500"),
        (read(tiny["sd3"]), {"lora": 0, "input": True}, "cannot take the guidance weight"),
    ):
        with pytest.raises(ValueError, match=text):
            check_student(model, TextStage(**options))
    check_student(read(tiny["sd3"]), TextStage(lora=2, points=30))
    student = text_student(sd, TextStage(lora=0, input=True))
    out = export_text(sd, student, tmp_path / "told", TextStage(lora=0, input=True), source="sd")
    with pytest.raises(ValueError, match="distill from the model that it was made of"):
        check_student(read(out, student=False), TextStage(lora=2))


def test_a_batch_may_be_computed_in_parts_of_any_size(tiny):
    """To the same weights, but for rounding."""
    model = read(tiny["sd"])
    stage = TextStage(lora=2, steps=2, batch=4, lr=1e-2, points=10, guidance=(2.0, 4.0))
    found = []
    for parts in (None, 1, 3):
        student, seen = text_student(model, stage), list[int]()
        hear = lambda net, given, seen=seen: seen.append(len(given[0]))  # noqa: E731
        student.denoiser.network.register_forward_pre_hook(hear)
        runtime = Runtime(torch.device("cpu"), micro_batch=parts)
        *_, state = distill_text(model, latents(model), stage, runtime=runtime, student=student)
        assert max(seen) == (parts or 4)
        found.append(adapter_of(state.model.denoiser.network))
    for other in found[1:]:
        for name, t in found[0].items():
            torch.testing.assert_close(t, other[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_resumed_to_the_last_bit(tiny, kind):
    model = read(tiny[kind])
    stage = TextStage(lora=2, steps=4, batch=4, lr=1e-2, points=10)
    *_, whole = distill_text(model, latents(model), stage)
    first = {}
    for state in distill_text(model, latents(model), stage):
        if state.step == 2:
            first = {name: t.clone() for name, t in state.tensors().items()}
            break
    *_, resumed = distill_text(model, latents(model), stage, resume=(first, 2))
    assert all(t.equal(whole.tensors()[name]) for name, t in resumed.tensors().items())


def test_the_grid_of_a_flow_ends_near_the_data(tiny):
    sigmas = model_sigmas(read(tiny["sd3"]), 20)
    assert (
        len(sigmas) == 21 and sigmas[0] == pytest.approx(999) and sigmas[-1] == pytest.approx(0.001, rel=1e-2)
    )
    assert (sigmas.diff() < 0).all()


def test_bad_stages_are_refused():
    for options, text in (
        ({"guidance": (8.0, 2.0)}, "a lower and a higher"),
        ({"guidance": (-1.0,)}, "guidance = -1, but a guidance weight is from 1 to 100"),
        ({"guidance": (0.0,)}, "1 is the text alone"),
        ({"guidance": (1.0, 1e6)}, "from 1 to 100"),
        ({"input": True}, "trained whole"),
        ({"lr": 0.0}, "lr"),
    ):
        with pytest.raises(ValueError, match=text):
            TextStage(**options)


# --- folders that are broken, or mean harm


def test_a_folder_that_is_whole_is_known(tiny):
    names = {kind: check_folder(path)[0].name for kind, path in tiny.items()}
    assert names == {
        "sd": "Stable Diffusion 1 or 2",
        "sdxl": "SDXL",
        "sd3": "Stable Diffusion 3",
        "flux": "FLUX",
    }
    assert isinstance(load_teacher(tiny["flux"]), Flow)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickled(folder: Path) -> None:
    for path in (folder / "unet").glob("*.safetensors"):
        path.with_suffix(".bin").write_bytes(b"\x80\x02cos\nsystem\n")
        path.unlink()


def rename(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["another"] = tensors.pop(min(tensors))
    save_file(tensors, path)


BROKEN = {
    "code of its own": (lambda f: (f / "unet" / "model.py").write_text("raise SystemExit"), "never run"),
    "auto_map": (lambda f: change(f / "text_encoder/config.json", auto_map={"AutoModel": "a.B"}), "auto_map"),
    "another library": (
        lambda f: change(f / "model_index.json", unet=["evil", "UNet2DConditionModel"]),
        "evil",
    ),
    "another class": (
        lambda f: change(f / "model_index.json", text_encoder=["transformers", "GPT2Model"]),
        "GPT2Model",
    ),
    "another pipeline": (
        lambda f: change(f / "model_index.json", _class_name="KandinskyPipeline"),
        "Kandinsky",
    ),
    "a part that climbs out": (
        lambda f: change(f / "model_index.json", **{"../x": ["diffusers", "AutoencoderKL"]}),
        "no part",
    ),
    "pickles": (pickled, "unpickled"),
    "a missing part": (lambda f: shutil.rmtree(f / "vae"), "no vae"),
    "missing weights": (lambda f: [p.unlink() for p in (f / "vae").glob("*.safetensors")], "no weights"),
    "an index that climbs out": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../../x"}})
        ),
        "does not lie beside it",
    ),
    "a monstrous width": (
        lambda f: change(f / "unet/config.json", block_out_channels=[10**9, 32]),
        "1000000000",
    ),
    "a monstrous depth": (
        lambda f: change(f / "text_encoder/config.json", num_hidden_layers=100_000),
        "num_hidden_layers",
    ),
    "a tensor of another name": (
        lambda f: rename(f / "unet/diffusion_pytorch_model.safetensors"),
        "lack the tensor",
    ),
    "too few weights": (
        lambda f: change(f / "unet/config.json", cross_attention_dim=4096),
        "its weights are",
    ),
    "half a file": (
        lambda f: (p := f / "unet/diffusion_pytorch_model.safetensors").write_bytes(p.read_bytes()[:5000]),
        "cannot be",
    ),
    "no schedule": (lambda f: change(f / "scheduler/scheduler_config.json", beta_schedule=3), "scheduler"),
    "a schedule without end": (
        lambda f: change(f / "scheduler/scheduler_config.json", num_train_timesteps=3 * 10**8),
        "scheduler.*num_train_timesteps = 300000000",
    ),
    "a schedule in words": (
        lambda f: change(f / "scheduler/scheduler_config.json", original_inference_steps="x"),
        "original_inference_steps = 'x'",
    ),
    "a shift of nothing": (lambda f: change(f / "scheduler/scheduler_config.json", shift=0), "shift = 0"),
    "a size below 0": (lambda f: change(f / "unet/config.json", sample_size=-4), "sample_size = -4"),
    "a monstrous size": (
        lambda f: change(f / "unet/config.json", sample_size=[64, 10**6]),
        "sample_size = 1000000",
    ),
    "no size": (lambda f: change(f / "unet/config.json", sample_size=None), "no sample_size; write"),
    "a scale in words": (lambda f: change(f / "vae/config.json", scaling_factor="x"), "scaling_factor = 'x'"),
    "a scale of nothing": (lambda f: change(f / "vae/config.json", scaling_factor=0), "scaling_factor = 0"),
    "a shift in words": (lambda f: change(f / "vae/config.json", shift_factor="x"), "shift_factor = 'x'"),
    "means of other channels": (
        lambda f: change(f / "vae/config.json", latents_mean=[0.0]),
        "latents_mean is a list of 1",
    ),
    "widths of nothing": (
        lambda f: change(f / "vae/config.json", latents_std=[1, 1, 1, 0]),
        "latents_std = 0",
    ),
    "no channels": (lambda f: change(f / "vae/config.json", block_out_channels=[]), "block_out_channels"),
    "pictures of four colours": (lambda f: change(f / "vae/config.json", in_channels=4), "in_channels = 4"),
    "code from the hub": (
        lambda f: change(f / "text_encoder/config.json", attn_implementation="evil/kernel"),
        "attn_implementation = 'evil/kernel'",
    ),
    "code from the hub, by another name": (
        lambda f: change(
            f / "text_encoder/config.json", text_config={"_attn_implementation": {"": "evil/kernel"}}
        ),
        "never run",
    ),
    "packed weights": (
        lambda f: change(
            f / "text_encoder/config.json", quantization_config={"quant_method": "bitsandbytes"}
        ),
        "quantization_config",
    ),
    "packed weights of the network": (
        lambda f: change(f / "unet/config.json", quantization_config={"quant_method": "torchao"}),
        "quantization_config",
    ),
    "trust": (
        lambda f: change(f / "tokenizer/tokenizer_config.json", trust_remote_code=True),
        "trust_remote_code",
    ),
    "another model for its adapter": (
        lambda f: (f / "text_encoder/adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}'),
        "adapter_config.json",
    ),
    "zero terminal SNR": (
        lambda f: change(f / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        "zero terminal SNR",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(folder, name, monkeypatch):
    harm, text = BROKEN[name]
    harm(folder)
    monkeypatch.setattr("os.system", lambda command: pytest.fail("something was run"))
    if not any((folder / "model_index.json").read_text().count(word) for word in ("Kandinsky",)):
        with pytest.raises((ValueError, FileNotFoundError), match=text):
            load_text_to_image(folder)
    with pytest.raises((ValueError, FileNotFoundError)):
        load_teacher(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors[next(iter(tensors))].fill_(float("nan"))
    save_file(tensors, path)
    with pytest.raises(ValueError, match="NaN|finite"):
        load_text_to_image(folder)


def test_what_no_text_was_read_for_is_not_drawn(tiny):
    model = load_text_to_image(tiny["sd"])
    with pytest.raises(ValueError, match="no text was read"):
        model.pipeline.draw()
    with pytest.raises(ValueError, match="Set texts first"):
        model(torch.zeros(1, 4, 4, 4), 1.0, labels=torch.zeros(1, dtype=torch.long))


# --- adapters of others

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
WORDS = "encoder.layers.0.self_attn.out_proj"
PUBLISHED = {
    "peft": ("sd", {"unet": "unet.{unet}.lora_A.weight", "text_encoder": "text_encoder.text_model.{words}.lora_A.weight"}),
    "peft, flat": ("sd", {"text_encoder": "text_encoder.{words}.lora_A.weight"}),
    "diffusers, early": (
        "sd",
        {
            "unet": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
            "text_encoder": "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight",
        },
    ),
    "diffusers": ("sd", {"unet": "unet.{unet}.lora.down.weight"}),
    "kohya, LCM-LoRA": ("sd", {"unet": "lora_unet_{unet_}.lora_down.weight"}),
    "kohya": (
        "sd",
        {"unet": "lora_unet_{unet_}.lora_down.weight", "text_encoder": "lora_te_text_model_{words_}.lora_down.weight"},
    ),
    "kohya, SDXL": (
        "sdxl",
        {
            "unet": "lora_unet_{unet_}.lora_down.weight",
            "text_encoder": "lora_te1_text_model_{words_}.lora_down.weight",
            "text_encoder_2": "lora_te2_text_model_{words_}.lora_down.weight",
        },
    ),
    "SD3": (
        "sd3",
        {
            "transformer": "transformer.{block}.lora_A.weight",
            "text_encoder": "text_encoder.text_model.{words}.lora_A.weight",
            "text_encoder_2": "text_encoder_2.text_model.{words}.lora_A.weight",
        },
    ),
    "FLUX": (
        "flux",
        {
            "transformer": "transformer.{block}.lora_A.weight",
            "text_encoder": "text_encoder.text_model.{words}.lora_A.weight",
        },
    ),
    "FLUX, kohya": ("flux", {"text_encoder": "lora_te1_text_model_{words_}.lora_down.weight"}),
}  # fmt: skip
"""How published files name the first matrix of an adapter's pair, by the part that it is for."""
BLOCK = "transformer_blocks.0.attn.to_q"


def pair_names(form: str) -> tuple[str, str]:
    names = {"unet": UNET, "words": WORDS, "block": BLOCK}
    names |= {f"{key}_": name.replace(".", "_") for key, name in names.items()}
    down = form.format(**names)
    up = down.replace("lora_A", "lora_B").replace("lora_down", "lora_up").replace(".down.", ".up.")
    return down, up


def matrix(pipe, part: str) -> Tensor:
    """The matrix that all these adapters change."""
    place = WORDS if part.startswith("text") else UNET if part == "unet" else BLOCK
    found = [m for name, m in getattr(pipe, part).named_modules() if name.endswith(place)]
    return found[0].weight.detach().clone()


def write_adapter(path: Path, kind: str, forms: dict[str, str], model) -> dict[str, Tensor]:
    """An adapter in a published form; returns what it adds to each part."""
    from safetensors.torch import save_file

    tensors, added = {}, {}
    for i, (part, form) in enumerate(forms.items()):
        out, width = matrix(model.pipeline.pipe, part).shape
        down, up = torch.randn(2, width, generator=noise(i)), torch.randn(out, 2, generator=noise(i + 9))
        tensors |= dict(zip(pair_names(form), (down.half(), up.half()), strict=True))
        added[part] = up.half().float() @ down.half().float()
        if form.startswith("lora_"):
            tensors[pair_names(form)[0].replace("lora_down.weight", "alpha")] = torch.tensor(1.0)
            added[part] = added[part] / 2
    save_file(tensors, path)
    return added


@pytest.mark.parametrize("name", PUBLISHED)
def test_adapters_in_published_forms_are_added_whole(tiny, tmp_path, name):
    kind, forms = PUBLISHED[name]
    before = load_text_to_image(tiny[kind])
    added = write_adapter(tmp_path / "a.safetensors", kind, forms, before)
    after = load_text_to_image(tiny[kind], lora=tmp_path / "a.safetensors", student=False)
    for part, more in added.items():
        mine = matrix(after.pipeline.pipe, part) - matrix(before.pipeline.pipe, part)
        torch.testing.assert_close(mine, more, rtol=1e-3, atol=1e-3)
    assert not any("lora" in key for key in after.state_dict())


def test_adapters_that_do_not_fit_are_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    path, sd = tmp_path / "a.safetensors", load_text_to_image(tiny["sd"])
    write_adapter(path, "sd", PUBLISHED["peft"][1], sd)
    whole = load_file(path)
    unet = {key: t for key, t in whole.items() if key.startswith("unet")}
    (key, t), (other, u) = unet.items()

    def refused(tensors: dict[str, Tensor], kind: str = "sd") -> str:
        save_file(tensors, path)
        with pytest.raises(ValueError, match="a.safetensors cannot be added to") as error:
            load_text_to_image(tiny[kind], lora=path)
        return str(error.value)

    for kind in ("sd3", "flux"):
        assert "fit nothing there" in refused(unet, kind)
    for prefix in ("transformer.", "foo.bar.", ""):
        assert "2 of its 2 tensors" in refused({prefix + k.removeprefix("unet."): v for k, v in unet.items()})
    half = {k.replace("attn1", "attn9"): v.clone() for k, v in unet.items()}
    assert "2 of its 4 tensors fit nothing there, such as 'unet." in refused(unet | half)
    assert "text_encoder_9" in refused(whole | {"text_encoder_9.x.lora_A.weight": t + 1})
    assert "lacks the tensor unet." in refused(unet | {key.replace("attn1", "attn2"): t + 1})
    assert "cannot be added" in refused({key: t})
    assert "DoRA" in refused(unet | {key.replace("lora_A.weight", "dora_scale"): t + 1})
    assert "cannot be added" in refused({key: t[:, :-1].contiguous(), other: u})
    assert "lora" in refused({"unet.x.weight": t})
    assert sd.pipeline.digest() == load_text_to_image(tiny["sd"]).pipeline.digest()


def test_which_adapter_of_a_folder(tiny, folder, tmp_path):
    sd = load_text_to_image(tiny["sd"])
    form = PUBLISHED["kohya, LCM-LoRA"][1]
    write_adapter(
        folder / "lcm.safetensors", "sd", form, sd
    )  # beside a pipeline, whose scheduler is not its own
    assert load_text_to_image(folder, lora=folder / "lcm.safetensors").pipeline.points == 50
    with pytest.raises(FileNotFoundError, match="is no adapter; give a .safetensors file"):
        load_text_to_image(folder, lora=folder)
    (several := tmp_path / "several").mkdir()
    for name in ("a", "b"):
        write_adapter(several / f"{name}.safetensors", "sd", form, sd)
    with pytest.raises(ValueError, match=r"several adapters: a.safetensors, b.safetensors; give the path"):
        load_text_to_image(folder, lora=several)
    shutil.copy(several / "b.safetensors", several / "pytorch_lora_weights.safetensors")
    assert load_text_to_image(folder, lora=several)
    scheduler = several / "scheduler"
    shutil.copytree(folder / "scheduler", scheduler)
    change(scheduler / "scheduler_config.json", _class_name="LCMScheduler", num_train_timesteps=10**9)
    with pytest.raises(ValueError, match="num_train_timesteps = 1000000000"):
        load_text_to_image(folder, lora=several)


def test_parts_in_different_precisions_are_read(tiny, folder):
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        file = folder / part / f"{name}.safetensors"
        file.rename(folder / part / f"{name}.fp16.safetensors")
    mine, theirs = read(folder), read(tiny["sd"])
    assert mine.pipeline.digest() == theirs.pipeline.digest()
    assert mine.pipeline.encoders() == theirs.pipeline.encoders()
    sharded = folder / "vae" / "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
    sharded.touch()
    assert weights_of(folder / "vae")[1] == [folder / "vae/diffusion_pytorch_model.safetensors"]
    half = load_text_to_image(tiny["sd"], dtype=torch.bfloat16).pipeline.pipe
    assert {p.dtype for part in (half.unet, half.vae, half.text_encoder) for p in part.parameters()} == {
        torch.bfloat16
    }


def test_what_is_fetched_of_a_model_on_the_hub(tiny, folder, tmp_path, monkeypatch):
    """The weights in full precision, and those in half where there are no others."""
    from fnmatch import fnmatch

    import huggingface_hub

    from cdedu.pretrained import locate

    unet, vae = (folder / part / "diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
    unet.rename(unet.with_suffix(".fp16.safetensors"))
    shutil.copy(vae, vae.with_suffix(".fp16.safetensors"))
    shutil.copy(vae, vae.with_suffix(".non_ema.safetensors"))

    def snapshot(name: str, allow_patterns, ignore_patterns=()) -> str:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            place = path.relative_to(folder).as_posix()
            if any(fnmatch(place, p) for p in allow_patterns) and not any(
                fnmatch(place, p) for p in ignore_patterns
            ):
                (tmp_path / "hub" / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "hub" / place)
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    found = locate("some/model")
    assert read(found).pipeline.encoders() == read(tiny["sd"]).pipeline.encoders()
    assert [p.name for p in (found / "vae").glob("*.safetensors")] == [vae.name]


def test_sdxl_has_a_mean_and_a_width_for_each_channel(tiny, tmp_path):
    path = shutil.copytree(tiny["sdxl"], tmp_path / "sdxl")
    values = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 3.0]}
    change(path / "vae/config.json", **values)
    pipeline = read(path).pipeline
    z = torch.randn(2, 4, 4, 4, generator=noise())
    mean, std = (torch.tensor(v).view(1, 4, 1, 1) for v in values.values())
    wanted = pipeline.pipe.vae.decode(z * std / pipeline.pipe.vae.config.scaling_factor + mean).sample
    torch.testing.assert_close(pipeline.decode(z), wanted.clamp(-1, 1))
    scheduler = diffusers.LCMScheduler.from_config(pipeline.pipe.scheduler.config)
    theirs = pictures(path, 2, 3, scheduler=scheduler)  # whose pipeline decodes
    torch.testing.assert_close(drawn(read(path, student=True), 2, 3), theirs, rtol=0, atol=2e-5)
    x = torch.rand(2, 3, 32, 32, generator=noise()) * 2 - 1
    latent = pipeline.pipe.vae.encode(x).latent_dist.mean
    torch.testing.assert_close(
        pipeline.encode(x), (latent - mean) * pipeline.pipe.vae.config.scaling_factor / std
    )


def test_texts_that_are_cut_are_told_once(tiny):
    pipeline = load_text_to_image(tiny["sd"]).pipeline
    with pytest.warns(UserWarning, match=r"'a a a.*has 22 tokens.*first 16"):
        pipeline.read(["a cat", "a " * 20])
    pipeline.read(["a " * 20])


def test_a_model_in_a_single_file_is_told_how_to_become_a_folder(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "dream.safetensors"
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(1)}, path)
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02cos\nsystem\n")
    for load in (load_teacher, load_text_to_image):
        with pytest.raises(ValueError, match=r"from_single_file\(\"dream.safetensors\"\).save_pretrained"):
            load(path)
        with pytest.raises(ValueError, match="pickle, which runs what it holds"):
            load(tmp_path / "old.ckpt")


# --- captions, and the command line


@pytest.fixture
def captioned(tmp_path) -> Path:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    names = {}
    for i in range(6):
        colour = ("red", "green", "blue")[i % 3]
        Image.new("RGB", (40, 36), colour).save(folder / f"{i}.png")
        names[f"{i}.png"] = f"{colour} paper"
    (folder / "captions.json").write_text(json.dumps(names))
    return folder


def test_captions_come_in_four_forms(captioned, tmp_path):
    names = json.loads((captioned / "captions.json").read_text())
    wanted = Pairs(str(captioned), (32, 32))
    rows = [{"file_name": name, "text": text} for name, text in names.items()]
    lines = shutil.copytree(captioned, tmp_path / "lines")
    (lines / "captions.json").unlink()
    (lines / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    beside = shutil.copytree(captioned, tmp_path / "beside")
    (beside / "captions.json").unlink()
    for name, text in names.items():
        (beside / name).with_suffix(".txt").write_text(text)
    import pyarrow as pa
    import pyarrow.parquet as parquet

    images = [{"bytes": (captioned / name).read_bytes(), "path": name} for name in names]
    parquet.write_table(pa.table({"image": images, "text": list(names.values())}), tmp_path / "table.parquet")
    for source in (lines, beside, tmp_path / "table.parquet"):
        found = Pairs(str(source), (32, 32))
        assert found.captions == wanted.captions
        assert found.batch(0, 6).equal(wanted.batch(0, 6))
    assert wanted.batch(0, 1).shape == (1, 3, 32, 32) and wanted.batch(0, 1)[0, 0].mean() == pytest.approx(1)
    (beside / "0.txt").unlink()
    assert len(Pairs(str(beside), (32, 32))) == 5
    for path in beside.glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no captions; add captions.json"):
        Pairs(str(beside), (32, 32))
    with pytest.raises(FileNotFoundError, match="there is no nothing-here"):
        Pairs("nothing-here", (32, 32))


def test_each_picture_and_each_text_is_encoded_once(tiny, captioned, tmp_path, monkeypatch):
    monkeypatch.setattr("cdedu.data.captioned.CHUNK", 4)
    assert CHUNK == 256
    pipeline = load_text_to_image(tiny["sd"]).pipeline
    seen: list[int] = []

    def encode(images: Tensor) -> Tensor:
        seen.append(len(images))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return pipeline.encode(images)

    pairs = Pairs(str(captioned), (32, 32))
    with pytest.raises(KeyboardInterrupt):
        encoded(pairs, tmp_path / "cache", encode, pipeline.embed, "sd")
    data, prompts = encoded(pairs, tmp_path / "cache", encode, pipeline.embed, "sd")
    assert seen == [4, 2, 2]  # the first file was kept
    again = encoded(
        pairs,
        tmp_path / "cache",
        lambda x: pytest.fail("encoded again"),
        lambda x: pytest.fail("read again"),
        "sd",
    )
    torch.testing.assert_close(again[0].train, pipeline.encode(pairs.batch(0, 6)))
    assert data.train.equal(again[0].train)
    assert (
        prompts.texts == ("blue paper", "green paper", "red paper", "")
        and data.train_labels.tolist() == [2, 1, 0] * 2
    )
    hidden, _ = pipeline.embed(prompts.texts)
    torch.testing.assert_close(prompts.rows(torch.arange(4), hidden)[0], hidden)


class Counting:
    """The encoders of a pipeline, which count what they are given."""

    def __init__(self, pipeline) -> None:
        self.pipeline, self.pictures, self.texts = pipeline, 0, 0

    def __call__(self, source: Path, cache: Path, size=(32, 32)):
        self.pictures = self.texts = 0
        return encoded(Pairs(str(source), size), cache, self.encode, self.embed, self.pipeline.encoders())

    def encode(self, images: Tensor) -> Tensor:
        self.pictures += len(images)
        return self.pipeline.encode(images)

    def embed(self, texts):
        self.texts += len(texts)
        return self.pipeline.embed(texts)


@pytest.fixture
def count(tiny) -> Counting:
    return Counting(load_text_to_image(tiny["sd"]).pipeline)


def test_the_cache_knows_a_picture_by_what_it_is(count, captioned, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("cdedu.data.captioned.CHUNK", 4)
    first, _ = count(captioned, tmp_path / "cache")
    assert (count.pictures, count.texts) == (6, 4)
    (captioned / "1.png").unlink()  # the others keep their latents
    fewer, _ = count(captioned, tmp_path / "cache")
    assert (count.pictures, count.texts) == (0, 0)
    assert fewer.train.equal(first.train[[0, 2, 3, 4, 5]])
    Image.new("RGB", (40, 36), "black").save(captioned / "3.png")  # the same name, another picture
    names = json.loads((captioned / "captions.json").read_text()) | {"3.png": "black paper"}
    (captioned / "captions.json").write_text(json.dumps(names))
    other, prompts = count(captioned, tmp_path / "cache")
    assert (count.pictures, count.texts) == (1, 1)
    assert other.train[[0, 1, 3, 4]].equal(first.train[[0, 2, 4, 5]])
    assert not other.train[2].allclose(first.train[3])
    torch.testing.assert_close(
        other.train, count.pipeline.encode(Pairs(str(captioned), (32, 32)).batch(0, 5))
    )
    assert prompts.texts == ("black paper", "blue paper", "green paper", "red paper", "")
    wanted = count.pipeline.embed(prompts.texts)[0]
    torch.testing.assert_close(prompts.rows(torch.arange(5), wanted)[0], wanted)
    count(captioned, tmp_path / "cache", (16, 16))
    assert count.pictures == 5


def test_the_cache_knows_the_encoders_by_their_weights(count, captioned, tmp_path):
    before, _ = count(captioned, tmp_path / "cache")
    told = count.pipeline.encoders()
    with torch.no_grad():
        next(count.pipeline.pipe.vae.encoder.parameters()).mul_(2)
    assert count.pipeline.encoders() != told
    after, _ = count(captioned, tmp_path / "cache")
    assert count.pictures == 6 and not after.train.allclose(before.train)
    told = count.pipeline.encoders()
    count.pipeline.pipe.text_encoder.to(torch.bfloat16)
    assert count.pipeline.encoders() != told
    told = count.pipeline.encoders()
    count.pipeline.pipe.vae.register_to_config(scaling_factor=0.5)
    assert count.pipeline.encoders() != told


def test_broken_pictures_are_named_all_at_once(count, captioned, tmp_path):
    (captioned / "1.png").write_bytes(b"no picture")
    (captioned / "4.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 6 pictures.*1\.png.*4\.png.*Remove or mend them"):
        count(captioned, tmp_path / "cache")
    assert count.pictures == 0  # nobody waits an hour for that
    import io

    from PIL import Image

    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    for name in ("1", "4"):
        (captioned / f"{name}.png").write_bytes(whole.getvalue()[:-900])  # seen when it is decoded
    with pytest.raises(ValueError, match=r"2 of 6 pictures.*1\.png.*4\.png.*is kept"):
        count(captioned, tmp_path / "cache")
    assert count.pictures == 4
    for name in ("1", "4"):
        (captioned / f"{name}.png").unlink()
    count(captioned, tmp_path / "cache")
    assert count.pictures == 0


def test_a_damaged_file_of_the_cache_is_named(count, captioned, tmp_path):
    count(captioned, tmp_path / "cache")
    path = next((tmp_path / "cache").rglob("latents-*"))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{path.name}.*damaged; remove it"):
        count(captioned, tmp_path / "cache")


def named(folder: Path, **files: str | bytes) -> Path:
    """A folder with the two pictures ``a/é.png`` and ``b.png``, and files."""
    from PIL import Image

    (folder / "a").mkdir(parents=True)
    for name in ("a/e\u0301.png", "b.png"):  # as macOS writes it
        Image.new("RGB", (8, 8)).save(folder / name)
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


ROWS = '{"file_name": "a/é.png", "text": "one\u2028line"}\n\n{"file_name": "b.png", "caption": "two"}\n\n'
FORMS = {
    "other letters": {"captions_json": '{"a/é.png": "one\u2028line", "b.png": "two"}'},
    "no endings": {"captions_json": '{"a/é": "one\u2028line", "b": "two"}'},
    "no folders": {"captions_json": '{"é.png": "one\u2028line", "b.png": "two"}'},
    "lists": {"captions_json": '{"a/é.png": ["one\u2028line", "un"], "./b.png": ["two"]}'},
    "a mark": {"captions_json": b"\xef\xbb\xbf" + '{"a\\\\é.png": "one\u2028line", "b.png": "two"}'.encode()},
    "blank lines": {"metadata_jsonl": ROWS},
    "wide letters": {"metadata_jsonl": ROWS.encode("utf-16")},
    "csv": {"metadata_csv": '\ufefffile_name,text\na/é.png,"one\u2028line"\nb.png,two\n'},
    "in a folder": {
        "a__metadata_jsonl": ROWS.split("\n")[0].replace("a/", ""),
        "metadata_jsonl": ROWS.split("\n")[2],
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_captions_as_people_write_them(tmp_path, name, capsys):
    assert Pairs(str(named(tmp_path / "f", **FORMS[name])), (8, 8)).captions == ["one\u2028line", "two"]
    assert not capsys.readouterr().err


def test_captions_beside_pictures(tmp_path, capsys):
    folder = named(tmp_path / "f", b_caption="\ufefftwo\n")
    assert Pairs(str(folder), (8, 8)).captions == ["two"]
    assert "1 of 2 pictures have no caption and are left out" in capsys.readouterr().err
    (folder / "b.txt").write_bytes("zwei Köpfe".encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.txt, line 1, is not in UTF-8; save"):
        Pairs(str(folder), (8, 8))


def test_captions_without_a_picture_are_counted(tmp_path, capsys):
    folder = named(tmp_path / "f", captions_json='{"b.png": "two", "c.png": "three", "d.png": "four"}')
    assert len(Pairs(str(folder), (8, 8))) == 1
    assert "2 captions have no picture, such as that of 'c.png'" in capsys.readouterr().err


def table(path: Path, **columns) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({key: pa.array(value) for key, value in columns.items()}), path)
    return path


def test_columns_of_a_table(tmp_path, captioned, capsys):
    import pyarrow as pa

    pictures = [(captioned / f"{i}.png").read_bytes() for i in (0, 1)]
    texts, urls = ["red paper", "green paper"], ["https://a.example", "https://b.example"]
    wanted = Pairs(str(captioned), (32, 32)).batch(0, 2)
    for name, columns in {
        "binary": {"jpg": pictures, "text": texts},
        "url": {"url": urls, "image": pictures, "caption": texts},
        "dictionary": {"image": pictures, "what": pa.array(texts).dictionary_encode()},
        "lists": {"image": pictures, "captions": [[text, "more"] for text in texts]},
        "structs": {"image": [{"bytes": one, "path": "x"} for one in pictures], "text": texts},
    }.items():
        (folder := tmp_path / name).mkdir()
        found = Pairs(str(table(folder / "0.parquet", **columns).parent), (32, 32))
        assert found.captions == texts and found.batch(0, 2).equal(wanted), name
    path = table(tmp_path / "t.parquet", url=urls, image=pictures, title=texts)
    with pytest.raises(ValueError, match=r"several columns of texts: url, title; rename .* 'text'"):
        Pairs(str(path), (32, 32))
    assert not capsys.readouterr().err
    assert len(Pairs(str(table(path, image=pictures, text=["red", None])), (32, 32))) == 1
    assert "1 of 2 rows lack a picture or a caption" in capsys.readouterr().err


def test_transparent_pictures_lie_on_white(captioned):
    from PIL import Image

    clear = Image.new("RGBA", (40, 36), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 36))
    clear.save(captioned / "0.png")
    picture = Pairs(str(captioned), (32, 32)).one(0)
    assert picture[:, 16, 28].tolist() == [1, 1, 1] and picture[:, 16, 4].tolist() == [-1, -1, 1]


def run_cli(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cdedu", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_from_a_bare_machine_to_diffusers(tmp_path, monkeypatch, capsys):
    """The script that a reader runs first, then the commands on what it left."""
    script = Path(__file__).parents[1] / "scripts" / "bench" / "tiny_latents.py"
    done = subprocess.run([sys.executable, script, tmp_path / "tiny"], capture_output=True, text=True)
    assert done.returncode == 0 and "4 diffusers  greatest difference of a pixel" in done.stdout, done.stderr
    again = subprocess.run([sys.executable, script, tmp_path / "tiny"], capture_output=True, text=True)
    assert again.returncode == 1 and "is there; choose another folder" in again.stderr
    monkeypatch.chdir(tmp_path / "tiny")
    sd, captioned, lora = (tmp_path / "tiny" / name for name in ("pipeline", "pictures", "out/lora"))
    assert sorted(p.name for p in lora.iterdir()) == [
        "README.md",
        "pytorch_lora_weights.safetensors",
        "scheduler",
    ]
    record = json.loads(next((tmp_path / "tiny" / "results").glob("latents-student-*.json")).read_text())
    assert record["stage"]["lora"] == 4 and record["weights"].keys() == {"pytorch_lora_weights.safetensors"}
    words: tuple[object, ...] = ("distill", "latents", "--teacher", sd, "--data", captioned)
    words = (*words, "--lora", 4, "--steps", 20, "--device", "cpu", "--out", "out")
    assert run_cli(monkeypatch, *words) == 2
    assert "add --resume to continue" in capsys.readouterr().err
    assert (
        run_cli(
            monkeypatch,
            "sample",
            sd,
            "--prompt",
            *TEXTS,
            "--lora",
            lora,
            "--steps",
            2,
            "--out",
            "a.png",
            "--device",
            "cpu",
        )
        == 0
    )
    assert Path("a.png").is_file()
    for more, text in (
        (("sample", sd, "--lora", lora), "--lora needs --prompt"),
        (("sample", sd, "--prompt", "x", "--label", "3"), "not for text-to-image"),
        (("sample", sd, "--prompt", "x", "--lora", captioned), "no adapter|cannot be read"),
        (("sample", sd, "--prompt", "x", "--lora", "nothing"), "no weights are called 'nothing'"),
        (("distill", "latents", "--teacher", sd, "--data", "/nowhere", "--out", "n"), "there is no /nowhere"),
        (("evaluate", "latents", "--teacher", captioned), "is no text-to-image pipeline"),
        ((*words[:6], "--size", 33, 32, "--out", "b"), "multiples of 8"),
        ((*words[:6], "--guidance", 9, 2, "--out", "c"), "a lower and a higher"),
    ):
        assert run_cli(monkeypatch, *more) == 2
        err = capsys.readouterr().err
        assert any(part in err for part in text.split("|")), err


def stop_after(step: int):
    """The training of text-to-image, and Ctrl-C after a step."""

    def states(*given, **options):
        for state in distill_text(*given, **options):
            if state.step == step:
                signal.raise_signal(signal.SIGINT)
            yield state

    return states


def test_an_interrupted_run_goes_on_and_nothing_good_is_lost(tiny, captioned, tmp_path, monkeypatch, capsys):
    """Ctrl-C and --resume end at the weights of an unbroken run; what cannot go on is refused, and what is refused touches nothing."""
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    words = ["distill", "latents", "--teacher", tiny["sd"], "--data", captioned, "--lora", 2, "--steps", 4, "--batch", 4, "--device", "cpu", "--precision", "fp32", "--lr", 0.01]  # fmt: skip
    names = (Path("lora/pytorch_lora_weights.safetensors"), Path("student.state.safetensors"))

    def run(*more: object) -> tuple[int, str]:
        capsys.readouterr()
        return run_cli(monkeypatch, *words, *more), capsys.readouterr().err

    assert run("--out", "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("cdedu.latents.distill_text", stop_after(2))
        assert run("--out", "broken")[0] == 130
    other = shutil.copytree(captioned, tmp_path / "other")
    (other / "captions.json").write_text(
        json.dumps({f"{i}.png": ("red", "green", "blue")[i // 2] for i in range(6)})
    )
    for more, text in (
        (
            ("--guidance", 3, 4),
            "began with --guidance 6 16, now it is 3 4; resume with the same, or start over",
        ),
        (("--teacher", tiny["sdxl"]), "began with --teacher"),
        (("--precision", "bf16"), "began with --precision fp32, now it is bf16"),
        (("--batch", 2), "began with --batch 4, now it is 2"),
        (("--data", other), "was trained on"),
        (("--overwrite",), "give one of them"),
    ):
        code, said = run("--out", "broken", "--resume", *more)
        assert code == 2 and text in said, said
    assert run("--out", "broken", "--resume")[0] == 0
    ends = [load_file(Path(folder) / names[0]) for folder in ("whole", "broken")]
    assert all(t.equal(ends[1][name]) for name, t in ends[0].items())

    before = [(Path("broken") / name).read_bytes() for name in names]
    for more, text in (
        (
            ("--overwrite", "--lora", 0, "--guidance-input", "--teacher", tiny["sd3"]),
            "cannot take the guidance",
        ),
        (("--overwrite", "--lora", 100_000), "give at most that"),
        (("--overwrite", "--points", 600), "give a divisor of 1,000"),
        (("--overwrite", "--license", "mit\nfoo: 1"), "one word"),
        (("--overwrite", "--guidance", 0), "1 is the text alone"),
        ((), "there is a run in broken"),
    ):
        code, said = run("--out", "broken", *more)
        assert code == 2 and text in said, said
        assert [(Path("broken") / name).read_bytes() for name in names] == before
    with (
        monkeypatch.context() as patch
    ):  # a new run that ends early has its own state, and the old student beside it
        patch.setattr("cdedu.latents.distill_text", stop_after(1))
        assert run("--out", "broken", "--overwrite", "--lr", 0.02)[0] == 130
    assert (Path("broken") / names[0]).read_bytes() == before[0]
    assert run("--out", "broken", "--resume", "--lr", 0.02, "--steps", 3)[0] == 0
    assert (Path("broken") / names[0]).read_bytes() != before[0]

    code, said = run("--out", "nowhere", "--resume")
    assert code == 2 and "there is nothing to resume" in said
    (tmp_path / "mine" / "lora").mkdir(parents=True)
    (tmp_path / "mine" / "lora" / "photo.png").touch()
    code, said = run("--out", "mine", "--overwrite")
    assert (
        code == 2
        and "is not a student that this command wrote" in said
        and (tmp_path / "mine/lora/photo.png").exists()
    )


def test_what_sample_would_not_do_it_says(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawn_ = []
    sd = read(tiny["sd"])
    stage = TextStage(lora=2)
    export_text(sd, text_student(sd, stage), tmp_path / "lora", stage, source="sd")
    stage = TextStage(lora=0, input=True)
    export_text(sd, text_student(sd, stage), tmp_path / "told", stage, source="sd")
    Path("texts.txt").write_bytes("caf\u00e9".encode("latin-1"))
    prompt = ("--prompt", "a", "b", "--device", "cpu")
    for more, text in (
        ((tiny["sd"],), "needs --prompt: say what to draw"),
        (("captioned-teacher",), "captioned-teacher needs --prompt"),
        ((tiny["sd"], *prompt, "--lora", "lora", "--guidance", 7.5), "has its guidance in its weights; leave --guidance out"),
        ((tiny["sd"], *prompt, "--guidance", 0), "1 is the text alone"),
        ((tiny["sd"], *prompt, "--guidance", 1e6), "from 1 to 100"),
        (("told", *prompt), "give --guidance, such as --guidance 8.5"),
        ((tiny["sd"], "--prompt", "@texts.txt"), "texts.txt is not in UTF-8"),
    ):  # fmt: skip
        assert run_cli(monkeypatch, "sample", *more) == 2
        assert text in (err := capsys.readouterr().err), err
    draw = TextToImage.draw
    monkeypatch.setattr(TextToImage, "draw", lambda self, labels, *a, **k: drawn_.append(len(labels)) or draw(self, labels, *a, **k))  # fmt: skip
    for number, wanted in ((("--number", 5), 5), ((), 2)):
        assert (
            run_cli(monkeypatch, "sample", tiny["sd"], *prompt, "--steps", 1, *number, "--out", "a.png") == 0
        )
        assert drawn_.pop() == wanted and not drawn_
    monkeypatch.setattr("cdedu.latents.draw_prompts", lambda *a, **k: drawn_.append(k["number"]))
    assert run_cli(monkeypatch, "sample", tiny["sd"], *prompt, "--number", 64, "--out", "a.png") == 0
    assert drawn_ == [64]


def test_sizes_that_a_network_cannot_take_are_refused(tiny):
    for kind, size, text in (
        ("sd", (33, 32), "multiples of 8; give --size 32 32"),
        ("sd3", (128, 128), "multiples of 16 up to 64; give --size 64 64"),
        ("flux", (40, 40), "multiples of 16; give --size 32 32"),
    ):
        with pytest.raises(ValueError, match=text):
            check_size(load_text_to_image(tiny[kind]).pipeline, size)


def test_encoders_are_on_a_device_only_while_they_encode(tiny):
    class Part(torch.nn.Module):
        def to(self, device):
            places.append(str(device))

    places: list[str] = []
    with pytest.raises(KeyboardInterrupt), visiting(torch.device("meta"), Part(), Part()):
        assert places == ["meta", "meta"]
        raise KeyboardInterrupt
    assert places[2:] == ["cpu", "cpu"]
    pipeline = load_text_to_image(tiny["sdxl"]).pipeline
    pipe = pipeline.pipe
    assert set(encoders(pipeline)) == {pipe.vae, pipe.text_encoder, pipe.text_encoder_2}
    assert set(encoders(pipeline, texts=True)) == {pipe.text_encoder, pipe.text_encoder_2}


def test_the_card_says_how_to_draw(tiny, tmp_path):
    model = read(tiny["sd3"])
    stage = TextStage(lora=2, steps=1, batch=2, points=10)
    *_, state = distill_text(model, latents(model), stage)
    out = export_text(model, state.result, tmp_path / "lora", stage, source="some/teacher", license="mit")
    text = (out / "README.md").read_text()
    assert (
        "base_model: some/teacher" in text
        and "license: mit" in text
        and "sigmas=[0.997006, 0.75, 0.5, 0.25], guidance_scale=1.0" in text
        and 'from_pretrained("some/teacher", text_encoder_3=None, tokenizer_3=None)' in text
    )
    assert 'load_lora_weights("lora")' in text
    assert all(key.startswith("transformer.") for key in adapter_of(state.result.denoiser.network))
    with pytest.raises(FileExistsError, match="not empty"):
        export_text(model, state.result, out, stage, source="x")


def test_what_comes_with_the_course_is_scored_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ("--each", 1, "--seeds", 1, "--steps", 1, "--teacher-steps", 1, "--device", "cpu")
    assert run_cli(monkeypatch, "evaluate", "latents", "--lora", "captioned-lora", *options) == 0
    assert "lora, 1 steps" in capsys.readouterr().out
    record = json.loads(next((tmp_path / "results/runs").glob("latents-evaluate-*.json")).read_text())
    assert record["metrics"]["lora_1"]["all"]["median"] > 3 * record["metrics"]["teacher_1"]["all"]["median"]
