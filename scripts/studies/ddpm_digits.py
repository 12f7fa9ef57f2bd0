"""A DDPM of diffusers becomes a pipeline of one step: `python scripts/studies/ddpm_digits.py`. Writes `results/ddpm-digits.json`.

By the commands that anybody would type: train, distil, export, and sample by diffusers alone. What is finished stays in the
folder, so that an interrupted study goes on where it was.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ConsistencyModelPipeline
from torch import Tensor

from cdedu import checkpoints
from cdedu.data import digits
from cdedu.evaluation import digits_classifier, features, frechet_distance, median_over_seeds, spread
from cdedu.pretrained import load_teacher
from cdedu.records import write_record
from cdedu.samplers import sample_consistency, sample_heun
from cdedu.student import DenoiserStudent
from cdedu.training import new_student
from scripts.studies.bench import arguments, command, noise
from scripts.weights.ddpm_digits import train


def cdedu(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "cdedu.cli", *map(str, words)], check=True)


def prepare(folder: Path, ddpm_steps: int, steps: int) -> dict[str, Any]:
    """Teacher, student and pipeline in the folder; how long the teacher took."""
    ddpm, run, times = folder / "ddpm", folder / "run", folder / "ddpm.json"
    if not times.exists():
        start, cpu = time.perf_counter(), time.process_time()
        loss = train(ddpm, ddpm_steps)
        took = {"seconds": time.perf_counter() - start, "computing_seconds": time.process_time() - cpu}
        times.write_text(json.dumps({"steps": ddpm_steps, "loss": loss, **took}), encoding="utf-8")
    if not (run / "student.safetensors").exists():
        words = f"digits --max-steps {steps} --batch 64 --device cpu --teacher".split()
        words += [ddpm, "--out", run]
        resume = ["--resume"] * (run / "student.state.safetensors").exists()
        cdedu("distill", *words, "--results", folder / "records", *resume)
    if not (folder / "pipe").exists():
        cdedu("export", run / "student.safetensors", folder / "pipe")
    return dict(json.loads(times.read_text(encoding="utf-8")))


@torch.no_grad()
def measure(folder: Path, seeds: int = 5) -> dict[str, Any]:
    """Fréchet distances to the held-out digits: medians over sampling seeds, as many samples as there are held-out digits."""
    teacher, student = load_teacher(folder / "ddpm"), checkpoints.load(folder / "run" / "student.safetensors")
    recipe, data, classifier = student.header.recipe, digits(), digits_classifier()
    real, n = features(classifier, data.test), len(data.test)
    pipe = ConsistencyModelPipeline.from_pretrained(folder / "pipe")
    pipe.set_progress_bar_config(disable=True)

    def fd(draw: Callable[[Tensor], Tensor]) -> dict[str, float]:
        def once(generator: torch.Generator) -> float:
            x = noise(recipe, data.test.shape, generator)
            return frechet_distance(real, features(classifier, draw(x)))

        return median_over_seeds(once, seeds)

    def alone(steps: dict[str, Any]) -> dict[str, float]:
        """By diffusers, from its own noise."""

        def once(generator: torch.Generator) -> float:
            images = pipe(batch_size=n, generator=generator, output_type="pt", **steps).images
            return frechet_distance(real, features(classifier, 2 * images - 1))

        return median_over_seeds(once, seeds)

    untrained, over = new_student(recipe, data).eval(), DenoiserStudent(teacher, recipe.sigma_min)
    halves = [data.train[torch.randperm(len(data.train))[:n]] for _ in range(seeds)]
    out: dict[str, Any] = {
        "n": n,
        "seeds": seeds,
        "floor": spread([frechet_distance(real, features(classifier, x)) for x in halves]),
        "teacher_heun_35": fd(lambda x: sample_heun(teacher, x, recipe.sigmas(18))),
        "untrained_student": fd(lambda x: sample_consistency(untrained, x, (recipe.sigma_max,))),
        "untrained_over_the_teacher": fd(lambda x: sample_consistency(over, x, (recipe.sigma_max,))),
        "student_1": fd(lambda x: sample_consistency(student, x, (recipe.sigma_max,))),
        "pipeline_1": alone({}),
        "pipeline_2": alone({"num_inference_steps": None, "timesteps": [10, 0]}),
    }
    out["ratio"] = out["pipeline_1"]["median"] / out["untrained_student"]["median"]
    out["ratio_over_the_teacher"] = out["pipeline_1"]["median"] / out["untrained_over_the_teacher"]["median"]
    return out


def main() -> None:
    asked = arguments(
        __doc__,
        folder={"type": Path, "default": Path("runs/ddpm-study"), "help": "what is finished"},
        ddpm_steps={"type": int, "default": 2000},
        steps={"type": int, "default": 800},
    )
    start = time.perf_counter()
    if asked.afresh:
        shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True, exist_ok=True)
    ddpm = prepare(asked.folder, asked.ddpm_steps, asked.steps)
    metrics = {"ddpm": ddpm, **measure(asked.folder)}
    header = checkpoints.load(asked.folder / "run" / "student.safetensors").header
    write_record(
        asked.results / "ddpm-digits.json",
        metrics=metrics,
        command=command(__file__),
        recipe=header.recipe.to_dict(),
        seed=0,
        data=header.facts["data"],
        seconds=time.perf_counter() - start,
    )
    for name, row in metrics.items():
        if isinstance(row, dict) and "median" in row:
            print(f"{name:28} {row['median']:.0f}")
    print(f"the DDPM took {ddpm['seconds']:.0f} s, {ddpm['computing_seconds']:.0f} s of them computing")


if __name__ == "__main__":
    main()
