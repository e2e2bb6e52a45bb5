"""ONNX Runtime on the processor, watched by its own profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from torch import nn

from ....errors import CatchweightError
from ...clock.rounds import Session
from ...target import Target
from ...tracing.graph import save_graph, traced_graph
from ...tracing.trace import Trace, trace
from .base import NOWHERE, Kernels, Observer, Watched, middle, watched_runs

FILE = "network.onnx"
_KERNEL = "_kernel_time"


class OnnxRuntimeObserver(Observer):
    """Kernels of the optimised graph, whose names lead back to the operators of the trace."""

    def write(
        self, net: nn.Module, size: tuple[int, int], target: Target, folder: Path
    ) -> tuple[Trace, dict[str, str]]:
        traced = trace(net, size, target.batch, exportable=True)
        model, origins = traced_graph(traced.program)
        save_graph(model, folder / FILE)
        return traced, origins

    def kernels(self, target: Target, folder: Path, size: tuple[int, int], owner: Mapping[str, int]) -> Kernels:
        return file_kernels(target, folder / FILE, owner)

    def whole(
        self, target: Target, folder: Path, size: tuple[int, int], build: Callable[[], nn.Module] | None
    ) -> Session:
        return target.prepare(folder / FILE, size)


def file_kernels(target: Target, path: Path, owner: Mapping[str, int]) -> Kernels:
    """ONNX Runtime's own profiler names every kernel after the node it was made from.

    A kernel that the runtime put in by itself (a change of memory layout) goes to the block whose result it
    rearranges, or, when it prepares an input, to the block that reads it.

    Args:
        owner: the block of every node and result of the file.

    Raises:
        CatchweightError: the file cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own untyped family
        raise CatchweightError(f"ONNX Runtime cannot load the network ({str(error).splitlines()[0]})") from error
    entry = session.get_inputs()[0]
    image = {entry.name: np.random.default_rng(0).standard_normal(entry.shape, dtype=np.float32)}
    scales, disturbed = watched_runs(Watched(lambda: session.run(None, image), target.threads))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    places = _Places(onnx.load(options.optimized_model_filepath, load_external_data=False), owner)
    times = [(places.of(kernel), ms) for kernel, ms in _kernel_times(events, scales).items()]
    return Kernels(times, disturbed)


def _kernel_times(events: Sequence[Mapping[str, Any]], scales: Mapping[int, float]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[event["name"].removesuffix(_KERNEL)].append(event["dur"] / 1000)
    return {
        name: middle([durations[run] * scale for run, scale in scales.items()]) for name, durations in found.items()
    }


class _Places:
    """Finds the block to which a kernel of the optimised graph belongs."""

    def __init__(self, optimised: onnx.ModelProto, owner: Mapping[str, int]) -> None:
        self.owner = owner
        self.nodes = {node.name: node for node in optimised.graph.node}
        self.makers = {result: node for node in optimised.graph.node for result in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in optimised.graph.node:
            for source in node.input:
                self.readers[source].append(node)

    def of(self, kernel: str) -> int:
        """Number of the block, or -1 if there is none."""
        node = self.nodes.get(kernel)
        known = self._named(kernel, node)
        if known is not None or node is None:
            return NOWHERE if known is None else known
        makers = [self.makers[source] for source in node.input if source in self.makers]
        readers = [reader for result in node.output for reader in self.readers[result]]
        around = readers + makers if node.op_type == "ReorderInput" else makers + readers
        near = (self._named(other.name, other) for other in around)
        return next((place for place in near if place is not None), NOWHERE)

    def _named(self, kernel: str, node: onnx.NodeProto | None) -> int | None:
        names = (kernel, kernel.removesuffix("_nchwc"), *(node.output if node is not None else ()))
        return next((self.owner[name] for name in names if name in self.owner), None)
