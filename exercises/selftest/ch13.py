"""Prepared answers to the exercises of chapter 13."""

import math

import numpy as np
import torch
from exercise_answers import fragile, right, unusual, wrong


@right("any-epsilon")
def from_the_vp_scale(D, x_vp, alpha_bar):
    a = float(alpha_bar)
    guess = D(x_vp / a**0.5, ((1 - a) / a) ** 0.5)
    return (x_vp - a**0.5 * guess) / (1 - a) ** 0.5


@right("any-epsilon")
def in_double(D, x_vp, alpha_bar):
    root = alpha_bar.double().sqrt()
    sigma = (1 / root**2 - 1).sqrt()
    x = x_vp.double() / root
    return (x - D(x.float(), float(sigma)).double()) / sigma


@wrong("any-epsilon", "not scaled")
def _(D, x_vp, alpha_bar):
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    return (x_vp - D(x_vp, sigma)) / sigma


@wrong("any-epsilon", "multiplied")
def _(D, x_vp, alpha_bar):
    sigma, x = ((1 - alpha_bar) / alpha_bar).sqrt(), x_vp * alpha_bar.sqrt()
    return (x - D(x, sigma)) / sigma


@wrong("any-epsilon", "sigma")
def _(D, x_vp, alpha_bar):
    sigma, x = (1 - alpha_bar).sqrt(), x_vp / alpha_bar.sqrt()
    return (x - D(x, sigma)) / sigma


@wrong("any-epsilon", "sign")
def _(D, x_vp, alpha_bar):
    return -from_the_vp_scale(D, x_vp, alpha_bar)


@wrong("any-epsilon", "not divided")
def _(D, x_vp, alpha_bar):
    return from_the_vp_scale(D, x_vp, alpha_bar) * ((1 - alpha_bar) / alpha_bar).sqrt()


@wrong("any-epsilon", "clean")
def _(D, x_vp, alpha_bar):
    return D(x_vp / alpha_bar.sqrt(), ((1 - alpha_bar) / alpha_bar).sqrt())


@wrong("any-epsilon", "mixed scales")
def _(D, x_vp, alpha_bar):
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    return (x_vp - D(x_vp / alpha_bar.sqrt(), sigma)) / sigma


@wrong("any-epsilon", "in place")
def _(D, x_vp, alpha_bar):
    x_vp /= alpha_bar.sqrt()
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    return (x_vp - D(x_vp, sigma)) / sigma


@right("any-interval")
def one_by_one(D, x, sigma, labels, w, low, high, null):
    out = []
    for i in range(len(x)):
        part = slice(i, i + 1)
        label = D(x[part], sigma[part], labels=labels[part])
        if low <= sigma[i] <= high:
            none = D(x[part], sigma[part], labels=torch.tensor([null]))
            label = none + w * (label - none)
        out.append(label)
    return torch.cat(out)


@right("any-interval")
def both_at_once(D, x, sigma, labels, w, low, high, null):
    both = torch.cat([torch.full_like(labels, null), labels])
    none, label = D(torch.cat([x, x]), torch.cat([sigma, sigma]), labels=both).double().chunk(2)
    inside = ((sigma >= low) & (sigma <= high)).double()[:, None]
    return label + inside * (w - 1) * (label - none)


def parts(D, x, sigma, labels, null):
    return D(x, sigma, labels=torch.full_like(labels, null)), D(x, sigma, labels=labels)


def weight(sigma, low, high, inner, outer):
    return torch.where((sigma >= low) & (sigma <= high), inner, outer)[:, None]


@wrong("any-interval", "everywhere")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return none + w * (label - none)


@wrong("any-interval", "unlabelled outside")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return none + weight(sigma, low, high, w, 0.0) * (label - none)


@wrong("any-interval", "nothing outside")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return weight(sigma, low, high, 1.0, 0.0) * (none + w * (label - none))


@wrong("any-interval", "other convention")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return label + weight(sigma, low, high, w, 0.0) * (label - none)


@wrong("any-interval", "swapped")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return label + weight(sigma, low, high, w, 1.0) * (none - label)


@wrong("any-interval", "turned inside out")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return none + weight(sigma, low, high, 1.0, w) * (label - none)


@wrong("any-interval", "raised")
def _(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return none + weight(sigma, low, high, w, 1.0)[:, 0] * (label - none)


right("any-calls", passes=8.0)
right("any-calls", passes=torch.tensor(8))
wrong("any-calls", "unguided", passes=6)
wrong("any-calls", "one of two", passes=7)
wrong("any-calls", "all doubled", passes=12)
wrong("any-calls", "both networks", passes=10)
wrong("any-calls", "teacher alone", passes=4)
wrong("any-calls", "backward", passes=5)
wrong("any-calls", "too many teachers", passes=9)
wrong("any-calls", "type", passes="eight")


SCHEDULE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)


