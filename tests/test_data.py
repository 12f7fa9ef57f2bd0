"""Data sets: shapes, scale, fixed splits."""

import pytest
import torch

from cdedu.data import TOYS, digits, load_data


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
    assert data.describe() == {"name": "circles", "train": 20_000, "test": 5_000, "shape": [2]}


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
