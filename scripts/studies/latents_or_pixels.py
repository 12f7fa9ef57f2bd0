"""Does an autoencoder pay at 32 × 32? `python scripts/studies/latents_or_pixels.py`. Needs transformers; an hour on one core.

The captioned teacher and its whole student work in latents. Here two others are trained that work on the pixels themselves, for the same
processor time: a UNet with one level more (`pixels`), and the teacher's own UNet on patches of 4 × 4 pixels as 16 channels (`patches`),
which costs what a latent costs and needs no autoencoder. A latent teacher's time includes its autoencoder's. Steps of all sorts are timed
in turn, in this process; their ratios set how many each gets. Teachers and students are scored as in `captioned-students.json`. Writes
`results/latents-or-pixels.json`; states are kept under `--state`, and started again the script goes on from them.
"""

import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pixel_shuffle, pixel_unshuffle

from cdedu.checkpoints import WEIGHTS, sha256
from cdedu.data.canvases import SIZE, canvases
from cdedu.data.dataset import Dataset
from cdedu.data.images import CACHE
from cdedu.files import read_tensors, write_tensors
from cdedu.latents import score_canvases
from cdedu.methods.text import TextStage, distill_text, text_student
from cdedu.networks.text import Prompts
from cdedu.pretrained.text_to_image import FAMILIES, TextToImage, load_text_to_image
from scripts.studies.bench import Bench, arguments, brief, trained
from scripts.weights import captioned
from scripts.weights.captioned_students import GUIDANCE, MEASURE, STEPS, STUDENTS

ARMS: dict[str, dict[str, Any]] = {
    "pixels": {"patch": 1, "widths": [24, 40, 56]},
    "patches": {"patch": 4, "widths": [40, 56]},
}
PLAN = captioned.SETTINGS["teacher"]
LATENT = WEIGHTS / "captioned-teacher"
TEACHER_STEPS = (4, 10)
PICTURES = 20_000
"""Canvases that a student sees, as many as those of the latent students."""
ROUNDS, ROUND = 5, 2
"""Of timing: every sort takes ROUND steps in each of ROUNDS rounds; medians count."""


class Pixels(nn.Module):
    """What stands where a pipeline has its autoencoder: gray pictures on unit variance, in patches as channels.

    Args:
        patch: pixels along the side of a patch.
        mean, std: of the pictures.
    """

    def __init__(self, patch: int, mean: float, std: float) -> None:
        super().__init__()
        self.patch, self.device, self.dtype = patch, torch.device("cpu"), torch.float32
        levels = patch.bit_length()
        self.config = FrozenDict(
            block_out_channels=[1] * levels, latent_channels=patch**2, in_channels=3, scaling_factor=1 / std, shift_factor=mean
        )  # fmt: skip

    def encode(self, x: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=pixel_unshuffle(x[:, :1], self.patch)))

    def decode(self, z: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (pixel_shuffle(z, self.patch).expand(-1, 3, -1, -1),)


def make_unet(patch: int, widths: list[int]) -> Any:
    """As the latent teacher's: attention to the caption on every level but the first."""
    lower = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=SIZE // patch,
        in_channels=patch**2,
        out_channels=patch**2,
        block_out_channels=tuple(widths),
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * lower),
        up_block_types=(*("CrossAttnUpBlock2D",) * lower, "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def begin(arm: str, images: Tensor) -> tuple[Any, nn.ModuleDict]:
    """The pipeline of an arm, untrained, and what of it is trained."""
    torch.manual_seed(PLAN["seed"])
    unet, tokenizer = make_unet(**ARMS[arm]), captioned.make_tokenizer()
    text_encoder = captioned.make_text_encoder(tokenizer)
    autoencoder = Pixels(ARMS[arm]["patch"], float(images[:, 0].mean()), float(images[:, 0].std()))
    pipe = captioned.make_pipeline(autoencoder, text_encoder, tokenizer, unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe, nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def as_latents(pipe: Any, images: Tensor) -> Tensor:
    """What the network of a pipeline sees of pictures."""
    return torch.cat([around(pipe).encode(x) for x in images.split(500)])


def around(pipe: Any) -> TextToImage:
    """The course's view of a pipeline."""
    return TextToImage(pipe, FAMILIES["StableDiffusionPipeline"])


# --- what a step costs -----------------------------------------------------------------------------


def step_seconds(sorts: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Processor seconds of one call of each, taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in sorts}
    for i in range(ROUNDS + 1):
        for name, step in sorts.items():
            start = time.process_time()
            for _ in range(ROUND):
                step()
            if i:  # the first round warms up
                found[name].append((time.process_time() - start) / ROUND)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def teacher_costs(data: captioned.Captioned) -> dict[str, float]:
    """Seconds of one step of the autoencoder and of each teacher."""
    images, captions = data.images[:2000], data.captions[:2000]

    def stepping(model: nn.Module, loss: Callable[[torch.Generator], Tensor]) -> Callable[[], None]:
        optimizer, g = torch.optim.Adam(model.parameters(), 1e-3), torch.Generator().manual_seed(0)

        def step() -> None:
            optimizer.zero_grad()
            loss(g).backward()
            optimizer.step()

        return step

    autoencoder, plan = captioned.make_autoencoder(), captioned.SETTINGS["autoencoder"]

    def reconstruction(g: torch.Generator) -> Tensor:
        posterior = autoencoder.encode(images[captioned.draw(len(images), plan["batch"], g)]).latent_dist
        x = images[: plan["batch"]]
        return mse_loss(autoencoder.decode(posterior.sample(g)).sample, x) + posterior.kl().mean()

    sorts = {"autoencoder": stepping(autoencoder, reconstruction)}
    pipe = captioned.loaded()
    model = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder}).requires_grad_(True)
    mean, std = captioned.moments(pipe.vae, images)
    sorts["latents"] = stepping(
        model, captioned.captioned_loss(model, pipe.tokenizer, captions, mean, std, PLAN)
    )
    for arm in ARMS:
        pipe, model = begin(arm, data.images)
        loss = captioned.captioned_loss(model, pipe.tokenizer, captions, as_latents(pipe, images), 0, PLAN)
        sorts[arm] = stepping(model, loss)
    return step_seconds(sorts)


