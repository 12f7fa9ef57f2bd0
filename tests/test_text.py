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
from cdedu.pretrained.text_to_image import TextToImage, check_folder, load_text_to_image  # noqa: E402
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
    with pytest.raises(ValueError, match="distil from the model that it was made of"):
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
    assert "add --resume to go on" in capsys.readouterr().err
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
    words = ["distill", "latents", "--teacher", tiny["sd"], "--data", captioned, "--lora", 2, "--steps", 4, "--batch", 4, "--device", "cpu", "--lr", 0.01]  # fmt: skip
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
            "began with --guidance 6 16, now it is 3 4; resume with the same, or begin anew",
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
        and "is no student that this command wrote" in said
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
