"""Where the cells of FasterSeg's space stand, and what is open there (Chen et al., ICLR 2020).

Cells stand on a lattice of layers and strides. The cell at a node has one operator that keeps its map's stride and one
that halves the map; both are chosen by the node's own weights. Open at each node are its operator, the width of the
map that enters it, and from which node that map comes: from the cell before it at the same stride ("keep") or from
the finer one that halves ("down").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ...errors import UsageError
from ...nets.fasterseg import OPS
from ...nets.fasterseg.architecture import STRIDES, TWELFTHS, map_channels
from ...nets.ffnet.network import scaled

ORIGINS = ("down", "keep")
"""Where a map comes from, in the authors' order."""

FEWEST_LAYERS = 5
"""A path to stride 32 needs two halving cells that lie neither at the first layer nor side by side, and a last one."""


class Node(NamedTuple):
    """The place of a cell: its layer, from 0, and the stride of its input map."""

    layer: int
    stride: int

    @property
    def op(self) -> str:
        """Name of its operator among the choices."""
        return f"op{self.layer}.{self.stride}"

    @property
    def origin(self) -> str:
        """Name of the choice where its input comes from."""
        return f"from{self.layer}.{self.stride}"

    @property
    def width(self) -> str:
        """Name of the width of its input."""
        return f"width{self.layer}.{self.stride}"


class Edge(NamedTuple):
    """One operator of a cell: from a node to one of the next layer, or of the last layer to the decoder."""

    node: Node
    halves: bool

    @property
    def target(self) -> Node:
        """The node its result enters; of the last layer's, one beyond the lattice."""
        return Node(self.node.layer + 1, self.node.stride * (2 if self.halves else 1))


@dataclass(frozen=True)
class Lattice:
    """The sizes of the space.

    Args:
        layers: cells on a path before any is removed, L in the paper.
        base: full width per unit of stride, F in the paper.
        widths: options of every open width, in twelfths of the full one, ascending.
        width: multiplies every channel count, rounded to 8, as ``NetSpec.width`` does.

    Raises:
        UsageError: too few layers, or widths that are not ascending and positive.
    """

    layers: int = 16
    base: int = 12
    widths: tuple[int, ...] = (4, 6, 8, 10, 12)
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.layers < FEWEST_LAYERS:
            raise UsageError(f"the FasterSeg space needs {FEWEST_LAYERS} layers or more, but got {self.layers}")
        if not self.widths or min(self.widths) < 1 or list(self.widths) != sorted(set(self.widths)):
            raise UsageError(
                f"the widths of the FasterSeg space are ascending twelfths such as 4,8,{TWELFTHS}, but got "
                f"{self.widths}"
            )

    def channels(self, stride: int, twelfths: int) -> int:
        """Channels of a map, exactly those of a derived network; the latency table is asked for these."""
        return scaled(self.width)(map_channels(self.base, stride, twelfths))

    def strides(self, layer: int) -> tuple[int, ...]:
        """Strides that cells of a layer work at: 8, then 8 and 16, then all three."""
        return STRIDES[: layer + 1]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, layer by layer, finest first."""
        return tuple(Node(layer, stride) for layer in range(self.layers) for stride in self.strides(layer))

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every operator of every cell; cells of the last layer and of stride 32 do not halve."""
        return tuple(Edge(node, halves) for node in self.nodes for halves in (False, True) if self.has(node, halves))

    def has(self, node: Node, halves: bool) -> bool:
        """Whether the cell at ``node`` has this operator."""
        return not halves or (node.layer < self.layers - 1 and node.stride < STRIDES[-1])

    def steered(self, node: Node) -> bool:
        """Whether a node's input may come from two nodes."""
        return node.layer > STRIDES.index(node.stride) > 0

    def arrivals(self, node: Node) -> Iterator[tuple[str, Edge]]:
        """The operators whose results may enter a node, each with its name in ``ORIGINS``; none for the first."""
        layer, stride = node.layer - 1, node.stride
        if stride > STRIDES[0]:
            yield "down", Edge(Node(layer, stride // 2), halves=True)
        if layer >= STRIDES.index(stride):
            yield "keep", Edge(Node(layer, stride), halves=False)

    def structure(self) -> dict[str, tuple[str, ...]]:
        """Operator of every node and origin of every node that has a choice of it; options by name."""
        ops = {node.op: OPS for node in self.nodes}
        return ops | {node.origin: ORIGINS for node in self.nodes if self.steered(node)}

    def open_widths(self) -> dict[str, tuple[int, ...]]:
        """Width of every node's input but the first's, which the stem gives; options by name."""
        return {node.width: self.widths for node in self.nodes if node.layer > 0}


__all__ = ["ORIGINS", "Edge", "Lattice", "Node"]
