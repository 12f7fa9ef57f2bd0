"""Distances of pictures on disk, against other code for the same figure, and from any of the three forms."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cdedu.data import to_unit
from cdedu.evaluation import cifar_classifier, digits_classifier, distance, frechet_distance
from cdedu.evaluation.distance import Moments, between, gaussian_distance, moments, pictures


def arrays(n: int, size: int, channels: int, seed: int, low: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (n, size, size, channels), np.uint8)


def folder_of(path, x: np.ndarray):
    path.mkdir()
    for i, picture in enumerate(x):
        Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0]).save(path / f"{i:03}.png")
    return path


def npz_of(path, **x: np.ndarray):
    np.savez(path, **x)
    return path


@pytest.mark.parametrize("size, channels, make", [(8, 1, digits_classifier), (32, 3, cifar_classifier)])
@torch.no_grad()
def test_all_three_forms_of_a_set_have_the_distance_of_their_features(tmp_path, size, channels, make):
    """The reference is ``frechet_distance`` (torchmetrics) of the classifier's features."""
    a, b = arrays(150, size, channels, 0), arrays(130, size, channels, 1, low=100)
    one, other = (make().features(to_unit(torch.from_numpy(x).permute(0, 3, 1, 2))) for x in (a, b))
    wanted = frechet_distance(one, other)
    mu, sigma = other.double().mean(0).numpy(), np.cov(other.double().numpy(), rowvar=False)
    first = folder_of(tmp_path / "a", a)
    forms = [
        npz_of(tmp_path / "b.npz", arr_0=b),
        folder_of(tmp_path / "b", b),
        npz_of(tmp_path / "s.npz", mu=mu, sigma=sigma),
    ]
    for second in forms:
        found, x, y = between(first, second, "ours")
        assert found == pytest.approx(wanted, rel=1e-4) and x.n == 150 and y.n in (130, None)
    assert between(first, npz_of(tmp_path / "a.npz", arr_0=a), "ours")[0] == pytest.approx(
        0, abs=1e-6 * wanted
    )


def test_the_distance_of_two_gaussians_is_known():
    """Of N(0, I) and N(m, s²I) in d dimensions: |m|² + d (s − 1)²."""
    a = Moments(torch.zeros(3).double(), torch.eye(3).double())
    b = Moments(torch.tensor([1.0, 2.0, 2.0]).double(), 4 * torch.eye(3).double())
    assert gaussian_distance(a, b) == pytest.approx(9 + 3 * (2 - 1) ** 2)


