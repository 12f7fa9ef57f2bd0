"""Make the weights that come with the course and the record that the book quotes: `python scripts/weights/reproduce.py toy`.

Trains the teacher, distills the student, compares both with held-out data, writes `cdedu/weights/<recipe>-*.safetensors` with their
hashes and `results/<recipe>.json`. With `--evaluate` the weights stay as they are, and only the record is remade.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from cdedu import checkpoints
from cdedu.data import load_data
from cdedu.evaluation.comparison import compare, table
from cdedu.recipes import get_recipe, recipes
from cdedu.records import read_record, write_record
from cdedu.training import State, distill, train_teacher
from scripts.studies.bench import RESULTS, command
from scripts.weights.ship import ship

ELSEWHERE = {
    "clips": "scripts/weights/video.py and scripts/studies/video.py",
    "labelled-digits": "scripts/weights/latent.py",
    "modes": "scripts/weights/modes.py",
    "cifar10-small": "scripts/weights/cifar_run.sh",
}
ELSEWHERE |= {
    "latent-digits": ELSEWHERE["labelled-digits"],
    "frames": ELSEWHERE["clips"],
    "channels": "scripts/studies/video.py",
    "points": ELSEWHERE["clips"],
}
"""Whose weights are made in another way."""


def main() -> None:
    """One recipe, from data to record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=list(recipes))
    parser.add_argument("--evaluate", action="store_true", help="only measure the existing weights")
    parser.add_argument("--keep-teacher", action="store_true", help="distill the existing teacher")
    asked = parser.parse_args()
    if asked.recipe in ELSEWHERE:
        parser.error(f"the weights of {asked.recipe} are made by {ELSEWHERE[asked.recipe]}")
    recipe = get_recipe(asked.recipe)
    name, data, record = recipe.name, load_data(recipe.data), RESULTS / f"{recipe.name}.json"
    seconds: dict[str, float] = read_record(record)["metrics"]["training_seconds"] if record.is_file() else {}

    def make(role: str, states: Iterator[State]) -> Any:
        start = time.perf_counter()
        for state in tqdm(states, total=getattr(recipe, role).steps, desc=role):
            pass
        seconds[role] = round(time.perf_counter() - start, 1)
        facts = {"step": state.step, "data": data.describe()}
        return ship(f"{name}-{role}", state.result, recipe, data.train.shape[1:], **facts)

    if asked.evaluate or asked.keep_teacher:
        teacher = checkpoints.load(f"{name}-teacher")
    else:
        teacher = make("teacher", train_teacher(recipe, data))
    if asked.evaluate:
        student = checkpoints.load(f"{name}-student")
    else:
        student = make("student", distill(recipe, teacher, data))

    start = time.perf_counter()
    metrics = compare(recipe, teacher, student, data, progress=partial(tqdm, desc="evaluate"))
    print(table(metrics))
    protocol, metrics["training_seconds"] = metrics.pop("protocol"), seconds
    write_record(
        record,
        protocol={name: protocol},
        metrics=metrics,
        command=command(__file__, name),
        recipe=recipe.to_dict(),
        seed=recipe.seed,
        data=data.describe(),
        seconds=time.perf_counter() - start + sum(seconds.values()),
        arguments=sys.argv[1:],
        weights={
            role: checkpoints.sha256(checkpoints.shipped(f"{name}-{role}")) for role in ("teacher", "student")
        },
    )


if __name__ == "__main__":
    main()
