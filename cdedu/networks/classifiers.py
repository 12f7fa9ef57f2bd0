"""Small frozen classifiers: in their features samples are compared, as elsewhere in those of Inception."""

from torch import Tensor, nn


class DigitsClassifier(nn.Module):
    """The small classifier whose 64 features stand in for Inception's on 8 × 8 digits; its weights come with the course."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64 * 16, 64), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) → (B, 64)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (B, 10)."""
        return self.head(self.body(x))


class CifarClassifier(nn.Module):
    """The classifier whose 128 features stand in for Inception's on 32 × 32 colour images; its weights come with the course."""

    def __init__(self) -> None:
        super().__init__()

        def layer(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.SiLU()]

        self.body = nn.Sequential(
            *layer(3, 32), *layer(32, 64, 2), *layer(64, 64), *layer(64, 128, 2), *layer(128, 128),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) in [−1, 1] → (B, 128)."""
        return self.body(x)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What leaves each of the five layers, (B, c, h, w) from fine to coarse: for :func:`~cdedu.losses.perceptual`."""
        out = []
        for module in self.body[:-2]:
            x = module(x)
            if isinstance(module, nn.SiLU):
                out.append(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (B, 10)."""
        return self.head(self.body(x))


class CifarReferee(nn.Module):
    """A second classifier of 32 × 32 colour images, which says what a sample shows; its weights come with the course.

    It differs from :class:`CifarClassifier`, whose features serve as measure and as distance, in architecture, seed and order of the
    data, so a model that was trained or selected with one can be judged by the other. Both learned from the same pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        for c_in, c_out in ((16, 48), (48, 96), (96, 160)):
            layers += [
                nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
                _Residual(c_out),
            ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(160, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (B, 10) of images (B, 3, 32, 32) in [−1, 1]."""
        return self.head(self.body(x))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

        def layer() -> list[nn.Module]:
            return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]

        self.body = nn.Sequential(*layer(), nn.ReLU(), *layer())

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()
