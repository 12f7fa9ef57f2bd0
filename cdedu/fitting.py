"""Checks that a teacher, a student, data and a recipe fit together, before any work starts."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cdedu.data import Dataset
from cdedu.data.images import CIFAR10_SHORT
from cdedu.methods.guidance import GuidedDenoiser
from cdedu.networks import UNet
from cdedu.networks.guided import WeightedUNet
from cdedu.pretrained import load_teacher, locate
from cdedu.recipes import Network, Recipe
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher
from cdedu.training import new_student, student_of, within


def is_student(model: nn.Module) -> bool:
    return isinstance(model, ConsistencyModel | DenoiserStudent)


def is_a(role: str, model: nn.Module, source: str, option: str) -> None:
    """Refuse a teacher in place of a student, and the other way around."""
    found = "student" if is_student(model) else "teacher"
    if found != role:
        raise ValueError(f"{source} is a {found}; {option} takes a {role} here")


def teacher_and_student(
    source: str, recipe: Recipe, data: Dataset, network: str = "recipe"
) -> tuple[Recipe, Any, nn.Module | None]:
    """Fit a recipe to a teacher from anywhere. Returns the recipe, the teacher, and the student if it can't start as the teacher's copy.

    A teacher of this package's form must have the recipe's network; EDM's, openai's and diffusers' bring theirs, and their range of
    noise levels. The student of any other denoiser
    has the recipe's network with random weights, so that it can be exported; or, with ``network="teacher"``, the teacher's own.
    """
    teacher: Any = load_teacher(source)
    if is_student(teacher):
        raise ValueError(f"{source} is a student; distillation needs a teacher")
    same_shape(teacher, source, data)
    if isinstance(teacher, Teacher):
        brought: Recipe | None = teacher.header.recipe
        if brought is None:
            raise ValueError(
                f"{source} does not say its recipe; save it with one: checkpoints.save(file, model, recipe, shape)"
            )
        if locate(source).suffix != ".safetensors" or brought.network.kind == "foreign":
            scales = {name: getattr(teacher, name) for name in ("sigma_data", "noise_scale", "angle")}
            recipe = within(replace(recipe, network=brought.network, **scales), brought)
        fits(teacher, source, recipe, data)
        return recipe, teacher, None
    classes = teacher.header.classes
    if classes and data.train_labels is None:
        raise ValueError(f"{source} needs labels, which {data.name} does not have")
    if network == "teacher":
        known = teacher.header.recipe
        theirs = known.network if known else Network("foreign", classes=classes)
        recipe = within(replace(recipe, network=theirs), teacher)
        return recipe, teacher, student_of(teacher, recipe, data)
    recipe = within(replace(recipe, network=replace(recipe.network, classes=classes)), teacher)
    return recipe, teacher, new_student(recipe, data)


def guided(
    weights: tuple[float, ...], recipe: Recipe, teacher: Any, student: Any, source: str, data: Dataset
) -> tuple[Recipe, nn.Module, Any, tuple[float, float] | None]:
    """The recipe, the guided teacher, its student, and the range of the weight if the student takes it as an input."""
    if len(weights) > 2 or sorted(set(weights)) != [*weights] or weights[0] < 0:
        raise ValueError(
            f"--guidance {' '.join(f'{w:g}' for w in weights)}: give one weight, or a lower and a higher one; none below 0"
        )
    if recipe.student.method == "easy":
        raise ValueError(f"recipe {recipe.name!r} never asks its teacher, so --guidance would change nothing")
    classes, known = teacher.header.classes, data.train_labels
    if not classes or known is None:
        who = source if not classes else data.name
        raise ValueError(f"{who} has no labels, so there is nothing to guide toward; leave --guidance out")
    if classes <= int(known.max()) + 1:
        raise ValueError(
            f"{source} knows {classes} labels, as many as {data.name} has; guidance needs a teacher with one more, "
            "that means none"
        )
    student = student or student_of(teacher, recipe, data)
    if len(weights) == 1:
        return recipe, GuidedDenoiser(teacher, weights[0], classes - 1), student, None
    inner: Any = student.denoiser if isinstance(student, DenoiserStudent) else student
    if not isinstance(inner.network, UNet):
        raise ValueError(
            f"--guidance with two weights: {source} brings a {type(inner.network).__name__}, which cannot take the weight as "
            "an input; give one weight"
        )
    inner.network = WeightedUNet(inner.network)
    recipe = replace(recipe, network=replace(recipe.network, guided=True))
    return recipe, GuidedDenoiser(teacher, None, classes - 1), student, (weights[0], weights[1])


def takes_guidance(model: nn.Module) -> bool:
    return any(isinstance(part, WeightedUNet) for part in model.modules())


def conditioned(
    model: Any, source: str, guidance: float | None, wanted: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, guided if it is a teacher, and its condition: each of its labels once, or the one that was asked for."""
    classes, inputs = model.header.classes, takes_guidance(model)
    if not classes:
        for name, value in (("--label", wanted), ("--guidance", guidance)):
            if value is not None:
                raise ValueError(f"{source} knows no labels; leave {name} out")
        return model, {}
    if guidance is not None and not guidance >= 0:
        raise ValueError(f"--guidance = {guidance:g}, but a guidance weight must not be negative")
    student = is_student(model)
    weights = model.header.guidance or (
        1,
        4,
    )  # the one that a student was distilled at, or the least and the greatest
    low, high = min(weights), max(weights)
    if inputs and (guidance is None or (model.header.guidance and not low <= guidance <= high)):
        given = "" if guidance is None else f", but --guidance = {guidance:g}"
        raise ValueError(
            f"{source} takes the guidance weight as an input, from {low:g} to {high:g}{given}; give --guidance in that range"
        )
    if student and not inputs and guidance is not None:
        built_in = f"; {low:g} is built in" * bool(model.header.guidance)
        raise ValueError(
            f"{source} is a student that takes no guidance weight{built_in}; leave --guidance out"
        )
    teacher = guidance is not None and not student
    known = min(model.header.labels, classes - teacher)  # without the label that means none
    label = None if wanted is None else label_of(wanted, source, classes, model.header.class_names)
    cond: dict[str, Any] = {"labels": torch.arange(known) if label is None else torch.tensor([label])}
    if inputs:
        cond["guidance"] = guidance
    return (GuidedDenoiser(model, guidance, classes - 1) if teacher else model), cond


