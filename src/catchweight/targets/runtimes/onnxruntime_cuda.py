"""ONNX Runtime on an NVIDIA GPU: its own CUDA kernels, or engines built by TensorRT."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn

from ...errors import CatchweightError
from ..tracing.graph import load_graph, save_graph
from .file_target import FileTarget
from .onnxruntime_target import CPU_PROVIDER, OnnxSession, Provider

CUDA_PROVIDER, TENSORRT_PROVIDER = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OnnxRuntimeCuda(FileTarget):
    """ONNX Runtime's CUDA provider; input and outputs stay on the GPU, a run ends when the GPU is done.

    ``fp16`` converts the file: weights and activations are half, the input and output stay float32.
    """

    name = "onnxruntime:cuda"
    precisions = ("fp32", "fp16")
    converted = ("fp16",)
    provider = CUDA_PROVIDER

    @staticmethod
    def missing() -> str | None:
        return _no_provider(CUDA_PROVIDER)

    def version(self) -> str:
        return f"onnxruntime {onnxruntime.__version__}, {torch.cuda.get_device_name()}"

    def open(self, path: Path, size: tuple[int, int] | None) -> OnnxSession:
        session = OnnxSession(path, self.threads, self.batch, size, self._providers(), "cuda")
        used = session.session.get_providers()
        if self.provider not in used:  # ONNX Runtime falls back to another without an error
            raise CatchweightError(f"{self}: ONNX Runtime could not start {self.provider} and fell back to {used[0]}")
        return session

    @contextmanager
    def written(self, network: nn.Module | Path, size: tuple[int, int] | None) -> Iterator[Path]:
        with super().written(network, size) as path:
            if self.precision != "fp16":
                yield path
                return
            with tempfile.TemporaryDirectory() as folder:
                yield to_half(path, Path(folder) / "half.onnx")

    def _providers(self) -> list[Provider]:
        return [(CUDA_PROVIDER, {"cudnn_conv_algo_search": "EXHAUSTIVE"}), CPU_PROVIDER]


class TensorRt(OnnxRuntimeCuda):
    """TensorRT through ONNX Runtime's provider; what TensorRT cannot do falls to CUDA kernels.

    The engine is built while the network is prepared, in seconds to minutes. ``fp16`` lets TensorRT choose half
    precision kernels from the float32 file.
    """

    name = "tensorrt:cuda"
    provider = TENSORRT_PROVIDER
    converted = FileTarget.converted
    written = FileTarget.written

    @staticmethod
    def missing() -> str | None:
        if missing := _no_provider(TENSORRT_PROVIDER):
            return missing
        if importlib.util.find_spec("tensorrt") is None and find_library("nvinfer") is None:
            return "TensorRT is not installed (neither package tensorrt nor library nvinfer)"
        return None

    def _providers(self) -> list[Provider]:
        own = {"trt_fp16_enable": self.precision == "fp16", "trt_engine_cache_enable": False}
        return [(TENSORRT_PROVIDER, own), *super()._providers()]


def to_half(path: Path, out: Path) -> Path:
    """Write a file with half weights and activations, its input and output still float32.

    Raises:
        CatchweightError: the file cannot be read or has operators that cannot be converted.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = load_graph(path)
    try:
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:  # the converter raises whatever the graph's oddities lead to
        raise CatchweightError(f"{path} cannot be converted to half precision: {error}") from error
    return save_graph(half, out)


def _no_provider(provider: str) -> str | None:
    here = onnxruntime.get_available_providers()
    if provider not in here:
        return f"this onnxruntime has no {provider} (it has {', '.join(here)}): install onnxruntime-gpu in its place"
    return None if torch.cuda.is_available() else "no NVIDIA GPU is visible to torch"