def student_costs(teachers: dict[str, Any], images: Tensor) -> dict[str, float]:
    """Seconds of one step of each student."""
    sorts = {}
    for name, model in teachers.items():
        data = dataset(model, images[:2000], range(2000))
        states = distill_text(model, data, TextStage(**stage(100 * ROUNDS)))
        sorts[name] = partial(next, states)
    return step_seconds(sorts)


def sampling_costs(models: dict[str, Any]) -> dict[str, float]:
    """Seconds of one picture in one step of a student, out of a batch of 60, decoder included."""
    sorts = {}
    for name, model in models.items():
        labels = model.pipeline.read(["one dark seven on the left"]).repeat(60)
        sorts[name] = partial(model.pipeline.draw, labels, 1, None, torch.Generator().manual_seed(0))
    return {name: seconds / 60 for name, seconds in step_seconds(sorts).items()}


# --- training --------------------------------------------------------------------------------------


def teacher_plan(costs: dict[str, float], arm: str) -> dict[str, Any]:
    """The latent teacher's plan with the steps that its and its autoencoder's seconds buy; the second cycle begins at the same part."""
    autoencoder = captioned.SETTINGS["autoencoder"]["steps"] * costs["autoencoder"]
    stretch = (autoencoder + PLAN["steps"] * costs["latents"]) / costs[arm] / PLAN["steps"]
    cycles = [[round(stretch * first), round(stretch * length)] for first, length in PLAN["cycles"]]
    return {**PLAN, "steps": sum(cycles[-1]), "cycles": cycles}


def train_teacher(arm: str, data: captioned.Captioned, plan: dict[str, Any], state: Path) -> dict[str, Any]:
    """Of one arm; its weights stay in the folder."""
    pipe, model = begin(arm, data.images)
    loss = captioned.captioned_loss(
        model, pipe.tokenizer, data.captions, as_latents(pipe, data.images), 0, plan
    )
    facts = captioned.fit(model, loss, state / f"{arm}.safetensors", plan)
    write_tensors(state / f"{arm}-teacher.safetensors", model.state_dict(), {})
    return {
        **facts,
        "steps": plan["steps"],
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.items()},
        "sha256": sha256(state / f"{arm}-teacher.safetensors"),
    }


def teacher_of(arm: str, data: captioned.Captioned, state: Path) -> Any:
    """The trained teacher of an arm as the course has it."""
    pipe, model = begin(arm, data.images)
    model.load_state_dict(read_tensors(state / f"{arm}-teacher.safetensors")[0])
    found = around(pipe).model
    return found.eval().requires_grad_(False)


def stage(steps: int) -> dict[str, Any]:
    """The latent whole student's, with so many steps."""
    whole = STUDENTS["whole"]
    return {**whole, "guidance": (float(GUIDANCE),), "steps": steps}


