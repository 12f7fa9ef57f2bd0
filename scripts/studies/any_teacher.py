"""Chapter 13: `python scripts/studies/any_teacher.py [ddpm edm]`. Writes `results/any-teacher.json`.

Somebody else's model becomes one that draws in one step: a DDPM as diffusers saves it, and a denoiser in a pickle as EDM publishes them, both
trained on digits here; then by the commands that anybody would type: distill, export, and sample by diffusers alone. Some ten minutes on one
core. What is finished stays in the folder and in the record, so that an interrupted study goes on where it was.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ConsistencyModelPipeline
from torch import Tensor

from cdedu import checkpoints, train_teacher
from cdedu.adapters import DiffusersDenoiser
from cdedu.data import digits
from cdedu.evaluation.comparison import Ruler
from cdedu.pretrained import load_teacher
from cdedu.recipes import Network, Recipe, TeacherStage
from cdedu.samplers import sample_consistency, sample_heun
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.training import new_student
from scripts.studies.bench import ROOT, Bench, arguments, noise, protocols
from scripts.weights.ddpm_digits import train

NAMES = ("ddpm", "edm")
SETTINGS = {"ddpm": {"steps": 2000}, "edm": {"steps": 1500}, "student": {"steps": 800, "batch": 64}}
EDM = Recipe(
    "edm-digits", "digits", network=Network("ddpmpp", width=32, depth=1, multipliers=(1, 2)),
    teacher=TeacherStage(SETTINGS["edm"]["steps"], batch=128, lr=2e-3, ema=0.995),
)  # fmt: skip
"""A small DDPM++, EDM's own network, with EDM's own preconditioning."""


def cdedu(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "cdedu.cli", *map(str, words)], check=True)


def teacher_file(name: str, folder: Path) -> Path:
    """The teacher as somebody else would hand it over."""
    path = folder / name if name == "ddpm" else folder / "edm.pkl"
    if path.exists():
        return path
    if name == "ddpm":
        train(path, SETTINGS["ddpm"]["steps"])
        return path
    sys.path.insert(0, str(ROOT / "tests"))
    from edm_layout import edm_bytes, persistence

    for state in train_teacher(EDM):
        pass
    net: Any = state.result.network
    net.edm_name = "SongUNet"
    net._init_kwargs = {
        "img_resolution": 8,
        "in_channels": 1,
        "out_channels": 1,
        "label_dim": 0,
        "model_channels": 32,
    }
    net._init_kwargs |= {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    outer: Any = torch.nn.Module()
    outer.model, outer.edm_name, outer._init_kwargs, outer.sigma_data = net, "EDMPrecond", {}, EDM.sigma_data
    sys.modules.update(persistence())
    path.write_bytes(edm_bytes({"ema": outer}))
    return path


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Teacher and student in the folder, and the student's pipeline where a pipeline can hold it."""
    path, run, stage = teacher_file(name, folder), folder / f"{name}-run", SETTINGS["student"]
    if not (run / "student.safetensors").exists():
        words = f"digits --max-steps {stage['steps']} --batch {stage['batch']} --device cpu --teacher".split()
        resume = ["--resume"] * (run / "student.state.safetensors").exists()
        cdedu("distill", *words, path, "--out", run, "--results", folder / "records", *resume)
    if name == "ddpm" and not (folder / "pipe").exists():
        cdedu("export", run / "student.safetensors", folder / "pipe")
    return {"teacher": path.name, **SETTINGS[name]}


def draws(name: str, folder: Path) -> dict[str, Callable[[torch.Generator], Tensor]]:
    """What is measured: name → samples of a generator."""
    teacher, student = (
        load_teacher(teacher_file(name, folder)),
        checkpoints.load(folder / f"{name}-run" / "student.safetensors"),
    )
    recipe, data = student.header.recipe, digits()
    shape = data.test.shape

    def of(draw: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[[torch.Generator], Tensor]:
        return lambda generator: draw(noise(recipe, shape, generator), generator)

    def jumps(model: torch.nn.Module, *sigmas: float) -> Callable[[torch.Generator], Tensor]:
        return of(lambda x, g: sample_consistency(model, x, (recipe.sigma_max, *sigmas), g))

    second = recipe.student_sigmas(2)[1]
    out = {
        "teacher_heun_35": of(lambda x, g: sample_heun(teacher, x, recipe.sigmas(18))),
        "student_1": jumps(student),
        "student_2": jumps(student, second),
    }
    if not isinstance(teacher, DiffusersDenoiser):
        out["untrained_student"] = jumps(ConsistencyModel.from_teacher(teacher, recipe.sigma_min).eval())
        return out
    out["untrained_student"] = jumps(new_student(recipe, data).eval())
    out["untrained_over_the_teacher"] = jumps(DenoiserStudent(teacher, recipe.sigma_min))
    pipe = ConsistencyModelPipeline.from_pretrained(folder / "pipe")
    pipe.set_progress_bar_config(disable=True)

    def alone(generator: torch.Generator, **steps: Any) -> Tensor:
        """By diffusers, from its own noise."""
        return 2 * pipe(batch_size=len(data.test), generator=generator, output_type="pt", **steps).images - 1

    out["pipeline_1"] = alone
    out["pipeline_2"] = partial(alone, num_inference_steps=None, timesteps=[10, 0])
    return out


def main() -> None:
    asked = arguments(
        __doc__,
        NAMES,
        folder={"type": Path, "default": Path("runs/any-teacher"), "help": "folder for finished parts"},
    )
    asked.folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    ruler = Ruler(data)
    study = Bench(
        "any-teacher",
        __file__,
        asked,
        settings=SETTINGS,
        protocol=protocols(["digits"]),
        data=data.describe(),
        edm=EDM.to_dict(),
    )
    study.run("floor", ruler.floor)
    for name in asked.parts:
        about = study.run(f"{name}/teacher", partial(prepare, name, asked.folder))
        prepare(name, asked.folder)  # where the record goes on, and the folder is another one
        for what, draw in draws(name, asked.folder).items():
            row = study.run(f"{name}/{what}", partial(ruler.over_seeds, draw))
            print(name, what, f"{row['fd']['median']:.0f}", flush=True)
        done = {key.partition("/")[2]: row for key, row in study.runs.items() if key.startswith(f"{name}/")}
        study.write(study.metrics | {"floor": study.runs["floor"], name: {**done, "teacher": about}})


if __name__ == "__main__":
    main()
