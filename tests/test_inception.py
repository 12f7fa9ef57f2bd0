"""Scores by the standard protocol: what is handed to torch-fidelity, and what is refused before any work."""

import sys
from urllib.error import URLError

import pytest
import torch

from cdedu.data import Dataset
from cdedu.evaluation import inception
from cdedu.evaluation.captions import inception_encoder
from cdedu.recipes import recipes
from cdedu.runtime import Runtime

G = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (20, 3, 8, 8), generator=G, dtype=torch.uint8)
DATA = Dataset("pictures", IMAGES[:15], IMAGES[15:])
GREY = Dataset("digits", torch.zeros(9, 1, 8, 8), torch.zeros(9, 1, 8, 8))


def test_images_become_8_bit_as_they_were_read():
    x = torch.tensor([-3.0, -1.0, -0.002, 0.0, 0.0039, 0.99, 1.0, 7.0])
    assert inception.to_uint8(x).tolist() == [0, 0, 127, 128, 128, 254, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert inception.to_uint8(every.float() / 127.5 - 1).equal(every) and inception.to_uint8(every).equal(
        every
    )


def test_all_samples_meet_the_whole_training_set(monkeypatch):
    calls, starts = [], []

    def calculate(**options):
        calls.append(options)
        return {"frechet_inception_distance": 3.5, "precision": torch.tensor(0.5)}

    def sampler(x, generator):
        starts.append(x)
        return (x / 80 + 0 * torch.randn(1, generator=generator)).clamp(-1, 1)

    monkeypatch.setattr("torch_fidelity.calculate_metrics", calculate)
    got = inception.score(sampler, recipes["cifar10"], DATA, Runtime(), samples=25, batch=10, seed=1)
    assert got == {"samples": 25, "frechet_inception_distance": 3.5, "precision": 0.5}
    (options,) = calls
    fake, real = options["input1"], options["input2"]
    assert [len(x) for x in starts] == [9, 9, 9] and len(fake) == 25 and len(real) == 15
    assert torch.stack([real[i] for i in range(15)]).equal(DATA.train)
    assert (
        fake[24].equal(inception.to_uint8((starts[2][6] / 80).clamp(-1, 1))) and fake[0].dtype == torch.uint8
    )
    assert torch.cat(starts).std().item() == pytest.approx(80, rel=0.05)
    assert options["fid"] and options["isc"] and options["prc"] and not options["cuda"]


def work(*_):
    raise AssertionError("work was begun")


def test_what_cannot_be_scored_is_refused_before_any_work(monkeypatch):
    with pytest.raises(ValueError, match="need 8-bit RGB images, not digits; leave --inception out"):
        inception.score(work, recipes["digits"], GREY, Runtime())
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r'need torch-fidelity: pip install "cdedu\[full\]"'):
        inception.score(work, recipes["cifar10"], DATA, Runtime())


def test_weights_that_cannot_be_had_are_said(monkeypatch):
    def offline(**_):
        raise URLError("no way out")

    monkeypatch.setattr("torch_fidelity.calculate_metrics", offline)
    with pytest.raises(OSError, match="weights are not cached and could not be downloaded .*no way out"):
        inception.score(lambda x, g: x, recipes["cifar10"], DATA, Runtime(), samples=2)


class Thief:
    """A pickle that runs code where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_the_place_of_the_weights_is_not_run(monkeypatch, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / URL.rsplit("/", 1)[1]
    place.parent.mkdir(parents=True)
    torch.save({"fc.weight": Thief(tmp_path / "stolen")}, place)
    with pytest.raises(OSError, match="holds more than tensors; delete it, or leave --real out"):
        inception_encoder()
    assert not (tmp_path / "stolen").exists()