def dataset(model: Any, images: Tensor, which: range) -> Dataset:
    """Pictures as the model's network sees them, with captions as labels; the model knows their texts afterward."""
    made = canvases(PICTURES, seed=0)
    texts = sorted(set(made.captions))
    hidden, _ = model.pipeline.embed([*texts, ""])
    model.pipeline.use(Prompts(hidden, None, (*texts, "")))
    x = torch.cat([model.pipeline.encode(part) for part in images.split(500)])
    labels = torch.tensor([texts.index(made.captions[i]) for i in which])
    return Dataset("canvases", x, x[:2], labels, labels[:2])


def train_student(arm: str, model: Any, steps: int, state: Path) -> dict[str, Any]:
    """Of one arm; its weights stay in the folder."""
    data = dataset(model, canvases(PICTURES, seed=0).images, range(PICTURES))
    last, seconds = trained(distill_text(model, data, TextStage(**stage(steps))), f"{arm} student")
    write_tensors(state / f"{arm}-student.safetensors", last.result.state_dict(), {})
    return {"steps": steps, "cpu_seconds": round(seconds, 1), "loss": last.loss}


def student_of(model: Any, arm: str, state: Path) -> Any:
    """The trained student of a teacher."""
    model.pipeline.read([""])
    student = text_student(model, TextStage(**stage(1)))
    student.load_state_dict(read_tensors(state / f"{arm}-student.safetensors")[0])
    return as_student(student)


def as_student(student: Any) -> Any:
    """In the teacher's place within its pipeline."""
    student.pipeline.network, student.pipeline.model = student.denoiser.network, student
    return student.eval().requires_grad_(False)


def measured(
    study: Bench, key: str, model: Any, counts: tuple[int, ...], weight: float | None
) -> dict[str, Any]:
    """A model's rows, one for each number of steps."""
    rows = {}
    for k in counts:
        row = study.run(f"{key}/{k}", partial(score_canvases, model, k, weight, **MEASURE))
        print(key, k, brief({name: value["median"] for name, value in row.items()}), flush=True)
        rows[str(k)] = row
    return rows


def main() -> None:
    asked = arguments(
        __doc__,
        ARMS,
        state={"type": Path, "default": CACHE / "latents-or-pixels", "help": "folder for states"},
    )
    if asked.afresh:
        shutil.rmtree(asked.state, ignore_errors=True)
    asked.state.mkdir(parents=True, exist_ok=True)
    plan = captioned.SETTINGS["canvases"]
    data = canvases(plan["train"], plan["seed"])
    settings = {
        "arms": ARMS, "teacher": PLAN, "student": STUDENTS["whole"], "guidance": GUIDANCE, "measure": MEASURE,
        "steps": STEPS, "teacher_steps": TEACHER_STEPS, "pictures": PICTURES, "rounds": [ROUNDS, ROUND],
    }  # fmt: skip
    known = {"captioned-teacher": sha256(LATENT / "unet" / "diffusion_pytorch_model.safetensors")}
    study = Bench(
        "latents-or-pixels",
        __file__,
        asked,
        settings=settings,
        data={"name": "canvases", **plan},
        weights=known,
    )
    costs = study.run("teacher_step_seconds", partial(teacher_costs, data))
    latent = load_text_to_image(LATENT, student=False)
    untrained = {arm: around(begin(arm, data.images)[0]).model for arm in ARMS}
    steps = study.run(
        "student_step_seconds", partial(student_costs, {"latents": latent, **untrained}, data.images)
    )
    out: dict[str, Any] = study.metrics | {"step_seconds": {"teacher": costs, "student": steps}}
    students = {"latents": as_student(latent.pipeline.student())}
    for arm in asked.parts:
        plan = teacher_plan(costs, arm)
        facts = study.run(f"{arm}/teacher", partial(train_teacher, arm, data, plan, asked.state))
        teacher = teacher_of(arm, data, asked.state)
        rows = measured(study, f"{arm}/teacher", teacher, TEACHER_STEPS, GUIDANCE)
        out[arm] = {"teacher": {"training": facts, **rows}}
        n = round(STUDENTS["whole"]["steps"] * steps["latents"] / steps[arm])
        facts = study.run(f"{arm}/student", partial(train_student, arm, teacher, n, asked.state))
        students[arm] = student_of(teacher, arm, asked.state)
        rows = measured(study, f"{arm}/student", students[arm], STEPS, None)
        out[arm]["student"] = {"training": facts, **rows}
        study.write(out)
    if set(students) > set(ARMS):
        out["picture_seconds"] = study.run("picture_seconds", partial(sampling_costs, students))
        study.write(out)


if __name__ == "__main__":
    main()
