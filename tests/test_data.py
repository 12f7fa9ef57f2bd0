"""Data sets: shapes, scale, fixed splits, what they are known by."""

import math
from dataclasses import replace

import pytest
import torch

from cdedu.data import TOYS, Dataset, dataset, digits, load_data
from cdedu.data.dataset import alike


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_points_of_standard_deviation_near_one_half(name):
    x = TOYS[name](4000, 0)
    assert x.shape == (4000, 2) and x.dtype == torch.float32
    assert x.std().item() == pytest.approx(0.5, abs=0.1) and x.mean(0).abs().max() < 0.15
    assert x.equal(TOYS[name](4000, 0)) and not x.equal(TOYS[name](4000, 1))


def test_there_are_two_moons_and_at_least_four_more():
    assert "two_moons" in TOYS and len(TOYS) >= 5


def test_toy_data_are_split():
    data = load_data("circles")
    assert len(data.train) == 20_000 and len(data.test) == 5_000
    assert not data.test.equal(data.train[:5000])
    about = data.describe()
    assert about.pop("std") == pytest.approx(0.5, abs=0.05) and about.pop("mean") == pytest.approx(
        0, abs=0.01
    )
    assert about == {"name": "circles", "train": 20_000, "test": 5_000, "shape": [2]}


PICTURES = torch.randint(0, 256, (20, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
KNOWN = Dataset("mine", PICTURES, PICTURES[:5], torch.arange(20) % 3, torch.arange(5) % 3)


@pytest.mark.parametrize(
    "change, same",
    [
        ({"name": "moved"}, True),
        ({"test": PICTURES[:3], "test_labels": torch.arange(3)}, True),
        ({"train": PICTURES[1:], "train_labels": torch.arange(1, 20) % 3}, False),
        ({"train": PICTURES.flip(0)}, False),
        ({"train": PICTURES ^ (torch.arange(20) == 7)[:, None, None, None].byte()}, False),
        ({"train": PICTURES.reshape(20, 3, 2, 8)}, False),
        ({"train_labels": torch.arange(20) % 2}, False),
        ({"train_labels": None}, False),
    ],
    ids=[
        "moved",
        "other test part",
        "one picture less",
        "reversed",
        "one bit",
        "other shape",
        "relabelled",
        "no labels",
    ],
)
def test_data_are_known_by_their_contents_and_not_by_their_name(change, same):
    assert alike(KNOWN.describe(), replace(KNOWN, **change).describe()) is same


def test_computed_data_are_the_same_on_every_machine():
    """A last digit differs from one processor to the next; other points, or another scale, are other data."""
    points = load_data("two_moons")
    about = points.describe()
    assert alike(about, replace(points, train=points.train * (1 + 1e-7)).describe())
    assert not alike(about, replace(points, train=points.train * 1.01).describe())
    assert not alike(about, load_data("circles").describe())


def test_large_data_are_known_by_rows_at_equal_distances(monkeypatch):
    monkeypatch.setattr(dataset, "_HASHED", PICTURES[:4].nbytes)
    changed = [PICTURES ^ (torch.arange(20) == i)[:, None, None, None].byte() for i in (10, 11)]
    same = [alike(replace(KNOWN).describe(), replace(KNOWN, train=x).describe()) for x in changed]
    assert same == [False, True] and not alike(
        KNOWN.describe(), replace(KNOWN, train=PICTURES[1:]).describe()
    )


@pytest.mark.parametrize(
    "part, row, value", [("train", 3, math.nan), ("train", 0, math.inf), ("test", 1, -math.inf)]
)
def test_data_that_are_no_numbers_are_refused_by_their_place(part, row, value):
    parts = {"train": torch.zeros(5, 2), "test": torch.zeros(5, 2)}
    parts[part][row, 1] = value
    with pytest.raises(
        ValueError, match=rf"mine: {part}\[{row}\] holds NaN or infinity; leave that sample out"
    ):
        Dataset("mine", **parts)


def test_digits_are_split_without_overlap_of_images():
    data = digits()
    assert data.train.shape == (1197, 1, 8, 8) and data.test.shape == (600, 1, 8, 8)
    assert data.train.min() == -1 and data.train.max() == 1
    assert torch.cdist(data.test.flatten(1), data.train.flatten(1)).min() > 0
    assert data.train_labels.bincount().min() > 100 and data.test_labels.bincount().min() > 40


def test_digits_are_those_of_scikit_learn_with_their_labels():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    known = {image.tobytes(): label for image, label in zip(images.astype("f4"), labels, strict=True)}
    data = digits()
    for x, y in ((data.train, data.train_labels), (data.test, data.test_labels)):
        raw = ((x + 1) * 8).flatten(1).numpy()
        assert [known[image.tobytes()] for image in raw] == y.tolist()


def test_unknown_data_are_named():
    with pytest.raises(ValueError, match="data = 'three_moons' is not known; choose one of two_moons"):
        load_data("three_moons")
