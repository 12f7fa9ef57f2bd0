"""Speed, measured side by side: `make bench`. Writes `results/bench.json` and `results/bench-pretrained.json`.

`python scripts/bench/bench.py pretrained` writes the second alone.

Each ratio compares two calls that take turns in one process, so a busy machine slows both. Nothing here passes or fails.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edm_layout
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cdedu import checkpoints
from cdedu.data import load_data
from cdedu.evaluation.comparison import speed
from cdedu.pretrained import DiffusersDenoiser
from cdedu.recipes import get_recipe
from cdedu.records import write_record
from cdedu.teacher import Teacher
from cdedu.training import State, distill, train_teacher


def import_seconds(statement: str) -> float:
    """Seconds that a fresh interpreter takes for an import, after `import torch`."""
    code = f"import torch, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def steps_per_second(states: Callable[[], Any], steps: int) -> float:
    """Training speed over ``steps`` steps, after three that are not counted."""
    start, counted = 0.0, 0
    for state in states():
        assert isinstance(state, State)
        if state.step == 3:
            start = time.perf_counter()
        counted = state.step - 3
        if counted == steps:
            break
    return counted / (time.perf_counter() - start)


def adapter_cost(rounds: int = 40) -> dict[str, float]:
    """What the adapter around a diffusers network adds to it, and its own time, measured around a network that does nothing."""
    from diffusers import DDPMScheduler, UNet2DModel

    class Nothing(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, **_: Any) -> tuple[Tensor]:
            return (x,)

    alphas = DDPMScheduler().alphas_cumprod
    net = UNet2DModel(
        sample_size=32, block_out_channels=(64, 128), layers_per_block=2, norm_num_groups=8, add_attention=False,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip
    wrapped, empty = DiffusersDenoiser(net, alphas), DiffusersDenoiser(Nothing(), alphas)
    x, sigma, t = torch.randn(4, 3, 32, 32), torch.full((4,), 3.0), torch.full((4,), 500.0)

    def seconds(call: Callable[[], Any]) -> float:
        start = time.process_time()  # of this process alone: other work on the machine does not count
        call()
        return time.process_time() - start

    with torch.no_grad():
        for _ in range(3):
            net(x, t), wrapped(x, sigma), empty(x, sigma)
        turns = [
            [
                seconds(lambda: net(x, t, return_dict=False)),
                seconds(lambda: wrapped(x, sigma)),
                seconds(lambda: empty(x, sigma)),
            ]
            for _ in range(rounds)
        ]
    network, around, own = (statistics.median(column) for column in zip(*turns, strict=True))
    ratio = statistics.median(b / a for a, b, _ in turns)
    return {
        "network_ms": 1e3 * network,
        "adapted_ms": 1e3 * around,
        "ratio": ratio,
        "own_ms": 1e3 * own,
        "own_share": own / network,
    }


LOAD = """
import json, sys, time, torch, diffusers, cdedu.networks, cdedu.networks.edm, cdedu.pretrained.edm
from pathlib import Path
from diffusers import DDPMScheduler, UNet2DModel
from cdedu.pretrained import load_teacher

def memory(name):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if l.startswith(name))

linux = Path("/proc/self/clear_refs").exists()
if linux:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted from here
    before = memory("VmRSS")
