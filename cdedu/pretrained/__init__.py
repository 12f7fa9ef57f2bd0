"""Between this package and other people's formats: models out, teachers in. One file for each format.

:func:`~cdedu.pretrained.onnx.export_onnx` writes a denoiser as one ONNX graph.
"""

from cdedu.pretrained.onnx import export_onnx

__all__ = ["export_onnx"]
