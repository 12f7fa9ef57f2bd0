"""The race's first rows: `python scripts/studies/race.py`. Writes `results/race.json`.

The course's methods as entries of the race (`cdedu/course/race/methods/`), each in the sandbox, under the meter and on the ruler of
`cdedu race`. Learning rates are chosen in one way for all methods, by successive halving: a middle one, a third and three times of it, and
so on while the best is the least or greatest, five at most, with a third of the budget; then the best two with all of it. What counts is
the Fréchet distance in one step, with a training seed and a draw that are not reported. Teacher and real digits stand in
`results/tradeoffs.json`, on the same ruler and draws. Takes about fifteen minutes on one core. Finished runs are in the record; if
restarted, the study continues from there.
"""

import re
from functools import partial
from typing import Any

from cdedu.course.race.inside import code_lines
from cdedu.course.race.outside import BUDGET, METHODS, Race, read_entry
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.protocol import protocol_of
from scripts.studies.bench import Bench, arguments, pooled, protocols

SEEDS = 3
"""Training seeds, 0, 1, ..."""
PILOT: dict[str, Any] = {"budget": BUDGET // 3, "training_seed": 100, "protocol": "tuning", "draws": 1}
MIDDLE = {"cd": 6e-4, "ct": 2e-3, "ict": 1e-3, "ect": 4e-4, "scd": 8e-4, "regression": 8e-4, "progressive": 8e-4, "add": 2e-4, "dmd": 2e-4, "mean_flow": 4e-4}  # fmt: skip
"""Learning rates: of each method this one, a third and three times of it are tried, then further ones while the best is the least or greatest.
The method's file has the best."""
TIMES, TRIES = (1 / 3, 1.0, 3.0), 5
RATE = re.compile(r"^RATE = (.+)$", re.MULTILINE)


def entry(race: Race, method: str, rate: float, steps: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """A row of the table, with another learning rate than the file's."""
    name, source = read_entry(method)
    found = race.train(name, RATE.sub(f"RATE = {rate!r}", source, count=1))
    rows = race.measure(*race.student(name, found), steps)
    return {"distance": rows, "evaluations": found["evaluations"], "seconds": found["seconds"]}


def summary(study: Bench, lines: dict[str, int]) -> dict[str, Any]:
    """The table, from the runs that are finished."""
    out: dict[str, Any] = {"budget": BUDGET, "pilot": PILOT, "times": TIMES, "tries": TRIES, "entries": {}}
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
    settings = {"budget": BUDGET, "seeds": SEEDS, "pilot": PILOT, "middle": MIDDLE, "times": TIMES}
    study = Bench("race", __file__, asked, settings=settings, protocol=protocols(["digits"]))
    with Race() as race:
        study.fixed["data"] = race.data.describe()
        race.training_seed = PILOT["training_seed"]
        tuning = protocol_of(race.data, PILOT["protocol"], draws=PILOT["draws"])
        standard, race.ruler = race.ruler, Ruler(race.data, protocol=tuning)
        for method in METHODS:
            study.run(f"{method}/rate", partial(chosen, study, race, method))
        race.budget, race.ruler = BUDGET, standard
        for race.training_seed in range(SEEDS):
            for method in METHODS:
                rate, key = study.runs[f"{method}/rate"], f"{method}/{race.training_seed}"
                row = study.run(key, partial(entry, race, method, rate))
                print(key, *(f"{row['distance'][k]['fd']['median']:.1f}" for k in ("1", "2")), flush=True)
                study.write(summary(study, lines))


def chosen(study: Bench, race: Race, method: str) -> float:
    """A learning rate by successive halving: three or, while the best lies at an end, up to :data:`TRIES` with a part of the budget;
    then the best two with the whole of it, since short runs favor large rates."""

    def pilot(name: str, budget: int, rate: float) -> float:
        race.budget = budget
        row = study.run(f"{method}/{name}/{rate:g}", partial(entry, race, method, rate, (1,)))
        return row["distance"]["1"]["fd"]["median"]

    found, todo = dict[float, float](), [factor * MIDDLE[method] for factor in TIMES]
    while todo:
        rate = float(f"{todo.pop(0):.2g}")
        found[rate] = pilot("pilot", PILOT["budget"], rate)
        best = min(found, key=lambda rate: found[rate])
        if not todo and len(found) < TRIES:
            todo += [3 * best] * (best == max(found)) + [best / 3] * (best == min(found))
    whole = {rate: pilot("whole", BUDGET, rate) for rate in sorted(found, key=lambda rate: found[rate])[:2]}
    print(method, {f"{rate:g}": round(fd, 1) for rate, fd in (found | whole).items()}, flush=True)
    return min(whole, key=lambda rate: whole[rate])


if __name__ == "__main__":
    main()
