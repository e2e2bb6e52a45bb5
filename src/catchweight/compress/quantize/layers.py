"""The layers of a graph that can go back to float, what belongs to them, and what int8 saves in each."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from ...targets.latency.observers.onnx_runtime import file_kernels
from ...targets.runtimes.onnxruntime_target import OnnxRuntimeCpu
from ...targets.runtimes.quantized import always_float
from ...targets.target import Target
from ...targets.tracing.graph import MODULE_KEY, save_graph
from ...targets.tracing.wiring import Wiring

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")
"""A quantised layer computes them for free: its range ends where theirs does."""
OUTPUT = "output"
"""The pseudo-layer of what follows the last weights: sums of heads, and so on."""

_MADE_BY_RUNTIME = re.compile(r"(_nchwc|_token_\d+|_quant)$")
_QUANTISED = ("_QuantizeLinear", "_DequantizeLinear", "_QuantizeLinear_Output", "_DequantizeLinear_Output", "_scale")


@dataclass(frozen=True)
class Layers:
    """A prepared graph cut into layers: a node with weights, the activation behind it, and what only feeds it.

    Attributes:
        weighted: for each layer its node with weights; names of layers in order of computation.
        activations: for each layer the activation nodes that end it.
        readers: for every other node the layers that its result reaches before the next weights.
    """

    weighted: Mapping[str, str]
    activations: Mapping[str, tuple[str, ...]]
    readers: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Layers:
        wiring = Wiring(model.graph)
        weighted: dict[str, str] = {}
        activations: dict[str, tuple[str, ...]] = {}
        for node in model.graph.node:
            if node.op_type in WEIGHTED:
                name = _unique(_layer_name(node, wiring), weighted)
                weighted[name] = node.name
                activations[name] = tuple(_activations(node, wiring))
        taken = {node for nodes in activations.values() for node in nodes}
        return cls(weighted, activations, _reached(model.graph, wiring, weighted, taken))

    @property
    def names(self) -> tuple[str, ...]:
        """Every layer that may be left float, ``OUTPUT`` last where there is something in it."""
        ends = any(OUTPUT in reached for reached in self.readers.values())
        return (*self.weighted, *((OUTPUT,) if ends else ()))

    def nodes(self, left_float: Collection[str]) -> set[str]:
        """Names of the nodes that are computed in float when these layers are.

        What stands between layers (sums, concatenations, resizes, pooling) is float when everything that reads it is.
        """
        own = {self.weighted[name] for name in left_float if name in self.weighted}
        ends = {node for name in left_float for node in self.activations.get(name, ())}
        between = {node for node, reached in self.readers.items() if reached and reached <= set(left_float)}
        return own | ends | between

    def owners(self) -> dict[str, str]:
        """Every node's name and its layer; what several layers read counts for the first of them."""
        order = {name: place for place, name in enumerate((*self.weighted, OUTPUT))}
        found = {node: name for name, node in self.weighted.items()}
        found |= {node: name for name, nodes in self.activations.items() for node in nodes}
        return found | {node: min(reached, key=order.__getitem__) for node, reached in self.readers.items() if reached}


def milliseconds(
    target: Target, model: onnx.ModelProto, layers: Layers, owner_graph: onnx.ModelProto
) -> dict[str, float]:
    """Time of each layer inside the whole network, from the runtime's own profile; {} where it has none.

    Args:
        model: the graph to run, float or int8.
        owner_graph: the prepared float graph, whose names the layers know.
    """
    if not isinstance(target, OnnxRuntimeCpu):
        return {}
    names = list(layers.names)
    owners = _Owners(owner_graph, {node: names.index(layer) for node, layer in layers.owners().items()})
    with tempfile.TemporaryDirectory() as folder:
        seen = file_kernels(target, save_graph(model, Path(folder) / "network.onnx"), owners)
    spent = dict.fromkeys(names, 0.0)
    for place, ms in seen.times:
        if place >= 0:
            spent[names[place]] += ms
    return spent


class _Owners(Mapping[str, int]):
    """Which layer a kernel belongs to, by the names that runtime and quantiser make from a node's or tensor's."""

    def __init__(self, model: onnx.ModelProto, of_nodes: Mapping[str, int]) -> None:
        self._known = dict(of_nodes)
        for node in model.graph.node:
            if node.name in of_nodes:
                self._known |= dict.fromkeys(node.output, of_nodes[node.name])

    def __getitem__(self, name: str) -> int:
        while name not in self._known:
            shorter = _MADE_BY_RUNTIME.sub("", name)
            shorter = next((shorter.removesuffix(end) for end in _QUANTISED if shorter.endswith(end)), shorter)
            if shorter == name:
                raise KeyError(name)
            name = shorter
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _layer_name(node: onnx.NodeProto, wiring: Wiring) -> str:
    """The module that owns the weights, where their name tells it; else the module or name of the node."""
    weight = node.input[1]
    if weight in wiring.constants and weight.endswith(".weight"):
        return str(weight.removesuffix(".weight"))
    module = next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
    return module or node.name


def _unique(name: str, taken: Collection[str]) -> str:
    number = 2
    found = name
    while found in taken or found == OUTPUT:
        found, number = f"{name}#{number}", number + 1
    return found


def _activations(node: onnx.NodeProto, wiring: Wiring) -> Iterator[str]:
    reader = wiring.sole_reader(node.output[0])
    if reader is not None and reader.op_type in ACTIVATIONS:
        yield reader.name


def _reached(
    graph: onnx.GraphProto, wiring: Wiring, weighted: Mapping[str, str], taken: Collection[str]
) -> dict[str, frozenset[str]]:
    """Walk backwards: a node reaches the layers that read it, and what its other readers reach."""
    layer_of = {node: name for name, node in weighted.items()}
    found: dict[str, frozenset[str]] = {}
    for node in reversed(graph.node):
        reached: set[str] = set()
        for output in node.output:
            if output in wiring.outputs:
                reached.add(OUTPUT)
            for reader in wiring.readers[output]:
                reached |= {layer_of[reader.name]} if reader.name in layer_of else found[reader.name]
        found[node.name] = frozenset(reached)
    apart = {*layer_of, *taken, *always_float(graph)}
    return {name: reached for name, reached in found.items() if name not in apart}
