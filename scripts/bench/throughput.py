"""Training speed on this machine's GPU, against the limit that its matrix rate sets: `python scripts/bench/throughput.py`.

For the small and the full CIFAR-10 network, teacher training and distillation: images a second, eager and compiled, fp32 and
bf16, beside a plain eager loop in fp32; the share of the measured bf16 matrix rate; the share of the time in which no kernel
runs. Data are noise: speed does not depend on them. Writes `results/throughput.json`. `--tiny` tries the script on a CPU.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from cdedu.course.plan import forwards
from cdedu.data import Dataset, to_unit
from cdedu.losses import distillation_loss, l2
from cdedu.recipes import Network, Recipe, get_recipe
from cdedu.records import write_record
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill, train_teacher


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, n: int) -> float:
    """FLOP/s of a square bf16 matrix product, the best of ten."""
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def images_per_second(states: Any, batch: int, warmup: int, steps: int, device: torch.device) -> float:
    """Speed of a training loop after ``warmup`` steps."""
    start = 0.0
    for state in states:
        if state.step == warmup:
            wait(device)
            start = time.perf_counter()
        if state.step == warmup + steps:
            break
    wait(device)
    return steps * batch / (time.perf_counter() - start)


def plain_loop(recipe: Recipe, data: Dataset, warmup: int, steps: int, device: torch.device) -> float:
    """Images a second of distillation as one would first write it: eager, fp32, PyTorch's default flags."""
    teacher = Teacher(recipe.network.build((3, 32, 32)), noise_scale=recipe.noise_scale).to(device).eval()
    student = ConsistencyModel.from_teacher(teacher).train()
    teacher.requires_grad_(False)
    optimizer = torch.optim.RAdam(student.parameters(), lr=1e-4, foreach=False)
    sigmas, batch, start = recipe.sigmas().to(device), recipe.student.batch, 0.0
    for step in range(warmup + steps):
        if step == warmup:
            wait(device)
            start = time.perf_counter()
        which = torch.randint(len(data.train), (batch,))
        x0 = to_unit(data.train[which]).to(device)
        cond = {"labels": data.train_labels[which].to(device)} if recipe.network.classes else {}
        loss = distillation_loss(student, student, teacher, x0, sigmas, distance=l2, **cond).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    wait(device)
    return steps * batch / (time.perf_counter() - start)


def idle_share(states: Any, steps: int, device: torch.device) -> float | None:
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


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a very small network on the CPU, to try this script"
    )
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        raise SystemExit("throughput: no GPU here; --tiny tries the script on the CPU, and records nothing")
    device = torch.device("cpu" if arguments.tiny else "cuda")
    start, warmup, steps = (
        time.perf_counter(),
        2 if arguments.tiny else 15,
        2 if arguments.tiny else arguments.steps,
    )
    images = torch.randint(
        0, 256, (2048, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(2048) % 10
    data = Dataset("noise", images, images[:64], labels, labels[:64])
    flags = {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
    rate = matmul_rate(device, 512 if arguments.tiny else 8192)
    metrics: dict[str, Any] = {"bf16_matmul_flops": rate, "tf32": flags}

    names = ["cifar10-small"] if arguments.tiny else ["cifar10-small", "cifar10"]
    settings = [("fp32", False), ("bf16", False)] if arguments.tiny else [
        (precision, compiled) for precision in ("fp32", "bf16") for compiled in (False, True)
    ]  # fmt: skip
    for name in tqdm(names, desc="networks"):
        recipe = get_recipe(name)
        student = replace(recipe.student, distance="pseudo_huber", steps=10**9)
        recipe = replace(recipe, student=student, teacher=replace(recipe.teacher, steps=10**9))
        if arguments.tiny:
            small = Network("unet", width=16, depth=1, multipliers=(1, 2), classes=11)
            recipe = replace(recipe, network=small, student=replace(student, batch=16))
            recipe = replace(recipe, teacher=replace(recipe.teacher, batch=16))
        network = recipe.network.build((3, 32, 32)).to(device).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            given = (labels[:1].to(device),) if recipe.network.classes else ()
            network(torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, device=device), *given)
        flops = counter.get_total_flops()
        row: dict[str, Any] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "forward_gflop": flops / 1e9,
            "plain_student": plain_loop(recipe, data, warmup, steps, device),
        }
        teacher = Teacher(network, noise_scale=recipe.noise_scale)
        for precision, compiled in settings:
            for role in ("teacher", "student"):
                runtime = Runtime(device, precision, compiled)
                if role == "teacher":
                    states = train_teacher(recipe, data, runtime=runtime)
                else:
                    states = distill(recipe, teacher, data, runtime=runtime)
                speed = images_per_second(states, getattr(recipe, role).batch, warmup, steps, device)
                row[f"{role}_{precision}_{'compiled' if compiled else 'eager'}"] = {
                    "images_per_second": speed,
                    "share_of_matmul_rate": speed * forwards(recipe, role) * flops / rate,
                    "idle_share": idle_share(states, 5, device),
                }
        metrics[name] = row
        print(name, row)
    if not arguments.tiny:
        seconds = time.perf_counter() - start
        command = "python scripts/bench/throughput.py"
        write_record(
            "results/throughput.json", metrics=metrics, command=command, seconds=seconds, device="cuda"
        )


if __name__ == "__main__":
    main()
