"""A stand-in for a device without float64, such as Apple's GPUs."""

from typing import Any

import torch


class Float32Device(torch.Tensor):
    """A tensor that may become another one of its device, but not in float64; on the CPU it may."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a tensor of this device to float64")
        return result


def there(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(Float32Device)
