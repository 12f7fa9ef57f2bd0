"""Other people's formats: models out, teachers in. One file per format.

:func:`load_teacher` makes a denoiser in σ of any of them; :func:`~cdedu.pretrained.pipeline.export_pipeline` writes a student as a
diffusers pipeline; :func:`~cdedu.pretrained.onnx.export_onnx` writes a denoiser as one ONNX graph.
"""

import hashlib
import re
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdedu import checkpoints
from cdedu.adapters import DiffusersDenoiser
from cdedu.pretrained.diffusers import load_diffusers
from cdedu.pretrained.onnx import export_onnx
from cdedu.pretrained.pipeline import export_pipeline

__all__ = ["DiffusersDenoiser", "export_onnx", "export_pipeline", "load_diffusers", "load_teacher", "locate"]


def load_teacher(source: str | Path | Callable[..., Any]) -> Any:
    """Load a denoiser in σ from anywhere, in evaluation mode. Nothing in a file is executed.

    Args:
        source: one of

            - a checkpoint of this package: a ``.safetensors`` file, or a name such as ``digits-teacher``;
            - a pickle published with EDM (``.pkl``): a :class:`~cdedu.teacher.Teacher`, or a baseline in its own preconditioning
              (:class:`~cdedu.adapters.VP`, :class:`~cdedu.adapters.VE`, :class:`~cdedu.adapters.IDDPM`);
            - a pickle of ECT (``.pkl``), which is of the same kind: a student, :class:`~cdedu.student.ConsistencyModel`;
            - a file of openai's consistency models (``.pt``), such as ``edm_imagenet64_ema.pt``, a ``Teacher``, or
              ``cd_imagenet64_l2.pt``, a student;
            - a folder saved by diffusers: a DDPM (:class:`~cdedu.adapters.DiffusersDenoiser`); EDM, by its scheduler, which is a
              ``Teacher``; a consistency model, which comes back as the student that it is; or a text-to-image pipeline
              (:func:`~cdedu.pretrained.text_to_image.load_text_to_image`);
            - ``owner/name`` on the Hugging Face hub, whose client resumes downloads and checks their hashes;
            - an ``https://`` address of a file, or of a model on the hub; ``#sha256=...`` at its end has the file checked;
            - any callable ``D(x, sigma, **cond)``, which is returned unchanged.

    For what a file does not say about its form, see :func:`~cdedu.pretrained.edm.load_edm`,
    :func:`~cdedu.pretrained.openai.load_openai` and :func:`~cdedu.pretrained.diffusers.load_diffusers`.

    Raises:
        FileNotFoundError: if nothing has that name.
        ValueError: for a file or folder of another kind, or a damaged one.
        OSError: if a download fails.
    """
    if callable(source):
        return source
    path = locate(source)
    if path.is_dir():
        from cdedu.pretrained.text_to_image import is_text_to_image, load_text_to_image

        return load_text_to_image(path) if is_text_to_image(path) else load_diffusers(path)
    from cdedu.pretrained.text_to_image import single_file

    if single := single_file(path):
        raise ValueError(single)
    if path.suffix == ".safetensors":
        return checkpoints.load(path)
    if path.suffix == ".pt":
        from cdedu.pretrained.openai import load_openai

        return load_openai(path)
    from cdedu.pretrained.edm import is_edm, load_edm

    if is_edm(path):
        return load_edm(path)
    raise ValueError(
        f"{path} is not a checkpoint: neither of this package (.safetensors), of EDM or ECT (.pkl) nor of openai's consistency models "
        "(.pt), nor a folder of diffusers"
    )


def locate(source: str | Path) -> Path:
    """The file or folder behind a path, a name or a URL, downloaded if necessary. Raises what :func:`load_teacher` does."""
    path, name = Path(source), str(source)
    if path.exists():
        return path
    hub = re.fullmatch(r"(?:https://huggingface\.co/)?([\w-][\w.-]*/[\w-][\w.-]*?)(?:/tree/main)?/?", name)
    if hub and path.suffix not in (".safetensors", ".pkl", ".pt"):
        return _from_hub(hub.group(1))
    if name.startswith("https://"):
        from cdedu.data.images import CACHE, download

        address, _, digest = name.partition("#sha256=")
        place = hashlib.sha256(name.encode()).hexdigest()[:12]
        try:
            return download(address, CACHE / place / address.rsplit("/", 1)[-1], digest or None)
        except urllib.error.URLError as error:
            raise OSError(
                f"{address} cannot be fetched: {error.reason}; or give the path of the file"
            ) from None
    if "/" in name or path.suffix:
        raise FileNotFoundError(f"there is no checkpoint {name}")
    if (checkpoints.WEIGHTS / name).is_dir():
        return checkpoints.WEIGHTS / name
    return checkpoints.shipped(name)


def _from_hub(name: str) -> Path:
    """A model on the hub: its configuration and weights, the older kind of weights only where there are no safetensors."""
    from huggingface_hub import snapshot_download

    from cdedu.pretrained.text_to_image import is_text_to_image

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json"]))
        if is_text_to_image(folder):  # the parts alone: beside them lie copies in other forms and precisions
            parts = ["*/*.safetensors", "*/*.txt", "*/*.model"]
            never = ["*non_ema*", "safety_checker/*"]
            half = ["*.fp16.*", "*.fp16-*", "*.bf16.*", "*.bf16-*"]
            folder = Path(snapshot_download(name, allow_patterns=parts, ignore_patterns=[*never, *half]))
            # A part whose weights are of half precision alone has none yet.
            bare = [
                part.parent.name
                for part in folder.glob("*/config.json")
                if not any(part.parent.glob("*.safetensors"))
            ]
            if bare:
                more = [f"{part}/*.safetensors*" for part in bare]
                snapshot_download(name, allow_patterns=more, ignore_patterns=never)
            return folder
        snapshot_download(name, allow_patterns=["*.safetensors"])
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=["*.bin"])
        return folder
    except Exception as error:  # the hub's client has many kinds
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"there is no folder {name}, and the model of that name cannot be had from the Hugging Face hub: {reason}"
        ) from None