start, cpu = time.perf_counter(), time.process_time()
model = load_teacher(sys.argv[1])
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = (memory("VmHWM") - before) * 1024 if linux else None
size = 4 * sum(p.numel() for p in model.parameters())
print(json.dumps({"seconds": seconds, "computing_seconds": cpu, "peak_memory_over_size": peak and peak / size}))
"""


def loading(repeats: int = 3) -> dict[str, dict[str, float]]:
    """Time and peak memory for loading checkpoints of 56 M parameters, random ones, each in a fresh process."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    recipe, out = get_recipe("cifar10-ddpmpp"), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "edm.pkl").write_bytes(edm_layout.cifar10())
        network = recipe.network.build((3, 32, 32))
        checkpoints.save(folder / "own.safetensors", Teacher(network), recipe, (3, 32, 32))
        attend = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
        net = UNet2DModel(
            sample_size=32, block_out_channels=(160, 320, 320, 320), down_block_types=attend,
            up_block_types=[kind.replace("Down", "Up") for kind in reversed(attend)],
        )  # fmt: skip
        DDPMPipeline(net, DDPMScheduler()).save_pretrained(folder / "diffusers")
        for kind, source in {"edm": "edm.pkl", "own": "own.safetensors", "diffusers": "diffusers"}.items():
            words = [sys.executable, "-c", LOAD, str(folder / source)]
            runs = [
                json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
                for _ in range(repeats)
            ]
            out[kind] = {key: statistics.median(run[key] for run in runs) for key in runs[0] if runs[0][key]}
    return out


def pretrained() -> None:
    """What other people's models cost here: adapters, and loading. Its own record, since it needs no trained weights."""
    start = time.perf_counter()
    metrics: dict[str, Any] = {"adapter": adapter_cost(), "loading": loading()}
    write_record(
        "results/bench-pretrained.json",
        metrics=metrics,
        command="python scripts/bench/bench.py pretrained",
        seed=0,
        seconds=time.perf_counter() - start,
    )
    cost = metrics["adapter"]
    print(
        f"adapter: {cost['own_ms']:.2f} ms of its own around a network of {cost['network_ms']:.0f} ms, "
        f"{cost['own_share']:.2%}; called in turns, ratio {cost['ratio']:.3f}"
    )
    for source, row in metrics["loading"].items():
        print(
            f"loading 56 M parameters, {source:9} {row['seconds']:.2f} s ({row['computing_seconds']:.2f} s of computing), "
            f"peak memory {row.get('peak_memory_over_size', float('nan')):.2f} times their size"
        )


def main() -> None:
    """Measure, print, record."""
    start = time.perf_counter()
    metrics: dict[str, Any] = {
        "import_seconds": statistics.median(import_seconds("import cdedu") for _ in range(5))
    }
    for name in tqdm(["toy", "digits"], desc="bench"):
        recipe, data = get_recipe(name), load_data(get_recipe(name).data)
        teacher, student = checkpoints.load(f"{name}-teacher"), checkpoints.load(f"{name}-student")
        shape = tuple(data.train.shape[1:])
        metrics[name] = {
            f"batch_{batch}": speed(recipe, teacher, student, shape, torch.device("cpu"), batch)
            for batch in (1, 256)
        }
        metrics[name]["teacher_steps_per_second"] = steps_per_second(
            lambda r=recipe, d=data: train_teacher(r, d), 30
        )
        metrics[name]["student_steps_per_second"] = steps_per_second(
            lambda r=recipe, t=teacher, d=data: distill(r, t, d), 30
        )
    write_record(
        "results/bench.json",
        metrics=metrics,
        command="make bench",
        seed=0,
        seconds=time.perf_counter() - start,
    )
    for name in ("toy", "digits"):
        for batch in (1, 256):
            row = metrics[name][f"batch_{batch}"]
            print(
                f"{name:8} batch {batch:3}: teacher, 35 evaluations {1e3 * row['teacher_seconds']:9.2f} ms   "
                f"student, 1 evaluation {1e3 * row['student_seconds']:8.2f} ms   ratio {row['ratio']:.1f}"
            )
        print(
            f"{name:8} training: teacher {metrics[name]['teacher_steps_per_second']:.1f} steps/s, "
            f"student {metrics[name]['student_steps_per_second']:.1f} steps/s"
        )
    print(f"import cdedu, beyond torch: {metrics['import_seconds']:.3f} s")


if __name__ == "__main__":
    torch.manual_seed(0)
    if sys.argv[1:] != ["pretrained"]:
        main()
    pretrained()
