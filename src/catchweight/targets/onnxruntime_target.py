"""ONNX Runtime on the processor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from torch import nn

from ..budget import Cost
from ..errors import CatchweightError, UsageError
from .graph import check_onnx, to_onnx
from .target import Target


def open_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the processor with every graph optimisation.

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
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own untyped family
        name = source if isinstance(source, str) else "the graph"
        raise CatchweightError(f"{name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error


class OnnxSession:
    """A loaded file with its input and outputs bound once, so that a run allocates nothing of ours."""

    def __init__(self, path: Path, threads: int, batch: int, size: tuple[int, int] | None) -> None:
        self.session = open_session(path, threads)
        self.runtime = f"onnxruntime {onnxruntime.__version__} cpu"
        self.threads = threads
        shape = _input_shape(self.session, path, batch, size)
        self.batch = shape[0]
        self._binding = self.session.io_binding()
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(image)
        self._binding.bind_ortvalue_input(self.session.get_inputs()[0].name, self._image)
        for output in self.session.get_outputs():
            self._binding.bind_output(output.name)

    def run(self) -> None:
        self.session.run_with_iobinding(self._binding)

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield


class OnnxRuntimeCpu(Target):
    """Exports through ``to_onnx``, runs in ONNX Runtime; the default target."""

    name = "onnxruntime:cpu"

    @staticmethod
    def missing() -> str | None:
        return None  # onnxruntime is among the package's own requirements

    def version(self) -> str:
        return f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, network: nn.Module | Path, size: tuple[int, int] | None = None) -> OnnxSession:
        if isinstance(network, (str, Path)):
            return OnnxSession(Path(network), self.threads, self.batch, size)
        if size is None:
            raise UsageError(f"{self}: give the size (H, W) to export {type(network).__name__} for")
        with tempfile.TemporaryDirectory() as folder:
            path = to_onnx(network, Path(folder) / "network.onnx", size, self.batch)
            return OnnxSession(path, self.threads, self.batch, size)

    def cost(self, net: nn.Module, size: tuple[int, int], exported: Path | None = None, seconds: float = 5.0) -> Cost:
        if exported is not None:
            return super().cost(net, size, exported, seconds)
        with tempfile.TemporaryDirectory() as folder:
            path = to_onnx(net, Path(folder) / "network.onnx", size, self.batch)
            return super().cost(net, size, path, seconds)


def _input_shape(
    session: onnxruntime.InferenceSession, path: Path, batch: int, size: tuple[int, int] | None
) -> tuple[int, ...]:
    """The shape to run with: what the file fixes, and what was asked where it is free."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        raise CatchweightError(f"{path}: expected one float image input (B, 3, H, W), but it has {found}")
    wanted = (batch, 3, *(size or (None, None)))
    shape: list[int] = []
    for axis, (has, want) in enumerate(zip(inputs[0].shape, wanted, strict=True)):
        fixed = isinstance(has, int)
        if fixed and want is not None and has != want:
            raise UsageError(f"{path} is for input {inputs[0].shape}, but {wanted} was asked: export it again")
        if not fixed and want is None:
            raise UsageError(f"{path} takes any size (axis {axis} is free): give the size (H, W) to measure at")
        shape.append(has if fixed else want)
    return tuple(shape)
