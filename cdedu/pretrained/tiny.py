"""Tiny text-to-image pipelines with random weights, but the parts and layout of the real ones, to try code on before a download."""

import json
import os
import shutil
import string
from pathlib import Path
from typing import Any

import torch

KINDS = ("sd", "sdxl", "sd3", "flux")
"""Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3, and FLUX."""


def write_tiny(folder: str | Path, kind: str = "sd", seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline with a few hundred thousand weights, the way diffusers' ``save_pretrained`` does. Its 32 × 32 pictures show
    nothing.

    Args:
        folder: new.
        kind: one of :data:`KINDS`.
        seed: of the weights.
        scheduler: settings that differ from the scheduler of Stable Diffusion or the flow, such as ``prediction_type="v_prediction"``.

    Raises:
        ValueError: for another kind.
        FileExistsError: if the folder is there.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}, but there are {', '.join(KINDS)}")
    folder = Path(folder).absolute()
    if folder.exists():
        raise FileExistsError(f"{folder} is there; choose another folder")
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _pipeline(kind, temporary / "words", scheduler).save_pretrained(temporary / "pipeline")
        os.replace(temporary / "pipeline", folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _pipeline(kind: str, words: Path, scheduler: dict[str, Any]) -> Any:
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def text(size: int, projected: bool = False) -> Any:
        config = CLIPTextConfig(
            vocab_size=60, hidden_size=size, intermediate_size=2 * size, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, projection_dim=size, bos_token_id=58, eos_token_id=59, pad_token_id=59,
        )  # fmt: skip
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)

    tokenizer = _tokenizer(words)
    latent = 4 if kind in ("sd", "sdxl") else 16 if kind == "sd3" else 4
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent, norm_num_groups=4, sample_size=32, scaling_factor=0.18215 if kind == "sd" else 0.5,
        shift_factor=0.1 if kind in ("sd3", "flux") else None,
    )  # fmt: skip
    if kind in ("sd", "sdxl"):
        crossed = {"cross_attention_dim": 32 if kind == "sd" else 64}
        if kind == "sdxl":
            crossed |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}  # fmt: skip
        unet = diffusers.UNet2DConditionModel(
            sample_size=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **crossed,
        )  # fmt: skip
        noise = diffusers.DDIMScheduler(**{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | scheduler)  # fmt: skip
        shared = {"vae": vae, "tokenizer": tokenizer, "unet": unet, "scheduler": noise}
        if kind == "sd":
            extras = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            return diffusers.StableDiffusionPipeline(text_encoder=text(32), **shared, **extras)
        return diffusers.StableDiffusionXLPipeline(
            text_encoder=text(32), text_encoder_2=text(32, True), tokenizer_2=tokenizer, **shared
        )
    shared = {"vae": vae, "tokenizer": tokenizer, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | scheduler)}  # fmt: skip
    if kind == "sd3":
        transformer: Any = diffusers.SD3Transformer2DModel(
            sample_size=4, patch_size=1, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, pos_embed_max_size=8,
        )  # fmt: skip
        return diffusers.StableDiffusion3Pipeline(
            transformer=transformer, text_encoder=text(32, True), text_encoder_2=text(32, True), tokenizer_2=tokenizer,
            text_encoder_3=None, tokenizer_3=None, **shared,
        )  # fmt: skip
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, text_encoder=text(32), text_encoder_2=_t5(), tokenizer_2=tokenizer, **shared
    )


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2))


def _tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with the letters for a vocabulary."""
    from transformers import CLIPTokenizer

    letters = list(string.ascii_lowercase)
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 58, "<|endoftext|>": 59}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16)
