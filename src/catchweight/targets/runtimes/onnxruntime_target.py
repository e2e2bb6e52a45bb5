"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ...errors import CatchweightError
from ..clock.memory import file_memory
from ..tracing.graph import check_onnx
from .file_target import FileTarget, not_an_image, run_shape

CPU_PROVIDER = "CPUExecutionProvider"
Provider = str | tuple[str, dict[str, Any]]


def open_session(
    model: Path | bytes, threads: int, providers: Sequence[Provider] = (CPU_PROVIDER,)
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session, by default on the processor, with every graph optimisation.

    Raises:
        CatchweightError: not a model ONNX Runtime can load, or a file whose weights lie outside its folder.
    """
    if isinstance(model, Path):
        check_onnx(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises its own untyped family
        name = source if isinstance(source, str) else "the graph"
        raise CatchweightError(f"{name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error


class OnnxSession:
    """A loaded file with its input and outputs bound once, so that a run allocates nothing of ours.

    ``device`` is that of the buffers: on ``cuda`` a run ends when the GPU is done, without a copy to the host.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        batch: int,
        size: tuple[int, int] | None,
        providers: Sequence[Provider] = (CPU_PROVIDER,),
        device: str = "cpu",
    ) -> None:
        self.session = open_session(path, threads, providers)
        self.runtime = f"onnxruntime {onnxruntime.__version__} {device}"
        self.threads, self.device = threads, device
        shape = run_shape(path, _input_dims(self.session, path), batch, size)
        self.batch = shape[0]
        self._binding = self.session.io_binding()
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(image, device, 0)
        self._binding.bind_ortvalue_input(self.session.get_inputs()[0].name, self._image)
        for output in self.session.get_outputs():
            self._binding.bind_output(output.name, device)

    def run(self) -> None:
        self.session.run_with_iobinding(self._binding)
        if self.device != "cpu":
            self._binding.synchronize_outputs()

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield


class OnnxRuntimeCpu(FileTarget):
    """Exports through ``to_onnx``, runs in ONNX Runtime; the default target.

    ``int8`` is static quantisation good for latency only: see :func:`.quantized.quantize_for_latency`.
    """

    name = "onnxruntime:cpu"
    precisions = ("fp32", "int8")

    @staticmethod
    def missing() -> str | None:
        return None  # onnxruntime is among the package's own requirements

    def version(self) -> str:
        return f"onnxruntime {onnxruntime.__version__}"

    def open(self, path: Path, size: tuple[int, int] | None) -> OnnxSession:
        return OnnxSession(path, self.threads, self.batch, size)

    def file_memory(self, path: Path, size: tuple[int, int] | None) -> int | None:
        """Weights, activations, input and output together, as ONNX Runtime pools them: :func:`.memory.file_memory`."""
        return file_memory(path, size, self.batch, self.threads).total_bytes


def _input_dims(session: onnxruntime.InferenceSession, path: Path) -> list[int | None]:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        raise not_an_image(path, ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs))
    return [length if isinstance(length, int) else None for length in inputs[0].shape]
