"""Checkpoints: one safetensors file each, with a JSON header that says how to rebuild the model.

Files are written beside their final name and then renamed, so that a kill at any moment leaves the previous file whole.
Nothing is ever unpickled.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cdedu.files import replacing
from cdedu.recipes import Recipe
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher
from cdedu.training import Resume, State

WEIGHTS = Path(__file__).parent / "weights"


def save(path: str | Path, model: nn.Module, recipe: Recipe, shape: Sequence[int], **facts: Any) -> None:
    """Save a teacher or a student for use.

    Args:
        path: ends in ``.safetensors``; its folder is made if missing.
        model: a :class:`~cdedu.teacher.Teacher`, a :class:`~cdedu.student.ConsistencyModel`, a denoiser that
            :func:`~cdedu.pretrained.load_teacher` made of somebody else's files, or a :class:`~cdedu.student.DenoiserStudent`
            over one of these.
        recipe, shape: from which :func:`load` rebuilds the network; shape is that of one sample. A network of diffusers that no
            recipe builds is described in the header by its own configuration.
        facts: anything for the header that JSON can hold: step, data, metrics.

    Raises:
        OSError: if the file cannot be written; the previous one is untouched.
        TypeError: for a model of another kind.
    """
    what, network = _describe(model)
    header = {**what, "recipe": recipe.to_dict(), "shape": list(shape), **facts}
    write_tensors(path, network.state_dict(), header)


def load(source: str | Path, device: str | torch.device = "cpu") -> Any:
    """A saved teacher or student, in evaluation mode; ``model.header`` holds what was saved beside the weights.

    Args:
        source: a file, or the name of weights that come with the course, such as ``digits-student``.

    Raises:
        FileNotFoundError: with the names that exist.
        ValueError: for a corrupted file, or weights that do not match their recorded hash.
    """
    path = find(source)
    tensors, header = read_tensors(path)
    if "class" not in header:
        raise ValueError(f"{path} holds no model for use (is it a .state file? give the file beside it)")
    try:
        network = _network(header)
        model = _rebuild(header, network)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was written by another version of this package ({error})") from None
    try:
        network.load_state_dict(tensors, assign=_on_meta(header))
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit its own recipe: {str(error).splitlines()[-1].strip()}"
        ) from None
    model.header = header  # type: ignore[assignment]
    return model.to(device).eval()


_ARGUMENTS = {
    "Teacher": ("sigma_data", "noise_scale", "angle"),
    "ConsistencyModel": ("sigma_data", "sigma_min", "noise_scale", "angle"),
    "DiffusersDenoiser": ("alphas_cumprod", "prediction"),
    "VP": ("beta_d", "beta_min", "steps", "first"),
    "VE": ("sigma_min", "sigma_max"),
}
"""What can stand around a network in a checkpoint, and what each is made with. The names are attributes as well."""


def _class(name: str) -> type[nn.Module]:
    if name == "DiffusersDenoiser":
        from cdedu.pretrained.diffusers import DiffusersDenoiser

        return DiffusersDenoiser
    if name in ("VP", "VE"):
        from cdedu.pretrained import edm

        return edm.VP if name == "VP" else edm.VE
    return {"Teacher": Teacher, "ConsistencyModel": ConsistencyModel}[name]


def _describe(model: nn.Module) -> tuple[dict[str, Any], nn.Module]:
    """What :func:`_rebuild` needs, and the network that it is to stand around."""
    name = type(model).__name__
    if isinstance(model, DenoiserStudent):
        inner, network = _describe(model.denoiser)
        unet = {"unet": inner.pop("unet")} if "unet" in inner else {}
        return {"class": name, "sigma_min": model.sigma_min, "denoiser": inner, **unet}, network
    if name not in _ARGUMENTS or not isinstance(model, _class(name)):
        raise TypeError(f"save: a {name} is none of {', '.join(_ARGUMENTS)}, nor a DenoiserStudent over one")
    network: nn.Module = model.network  # type: ignore[assignment,no-redef]
    what = {"class": name, **{key: getattr(model, key) for key in _ARGUMENTS[name]}}
    if name == "DiffusersDenoiser":
        config = json.loads(network.net.to_json_string())  # type: ignore[operator,union-attr]
        what["unet"] = {key: value for key, value in config.items() if not key.startswith("_")}
    return what, network


def _network(header: dict[str, Any]) -> nn.Module:
    """The network of the recipe, or the one of diffusers that the header describes; only names and numbers are read."""
    recipe = Recipe.from_dict(header["recipe"]).network
    if "unet" not in header:
        with torch.device("meta") if _on_meta(header) else nullcontext():
            return recipe.build(tuple(header["shape"]))
    from diffusers import UNet2DModel

    from cdedu.guidance import WeightedUNet
    from cdedu.networks import UNet

    net = UNet(UNet2DModel(**header["unet"]))
    return WeightedUNet(net) if recipe.guided else net


def _on_meta(header: dict[str, Any]) -> bool:
    """Whether the network is built without memory and takes the file's tensors as they are: EDM's, which are large."""
    return header["recipe"]["network"]["kind"] in ("ddpmpp", "ncsnpp", "adm")


def _rebuild(what: dict[str, Any], network: nn.Module) -> nn.Module:
    """The inverse of :func:`_describe`."""
    if what["class"] == "DenoiserStudent":
        return DenoiserStudent(_rebuild(what["denoiser"], network), what["sigma_min"])
    what = {"angle": False} | what  # older files have none
    return _class(what["class"])(network, **{key: what[key] for key in _ARGUMENTS[what["class"]]})


def save_state(path: str | Path, state: State, **facts: Any) -> None:
    """Save all that an exact continuation needs; ``facts`` go into the header, beside recipe, role and step."""
    header = {"recipe": state.recipe.to_dict(), "role": state.role, "step": state.step, **facts}
    write_tensors(path, state.tensors(), header)


def load_state(path: str | Path, recipe: Recipe, role: str) -> Resume:
    """What ``train_teacher`` and ``distill`` take as ``resume``.

    Raises:
        ValueError: if the file was written under another recipe, naming the first field that differs.
    """
    tensors, header = read_tensors(path)
    for place, saved, now in _differences(_today(header.get("recipe", {})), _plain(recipe)):
        if not place.endswith(f"{role}.steps"):  # a longer run may continue a shorter one
            raise ValueError(
                f"{path} was written with {place} = {saved}, now it is {now}; start anew with --overwrite"
            )
    if header.get("role") != role:
        raise ValueError(f"{path} holds the state of a {header.get('role')}, not of a {role}")
    return tensors, int(header["step"])


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON gives it back."""
    return dict(json.loads(json.dumps(recipe.to_dict())))


