"""What a run needs, before you rent a GPU: memory, speed, hours, price.

Work and memory are counted on the recipe's own network, without computing anything: its tensors have shapes and no numbers.
Speed isn't known in advance. It is the card's peak times the share of it that a run reaches; you state that share, or, if there is a GPU,
it is measured in ten seconds::

    print(plan("cifar10", gpu="a100", gpus=8, price=2.0))
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cdedu.networks import set_dropout
from cdedu.networks.bounds import check_network, check_shape
from cdedu.perceptual import enlarged_distance
from cdedu.recipes import Network, Recipe, get_recipe

Role = Literal["teacher", "student"]
Precision = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Card:
    """A graphics card on paper. Peaks are dense, in TFLOP/s: data sheets like to print the doubled figure for sparse matrices."""

    half: float
    """Of matrix products in fp16 or bf16, summed in fp32."""
    single: float
    """Of convolutions in fp32, as PyTorch does them when left alone: in TF32, on cards that have it."""
    memory: float
    """In GB."""
    bf16: bool = True


CARDS = {
    "t4": Card(65, 8.1, 16, bf16=False),  # NVIDIA T4 data sheet
    "v100": Card(125, 15.7, 16, bf16=False),  # NVIDIA V100 data sheet, SXM2
    "v100-32": Card(125, 15.7, 32, bf16=False),
    "rtx3090": Card(71, 35.6, 24),  # NVIDIA Ampere GA102 whitepaper, appendix A
    "rtx4090": Card(165.2, 82.6, 24),  # NVIDIA Ada whitepaper, appendix A
    "a10": Card(125, 62.5, 24),  # NVIDIA A10 data sheet
    "l4": Card(121, 60, 24),  # NVIDIA L4 data sheet, which prints the sparse 242 and 120
    "l40s": Card(362, 183, 48),  # NVIDIA L40S data sheet
    "a100": Card(312, 156, 40),  # NVIDIA A100 data sheet
    "a100-80": Card(312, 156, 80),
    "h100": Card(989.4, 494.7, 80),  # NVIDIA H100 data sheet, SXM, which prints the sparse 1,979 and 989
    "h100-pcie": Card(756, 378, 80),  # the same data sheet, PCIe: 1,513 and 756 sparse
    "h200": Card(989.4, 494.7, 141),  # NVIDIA H200 data sheet, SXM: the H100's chip
}
"""Cards that are commonly rented, with the figures of their makers."""

NO_MATTER = "nvidia geforce tesla sxm sxm2 sxm4 sxm5 pcie hbm2 hbm2e hbm3 hbm3e".split()
"""Words that PyTorch and shops add to a card's name without meaning another card."""

SHARE = 0.3
"""Share of the peak, if nobody states or measures it. An assumption; small networks reach less."""
USABLE = 0.9
"""Of a card's memory. The rest is left to CUDA, the pictures, what convolutions need while they work, and gaps; an assumption too."""

NETWORKS = ("cifar10-small", "cifar10")
"""Recipes whose training speed is measured."""
LOOPS = ("plain", "cdedu")
"""Training the way you'd first write it, and the way this package runs it."""

SHAPES = {
    "two_moons": (2,), "modes": (2,), "clouds": (48, 3), "digits": (1, 8, 8), "tinted-digits": (3, 8, 8),
    "latent-digits": (2, 4, 4), "moving-digits": (6, 14, 14), "moving-digits-frames": (1, 14, 14),
    "cifar10": (3, 32, 32), "imagenet64": (3, 64, 64), "lsun256": (3, 256, 256),
}  # fmt: skip
"""Of one sample of the data that recipes name."""


def forwards(recipe: Recipe, role: Role) -> int:
    """Cost of one training image in forward passes of the network, where the backward pass counts as two.

    3 for denoising. A student adds to its own three one for the target, and those of the teacher: two with Heun, one with Euler,
    none in easy consistency tuning. In the continuous limit the teacher is asked once, and the target's pass with its derivative in forward
    mode costs three: PyTorch multiplies the zeros, too, that stand for the weights' derivative.
    """
    if role == "teacher":
        return 3
    solver = {"heun": 2, "euler": 1}[recipe.student.solver]
    return 3 + {"distillation": 1 + solver, "easy": 1, "continuous": 3 + 1}[recipe.student.method]


