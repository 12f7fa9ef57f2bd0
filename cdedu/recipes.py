"""Recipes: everything that a run depends on, frozen and printable. A results record holds the whole recipe."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from cdedu.noise import RHO, SIGMA_MAX, SIGMA_MIN, LogNormal, karras_sigmas


@dataclass(frozen=True)
class Network:
    """Which network, and how large."""

    kind: Literal["mlp", "unet"] = "mlp"
    width: int = 128
    """Hidden units (mlp), channels at the finest resolution (unet)."""
    depth: int = 3
    """Hidden layers (mlp), residual blocks at each resolution (unet)."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution as multiples of the width (unet)."""
    dropout: float = 0.0
    classes: int = 0

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """The network for data of this shape: (dim,) or (channels, height, width)."""
        from cdedu import networks

        if self.kind == "mlp":
            return networks.MLP(shape[0], self.width, self.depth, self.classes)
        widths = tuple(self.width * m for m in self.multipliers)
        return networks.unet(
            shape[1], shape[0], widths, self.depth, classes=self.classes, dropout=self.dropout
        )


@dataclass(frozen=True)
class TeacherStage:
    """How the teacher is trained."""

    steps: int = 3000
    batch: int = 512
    lr: float = 2e-3
    log_sigma: LogNormal = field(default_factory=LogNormal)
    """Distribution of ln σ."""
    ema: float = 0.999
    """Rate of the sampling average."""


@dataclass(frozen=True)
class StudentStage:
    """How the student is distilled."""

    steps: int = 3000
    batch: int = 512
    lr: float = 1e-3
    points: int = 18
    """N, points of the noise grid."""
    solver: Literal["heun", "euler"] = "heun"
    distance: Literal["l1", "l2", "pseudo_huber", "lpips"] = "pseudo_huber"
    weight: Literal["uniform", "inverse_gap"] = "uniform"
    """λ: 1 everywhere, or iCT's 1/(σ_i − σ_{i+1})."""
    index: Literal["uniform", "lognormal"] = "uniform"
    """How the step i is drawn: all alike, or iCT's N(−1.1, 2²) in ln σ."""
    target_rate: float = 0.0
    """μ; 0 means that the target is the student itself, gradient stopped."""
    ema: float = 0.999
    """Rate of the sampling average."""
    second_sigma: float = 0.8
    """Noise level of the second sampling step."""


@dataclass(frozen=True)
class Recipe:
    """One run from data to student. ``replace`` (dataclasses) makes variants."""

    name: str
    data: str
    network: Network = field(default_factory=Network)
    teacher: TeacherStage = field(default_factory=TeacherStage)
    student: StudentStage = field(default_factory=StudentStage)
    sigma_data: float = 0.5
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    rho: float = RHO
    noise_scale: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for stage, value in (("teacher", self.teacher), ("student", self.student)):
            for key in ("steps", "batch", "lr"):
                if not getattr(value, key) > 0:
                    raise ValueError(
                        f"recipe {self.name!r}: {stage}.{key} = {getattr(value, key)}, but it must be positive"
                    )
            if not 0 <= value.ema < 1:
                raise ValueError(
                    f"recipe {self.name!r}: {stage}.ema = {value.ema}, but it must be at least 0 and below 1"
                )
        if not 0 <= self.student.target_rate < 1:
            raise ValueError(
                f"recipe {self.name!r}: student.target_rate = {self.student.target_rate} is not in [0, 1)"
            )
        if self.seed < 0:
            raise ValueError(f"recipe {self.name!r}: seed = {self.seed}, but it must not be negative")
        self.sigmas()

    def sigmas(self, n: int | None = None) -> Tensor:
        """The noise grid, of ``student.points`` points by default."""
        return karras_sigmas(
            self.student.points if n is None else n, self.sigma_min, self.sigma_max, self.rho
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The inverse of :meth:`to_dict`."""
        values = dict(values)
        teacher = dict(values["teacher"], log_sigma=LogNormal(**values["teacher"]["log_sigma"]))
        network = dict(values["network"], multipliers=tuple(values["network"]["multipliers"]))
        values |= {
            "network": Network(**network),
            "teacher": TeacherStage(**teacher),
            "student": StudentStage(**values["student"]),
        }
        return cls(**values)


recipes: dict[str, Recipe] = {
    "toy": Recipe(
        name="toy",
        data="two_moons",
        student=StudentStage(distance="l2", weight="inverse_gap"),
    ),
    "digits": Recipe(
        name="digits",
        data="digits",
        network=Network("unet", width=32, depth=1),
        teacher=TeacherStage(steps=5000, batch=128, lr=1e-3),
        student=StudentStage(steps=4000, batch=128, lr=4e-4, distance="l2", weight="inverse_gap"),
        noise_scale=250.0,
    ),
}


def get_recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by name, with fields replaced.

    Raises:
        ValueError: for an unknown name, with the list of known ones.
    """
    if name not in recipes:
        raise ValueError(f"recipe {name!r} is not known; choose one of {', '.join(recipes)}")
    return replace(recipes[name], **changes)
