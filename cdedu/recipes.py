"""Recipes: everything a run depends on, frozen and printable. A results record holds the whole recipe."""

import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from cdedu import networks
from cdedu.files import regular
from cdedu.limits import Count, Positive, Range, Rate, Seed, Whole, check_ranges
from cdedu.networks.bounds import check_network
from cdedu.networks.edm import ADM, DDPMpp
from cdedu.networks.guided import WeightedUNet
from cdedu.networks.latent import LatentUNet
from cdedu.networks.sets import SetNetwork
from cdedu.networks.video import VideoUNet
from cdedu.noise import RHO, SIGMA_MAX, SIGMA_MIN, LogNormal, karras_sigmas


class _Choices:
    """A dataclass whose ``Literal`` fields hold one of their choices; a typo raises a ValueError that names them."""

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
    """Which network, and how big."""

    kind: Literal["mlp", "unet", "ddpmpp", "ncsnpp", "adm", "video", "set", "foreign"] = "mlp"
    """``video`` takes clips of gray frames, ``set`` clouds of points; ``foreign`` is the network of somebody else's teacher, described in
    the checkpoint itself."""
    width: Count = 128
    """Hidden units (mlp, set), channels at the finest resolution before the multipliers (image networks)."""
    depth: Count = 3
    """Hidden layers (mlp, set), residual blocks at each resolution (image networks)."""
    multipliers: tuple[Count, ...] = (1, 2)
    """Channels at each resolution as multiples of the width (image networks)."""
    attention: tuple[Count, ...] = ()
    """Resolutions with self-attention (image networks), by their height."""
    dropout: Rate = 0.0
    """Dropout rate while the teacher is trained; the student has its own."""
    classes: Whole = 0
    guided: bool = False
    """Whether it takes the guidance weight as an extra input; only for a unet with classes."""
    lcm: bool = False
    """Take the guidance weight as LCM does: minus 1, and in a wider embedding."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError for impossible numbers, and for pictures that the network can't halve as often as it must, with the nearest
        sizes that it can."""
        check_network(self, shape)
        if self.kind not in ("mlp", "set", "foreign"):
            networks.check_size(shape[1], shape[2], len(self.multipliers) - 1)

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """Build the network for data of this shape: (dim,), (channels, height, width), (frames, height, width) for clips, (points, 3) for
        a set.

        Raises:
            ValueError: see :meth:`check`; also for attention with too few channels, and for a network that no recipe can build.
        """
        self.check(shape)
        if self.kind == "foreign":
            raise ValueError("a foreign network comes with its teacher; no recipe can build it")
        if self.guided and self.kind != "unet":
            raise ValueError(f"the guidance weight as an input needs a unet, not {self.kind}")
        if self.kind == "video" and self.classes:
            raise ValueError(
                f"network.classes = {self.classes}, but a network for clips takes no labels; use 0"
            )
        if self.kind == "mlp":
            return networks.MLP(shape[0], self.width, self.depth, self.classes)
        if self.kind == "set":
            return SetNetwork(self.width, self.depth)
        if self.kind not in ("unet", "video"):
            if self.width < 4:
                raise ValueError(
                    f"network: width = {self.width}, but kind {self.kind!r} normalizes groups of 4 channels; make it wider"
                )
            for level, times in enumerate(self.multipliers):
                if self.kind == "adm" and shape[1] >> level in self.attention and self.width * times < 64:
                    raise ValueError(
                        f"network: attention at height {shape[1] >> level} has {self.width * times} channels, but a head of kind 'adm' "
                        "takes 64; make the network wider, or leave that resolution out"
                    )
            kind = {"ddpmpp": DDPMpp, "ncsnpp": partial(DDPMpp, ncsn=True), "adm": ADM}[self.kind]
            where = (shape[1:], shape[0], self.width, self.multipliers, self.depth, self.attention)
            return kind(*where, self.dropout, self.classes)
        widths = tuple(self.width * m for m in self.multipliers)
        attention = tuple(shape[1] >> level in self.attention for level in range(len(widths)))
        options = {"classes": self.classes, "dropout": self.dropout}
        channels = 1 if self.kind == "video" else shape[0]
        net = networks.unet((shape[1], shape[2]), channels, widths, self.depth, attention, **options)
        if self.kind == "video":
            return VideoUNet(net.net, shape[0], copied=False)
        if not self.guided:
            return net
        return LatentUNet(net, 0.0, 0.0) if self.lcm else WeightedUNet(net)


