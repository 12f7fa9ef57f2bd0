"""A small text-to-image teacher in Stable Diffusion's parts: `python scripts/weights/captioned.py`. Needs transformers.

Four stages on captioned canvases (:mod:`cdedu.data.canvases`): the referee that reads pictures; AutoencoderKL; CLIPTextModel and
UNet2DConditionModel together; measurement. Half an hour on one core. Writes `cdedu/weights/canvases-referee.safetensors`, the folder
`cdedu/weights/captioned-teacher`, which `StableDiffusionPipeline.from_pretrained` reads, and `results/captioned.json`. Each stage goes
on where it was stopped: its state is kept under `--state` every hundred steps; `--afresh` forgets record and states.
"""

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from tqdm.auto import tqdm

from cdedu import checkpoints
from cdedu.data.canvases import (
    COUNTS,
    DIGITS,
    NAMES,
    PLACES,
    SHADES,
    SIZE,
    Captioned,
    canvases,
    caption,
    combinations,
    plural,
)
from cdedu.data.images import CACHE
from cdedu.evaluation import canvas_referee, features, frechet_distance, spread
from cdedu.files import read_header, read_tensors, sha256, write_tensors
from cdedu.networks.classifiers import CanvasReferee
from scripts.studies.bench import Bench, arguments, brief
from scripts.weights.ship import ship

FOLDER = "captioned-teacher"
SETTINGS: dict[str, Any] = {
    "canvases": {"train": 40_000, "seed": 0, "test": 2000, "test_seed": 1},
    "referee": {"steps": 1200, "batch": 64, "lr": 2e-3, "ema": 0.99, "seed": 0, "noise": 0.1},
    "autoencoder": {"steps": 2400, "batch": 32, "lr": 2e-3, "ema": 0.99, "seed": 1, "kl": 1e-4},
    "teacher": {
        "steps": 5000, "cycles": [[0, 3000], [2500, 2500]], "batch": 64, "lr": 2e-3, "ema": 0.998, "seed": 2,
        "uncaptioned": 0.1, "snr": 5.0,
    },
    "measure": {"each": 2, "guidance": [1.0, 4.0], "steps": [50, 4], "seed": 3},
}  # fmt: skip
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
}
"""Stable Diffusion's."""
LENGTH = 12
"""Tokens of a caption at most; those of the canvases have 8 with beginning and end."""


# --- parts -----------------------------------------------------------------------------------------


