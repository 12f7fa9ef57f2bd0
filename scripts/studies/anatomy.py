"""Chapter 8: `python scripts/studies/anatomy.py`. Writes `results/anatomy.json`.

Distillation with one piece removed, spoiled or changed at a time, at equal network evaluations (an image costs 6 with Heun, 5
with Euler) and with nothing tuned again. Some seventy minutes on one core; started again, the study goes on where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import cdedu
from cdedu.course.measures.links import link_errors
from cdedu.evaluation import spread
from cdedu.losses import Distance
from cdedu.mixture import GaussianMixture
from cdedu.noise import SIGMA_MIN, karras_sigmas, sigma_like
from cdedu.recipes import Recipe, get_recipe
from cdedu.solvers import euler_step, heun_step
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher, preconditioning
from cdedu.training import distill, train_teacher
from scripts.studies.bench import Bench, Measure, arguments, bought, noise, protocols

BUDGET = {"toy": 1_152_000, "digits": 76_800}
"""Evaluations of a run: 750 steps of 256 points, 200 steps of 64 digits, with Heun."""
STAGE: dict[str, dict[str, Any]] = {"toy": {"batch": 256, "lr": 2e-3}, "digits": {"batch": 64, "lr": 6e-4}}
"""What differs from the recipe in every run."""
SEEDS = 5
SAMPLES = {"toy": 5000, "digits": 600}
SHOWN = ("default", "none", "none_uniform", "none_random", "switch", "random", "in", "rho1", "euler5")
"""Variants of which some samples of the first seed are kept."""
DRAWS = 3
"""Sampling seeds, of which the median is taken for each student."""


def huber_by_element(a: Tensor, b: Tensor) -> Tensor:
    """The published slip: the pseudo-Huber distance of every number, with the c of whole samples."""
    c = 0.00054 * a[0].numel() ** 0.5
    return (((a - b).square() + c**2).sqrt() - c).flatten(1).mean(1)


Coefficients = tuple[Tensor, Tensor, Tensor]
Rule = Callable[[Tensor, Coefficients], Coefficients]


def gap(sigma: Tensor) -> Tensor:
    """σ − ε, with ε as exact as the grid's."""
    return (sigma - SIGMA_MIN).clamp(min=0)


RULES: dict[str, Rule] = {
    "none": lambda s, c: (0 * s, torch.ones_like(s), c[2]),
    "switch": lambda s, c: ((gap(s) < 1e-8).to(s), (gap(s) >= 1e-8).to(s), c[2]),
    "teacher_form": lambda s, c: preconditioning(s, 0.5),
    "root": lambda s, c: (c[0], 0.5 * gap(s) / (0.25 + gap(s) ** 2).sqrt(), c[2]),
    "out": lambda s, c: (c[0], 2 * c[1], c[2]),
    "in": lambda s, c: (c[0], c[1], c[2] ** 2),
    "time": lambda s, c: c,
}
"""Other coefficients (c_skip, c_out, c_in) of a student, from σ and the right ones."""


class Wrapped(nn.Module):
    """c_skip x + c_out F(c_in x, c_noise) with the coefficients of a rule; ``time`` also tells the network σ as it is."""

    def __init__(self, network: nn.Module, rule: str, noise_scale: float) -> None:
        super().__init__()
        self.network, self.rule, self.noise_scale = network, rule, noise_scale

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        s = sigma_like(sigma, x)
        c_skip, c_out, c_in = RULES[self.rule](s, preconditioning(s, 0.5, SIGMA_MIN))
        level = s if self.rule == "time" else self.noise_scale * s.log()
        return c_skip * x + c_out * self.network(c_in * x, level.flatten().expand(len(x)))


@dataclass(frozen=True)
class Variant:
    """One change to the default run."""

    label: str
    piece: str
    stage: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    student: str = "copy"
    """``copy`` of the teacher's network, ``random`` weights, ``denoiser`` (a student over D), or one of the rules, around a copy
    or a network ``from random`` weights."""
    distance: Distance | None = None
    """In place of the recipe's."""
    teacher: str | int = "given"
    """``given``, ``exact``, or the steps of its training."""
    budget: float = 1.0
    """In budgets."""


