"""Checkpoints: one safetensors file each, with a JSON header that says how to rebuild the model.

Files are written under a temporary name and then renamed, so if a run is killed at any moment, the previous file survives.
Nothing is ever unpickled.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.adapters import IDDPM, VE, VP, DiffusersDenoiser
from cdedu.data.dataset import Dataset, alike, told
from cdedu.files import check_weights, read_header, read_json, read_tensors, replacing, sha256, write_tensors
from cdedu.networks import UNet, bounds
from cdedu.networks.classifiers import CanvasReferee, CifarClassifier, CifarReferee, DigitsClassifier
from cdedu.networks.guided import WeightedUNet
from cdedu.networks.latent import Autoencoder
from cdedu.recipes import Recipe
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Preconditioned, Teacher
from cdedu.training import Resume, State

WEIGHTS = Path(__file__).parent / "weights"


@dataclass
class Header:
    """What a weights file says about the model in it: ``model.header``."""

    shape: tuple[int, ...]
    """Shape of one sample."""
    recipe: Recipe | None = None
    """The recipe that built the model; None if no recipe did."""
    classes: int = 0
    """How many labels the network takes; 0 for none."""
    labels: int = 0
    """How many of the labels name a class; the rest mean "no label"."""
    class_names: tuple[str, ...] = ()
    guidance: tuple[float, ...] = ()
    """The guidance weights a student was distilled at: one, or the lowest and the highest."""
    step: int = 0
    images: int = 0
    """Training images seen."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Anything else that was saved: teacher, data, metrics."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Header":
        """Build a header from parsed JSON, written by this version or an earlier one.

        Raises:
            ValueError: for a number out of range or an invalid recipe.
        """
        known = {f.name for f in fields(cls)} - {"facts"}
        own = {key: value for key, value in values.items() if key in known and value is not None}
        for key in ("shape", "class_names", "guidance"):
            own[key] = tuple(bounds.items(key, own.get(key, ()), 0, bounds.CLASSES[1]))
        bounds.check_shape(own["shape"])
        for key, most in (
            ("classes", bounds.CLASSES[1]),
            ("labels", bounds.CLASSES[1]),
            ("step", 2**53),
            ("images", 2**53),
        ):
            bounds.whole(key, own.get(key, 0), 0, most)
        for weight in own["guidance"]:
            bounds.number("guidance", weight, 0, 1e6)
        if "recipe" in own:
            own["recipe"] = _recipe(own["recipe"])
            own.setdefault("classes", own["recipe"].network.classes)
        elif isinstance(unet := values.get("unet"), dict):
            own.setdefault("classes", unet.get("num_class_embeds") or 0)
        own.setdefault("labels", own.get("classes", 0))
        return cls(**own, facts={key: value for key, value in values.items() if key not in known})


def save(
    path: str | Path, model: nn.Module, recipe: Recipe | None, shape: Sequence[int], **facts: Any
) -> None:
    """Save a model so that it can be used.

    Args:
        path: ends in ``.safetensors``; its folder is made if missing.
        model: a :class:`~cdedu.teacher.Teacher`, a :class:`~cdedu.student.ConsistencyModel`, a denoiser that
            :func:`~cdedu.pretrained.load_teacher` made of somebody else's files, a :class:`~cdedu.student.DenoiserStudent` over one
            of these; or, without a recipe, a classifier or an autoencoder.
        recipe, shape: what :func:`load` rebuilds the network from; shape is that of one sample. A diffusers network that no recipe builds
            (no recipe, or one whose network is ``foreign``) is described in the header by its own configuration.
        facts: anything else for the header that JSON can hold: step, data, metrics.

    Raises:
        OSError: if the file cannot be written; the previous one is untouched.
        TypeError: for a model of another kind.
    """
    what, network = _describe(model, recipe)
    known = recipe.to_dict() if recipe else None
    write_tensors(path, network.state_dict(), {**what, "recipe": known, "shape": list(shape), **facts})


