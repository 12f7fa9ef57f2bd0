"""The race's first rows: `python scripts/studies/race.py`. Writes `results/race.json`.

The course's methods as entries of the race (`cdedu/course/race/methods/`), each in the sandbox, under the meter and on the ruler of
`cdedu race`. The learning rate of every method is chosen in the same way: the file's own, a third and three times of it, with a third of
the budget and a training seed that is not reported, by the Fréchet distance in one step, of a draw that is not reported
either. Teacher and real digits stand in `results/tradeoffs.json`, on the same ruler and draws. Some fifteen minutes on one core. What is finished is in the record; started again, the study goes on from there.
"""

import re
from functools import partial
from typing import Any

from cdedu.course.race.inside import code_lines
from cdedu.course.race.outside import BUDGET, METHODS, Race, read_entry
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Row
from scripts.studies.bench import Bench, arguments

SEEDS = 3
"""Training seeds, 0, 1, ..."""
DRAWS = (0, 5)
"""First sampling seed and number of draws."""
PILOT: dict[str, Any] = {"budget": BUDGET // 3, "training_seed": 100, "sampling_seed": 1000}
TIMES = (1 / 3, 1.0, 3.0)
"""Of a file's own rate."""
RATE = re.compile(r"^RATE = (.+)$", re.MULTILINE)


def entry(race: Race, method: str, rate: float, steps: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """A row of the table, with another learning rate than the file's."""
    name, source = read_entry(method)
    found = race.train(name, RATE.sub(f"RATE = {rate!r}", source, count=1))
    rows = race.measure(*race.student(name, found), steps)
    return {"distance": rows, "evaluations": found["evaluations"], "seconds": found["seconds"]}


def pooled(rows: list[Row]) -> Row:
    """Over trainings that each have spreads over draws: the median of the medians, and the ends of all draws."""
    return {
        key: {
            "median": spread([row[key]["median"] for row in rows])["median"],
            "min": min(row[key]["min"] for row in rows),
            "max": max(row[key]["max"] for row in rows),
        }
        for key in rows[0]
    }


def summary(study: Bench, lines: dict[str, int]) -> dict[str, Any]:
    """The table, from the runs that are finished."""
    out: dict[str, Any] = {"budget": BUDGET, "pilot": PILOT, "times": TIMES, "draws": DRAWS[1], "entries": {}}
    for method in METHODS:
        if runs := study.finished(method, SEEDS):
            out["entries"][method] = {
                **{k: pooled([run["distance"][k] for run in runs]) for k in ("1", "2")},
                "evaluations": spread([run["evaluations"] for run in runs]),
                "seconds": spread([run["seconds"] for run in runs]),
                "lines": lines[method],
                "rate": study.runs[f"{method}/rate"],
                "training_seeds": len(runs),
            }
    return out


def main() -> None:
    """The pilots, then every method with every seed."""
    asked = arguments(__doc__)
    lines = {method: code_lines(read_entry(method)[1]) for method in METHODS}
    settings = {"budget": BUDGET, "seeds": SEEDS, "draws": DRAWS, "pilot": PILOT, "times": TIMES}
    study = Bench("race", __file__, asked, settings=settings)
    with Race(seeds=DRAWS) as race:
        study.fixed["data"] = race.data.describe()
        race.budget, race.training_seed = PILOT["budget"], PILOT["training_seed"]
        race.seeds = range(PILOT["sampling_seed"], PILOT["sampling_seed"] + 1)
        for method in METHODS:
            study.run(f"{method}/rate", partial(chosen, study, race, method))
        race.budget, race.seeds = BUDGET, range(DRAWS[0], sum(DRAWS))
        for race.training_seed in range(SEEDS):
            for method in METHODS:
                rate, key = study.runs[f"{method}/rate"], f"{method}/{race.training_seed}"
                row = study.run(key, partial(entry, race, method, rate))
                print(key, *(f"{row['distance'][k]['fd']['median']:.1f}" for k in ("1", "2")), flush=True)
                study.write(summary(study, lines))


def chosen(study: Bench, race: Race, method: str) -> float:
    """The best of three learning rates."""
    own = float(RATE.search(read_entry(method)[1])[1])  # type: ignore[index]
    found = {}
    for rate in (factor * own for factor in TIMES):
        row = study.run(f"{method}/pilot/{rate:g}", partial(entry, race, method, rate, (1,)))
        found[rate] = row["distance"]["1"]["fd"]["median"]
    print(method, {f"{rate:g}": round(fd, 1) for rate, fd in found.items()}, flush=True)
    return min(found, key=lambda rate: found[rate])


if __name__ == "__main__":
    main()
