"""Comparisons: evaluations are counted truly, samples drawn once a seed, sizes equal, the floor beside the figures."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cdedu.data import Dataset
from cdedu.evaluation import comparison, precision_recall
from cdedu.evaluation.comparison import Ruler, break_even, compare, samplers, speed, table
from cdedu.networks import MLP
from cdedu.recipes import recipes
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import seed_of

G = torch.Generator().manual_seed(0)
X = 0.5 * torch.randn(90, 2, generator=G)
DATA = Dataset("points", X[:60], X[60:])
TOY = recipes["toy"]


class CountingTeacher(Teacher):
    calls = 0

    def forward(self, x, sigma, **cond):
        self.calls += 1
        return super().forward(x, sigma, **cond)


class CountingStudent(ConsistencyModel):
    calls = 0

    def forward(self, x, sigma, **cond):
        self.calls += 1
        return super().forward(x, sigma, **cond)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return CountingTeacher(MLP(2, 8, 1)).eval(), CountingStudent(MLP(2, 8, 1)).eval()


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(comparison, "speed", lambda *a, batch, **k: speed(*a, batch=2, repeats=1))


@pytest.mark.parametrize("options", [{}, {"brief": True}, {"trial": True}])
def test_every_sampler_costs_what_it_says(pair, options):
    teacher, student = pair
    for name, (evaluations, sampler) in samplers(TOY, teacher, student, **options).items():
        before = teacher.calls, student.calls
        assert sampler(80 * torch.randn(3, 2, generator=G), G).shape == (3, 2)
        made = teacher.calls - before[0], student.calls - before[1]
        assert made == ((evaluations, 0) if name.startswith("teacher") else (0, evaluations)), name
        assert str(evaluations) in name.split("_")


def test_extents_of_a_comparison(pair):
    names = {key: [*samplers(TOY, *pair, **{key: True})] for key in ("brief", "trial")}
    full = [*samplers(TOY, *pair)]
    assert {*names["brief"]} < {*full} and full[0] == names["brief"][0] == "teacher_heun_35"
    assert names["trial"] == ["teacher_heun_5", "student_1", "student_2", "teacher_ddim_2"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_samples_are_drawn_once_a_seed_from_noise_of_the_greatest_level(monkeypatch, quick, pair, seeds):
    drawn, starts, functions = Counter(), [], comparison.samplers

    def counting(*args):
        def one(name, sampler):
            def sample(x, generator):
                drawn[name, generator.initial_seed()] += len(x)
                starts.append(x)
                return sampler(x, generator)

            return sample

        return {name: (n, one(name, sampler)) for name, (n, sampler) in functions(*args).items()}

    monkeypatch.setattr(comparison, "samplers", counting)
    monkeypatch.setattr(comparison, "BATCH", 7)
    out = compare(TOY, *pair, DATA, seeds, trial=True)
    firsts = [
        (seed if place == 0 else seed_of(seed, place)) for seed in range(seeds) for place in range(0, 30, 6)
    ]
    assert drawn == {(name, first): 6 for name in out["samplers"] for first in firsts}
    assert torch.cat(starts).std().item() == pytest.approx(80, rel=0.2)
    assert out["n"] == 30 and out["seeds"] == seeds


def test_a_comparison_holds_floor_rows_ratio_and_speed_and_prints_them(quick, pair):
    out = compare(TOY, *pair, DATA, seeds=3, samples=20)
    assert out["n"] == 20 and out["features"] is None and out["second_sigma"] == TOY.student.second_sigma
    assert out["base"] == "teacher_heun_35" and not out["trial"]
    for row in (out["floor"], *out["samplers"].values()):
        assert row["sw"]["min"] <= row["sw"]["median"] <= row["sw"]["max"]
    base, one = (out["samplers"][name]["sw"]["median"] for name in ("teacher_heun_35", "student_1"))
    assert out["ratio"]["student_1"] == one / base
    assert out["floor"]["sw"]["median"] > 0 and out["speed"]["ratio"] > 1
    text = table(out)
    assert (
        all(name in text for name in out["samplers"]) and "real against real" in text and "trial" not in text
    )
    assert f"{one:.4g}" in text
    small = compare(TOY, *pair, DATA, seeds=1, trial=True)
    assert small["base"] == "teacher_heun_5" and "A trial with few evaluations" in table(small)


def test_images_are_compared_in_the_features_of_the_frozen_classifier(monkeypatch, quick):
    monkeypatch.setattr(comparison, "IMAGE_BATCH", 5)
    recipe = replace(recipes["cifar10"], network=replace(recipes["cifar10"].network, width=4, depth=1, multipliers=(1,), attention=(), dropout=0))  # fmt: skip
    images = torch.randint(0, 256, (30, 3, 32, 32), generator=G, dtype=torch.uint8)
    network = recipe.network.build((3, 32, 32))
    pair = Teacher(network).eval(), ConsistencyModel(network).eval()
    out = compare(recipe, *pair, Dataset("mine", images[:18], images[18:]), seeds=1, trial=True)
    assert out["features"] == "CifarClassifier" and out["n"] == 12
    assert (
        {"fd", "kd", "precision", "recall"}
        == {*out["floor"]}
        == {*out["samplers"]["student_1"]} - {"evaluations"}
    )


def test_precision_and_recall_are_of_third_neighbours(monkeypatch):
    monkeypatch.setattr(comparison, "frozen_classifier", lambda data: SimpleNamespace(features=lambda x: x))
    train, real, fake = torch.randn(180, 4, generator=torch.Generator().manual_seed(0)).chunk(3)
    measured = Ruler(Dataset("points", train, real)).measure(1.1 * fake)
    by_k = {k: precision_recall(real, 1.1 * fake, k=k) for k in (2, 3, 4)}
    assert len({*by_k.values()}) == 3 and (measured["precision"], measured["recall"]) == by_k[3]


def test_too_few_samples_are_refused(pair):
    with pytest.raises(ValueError, match="1 samples are too few to compare; use at least 2"):
        compare(TOY, *pair, DATA, samples=1)


def test_at_the_break_even_both_have_cost_the_same():
    n = break_even(3_072_000, 35, 2)
    assert 35 * n == pytest.approx(3_072_000 + 2 * n)
    assert break_even(0, 18, 1) == 0


@pytest.mark.parametrize(
    "arguments, words",
    [((1e6, 2, 2), "never pays"), ((1e6, 35, 0), "saves nothing"), ((-1.0, 35, 1), "cannot be negative")],
)
def test_break_even_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        break_even(*arguments)
