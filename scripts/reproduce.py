"""Make the weights that come with the course and the record that the book quotes: `python scripts/reproduce.py toy`.

Trains the teacher, distils the student, compares both with held-out data, writes `cdedu/weights/<recipe>-*.safetensors` and
`results/<recipe>.json`. With `--evaluate` the weights stay as they are and only the record is made anew.
"""

import argparse
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from cdedu import checkpoints
from cdedu.data import load_data
from cdedu.evaluation.comparison import compare, table
from cdedu.recipes import get_recipe, recipes
from cdedu.records import read_record, write_record
from cdedu.training import State, distill, train_teacher


def main() -> None:
    """One recipe, from data to record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=list(recipes))
    parser.add_argument("--evaluate", action="store_true", help="only measure the weights that are there")
    parser.add_argument("--keep-teacher", action="store_true", help="distil the teacher that is there")
    arguments = parser.parse_args()
    recipe = get_recipe(arguments.recipe)
    data = load_data(recipe.data)
    record = Path(f"results/{recipe.name}.json")
    seconds: dict[str, float] = read_record(record)["metrics"]["training_seconds"] if record.is_file() else {}

    def finish(states: Iterator[State], role: str, total: int) -> None:
        start = time.perf_counter()
        state = deque(tqdm(states, total=total, desc=role), maxlen=1).pop()
        seconds[role] = round(time.perf_counter() - start, 1)
        path = checkpoints.WEIGHTS / f"{recipe.name}-{role}.safetensors"
        checkpoints.save(
            path, state.result, recipe, data.train.shape[1:], step=state.step, data=data.describe()
        )

    def weights(role: str) -> str:
        return str(checkpoints.WEIGHTS / f"{recipe.name}-{role}.safetensors")

    if not (arguments.evaluate or arguments.keep_teacher):
        finish(train_teacher(recipe, data), "teacher", recipe.teacher.steps)
    teacher = checkpoints.load(weights("teacher"))
    if not arguments.evaluate:
        finish(distill(recipe, teacher, data), "student", recipe.student.steps)  # type: ignore[arg-type]
    student = checkpoints.load(weights("student"))

    start = time.perf_counter()
    metrics = compare(recipe, teacher, student, data, progress=partial(tqdm, desc="evaluate"))
    metrics["training_seconds"] = seconds
    write_record(
        record,
        metrics=metrics,
        command=f"python scripts/reproduce.py {shlex.quote(recipe.name)}",
        recipe=recipe.to_dict(),
        seed=recipe.seed,
        data=data.describe(),
        seconds=time.perf_counter() - start + sum(seconds.values()),
        arguments=sys.argv[1:],
        weights={role: checkpoints.sha256(weights(role)) for role in ("teacher", "student")},
    )
    print(table(metrics))


if __name__ == "__main__":
    main()
