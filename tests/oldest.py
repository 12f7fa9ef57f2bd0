"""Gradients under autocast with the torch that runs this: `python tests/oldest.py`. Ends with 1 if bf16 loses them.

Before torch 2.10 the half-precision copies of weights that a call under no_grad had made served the next call in the same autocast
region, which then had no gradient. Needs torch, numpy and safetensors alone, so that an old torch is quickly had.
"""

import sys

import torch
from torch import nn

from cdedu.losses import distillation_loss
from cdedu.noise import karras_sigmas
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher


class Network(nn.Module):
    """Two layers; the noise level is added in between."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(2, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.after(torch.tanh(self.before(x) + c_noise[:, None]))
        return out


def gradient(precision: str) -> torch.Tensor:
    """The gradient of a distillation loss whose target is the student itself, as one vector."""
    torch.manual_seed(0)
    runtime, network = Runtime(precision=precision), Network()
    student = ConsistencyModel(network)
    f, teacher = runtime.prepare(student), runtime.freeze(Teacher(Network()))
    x0, draws = torch.randn(32, 2), torch.Generator().manual_seed(1)
    runtime.backward(distillation_loss(f, f, teacher, x0, karras_sigmas(6), generator=draws).mean())
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


if __name__ == "__main__":
    full, half = gradient("fp32"), gradient("bf16")
    alike = float(torch.cosine_similarity(full, half, dim=0)) if len(full) == len(half) else 0.0
    print(f"torch {torch.__version__}: gradients of fp32 and bf16, cosine {alike:.4f}")
    sys.exit(alike < 0.99)