def load(source: str | Path, device: str | torch.device = "cpu") -> Any:
    """Load a saved model, in evaluation mode; ``model.header`` is its :class:`Header`.

    Args:
        source: a file, or the name of weights that come with the course, such as ``digits-student``. For the state of an unfinished run,
            you get its sampling average.

    Raises:
        FileNotFoundError: listing the names that exist.
        ValueError: for a corrupted file, a header that does not match the tensors, weights that are not finite, or that do not match
            their recorded hash. Names, shapes and numbers are checked before anything is built.
    """
    path = find(source)
    tensors, saved = read_tensors(path)
    if saved.keys() >= {"role", "model", "shape"}:
        tensors, saved = _average(path, tensors, saved)
    if "class" not in saved:
        raise ValueError(
            f"{path} holds no model for use; if it is the state of a run, finish the run first (--resume)"
        )
    try:
        header = Header.from_dict(saved)
        _check_network(header, len(tensors))
        with bounds.without_memory():
            network = _network(header)
            bare = network or _rebuild(saved, None)
    except Exception as error:  # a header can be wrong in any way
        why = _reason(error)
        raise ValueError(
            f"{path} was written by another version of this package, or is damaged ({why})"
        ) from None
    try:
        bounds.check_fits(bare, bounds.shapes_of(tensors))
        check_weights(tensors)
    except ValueError as error:
        raise ValueError(f"{path} does not fit its own recipe: {error}") from None
    # EDM's networks, which are large, take the file's tensors as they are; others have parts that no file holds.
    take = header.recipe is not None and header.recipe.network.kind in ("ddpmpp", "ncsnpp", "adm")
    try:
        network = network if take else _network(header)
        model = _rebuild(saved, network)
        (network or model).load_state_dict(tensors, assign=take)
    except Exception as error:
        why = _reason(error)
        raise ValueError(
            f"{path} was written by another version of this package, or is damaged ({why})"
        ) from None
    model.header = header  # type: ignore[assignment]
    return model.to(device).eval()


def _reason(error: Exception) -> str:
    """An error in one line, with its kind where its words alone say nothing."""
    text = " ".join(str(error).split()) or "no reason is given"
    return f"{text:.300}" if isinstance(error, ValueError) else f"{type(error).__name__}: {text:.300}"


def _recipe(values: Any) -> Recipe:
    """A recipe of a header; the number of its points is looked at first, since its grid is made at once."""
    if not isinstance(values, dict):
        raise ValueError(f"recipe = {bounds.shown(values)}, but it must be an object")
    if isinstance(student := values.get("student", {}), dict):
        bounds.whole("recipe.student.points", student.get("points", 2), 2, 1_000_000)
    return Recipe.from_dict(values)


def _check_network(header: Header, count: int) -> None:
    """Raises a ValueError if the network of a header is none, or larger than its file of ``count`` tensors can hold."""
    if "unet" in header.facts:
        bounds.check_unet(header.facts["unet"])
    if header.recipe is None:
        return
    network = header.recipe.network
    bounds.check_network(network, header.shape)
    ours = "unet" not in header.facts and network.kind not in ("mlp", "set")
    if ours and network.depth * len(network.multipliers) > count:
        raise ValueError(
            f"recipe.network.depth = {network.depth} at {len(network.multipliers)} resolutions, but the file has {count} tensors"
        )


