"""Targets: cost counted where the network will run. A new runtime is one file and one line in ``RUNTIMES``."""

from __future__ import annotations

from .counts import count_macs, count_params
from .energy import Energy
from .graph import to_onnx
from .measure import Measurement, distinguishable, interleaved
from .memory import Memory, file_memory, module_memory
from .onnxruntime_cuda import OnnxRuntimeCuda, TensorRt
from .onnxruntime_target import OnnxRuntimeCpu
from .openvino_target import OpenVinoCpu
from .target import Target, listing
from .torch_compile import TorchCompileCpu, TorchCompileCuda
from .torch_target import TorchCpu, TorchCuda

RUNTIMES: dict[str, type[Target]] = {
    kind.name: kind
    for kind in (
        OnnxRuntimeCpu,
        OnnxRuntimeCuda,
        OpenVinoCpu,
        TorchCpu,
        TorchCuda,
        TorchCompileCpu,
        TorchCompileCuda,
        TensorRt,
    )
}

__all__ = [
    "RUNTIMES",
    "Energy",
    "Measurement",
    "Memory",
    "Target",
    "count_macs",
    "count_params",
    "distinguishable",
    "file_memory",
    "interleaved",
    "listing",
    "module_memory",
    "to_onnx",
]
