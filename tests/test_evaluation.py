"""Distances against closed forms and limits."""

import math
import shutil

import pytest
import torch
from conftest import ROOT
from PIL import Image

from cdedu.data import load_data
from cdedu.evaluation import (
    cifar_classifier,
    cifar_referee,
    effective_classes,
    frechet_distance,
    frozen_classifier,
    kernel_distance,
    latency,
    median_over_seeds,
    nearer_to_training,
    nearest,
    precision_recall,
    share_recognised,
    sliced_wasserstein,
)
from cdedu.records import read_record


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(x: torch.Tensor, mean: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """``x`` moved so that its sample mean and covariance are exactly ``mean`` and ``root @ root.T``."""
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov().reshape(x.shape[1], -1))).T @ root.T + mean


def test_frechet_distance_has_the_closed_form_of_two_gaussians():
    """Covariances that do not commute, so that the root of the product counts."""
    a = torch.tensor([[1.0, 0.0], [0.5, 0.8]], dtype=torch.float64)
    b = torch.tensor([[0.6, 0.0], [-0.7, 1.1]], dtype=torch.float64)
    m = torch.tensor([0.3, -1.0], dtype=torch.float64)
    x, y = with_moments(normal(400, 2, 0), 0 * m, a), with_moments(normal(300, 2, 1), m, b)
    # tr (AB)^½ of a 2 × 2 product is (tr AB + 2 √det AB)^½
    product = (a @ a.T) @ (b @ b.T)
    root = math.sqrt(product.trace() + 2 * product.det().sqrt())
    expected = m.square().sum() + (a @ a.T).trace() + (b @ b.T).trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_unbiased():
    """Mean near 0 over disjoint draws of one distribution, some values below; clearly positive for two."""
    values = torch.tensor(
        [kernel_distance(normal(50, 4, 2 * i), normal(50, 4, 2 * i + 1)) for i in range(200)]
    )
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200) and (values < 0).any()
    assert kernel_distance(normal(50, 4), normal(50, 4, 1) + 1) > 10 * values.std()


def test_kernel_distance_is_its_definition():
    x, y = normal(4, 3, 0), normal(5, 3, 1)
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    xx = sum(k(x[i], x[j]) for i in range(4) for j in range(4) if i != j) / 12
    yy = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    xy = sum(k(a, b) for a in x for b in y) / 20
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_sliced_wasserstein_of_a_shift(d):
    """A set and its copy shifted by v: every projection moves by u·v, so the distance is |v| / √d on average over u."""
    x, v = normal(500, d), torch.arange(1.0, d + 1, dtype=torch.float64)
    got = sliced_wasserstein(x, x[torch.randperm(500)] + v, projections=8000)
    assert got == pytest.approx(v.norm().item() / math.sqrt(d), rel=0.02)


def test_sliced_wasserstein_of_a_scaling():
    x = with_moments(
        normal(1000, 1), torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    )
    assert sliced_wasserstein(x, 3 * x) == pytest.approx(2, rel=1e-3)
    assert sliced_wasserstein(x, x) == 0
    with pytest.raises(ValueError, match="equal size, got 1000 and 999"):
        sliced_wasserstein(x, x[1:])


def test_precision_and_recall_at_their_limits():
    real = normal(300, 2)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    one_spot = real[:1] + 1e-3 * normal(300, 2, 1)
    precision, recall = precision_recall(real, one_spot)
    assert precision == 1.0 and recall < 0.05  # good pictures, all the same
    wide = 30 * normal(300, 2, 2)
    precision, recall = precision_recall(real, wide)
    assert precision < 0.1 and recall > 0.7  # everything covered, and much besides


def test_a_point_is_inside_up_to_the_distance_of_the_kth_neighbour():
    real = torch.tensor(
        [[0.0], [1.0], [3.0], [6.0]]
    )  # nearest neighbours at 1, 1, 2, 3; second ones at 3, 2, 3, 5
    for point, inside in ((-1.5, (0, 1)), (9.0, (1, 1)), (9.5, (0, 1)), (11.5, (0, 0))):
        fake = torch.full((4, 1), point)
        assert tuple(precision_recall(real, fake, k)[0] for k in (1, 2)) == inside


def test_nearest_neighbours_are_found():
    data = normal(50, 4).reshape(50, 1, 2, 2)
    index, distance = nearest(data[[7, 3]] + 1e-6, data)
    assert index.tolist() == [7, 3] and distance.tolist() == pytest.approx([2e-6] * 2, rel=1e-2)