@dataclass(frozen=True)
class Footprint:
    """The cost of one image in a network. FLOPs are for a forward pass."""

    parameters: int
    flops: int
    activations: int
    """Bytes that a forward pass keeps for the backward pass, for each image."""
    copies: int
    """Bytes that it keeps whatever the number of images: the weights in half precision."""


@cache
def footprint(network: Network, shape: tuple[int, ...], half: bool = False) -> Footprint:
    """Parameters, FLOPs and activations of a network on samples of this shape, as on a GPU, in fp32 or in half precision."""
    with _no_numbers(half) as device:
        net = network.build(shape).train()
        set_dropout(net, network.dropout)

        def forward(n: int) -> Tensor:
            labels = (torch.zeros(n, dtype=torch.long, device=device),) if network.classes else ()
            out: Tensor = net(torch.zeros(n, *shape, device=device), torch.zeros(n, device=device), *labels)
            return out

        return _footprint(net, forward)


@cache
def lpips_footprint(shape: tuple[int, ...]) -> Footprint:
    """The same of LPIPS and its VGG, which stay in fp32. FLOPs: both images forward, and one backward to its pixels."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    with _no_numbers(device="cpu") as device:  # in fp32 all devices keep the same
        vgg = _NoTrainLpips(net="vgg", pretrained=False, pnet_rand=True).requires_grad_(False)

        def forward(n: int) -> Tensor:
            guess = torch.zeros(n, *shape, device=device, requires_grad=True)
            return enlarged_distance(vgg, guess, torch.zeros(n, *shape, device=device))

        counted = _footprint(vgg, forward)
        with FlopCounterMode(display=False) as counter:
            forward(1).sum().backward()
    return replace(counted, flops=int(counter.get_total_flops()))


def _footprint(net: nn.Module, forward: Callable[[int], Tensor]) -> Footprint:
    with FlopCounterMode(display=False) as counter:
        one = saved_bytes(lambda: forward(1), net.parameters())
    two = saved_bytes(lambda: forward(2), net.parameters())
    parameters, flops = sum(p.numel() for p in net.parameters()), int(counter.get_total_flops())
    return Footprint(parameters, flops, two - one, max(0, 2 * one - two))


def saved_bytes(forward: Callable[[], Any], known: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass: each storage once, those of the ``known`` tensors not at all."""
    skipped = {t.untyped_storage()._cdata for t in known}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other can have the same place meanwhile

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in skipped:
            kept[storage._cdata] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = forward()
    del out
    return sum(storage.nbytes() for storage in kept.values())