TOY: dict[str, Variant] = {
    "default": Variant("default", ""),
    "none": Variant("no boundary condition", "boundary", student="none"),
    "rho1": Variant("ρ = 1, even steps", "grid", recipe={"rho": 1.0}),
    "n5": Variant("N = 5", "N", {"points": 5}),
    "n72": Variant("N = 72", "N", {"points": 72}),
    "euler": Variant("Euler", "solver", {"solver": "euler"}),
    "l1": Variant("ℓ1", "distance", {"distance": "l1"}),
    "huber": Variant("pseudo-Huber", "distance", {"distance": "pseudo_huber"}),
    "huber_by_element": Variant("Huber by element", "distance", distance=huber_by_element),
    "uniform": Variant("λ = 1", "weight", {"weight": "uniform"}),
    "mu9": Variant("μ = 0.9", "target", {"target_rate": 0.9}),
    "random": Variant("random start", "start", student="random"),
    "lr_high": Variant("learning rate × 3", "rate"),
    "double": Variant("twice the budget", "budget", budget=2.0),
    "none_uniform": Variant(
        "no boundary condition, λ = 1", "boundary", {"weight": "uniform"}, student="none"
    ),
    "none_random": Variant(
        "no boundary condition, λ = 1, random start",
        "boundary",
        {"weight": "uniform"},
        student="none from random",
    ),
    "switch": Variant("switch at ε", "boundary", student="switch"),
    "teacher_form": Variant("teacher's coefficients, ε = 0", "boundary", student="teacher_form"),
    "denoiser": Variant("student over D", "boundary", student="denoiser"),
    "root": Variant("(σ − ε)² under the root", "slip", student="root"),
    "out": Variant("c_out without σ_d", "slip", student="out"),
    "in": Variant("c_in without its root", "slip", student="in"),
    "time": Variant("raw σ as time", "slip", student="time"),
    "rho3": Variant("ρ = 3", "grid", recipe={"rho": 3.0}),
    "log": Variant("even steps of ln σ", "grid", recipe={"rho": 1e4}),
    "n9": Variant("N = 9", "N", {"points": 9}),
    "n36": Variant("N = 36", "N", {"points": 36}),
    **{f"euler{n}": Variant(f"Euler, N = {n}", "solver", {"solver": "euler", "points": n}) for n in (5, 72)},
    "lr_low": Variant("learning rate ÷ 3", "rate"),
    "mu99": Variant("μ = 0.99", "target", {"target_rate": 0.99}),
    "exact": Variant("exact teacher", "teacher", teacher="exact"),
    "teacher300": Variant("teacher of 300 steps", "teacher", teacher=300),
    "teacher100": Variant("teacher of 100 steps", "teacher", teacher=100),
    "batch64": Variant("batch ÷ 4", "batch", {"batch": 64}),
    "batch1024": Variant("batch × 4", "batch", {"batch": 1024}),
}
ON_DIGITS = ("default", "none", "n5", "euler", "huber", "uniform", "random")
VARIANTS = {"toy": TOY, "digits": {key: TOY[key] for key in ON_DIGITS}}


def recipe_of(name: str, key: str, variant: Variant, seed: int) -> Recipe:
    """The recipe of one run, with as many steps as its budget buys."""
    changes = STAGE[name] | variant.stage
    if variant.piece == "rate":
        changes["lr"] *= 3 if key == "lr_high" else 1 / 3
    cost = 5 if changes.get("solver") == "euler" else 6
    recipe = bought(get_recipe(name), BUDGET[name] * variant.budget, cost, seed, **changes)
    return replace(recipe, **variant.recipe)