def test_moments_of_batches_are_those_of_the_whole_far_from_zero():
    x = 1000 + torch.randn(500, 3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = moments(iter(x.split(70)), lambda part: part.flatten(1)[:, :4])
    whole = x.flatten(1)[:, :4]
    assert (
        found.mu.allclose(whole.mean(0)) and found.sigma.allclose(whole.T.cov(), rtol=1e-9) and found.n == 500
    )


def test_inceptions_features_are_asked_for_on_grey_pictures_in_colour(tmp_path, monkeypatch):
    """Its weights are no part of the tests: a stand-in takes their place, and sees (B, 3, H, W) of 8 bits."""
    seen = []

    def encoder(otherwise, device):
        assert otherwise == "give --features ours"
        return lambda x: (seen.append(x), x.float().flatten(1)[:, ::50])[1]

    monkeypatch.setattr(distance, "inception_encoder", encoder)
    x = arrays(5, 16, 1, 0)
    found = between(npz_of(tmp_path / "a.npz", arr_0=x), folder_of(tmp_path / "b", x))[0]
    assert found == pytest.approx(0, abs=0.1)  # of variances of 5,000
    for part in seen:
        assert part.dtype == torch.uint8 and part.shape == (5, 3, 16, 16) and part[:, 0].equal(part[:, 2])
        assert np.array_equal(part[:, 0], x[..., 0])


def test_pictures_are_read_a_batch_at_a_time(tmp_path):
    x = arrays(25, 4, 3, 0)
    path = tmp_path / "c.npz"
    np.savez_compressed(path, arr_0=x)
    parts = list(pictures(path, batch=10))
    assert [len(part) for part in parts] == [10, 10, 5]
    assert np.array_equal(torch.cat(parts).permute(0, 2, 3, 1), x)


def spoilt(path):
    """The file with a byte of its first array changed."""
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    return path


REFUSED = {
    "nothing there": (lambda t: t / "gone", OSError, "there is no folder .*gone"),
    "no file": (lambda t: t / "gone.npz", OSError, "there is no file .*gone.npz"),
    "no archive": (lambda t: (t / "x.npz", (t / "x.npz").write_text("no zip"))[0], ValueError, "x.npz is no .npz file"),
    "points": (lambda t: npz_of(t / "x.npz", arr_0=np.zeros((9, 2), np.float32)), ValueError, r"arr_0 is float32 \(9, 2\), but"),
    "channels first": (lambda t: npz_of(t / "x.npz", arr_0=np.zeros((9, 3, 8, 8), np.uint8)), ValueError, "but pictures are uint8"),
    "nothing known": (lambda t: npz_of(t / "x.npz", images=np.zeros(3)), ValueError, "neither arr_0 nor mu and sigma, but images.npy"),
    "objects": (lambda t: npz_of(t / "x.npz", mu=np.array([{}]), sigma=np.zeros((1, 1))), ValueError, "mu and sigma cannot be read"),
    "other features": (lambda t: npz_of(t / "x.npz", mu=np.zeros(9), sigma=np.eye(9)), ValueError, "has features 64, .* has 9"),
    "no square": (lambda t: npz_of(t / "x.npz", mu=np.zeros(9), sigma=np.eye(8)), ValueError, r"are no \(d,\) and \(d, d\)"),
    "no features": (lambda t: npz_of(t / "x.npz", mu=np.zeros(0), sigma=np.zeros((0, 0))), ValueError, r"are no \(d,\) and \(d, d\)"),
    "no numbers": (lambda t: npz_of(t / "x.npz", mu=np.full(64, np.nan), sigma=np.eye(64)), ValueError, "hold NaN or infinity"),
    "complex": (lambda t: npz_of(t / "x.npz", mu=np.zeros(64, complex), sigma=np.eye(64)), ValueError, "mu and sigma cannot be read"),
    "negative variances": (lambda t: npz_of(t / "x.npz", mu=np.zeros(64), sigma=-np.eye(64)), ValueError, "sigma is no covariance"),
    "one-sided": (lambda t: npz_of(t / "x.npz", mu=np.zeros(64), sigma=np.eye(64) + np.eye(64, k=1)), ValueError, "sigma is no covariance"),
    "beyond float64": (lambda t: npz_of(t / "x.npz", mu=np.full(64, 1e200), sigma=np.eye(64)), ValueError, "distance is not finite"),
    "changed on the way": (lambda t: spoilt(npz_of(t / "x.npz", arr_0=arrays(10, 8, 1, 1))), ValueError, "x.npz is no .npz file, or it is damaged"),
    "statistics changed on the way": (lambda t: spoilt(npz_of(t / "x.npz", mu=np.zeros(64), sigma=np.eye(64))), ValueError, "it is damaged"),
    "one picture": (lambda t: npz_of(t / "x.npz", arr_0=np.zeros((1, 8, 8, 1), np.uint8)), ValueError, "1 pictures are too few"),
    "another size": (lambda t: npz_of(t / "x.npz", arr_0=np.zeros((9, 32, 32, 3), np.uint8)), ValueError, "only sets that were made alike"),
    "no features of ours": (lambda t: npz_of(t / "x.npz", arr_0=np.zeros((9, 9, 9, 3), np.uint8)), ValueError, "gray pictures of 9 × 9"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_with_its_name(tmp_path, case):
    make, kind, message = REFUSED[case]
    first = npz_of(tmp_path / "a.npz", arr_0=arrays(10, 8, 1, 0))
    with pytest.raises(kind, match=message):
        between(first, make(tmp_path), "ours")


def test_pictures_of_several_sizes_and_a_torn_file_are_refused(tmp_path):
    folder = folder_of(tmp_path / "a", arrays(3, 8, 1, 0))
    Image.new("L", (9, 8)).save(folder / "odd.png")
    with pytest.raises(ValueError, match="odd.png differs in size from 000.png; resize all"):
        list(pictures(folder))
    path = tmp_path / "torn.npz"
    header = npz_of(tmp_path / "w.npz", arr_0=arrays(3, 8, 1, 0))
    with zipfile.ZipFile(header) as archive, zipfile.ZipFile(path, "w") as torn:
        torn.writestr("arr_0.npy", archive.read("arr_0.npy")[:-10])
    with pytest.raises(ValueError, match="torn.npz ends before its 3 pictures do"):
        list(pictures(path))


def test_from_samples_to_a_distance_on_the_command_line(cdedu):
    for seed in (0, 1):
        words = ["sample", "digits", "--number", 60, "--device", "cpu", "--seed", seed, "--format"]
        assert cdedu(*words, "npz" if seed else "png", "--out", "b.npz" if seed else "a")[0] == 0
    code, out, err = cdedu("distance", "a", "b.npz", "--features", "ours", "--device", "cpu")
    assert code == 0 and "Fréchet distance in our own features " in out and "pictures: 60 and 60" in out, err


def test_without_torch_fidelity_our_own_features_are_named(cdedu, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    npz_of(tmp_path / "a.npz", arr_0=arrays(3, 8, 1, 0))
    code, _, err = cdedu("distance", "a.npz", "a.npz")
    assert code == 2 and 'torch-fidelity: pip install "cdedu[full]"; or give --features ours' in err
