"""How many of the known modes a set of samples reaches, and how well it draws each."""

import torch
from torch import Tensor

from cdedu.evaluation import effective_classes, nearest
from cdedu.mixture import GaussianMixture


def mode_coverage(x: Tensor, mixture: GaussianMixture) -> dict[str, float]:
    r"""Which modes the samples reach, and how evenly.

    A sample is *near* a mode if it lies within three of its standard deviations; in two dimensions 98.9 % of true draws do. A mode
    is *hit* if it has at least a tenth of the samples that it is due. Among the near ones the entropy of the histogram p says how
    even they are, as a number of modes:

    .. math:: \text{effective} = \exp\Big(-\sum_k p_k \ln p_k\Big)

    None of these sees how the samples lie within a mode, which *blur* does. P(r) is the share of the samples that lie within r standard
    deviations of their nearest mode. The greatest gap to the share of true draws is a signed Kolmogorov-Smirnov distance:

    .. math:: \text{blur} = P_\text{true}(r^*) - P(r^*), \qquad r^* = \arg\max_r |P_\text{true}(r) - P(r)|, \qquad
              P_\text{true}(r) = 1 - e^{-r^2/2}

    (in two dimensions). It is 0 for true draws, near 1 for samples between the modes, and negative where samples crowd in the middle
    of their mode.

    Args:
        x: (n, ...) samples.
        mixture: with equal weights.

    Returns:
        ``near``, a share; ``hit``, a number of modes; ``effective``, which is 0 if no sample is near; ``blur``, between −1 and 1.

    Raises:
        ValueError: for a mixture whose weights differ, or samples of another shape.
    """
    k = len(mixture.means)
    if not torch.allclose(mixture.weights, torch.full_like(mixture.weights, 1 / k)):
        raise ValueError("mode_coverage: the weights of the mixture differ; give one with equal weights")
    if x.shape[1:] != mixture.means.shape[1:] or not len(x):
        raise ValueError(
            f"mode_coverage: x has shape {tuple(x.shape)}, want (n, {', '.join(map(str, mixture.means.shape[1:]))})"
        )
    which, distance = nearest(x, mixture.means)
    near = distance <= 3 * mixture.stds[which]
    found = which[near]
    due = len(x) / k
    # What should be even between 0 and 1: the share of true draws that lie nearer to their mode.
    true = torch.special.gammainc(
        torch.tensor(x[0].numel() / 2), (distance / mixture.stds[which]).square() / 2
    )
    steps = torch.linspace(0, 1, len(x) + 1)
    true = true.sort().values.cpu()
    far, crowded = (true - steps[:-1]).max(), (steps[1:] - true).max()
    return {
        "near": float(near.float().mean()),
        "hit": int((torch.bincount(found, minlength=k) >= due / 10).sum()),
        "effective": effective_classes(found, k) if len(found) else 0.0,
        "blur": float(far if far >= crowded else -crowded),
    }
