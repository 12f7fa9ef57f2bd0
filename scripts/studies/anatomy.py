"""Chapter 8: `python scripts/studies/anatomy.py`. Writes `results/anatomy.json` and `results/anatomy-digits.json`.

Distillation with one piece removed, spoiled or changed at a time, at equal network evaluations (an image costs 6 with Heun, 5
with Euler). On the moons every row has its own learning rate: of those in ``RATES``, the one with the least product of the
distances in one step and in two, in one run each with seeds (of training and of sampling) that are not reported; while that is
the lowest or the highest, the next one is tried. On the digits there is one rate for all. Takes about twenty minutes on one core for the
moons, and half an hour for the digits; if restarted, the study continues where it stopped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu.course.measures.links import link_errors
from cdedu.evaluation import spread
from cdedu.noise import SIGMA_MIN, karras_sigmas, sigma_like
from cdedu.recipes import Recipe, get_recipe
from cdedu.solvers import euler_step, heun_step
from cdedu.student import ConsistencyModel
from cdedu.teacher import preconditioning
from cdedu.training import State, distill
from scripts.studies.bench import Bench, Measure, arguments, bought, brief, noise, protocols

RECORDS = {"toy": "anatomy", "digits": "anatomy-digits"}
BUDGET = {"toy": 1_152_000, "digits": 76_800}
"""Evaluations of a run: 750 steps of 256 points, 200 steps of 64 digits, with Heun."""
STAGE: dict[str, dict[str, Any]] = {"toy": {"batch": 256}, "digits": {"batch": 64}}
"""What differs from the recipe in every run."""
RATES = {"toy": (2e-3, 6e-3, 1.8e-2), "digits": (6e-4,)}
"""Learning rates among which each row chooses; where there is one, pilot runs of chapter 5 chose it for the default."""
ENDS = {"toy": ((7e-4, 2e-4), (5e-2, 0.15)), "digits": ()}
"""Tried one after another while the best so far is the lowest or the highest."""
SEEDS = {"toy": 3, "digits": 5}
TUNING_SEED = 1000
"""Of the runs that choose a rate, and of the one draw of samples that judges each."""
SAMPLES = {"toy": 5000, "digits": 600}
SHOWN = ("default", "none", "none_random", "switch")
"""Variants of which some samples of the first seed are kept."""
DRAWS = 3
"""Sampling seeds, of which the median is taken for each student."""


Coefficients = tuple[Tensor, Tensor, Tensor]
Rule = Callable[[Tensor, Coefficients], Coefficients]


def gap(sigma: Tensor) -> Tensor:
    """σ − ε, with ε as exact as the grid's."""
    return (sigma - SIGMA_MIN).clamp(min=0)


RULES: dict[str, Rule] = {
    "none": lambda s, c: (0 * s, torch.ones_like(s), c[2]),
    "switch": lambda s, c: ((gap(s) < 1e-8).to(s), (gap(s) >= 1e-8).to(s), c[2]),
}
"""Other coefficients (c_skip, c_out, c_in) of a student, from σ and the right ones."""


class Wrapped(nn.Module):
    """c_skip x + c_out F(c_in x, c_noise) with the coefficients of a rule."""

    def __init__(self, network: nn.Module, rule: str, noise_scale: float) -> None:
        super().__init__()
        self.network, self.rule, self.noise_scale = network, rule, noise_scale

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        s = sigma_like(sigma, x)
        c_skip, c_out, c_in = RULES[self.rule](s, preconditioning(s, 0.5, SIGMA_MIN))
        level = self.noise_scale * s.log()
        return c_skip * x + c_out * self.network(c_in * x, level.flatten().expand(len(x)))


@dataclass(frozen=True)
class Variant:
    """One change to the default run."""

    label: str
    piece: str
    stage: dict[str, Any] = field(default_factory=dict)
    student: str = "copy"
    """``copy`` of the teacher's network, ``random`` weights, or one of the rules, around a copy or a network ``from random``
    weights."""


