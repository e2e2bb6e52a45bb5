"""Reference kernels: small fixed pieces of work that tell the machine's condition while networks are measured.

Two are needed. A few dense convolutions tell how fast the cores compute. A long row of tiny ones tells what it costs
two threads to wait for each other at every kernel: on a virtual machine that changes by a factor of two and more for
ten seconds at a time, while dense work hardly slows down (``benchmarks/machine_states.py`` shows it).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

_CHANNELS, _SIDE, _LAYERS = 32, 56, 6
_TINY_SIDE, _TINY_LAYERS = 14, 80
_MATRIX = 2048


class CpuReference:
    """A fixed graph from (1, C, H, W) to the same, in ONNX Runtime.

    Its worker threads stop spinning when a run ends, so that the session whose turn is next is not disturbed.

    Args:
        name: of the kernel, for what is kept of it.
        model: see :func:`reference_graph` and :func:`handover_graph`.
    """

    batch = 1

    def __init__(self, threads: int, name: str, model: onnx.ModelProto) -> None:
        self.threads = threads
        self.runtime = f"{name}, onnxruntime {onnxruntime.__version__} cpu"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()
        (entry,), (result,) = self._session.get_inputs(), self._session.get_outputs()
        image = np.random.default_rng(0).standard_normal(entry.shape, dtype=np.float32)
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(image)
        self._binding.bind_ortvalue_input(entry.name, self._image)
        self._binding.bind_output(result.name)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield


class CudaReference:
    """One product of two fixed 2048 x 2048 matrices in float32 on the current GPU, timed by the device's own events."""

    batch = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # The pace is remembered by this text and the processor's name: GPUs beside one processor differ.
        self.runtime = f"reference kernel, torch {torch.__version__} cuda, {torch.cuda.get_device_name()}"
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


Kernel = CpuReference | CudaReference


def references(device: str, threads: int) -> tuple[Kernel, ...]:
    """The kernels for a device, ``cpu`` or the current GPU for ``cuda``, with the threads of the networks beside them.

    The first one is what ratios are told of; all of them tell whether the machine is itself.
    """
    return _kernels(torch.cuda.current_device() if device.startswith("cuda") else None, threads)


@functools.lru_cache(maxsize=8)
def _kernels(gpu: int | None, threads: int) -> tuple[Kernel, ...]:
    """Made once for each place; ``gpu`` is the current one's number, None the processor."""
    if gpu is not None:
        return (CudaReference(threads),)
    dense = CpuReference(threads, "reference kernel", reference_graph())
    if threads == 1:  # nobody to wait for
        return (dense,)
    return dense, CpuReference(threads, "row of tiny kernels", handover_graph())


def reference_graph() -> onnx.ModelProto:
    """Six 3x3 convolutions with ReLU on (1, 32, 56, 56): 173 M multiply-adds, about 1 ms on two cores."""
    return _convolutions("reference", _SIDE, [(3, 1)] * _LAYERS)


def handover_graph() -> onnx.ModelProto:
    """Eighty convolutions with ReLU on (1, 32, 14, 14), pointwise and depthwise in turns, 4 microseconds each."""
    return _convolutions("handover", _TINY_SIDE, [(1, 1), (3, _CHANNELS)] * (_TINY_LAYERS // 2))


def _convolutions(name: str, side: int, layers: Sequence[tuple[int, int]]) -> onnx.ModelProto:
    """Convolutions with ReLU that keep 32 channels, each (kernel size, groups): the same weights everywhere."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer, (kernel, groups) in enumerate(layers):
        inner = _CHANNELS // groups
        weight = rng.standard_normal((_CHANNELS, inner, kernel, kernel), dtype=np.float32)
        weight *= np.float32((2 / (inner * kernel**2)) ** 0.5)  # He: the variance stays near 1
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(
            helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"y{layer}"], pads=[kernel // 2] * 4, group=groups)
        )
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]))
    shape = (1, _CHANNELS, side, side)
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("x0", f"x{len(layers)}")]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
