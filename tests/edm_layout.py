"""Files in the layout of EDM's published checkpoints, with weights of ours: for tests and for `make bench`."""

import io
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn

from cdedu.networks.edm import Conv, DDPMpp


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("the file's own way of being read was used")


def persistence() -> dict[str, types.ModuleType]:
    """Modules that must be importable for such a file to be written; ours never needs them to read."""
    module = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__ = module.__name__
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    return {"torch_utils": types.ModuleType("torch_utils"), module.__name__: module}


def edm_bytes(content: Any, protocol: int = 4, source: str = "raise SystemExit") -> bytes:
    """A pickle in which our modules stand as NVIDIA's persistence layer writes theirs.

    Needs :func:`persistence` in ``sys.modules``. A module is written under the name in its attribute ``edm_name``, and so is anything
    else that has one.
    """

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            return _reduce(obj, source)

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, about its storages
        Pickler(buffer, protocol).dump(content)
    return buffer.getvalue()


def _reduce(obj: Any, source: str) -> Any:
    if isinstance(getattr(type(obj), "edm_name", None), str):
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": obj.edm_name}
        return _reconstruct_persistent_obj, (meta | {"state": vars(obj)},), None
    if not isinstance(obj, nn.Module) or type(obj) is nn.ModuleDict:
        return NotImplemented
    state = dict(vars(obj)) | {"skip_scale": np.sqrt(0.5), "_init_args": ()}
    name = state.pop("edm_name", type(obj).__name__)
    state["_parameters"] = OrderedDict(obj._parameters)  # as older versions of torch had it
    if isinstance(obj, Conv) and obj.resample and obj.resample_filter is None:
        state["_buffers"] = {"resample_filter": torch.full((1, 1, 2, 2), 0.25)}
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": name, "state": state}
    return _reconstruct_persistent_obj, (meta,), None


class ECMLoss:
    """ECT's loss keeps a method of its own as an attribute: in the pickle it stands twice, within itself, beside a ``getattr``."""

    edm_name = "ECMLoss"

    def __init__(self) -> None:
        self.t_to_r = self.t_to_r_sigmoid

    def t_to_r_sigmoid(self, t: float) -> float:
        raise AssertionError("a method of the file was called")


def cifar10() -> bytes:
    """The file of the unconditional CIFAR-10 network (DDPM++, 55.7 M parameters), with random weights."""

    net: Any = DDPMpp()
    net.map_augment, net.edm_name = nn.Linear(9, 128, bias=False), "SongUNet"
    net._init_kwargs = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "label_dim": 0}
    net._init_kwargs |= {"augment_dim": 9, "model_channels": 128, "channel_mult": [2, 2, 2]}
    outer: Any = nn.Module()
    outer.model, outer.edm_name, outer._init_kwargs, outer.sigma_data = net, "EDMPrecond", {}, 0.5
    sys.modules.update(persistence())
    return edm_bytes({"ema": outer})