TOY: dict[str, Variant] = {
    "default": Variant("default", ""),
    "l1": Variant("ℓ1", "distance", {"distance": "l1"}),
    "huber": Variant("pseudo-Huber", "distance", {"distance": "pseudo_huber"}),
    "uniform": Variant("λ = 1", "weight", {"weight": "uniform"}),
    "random": Variant("random start", "start", student="random"),
    "n72": Variant("N = 72", "N", {"points": 72}),
    "mu99": Variant("μ = 0.99", "target", {"target_rate": 0.99}),
    "switch": Variant("switch at ε", "boundary", student="switch"),
    "none": Variant("no boundary condition", "boundary", student="none"),
    "none_random": Variant(
        "no boundary condition, λ = 1, random start",
        "boundary",
        {"weight": "uniform"},
        student="none from random",
    ),
}
DIGITS = {key: TOY[key] for key in ("default", "none", "huber", "uniform", "random")} | {
    "euler": Variant("Euler", "solver", {"solver": "euler"}),
    "n5": Variant("N = 5", "N", {"points": 5}),
}
VARIANTS = {"toy": TOY, "digits": DIGITS}


def recipe_of(name: str, variant: Variant, rate: float, seed: int) -> Recipe:
    """The recipe of one run, with as many steps as its budget buys."""
    changes = STAGE[name] | variant.stage | {"lr": rate}
    cost = 5 if changes.get("solver") == "euler" else 6
    return bought(get_recipe(name), BUDGET[name], cost, seed, **changes)