def _today(saved: dict[str, Any]) -> dict[str, Any]:
    """A recipe of an earlier version with the fields that came later at their defaults, which is what it meant."""
    try:
        return _plain(Recipe.from_dict(saved))
    except (AttributeError, KeyError, TypeError, ValueError):
        return saved


def find(source: str | Path) -> Path:
    """The file behind a path or the name of weights that come with the course."""
    return Path(source) if Path(source).suffix else shipped(str(source))


def shipped(name: str) -> Path:
    """The file of weights that come with the course, checked against its recorded SHA-256."""
    hashes = json.loads((WEIGHTS / "hashes.json").read_text())
    if name not in hashes:
        raise FileNotFoundError(
            f"no weights are called {name!r}; those that come with the course are {', '.join(hashes)}"
        )
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file() or sha256(path) != hashes[name]:
        raise ValueError(f"{path} is missing or differs from its recorded SHA-256; install cdedu again")
    return path


def write_hashes(*names: str) -> None:
    """Record the SHA-256 of these weights that come with the course, or of all; a file that cannot be read is no weights."""
    paths = [WEIGHTS / f"{name}.safetensors" for name in names] or sorted(WEIGHTS.glob("*.safetensors"))
    hashes = dict(json.loads((WEIGHTS / "hashes.json").read_text())) if names else {}
    for path in paths:
        read_header(path)
        hashes[path.stem] = sha256(path)
    hashes = dict(sorted(hashes.items()))
    with replacing(WEIGHTS / "hashes.json") as temporary:
        temporary.write_text(json.dumps(hashes, indent=1) + "\n")


def sha256(path: str | Path) -> str:
    """Hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Tensors and a JSON header into one file, atomically."""
    path = Path(path)
    flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(flat, temporary, {"cdedu": json.dumps(header)})
            os.chmod(temporary, 0o644)  # safetensors makes files that only their owner can read
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`write_tensors`."""
    with _opened(path) as (file, header):
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def read_header(path: str | Path) -> dict[str, Any]:
    """What :func:`write_tensors` wrote beside the tensors, without reading those."""
    with _opened(path) as (_, header):
        return header


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})["cdedu"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a checkpoint of this package, or it is damaged ({error})") from None


def _differences(a: Any, b: Any, place: str = "recipe") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in sorted({*a, *b}) for d in _differences(a.get(key), b.get(key), f"{place}.{key}")]
    return [] if a == b else [(place, a, b)]
