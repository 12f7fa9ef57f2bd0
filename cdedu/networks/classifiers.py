"""Small frozen classifiers: samples are compared in their features, the way others use Inception's."""

import torch
from torch import Tensor, nn

from cdedu.data.canvases import VALUES


class _Classifier(nn.Module):
    def __init__(self, features: int, *layers: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*layers), nn.Linear(features, 10)

    def features(self, x: Tensor) -> Tensor:
        """Features of images in [−1, 1]: (B, d)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (B, 10)."""
        return self.head(self.body(x))


class DigitsClassifier(_Classifier):
    """The small classifier whose 64 features stand in for Inception's on 8 × 8 digits; its weights come with the course."""

    def __init__(self) -> None:
        super().__init__(
            64,
            nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64 * 16, 64), nn.SiLU(),
        )  # fmt: skip


class CifarClassifier(_Classifier):
    """The classifier whose 128 features stand in for Inception's on 32 × 32 color images; its weights come with the course."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
            layers += [*_convolution(c_in, c_out, stride), nn.SiLU()]
        super().__init__(128, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def activations(self, x: Tensor) -> list[Tensor]:
        """The outputs of the five layers, (B, c, h, w) from fine to coarse, for :func:`~cdedu.perceptual.perceptual`."""
        out = []
        for module in self.body[:-2]:
            x = module(x)
            if isinstance(module, nn.SiLU):
                out.append(x)
        return out


class CifarReferee(_Classifier):
    """A second classifier of 32 × 32 color images, which says what a sample shows; its weights come with the course.

    It differs from :class:`CifarClassifier`, whose features serve as metric and as distance, in architecture, seed and order of the data,
    so you can judge a model with one that was trained or selected with the other. Both learned from the same pictures.
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [*_convolution(3, 16), nn.ReLU()]
        for c_in, c_out in ((16, 48), (48, 96), (96, 160)):
            layers += [*_convolution(c_in, c_out, 2), nn.ReLU(), _Residual(c_out)]
        super().__init__(160, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class CanvasReferee(nn.Module):
    """Says which count, shade, digit and place a canvas shows (:mod:`cdedu.data.canvases`); its weights come with the course.

    Its 64 features stand in for Inception's. The channels of a picture are averaged, so gray pictures may have one or three.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out, stride in ((1, 24, 2), (24, 48, 1), (48, 64, 2), (64, 64, 2)):
            layers += [*_convolution(c_in, c_out, stride), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.SiLU())
        self.heads = nn.ModuleList(nn.Linear(64, len(values)) for values in VALUES)

    def features(self, x: Tensor) -> Tensor:
        """Features of canvases (B, C, 32, 32) in [−1, 1]: (B, 64)."""
        return self.body(x.mean(1, keepdim=True))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores of each attribute's values: (B, 3), (B, 2), (B, 10) and (B, 4)."""
        features = self.features(x)
        return tuple(head(features) for head in self.heads)

    @torch.no_grad()
    def read(self, x: Tensor, batch: int = 500) -> Tensor:
        """The attributes of many canvases, as :func:`~cdedu.data.canvases.canvases` gives them: (n, 4) int64."""
        return torch.cat([torch.stack([s.argmax(1) for s in self(part)], 1) for part in x.split(batch)])


def _convolution(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = _convolution(channels, channels), _convolution(channels, channels)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()
