"""Distances measured by a trained network, for :mod:`cdedu.losses`."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize


def lpips(a: Tensor, b: Tensor) -> Tensor:
    """Learned perceptual distance (VGG) of RGB images in [−1, 1]: (B, 3, H, W) twice → (B,).

    Images with a side below 224 are enlarged to 224 × 224 first, as for the paper's results; larger ones stay as they are. Nothing is
    clamped, so values outside [−1, 1] still get a gradient. VGG uses max pooling here, as in the paper's code for CIFAR-10; its code for
    ImageNet and LSUN uses average pooling (``replace_pooling`` in piq's LPIPS). The VGG-16 weights (528 MB) are downloaded the first time
    this distance is used.

    Raises:
        ValueError: if the images are not RGB.
        RuntimeError: if the weights are neither cached nor downloadable.

    Source: Zhang et al. 2018, through torchmetrics.
    """
    if a.ndim != 4 or a.shape[1] != 3:
        raise ValueError(
            f"lpips compares RGB images (B, 3, H, W), got {tuple(a.shape)}; use pseudo_huber, l1 or l2"
        )
    return enlarged_distance(_lpips_network(a.device), a, b)


def enlarged_distance(network: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """What a network made for 224 × 224 pixels says of two images each, enlarged where they are smaller: (B, 3, H, W) twice → (B,)."""
    if min(a.shape[-2:]) < 224:
        a, b = (interpolate(x, (224, 224), mode="bilinear") for x in (a, b))
    return network(a, b).flatten()


@cache
def _lpips_network(device: torch.device) -> torch.nn.Module:
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    try:
        return _NoTrainLpips(net="vgg").to(device).requires_grad_(False)
    except OSError as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise RuntimeError(
            f"lpips needs VGG-16's weights (vgg16-397923af.pth), which are not in {folder} and could not be downloaded "
            f"({error}); put the file there, or choose the distance pseudo_huber"
        ) from None


def perceptual(activations: Callable[[Tensor], Sequence[Tensor]]) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A distance in the activations of any frozen network: LPIPS without its learned weights.

    .. math:: d(a, b) = \frac1K \sum_k \frac{1}{h_k w_k}\sum_{ij}
              \left\|\frac{\phi_k(a)_{ij}}{\|\phi_k(a)_{ij}\|} - \frac{\phi_k(b)_{ij}}{\|\phi_k(b)_{ij}\|}\right\|^2

    The ``activations`` φ turn images (B, C, H, W) into layers :math:`\phi_k`, (B, c, h, w) each; gradients pass through them. At each
    place of each layer the channels are scaled to length 1, so what counts is which features are present, not how strong they are. A
    metric that uses the same network favors a student trained this way, so judge it with another one.

    Source: Zhang et al. 2018, eq. 1 with w = 1.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        layers = [
            (normalize(x, dim=1) - normalize(y, dim=1)).square().sum(1).flatten(1).mean(1)
            for x, y in zip(activations(a), activations(b), strict=True)
        ]
        return torch.stack(layers).mean(0)

    return distance