def make_autoencoder() -> Any:
    """Pictures (B, 3, 32, 32) to latents (B, 4, 8, 8) and back."""
    widths = (8, 16, 32)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def make_unet() -> Any:
    """The noise in latents, by time and caption."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(40, 56),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def make_tokenizer() -> Any:
    """Every word of the captions is one token: its letters are merged from left to right. Other words fall into letters."""
    from transformers import CLIPTokenizer

    words = {word for place in PLACES for word in place.split()} | {*COUNTS, *SHADES, *DIGITS}
    words |= {plural(digit) for digit in DIGITS}
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    merges: dict[tuple[str, str], str] = {}
    for word in sorted(words):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges[parts[0], parts[1]] = parts[0] + parts[1]
            parts[:2] = [parts[0] + parts[1]]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *merges.values()])
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=LENGTH)


def make_text_encoder(tokenizer: Any) -> Any:
    """Token ids (B, 12) to states (B, 12, 64)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """(n, 12), padded as the pipeline does it."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids


# --- training --------------------------------------------------------------------------------------


def fit(
    model: nn.Module, loss: Callable[[torch.Generator], Tensor], file: Path, plan: dict[str, Any]
) -> dict[str, float]:
    """Adam with a short warm-up and cosine decay; afterward the model holds the average of its weights.

    Every step draws from a generator of its own, so a run that goes on from its state is the same as one that was not stopped.

    Args:
        loss: of a batch that is drawn with the generator.
        file: the state, which is written every hundred steps.
        plan: of :data:`SETTINGS`. Where it has ``cycles``, pairs of first step and length, the decay begins anew at each.

    Returns:
        The mean loss of the last hundred steps, and processor seconds.

    Raises:
        ValueError: if the state was made by another plan.
    """
    steps = plan["steps"]
    cycles = plan.get("cycles", [[0, steps]])
    optimizer = torch.optim.Adam(model.parameters(), plan["lr"], betas=(0.9, 0.99))
    weights = model.state_dict()  # the tensors themselves
    average = {name: tensor.clone() for name, tensor in weights.items()}
    first, before = 0, 0.0
    losses: list[Tensor] = []
    if file.is_file():
        if (then := read_header(file)["plan"]) != plan:
            raise ValueError(
                f"{file} was made by the plan {then}, now it is {plan}; take that one, or begin --afresh"
            )
        first, before = _resume(file, weights, average, optimizer)
    start = time.process_time()
    for step in (bar := tqdm(range(first, steps), initial=first, total=steps, desc=file.stem, mininterval=5)):
        begin, length = max(cycle for cycle in cycles if cycle[0] <= step)
        cosine = (1 + math.cos(math.pi * (step - begin) / length)) / 2
        optimizer.param_groups[0]["lr"] = plan["lr"] * min(1, (step + 1) / 100) * cosine
        value = loss(torch.Generator().manual_seed(10**6 * plan["seed"] + step))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(plan["ema"], (1 + step) / (10 + step))
        for name, tensor in weights.items():
            average[name] = (
                average[name].lerp(tensor, 1 - keep) if tensor.is_floating_point() else tensor.clone()
            )
        losses = [*losses[-99:], value.detach()]
        if (step + 1) % 100 == 0 or step + 1 == steps:
            recent, seconds = float(torch.stack(losses).mean()), before + time.process_time() - start
            bar.set_postfix(loss=f"{recent:.4f}")
            adam = {
                f"adam.{i}.{key}": t
                for i, row in optimizer.state_dict()["state"].items()
                for key, t in row.items()
            }
            parts = {"model": weights, "average": average}
            named = {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()}
            write_tensors(
                file, named | adam, {"step": step + 1, "seconds": seconds, "loss": recent, "plan": plan}
            )
    model.load_state_dict(average)
    model.eval().requires_grad_(False)
    header = read_header(file)
    return {"loss": header["loss"], "cpu_seconds": round(header["seconds"], 1)}


def _resume(
    file: Path, weights: dict[str, Tensor], average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Everything as the state has it; the step to go on with, and the processor seconds before it."""
    tensors, header = read_tensors(file)
    adam: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part == "adam":
            i, key = rest.split(".")
            adam.setdefault(int(i), {})[key] = tensor
        else:
            {"model": weights, "average": average}[part][rest].copy_(tensor)
    optimizer.load_state_dict({"state": adam, "param_groups": optimizer.state_dict()["param_groups"]})
    return header["step"], header["seconds"]


def draw(n: int, batch: int, g: torch.Generator) -> Tensor:
    """A batch of places among n."""
    return torch.randint(n, (batch,), generator=g)


def train_the_referee(data: Captioned, state: Path) -> dict[str, float]:
    """On canvases with a little noise."""
    plan = SETTINGS["referee"]
    torch.manual_seed(plan["seed"])
    model = CanvasReferee()

    def loss(g: torch.Generator) -> Tensor:
        which = draw(len(data.images), plan["batch"], g)
        x = data.images[which, :1]
        scores = model(x + plan["noise"] * torch.randn(x.shape, generator=g))
        right = zip(scores, data.attributes[which].T, strict=True)
        return torch.stack([cross_entropy(s, y) for s, y in right]).sum()

    facts = fit(model, loss, state / "referee.safetensors", plan)
    ship("canvases-referee", model, None, (3, SIZE, SIZE), half=True, **facts)
    return facts


def train_the_autoencoder(data: Captioned, state: Path) -> tuple[Any, dict[str, float]]:
    r"""By squared error and a light pull of the posterior to the standard normal; then the scale that gives latents unit variance.

    .. math:: \|\hat x - x\|^2 / \dim x + \lambda\, \mathrm{KL} / \dim z, \qquad s = 1 / \operatorname{std}(z)
    """
    plan = SETTINGS["autoencoder"]
    torch.manual_seed(plan["seed"])
    model = make_autoencoder()

    def loss(g: torch.Generator) -> Tensor:
        x = data.images[draw(len(data.images), plan["batch"], g)]
        posterior = model.encode(x).latent_dist
        z = posterior.sample(g)
        return mse_loss(model.decode(z).sample, x) + plan["kl"] * posterior.kl().mean() / z[0].numel()

    facts = fit(model, loss, state / "autoencoder.safetensors", plan)
    mean, std = moments(model, data.images[:5000])
    z = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(plan["seed"]))
    model.register_to_config(scaling_factor=round(1 / float(z.std()), 5))
    return model, facts


