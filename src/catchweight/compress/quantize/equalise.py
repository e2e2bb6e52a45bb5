"""Cross-layer equalisation: channels of neighbouring layers brought to equal ranges without changing the function.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1. A
ReLU (or nothing) between two layers lets a positive factor through: dividing output channel i of the first by s_i and
multiplying input channel i of the second by it leaves the network's function as it is. With
s_i = sqrt(r1_i * r2_i) / r2_i both channels have the range sqrt(r1_i * r2_i), which lets one scale serve all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ...targets.tracing.wiring import Wiring, replace_constant

SWEEPS = 50
SETTLED = 1e-3
"""Sweeps over all pairs end when no factor differs from 1 by more than this, or after ``SWEEPS``."""


@dataclass(frozen=True)
class Pair:
    """Two convolutions of which the second reads nothing but the first.

    Attributes:
        first, second: names of their nodes.
        limit: the node of a ReLU6 (``Clip`` from 0) between them, or None: a ReLU or nothing, through which any
            factor passes.
    """

    first: str
    second: str
    limit: str | None = None


def find_pairs(model: onnx.ModelProto) -> list[Pair]:
    """Every pair of convolutions that a factor can move between, in order of computation.

    The second may be depthwise, grouped or dense. Weights that several nodes share are left alone.
    """
    wiring = Wiring(model.graph)
    found = []
    for node in model.graph.node:
        if _own_weights(node, wiring):
            second, limit = _behind(node, wiring)
            if second is not None:
                found.append(Pair(node.name, second.name, limit.name if limit is not None else None))
    return found


def equalised(model: onnx.ModelProto, pairs: Sequence[Pair]) -> onnx.ModelProto:
    """A copy with the channels of ``pairs`` equalised.

    ReLU6 between two layers of a pair becomes ReLU, as in the paper: there, and only there, is the function another
    one, for values beyond the limit. Channels that are zero in either layer stay as they are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wiring = Wiring(copy.graph)
    nodes = {node.name: node for node in copy.graph.node}
    weights = _Weights(wiring)
    for _ in range(SWEEPS):
        change = max((weights.balance(nodes[pair.first], nodes[pair.second]) for pair in pairs), default=0.0)
        if change <= SETTLED:
            break
    weights.write(copy.graph)
    for pair in pairs:
        if pair.limit is not None:
            _make_relu(nodes[pair.limit])
    return copy


class _Weights:
    """The weights and biases that change, as arrays in double precision until they are written back."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.values: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            values = self.wiring.array(name)
            assert values is not None, "find_pairs takes constants only"
            self.values[name] = values.astype(np.float64)
        return self.values[name]

    def balance(self, first: onnx.NodeProto, second: onnx.NodeProto) -> float:
        """Equalise one pair; how far its factors were from 1, at most."""
        weight, then = self[first.input[1]], self[second.input[1]]
        own, others = np.abs(weight).max(axis=(1, 2, 3)), _input_ranges(then, len(weight))
        alive = (own > 0) & (others > 0)
        factor = np.where(alive, np.sqrt(own * others) / np.where(others > 0, others, 1.0), 1.0)
        self.values[first.input[1]] = weight / factor[:, None, None, None]
        if len(first.input) > 2 and first.input[2]:
            self.values[first.input[2]] = self[first.input[2]] / factor
        self.values[second.input[1]] = then * _on_inputs(factor, then)
        return float(np.abs(factor - 1).max())

    def write(self, graph: onnx.GraphProto) -> None:
        for name, values in self.values.items():
            replace_constant(graph, name, values)


def _input_ranges(weight: np.ndarray, channels: int) -> np.ndarray:
    """Largest |weight| on each of the input channels: (O, C / groups, k, k) -> (C,)."""
    groups = channels // weight.shape[1]
    by_group = np.abs(weight).max(axis=(2, 3)).reshape(groups, len(weight) // groups, weight.shape[1])
    return np.asarray(by_group.max(axis=1).reshape(channels))


def _on_inputs(factor: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(C,) factors of input channels, shaped to multiply a weight (O, C / groups, k, k)."""
    groups = len(factor) // weight.shape[1]
    rows = np.repeat(factor.reshape(groups, weight.shape[1]), len(weight) // groups, axis=0)
    return rows[:, :, None, None]


def _own_weights(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether a node is a 2-d convolution with constant weights that no other node reads."""
    if node.op_type != "Conv":
        return False
    constants = [name for name in node.input[1:] if name]
    shape = wiring.constants.get(node.input[1])
    if shape is None or len(shape.dims) != 4:
        return False
    return all(name in wiring.constants and len(wiring.readers[name]) == 1 for name in constants)


def _behind(node: onnx.NodeProto, wiring: Wiring) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
    """The convolution that alone reads this one's result, through an activation at most; and the ReLU6 on the way."""
    limit = None
    reader = wiring.sole_reader(node.output[0])
    if reader is not None and _lets_factors_through(reader, wiring):
        limit = reader if reader.op_type == "Clip" else None
        reader = wiring.sole_reader(reader.output[0])
    if reader is None or not _own_weights(reader, wiring):
        return None, None
    return reader, limit


def _lets_factors_through(node: onnx.NodeProto, wiring: Wiring) -> bool:
    if node.op_type == "Clip":
        return len(node.input) > 1 and wiring.scalar(node.input[1]) == 0
    return node.op_type == "Relu"


def _make_relu(node: onnx.NodeProto) -> None:
    node.op_type = "Relu"
    del node.input[1:]


def unlimited(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The pairs without a ReLU6: equalising them changes nothing but rounding."""
    return (pair for pair in pairs if pair.limit is None)
