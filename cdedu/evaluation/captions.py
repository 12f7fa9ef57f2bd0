"""How text-to-image is scored: the CLIP score and a Fréchet distance, for a folder of pictures with a file of captions.

You pass in the networks that look at pictures and read captions, so any pair will do, including small stand-ins::

    pairs = captioned("samples", "captions.json")
    print(clip_score(pairs, *clip_encoders()).mean())
    print(folder_distance("samples", "coco-30k", inception_encoder(), size=299))

or ``cdedu captions samples captions.json --real coco-30k``.
"""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cdedu.data.captioned import read_captions as read_captions
from cdedu.data.images import decode, picture_files
from cdedu.evaluation import frechet_distance
from cdedu.evaluation.inception import tensors_only

ImageEncoder = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) uint8 → features (B, d)."""
TextEncoder = Callable[[list[str]], Tensor]
"""Captions → features (B, d)."""
CLIP = "openai/clip-vit-large-patch14"
"""The checkpoint of :func:`clip_encoders`; scores of different checkpoints are not comparable."""
FILES = "config.json model.safetensors tokenizer.json tokenizer_config.json"


class Captioned(NamedTuple):
    """Pictures of a folder, by name and in order, each with one caption."""

    folder: Path
    names: list[str]
    captions: list[str]


def captioned(folder: str | Path, captions: str | Path) -> Captioned:
    """A folder of pictures and the file of their captions, which must match one to one.

    Names match if they look the same: a file system may store "é" as one character or as two.

    Raises:
        FileNotFoundError: for a missing folder or file, or a folder without pictures.
        ValueError: for a picture without a caption, an empty caption, or a caption without a picture.
    """
    names = picture_files(Path(folder))
    texts = _by_name(names, read_captions(captions))
    lonely = [name for name in names if not texts.get(name, "").strip()]
    for odd, what in (
        (lonely, f"{len(names)} pictures in {folder} have no caption in {captions}"),
        (sorted(set(texts) - set(names)), f"{len(texts)} captions in {captions} have no picture in {folder}"),
    ):
        if odd:
            raise ValueError(f"{len(odd)} of {what}, {odd[0]} the first")
    return Captioned(Path(folder), names, [texts[name] for name in names])


def _by_name(names: list[str], texts: dict[str, str]) -> dict[str, str]:
    """The captions under the names as the folder spells them; where spelling alone tells two names apart, each keeps its own."""

    def form(name: str) -> str:
        return unicodedata.normalize("NFC", name)

    if any(len({*map(form, group)}) < len(group) for group in (names, texts)):
        return texts
    spelt = {form(name): name for name in names}
    return {spelt.get(form(name), name): text for name, text in texts.items()}


@torch.no_grad()
def _encoded(encode: Callable[[Any], Tensor], items: Sequence[Any], batch: int) -> Tensor:
    """Features (n, d) of many things, a batch at a time."""
    parts = [encode(items[start : start + batch]).float().cpu() for start in range(0, len(items), batch)]
    return torch.cat(parts)


def encode_folder(
    folder: str | Path, encode: ImageEncoder, size: int, names: Sequence[str] | None = None, batch: int = 64
) -> Tensor:
    """Features (n, d) of the pictures in a folder, in the order of their names; never more than a batch of pictures in memory.

    Pictures are cropped to their central square and resized to ``size`` × ``size``; ``names`` says which ones, all by default.

    Raises:
        FileNotFoundError, ValueError: for a missing or empty folder, and naming a file that is no picture.
    """
    folder = Path(folder)

    def look(part: Sequence[str]) -> Tensor:
        pictures = [decode(f"{folder}/{name}", (folder / name).read_bytes, size) for name in part]
        return encode(torch.from_numpy(np.stack(pictures)))

    return _encoded(look, picture_files(folder) if names is None else names, batch)


def clip_score(
    pairs: Captioned, encode_images: ImageEncoder, encode_texts: TextEncoder, size: int = 224, batch: int = 64
) -> Tensor:
    r"""How well each picture fits its caption, (n,), between 0 and 100.

    .. math:: \text{CLIP score} = 100\,\max\big(0, \cos(E_\text{image}, E_\text{text})\big)

    Published values carry one of three factors: 100 here and in torchmetrics, 2.5 in Hessel et al., 1 in other papers.
    torchmetrics' own score only takes CLIP's encoders, and clamps the mean over all pictures; if no cosine is negative, the two agree.

    Args:
        encode_images, encode_texts: encoders into one shared space, such as :func:`clip_encoders`.
        size: see :func:`encode_folder`.

    Raises:
        ValueError: if the two encoders' features differ in size, or a feature is not a finite number.

    Source: Hessel et al. 2021, section 3; Radford et al. 2021.
    """
    images = encode_folder(pairs.folder, encode_images, size, pairs.names, batch)
    texts = _encoded(encode_texts, pairs.captions, batch)
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(
            f"clip_score: pictures have features {tuple(images.shape)}, captions {tuple(texts.shape)}; "
            "both encoders must give (n, d) in one space"
        )
    score = 100 * torch.cosine_similarity(images, texts).clamp(min=0)
    if not score.isfinite().all():
        raise ValueError("clip_score: an encoder gave NaN or infinity")
    return score


def folder_distance(
    fake: str | Path, real: str | Path, encode: ImageEncoder, size: int, batch: int = 64
) -> float:
    """Fréchet distance of two folders of pictures (:func:`~cdedu.evaluation.frechet_distance`): FID if ``encode`` is Inception's,
    there are 30,000 pictures or more, and both folders were resized in the same way."""
    return frechet_distance(*(encode_folder(folder, encode, size, batch=batch) for folder in (real, fake)))


def clip_encoders(name: str = CLIP) -> tuple[ImageEncoder, TextEncoder]:
    """CLIP's two encoders, through transformers; nothing is downloaded, and weights are read from safetensors only.

    Args:
        name: a model from the Hugging Face hub that is already in the cache, or a folder.

    Raises:
        ImportError: if transformers is missing.
        OSError: if the model is missing, or has no safetensors.
    """
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ImportError:
        raise ImportError("the CLIP score needs transformers: pip install transformers") from None
    try:
        model: Any = CLIPModel.from_pretrained(name, local_files_only=True, use_safetensors=True).eval()
        read: Any = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except OSError:
        raise OSError(
            f"{name} is not in the cache with safetensors; fetch it once ({CLIP}: 1.7 GB) with: hf download {name} {FILES}\n"
            "A model without model.safetensors is not read: take another one, or convert it at huggingface.co/spaces/safetensors/convert"
        ) from None
    mean, std = torch.tensor([[0.4815, 0.4578, 0.4082], [0.2686, 0.2613, 0.2758]])[..., None, None]

    def features(output: Any) -> Tensor:  # a tensor in older versions, the pooled part of an output since 5.0
        return output if isinstance(output, Tensor) else output.pooler_output

    def texts(captions: list[str]) -> Tensor:
        tokens = read(captions, padding=True, truncation=True, return_tensors="pt")
        return features(model.get_text_features(**tokens))

    return lambda x: features(model.get_image_features(pixel_values=(x / 255 - mean) / std)), texts


def inception_encoder(
    otherwise: str = "leave --real out", device: torch.device | str = "cpu"
) -> ImageEncoder:
    """Inception's 2,048 features as FID wants them, through torch-fidelity.

    Args:
        otherwise: for the error message: what the user can do without these weights.

    Raises:
        ImportError: if torch-fidelity is missing.
        OSError: see :func:`~cdedu.evaluation.inception.tensors_only`.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ImportError(f'FID needs torch-fidelity: pip install "cdedu[full]"; or {otherwise}') from None
    with tensors_only(otherwise):
        extractor: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval().to(device)
    return lambda x: extractor(x.to(device))[0]