class Table(Measure):
    """What all runs on one data set share."""

    def __init__(self, name: str) -> None:
        super().__init__(get_recipe(name), SAMPLES[name], DRAWS)
        self.name, self.given = name, cdedu.load(f"{name}-teacher")
        self.z = noise(self.recipe, (1000, *self.ruler.shape), 100)

    @cached_property
    @torch.no_grad()
    def ends(self) -> Tensor:
        """The ends of the teacher's paths from z, by 400 points of Heun."""
        return cdedu.sample_heun(self.given, self.z, karras_sigmas(400), to_zero=False)

    def beginning(self, variant: Variant, recipe: Recipe) -> nn.Module:
        """The student before training."""
        copy = ConsistencyModel.from_teacher(self.given)
        if variant.student == "copy":
            return copy
        network = copy.network
        if variant.student.endswith("random"):
            torch.manual_seed(recipe.seed)
            network = recipe.network.build(self.ruler.shape)
        if variant.student == "random":
            return ConsistencyModel(network, noise_scale=recipe.noise_scale)
        return Wrapped(network, variant.student.removesuffix(" from random"), recipe.noise_scale)

    def quality(self, model: Any) -> dict[str, float]:
        """The first metric of samples in one step and in two."""
        return {f"quality_{k}": row[self.ruler.first] for k, row in self.student(model, (1, 2)).items()}

    def train(self, variant: Variant, rate: float, seed: int) -> Iterator[State]:
        """A run of a variant with one learning rate."""
        recipe = recipe_of(self.name, variant, rate, seed)
        return distill(recipe, self.given, self.data, student=self.beginning(variant, recipe))

    def tuning(self, variant: Variant, rate: float) -> dict[str, Any]:
        """Distances in one step and in two after a run with one learning rate, with seeds that are not reported."""
        try:
            *_, state = self.train(variant, rate, TUNING_SEED)
        except FloatingPointError as error:
            return {"failed": str(error)}
        g = torch.Generator().manual_seed(TUNING_SEED)
        x, out = noise(self.recipe, self.ruler.real.shape, g), {}
        for steps in (1, 2):
            samples = cdedu.sample_consistency(state.result, x, self.recipe.student_sigmas(steps), g)
            out[f"quality_{steps}"] = self.ruler.measure(samples)[self.ruler.first]
        return out

    def run(self, key: str, variant: Variant, rate: float, seed: int) -> dict[str, Any]:
        """One training and its measurements."""
        loss: list[float] = []
        out: dict[str, Any] = {}
        try:
            for state in self.train(variant, rate, seed):
                loss.append(state.loss)
                if key == "default" and state.step == state.steps // 2:
                    out["half"] = self.quality(state.result)
        except FloatingPointError as error:
            return {"failed": str(error)}
        out |= self.quality(state.result) | {"loss": sum(loss[-50:]) / len(loss[-50:])}
        if key == "default":
            out["raw"] = self.quality(state.model.eval().requires_grad_(False))
        if self.name == "toy":
            out |= self.errors(state.result, state.recipe)
            if seed == 0 and key in SHOWN:
                answers = state.result(self.z[:300], 80.0).detach()
                out["samples"] = [[round(v, 3) for v in point] for point in answers.tolist()]
        return out

    @torch.no_grad()
    def errors(self, model: nn.Module, recipe: Recipe) -> dict[str, Any]:
        """Root-mean-square distance of one-step answers to the ends of the teacher's paths, and of each link."""
        answers = model(self.z, 80.0)
        far = (answers - self.ends).square().sum(1)
        solver = euler_step if recipe.student.solver == "euler" else heun_step
        links = link_errors(model, self.given, self.z, recipe.sigmas(), solver)
        return {
            "error": float(far.mean().sqrt()),
            "median_error": float(far.sqrt().median()),
            "spread": float(answers.std(0).mean()),
            "links": [round(float(e), 6) for e in links.square().sum(2).mean(1).sqrt()],
            "sum": float(links.sum(0).square().sum(1).mean().sqrt()),
        }

    @torch.no_grad()
    def fixed(self) -> dict[str, Any]:
        """The teacher, real against real, and the composed solver: what needs no student."""
        grid, first = self.recipe.sigmas(18), self.ruler.first
        out: dict[str, Any] = {
            "floor": self.floor()[first],
            "teacher": self.sampler(lambda x, g: cdedu.sample_heun(self.given, x, grid))[first],
        }
        if self.name == "toy":
            ends, sizes = self.ends, (5, 9, 18, 36, 72)
            for solver, sample in (("heun", cdedu.sample_heun), ("euler", cdedu.sample_euler)):
                walks = {n: sample(self.given, self.z, karras_sigmas(n), to_zero=False) for n in sizes}
                out[f"composed_{solver}"] = {
                    str(n): float((x - ends).square().sum(1).mean().sqrt()) for n, x in walks.items()
                }
        out["composed"] = {}
        for key, changes in {
            "n5": {"n": 5},
            "n9": {"n": 9},
            "default": {},
            "rho1": {"rho": 1.0},
            "rho3": {"rho": 3.0},
        }.items():
            levels = karras_sigmas(**{"n": 18} | changes)
            out["composed"][key] = self.sampler(
                lambda x, g, s=levels: cdedu.sample_heun(self.given, x, s, to_zero=False)
            )[first]
        levels = karras_sigmas(18)
        out["composed"]["euler"] = self.sampler(
            lambda x, g: cdedu.sample_euler(self.given, x, levels, to_zero=False)
        )[first]
        return out


def chosen(name: str, key: str, study: Bench) -> float | None:
    """The rate of a row: of its finished runs, the one with the least product of both distances; None where all failed."""
    if len(RATES[name]) == 1:
        return RATES[name][0]
    rates = (*RATES[name], *chain(*ENDS[name]))
    tried = {rate: study.runs.get(f"{name}/tune/{key}/{rate:g}") for rate in rates}
    products = {
        rate: run["quality_1"] * run["quality_2"]
        for rate, run in tried.items()
        if run and "failed" not in run
    }
    return min(products, key=products.__getitem__) if products else None


