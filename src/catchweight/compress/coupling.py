"""Which channels of which layers must go together, read from Torch-Pruning's dependency graph.

DepGraph (Fang et al., CVPR 2023) records the graph of a forward pass and knows how channel numbers change through
concatenations, splits and flattening. Its edges are walked here channel by channel, and channels that an edge maps to
each other are united. Three things it leaves open are added: the channels of one group of a grouped convolution or of a
group norm belong together, and so do the channels at the same place of equal chunks, since the code that cuts into
chunks would otherwise cut elsewhere.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .channels import Slice

Element = tuple[int, str, int]
"""Number of a node, side ("in" or "out"), and index of the channel there."""

Outputs = Callable[[nn.Module, Tensor], list[Tensor]]
"""Everything that a network can be asked for, also what only training asks: it is what must stay whole."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Unit:
    """Channels that go together: for every tensor dimension their indices, ascending."""

    slices: dict[Slice, tuple[int, ...]]
    makers: tuple[str, ...]
    """Convolutions and linear layers that compute them, in the network's order."""
    frozen: str
    """Why they must stay; empty when they need not."""


def coupled(net: nn.Module, example: Tensor, outputs: Outputs, channelwise: frozenset[str] = frozenset()) -> list[Unit]:
    """All channels of ``net`` in units that can only go together.

    Args:
        net: stays as it is; the graph is made of a copy in evaluation mode.
        example: a small input (B, 3, H, W).
        outputs: runs the network.
        channelwise: parameters outside layers that hold one value a channel (a layer scale). Others outside layers
            (fusion weights) are kept out of the graph.

    Raises:
        Exception: whatever the network's own forward raises.
    """
    subject = copy.deepcopy(net).eval().requires_grad_(True)
    in_layers = {id(p) for layer in subject.modules() if isinstance(layer, _LAYERS) for p in layer.parameters(False)}
    for name, parameter in subject.named_parameters():
        parameter.requires_grad_(id(parameter) in in_layers or name in channelwise)
    graph = tp.DependencyGraph().build_dependency(subject, example, forward_fn=_wrapped(outputs), verbose=False)
    return _Walk(graph, subject).units()


def _wrapped(outputs: Outputs) -> Callable[[nn.Module, Tensor], list[Tensor]]:
    """A last operator behind each output, so that the graph's end is never a layer."""
    return lambda net, x: [y * 1.0 for y in outputs(net, x) if y.requires_grad]


