"""Chapter 3's two lessons on digits: `python scripts/studies/teacher_student.py`. Writes `results/teacher-student.json`.

Two ways to make a one-step student of the teacher that comes with the course: regression on stored pairs of noise and sample,
and progressive distillation. Both start from the teacher's weights. Some tens of minutes on a CPU. `--ddim` measures only the teacher in
fewer steps, again, in a minute.
"""

import copy
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import cdedu
from cdedu.data import load_data
from cdedu.evaluation import digits_classifier, features, frechet_distance, kernel_distance, median_over_seeds
from cdedu.losses import l2
from cdedu.methods.progressive import halve
from cdedu.recipes import get_recipe
from cdedu.records import read_record, write_record
from cdedu.student import EMA
from cdedu.teacher import Denoiser
from scripts.studies.bench import arguments, command, euler_walk, noise, protocols, trained


def main() -> None:
    """The teacher's pairs, then the rounds."""
    options: dict[str, dict[str, Any]] = {
        "steps": {"type": int, "default": 400, "help": "training steps per round"},
        "pairs": {"type": int, "nargs": "+", "default": [1024, 8192], "help": "stored pairs"},
        "ddim": {"action": "store_true", "help": "only remeasure the teacher in fewer steps"},
        "regression_steps": {"type": int, "default": 1000, "help": "training steps on pairs"},
    }
    asked = arguments(__doc__, **options)
    start = time.perf_counter()
    recipe = get_recipe("digits")
    recipe = replace(recipe, student=replace(recipe.student, steps=asked.steps, lr=8e-4, ema=0.99))
    data, classifier = load_data("digits"), digits_classifier()
    teacher = cdedu.load("digits-teacher")
    real, shape = features(classifier, data.test), (600, *data.test.shape[1:])
    noises = [noise(recipe, shape, seed) for seed in range(5)]

    def score(denoiser: Denoiser, sigmas: Tensor) -> dict[str, dict[str, float]]:
        fakes = [features(classifier, euler_walk(denoiser, x, sigmas)) for x in noises]

        def over_seeds(distance: object) -> dict[str, float]:
            return median_over_seeds(lambda g: distance(real, fakes[g.initial_seed()]))  # type: ignore[operator]

        row = {"fd": over_seeds(frechet_distance), "kd": over_seeds(kernel_distance)}
        print({name: round(value["median"], 1) for name, value in row.items()}, flush=True)
        return row

    def record() -> None:
        """Write what there is so far, so that an interrupted study keeps its finished parts."""
        write_record(
            asked.results / "teacher-student.json",
            metrics=metrics,
            command=command(__file__),
            recipe=recipe.to_dict(),
            seed=recipe.seed,
            data=data.describe(),
            seconds=time.perf_counter() - start,
            protocol=protocols(["digits"]),
            arguments={name: getattr(asked, name) for name in options if name != "ddim"},
        )

    metrics: dict[str, Any] = {}
    grid, model = recipe.sigmas(32), teacher
    fewer = (16, 8, 4, 2, 1)
    if asked.ddim:
        known = read_record(asked.results / "teacher-student.json")
        start -= known["seconds"]
        metrics |= known["metrics"] | {"ddim": {str(k): score(teacher, grid[:: 32 // k]) for k in fewer}}
        record()
        return

    metrics.update({"n": shape[0], "seeds": 5, "round_steps": recipe.student.steps})
    metrics["batch"] = batch = recipe.student.batch
    rounds = {"32": score(teacher, grid)}
    ddim = {str(k): score(teacher, grid[:: 32 // k]) for k in fewer}
    while len(grid) > 1:
        state, _ = trained(halve(recipe, model, grid, data))
        model, grid = state.result, grid[::2]
        rounds[str(len(grid))] = score(model, grid)
    calls = 2 * batch * recipe.student.steps * (len(rounds) - 1)
    metrics |= {"progressive": {"teacher_calls": calls, "rounds": len(rounds) - 1, "steps": rounds}}
    metrics["ddim"] = ddim
    record()

    count = max(asked.pairs)
    z = noise(recipe, (count, *shape[1:]), 100)
    ends = [
        cdedu.sample_heun(teacher, x, recipe.sigmas(18), to_zero=False)
        for x in tqdm(z.split(256), desc="pairs")
    ]
    end = torch.cat(ends)
    metrics["regression"] = {"steps": asked.regression_steps, "batch": batch}
    for n in asked.pairs:
        student = copy.deepcopy(teacher).requires_grad_(True).train()
        optimizer = torch.optim.Adam(student.parameters(), lr=recipe.student.lr)
        average, g = EMA(student, recipe.student.ema), torch.Generator().manual_seed(0)
        for _ in tqdm(range(asked.regression_steps), desc=f"{n} pairs"):
            i = torch.randint(n, (batch,), generator=g)
            loss = l2(student(z[i], recipe.sigma_max), end[i]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(student)
        row = score(average.module.eval(), grid)
        metrics["regression"][str(n)] = {"teacher_calls": 34 * n, **row}
        record()


if __name__ == "__main__":
    main()
