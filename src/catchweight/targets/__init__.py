"""Targets: cost counted where the network will run. A new runtime is one file and one line in ``RUNTIMES``."""

from __future__ import annotations

from .clock.energy import Energy
from .clock.measure import Measurement, distinguishable, interleaved
from .clock.memory import Memory, file_memory, module_memory
from .counts import count_macs, count_params
from .runtimes.onnxruntime_cuda import OnnxRuntimeCuda, TensorRt
from .runtimes.onnxruntime_target import OnnxRuntimeCpu
from .runtimes.openvino_target import OpenVinoCpu
from .runtimes.torch_compile import TorchCompileCpu, TorchCompileCuda
from .runtimes.torch_target import TorchCpu, TorchCuda
from .target import Target, listing
from .tracing.graph import to_onnx

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