def label_of(wanted: str, source: str, classes: int, names: tuple[str, ...]) -> int:
    """The number of a label given by name or by number."""
    for known in (names, [CIFAR10_SHORT.get(name) for name in names]):
        if wanted and wanted in known:
            return known.index(wanted)
    if wanted.isdecimal() and int(wanted) < classes and not any(name.isdecimal() for name in names):
        return int(wanted)
    none = [f"{classes - 1} for none"] if 0 < len(names) < classes else []
    known = f" ({', '.join([*names, *none])})" if names else ""
    raise ValueError(f"--label = {wanted!r}, but {source} knows the labels 0 to {classes - 1}{known}")


def fits(model: nn.Module, source: str, ours: Recipe, data: Dataset) -> None:
    """Refuse weights whose data, network or noise input differ from the run's: its checkpoints couldn't be loaded later."""
    same_shape(model, source, data)
    theirs = model.header.recipe  # type: ignore[index,arg-type]
    if replace(theirs.network, classes=ours.network.classes) == ours.network != theirs.network:
        raise ValueError(
            f"{source} was trained for {theirs.network.classes} labels, {data.name} needs {ours.network.classes}; give the "
            "--data that it was trained on"
        )
    if replace(theirs.network, dropout=0) != replace(ours.network, dropout=0):
        raise ValueError(
            f"{source} holds another network than recipe {ours.name!r} has; it was trained with {theirs.name!r}"
        )
    if model.angle != ours.angle:
        raise ValueError(
            f"{source} has angle = {model.angle}, recipe {ours.name!r} has {ours.angle}; they must be equal"
        )
    if (model.noise_scale, model.sigma_data) != (ours.noise_scale, ours.sigma_data):
        raise ValueError(
            f"{source} has noise_scale {model.noise_scale:g} and sigma_data {model.sigma_data:g}, "
            f"recipe {ours.name!r} has {ours.noise_scale:g} and {ours.sigma_data:g}; they must be equal"
        )


def same_labels(model: Any, source: str, data: Dataset) -> None:
    """Refuse data whose labels would mean something else, or nothing, to a model."""
    known, names = model.header.labels, model.header.class_names
    if model.header.classes and data.test_labels is not None and int(data.test_labels.max()) >= known:
        raise ValueError(f"{source} knows {known} labels, {data.name} has {int(data.test_labels.max()) + 1}")
    if names and any(data.classes) and data.classes != names:
        raise ValueError(
            f"{source} knows the classes {', '.join(names)}, {data.name} has {', '.join(data.classes)}"
        )


def same_kind(model: Any, source: str, recipe: Recipe) -> None:
    """Refuse to sample weights as this recipe's that another recipe trained on other data."""
    theirs, wanted = model.header.recipe, {"mlp": 1, "set": 2}.get(recipe.network.kind, 3)
    other = theirs and theirs.name != recipe.name and theirs.data != recipe.data
    if other or len(model.header.shape) != wanted:
        what = f"is of recipe {theirs.name!r}" if theirs else f"makes samples of shape {model.header.shape}"
        instead = repr(theirs.name) if theirs else "the model's file or folder"
        raise ValueError(f"{source} {what}, not of recipe {recipe.name!r}; give {instead} in its place")


def same_shape(model: nn.Module, source: str, data: Dataset) -> None:
    if model.header.shape != tuple(data.train.shape[1:]):
        raise ValueError(f"{source} was trained on data of another shape than {data.name}'s")