@torch.no_grad()
def moments(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior of many pictures, (n, 4, 8, 8) each."""
    parts = [model.encode(x).latent_dist for x in images.split(500)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


def train_the_teacher(data: Captioned, autoencoder: Any, state: Path) -> tuple[Any, dict[str, float]]:
    """UNet and text encoder together, on latents; the pipeline around them."""
    plan = SETTINGS["teacher"]
    torch.manual_seed(plan["seed"])
    unet, tokenizer = make_unet(), make_tokenizer()
    text_encoder = make_text_encoder(tokenizer)
    mean, std = (autoencoder.config.scaling_factor * part for part in moments(autoencoder, data.images))
    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    loss = captioned_loss(model, tokenizer, data.captions, mean, std, plan)
    facts = fit(model, loss, state / "teacher.safetensors", plan)
    return make_pipeline(autoencoder, text_encoder, tokenizer, unet), facts


def captioned_loss(
    model: nn.ModuleDict,
    tokenizer: Any,
    captions: list[str],
    mean: Tensor,
    std: Tensor | float,
    plan: dict[str, Any],
) -> Callable[[torch.Generator], Tensor]:
    r"""The error in the noise, with min-SNR weights; some captions are left out for guidance.

    .. math:: \min(\mathrm{SNR}_t, \gamma) / \mathrm{SNR}_t\; \|\epsilon_\theta(x_t, t, c) - \epsilon\|^2, \qquad
              \mathrm{SNR}_t = \bar\alpha_t / (1 - \bar\alpha_t)

    Args:
        model: ``unet`` and ``text_encoder``.
        mean, std: of the latent of each picture, (n, C, h, w); where pictures are no latents, ``std`` is 0.

    Source: Rombach et al. 2022; Hang et al. 2023 (the weights).
    """
    scheduler = DDPMScheduler(**NOISE)
    ids, none = token_ids(tokenizer, captions), token_ids(tokenizer, [""])
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)

    def loss(g: torch.Generator) -> Tensor:
        which = draw(len(mean), plan["batch"], g)
        x = mean[which]
        if isinstance(std, Tensor):
            x = x + std[which] * torch.randn(x.shape, generator=g)
        noise, t = torch.randn(x.shape, generator=g), draw(len(snr), len(x), g)
        left_out = torch.rand(len(x), generator=g) < plan["uncaptioned"]
        text = model["text_encoder"](torch.where(left_out[:, None], none, ids[which])).last_hidden_state
        error = model["unet"](scheduler.add_noise(x, noise, t), t, text).sample - noise
        return (error.square().mean((1, 2, 3)) * (snr[t].clamp(max=plan["snr"]) / snr[t])).mean()

    return loss


def make_pipeline(autoencoder: Any, text_encoder: Any, tokenizer: Any, unet: Any) -> Any:
    """The parts as Stable Diffusion's pipeline."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(set_alpha_to_one=False, **NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ship_the_folder(pipeline: Any) -> None:
    """Among the weights, in half precision; the folder of before stays until the new one is whole."""
    folder = checkpoints.WEIGHTS / FOLDER
    new = folder.with_name(f".{FOLDER}.{os.getpid()}.tmp")
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        nn.Module.half(part)
    pipeline.save_pretrained(new)
    # Under the names of Stable Diffusion's file, which every version of transformers reads.
    file = new / "text_encoder" / "model.safetensors"
    named = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in load_file(file).items()}
    save_file(named, file, {"format": "pt"})
    # In half precision on the disk alone: transformers would compute in it too, where diffusers does not.
    config = new / "text_encoder" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"float16"', '"float32"'), encoding="utf-8")
    # transformers before 5 read these two in the place of tokenizer.json.
    bpe = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())["model"]
    (new / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"]), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in bpe["merges"])]
    (new / "tokenizer" / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    for file in new.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes files that only their owner can read
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


# --- measurement -----------------------------------------------------------------------------------


def loaded() -> Any:
    """The pipeline as readers load it."""
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoints.WEIGHTS / FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_right(images: Tensor, attributes: Tensor) -> dict[str, float]:
    """How often the referee reads each attribute as it should be, and how often all four."""
    right = canvas_referee().read(images) == attributes
    shares = {name: float(part.float().mean()) for name, part in zip(NAMES, right.T, strict=True)}
    return {**shares, "all": float(right.all(1).float().mean())}


@torch.no_grad()
def measure_the_autoencoder(test: Captioned) -> dict[str, Any]:
    """Of the shipped one on held-out canvases: mean squared error, and what the referee reads."""
    model = loaded().vae
    mean, std = moments(model, test.images)
    again = torch.cat([model.decode(z).sample for z in mean.split(500)])
    z = model.config.scaling_factor * (
        mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    )
    return {
        "mse": float((again - test.images).square().mean()),
        "scaling_factor": model.config.scaling_factor,
        "latent_std": float(z.std()),
        "reconstructions": read_right(again, test.attributes),
        "fd": frechet_distance(*(features(canvas_referee(), x) for x in (test.images, again))),
    }


@torch.no_grad()
def measure_the_teacher(guidance: float, steps: int) -> dict[str, float]:
    """Pictures of every caption, drawn in DDIM steps: what the referee reads, and the Fréchet distance to held-out canvases."""
    plan, pipeline = SETTINGS["measure"], loaded()
    attributes = combinations().repeat(plan["each"], 1)
    g, parts, start = torch.Generator().manual_seed(plan["seed"]), [], time.process_time()
    for rows in attributes.split(120):
        drawn = pipeline(
            [caption(row) for row in rows],
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=SIZE,
            width=SIZE,
            generator=g,
            output_type="pt",
        )
        parts.append(2 * drawn.images - 1)
    images, seconds = torch.cat(parts), time.process_time() - start
    fake, real = features(canvas_referee(), images), held_out_features(0, len(images))
    row = {**read_right(images, attributes), "fd": frechet_distance(real, fake)}
    return {**row, "cpu_seconds": round(seconds, 1)}


def held_out_features(draw: int, n: int) -> Tensor:
    """Features of n held-out canvases, other ones for every draw."""
    return features(
        canvas_referee(), canvases(n, SETTINGS["canvases"]["test_seed"] + draw, held_out=True).images
    )


def floor() -> dict[str, Any]:
    """The distance of held-out canvases to others, at the number of pictures that is drawn of the teacher."""
    n = SETTINGS["measure"]["each"] * len(combinations())
    return spread([frechet_distance(held_out_features(0, n), held_out_features(i, n)) for i in (1, 2, 3)])


def main() -> None:
    """All stages, in order; what is finished is kept."""
    asked = arguments(
        __doc__,
        state={"type": Path, "default": CACHE / "captioned", "help": "folder for the states of the stages"},
    )
    if asked.afresh:
        shutil.rmtree(asked.state, ignore_errors=True)
    plan = SETTINGS["canvases"]
    data, test = (
        canvases(plan["train"], plan["seed"]),
        canvases(plan["test"], plan["test_seed"], held_out=True),
    )
    versions = {name: version(name) for name in ("diffusers", "transformers")}
    told = {"name": "canvases", **plan, "shape": list(data.images.shape[1:])}
    study = Bench("captioned", __file__, asked, settings=SETTINGS, data=told, libraries=versions)
    training = {"referee": study.run("referee", partial(train_the_referee, data, asked.state))}

    def teacher() -> dict[str, Any]:
        autoencoder, one = train_the_autoencoder(data, asked.state)
        pipeline, two = train_the_teacher(data, autoencoder, asked.state)
        ship_the_folder(pipeline)
        sizes = {
            name: sum(p.numel() for p in getattr(pipeline, name).parameters())
            for name in ("vae", "text_encoder", "unet")
        }
        return {"autoencoder": one, "teacher": two, "parameters": sizes}

    training |= study.run("teacher", teacher)
    metrics: dict[str, Any] = {"training": training}
    metrics["referee"] = study.run("canvases", partial(read_right, test.images, test.attributes))
    metrics["autoencoder"] = study.run("autoencoder", partial(measure_the_autoencoder, test))
    metrics["floor"] = study.run("floor", floor)
    for steps, guidance in itertools.product(SETTINGS["measure"]["steps"], SETTINGS["measure"]["guidance"]):
        key = f"ddim_{steps}/guidance_{guidance:g}"
        metrics[key] = study.run(key, partial(measure_the_teacher, guidance, steps))
        print(key, brief(metrics[key]), flush=True)
    study.fixed["weights"] = hashes()
    study.write(metrics)


def hashes() -> dict[str, str]:
    """Of the referee and of every file in the teacher's folder."""
    files = sorted(path for path in (checkpoints.WEIGHTS / FOLDER).rglob("*") if path.is_file())
    files.append(checkpoints.WEIGHTS / "canvases-referee.safetensors")
    return {path.relative_to(checkpoints.WEIGHTS).as_posix(): sha256(path) for path in files}


if __name__ == "__main__":
    main()
