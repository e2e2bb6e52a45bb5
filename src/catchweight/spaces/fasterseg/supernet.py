"""The weights of FasterSeg's space: all cells of the lattice, and a stem and a decoder for each role (ICLR 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...nets.fasterseg.architecture import STRIDES
from ...nets.fasterseg.network import Merge, classifier, initialise, stem
from .lattice import Edge, Lattice, Node
from .mixed import MixedOp

Ends = tuple[int, ...]
"""Strides at which the branches of a network end, in their order."""

PAIRS: tuple[Ends, ...] = ((32, 8), (32, 16))
"""The two-branch networks that a search derives, and of which it keeps one."""
PREDICTIONS: tuple[Ends, ...] = ((8,), (16,), (32,), *PAIRS)
"""What the five classifiers of the supernet look at."""


class Cell(nn.Module):
    """The operators of one node; each gives ``(B, C', h', w')`` from ``(B, C, h, w)``."""

    def __init__(self, lattice: Lattice, node: Node) -> None:
        super().__init__()
        widest = lattice.channels(node.stride, lattice.widths[-1])
        self.ops = nn.ModuleDict(
            {
                "halve" if halves else "keep": MixedOp(widest, widths(lattice, Edge(node, halves)), 1 + halves)
                for halves in (False, True)
                if lattice.has(node, halves)
            }
        )

    def forward(self, x: Tensor, halves: bool, weights: Tensor, option: int) -> Tensor:
        y: Tensor = self.ops["halve" if halves else "keep"](x, weights, option)
        return y


class Decoder(nn.Module):
    """The last maps at strides 8, 16 and 32 back to stride 8, and five classifiers on one or two of the results.

    As in a derived network, except that there the results are fused by a 1x1 convolution before the one classifier.
    """

    def __init__(self, lattice: Lattice, head: int, classes: int) -> None:
        super().__init__()
        fine, middle, coarse = (lattice.channels(stride, head) for stride in STRIDES)
        self.from16 = Merge(middle, fine, fine)
        self.from32 = nn.ModuleList([Merge(coarse, middle, middle), Merge(middle, fine, fine)])
        self.heads = nn.ModuleList(classifier(len(ends) * fine, classes) for ends in PREDICTIONS)

    def forward(self, maps: Mapping[int, Tensor]) -> dict[Ends, Tensor]:
        """Maps by stride -> logits (B, K, h, w) at stride 8, by what they look at."""
        fine = {
            8: maps[8],
            16: self.from16(maps[16], maps[8]),
            32: self.from32[1](self.from32[0](maps[32], maps[16]), maps[8]),
        }
        found = zip(PREDICTIONS, self.heads, strict=True)
        return {ends: head(torch.cat([fine[e] for e in sorted(ends)], dim=1)) for ends, head in found}


class Supernet(nn.Module):
    """All of it: normalised images (B, 3, H, W) -> five logits at stride 8.

    Args:
        lattice: the space.
        classes: K.
        roles: width of stem and head in twelfths, by the role's name; each must be an option of the open widths.
    """

    def __init__(self, lattice: Lattice, classes: int, roles: Mapping[str, int]) -> None:
        super().__init__()
        self.lattice, self.roles = lattice, dict(roles)
        self.stems = nn.ModuleDict({name: stem(width, lattice.channels) for name, width in roles.items()})
        self.cells = nn.ModuleDict({_key(node): Cell(lattice, node) for node in lattice.nodes})
        self.decoders = nn.ModuleDict({name: Decoder(lattice, width, classes) for name, width in roles.items()})
        self.apply(initialise)

    def forward(self, x: Tensor, values: Mapping[str, Any], role: str) -> dict[Ends, Tensor]:
        """Logits (B, K, ceil(H/8), ceil(W/8)) by what they look at.

        Args:
            values: see :data:`.logits.Values`. A width given by one-hot probabilities is executed alone, and what
                reads or gives a map of that width is multiplied by its score, 1.
        """
        decoded: dict[Ends, Tensor] = self.decoders[role](self._last_maps(self.stems[role](x), values, role))
        return decoded

    def _last_maps(self, x: Tensor, values: Mapping[str, Any], role: str) -> dict[int, Tensor]:
        first, *rest = self.lattice.nodes
        done = self._run(first, x, values, role)
        for node in rest:
            # Each input goes through the cell by itself, then the results are mixed: by the in-degree's probabilities.
            arrived = [(name, done[edge]) for name, edge in self.lattice.arrivals(node)]
            results = [self._run(node, y, values, role) for _, y in arrived]
            if len(arrived) > 1:
                down, keep = values[node.origin].to(x.dtype)
                done |= {edge: down * results[0][edge] + keep * results[1][edge] for edge in results[0]}
            else:
                done |= results[0]
        last = self.lattice.layers - 1
        return {stride: done[Edge(Node(last, stride), halves=False)] for stride in STRIDES}

    def _run(self, node: Node, x: Tensor, values: Mapping[str, Any], role: str) -> dict[Edge, Tensor]:
        cell, weights = self.cells[_key(node)], values[node.op].to(x.dtype)
        entering = self._width(node, values, role)[1]
        found = {}
        for edge in _edges(self.lattice, node):
            option, leaving = self._width(edge.target, values, role)
            y = cell(x, edge.halves, weights, option)
            scores = [score for score in (entering, leaving) if score is not None]
            found[edge] = y * torch.stack(scores).prod().to(y.dtype) if scores else y
        return found

    def _width(self, node: Node, values: Mapping[str, Any], role: str) -> tuple[int, Tensor | None]:
        """Option of the width of the map that enters a node, and its score; at both ends the role's own."""
        if node.layer in (0, self.lattice.layers):
            return self.lattice.widths.index(self.roles[role]), None
        value = values[node.width]
        if not isinstance(value, Tensor):
            return self.lattice.widths.index(value), None
        option = int(value.detach().argmax())
        return option, value[option]


def widths(lattice: Lattice, edge: Edge) -> tuple[int, ...]:
    """Channels of an operator's result, by option."""
    return tuple(lattice.channels(edge.target.stride, width) for width in lattice.widths)


def _edges(lattice: Lattice, node: Node) -> Iterator[Edge]:
    return (Edge(node, halves) for halves in (False, True) if lattice.has(node, halves))


def _key(node: Node) -> str:
    return f"{node.layer}-{node.stride}"  # a module's name has no dot


__all__ = ["PAIRS", "PREDICTIONS", "Cell", "Decoder", "Ends", "Supernet", "widths"]
