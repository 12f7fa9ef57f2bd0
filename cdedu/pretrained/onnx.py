"""A denoiser as one ONNX graph, which runs in any ONNX runtime: on a server, on a phone, in a browser.

Needs the packages onnx, onnxscript and onnxruntime (``pip install "cdedu[onnx]"``), which load on first use.
"""

import copy
import logging
import math
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdedu.checkpoints import Header
from cdedu.files import replacing
from cdedu.noise import SIGMA_MAX, SIGMA_MIN, per_sample

TOLERANCE = 1e-4
SMALL = 64
"""Smaller tensors stay in float32: a node to convert them back would take as much space."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    sigma: float | None = None,
    *,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    half: bool = False,
) -> float:
    """Write D(x, σ), including preconditioning, as one graph: one evaluation of a teacher, or a complete one-step student.

    The graph's inputs are ``x`` (B, ...) float32, ``sigma`` (B,) float32 unless it is fixed, and ``labels`` (B,) int64 if
    the model has classes; the output is ``x0`` in the shape of x. B is free. Before the file gets its final name, the graph is compared
    with the model in onnxruntime; until then, an existing file stays.

    Args:
        model: a :class:`~cdedu.teacher.Teacher`, a :class:`~cdedu.student.ConsistencyModel`, or any module called as
            ``model(x, sigma)``. It is exported in evaluation mode; its own state doesn't change.
        path: ends in ``.onnx``; its folder is made if missing.
        sigma: a noise level to fix in the graph, 80 for one-step samples; at most the highest that the model knows.
        shape: of one sample; by default as in the checkpoint.
        classes: number of labels, 0 for none; by default as in the checkpoint.
        half: store the weights in half precision, which halves the file. Everything is still computed in float32, and the file is
            compared with a model whose weights are rounded the same way.

    Returns:
        The largest difference between graph and model on random inputs, relative to the largest output where that exceeds 1.

    Raises:
        ValueError: for arguments that don't fit, or a model that is not a denoiser of this shape or can't be traced.
        RuntimeError: if graph and model differ by more than 1e-4; then nothing is written.
        ImportError, OSError: if a package is missing, or the file cannot be written.
    """
    path, header = Path(path), getattr(model, "header", None) or Header(())
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"export_onnx: {type(model).__name__} is not a torch module, so there is no graph to trace"
        )
    if path.suffix != ".onnx":
        raise ValueError(f"export_onnx: the file must end in .onnx, got {path}")
    shape = header.shape or None if shape is None else shape
    if not shape:
        raise ValueError("export_onnx: the model does not say its shape; give it, such as shape=(1, 8, 8)")
    classes = header.classes if classes is None else classes
    low = float(getattr(model, "sigma_min", 0.0)) or SIGMA_MIN
    known = getattr(model, "sigma_max", None)
    high = float(known or (header.recipe.sigma_max if header.recipe else SIGMA_MAX))
    if sigma is not None and not low * (1 - 1e-6) <= sigma <= (high if known else sys.float_info.max):
        wanted = f"at most {high:g}" if known else "finite"
        raise ValueError(f"export_onnx: sigma = {sigma}, but it must be {wanted} and at least {low:g}")
    _packages()

    if half:
        model = _rounded(model)
    was_training = model.training
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    graph = _Graph(model, sigma, shape, classes, low, high)
    try:
        model.cpu().eval()
        program = _trace(graph)
        if half:
            _halve(program.model.graph)
        error = _difference(graph, program)
    finally:
        model.to(device).train(was_training)
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"export_onnx: graph and model differ by {error:.1e}, more than {TOLERANCE:g}; {path} was not written"
        )
    with replacing(path) as temporary:
        temporary.write_bytes(program.model_proto.SerializeToString(deterministic=True))
    return error


class _Graph(nn.Module):
    """The model with inputs in a fixed order, and inputs to try it on."""

    def __init__(
        self,
        model: nn.Module,
        sigma: float | None,
        shape: Sequence[int],
        classes: int,
        low: float,
        high: float = SIGMA_MAX,
    ) -> None:
        super().__init__()
        self.model, self.sigma, self.shape, self.classes = model, sigma, shape, classes
        self.low, self.high = low, high
        self.names = ["x", *["sigma"] * (sigma is None), *["labels"] * bool(classes)]

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        return self.model(given.pop("x"), given.pop("sigma", self.sigma), **given)

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Noise at levels from the model's lowest to its highest, one level for each sample."""
        generator = torch.Generator().manual_seed(batch)
        levels = (
            torch.linspace(math.log(self.low), math.log(self.high), batch).exp().clamp(self.low, self.high)
        )
        if self.sigma is not None:
            levels = torch.full((batch,), float(self.sigma))
        noise = torch.randn(batch, *self.shape, generator=generator)
        labels = torch.arange(batch) % max(self.classes, 1)
        given = {"x": per_sample(levels, noise) * noise, "sigma": levels, "labels": labels}
        return tuple(given[name] for name in self.names)


def _packages() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(name)
        except ImportError:
            raise ImportError(f'export_onnx needs {name}: pip install "cdedu[onnx]"') from None


def _trace(graph: _Graph) -> Any:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    inputs = graph.inputs(3)
    try:
        with torch.no_grad():
            shape = graph(*inputs).shape
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"export_onnx: the model cannot be called on {tuple(inputs[0].shape)}: {reason}"
        ) from None
    if shape != inputs[0].shape:
        raise ValueError(
            f"export_onnx: the model turned shape {tuple(inputs[0].shape)} into {tuple(shape)}; they must be equal"
        )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's own code
            names = {"input_names": graph.names, "output_names": ["x0"]}
            shapes = {"dynamic_shapes": (tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),)}
            program = torch.onnx.export(graph, inputs, dynamo=True, verbose=False, **names, **shapes)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"export_onnx: this model cannot be traced: {reason}") from None
    # What the exporter noted for debugging goes: names of local files, and its version. Same model, same bytes.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.producer_version = None
    return program


@torch.no_grad()
def _rounded(model: nn.Module) -> nn.Module:
    """A copy whose weights are those that half precision has."""
    model = copy.deepcopy(model)
    for weight in model.parameters():
        weight.copy_(weight.half())
        if not weight.isfinite().all():
            raise ValueError(
                "export_onnx: half=True, but a weight is beyond 65,504, the most that half precision has"
            )
    return model


def _halve(graph: Any) -> None:
    """Store in half precision what loses nothing by it, and turn it back where it is used; a runtime does so once, as it loads."""
    import onnx_ir as ir

    casts = []
    for name, value in [*graph.initializers.items()]:
        if value.dtype != ir.DataType.FLOAT or value.const_value.size < SMALL:
            continue
        whole = value.const_value.numpy()
        stored = whole.astype("float16")
        if (stored.astype("float32") != whole).any():  # no weight, but a constant of the graph
            continue
        short = ir.Value(name=f"{name}.half", const_value=ir.tensor(stored, name=f"{name}.half"))
        short.type, short.shape = ir.TensorType(ir.DataType.FLOAT16), value.shape
        cast = ir.node("Cast", [short], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.whole")
        full = cast.outputs[0]
        ir.convenience.replace_all_uses_with(value, full)
        del graph.initializers[name]
        full.name, full.type, full.shape = name, value.type, value.shape
        graph.register_initializer(short)
        casts.append(cast)
    graph.insert_before(graph[0], casts)


@torch.no_grad()
def _difference(graph: _Graph, program: Any) -> float:
    worst = 0.0
    for inputs in map(graph.inputs, (1, 3, 8)):
        wanted, (found,) = graph(*inputs), program(*inputs)
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1)))
    return worst
