"""Kernels of an ONNX file as ONNX Runtime runs them: time, multiply-adds and bytes of each, by its own profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime

from ...errors import CatchweightError
from ..runtimes.file_target import run_shape
from ..tracing.graph import MODULE_KEY, check_onnx, fixed_input
from .roofline import Piece

RUNS, WARM = 30, 5
_KERNEL = "_kernel_time"
_WEIGHT = {"Conv": 1, "FusedConv": 1, "ConvTranspose": 1, "ConvInteger": 1, "NhwcFusedConv": 1, "QLinearConv": 3}
_PRODUCTS = {"Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul"}
UNKNOWN = {
    "Attention", "MultiHeadAttention", "QAttention", "Einsum", "LSTM", "GRU", "RNN", "DeformConv", "If", "Loop", "Scan",
    "MatMulNBits", "QGemm",
}  # fmt: skip
"""Kernels that compute much, and that nobody here counts."""


def profile_kernels(
    path: Path, size: tuple[int, int] | None = None, batch: int = 1, threads: int = 1, runs: int = RUNS
) -> tuple[list[Piece], tuple[str, ...]]:
    """Run a file under ONNX Runtime's profiler on the processor.

    A piece is one kernel after the runtime's fusion, named by the module it comes from where the file tells it. Its
    multiply-adds are those executed: channels that the runtime fills up to whole blocks are counted. Bytes are
    inputs, weights and results, each moved once.

    Args:
        size, batch: (H, W) and images a run, for files that leave them free.

    Returns:
        The pieces in order of execution, and the kinds of kernels whose arithmetic is not counted.

    Raises:
        CatchweightError: the file cannot be loaded or run.
        UsageError: the file is for another size, or takes any and none was named.
    """
    check_onnx(path)
    fixed_batch, fixed_size = fixed_input(path)
    shape = run_shape(path, (fixed_batch, 3, *(fixed_size or (None, None))), batch, size)
    events = _events(path, shape, threads, runs)
    modules = _modules(path)
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[event["name"].removesuffix(_KERNEL)].append(event)
    pieces = [_piece(name, calls, modules) for name, calls in found.items()]
    return pieces, tuple(sorted({piece.kind for piece in pieces} & UNKNOWN))


def kernel_macs(kind: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int:
    """Multiply-adds of one kernel from its shapes; 0 of what the field does not count."""
    if kind in _WEIGHT and len(inputs) > _WEIGHT[kind]:
        outer = inputs[0] if kind == "ConvTranspose" else output
        return prod(outer) * prod(inputs[_WEIGHT[kind]][1:])
    if kind in _PRODUCTS and output:
        # The inner length, whichever way the left factor lies.
        return prod(output) * (prod(inputs[0]) // max(prod(output[:-1]), 1))
    return 0


def _events(path: Path, shape: Sequence[int], threads: int, runs: int) -> list[Mapping[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            image = np.random.default_rng(0).standard_normal(tuple(shape), dtype=np.float32)
            for _ in range(WARM + runs):
                session.run(None, {session.get_inputs()[0].name: image})
        except Exception as error:  # onnxruntime raises its own untyped family
            raise CatchweightError(f"{path}: ONNX Runtime cannot run it ({str(error).splitlines()[0]})") from error
        events: list[Mapping[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return events


def _piece(name: str, calls: Sequence[Mapping[str, Any]], modules: Mapping[str, str]) -> Piece:
    facts = calls[0]["args"]
    kind = facts["op_name"]
    inputs, outputs = _shapes(facts["input_type_shape"]), _shapes(facts["output_type_shape"])
    moved = sum(int(facts[key]) for key in ("activation_size", "parameter_size", "output_size"))
    macs = kernel_macs(kind, inputs, outputs[0]) if outputs else 0
    ms = median(call["dur"] for call in calls[WARM:]) / 1000
    return Piece(modules.get(name.split("/")[0].removesuffix("_nchwc"), name), kind, macs, moved, ms)


def _shapes(entries: Sequence[Mapping[str, Sequence[int]]]) -> list[Sequence[int]]:
    """The profiler writes ``{"float": [1, 3, 180, 240]}``."""
    return [shape for entry in entries for shape in entry.values()]


def _modules(path: Path) -> dict[str, str]:
    """Module of every node by its name and by its results' (a fused kernel is named after its last result)."""
    found: dict[str, str] = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        module = next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
        if module:
            found |= dict.fromkeys((node.name, *node.output), module)
    return found
