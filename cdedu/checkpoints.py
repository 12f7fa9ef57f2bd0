"""Checkpoints: one safetensors file each, with a JSON header that says how to rebuild the model.

Files are written beside their final name and then renamed, so that a kill at any moment leaves the previous file whole.
Nothing is ever unpickled.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdedu.adapters import VE, VP, DiffusersDenoiser
from cdedu.files import read_header, read_tensors, replacing, sha256, write_tensors
from cdedu.networks import UNet
from cdedu.networks.classifiers import CifarClassifier, CifarReferee, DigitsClassifier
from cdedu.networks.guided import WeightedUNet
from cdedu.networks.latent import Autoencoder
from cdedu.recipes import Recipe
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher
from cdedu.training import Resume, State

WEIGHTS = Path(__file__).parent / "weights"


@dataclass
class Header:
    """What a file of weights says about the model in it: ``model.header``."""

    shape: tuple[int, ...]
    """Of one sample."""
    recipe: Recipe | None = None
    """What the model was made by; None for a model that no recipe makes."""
    classes: int = 0
    """How many labels the network takes, 0 for none."""
    labels: int = 0
    """How many of them mean something; the others mean none."""
    class_names: tuple[str, ...] = ()
    guidance: tuple[float, ...] = ()
    """The guidance weights that a student was distilled at: one, or the lowest and the highest."""
    step: int = 0
    images: int = 0
    """Training images seen."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else was saved: teacher, data, metrics."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Header":
        """From what JSON gives back, of this version or an earlier one."""
        known = {f.name for f in fields(cls)} - {"facts"}
        own = {key: value for key, value in values.items() if key in known and value is not None}
        for key in ("shape", "class_names", "guidance"):
            own[key] = tuple(own.get(key, ()))
        if "recipe" in own:
            own["recipe"] = Recipe.from_dict(own["recipe"])
            own.setdefault("classes", own["recipe"].network.classes)
        own.setdefault("labels", own.get("classes", 0))
        return cls(**own, facts={key: value for key, value in values.items() if key not in known})


def save(
    path: str | Path, model: nn.Module, recipe: Recipe | None, shape: Sequence[int], **facts: Any
) -> None:
    """Save a model for use.

    Args:
        path: ends in ``.safetensors``; its folder is made if missing.
        model: a :class:`~cdedu.teacher.Teacher`, a :class:`~cdedu.student.ConsistencyModel`, a denoiser that
            :func:`~cdedu.pretrained.load_teacher` made of somebody else's files, a :class:`~cdedu.student.DenoiserStudent` over one
            of these; or, without a recipe, a classifier or an autoencoder.
        recipe, shape: from which :func:`load` rebuilds the network; shape is that of one sample. A network of diffusers that no
            recipe builds is described in the header by its own configuration.
        facts: anything for the header that JSON can hold: step, data, metrics.

    Raises:
        OSError: if the file cannot be written; the previous one is untouched.
        TypeError: for a model of another kind.
    """
    what, network = _describe(model)
    known = recipe.to_dict() if recipe else None
    write_tensors(path, network.state_dict(), {**what, "recipe": known, "shape": list(shape), **facts})


def load(source: str | Path, device: str | torch.device = "cpu") -> Any:
    """A saved model, in evaluation mode; ``model.header`` is its :class:`Header`.

    Args:
        source: a file, or the name of weights that come with the course, such as ``digits-student``.

    Raises:
        FileNotFoundError: with the names that exist.
        ValueError: for a corrupted file, or weights that do not match their recorded hash.
    """
    path = find(source)
    tensors, saved = read_tensors(path)
    if "class" not in saved:
        raise ValueError(f"{path} holds no model for use (is it a .state file? give the file beside it)")
    try:
        header = Header.from_dict(saved)
        # EDM's networks, which are large, are built without memory and take the file's tensors as they are.
        on_meta = header.recipe is not None and header.recipe.network.kind in ("ddpmpp", "ncsnpp", "adm")
        with torch.device("meta") if on_meta else nullcontext():
            network = _network(header)
        model = _rebuild(saved, network)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was written by another version of this package ({error})") from None
    try:
        (network or model).load_state_dict(tensors, assign=on_meta)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit its own recipe: {reason}") from None
    model.header = header  # type: ignore[assignment]
    return model.to(device).eval()


_AROUND = {c.__name__: c for c in (Teacher, ConsistencyModel, DiffusersDenoiser, VP, VE)}
"""What can stand around a network in a file."""
_WHOLE = {c.__name__: c for c in (DigitsClassifier, CifarClassifier, CifarReferee, Autoencoder)}
"""Models that no recipe builds."""


def _arguments(kind: type[nn.Module]) -> list[str]:
    """What a model is made with, besides its network: attributes of the same names."""
    names = list(signature(kind).parameters)
    return names if kind in _WHOLE.values() else names[1:]


def _describe(model: nn.Module) -> tuple[dict[str, Any], nn.Module]:
    """What :func:`_rebuild` needs, and the module whose tensors are saved."""
    name = type(model).__name__
    if isinstance(model, DenoiserStudent):
        inner, network = _describe(model.denoiser)
        unet = {"unet": inner.pop("unet")} if "unet" in inner else {}
        return {"class": name, "sigma_min": model.sigma_min, "denoiser": inner, **unet}, network
    known = _AROUND | _WHOLE
    kind = known.get(name)
    if kind is None or not isinstance(model, kind):
        raise TypeError(f"save: a {name} is none of {', '.join(known)}, nor a DenoiserStudent over one")
    what: dict[str, Any] = {"class": name, **{key: getattr(model, key) for key in _arguments(kind)}}
    if name in _WHOLE:
        return what, model
    network: nn.Module = model.network  # type: ignore[assignment,no-redef]
    if isinstance(model, DiffusersDenoiser):
        config = json.loads(network.net.to_json_string())  # type: ignore[operator,union-attr]
        what["unet"] = {key: value for key, value in config.items() if not key.startswith("_")}
    return what, network


def _network(header: Header) -> nn.Module | None:
    """The network of the recipe, or the one of diffusers that the header describes; only names and numbers are read."""
    if header.recipe is None:
        return None
    if "unet" not in header.facts:
        return header.recipe.network.build(header.shape)
    from diffusers import UNet2DModel

    net = UNet(UNet2DModel(**header.facts["unet"]))
    return WeightedUNet(net) if header.recipe.network.guided else net


def _rebuild(what: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """The inverse of :func:`_describe`."""
    if what["class"] == "DenoiserStudent":
        return DenoiserStudent(_rebuild(what["denoiser"], network), what["sigma_min"])
    kind = (_WHOLE if network is None else _AROUND)[what["class"]]
    make = kind if network is None else partial(kind, network)
    return make(**{key: what[key] for key in _arguments(kind) if key in what})


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
    then = header.get("recipe", {})
    # Fields that came later had their defaults, which is what an earlier recipe meant.
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        then = _plain(Recipe.from_dict(then))
    for place, saved, now in _differences(then, _plain(recipe)):
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


def _differences(a: Any, b: Any, place: str = "recipe") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in sorted({*a, *b}) for d in _differences(a.get(key), b.get(key), f"{place}.{key}")]
    return [] if a == b else [(place, a, b)]
