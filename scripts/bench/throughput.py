"""Training speed on this machine's GPU, against the limit that its matrix rate sets: `python scripts/bench/throughput.py`.

For the small and the full CIFAR-10 network, teacher training and distillation, each as one would first write it (eager, fp32
without TF32) and as this package runs it (compiled, in the half precision that the GPU is fast in): images a second, the share of the
matrix rate measured in that precision, the share of the time in which no kernel runs. Every row builds its own networks. Data are noise: speed does not depend on them. The student's
distance is pseudo-Huber throughout, so that VGG's share in LPIPS is left out. Writes `results/throughput.json`, anew after every row.
`--tiny` tries the script on a CPU.
"""

import argparse
import copy
import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from cdedu.course.plan import DTYPES, LOOPS, NETWORKS, Role, forwards
from cdedu.data import Dataset, to_unit
from cdedu.losses import DISTANCES, denoising_loss, distillation_loss
from cdedu.recipes import Recipe, get_recipe
from cdedu.records import write_record
from cdedu.runtime import Runtime, fast_precision
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill, train_teacher

SHAPE = (3, 32, 32)
ROLES: tuple[Role, ...] = ("teacher", "student")


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, n: int, precision: str) -> float:
    """FLOP/s of a square matrix product in this precision, the best of ten."""
    a = torch.randn(n, n, device=device, dtype=DTYPES.get(precision, torch.float32))
    best = float("inf")
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def tf32() -> dict[str, bool]:
    """Whether fp32 products may be rounded to TF32, by their kind."""
    return {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, fp32 is fp32, in matrix products and in convolutions."""
    before = tf32()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before["matmul"]
        torch.backends.cudnn.allow_tf32 = before["convolutions"]


def images_per_second(
    states: Iterator[Any],
    batch: int,
    warmup: int,
    steps: int,
    device: torch.device,
    seconds: float = math.inf,
) -> float:
    """Speed of a training loop after ``warmup`` steps: over ``steps`` of them, or those of about so many ``seconds``."""
    for _ in range(warmup):
        next(states)
    wait(device)
    start, done = time.perf_counter(), 0
    while done < steps and (not done or time.perf_counter() - start < seconds):
        for _ in range(part := min(5, steps - done)):
            next(states)
        done += part
        wait(device)
    return done * batch / (time.perf_counter() - start)


def accumulate(losses: Callable[..., Tensor], draws: dict[str, Tensor], micro_batch: int) -> Tensor:
    """Add up the gradients of the mean of ``losses(**draws)``, (B,), with at most ``micro_batch`` samples in memory; that mean."""
    n = len(draws["x0"])
    total = torch.zeros((), device=draws["x0"].device)
    for start in range(0, n, micro_batch):
        part = losses(**{name: t[start : start + micro_batch] for name, t in draws.items()}).sum() / n
        part.backward()
        total += part.detach()
    return total


def plain_steps(
    recipe: Recipe, role: str, teacher: Teacher, data: Dataset, device: torch.device, micro_batch: int
) -> Iterator[float]:
    """Training as one would first write it, eager and in fp32: yields the loss after every step, without an end."""
    stage, sigmas = getattr(recipe, role), recipe.sigmas().to(device)
    teacher, model = teacher.to(device), teacher
    if role == "student":
        model = ConsistencyModel.from_teacher(teacher, recipe.sigma_min)
        teacher.eval().requires_grad_(False)
        losses = partial(
            distillation_loss, model, model, teacher, sigmas=sigmas, distance=DISTANCES[stage.distance]
        )
    else:
        losses = partial(denoising_loss, model)
    model.train()
    kind = torch.optim.RAdam if role == "student" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=stage.lr, foreach=False)
    images, labels = data.train.to(device), data.train_labels.to(device)
    generator = torch.Generator(device).manual_seed(0)
    on: dict[str, Any] = {"generator": generator, "device": device}
    while True:
        which = torch.randint(len(images), (stage.batch,), **on)
        draws = {"x0": to_unit(images[which]), "noise": torch.randn((stage.batch, *SHAPE), **on)}
        if role == "student":
            draws["index"] = torch.randint(len(sigmas) - 1, (stage.batch,), **on)
        else:
            draws["sigma"] = stage.log_sigma.sample(stage.batch, generator)
        if recipe.network.classes:
            draws["labels"] = labels[which]
        optimizer.zero_grad()
        loss = accumulate(losses, draws, micro_batch)
        optimizer.step()
        yield loss.item()


def idle_share(states: Iterator[Any], steps: int, device: torch.device) -> float | None:
    """Share of the wall time in which no kernel runs, over ``steps`` steps of a warm loop."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    wait(device)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        start = time.perf_counter()
        for _ in range(steps):
            next(states)
        wait(device)
        wall = time.perf_counter() - start
    return 1 - sum(event.self_device_time_total for event in recorded.key_averages()) * 1e-6 / wall


def planned(name: str, tiny: bool = False) -> Recipe:
    """The recipe whose steps are measured: without an end, and with a distance that needs no VGG."""
    recipe = get_recipe(name)
    teacher = replace(recipe.teacher, steps=10**9)
    student = replace(recipe.student, steps=10**9, distance="pseudo_huber")
    if tiny:
        teacher, student = replace(teacher, batch=4), replace(student, batch=4)
        small = replace(recipe.network, width=16, depth=1, multipliers=(1, 2))
        recipe = replace(recipe, network=small, block=4)
    return replace(recipe, teacher=teacher, student=student)


def noise_data(n: int = 2048) -> Dataset:
    """Pictures of noise with ten labels."""
    images = torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % 10
    return Dataset("noise", images, images[: n // 2], labels, labels[: n // 2])


def forward_flops(network: nn.Module, classes: int) -> int:
    """Of one image, on the device that the network is on."""
    given = (torch.zeros(1, dtype=torch.long),) if classes else ()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *SHAPE), torch.zeros(1), *given)
    return int(counter.get_total_flops())


def row(
    recipe: Recipe,
    role: str,
    loop: str,
    network: nn.Module,
    data: Dataset,
    runtime: Runtime,
    *,
    warmup: int,
    steps: int,
    seconds: float,
    micro_batch: int,
) -> dict[str, Any]:
    """One measurement.

    Args:
        network: is copied, since the runtime compiles a teacher in place, and the next row's must be as it says.
        runtime: of the package's loop; the plain one shares its device alone.
        warmup, steps, seconds: as in :func:`images_per_second`.
        micro_batch: of the plain loop.
    """
    begun, device, plain = time.perf_counter(), runtime.device, loop == "plain"
    teacher = Teacher(copy.deepcopy(network), recipe.sigma_data, recipe.noise_scale)
    batch = getattr(recipe, role).batch
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with without_tf32() if plain else nullcontext():
        if plain:
            states: Iterator[Any] = plain_steps(recipe, role, teacher, data, device, micro_batch)
        elif role == "teacher":
            states = train_teacher(recipe, data, start=teacher, runtime=runtime)
        else:
            states = distill(recipe, teacher, data, runtime=runtime)
        speed = images_per_second(states, batch, warmup, steps, device, seconds)
        found = {
            "network": recipe.name,
            "role": role,
            "loop": loop,
            "precision": "fp32" if plain else runtime.precision,
            "compiled": runtime.compile and not plain,
            "tf32": tf32() if device.type == "cuda" else None,
            "batch": batch,
            "micro_batch": min(micro_batch, batch) if plain else runtime.micro_batch,
            "images_per_second": speed,
            "idle_share": idle_share(states, 5, device),
        }
    if device.type == "cuda":
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found | {"seconds": round(time.perf_counter() - begun, 1)}


def rows(
    names: tuple[str, ...],
    device: torch.device,
    *,
    tiny: bool = False,
    compiled: bool = True,
    warmup: int = 10,
    steps: int = 30,
    seconds: float = 10.0,
    micro_batch: int = 64,
) -> Iterator[dict[str, Any]]:
    """One row after another, each as soon as it is measured: for every network teacher and student, plain and as the package runs it."""
    data, precision = noise_data(64 if tiny else 2048), fast_precision(device)
    rate = matmul_rate(device, 256 if tiny else 8192, precision)
    for name in names:
        recipe = planned(name, tiny)
        network = recipe.network.build(SHAPE).eval()
        flops = forward_flops(network, recipe.network.classes)
        for role in ROLES:
            for loop in LOOPS:
                runtime = Runtime(device, precision, compiled)
                options: dict[str, Any] = {"warmup": warmup, "steps": steps, "seconds": seconds}
                found = row(recipe, role, loop, network, data, runtime, micro_batch=micro_batch, **options)
                share = found["images_per_second"] * forwards(recipe, role) * flops / rate
                parameters = sum(p.numel() for p in network.parameters())
                yield found | {"parameters": parameters, "forward_gflop": flops / 1e9,
                               "matmul_precision": precision, "matmul_flops": rate, "share_of_matmul_rate": share}  # fmt: skip
                if compiled:
                    torch.compiler.reset()
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="try this script with tiny networks on the CPU")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="the networks whose recipes to run"
    )
    parser.add_argument("--steps", type=int, default=30, help="the most steps to time")
    parser.add_argument("--seconds", type=float, default=10.0, help="stop timing a row after this long")
    parser.add_argument(
        "--micro-batch", type=int, default=64, help="samples at once in the plain loop, which is fp32 only"
    )
    parser.add_argument(
        "--eager", action="store_true", help="don't compile, if Triton or a C compiler is missing"
    )
    parser.add_argument(
        "--out", type=Path, help="the record; results/throughput.json by default, none with --tiny"
    )
    given = parser.parse_args()
    if not (given.tiny or torch.cuda.is_available()):
        raise SystemExit("throughput: no GPU here; --tiny tries the script on the CPU, and records nothing")
    device = torch.device("cpu" if given.tiny else "cuda")
    out = given.out or (None if given.tiny else Path("results/throughput.json"))
    start, found = time.perf_counter(), []
    options: dict[str, Any] = {
        "steps": 2 if given.tiny else given.steps, "warmup": 1 if given.tiny else 10, "tiny": given.tiny,
        "compiled": not (given.tiny or given.eager), "seconds": given.seconds, "micro_batch": given.micro_batch,
    }  # fmt: skip
    total = len(given.networks) * len(ROLES) * len(LOOPS)
    for one in tqdm(rows(tuple(given.networks), device, **options), total=total, desc="rows"):
        found.append(one)
        if out:
            write_record(
                out,
                metrics={key: one[key] for key in ("matmul_precision", "matmul_flops")} | {"rows": found},
                command="python scripts/bench/throughput.py" + " --tiny" * given.tiny,
                seconds=time.perf_counter() - start,
                device=device.type,
                trial=given.tiny,
            )
        print(one)


if __name__ == "__main__":
    main()
