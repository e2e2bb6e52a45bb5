"""Targets: cost counted where the network will run. A new runtime is one file and one line in ``RUNTIMES``."""

from __future__ import annotations

from .counts import count_macs, count_params
from .graph import to_onnx
from .measure import Measurement, distinguishable, interleaved
from .onnxruntime_target import OnnxRuntimeCpu
from .target import Target
from .torch_target import TorchCpu

RUNTIMES: dict[str, type[Target]] = {kind.name: kind for kind in (OnnxRuntimeCpu, TorchCpu)}

__all__ = [
    "RUNTIMES",
    "Measurement",
    "Target",
    "count_macs",
    "count_params",
    "distinguishable",
    "interleaved",
    "to_onnx",
]
