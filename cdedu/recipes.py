"""Recipes: everything that a run depends on, frozen and printable. A results record holds the whole recipe."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from cdedu import networks
from cdedu.networks.edm import ADM, DDPMpp
from cdedu.networks.guided import WeightedUNet
from cdedu.networks.latent import LatentUNet
from cdedu.networks.sets import SetNetwork
from cdedu.noise import RHO, SIGMA_MAX, SIGMA_MIN, LogNormal, karras_sigmas


class _Choices:
    """A dataclass whose ``Literal`` fields hold one of their choices: a typo raises when the recipe is made.

    Raises:
        ValueError: naming the field, its value and the choices.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                known = ", ".join(map(repr, get_args(hint)))
                raise ValueError(
                    f"{type(self).__name__}: {name} = {value!r} is not known; choose one of {known}"
                )


@dataclass(frozen=True)
class Network(_Choices):
    """Which network, and how large."""

    kind: Literal["mlp", "unet", "ddpmpp", "ncsnpp", "adm", "set", "foreign"] = "mlp"
    """``set`` takes clouds of points; ``foreign`` is the network of somebody else's teacher, which a checkpoint describes in its own words."""
    width: int = 128
    """Hidden units (mlp, set), channels at the finest resolution before the multipliers (image networks)."""
    depth: int = 3
    """Hidden layers (mlp, set), residual blocks at each resolution (image networks)."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution as multiples of the width (image networks)."""
    attention: tuple[int, ...] = ()
    """Resolutions with self-attention (image networks)."""
    dropout: float = 0.0
    """While the teacher is trained; the student has a rate of its own."""
    classes: int = 0
    guided: bool = False
    """Whether it takes the guidance weight as one more input: a unet with classes."""
    lcm: bool = False
    """Guided as in LCM: the weight less 1, in a wider embedding."""

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """The network for data of this shape: (dim,), (channels, height, width) or, of a set, (points, 3)."""
        if self.kind == "foreign":
            raise ValueError("a foreign network comes with its teacher; no recipe can build it")
        if self.guided and self.kind != "unet":
            raise ValueError(f"the guidance weight as an input needs a unet, not {self.kind}")
        if self.kind == "mlp":
            return networks.MLP(shape[0], self.width, self.depth, self.classes)
        if self.kind == "set":
            return SetNetwork(self.width, self.depth)
        if self.kind != "unet":
            kind = {"ddpmpp": DDPMpp, "ncsnpp": partial(DDPMpp, ncsn=True), "adm": ADM}[self.kind]
            where = (shape[1], shape[0], self.width, self.multipliers, self.depth, self.attention)
            return kind(*where, self.dropout, self.classes)
        widths = tuple(self.width * m for m in self.multipliers)
        attention = tuple(shape[1] >> level in self.attention for level in range(len(widths)))
        net = networks.unet(
            shape[1], shape[0], widths, self.depth, attention, classes=self.classes, dropout=self.dropout
        )
        if not self.guided:
            return net
        return LatentUNet(net, 0.0, 0.0) if self.lcm else WeightedUNet(net)


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
    more_emas: tuple[float, ...] = ()
    """Rates of further sampling averages, of which the best can be chosen afterwards."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    label_dropout: float = 0.0
    """Share of the samples whose label is replaced by the network's last one, which means none; for guidance."""


