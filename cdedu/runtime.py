"""Where a training step runs: one device here, or several processes through Accelerate, in full or mixed precision.

The training loops are written against these few methods, so that they read the same on a laptop and on a cluster.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Runtime:
    """One process, one device.

    Args:
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16`` for the networks; losses, solver steps and averages stay in float32.
        compile: compile the networks (CUDA; needs a C++ compiler elsewhere).
        micro_batch: at most so many samples at once; gradients are accumulated over a batch. All at once by default, and
            halved, with a message, when memory runs out.
        channels_last: the order of an image network's weights in memory; by default on CUDA.
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
        self.channels_last = self.device.type == "cuda" if channels_last is None else channels_last
        self.precision, self.compile, self.micro_batch = precision, compile, micro_batch
        if precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision {precision!r} is not known; use fp32, bf16 or fp16")
        if (
            precision == "bf16"
            and self.device.type == "cuda"
            and torch.cuda.get_device_capability(self.device)[0] < 8
        ):
            raise ValueError(
                f"{torch.cuda.get_device_name(self.device)} cannot compute in bf16; use fp16 or fp32"
            )
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("fp16 needs a GPU; use bf16 or fp32 on the CPU")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    @property
    def main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def first(self) -> AbstractContextManager[Any]:
        """Inside, one process of a machine goes first (fetching data, say), and the others find its work done."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the networks inside."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def freeze(self, model: nn.Module) -> nn.Module:
        """A network that is only called: on the device, compiled if asked for."""
        model = model.to(self.device).eval().requires_grad_(False)
        return self._fast(model)

    def prepare(self, model: nn.Module) -> nn.Module:
        """What to call in place of ``model`` while it is trained."""
        return self._fast(model)

    def waiting(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Inside, gradients are accumulated and not yet exchanged between processes."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimiser; skipped where fp16 gradients overflowed, with a smaller scale afterwards."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process: all of them must stop at the same step."""
        return flag

    def describe(self) -> dict[str, Any]:
        """What a results record says of it."""
        return {
            "processes": self.world,
            "precision": self.precision,
            "compile": self.compile,
            "micro_batch": self.micro_batch,
            "tf32": torch.backends.cuda.matmul.allow_tf32 if self.device.type == "cuda" else None,
        }

    def shrink(self, size: int, block: int) -> None:
        """Halve the parts of a batch after memory ran out.

        Raises:
            MemoryError: if they cannot be halved.
        """
        half = size // 2 // block * block
        if self.world > 1 or not half:
            raise MemoryError(
                f"{self.device} has too little memory for {size} samples at once; "
                f"use a smaller --micro-batch and --block (now {block}), bf16, or a smaller network"
            ) from None
        torch.cuda.empty_cache()
        self.micro_batch = half
        print(f"memory ran out with {size} samples at once; going on with {half}, the batch stays the same")

    def _fast(self, model: nn.Module) -> nn.Module:
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            # In place: the names of the weights stay as they are.
            (model.network if isinstance(getattr(model, "network", None), nn.Module) else model).compile()
        return model


class Distributed(Runtime):
    """Several processes through Accelerate, as started by ``torchrun`` or ``accelerate launch``; one of them here."""

    def __init__(
        self,
        precision: str = "fp32",
        compile: bool = False,
        micro_batch: int | None = None,
        cpu: bool = False,
    ) -> None:
        from accelerate import Accelerator

        mixed = {"fp32": "no"}.get(precision, precision)
        on_cpu = cpu or not torch.cuda.is_available()
        self.accelerator: Accelerator = Accelerator(mixed_precision=mixed, cpu=on_cpu)
        super().__init__(self.accelerator.device, precision, compile, micro_batch)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes

    def first(self) -> AbstractContextManager[Any]:
        return self.accelerator.local_main_process_first()

    def autocast(self) -> AbstractContextManager[Any]:
        return self.accelerator.autocast()

    def prepare(self, model: nn.Module) -> nn.Module:
        wrapped = self.accelerator.prepare_model(self._fast(model))
        for name in ("sigma_data", "sigma_min"):
            setattr(wrapped, name, getattr(model, name, None))
        return wrapped

    def waiting(self, model: nn.Module) -> AbstractContextManager[Any]:
        return self.accelerator.no_sync(model)

    def mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean")

    def any(self, flag: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)