class Table(Measure):
    """What all runs on one data set share."""

    def __init__(self, name: str) -> None:
        super().__init__(get_recipe(name), SAMPLES[name], DRAWS)
        self.name, self.given = name, cdedu.load(f"{name}-teacher")
        self.z = noise(self.recipe, (1000, *self.ruler.shape), 100)

    @cache  # noqa: B019
    def teacher(self, kind: str | int, seed: int) -> Any:
        """The denoiser of a variant."""
        if kind == "given":
            return self.given
        if kind == "exact":
            return exact_moons()
        stage = replace(self.recipe.teacher, steps=int(kind), batch=min(256, self.recipe.teacher.batch))
        *_, state = train_teacher(replace(self.recipe, teacher=stage, seed=seed), self.data)
        return state.result

    @cache  # noqa: B019
    @torch.no_grad()
    def ends(self, kind: str | int, seed: int) -> Tensor:
        """The ends of the teacher's paths from z, by 400 points of Heun."""
        return cdedu.sample_heun(self.teacher(kind, seed), self.z, karras_sigmas(400), to_zero=False)

    def beginning(self, variant: Variant, teacher: Any, recipe: Recipe) -> nn.Module:
        """The student before training."""
        source: Teacher = teacher if isinstance(teacher, Teacher) else self.given
        copy = ConsistencyModel.from_teacher(source)
        if variant.student == "copy":
            return copy
        if variant.student == "denoiser":
            return DenoiserStudent(Teacher(copy.network, source.sigma_data, source.noise_scale))
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

    def run(self, key: str, variant: Variant, seed: int) -> dict[str, Any]:
        """One training and its measurements."""
        recipe, teacher = recipe_of(self.name, key, variant, seed), self.teacher(variant.teacher, seed)
        student, loss = self.beginning(variant, teacher, recipe), []
        out: dict[str, Any] = {}
        try:
            for state in distill(recipe, teacher, self.data, student=student, distance=variant.distance):
                loss.append(state.loss)
                if key == "default" and state.step == state.steps // 2:
                    out["half"] = self.quality(state.result)
        except FloatingPointError as error:
            return {"failed": str(error)}
        out |= self.quality(state.result) | {"loss": sum(loss[-50:]) / len(loss[-50:])}
        if key == "default":
            out["raw"] = self.quality(state.model.eval().requires_grad_(False))
        if self.name == "toy":
            out |= self.errors(state.result, teacher, recipe, self.ends(variant.teacher, seed))
            if seed == 0 and key in SHOWN:
                answers = state.result(self.z[:300], 80.0).detach()
                out["samples"] = [[round(v, 3) for v in point] for point in answers.tolist()]
        return out

    @torch.no_grad()
    def errors(self, model: nn.Module, teacher: Any, recipe: Recipe, ends: Tensor) -> dict[str, Any]:
        """Root-mean-square distance of one-step answers to the ends of the teacher's paths, and of each link."""
        answers = model(self.z, 80.0)
        far = (answers - ends).square().sum(1)
        solver = euler_step if recipe.student.solver == "euler" else heun_step
        links = link_errors(model, teacher, self.z, recipe.sigmas(), solver)
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
            ends = self.ends("given", 0)
            for solver, sample in (("heun", cdedu.sample_heun), ("euler", cdedu.sample_euler)):
                walks = {
                    n: sample(self.given, self.z, karras_sigmas(n), to_zero=False) for n in (5, 9, 18, 36, 72)
                }
                out[f"composed_{solver}"] = {
                    str(n): float((x - ends).square().sum(1).mean().sqrt()) for n, x in walks.items()
                }
        return out


def exact_moons() -> GaussianMixture:
    """The two moons as 96 Gaussians in a row, as in chapter 4."""
    angle = torch.linspace(0, torch.pi, 48)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
    return GaussianMixture((torch.cat([upper, lower]) - torch.tensor([0.5, 0.25])) / 1.4, 0.06 / 1.4)


def summary(name: str, study: Bench) -> dict[str, Any]:
    """For each variant the median and range of its distances over seeds, and of their ratios to the default's median."""
    rows: dict[str, Any] = {}
    for key, variant in VARIANTS[name].items():
        done = study.finished(f"{name}/{key}", SEEDS)
        good = [run for run in done if "failed" not in run]
        row: dict[str, Any] = {
            "label": variant.label,
            "piece": variant.piece,
            "seeds": len(done),
            "failed": len(done) - len(good),
        }
        for what in ("quality_1", "quality_2", "loss", "error", "median_error", "spread", "sum"):
            if good and what in good[0]:
                row[what] = spread([run[what] for run in good])
        if good and "links" in good[0]:
            columns = zip(*(run["links"] for run in good), strict=True)
            row["links"] = [spread(list(column))["median"] for column in columns]
        if key == "default" and good:
            for free, label, piece in (
                ("raw", "no sampling average", "average"),
                ("half", "half the budget", "budget"),
            ):
                rows[free] = {"label": label, "piece": piece, "seeds": len(good), "failed": 0} | {
                    what: spread([run[free][what] for run in good]) for what in ("quality_1", "quality_2")
                }
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
    asked = arguments(__doc__, BUDGET, only={"nargs": "*", "help": "keys of variants, for a look"})
    settings = {"budget": BUDGET, "stage": STAGE, "samples": SAMPLES, "draws": DRAWS}
    recipe = {name: get_recipe(name).to_dict() for name in BUDGET}
    protocol = protocols(BUDGET, "brief")
    study = Bench("anatomy", __file__, asked, settings=settings, recipe=recipe, protocol=protocol)
    for name in asked.parts:
        table, variants = Table(name), VARIANTS[name]
        fixed = study.run(f"{name}/fixed", table.fixed)

        def one(arm: str, seed: int) -> dict[str, Any]:
            key = arm.partition("/")[2]
            return table.run(key, variants[key], seed)  # noqa: B023

        keys = [key for key in variants if asked.only is None or key in asked.only]
        for _ in study.arms([f"{name}/{key}" for key in keys], SEEDS, one):
            pass
        rows = {"budget": BUDGET[name], "seeds": SEEDS, "variants": summary(name, study)}
        study.write(study.metrics | {name: fixed | rows})


if __name__ == "__main__":
    main()