@dataclass(frozen=True)
class TeacherStage:
    """How the teacher is trained."""

    steps: Count = 3000
    batch: Count = 512
    lr: Positive = 2e-3
    log_sigma: LogNormal = field(default_factory=LogNormal)
    """Distribution of ln σ."""
    ema: Rate = 0.999
    """Rate of the sampling average."""
    more_emas: tuple[Rate, ...] = ()
    """Rates of extra sampling averages, so you can choose the best one afterward."""
    warmup: Whole = 0
    """Steps over which the learning rate rises from 0."""
    label_dropout: Rate = 0.0
    """Share of the samples whose label is replaced by the network's last one, which means "no label"; for guidance."""


@dataclass(frozen=True)
class StudentStage(_Choices):
    """How the student is distilled; ``ema`` and ``more_emas`` as in :class:`TeacherStage`."""

    method: Literal["distillation", "easy", "continuous"] = "distillation"
    """Consistency distillation; easy consistency tuning, which uses the teacher only as a starting point; or the continuous limit
    (sCM)."""
    steps: Count = 3000
    batch: Count = 512
    lr: Positive = 1e-3
    points: Annotated[int, Range(2, 1_000_000)] = 18
    """N, points of the noise grid."""
    solver: Literal["heun", "euler"] = "heun"
    distance: Literal["l1", "l2", "pseudo_huber", "lpips"] = "pseudo_huber"
    weight: Literal["uniform", "inverse_gap"] = "uniform"
    """λ: 1 everywhere, or iCT's 1/(σ_i − σ_{i+1})."""
    index: Literal["uniform", "lognormal"] = "uniform"
    """How the step i is drawn: uniformly, or by ``log_sigma``."""
    log_sigma: LogNormal = LogNormal(-1.1, 2.0)
    """Distribution of ln σ, for ``easy``, ``continuous``, and ``lognormal`` steps; iCT's by default."""
    target_rate: Rate = 0.0
    """μ, the rate of the target average; 0 means the target is the student itself, gradient stopped."""
    ema: Rate = 0.999
    more_emas: tuple[Rate, ...] = ()
    warmup: Whole = 0
    """Steps over which the learning rate rises from 0; the paper has none, but a restart without optimizer state needs some."""
    dropout: Rate = 0.0
    easy_q: Annotated[float, Range(1, without="low")] = 256.0
    """q of easy consistency tuning; not used by distillation."""
    easy_stages: Count = 1
    """Number of equal stages in easy consistency tuning; with each one, r gets closer to σ."""
    tangent_warmup: Whole = 0
    """Steps over which the ratio r of the ``continuous`` tangent rises from 0 to 1."""
    second_sigma: Positive = 0.8
    """Lowest noise level that the student jumps from when it samples in two or more steps."""