def test_medians_are_over_five_seeds():
    seen = []
    out = median_over_seeds(lambda g: seen.append(g.initial_seed()) or float((g.initial_seed() - 1) ** 2))
    assert sorted(set(seen)) == [0, 1, 2, 3, 4] and out == {"median": 1.0, "min": 0.0, "max": 9.0}


def test_latency_is_the_median_of_several_calls():
    calls = []
    assert latency(lambda: calls.append(1), repeats=3) > 0 and len(calls) >= 3


@pytest.mark.parametrize(
    "distance", [frechet_distance, kernel_distance, sliced_wasserstein, precision_recall]
)
def test_distances_refuse(distance):
    good, bad = normal(10, 2), normal(10, 2)
    bad[3, 1] = math.nan
    with pytest.raises(ValueError, match="second set of features contains NaN"):
        distance(good, bad)
    for x in (normal(10, 3), normal(1, 2), normal(10, 4).reshape(10, 2, 2)):
        with pytest.raises(ValueError, match=r"want two sets of features"):
            distance(good, x)


def test_a_generator_without_memory_is_nearer_to_training_data_half_the_time():
    seen, unseen, fresh = (normal(300, 2, seed) for seed in range(3))
    assert nearer_to_training(fresh, seen, unseen) == pytest.approx(0.5, abs=0.1)
    assert (
        nearer_to_training(seen + 1e-6, seen, unseen) == 1 and nearer_to_training(unseen, seen, unseen) == 0
    )
    with pytest.raises(ValueError, match="equal size, got 300 and 299"):
        nearer_to_training(fresh, seen, unseen[1:])


def test_effective_classes_count_what_is_filled():
    assert effective_classes(torch.full((7,), 3), 10) == pytest.approx(1)
    assert effective_classes(torch.arange(40) % 10, 10) == pytest.approx(10)
    assert effective_classes(torch.arange(40) % 4, 10) == pytest.approx(4)
    p = [0.5, 0.25, 0.25]
    assert effective_classes(torch.tensor([0, 0, 1, 2]), 5) == pytest.approx(
        math.exp(-sum(q * math.log(q) for q in p))
    )


@pytest.mark.parametrize(
    "labels, words",
    [
        (torch.tensor([0, 10]), "from 0 to 10"),
        (torch.tensor([-1, 3]), "from -1 to 3"),
        (torch.zeros(3), "whole labels"),
        (torch.zeros(0, dtype=torch.long), "whole labels"),
    ],
)
def test_effective_classes_refuse(labels, words):
    with pytest.raises(ValueError, match=words):
        effective_classes(labels, 10)


@pytest.mark.parametrize("make", ["digits", "digits.zip", "digits-train"])
def test_a_folder_called_digits_is_not_measured_as_the_digits(tmp_path, make):
    """Nor are pictures of it made to fit; the digits themselves have their classifier, and nothing else that is made of them."""
    path = tmp_path / make
    path.with_suffix("").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(path.with_suffix("") / f"{i}.png")
    if path.suffix:
        shutil.make_archive(str(path.with_suffix("")), "zip", path.with_suffix(""))
    for channels in (1, 3):
        own = load_data(str(path), channels=channels)
        assert own.name == "digits" and frozen_classifier(own) is None
    digits = load_data("digits")
    assert type(frozen_classifier(digits)).__name__ == "DigitsClassifier"


def test_the_referee_shares_nothing_with_the_classifier_that_measures():
    """Another architecture, seed and set of weights; and it is right more often, which a record says of both."""
    measure, referee = cifar_classifier(), cifar_referee()
    shapes = [
        sorted(tuple(p.shape) for p in m.parameters() if p.ndim > 1 and len(p) > 10)
        for m in (measure, referee)
    ]
    assert not {*shapes[0]} & {*shapes[1]}
    records = [read_record(ROOT / "results" / f"cifar10-jpeg-{n}.json") for n in ("classifier", "referee")]
    assert records[0]["seed"] != records[1]["seed"]
    assert records[0]["metrics"]["test_accuracy"] < records[1]["metrics"]["test_accuracy"]
    assert not any(p.requires_grad for p in referee.parameters()) and not referee.training


def test_the_share_recognised_counts_the_classes_that_were_asked_for():
    labels = torch.tensor([0, 1, 2, 0])
    scores = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 0]), 3).float()
    assert share_recognised(lambda x: x, scores, labels, batch=3) == 0.75
