"""Prepared answers to the exercises of chapter 14."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong


@right("latent-clock")
def by_hand(steps, original, train):
    known = [train // original * i - 1 for i in range(1, original + 1)]
    known.reverse()
    return torch.tensor([known[j * original // steps] for j in range(steps)])


@fragile("latent-clock", "rounded early")
def nearly_as_diffusers_does(steps, original, train):
    """torch.linspace counts from both ends: with 22 steps a place comes out a little too small."""
    known = torch.arange(1, original + 1) * (train // original) - 1
    index = torch.linspace(0, original, steps + 1, dtype=torch.float64)[:-1].floor().long()
    return known.flip(0)[index].tolist()


@wrong("latent-clock", "off by one")
def _(steps, original, train):
    known = torch.arange(original, 0, -1) * (train // original)
    return known[torch.arange(steps) * original // steps]


@wrong("latent-clock", "first of each")
def _(steps, original, train):
    known = torch.arange(original - 1, -1, -1) * (train // original)
    return known[torch.arange(steps) * original // steps]


@wrong("latent-clock", "rising")
def _(steps, original, train):
    known = torch.arange(original, 0, -1) * (train // original) - 1
    return known[torch.arange(steps) * original // steps].flip(0)


@wrong("latent-clock", "to the end")
def _(steps, original, train):
    known = torch.arange(original, 0, -1) * (train // original) - 1
    return known[torch.linspace(0, original - 1, steps, dtype=torch.float64).floor().long()]


@wrong("latent-clock", "whole clock")
def _(steps, original, train):
    return [int(train - j * train / steps) - 1 for j in range(steps)]


@wrong("latent-clock", "stride")
def _(steps, original, train):
    known = torch.arange(original, 0, -1) * (train // original) - 1
    return known[:: original // steps][:steps]


@wrong("latent-clock", "rounded")
def _(steps, original, train):
    known = torch.arange(original, 0, -1) * (train // original) - 1
    return [int(known[round(j * original / steps)]) for j in range(steps)]


@wrong("latent-clock", "shape")
def _(steps, original, train):
    return torch.arange(original, 0, -1) * (train // original) - 1


right("latent-weight", lowest=6)
right("latent-weight", lowest=torch.tensor(6.0))
wrong("latent-weight", "help", lowest=5)
wrong("latent-weight", "other way", lowest=4)
wrong("latent-weight", "twice", lowest=7)
wrong("latent-weight", "highest", lowest=16)
wrong("latent-weight", "zero", lowest=1)
wrong("latent-weight", "type", lowest="six")

right("latent-switch", t=0.05)
right("latent-switch", t=torch.tensor(1 / 20))
wrong("latent-switch", "divided", t=5)
wrong("latent-switch", "no scaling", t=0.5)
wrong("latent-switch", "out", t=0.0289)
wrong("latent-switch", "sigma_d one", t=0.1)
wrong("latent-switch", "square", t=0.025)
wrong("latent-switch", "type", t="soon")


def tried(sample, scale=0.3, power=3, slope=2.0):
    """The picture, and the noise that it came from: a student that is a multiple, a decoder that is a power."""
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    autoencoder = SimpleNamespace(scale=scale, decoder=lambda z: z**power)
    return sample(lambda x, sigma: slope * x, autoencoder, noise), noise


@right("latent-factor")
def with_a_cube(sample):
    picture, noise = tried(sample)
    assert torch.allclose(picture, (2 * noise / 0.3) ** 3, rtol=1e-4, atol=1e-5)


@right("latent-factor")
def looking_inside(sample):
    seen, noise = [], torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    picture = sample(
        lambda x, sigma: x + 1,
        SimpleNamespace(scale=0.25, decoder=lambda z: (seen.append(z), z.sin())[1]),
        noise,
    )
    assert (seen[0] - 4 * (noise + 1)).abs().max() < 1e-4
    assert (picture - seen[0].sin()).abs().max() < 1e-5


@wrong("latent-factor", "factor")
def _(sample):
    picture, noise = tried(sample)
    assert picture.shape == noise.shape and picture.isfinite().all()


@wrong("latent-factor", "multiplied")
def _(sample):
    picture, noise = tried(sample)
    assert not torch.allclose(picture, (2 * noise) ** 3)


@wrong("latent-factor", "after")
def _(sample):
    picture, noise = tried(sample, power=1)
    assert torch.allclose(picture, 2 * noise / 0.3, atol=1e-4)


@wrong("latent-factor", "noise")
def _(sample):
    autoencoder = SimpleNamespace(scale=0.3, decoder=lambda z: z**3)
    picture = sample(lambda x, sigma: torch.ones(4, 3), autoencoder, torch.randn(4, 3))
    assert torch.allclose(picture, torch.full((4, 3), (1 / 0.3) ** 3), rtol=1e-4)


@fragile("latent-factor", "refuses some right")
def _(sample):
    picture, noise = tried(sample)
    assert torch.equal(picture, (2 * noise / 0.3) ** 3)


@wrong("latent-factor", "raised")
def _(sample):
    sample(None, None, torch.zeros(2))


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("latent-weight", lowest=np.float16(6))
unusual("latent-switch", t=Fraction(1, 20))


@unusual("latent-clock")
def as_diffusers_does(steps, original, train):
    known = (np.arange(1, original + 1) * (train // original) - 1)[::-1]
    places = np.floor(np.linspace(0, len(known), num=steps, endpoint=False)).astype(np.int64)
    return torch.from_numpy(known[places].copy())


@unusual("latent-clock")
def as_a_generator_would(steps, original, train):
    part, used = divmod(original, steps), []
    for j in range(steps):
        place = j * part[0] + j * part[1] // steps
        used.append(train - 1 - place * (train // original))
    return tuple(used)


@fragile("latent-clock", "rounded early")
def a_share_first(steps, original, train):
    known = [i * (train // original) - 1 for i in range(original, 0, -1)]
    return [known[int(j / steps * original)] for j in range(steps)]


@unusual("latent-factor")
def by_the_library(sample):
    """By keyword, a class with a decoder that is a network, a scale that is a tensor, and torch.testing."""

    class Autoencoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.tensor(0.4, dtype=torch.float64)

        def decoder(self, z):
            return torch.exp(0.1 * z) + z.square()

    noise = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    picture = sample(student=lambda *given: given[0] - 0.5, autoencoder=Autoencoder(), noise=noise)
    torch.testing.assert_close(picture, Autoencoder().decoder((noise - 0.5) / 0.4), rtol=1e-4, atol=1e-5)