def tune(name: str, key: str, table: Table, study: Bench) -> None:
    """Try the rates of a row, and those beyond an end for as long as the best lies there."""

    def tried(rate: float) -> None:
        arm = f"{name}/tune/{key}/{rate:g}"
        run = study.run(arm, partial(table.tuning, VARIANTS[name][key], rate))
        print(arm, brief(run), flush=True)

    for rate in RATES[name]:
        tried(rate)
    for end, further in zip((RATES[name][0], RATES[name][-1]), ENDS[name], strict=True):
        for last, rate in pairwise((end, *further)):
            if chosen(name, key, study) == last:
                tried(rate)


def summary(name: str, study: Bench) -> dict[str, Any]:
    """For each variant the median and range of its distances over seeds, and of their ratios to the default's median."""
    rows: dict[str, Any] = {}
    for key, variant in VARIANTS[name].items():
        done = study.finished(f"{name}/{key}", SEEDS[name])
        good = [run for run in done if "failed" not in run]
        row: dict[str, Any] = {
            "label": variant.label,
            "piece": variant.piece,
            "seeds": len(done),
            "failed": len(done) - len(good),
            "rate": chosen(name, key, study),
        }
        for what in ("quality_1", "quality_2", "loss", "error", "median_error", "spread", "sum"):
            if good and what in good[0]:
                row[what] = spread([run[what] for run in good])
        prefix = f"{name}/tune/{key}/"
        row["tried"] = [
            {"rate": float(arm.removeprefix(prefix)), **run}
            for arm, run in study.runs.items()
            if arm.startswith(prefix)
        ]
        if good and "links" in good[0]:
            columns = zip(*(run["links"] for run in good), strict=True)
            row["links"] = [spread(list(column))["median"] for column in columns]
        if key == "default" and good:
            for free, label, piece in (
                ("raw", "no sampling average", "average"),
                ("half", "half the budget", "budget"),
            ):
                rows[free] = {
                    "label": label,
                    "piece": piece,
                    "seeds": len(good),
                    "failed": 0,
                    "rate": row["rate"],
                } | {what: spread([run[free][what] for run in good]) for what in ("quality_1", "quality_2")}
        rows[key] = row
    for row in rows.values():
        for steps in (1, 2):
            what = f"quality_{steps}"
            base = rows["default"].get(what)
            if base and what in row:
                row[f"ratio_{steps}"] = {k: v / base["median"] for k, v in row[what].items()}
    return rows


def main() -> None:
    """All data sets, or those named."""
    asked = arguments(__doc__, BUDGET, only={"nargs": "*", "help": "keys of variants, for a quick look"})
    for name in asked.parts:
        plan = {"budget": BUDGET[name], "rates": RATES[name]}
        settings = plan | {"stage": STAGE[name], "samples": SAMPLES[name], "draws": DRAWS}
        recipe = get_recipe(name).to_dict()
        fixed_fields = {"settings": settings, "recipe": recipe, "protocol": protocols((name,), "brief")}
        study = Bench(RECORDS[name], __file__, asked, name, **fixed_fields)
        table, variants = Table(name), VARIANTS[name]
        keys = [key for key in variants if asked.only is None or key in asked.only]
        for key in keys if len(RATES[name]) > 1 else ():
            tune(name, key, table, study)
        fixed = study.run(f"{name}/fixed", table.fixed)

        def one(arm: str, seed: int) -> dict[str, Any]:
            key = arm.partition("/")[2]
            rate = chosen(name, key, study)  # noqa: B023
            if rate is None:
                return {"failed": "with every rate"}
            return table.run(key, variants[key], rate, seed)  # noqa: B023

        for _ in study.arms([f"{name}/{key}" for key in keys], SEEDS[name], one):
            rows = {"seeds": SEEDS[name], "variants": summary(name, study)}
            study.metrics[name] = fixed | plan | rows


if __name__ == "__main__":
    main()
