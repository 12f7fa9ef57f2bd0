"""Where a training step runs: one device here, or several processes through Accelerate, in full or mixed precision.

The training loops only use these few methods, so they read the same on a laptop and on a cluster.
"""

import time
import timeit
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

LOOK = 25
"""Steps between two looks at a number on the GPU, since each look waits for everything the GPU has been given so far."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for one another, for example for the one that decodes a data set or scores 50,000 pictures."""


def pick_device(name: str) -> torch.device:
    """Pick a device. ``auto`` is CUDA, then MPS, then the CPU; a ValueError for a device that is unknown or missing."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is not known; use cpu, cuda, cuda:1, mps or auto") from None
    there = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there.get(device.type, False):
        raise ValueError(f"--device {name} is not to be had on this machine; use --device cpu")
    return device


class Runtime:
    """One process, one device.

    Args:
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16`` for the networks; losses, solver steps and averages stay in float32.
        compile: compile the networks (on CUDA; elsewhere this needs a C++ compiler).
        micro_batch: compute at most this many samples at once; gradients are accumulated over a batch. By default all at once, halved
            with a message when memory runs out.
        channels_last: the memory layout of an image network's weights; by default only if networks are compiled for CUDA. Eager group
            norm only supports the other layout, and would convert back and forth.
    """

    rank, world = 0, 1

    def __init__(
        self,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        compile: bool = False,
        micro_batch: int | None = None,
        channels_last: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        self.channels_last = cuda and compile if channels_last is None else channels_last
        self.precision, self.compile, self.micro_batch = precision, compile, micro_batch
        if precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision {precision!r} is not known; use fp32, bf16 or fp16")
        if precision == "bf16" and cuda and torch.cuda.get_device_capability(self.device)[0] < 8:
            name = torch.cuda.get_device_name(self.device)
            raise ValueError(f"{name} cannot compute in bf16; use fp16 or fp32")
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("fp16 needs a GPU; use bf16 or fp32 on the CPU")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        if cuda:
            torch.backends.cudnn.benchmark = True  # shapes repeat: the fastest convolution is worth a search

    @property
    def main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    @property
    def look(self) -> int:
        """Number of steps between looks at the loss and at whether a signal has come."""
        return 1 if self.device.type == "cpu" else LOOK

    def holds(self, nbytes: int) -> bool:
        """Whether data of this size may live on the device: on a GPU they may take a quarter of the free memory; the rest is for the
        networks."""
        return self.device.type != "cuda" or nbytes <= torch.cuda.mem_get_info(self.device)[0] / 4

    def first(self) -> AbstractContextManager[Any]:
        """Context that one process per machine enters first (to fetch data, say); the others then find its work done."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """Context that sets the networks' precision. Use one per call: half-precision copies of weights made in a call without gradients
        must not be reused in the next."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def place(self, model: nn.Module) -> Any:
        """Move the model to the device, in the memory layout that is fast there; call this before copying it."""
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload]

    def freeze(self, model: nn.Module) -> Any:
        """What to call instead of a network that isn't trained: on the device, compiled if asked for."""
        model = self.place(model).eval().requires_grad_(False)
        return self._precise(self._compiled(model))

    def prepare(self, model: nn.Module) -> Any:
        """What to call instead of ``model`` while it is trained."""
        return self._precise(self._compiled(model))

    def follow(self, target: nn.Module) -> Any:
        """What to call instead of a target (the model itself or an average of it), which gets no gradient of its own."""
        inner = target.module if isinstance(target, AveragedModel) else target
        self._compiled(inner)
        return self._precise(target)

    def waiting(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Context in which gradients are accumulated, but not yet exchanged between processes."""
        return nullcontext()

    def trying(self, size: int) -> bool:
        """Whether parts of this size haven't been through a whole step yet; if so, :meth:`agree` exchanges the gradients."""
        return False

    def agree(self, fits: bool, size: int, model: nn.Module) -> bool:
        """Whether every process had enough memory for parts of this size; exchanges the gradients of a size being tried."""
        return fits

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step; skipped if fp16 gradients overflowed, with a smaller scale afterward."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        return value

    def gather(self, value: Tensor) -> Tensor:
        """The rows of all processes, in order of the processes; each must have the same number."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them must stop at the same step."""
        return flag

    def wait(self) -> None:
        """Wait until all processes are here."""

    def describe(self) -> dict[str, Any]:
        """What a results record says about this runtime."""
        return {
            "processes": self.world,
            "precision": self.precision,
            "compile": self.compile,
            "micro_batch": self.micro_batch,
            "channels_last": self.channels_last,
            "tf32": self._tf32() if self.device.type == "cuda" else None,
        }

    def _tf32(self) -> dict[str, bool]:
        """What ``fp32`` means on this GPU: by PyTorch's defaults, convolutions round their factors to TF32, and matrix products don't."""
        return {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}

    def shrink(self, size: int, block: int) -> None:
        """Halve the parts of a batch after memory ran out; a MemoryError if they can't be halved."""
        half = size // 2 // block * block
        if not half:
            raise MemoryError(
                f"{self.device} has too little memory for {size} samples at once; "
                f"use {f'a smaller --micro-batch and --block (now {block}), ' * (block > 1)}bf16, --checkpointing where the command has it, "
                "smaller samples or a smaller network"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro_batch = half
        if self.main:
            print(
                f"memory ran out with {size} samples at once; continuing with {half}, the batch stays the same"
            )

    def _compiled(self, model: nn.Module) -> nn.Module:
        """In place: the names of the weights stay as they are."""
        inner = model.network if isinstance(getattr(model, "network", None), nn.Module) else model
        if self.compile and inner._compiled_call_impl is None:
            inner.compile()
        return model

    def _precise(self, module: nn.Module) -> Any:
        return module if self.precision == "fp32" else Precise(module, self.autocast)


class Precise:
    """A module whose calls run under autocast, each in its own region, and return the dtype of their input.

    Everything around the networks (solver steps, distances, weights of a loss) stays in float32.
    """

    def __init__(self, module: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.module, self.autocast = module, autocast

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with self.autocast():
            out: Tensor = self.module(x, *args, **kwargs)
        return out.to(x.dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "module" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.module, name)


def fast_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The fast precision of a device: for a GPU by its capability, for a CPU by a trial of a few milliseconds; ``fp32`` unless bf16 saves
    at least 30 % of the time.

    Many CPUs emulate bf16 through fp32, up to twenty times slower than fp32 itself.
    """
    if device.type == "cuda":
        # By capability: a T4 (7.5) says that it supports bf16, and emulates it.
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device.type != "cpu":
        return "fp32"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        conv = torch.nn.Conv2d(128, 128, 3, padding=1, device=device, dtype=dtype)
        x = torch.zeros(4, 128, 8, 8, device=device, dtype=dtype)
        with torch.inference_mode():
            conv(x)
            seconds[dtype] = min(timeit.repeat(partial(conv, x), timer=time.perf_counter, repeat=3, number=1))
    return "bf16" if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32] else "fp32"


class Distributed(Runtime):
    """One of several processes, through Accelerate, as started by ``torchrun`` or ``accelerate launch``."""

    def __init__(
        self,
        precision: str = "fp32",
        compile: bool = False,
        micro_batch: int | None = None,
        cpu: bool = False,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        mixed = {"fp32": "no"}.get(precision, precision)
        on_cpu = cpu or not torch.cuda.is_available()
        patience = [InitProcessGroupKwargs(timeout=PATIENCE)]
        self.accelerator: Accelerator = Accelerator(
            mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=patience
        )
        super().__init__(self.accelerator.device, precision, compile, micro_batch)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self._tried = Counter[int]()

    def first(self) -> AbstractContextManager[Any]:
        return self.accelerator.local_main_process_first()

    def autocast(self) -> AbstractContextManager[Any]:
        return self.accelerator.autocast()

    def prepare(self, model: nn.Module) -> Any:
        wrapped = self.accelerator.prepare_model(self._compiled(model))
        for name in ("sigma_data", "sigma_min"):
            setattr(wrapped, name, getattr(model, name, None))
        return self._precise(wrapped)

    def waiting(self, model: Any) -> AbstractContextManager[Any]:
        return self.accelerator.no_sync(model.module if isinstance(model, Precise) else model)

    def trying(self, size: int) -> bool:
        return self._tried[size] < 2  # with the first step the optimizer's own memory comes

    def agree(self, fits: bool, size: int, model: nn.Module) -> bool:
        """A process that runs out of memory inside backward would leave the others waiting for its gradients. So in the first two steps
        of each size, no gradients are exchanged until every process reports that its own are ready; later steps exchange them within
        backward."""
        if not self.trying(size):
            if not fits:
                raise MemoryError(
                    f"process {self.rank}: memory ran out with {size} samples at once, which had fitted before; the state that was "
                    "saved is kept, add --resume and a smaller --micro-batch to go on"
                )
            return True
        if self.any(not fits):
            return False
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = self.mean(parameter.grad)
        self._tried[size] += 1
        return True

    def mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean")

    def gather(self, value: Tensor) -> Tensor:
        return self.accelerator.gather(value)

    def any(self, flag: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