class _Walk:
    """One pass over the graph's edges with every channel, uniting what they map to each other."""

    def __init__(self, graph: Any, net: nn.Module) -> None:
        self.graph = graph
        self.nodes = list(graph.module2node.values())
        self.number = {id(node): place for place, node in enumerate(self.nodes)}
        self.names = {module: name for name, module in net.named_modules()}
        self.parameters = {id(parameter): name for name, parameter in net.named_parameters()}
        self.sets = Union()
        self.why: dict[Element, str] = {}

    def units(self) -> list[Unit]:
        self._walk()
        for node in self.nodes:
            self._tie(node)
        members: dict[Element, dict[Slice, set[int]]] = defaultdict(lambda: defaultdict(set))
        makers: dict[Element, set[str]] = defaultdict(set)
        for node in self.nodes:
            if isinstance(node.module, (_ConvNd, nn.Linear)):
                for channel in range(self._width(node, "out") or 0):
                    makers[self.sets.root((self.number[id(node)], "out", channel))].add(self.names[node.module])
            for side in ("out", "in"):
                for name, dim, count in self._slices(node, side):
                    for channel in range(count):
                        root = self.sets.root((self.number[id(node)], side, channel))
                        members[root][name, dim].add(channel)
        order = {name: place for place, name in enumerate(self.names.values())}
        reasons = self._reasons()
        return [
            Unit(
                {key: tuple(sorted(found)) for key, found in slices.items()},
                tuple(sorted(makers[root], key=order.__getitem__)),
                reasons.get(root, ""),
            )
            for root, slices in members.items()
        ]

    def _walk(self) -> None:
        pending: list[tuple[Any, Any, Sequence[int]]] = []
        seen: dict[tuple[int, str], set[int]] = defaultdict(set)
        for node in self.nodes:
            pruner = self.graph.get_pruner_of_module(node.module)
            for side, fn in (("out", pruner.prune_out_channels), ("in", pruner.prune_in_channels)):
                width = self._width(node, side)
                if width is not None:
                    seen[self.number[id(node)], self._side(node, fn)].update(range(width))
                    pending.append((node, fn, range(width)))
        while pending:
            node, fn, channels = pending.pop()
            for edge in node.dependencies:
                if edge.is_triggered_by(fn):
                    fresh = self._follow(node, fn, edge, channels, seen)
                    if fresh:
                        pending.append((edge.target, edge.handler, fresh))

    def _follow(
        self, node: Any, fn: Any, edge: Any, channels: Sequence[int], seen: dict[tuple[int, str], set[int]]
    ) -> list[int]:
        """Unite along one edge; the channels at its end that had not been met."""
        here = (self.number[id(node)], self._side(node, fn))
        there = (self.number[id(edge.target)], self._side(edge.target, edge.handler))
        width = self._width(edge.target, there[1])
        fresh = []
        try:
            pairs = list(_mapped(edge, channels))
        except (IndexError, TypeError, AttributeError):  # Torch-Pruning lost count, e.g. of a chunk that is read twice
            for channel in channels:
                self._freeze((*here, channel), "a split that Torch-Pruning cannot follow")
            return []
        for source, target in pairs:
            if source is None or target < 0 or (width is not None and target >= width):
                self._freeze((*here, channels[0] if source is None else source), "channel numbers that do not fit")
                continue
            self.sets.unite((*here, source), (*there, target))
            if target not in seen[there]:
                seen[there].add(target)
                fresh.append(target)
        if edge.target.type == tp.ops.OPTYPE.OUTPUT:
            for _, target in pairs:
                self._freeze((*there, target), "part of the network's output")
        return fresh

    def _side(self, node: Any, fn: Any) -> str:
        return "out" if fn == self.graph.get_pruner_of_module(node.module).prune_out_channels else "in"

    def _width(self, node: Any, side: str) -> int | None:
        """Channels of a layer at one side; None of an operator, which knows no number."""
        if isinstance(node.module, nn.Parameter):
            return int(node.module.shape[node.pruning_dim])
        if not isinstance(node.module, _LAYERS):
            return None
        count = self.graph.get_out_channels(node) if side == "out" else self.graph.get_in_channels(node)
        return None if count is None else int(count)

    def _tie(self, node: Any) -> None:
        """What the graph does not say of itself."""
        layer, here = node.module, self.number[id(node)]
        if isinstance(layer, (_ConvNd, nn.Linear)) and not _plain(layer):
            self._freeze_all(node, "its weights are computed from others")
        if isinstance(layer, _ConvNd) and layer.groups > 1:
            self._tie_groups(node, layer)
        if isinstance(layer, nn.GroupNorm):
            each = layer.num_channels // layer.num_groups
            for channel in range(layer.num_channels):
                self.sets.unite((here, "out", channel), (here, "out", channel - channel % each))
        chunk = _chunk_length(node)
        if chunk:
            for channel in list(self.sets.channels(here, "out")):
                self.sets.unite((here, "out", channel), (here, "out", channel % chunk))
        if not isinstance(layer, (*_KNOWN, nn.Parameter)) and isinstance(layer, _LAYERS):
            for channel in list(self.sets.channels(here, "out")):
                self._freeze((here, "out", channel), f"{type(layer).__name__} layers are not pruned")

    def _tie_groups(self, node: Any, layer: Any) -> None:
        """A group of a convolution goes as a whole, with all that it reads: groups keep their own width."""
        here = self.number[id(node)]
        one_side = self._side(node, self.graph.get_pruner_of_module(layer).prune_in_channels) == "out"
        if isinstance(layer, _ConvTransposeNd) or (one_side and layer.in_channels != layer.out_channels):
            for channel in {*self.sets.channels(here, "out"), *range(layer.out_channels)}:
                self._freeze((here, "out", channel), "a grouped convolution of a kind that is not pruned")
            return
        for side, count in (("out", layer.out_channels), ("in", layer.in_channels)):
            each = count // layer.groups
            for channel in range(count):
                place = (here, "out" if one_side else side, channel)
                self.sets.unite(place, (here, "out", channel // each * (layer.out_channels // layer.groups)))

    def _freeze_all(self, node: Any, why: str) -> None:
        for side in ("out", "in"):
            for channel in range(self._width(node, side) or 0):
                self._freeze((self.number[id(node)], side, channel), why)

    def _freeze(self, element: Element, why: str) -> None:
        self.why.setdefault(element, why)

    def _reasons(self) -> dict[Element, str]:
        found: dict[Element, str] = {}
        for element, why in self.why.items():
            found.setdefault(self.sets.root(element), why)
        return found

    def _slices(self, node: Any, side: str) -> Iterator[tuple[str, int, int]]:
        """The tensor dimensions that one side of a layer counts, with their lengths."""
        layer = node.module
        if isinstance(layer, nn.Parameter):
            if side == "out":
                dim = range(layer.dim())[node.pruning_dim]
                yield self.parameters[id(layer)], dim, layer.shape[dim]
            return
        if not isinstance(layer, _KNOWN):
            return
        prefix = f"{self.names[layer]}." if self.names[layer] else ""
        weight_out, weight_in = (1, 0) if isinstance(layer, _ConvTransposeNd) else (0, 1)
        if side == "in":
            if isinstance(layer, (_ConvNd, nn.Linear)) and _plain(layer) and getattr(layer, "groups", 1) == 1:
                yield f"{prefix}weight", weight_in, layer.weight.shape[weight_in]
            return
        count = int(self.graph.get_out_channels(node) or 0)
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            dim = weight_out if name == "weight" and isinstance(layer, (_ConvNd, nn.Linear)) else 0
            if tensor.dim() > dim and tensor.shape[dim] == count and name not in layer._non_persistent_buffers_set:
                yield f"{prefix}{name}", dim, count


class Union:
    """Disjoint sets of channels (Tarjan, 1975, with path halving)."""

    def __init__(self) -> None:
        self._parent: dict[Element, Element] = {}
        self._known: dict[tuple[int, str], set[int]] = defaultdict(set)

    def root(self, element: Element) -> Element:
        parent = self._parent
        if element not in parent:
            parent[element] = element
            self._known[element[0], element[1]].add(element[2])
        while parent[element] != element:
            parent[element] = parent[parent[element]]
            element = parent[element]
        return element

    def unite(self, one: Element, other: Element) -> None:
        self._parent[self.root(one)] = self.root(other)

    def channels(self, node: int, side: str) -> set[int]:
        """Which channels of a node have been met."""
        return self._known[node, side]


def _mapped(edge: Any, channels: Sequence[int]) -> Iterator[tuple[int | None, int]]:
    """(channel at the edge's beginning, channel at its end) for each of ``channels``."""
    indices = [tp._helpers._HybridIndex(idx=channel, root_idx=channel) for channel in channels]
    for mapping in edge.index_mapping:
        if mapping is not None:
            indices = mapping(indices)
    for index in indices:
        yield index.root_idx, index.idx


def _plain(layer: nn.Module) -> bool:
    """Whether its weight is a parameter of its own, not computed from others (weight norm, spectral norm)."""
    return isinstance(layer._parameters.get("weight"), nn.Parameter)


def _chunk_length(node: Any) -> int:
    """Channels of each part if the node cuts the channels into equal parts, else 0."""
    size = getattr(node.grad_fn, "_saved_split_size", None)
    if node.type != tp.ops.OPTYPE.SPLIT or size is None or node.grad_fn._saved_dim != 1:
        return 0
    return int(size)


_KNOWN = (_ConvNd, nn.Linear, *_NORMS, nn.PReLU)
"""Layers whose channels can be removed."""

_LAYERS = (*_KNOWN, nn.Embedding, nn.MultiheadAttention, nn.LSTM)
"""Layers that Torch-Pruning knows."""
