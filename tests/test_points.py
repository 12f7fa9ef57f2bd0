"""Clouds of points: on their surfaces, as sets, and at distances that ask for no order."""

from dataclasses import replace

import pytest
import torch

import cdedu
from cdedu.course.measures.points import chamfer, measure, nearest_neighbour_accuracy, surface_distance
from cdedu.data.points import FAMILIES, TUBE, clouds, surface_points
from cdedu.networks.sets import SetNetwork
from cdedu.recipes import recipes
from cdedu.training import distill, train_teacher

RECIPE = recipes["points"]
DATA = clouds(train=600, test=60)
SHORT = replace(
    RECIPE, network=replace(RECIPE.network, width=16, depth=2),
    teacher=replace(RECIPE.teacher, steps=3, batch=8), student=replace(RECIPE.student, steps=3, batch=8),
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def teacher():
    *_, state = train_teacher(SHORT, DATA)
    return state.result


def permuted(x, seed=5):
    return x[:, torch.randperm(x.shape[1], generator=seeded(seed))]


# --- sets --------------------------------------------------------------------------------------------


def test_the_network_permutes_with_its_points():
    torch.manual_seed(0)
    network, x, level = (
        SetNetwork(),
        torch.randn(3, 20, 3, generator=seeded()),
        torch.tensor([-1.0, 0.0, 1.0]),
    )
    torch.testing.assert_close(network(permuted(x), level), permuted(network(x, level)), atol=1e-5, rtol=1e-4)


def test_each_point_hears_of_the_others_of_its_own_cloud_only():
    torch.manual_seed(0)
    network, x = SetNetwork(), torch.randn(2, 20, 3, generator=seeded())
    other = x.clone()
    other[0, 7] += 1.0
    change = (network(x, torch.zeros(2)) - network(other, torch.zeros(2))).abs().sum(-1)
    assert (change[0] > 0).all() and (change[1] == 0).all()


def test_sampling_permutes_with_the_noise(teacher):
    *_, state = distill(SHORT, teacher, DATA)
    z = 80 * torch.randn(4, 48, 3, generator=seeded())
    for sample in (
        lambda z: cdedu.sample_heun(teacher, z, SHORT.sigmas(5)),
        lambda z: cdedu.sample_consistency(state.result, z),
    ):
        torch.testing.assert_close(sample(permuted(z)), permuted(sample(z)), atol=1e-3, rtol=1e-3)


def test_models_are_loaded_as_they_were_saved(teacher, tmp_path):
    cdedu.save(tmp_path / "t.safetensors", teacher, SHORT, (48, 3))
    x = torch.randn(2, 30, 3, generator=seeded())
    torch.testing.assert_close(cdedu.load(tmp_path / "t.safetensors")(x, 1.0), teacher(x, 1.0))
    student = cdedu.ConsistencyModel.from_teacher(teacher)
    cdedu.save(tmp_path / "s.safetensors", student, SHORT, (48, 3))
    torch.testing.assert_close(cdedu.load(tmp_path / "s.safetensors")(x, 1.0), student(x, 1.0))


# --- data --------------------------------------------------------------------------------------------


def test_clouds_lie_on_their_surfaces():
    distance, family = surface_distance(DATA.test)
    assert distance.max() < 0.01 and torch.equal(family, DATA.test_labels)
    assert DATA.train_labels.bincount().tolist() == [200, 200, 200]
    assert torch.equal(DATA.train, clouds(train=600, test=60).train)
    assert DATA.train.std().item() == pytest.approx(0.42, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_points_cover_their_surface_evenly(family):
    x = surface_points(family, torch.tensor([1.0]), 60_000, seeded())[0]
    assert x.mean(0).abs().max() < 0.02
    if family == "torus":  # of its area, the outer half of the tube has 1/2 + TUBE/π
        outer = (x[:, :2].norm(dim=1) > 1).float().mean().item()
        assert outer == pytest.approx(0.5 + TUBE / torch.pi, abs=0.01)
    elif family == "cube":  # each of the six faces has a sixth of the points
        on = torch.stack([x == 1, x == -1]).float().mean(1).flatten()
        assert (on - 1 / 6).abs().max() < 0.01
    else:
        torch.testing.assert_close(x.square().mean(0), torch.full((3,), 1 / 3), atol=0.01, rtol=0)


def test_distance_from_a_surface_by_hand():
    ball = surface_points("sphere", torch.tensor([0.9]), 500, seeded())
    assert surface_distance(ball * (1 + 0.1 / 0.9))[0].item() == pytest.approx(0.1, abs=1e-3)
    faces = torch.tensor(
        [[[0.7, 0, 0], [-0.6, 0.1, 0], [0, 0.75, 0.2], [0.1, -0.65, 0]]]
    )  # around a cube of 0.65
    assert surface_distance(faces)[0].item() <= 0.05


# --- distances ---------------------------------------------------------------------------------------


def test_chamfer_by_hand_and_without_order():
    x = torch.tensor([[[0.0, 0, 0], [2.0, 0, 0]]])
    y = torch.tensor([[[0.0, 1, 0]]])
    torch.testing.assert_close(chamfer(x, y), torch.tensor([(1 + 5) / 2 + 1.0]))
    torch.testing.assert_close(chamfer(y, x), chamfer(x, y))
    a, b = DATA.test[:5], DATA.train[:5]
    torch.testing.assert_close(chamfer(permuted(a), permuted(b, 6)), chamfer(a, b))
    torch.testing.assert_close(chamfer(permuted(a), a), torch.zeros(5))


def test_nearest_neighbours_tell_sets_apart_where_they_differ():
    same = nearest_neighbour_accuracy(DATA.train[:60], DATA.test)
    assert 0.3 < same < 0.7
    assert nearest_neighbour_accuracy(DATA.test + 5, DATA.test) == 1
    assert (
        nearest_neighbour_accuracy(DATA.test[:20], DATA.test[:20] + 1e-4) < 0.2
    )  # copies: memory, not chance


def test_mixed_clouds_are_on_no_surface():
    mixed = DATA.test.reshape(-1, 3)[torch.randperm(60 * 48, generator=seeded())].reshape(60, 48, 3)
    found = measure(mixed, DATA.train[:60])
    assert found["surface"] > 0.05 and found["nn"] > 0.6
    real = measure(DATA.test, DATA.train[:60])
    assert real["surface"] < 0.01 and real["families"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surface_points("cone", torch.ones(1), 5), "choose one of sphere, torus, cube"),
        (lambda: surface_points("cube", torch.ones(1), 1), "at least 2"),
        (lambda: clouds(train=2), "one cloud of each family"),
        (lambda: SetNetwork()(torch.zeros(2, 6), torch.zeros(2)), r"want clouds of points \(B, N, 3\)"),
        (lambda: chamfer(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2)), r"\(B, N, 3\)"),
        (lambda: chamfer(torch.zeros(2, 0, 3), torch.zeros(2, 4, 3)), r"\(B, N, 3\)"),
        (lambda: surface_distance(torch.zeros(4, 3)), r"\(B, N, 3\)"),
        (lambda: nearest_neighbour_accuracy(DATA.test, DATA.train), "equal size, got 60 and 600"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