def _average(
    path: Path, tensors: dict[str, Tensor], header: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The sampling average in a state, as :func:`save` would have written it."""
    what = dict(header["model"]) if isinstance(header["model"], dict) else {}
    start = f"average.module.{what.pop('part', '')}."
    average = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    if not average:
        raise ValueError(
            f"{path} is the state of a run that says nothing of its model; end the run (--resume)"
        )
    others = ("role", "precision", "micro_batch", "model")
    return average, {**what, **{key: value for key, value in header.items() if key not in others}}


_AROUND = {c.__name__: c for c in (Teacher, ConsistencyModel, DiffusersDenoiser, VP, VE, IDDPM)}
"""What can stand around a network in a file."""
_WHOLE = {
    c.__name__: c for c in (DigitsClassifier, CifarClassifier, CifarReferee, CanvasReferee, Autoencoder)
}
"""Models that no recipe builds."""


def _arguments(kind: type[nn.Module]) -> list[str]:
    """What a model is made with, besides its network: attributes of the same names."""
    names = list(signature(kind).parameters)
    return names if kind in _WHOLE.values() else names[1:]


def _told(kind: type[nn.Module]) -> set[str]:
    """What a model may be told after it is made: where it clips; where it does not say so itself, its highest noise level."""
    return {"clip", "sigma_max"} if issubclass(kind, Preconditioned) else {"clip"}


def _describe(model: nn.Module, recipe: Recipe | None) -> tuple[dict[str, Any], nn.Module]:
    """What :func:`_rebuild` needs, and the module whose tensors are saved."""
    name = type(model).__name__
    if isinstance(model, DenoiserStudent):
        inner, network = _describe(model.denoiser, recipe)
        unet = {"unet": inner.pop("unet")} if "unet" in inner else {}
        return {"class": name, "sigma_min": model.sigma_min, "denoiser": inner, **unet}, network
    known = _AROUND | _WHOLE
    kind = known.get(name)
    if kind is None or not isinstance(model, kind):
        raise TypeError(f"save: a {name} is none of {', '.join(known)}, nor a DenoiserStudent over one")
    what: dict[str, Any] = {"class": name, **{key: getattr(model, key) for key in _arguments(kind)}}
    what |= {key: value for key in _told(kind) if (value := getattr(model, key, None)) is not None}
    if name in _WHOLE:
        return what, model
    network: nn.Module = model.network  # type: ignore[assignment,no-redef]
    theirs = recipe is None or recipe.network.kind == "foreign" or isinstance(model, DiffusersDenoiser)
    if theirs and isinstance(network, UNet):
        config = json.loads(network.net.to_json_string())  # type: ignore[operator,union-attr]
        what["unet"] = {key: value for key, value in config.items() if not key.startswith("_")}
    return what, network


def _network(header: Header) -> nn.Module | None:
    """The network of the recipe, or the one of diffusers that the header describes; only names and numbers are read."""
    if "unet" not in header.facts:
        return header.recipe.network.build(header.shape) if header.recipe else None
    from diffusers import UNet2DModel

    net = UNet(UNet2DModel(**header.facts["unet"]))
    return WeightedUNet(net) if header.recipe and header.recipe.network.guided else net


def _rebuild(what: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """The inverse of :func:`_describe`."""
    if what["class"] == "DenoiserStudent":
        if what["denoiser"]["class"] == "DenoiserStudent":
            raise ValueError("it is a student over a student")
        return DenoiserStudent(
            _rebuild(what["denoiser"], network), _value("sigma_min", float, what["sigma_min"])
        )
    kind = (_WHOLE if network is None else _AROUND)[what["class"]]
    make = kind if network is None else partial(kind, network)
    hints = {key: signature(kind).parameters[key].annotation for key in _arguments(kind) if key in what}
    model: nn.Module = make(**{key: _value(key, hint, what[key]) for key, hint in hints.items()})
    for key in what.keys() & _told(kind):
        setattr(model, key, _value(key, float, what[key]))
    return model


def _value(key: str, kind: Any, value: Any) -> Any:
    """A value of a header, if it is what a model can be made with."""
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{key} = {bounds.shown(value)}, but it must be true or false")
    if kind is int:
        return bounds.whole(key, value, 1, 100_000)
    if kind is float:
        return bounds.number(key, value, 0, 1e9)
    if key == "alphas_cumprod":
        return [bounds.number(key, alpha, 0, 1) for alpha in bounds.items(key, value, 2, 100_000)]
    return value


def save_state(path: str | Path, state: State, **facts: Any) -> None:
    """Save everything that an exact continuation needs; ``facts`` go into the header, next to recipe, role and step."""
    header = {"recipe": state.recipe.to_dict(), "role": state.role, "step": state.step, **facts}
    with suppress(TypeError):  # a model of another kind stays in its state
        what, network = _describe(state.model, state.recipe)
        part = next(name for name, module in state.model.named_modules() if module is network)
        header["model"] = {**what, "part": part}
    write_tensors(path, state.tensors(), header)


ANOTHER = "start another run from its weights: --from-weights THAT_FILE --out ANOTHER_FOLDER"
"""What to do with a state that does not go with what was asked, beside asking for the same."""


def load_state(path: str | Path, recipe: Recipe, role: str, otherwise: str = ANOTHER) -> Resume:
    """Load what ``train_teacher`` and ``distill`` take as ``resume``.

    The name of the data may have changed, such as the path of a folder; :func:`same_data` checks whether they are the same data.

    Raises:
        ValueError: if the file was written with another recipe; the message names the first field that differs.
    """
    tensors, header = read_tensors(path)
    then = header.get("recipe", {})
    try:
        bounds.whole("step", header.get("step"), 0, 2**53)
        if not isinstance(then, dict):
            raise ValueError(f"recipe = {bounds.shown(then)}, but it must be an object")
        check_weights(tensors)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or it is no state of a run: {error}") from None
    # Fields that came later had their defaults, which is what an earlier recipe meant.
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        then = _plain(_recipe(then))
    for place, saved, now in _differences(then, _plain(recipe)):
        # A longer run may continue a shorter one, and a folder may have moved.
        if place not in (f"recipe.{role}.steps", "recipe.data"):
            raise ValueError(
                f"{path} was written with {place} = {saved}, now it is {now}; resume with that value, or {otherwise}"
            )
    if header.get("role") != role:
        raise ValueError(f"{path} holds the state of a {header.get('role')}, not of a {role}")
    return tensors, int(header["step"])


def same_data(path: str | Path, data: Dataset, otherwise: str = ANOTHER) -> None:
    """Refuse to continue a run on data other than it began with. States of earlier versions do not record their data.

    Raises:
        ValueError: describing both data sets.
    """
    then, now = read_header(path).get("data"), data.describe()
    if isinstance(then, dict) and not alike(then, now):
        raise ValueError(
            f"{path} was trained on {told(then)}; now they are {told(now)}. Resume with the data it was trained on, or {otherwise}"
        )


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON gives it back."""
    return dict(json.loads(json.dumps(recipe.to_dict())))


def find(source: str | Path) -> Path:
    """The file behind a path or the name of weights that come with the course."""
    return Path(source) if Path(source).suffix else shipped(str(source))


def shipped(name: str) -> Path:
    """The file of weights that come with the course, checked against its recorded SHA-256."""
    hashes = read_json(WEIGHTS / "hashes.json")
    if name not in hashes:
        raise FileNotFoundError(
            f"no weights are called {name!r}; those that come with the course are {', '.join(hashes)}"
        )
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file() or sha256(path) != hashes[name]:
        raise ValueError(f"{path} is missing or differs from its recorded SHA-256; install cdedu again")
    return path


def write_hashes(*names: str) -> None:
    """Record the SHA-256 of these shipped weights, or of all of them; a file that cannot be read is skipped."""
    paths = [WEIGHTS / f"{name}.safetensors" for name in names] or sorted(WEIGHTS.glob("*.safetensors"))
    hashes = read_json(WEIGHTS / "hashes.json") if names else {}
    for path in paths:
        read_header(path)
        hashes[path.stem] = sha256(path)
    hashes = dict(sorted(hashes.items()))
    with replacing(WEIGHTS / "hashes.json") as temporary:
        temporary.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def _differences(a: Any, b: Any, place: str = "recipe") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in sorted({*a, *b}) for d in _differences(a.get(key), b.get(key), f"{place}.{key}")]
    return [] if a == b else [(place, a, b)]
