"""Small frozen classifiers: in their features samples are compared, as elsewhere in those of Inception."""

from torch import Tensor, nn


class _Classifier(nn.Module):
    def __init__(self, features: int, *layers: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*layers), nn.Linear(features, 10)

    def features(self, x: Tensor) -> Tensor:
        """Images in [−1, 1] → (B, d)."""
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
    """The classifier whose 128 features stand in for Inception's on 32 × 32 colour images; its weights come with the course."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
            layers += [*_convolution(c_in, c_out, stride), nn.SiLU()]
        super().__init__(128, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def activations(self, x: Tensor) -> list[Tensor]:
        """What leaves each of the five layers, (B, c, h, w) from fine to coarse: for :func:`~cdedu.perceptual.perceptual`."""
        out = []
        for module in self.body[:-2]:
            x = module(x)
            if isinstance(module, nn.SiLU):
                out.append(x)
        return out


class CifarReferee(_Classifier):
    """A second classifier of 32 × 32 colour images, which says what a sample shows; its weights come with the course.

    It differs from :class:`CifarClassifier`, whose features serve as measure and as distance, in architecture, seed and order of the
    data, so a model that was trained or selected with one can be judged by the other. Both learned from the same pictures.
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [*_convolution(3, 16), nn.ReLU()]
        for c_in, c_out in ((16, 48), (48, 96), (96, 160)):
            layers += [*_convolution(c_in, c_out, 2), nn.ReLU(), _Residual(c_out)]
        super().__init__(160, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _convolution(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = _convolution(channels, channels), _convolution(channels, channels)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()
