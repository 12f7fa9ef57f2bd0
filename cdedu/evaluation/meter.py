"""What training costs, counted underneath every network: operations, in units of one network call for one sample."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten


def _costs() -> dict[Any, Any]:
    """Operation → its cost: PyTorch's formulas, and by the same ones what its table leaves out on a CPU."""
    return flop_registry | {
        _aten.addmm_: flop_registry[_aten.addmm],
        _aten.baddbmm_: flop_registry[_aten.baddbmm],
        _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
            q.shape, k.shape, v.shape
        ),
        _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)
        ),
    }


@cache
def _in_parts(func: Any) -> bool:
    """Whether an operation is made of others. Autograd takes it apart, and in inference mode nobody does."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


class Meter(TorchDispatchMode):
    r"""Counts all computing inside a ``with`` block, whoever does it, in network evaluations.

    .. math:: \text{evaluations} = \frac{\text{operations}}{\text{operations of } D(x, \sigma) \text{ for one sample}}

    A forward pass counts 1 per sample; a backward pass counts 2, or less where no gradients are needed (the first layer needs none for
    its input). The meter counts matrix products, convolutions and attention as PyTorch runs them, so a network costs the same whether it
    is called whole, in parts, or under another name. Sums, optimizers and averages of weights are free.

    ::

        with Meter(teacher, (1, 8, 8)) as meter:
            loss(student, x0).mean().backward()
        meter.evaluations / len(x0)

    Args:
        network: one evaluation is one call of it, ``network(x, sigma)``.
        shape: of one sample.

    Raises:
        ValueError: for a network that uses none of the operations that are counted.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.operations, self.unit, self._costs = 0, 1, _costs()
        weights = next(network.parameters(), torch.zeros(()))
        with self, torch.no_grad():
            network(torch.zeros(1, *shape, dtype=weights.dtype, device=weights.device), 1.0)
        self.operations, self.unit = 0, self.operations
        if not self.unit:
            raise ValueError(
                f"a call of {type(network).__name__} multiplies no matrices, so nothing can be counted by it; give a network"
            )

    @property
    def evaluations(self) -> float:
        """Evaluations spent so far."""
        return self.operations / self.unit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        cost = self._costs.get(func._overloadpacket)
        if cost is None:
            if _in_parts(func):
                with self:
                    return func.decompose(*args, **kwargs)
            self.uncounted(func)
            return func(*args, **kwargs)
        self.before()
        out: Tensor = func(*args, **kwargs)
        # A number, also while torch.jit traces sizes.
        self.operations += int(cost(*args, **kwargs, out_val=out))
        return out

    def before(self) -> None:
        """Called before each operation that is counted."""

    def uncounted(self, func: Any) -> None:
        """Called before each that is not."""