def tried(adapt, t=500, answer=None):
    """x0, z, what the network was given, and the guess."""
    a, g = SCHEDULE[t], torch.Generator().manual_seed(0)
    x0, z, seen = torch.randn(3, 2, generator=g), torch.randn(3, 2, generator=g), []

    def network(x, time):
        seen.append((x, time))
        return z if answer is None else answer

    sigma = ((1 - a) / a).sqrt()
    guess = adapt(network, SCHEDULE)(x0 + sigma * z, float(sigma))
    return x0, z, *seen[0], guess


@right("any-adapter")
def at_several_times(adapt):
    for t in (300, 700, 999):
        x0, z, x, time, guess = tried(adapt, t)
        a = SCHEDULE[t]
        assert (x - a.sqrt() * x0 - (1 - a).sqrt() * z).abs().max() < 1e-2
        assert time.float().mean().round() == t
        assert (guess - x0).abs().max() < 0.1


@right("any-adapter")
def by_size(adapt):
    sizes = torch.zeros(2)
    for i, t in enumerate((500, 900)):
        x0, z, x, time, guess = tried(adapt, t)
        sizes[i] = x.std()
        assert (time - t).abs().max() < 2
        assert torch.allclose(guess, x0, atol=0.05)
    assert (sizes < 2).all()


@wrong("any-adapter", "scale")
def _(adapt):
    x0, z, x, time, guess = tried(adapt)
    assert torch.allclose(guess, x0, atol=1e-2)


@wrong("any-adapter", "time")
def _(adapt):
    x0, z, x, time, guess = tried(adapt)
    assert x.abs().max() < 4 and torch.allclose(guess, x0, atol=1e-2)


@wrong("any-adapter", "answer")
def _(adapt):
    x0, z, x, time, guess = tried(adapt)
    assert x.abs().max() < 4 and (time - 500).abs().max() < 1


@wrong("any-adapter", "refuses some right")
def _(adapt):
    assert tried(adapt)[3].dtype == torch.float32


@wrong("any-adapter", "raised")
def _(adapt):
    adapt(lambda x: x, SCHEDULE)(torch.zeros(1, 2), 1.0)


# --- unusual, and fragile ----------------------------------------------------------------------------

unusual("any-calls", passes=np.array(8, dtype=np.int8))


@unusual("any-epsilon")
def by_an_angle(D, x_vp, alpha_bar):
    """ᾱ = cos² φ, σ = tan φ."""
    angle = torch.acos(alpha_bar.double().sqrt())
    x = x_vp.double() / angle.cos()
    return torch.div(x - D(x=x.float(), sigma=angle.tan().item()), angle.tan())


@unusual("any-epsilon")
def one_by_one_in_place(D, x_vp, alpha_bar):
    out = x_vp.clone()
    sigma = math.sqrt(1 / float(alpha_bar) - 1)
    for k in range(len(out)):
        out[k] /= float(alpha_bar) ** 0.5
        out[k] -= D(out[k : k + 1], sigma)[0]
        out[k] /= sigma
    return out


@fragile("any-epsilon", "half precision")
def as_half(D, x_vp, alpha_bar):
    return from_the_vp_scale(D, x_vp, alpha_bar).bfloat16()


@unusual("any-interval")
def by_index(D, x, sigma, labels, w, low, high, null):
    """Only the samples that are guided are asked twice, and changed in place."""
    out = D(x=x, sigma=sigma, labels=labels).clone()
    inside = np.flatnonzero(np.logical_and(low <= sigma.numpy(), sigma.numpy() <= high))
    if len(inside):
        k = torch.from_numpy(inside)
        without = D(x=x[k], sigma=sigma[k], labels=torch.tensor([null] * len(k)))
        out[k] = without.lerp(out[k], w)
    return out


@fragile("any-interval", "ends of the interval")
def without_its_ends(D, x, sigma, labels, w, low, high, null):
    none, label = parts(D, x, sigma, labels, null)
    return torch.where(((sigma > low) & (sigma < high))[:, None], none + w * (label - none), label)


@unusual("any-adapter")
def with_a_module_and_keywords(adapt):
    """A schedule of its own, in double, and several times; the answer by torch.testing."""
    alphas = torch.cumprod(1 - torch.linspace(2e-4, 0.02, 1000, dtype=torch.float64), 0)
    x0, z = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    class Net(torch.nn.Module):
        def forward(self, *given):
            self.x, self.t = given
            return z

    for time in (100, 400, 900):
        net, a = Net(), alphas[time]
        guess = adapt(network=net, alphas=alphas)(
            x=x0 + ((1 - a) / a).sqrt() * z, sigma=float(((1 - a) / a).sqrt())
        )
        torch.testing.assert_close(net.x, a.sqrt() * x0 + (1 - a).sqrt() * z, rtol=0, atol=1e-3)
        torch.testing.assert_close(net.t.double(), torch.full((5,), float(time)).double(), rtol=0, atol=0.5)
        torch.testing.assert_close(guess, x0, rtol=0, atol=1e-2)


@fragile("any-adapter", "refuses right")
def to_the_last_bit(adapt):
    a = SCHEDULE[700]
    x0, z = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(2))
    sigma = ((1 - a) / a).sqrt()
    assert torch.equal(adapt(lambda x, t: z, SCHEDULE)(x0 + sigma * z, float(sigma)), x0)
