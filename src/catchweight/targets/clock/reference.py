"""The reference kernel: a small fixed piece of work that tells the machine's speed while networks are measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

_CHANNELS, _SIDE, _LAYERS = 32, 56, 6
_MATRIX = 2048


class CpuReference:
    """Six 3x3 convolutions with ReLU on a fixed (1, 32, 56, 56) image, in ONNX Runtime; about 1 ms on two cores.

    Its worker threads stop spinning when a run ends, so that the session whose turn is next is not disturbed.
    """

    batch = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.runtime = f"reference kernel, onnxruntime {onnxruntime.__version__} cpu"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        graph = reference_graph().SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        image = np.random.default_rng(0).standard_normal((1, _CHANNELS, _SIDE, _SIDE), dtype=np.float32)
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(image)
        self._binding.bind_ortvalue_input("x0", self._image)
        self._binding.bind_output(f"x{_LAYERS}")

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield


class CudaReference:
    """One product of two fixed 2048 x 2048 matrices in float32 on the GPU, timed by the device's own events."""

    batch = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.runtime = f"reference kernel, torch {torch.__version__} cuda"
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(_MATRIX, _MATRIX, generator=generator).cuda()
        self._out = torch.empty_like(self._matrix)

    def run(self) -> None:
        torch.matmul(self._matrix, self._matrix, out=self._out)
        torch.cuda.synchronize()

    def timed_run(self) -> float:
        """Seconds of one run between two events on the device."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.matmul(self._matrix, self._matrix, out=self._out)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    @contextmanager
    def ready(self) -> Iterator[None]:
        with torch.inference_mode():
            yield


@functools.lru_cache(maxsize=8)
def reference(device: str, threads: int) -> CpuReference | CudaReference:
    """The kernel for a device, ``cpu`` or ``cuda``, with the threads of the networks it stands beside."""
    return CudaReference(threads) if device.startswith("cuda") else CpuReference(threads)


def reference_graph() -> onnx.ModelProto:
    """The processor's kernel as ONNX: the same graph and weights everywhere, 173 M multiply-adds."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(_LAYERS):
        weight = rng.standard_normal((_CHANNELS, _CHANNELS, 3, 3), dtype=np.float32) / 17  # keeps the variance near 1
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]))
    shape = (1, _CHANNELS, _SIDE, _SIDE)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", f"x{_LAYERS}")]
    graph = helper.make_graph(nodes, "reference", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