@contextmanager
def _no_numbers(half: bool = False, device: str = "cuda") -> Iterator[str]:
    """Inside, tensors are made on a GPU that need not exist, and under the rules that autocast has on it: there, unlike on a CPU, a
    group norm stays in fp32, and so does what it leaves for the backward pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    with FakeTensorMode(), torch.device(device):
        # torch.autocast itself switches off where there is no GPU.
        torch.set_autocast_enabled(device, half)
        torch.set_autocast_dtype(device, torch.bfloat16)  # as large as fp16
        try:
            yield device
        finally:
            torch.set_autocast_enabled(device, before[0])
            torch.set_autocast_dtype(device, before[1])
            torch.clear_autocast_cache()


@dataclass(frozen=True)
class Plan:
    """What a run needs. Parameters, images, FLOPs and bytes are counted; rate and hours, which follow from ``share``, are estimates."""

    recipe: str
    role: Role
    gpu: str
    gpus: int
    precision: Precision
    card: Card
    share: float
    """Share of the card's peak, stated or measured."""
    parameters: int
    images: int
    """Images in the whole run."""
    flops: int
    """FLOPs of the networks for one training image."""
    lpips_flops: int
    """FLOPs of the distance, in fp32, if it is LPIPS."""
    rate: float
    """Training images per second, all GPUs together."""
    memory: tuple[tuple[str, int], ...]
    """Bytes on each GPU, by part."""
    micro_batch: int
    """The most images of its share of the batch that a GPU can process at once; 0 if not even one block fits."""
    accumulation: int
    """Number of parts that a GPU's share of the batch is cut into."""
    price: float | None = None
    """Price of one GPU for one hour."""
    notes: tuple[str, ...] = ()

    @property
    def hours(self) -> float:
        return self.images / self.rate / 3600

    @property
    def cost(self) -> float | None:
        """Cost of the whole run, in the currency of ``price``."""
        return None if self.price is None else self.hours * self.gpus * self.price

    @property
    def total_memory(self) -> int:
        return sum(size for _, size in self.memory)

    def table(self) -> str:
        """The whole plan, in Markdown."""
        lpips = f", LPIPS {self.lpips_flops / 1e9:,.0f} GFLOP" if self.lpips_flops else ""
        parts = f", the batch in {self.accumulation} parts" if self.accumulation > 1 else ""
        rows = [
            (f"{self.recipe}, {self.role}", f"{self.gpus} × {self.gpu}, {self.precision}"),
            ("---", "---:"),
            ("parameters", f"{self.parameters / 1e6:,.1f} M"),
            ("training images", f"{self.images / 1e6:,.1f} M" if self.images >= 1e5 else f"{self.images:,}"),
            ("one of them costs", f"{self.flops / 1e9:,.3g} GFLOP{lpips}"),
            (
                f"images a second, at {self.share:.0%} of the peak",
                f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}",
            ),
            ("hours", _short(self.hours)),
        ]
        if self.cost is not None:
            rows += [(f"price, at {self.price:g} for a GPU's hour", _short(self.cost))]
        rows += [(f"memory: {part}", f"{size / 1e9:.2f} GB") for part, size in self.memory]
        rows += [(f"memory in all, of {self.card.memory:g} GB", f"{self.total_memory / 1e9:.1f} GB")]
        rows += [("images that fit at once", f"{self.micro_batch}{parts}" if self.micro_batch else "none")]
        lines = [f"| {left} | {right} |" for left, right in rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    __str__ = table

    def _repr_markdown_(self) -> str:
        return self.table()


def plan(
    recipe: str | Recipe,
    gpu: str | None = None,
    gpus: int = 1,
    role: Role = "student",
    *,
    share: float | None = None,
    price: float | None = None,
    precision: Precision = "bf16",
    peak: float | None = None,
    memory: float | None = None,
    shape: tuple[int, ...] | None = None,
    measure: Callable[[Network, tuple[int, ...], Precision], float] | None = None,
) -> Plan:
    """Estimate what a recipe needs on a number of GPUs of one kind.

    Args:
        recipe: its name, a TOML file with one, or the recipe.
        gpu: a name of :data:`CARDS`, or your own with ``peak`` and ``memory``; the GPU of this machine by default.
        share: of the card's peak that the run reaches; by default measured where the card is this machine's, else :data:`SHARE`.
        price: of one GPU for one hour, in any currency.
        precision: of the networks; on a card without bf16 it becomes fp16.
        peak: TFLOP/s of dense half-precision matrix products, in place of the table's. fp32 is then taken to be half as fast.
        memory: of one GPU, in GB, in place of the table's.
        shape: of one sample, where the recipe's data are your own, such as (3, 64, 64).
        measure: FLOP/s that a network reaches here, in place of :func:`measured_rate`.

    Raises:
        ValueError: for what cannot be planned, naming it: an unknown recipe, card, role or precision, fewer than 1 GPU, a shape that
            the network cannot take, a batch that the GPUs cannot share, a share outside (0, 1], a negative price.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    _check(gpus, share, price, role=(role, Role), precision=(precision, Precision))
    for name, value in (("peak", peak), ("memory", memory)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} = {value:g}, but it must be positive")
    shape, stage, notes = check_shape(_shape(recipe) if shape is None else shape), getattr(recipe, role), []
    check_network(recipe.network, shape)
    mine, block = _shared(recipe, stage.batch, gpus)
    here = gpu is None
    gpu, card = _card(_local_name() if gpu is None else gpu, peak, memory)
    if precision == "bf16" and not card.bf16:
        notes, precision = [f"A {gpu} has no bf16; this is a plan for fp16."], "fp16"

    network = recipe.network
    if role == "student":
        network = replace(network, dropout=recipe.student.dropout)
    net = footprint(network, shape, precision != "fp32")
    with_lpips = role == "student" and stage.method == "distillation" and stage.distance == "lpips"
    lpips = lpips_footprint(shape) if with_lpips else Footprint(0, 0, 0, 0)

    peaks = {"half": card.half * 1e12, "single": card.single * 1e12}
    fast = peaks["single" if precision == "fp32" else "half"]
    if share is None and (here or measure is not None):
        share = (measure or measured_rate)(network, shape, precision) / fast
        if not 0 < share <= 1:
            raise ValueError(
                f"measured {share * fast / 1e12:.3g} TFLOP/s on one {gpu}, more than its peak of {fast / 1e12:g}; give the true --peak"
            )
        notes.append("The share is measured, with the network not compiled; compiled ones are mostly faster.")
    share = SHARE if share is None else share
    flops = forwards(recipe, role) * net.flops
    rate = gpus * share / (flops / fast + lpips.flops / peaks["single"])

    fixed = _fixed_memory(recipe, role, gpus, net, lpips)
    per_image = net.activations + lpips.activations
    room = int(max(0.0, USABLE * card.memory * 1e9 - sum(fixed.values())) // max(per_image, 1))
    micro_batch = min(mine, room // block * block)
    if not micro_batch:
        fits = max((n for n in range(1, min(room, mine) + 1) if not mine % n), default=0)
        way = f"A smaller one fits: --block {fits}." if fits else "Choose a larger card."
        notes.append(f"Not one block of {block} images fits into {card.memory:g} GB. {way}")
    images = micro_batch or block
    sizes = fixed | {f"activations of {images} images": images * net.activations}
    if with_lpips:
        sizes[f"LPIPS's activations of {images} images"] = images * lpips.activations
    return Plan(
        recipe.name, role, gpu, gpus, precision, card, share, net.parameters, stage.steps * stage.batch, flops, lpips.flops, rate,
        tuple(sizes.items()), micro_batch, math.ceil(mine / images), price, tuple(notes),
    )  # fmt: skip


def _fixed_memory(recipe: Recipe, role: Role, gpus: int, net: Footprint, lpips: Footprint) -> dict[str, int]:
    """Bytes that do not grow with the batch."""
    stage, size = getattr(recipe, role), 4 * net.parameters
    student = role == "student"
    parts = {
        "weights": size,
        "gradients": size,
        "optimizer, two moments": 2 * size,
        "averages of the weights": (1 + len(stage.more_emas)) * size,
        "target": size if student and stage.target_rate else 0,
        "teacher": size if student and stage.method != "easy" else 0,
        "gradients on their way between GPUs": size if gpus > 1 else 0,
        "weights in half precision": net.copies,
        "LPIPS's VGG": 4 * lpips.parameters,
    }
    return {part: size for part, size in parts.items() if size}


def _check(gpus: int, share: float | None, price: float | None, **choices: tuple[str, Any]) -> None:
    for name, (value, known) in choices.items():
        if value not in get_args(known):
            raise ValueError(f"{name} = {value!r} is not known; choose one of {', '.join(get_args(known))}")
    if gpus < 1:
        raise ValueError(f"gpus = {gpus}, but a run needs at least 1")
    if share is not None and not 0 < share <= 1:
        raise ValueError(
            f"share = {share:g} of the peak, but it must be above 0 and at most 1, such as {SHARE}"
        )
    if price is not None and not 0 <= price < math.inf:
        raise ValueError(
            f"price = {price:g}, but an hour cannot cost less than nothing; leave it out or give 0"
        )


def _shape(recipe: Recipe) -> tuple[int, ...]:
    if recipe.data not in SHAPES:
        raise ValueError(
            f"recipe {recipe.name!r}: the size of {recipe.data!r} is not known here; give the shape of one sample, such as 3 64 64"
        )
    return SHAPES[recipe.data]


def _shared(recipe: Recipe, batch: int, gpus: int) -> tuple[int, int]:
    """A GPU's share of the batch, and the samples of a block, of which it must hold whole ones."""
    block = min(recipe.block or batch, batch)
    mine, rest = divmod(batch, gpus)
    if rest or mine % block:
        raise ValueError(
            f"recipe {recipe.name!r}: a batch of {batch} on {gpus} GPUs is {batch / gpus:g} samples each, which must be a multiple "
            f"of block = {block}; plan for another number of GPUs"
        )
    return mine, block


def _card(gpu: str, peak: float | None, memory: float | None) -> tuple[str, Card]:
    """A card by its name in the table, or as PyTorch calls it, with what the caller knows better."""
    said = re.findall(r"[a-z0-9]+", re.sub(r"(?<=rtx)[^a-z0-9]+", "", gpu.lower()))
    words = {re.sub(r"(?<=\d)gb$", "", word) for word in said}
    found = [  # each word counts: "laptop", "ti", "d" or "mig" make another card of it
        name
        for name, card in CARDS.items()
        if {*(parts := name.split("-"))} <= words <= {*parts, *NO_MATTER, f"{card.memory:g}"}
    ]
    if found:
        gpu = max(found, key=len)
        card = CARDS[gpu]
    elif peak and memory:
        card = Card(peak, peak / 2, memory)
    else:
        raise ValueError(
            f"gpu = {gpu!r} is not known; choose one of {', '.join(CARDS)}, or give its figures with --peak (TFLOP/s) and --memory (GB)"
        )
    if peak:
        card = replace(card, half=peak, single=peak / 2)
    return gpu, replace(card, memory=memory or card.memory)


def _local_name() -> str:
    if not torch.cuda.is_available():
        raise ValueError(
            f"there is no GPU here; say which one to plan for: --gpu {', '.join(CARDS)}, or any other name with --peak and --memory"
        )
    return torch.cuda.get_device_name()


def measured_rate(
    network: Network,
    shape: tuple[int, ...],
    precision: Precision,
    *,
    device: str = "cuda",
    batch: int = 32,
    seconds: float = 10.0,
) -> float:
    """FLOP/s that a network reaches here, forward and backward, on random data; uncompiled."""
    from tqdm.auto import tqdm

    net = network.build(shape).to(device).train()
    x, c_noise = torch.randn(batch, *shape, device=device), torch.zeros(batch, device=device)
    labels = (torch.zeros(batch, dtype=torch.long, device=device),) if network.classes else ()

    def wait() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def steps(n: int) -> float:
        start = wait()
        for _ in range(n):
            net.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, DTYPES.get(precision), precision != "fp32"):
                out = net(x, c_noise, *labels)
            out.square().mean().backward()
        return wait() - start

    steps(3)  # the first ones choose kernels
    done, spent = 0, 0.0
    with tqdm(
        total=seconds, desc="measuring", unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s"
    ) as bar:
        while spent < seconds:
            took = steps(5)
            done, spent = done + 5, spent + took
            bar.update(min(took, seconds - bar.n))
    return 3 * footprint(network, shape).flops * batch * done / spent


def throughput_table(record: dict[str, Any] | None) -> str:
    """What `scripts/bench/throughput.py` has measured, or the rows that it will fill, in Markdown."""
    lines = [
        "| network | role | loop | precision | mode | images/s | share of the matrix rate |",
        "|---|---|---|---|---|---:|---:|",
    ]
    rows = (record or {}).get("metrics", {}).get("rows", [])
    found = {(row["network"], row["role"], row["loop"]): row for row in rows}
    for which in product(NETWORKS, get_args(Role), LOOPS):
        numbers = " |  | not yet measured | "
        if row := found.get(which):
            mode = "compiled" if row["compiled"] else "eager"
            numbers = f"{row['precision']} | {mode} | {row['images_per_second']:,.0f} | {row['share_of_matmul_rate']:.0%}"
        lines.append(f"| {' | '.join(which)} | {numbers} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