@dataclass(frozen=True)
class Recipe:
    """One run from data to student. ``replace`` (dataclasses) makes variants."""

    name: str
    data: str
    network: Network = field(default_factory=Network)
    teacher: TeacherStage = field(default_factory=TeacherStage)
    student: StudentStage = field(default_factory=StudentStage)
    sigma_data: Positive = 0.5
    sigma_min: Positive = SIGMA_MIN
    sigma_max: Positive = SIGMA_MAX
    rho: Positive = RHO
    noise_scale: Positive = 0.25
    angle: bool = False
    """Tell the network the noise level as ``noise_scale`` times arctan(σ/σ_d) (sCM), instead of ln σ."""
    flip: bool = False
    """Flip half of the training images left to right."""
    block: Whole = 0
    """How many samples share a random generator; the whole batch by default. With several processes or little memory, each part of a
    batch must hold whole blocks."""
    cpu_batch: Count | None = None
    """Batch size for a trial on the CPU, where the real one would take hours."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        self._check_parts()
        if self.teacher.label_dropout and not self.network.classes:
            raise ValueError(
                f"recipe {self.name!r}: teacher.label_dropout = {self.teacher.label_dropout}, but network.classes = 0: "
                "there are no labels to leave out"
            )
        self.sigmas()
        if not self.sigma_min <= self.student.second_sigma < self.sigma_max:
            raise ValueError(
                f"recipe {self.name!r:.80}: student.second_sigma = {self.student.second_sigma:g}, but it must be at least sigma_min = "
                f"{self.sigma_min:g} and below sigma_max = {self.sigma_max:g}"
            )

    def _check_parts(self) -> None:
        parts = {"": self, **{f"{name}.": getattr(self, name) for name in ("network", "teacher", "student")}}
        parts |= {f"{name}log_sigma.": parts[name].log_sigma for name in ("teacher.", "student.")}
        for place, part in parts.items():
            check_ranges(part, partial("recipe {!r:.80}: {}{}".format, self.name, place))

    def sigmas(self, n: int | None = None) -> Tensor:
        """The noise grid, of ``student.points`` points by default."""
        n = self.student.points if n is None else n
        return karras_sigmas(n, self.sigma_min, self.sigma_max, self.rho)

    def student_sigmas(self, steps: int) -> tuple[float, ...]:
        """Noise levels for sampling with the student in this many steps: from σ_max down to ``student.second_sigma``."""
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
        """The inverse of :meth:`to_dict`; missing fields get their defaults.

        Raises:
            ValueError: for an unknown field, naming it, and for a value that a field cannot have.
        """
        parts = {"network": Network, "teacher": TeacherStage, "student": StudentStage, "log_sigma": LogNormal}

        def made(kind: type[Any], values: dict[str, Any], place: str) -> Any:
            if not isinstance(values, dict):
                raise ValueError(f"{place} = {values!r:.60}, but it must be a table of fields")
            known = {f.name for f in fields(kind)}
            if unknown := values.keys() - known:
                raise ValueError(
                    f"{place} has no field {min(unknown)!r}; its fields are {', '.join(sorted(known))}"
                )
            own = {
                key: made(parts[key], value, f"{place}.{key}") if key in parts
                else tuple(value) if isinstance(value, list) else value
                for key, value in values.items()
            }  # fmt: skip
            return kind(**own)

        for needed in ("name", "data"):
            if isinstance(values, dict) and needed not in values:
                raise ValueError(f"recipe {values.get('name')!r:.80} has no field {needed!r}, which it needs")
        name = values.get("name") if isinstance(values, dict) else None
        return made(cls, values, f"recipe {name!r:.80}")  # type: ignore[no-any-return]


def read_recipes(path: str | Path) -> dict[str, Recipe]:
    """The recipes in a TOML file: one table each, with the fields of :class:`Recipe`; its parts are nested tables.

    Anything a table leaves out gets its default, or comes from the recipe named by ``like``: one further up in the same file, or one that
    comes with the course.

    Raises:
        OSError: if the file cannot be read.
        ValueError: for invalid TOML or an unknown field or value, naming file and place.
    """
    found: dict[str, Recipe] = {}
    try:
        for name, table in tomllib.loads(regular(path, "recipe").read_text(encoding="utf-8-sig")).items():
            if not isinstance(table, dict):
                raise ValueError(
                    f"{name} = {table!r:.60} is outside any table; the first line of a recipe is its name, such as [mine]"
                )
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"recipe {name!r:.80}: files are named after it, so give letters, digits and -_.+ only, 60 at most"
                )
            like = table.pop("like", None)
            if not isinstance(like, str | None):
                raise ValueError(
                    f"recipe {name!r}: like = {like!r:.60}, but it must be the name of one recipe"
                )
            base = (found if like in found else recipes)[like] if like else Recipe(name, data="")
            found[name] = Recipe.from_dict(_changed(base.to_dict(), {**table, "name": name}))
            if not found[name].data:
                raise ValueError(f"recipe {name!r} does not say its data")
    except KeyError as error:
        raise ValueError(f"{path}: the recipe {error} that {name!r} is like is not known") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8; save it as such") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return found


_NAME = re.compile(r"\w[\w.+-]{0,59}")
"""A recipe read from a file."""


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with changes in them, at any depth."""
    both = {key for key, value in changes.items() if isinstance(value, dict) and key in values}
    return values | changes | {key: _changed(values[key], changes[key]) for key in both}


recipes: dict[str, Recipe] = {}
recipes |= read_recipes(Path(__file__).with_suffix(".toml"))


def get_recipe(name: str, **changes: Any) -> Recipe:
    """Get a recipe by name, or the one in your own TOML file, with fields replaced.

    Raises:
        ValueError: for an unknown name, listing the known ones; for a file that does not hold exactly one recipe.
    """
    if name.endswith(".toml"):
        own = read_recipes(name)
        if len(own) != 1:
            raise ValueError(f"{name} holds {len(own)} recipes; leave one in it")
        return replace(*own.values(), **changes)
    if name not in recipes:
        raise ValueError(
            f"recipe {name!r} is not known; choose one of {', '.join(recipes)}, or give a file.toml of your own"
        )
    return replace(recipes[name], **changes)
