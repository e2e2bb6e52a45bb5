"""Small tools on ONNX graphs: who makes and reads a tensor, constants as arrays, what nothing reads any more."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import numpy_helper


class Wiring:
    """Who makes and who reads every tensor of a graph, and its constants. A snapshot: make it anew after changes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {output: node for node in graph.node for output in node.output if output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for source in node.input:
                self.readers[source].append(node)
        self.outputs = {output.name for output in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def array(self, name: str) -> np.ndarray | None:
        """A constant's values, or None when ``name`` is computed or absent."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element, else None."""
        values = self.array(name)
        return float(values.reshape(())) if values is not None and values.size == 1 else None

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None when there are others, or when it is a result of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def replace_constant(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    """Give the constant ``name`` other values, in its own type; KeyError when there is none."""
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(numpy_helper.to_array(tensor).dtype), name))
            return
    raise KeyError(name)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads any more; nodes must be in order of computation."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed.update(node.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    del graph.initializer[:]
    graph.initializer.extend(copies)