@dataclass(frozen=True)
class StudentStage(_Choices):
    """How the student is distilled."""

    method: Literal["distillation", "easy", "continuous"] = "distillation"
    """Consistency distillation; easy consistency tuning, which uses the teacher only as a start; or the continuous limit (sCM)."""
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
    """How the step i is drawn: all alike, or by ``log_sigma``."""
    log_sigma: LogNormal = LogNormal(-1.1, 2.0)
    """Distribution of ln σ: for ``easy``, ``continuous``, and steps drawn as ``lognormal``. iCT's, by default."""
    target_rate: float = 0.0
    """μ; 0 means that the target is the student itself, gradient stopped."""
    ema: float = 0.999
    """Rate of the sampling average."""
    more_emas: tuple[float, ...] = ()
    """Rates of further sampling averages, of which the best can be chosen afterwards."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0; the paper has none, a restart without optimiser state needs some."""
    dropout: float = 0.0
    easy_q: float = 256.0
    """q of easy consistency tuning; not used by distillation."""
    easy_stages: int = 1
    """Into how many equal stages easy consistency tuning is divided; with each, r comes nearer to σ."""
    tangent_warmup: int = 0
    """Steps over which the ratio r of the ``continuous`` tangent rises from 0 to 1."""
    second_sigma: float = 0.8
    """Lowest noise level from which the student jumps when it samples in two steps or more."""


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
    angle: bool = False
    """The network is told the noise level as ``noise_scale`` times arctan(σ/σ_d) (sCM), in the place of ln σ."""
    flip: bool = False
    """Mirror half of the training images."""
    block: int = 0
    """Samples that share a random generator; the whole batch by default. With several processes or small memory, each part
    of a batch must hold whole blocks."""
    cpu_batch: int | None = None
    """Batch for a trial on the CPU, where the real one would take hours."""
    seed: int = 0

    def __post_init__(self) -> None:
        for stage, value in (("teacher", self.teacher), ("student", self.student)):
            for key in ("steps", "batch", "lr"):
                if not getattr(value, key) > 0:
                    raise ValueError(
                        f"recipe {self.name!r}: {stage}.{key} = {getattr(value, key)}, but it must be positive"
                    )
            for key, rate in (("ema", value.ema), *(("more_emas", rate) for rate in value.more_emas)):
                if not 0 <= rate < 1:
                    raise ValueError(
                        f"recipe {self.name!r}: {stage}.{key} = {rate}, but it must be at least 0 and below 1"
                    )
        if not (self.student.easy_stages >= 1 and self.student.tangent_warmup >= 0):
            raise ValueError(
                f"recipe {self.name!r}: need student.easy_stages >= 1 and student.tangent_warmup >= 0, got "
                f"{self.student.easy_stages} and {self.student.tangent_warmup}"
            )
        if not 0 <= self.teacher.label_dropout < 1:
            raise ValueError(
                f"recipe {self.name!r}: teacher.label_dropout = {self.teacher.label_dropout} is not in [0, 1)"
            )
        if self.teacher.label_dropout and not self.network.classes:
            raise ValueError(
                f"recipe {self.name!r}: teacher.label_dropout = {self.teacher.label_dropout}, but network.classes = 0: "
                "there are no labels to leave out"
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

    def student_sigmas(self, steps: int) -> tuple[float, ...]:
        """Noise levels for sampling with the student in so many steps: from σ_max down to ``student.second_sigma``."""
        if steps < 1:
            raise ValueError(f"a student samples in 1 step or more, not in {steps}")
        if steps == 1:
            return (self.sigma_max,)
        low = self.student.second_sigma
        return tuple(karras_sigmas(steps, low, self.sigma_max, self.rho, dtype=torch.float64).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The inverse of :meth:`to_dict`."""
        values = dict(values)
        stages = {
            name: values[name]
            | {k: LogNormal(**v) for k, v in values[name].items() if k == "log_sigma"}
            | {k: tuple(v) for k, v in values[name].items() if k == "more_emas"}
            for name in ("teacher", "student")
        }
        network = dict(
            values["network"],
            **{k: tuple(values["network"].get(k, ())) for k in ("multipliers", "attention")},
        )
        values |= {
            "network": Network(**network),
            "teacher": TeacherStage(**stages["teacher"]),
            "student": StudentStage(**stages["student"]),
        }
        return cls(**values)


# The paper's CIFAR-10 run: EDM's network and teacher training, consistency distillation as in the paper's table 3.
_CIFAR10 = Recipe(
    name="cifar10",
    data="cifar10",
    network=Network("ddpmpp", width=128, depth=4, multipliers=(2, 2, 2), attention=(16,), dropout=0.13),
    teacher=TeacherStage(steps=390_625, batch=512, lr=1e-3, ema=0.9993, warmup=19_531),
    student=StudentStage(
        steps=800_000,
        batch=512,
        lr=4e-4,
        points=18,
        distance="lpips",
        target_rate=0.0,
        ema=0.9999,
        second_sigma=0.585,
    ),
    flip=True,
    block=16,
    cpu_batch=8,
)

_DIGITS_STUDENT = StudentStage(steps=2000, batch=64, lr=1e-3, distance="l2", weight="inverse_gap", ema=0.99)
# Clips of moving digits; single frames, which are easier, have the same network and a third of the teacher's steps.
_CLIPS = Recipe(
    name="clips",
    data="moving-digits",
    network=Network("unet", width=16, depth=1, multipliers=(1, 2)),
    teacher=TeacherStage(steps=7200, batch=64, lr=3e-3, ema=0.998),
    student=replace(_DIGITS_STUDENT, steps=800),
    noise_scale=250.0,
)
# Labelled digits, in pixels; and among the latents of the course's autoencoder, of which cdedu.methods.latent makes the data.
_LABELLED = Recipe(
    name="labelled-digits",
    data="digits",
    network=Network("unet", width=8, depth=1, multipliers=(2, 3), classes=11),
    teacher=TeacherStage(steps=2000, batch=64, lr=2e-3, ema=0.998, warmup=50),
    student=replace(_DIGITS_STUDENT, solver="euler"),
    noise_scale=250.0,
)

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
    "labelled-digits": _LABELLED,
    "latent-digits": replace(_LABELLED, name="latent-digits", data="latent-digits"),
    "clips": _CLIPS,
    "frames": replace(
        _CLIPS,
        name="frames",
        data="moving-digits-frames",
        teacher=replace(_CLIPS.teacher, steps=_CLIPS.teacher.steps // 3),
    ),
    "points": Recipe(
        name="points",
        data="clouds",
        network=Network("set", width=64, depth=4),
        teacher=TeacherStage(steps=3000, batch=64, lr=2e-3, ema=0.998),
        student=replace(_DIGITS_STUDENT, steps=800, lr=2e-3),
    ),
    # Twenty-five modes that can be counted. Its teacher was fitted to the exact one (scripts/weights/modes.py).
    "modes": Recipe(name="modes", data="modes", student=StudentStage(distance="l2", weight="inverse_gap")),
    # For zero-shot editing in colour; small enough for a few minutes on one core.
    "tinted-digits": Recipe(
        name="tinted-digits",
        data="tinted-digits",
        network=Network("unet", width=24, depth=1),
        teacher=TeacherStage(steps=2200, batch=64, lr=1e-3),
        student=StudentStage(steps=1000, batch=64, lr=4e-4, distance="l2", weight="inverse_gap"),
        noise_scale=250.0,
    ),
    # Fewer than four million weights, for two CPU cores, a T4 or a browser (results/cifar10-networks.json compares candidates); a
    # diffusers network with 250 ln σ, so that it exports. Ten classes, and a last label that means none.
    "cifar10-small": Recipe(
        name="cifar10-small",
        data="cifar10",
        network=Network("unet", width=32, depth=1, multipliers=(1, 2, 3, 4), attention=(8,), classes=11),
        teacher=TeacherStage(
            steps=60_000,
            batch=512,
            lr=1e-3,
            ema=0.9995,
            more_emas=(0.999, 0.9998),
            warmup=500,
            label_dropout=0.1,
        ),
        student=StudentStage(
            steps=30_000,
            batch=512,
            lr=2e-4,
            distance="pseudo_huber",
            weight="inverse_gap",
            ema=0.9995,
            more_emas=(0.999, 0.9998),
            second_sigma=0.585,
        ),
        noise_scale=250.0,
        flip=True,
        block=16,
        cpu_batch=32,
    ),
    "cifar10": _CIFAR10,
    "cifar10-huber": replace(
        _CIFAR10,
        name="cifar10-huber",
        student=replace(_CIFAR10.student, lr=1e-4, distance="pseudo_huber", weight="inverse_gap"),
    ),
    # Easy consistency tuning for one hour of one GPU: about a million images.
    "cifar10-easy": replace(
        _CIFAR10,
        name="cifar10-easy",
        student=StudentStage(
            method="easy", steps=8_000, batch=128, lr=1e-4, dropout=0.2, ema=0.9993, second_sigma=0.821
        ),
    ),
    # The paper's hyperparameters (its table 3) at 64 and 256 pixels. At 64 the network is EDM's ADM, as there; at 256 it is a
    # DDPM++ in place of the paper's.
    "imagenet64": Recipe(
        name="imagenet64",
        data="imagenet64",
        network=Network(
            "adm",
            width=192,
            depth=3,
            multipliers=(1, 2, 3, 4),
            attention=(32, 16, 8),
            dropout=0.1,
            classes=1000,
        ),
        teacher=TeacherStage(steps=625_000, batch=4096, lr=1e-4, ema=0.9999, warmup=2_500),
        student=StudentStage(
            steps=600_000,
            batch=2048,
            lr=8e-6,
            points=40,
            distance="lpips",
            target_rate=0.95,
            ema=0.999943,
            second_sigma=1.382,
        ),
        block=16,
        cpu_batch=8,
    ),
    "lsun256": Recipe(
        name="lsun256",
        data="lsun256",
        network=Network(
            "ddpmpp", width=128, depth=2, multipliers=(1, 1, 2, 2, 4, 4), attention=(16, 8), dropout=0.1
        ),
        teacher=TeacherStage(steps=300_000, batch=2048, lr=1e-4, ema=0.9999, warmup=5_000),
        student=StudentStage(
            steps=600_000,
            batch=2048,
            lr=1e-5,
            points=40,
            distance="lpips",
            target_rate=0.95,
            ema=0.999943,
            second_sigma=4.366,
        ),
        flip=True,
        block=16,
        cpu_batch=8,
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
