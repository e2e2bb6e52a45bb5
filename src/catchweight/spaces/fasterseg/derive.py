"""From probabilities to a plain FasterSeg: the rules by which the paper's search reads off an architecture.

Each branch is read by itself: its path, then its widths, then its operators, of which most skips are removed together
with their cells. Branches that agree in their first cells share them; that is a matter of the network
(``nets.fasterseg.architecture.cells``). Two departures from the released code, which are its slips: it halves the
branch to stride 16 a layer before the node whose probability it chose, and it changes the probabilities of one branch
while it reads the branch before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import UsageError
from ...nets.fasterseg import OPS, Branch, FasterSegConfig
from ...nets.fasterseg.architecture import STRIDES
from .lattice import Lattice, Node
from .supernet import Ends

Halvings = tuple[int, ...]
"""Layers whose cells halve the map: none, one or two."""


def derive(
    values: Mapping[str, Any], lattice: Lattice, ends: Ends, *, stem: int, head: int, skips: bool = True
) -> FasterSegConfig:
    """The network with branches to ``ends``.

    Args:
        values: probabilities of operators, origins and widths (or twelfths); see :data:`.logits.Values`.
        stem, head: widths in twelfths.
        skips: whether a cell may be left out; the teacher's may not.

    Raises:
        UsageError: an end that is no stride.
    """
    chosen = [likeliest_halvings(values, lattice, end) for end in ends]
    return assemble(values, lattice, chosen, stem=stem, head=head, skips=skips)


def assemble(
    values: Mapping[str, Any], lattice: Lattice, paths: Sequence[Halvings], *, stem: int, head: int, skips: bool = True
) -> FasterSegConfig:
    """As :func:`derive`, with the path of each branch given by the layers that halve."""
    branches = tuple(_branch(values, lattice, halvings, skips) for halvings in paths)
    return FasterSegConfig(branches, stem, head, lattice.base)


def candidates(lattice: Lattice, end: int) -> list[Halvings]:
    """Paths that end at a stride, as the released code limits them, the earliest first.

    No halving at the first two layers; before the second halving at least two cells at stride 16, and behind it two
    at stride 32. Where there are too few layers for that, the first halving is at layer 1 and the second at layer 3.
    """
    if end not in STRIDES:
        raise UsageError(f"a branch ends at stride 8, 16 or 32, but got {end}")
    last = lattice.layers - 2
    if end == 8:
        return [()]
    if end == 16:
        return [(first,) for first in range(2, last)]
    pairs: list[Halvings] = [(first, second) for second in range(2, last) for first in range(2, second - 2)]
    return pairs or [(1, 3)]


def likeliest_halvings(values: Mapping[str, Any], lattice: Lattice, end: int) -> Halvings:
    """The path along which the probabilities of coming from the finer stride have the largest product."""

    def probability(halvings: Halvings) -> float:
        product = 1.0
        for layer, stride in zip(halvings, STRIDES[1:], strict=False):
            node = Node(layer + 1, stride)
            product *= _numbers(values[node.origin])[0] if lattice.steered(node) else 1.0
        return product

    return max(candidates(lattice, end), key=probability)


def nodes_along(lattice: Lattice, halvings: Halvings) -> list[Node]:
    """The node of every layer on a path."""
    return [Node(layer, STRIDES[sum(h < layer for h in halvings)]) for layer in range(lattice.layers)]


def _branch(values: Mapping[str, Any], lattice: Lattice, halvings: Halvings, skips: bool) -> Branch:
    path = nodes_along(lattice, halvings)
    odds = [_numbers(values[node.op]) for node in path]
    if not skips:
        odds = [_without_skip(o) for o in odds]
    removed = _removed(odds, halvings)
    kept = [layer for layer in range(len(path)) if layer not in removed]
    # The result of a cell has the width of the node it enters; a removed cell takes its width with it, and whichever
    # cell is the last gives the head's.
    widths = [_width(values[path[layer + 1].width], lattice) for layer in kept[:-1]]
    ops = [_best(odds[layer]) or _best(_without_skip(odds[layer])) for layer in kept]
    return Branch(tuple(OPS[op] for op in ops), tuple(path[layer].stride for layer in kept), tuple(widths))


def _removed(odds: list[list[float]], halvings: Halvings) -> set[int]:
    """Layers whose cells are left out: those that are skips and do not halve, the surest first, down to a length."""
    layers = len(odds)
    skipped = [layer for layer in range(layers) if _best(odds[layer]) == 0 and layer not in halvings]
    forbidden = set(_needed(odds, halvings, skipped))
    fewest = round(layers / 3) + 2 * len(halvings)
    surest = sorted(skipped, key=lambda layer: -odds[layer][0])[: max(0, layers - fewest)]
    return set(surest) - forbidden


def _needed(odds: list[list[float]], halvings: Halvings, skipped: list[int]) -> Iterator[int]:
    """Where all cells between two halvings, or behind the last, are skips: the least sure of them must stay."""
    for start, stop in zip(halvings, (*halvings[1:], len(odds)), strict=False):
        between = range(start + 1, stop)
        if between and all(layer in skipped for layer in between):
            yield min(between, key=lambda layer: (odds[layer][0], -layer))


def _numbers(vector: Any) -> list[float]:
    return [float(p) for p in (vector.detach() if isinstance(vector, Tensor) else vector)]


def _without_skip(odds: list[float]) -> list[float]:
    return [-1.0, *odds[1:]]


def _best(odds: list[float]) -> int:
    return max(range(len(odds)), key=lambda index: odds[index])


def _width(value: Any, lattice: Lattice) -> int:
    return lattice.widths[_best(_numbers(value))] if isinstance(value, Tensor) else int(value)


__all__ = ["Halvings", "assemble", "candidates", "derive", "likeliest_halvings", "nodes_along"]
