"""What a network costs at any widths of its channel groups, from the latencies of its blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import CatchweightError
from ..nets.shrink import Shapes, shapes
from ..targets.latency.predictor import LatencyPredictor
from ..targets.tracing.blocks import Signature, blocks
from ..targets.tracing.reshaped import reshaped
from ..targets.tracing.trace import Trace, trace
from .channels import ChannelGroup, Groups

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BlockCosts = Callable[[Sequence[Signature]], Floats]
"""Blocks -> what each adds to the network's cost, in ms (or MACs). Asked once for each signature."""

Widths = Mapping[str, int]
"""Group -> units kept."""


@dataclass(frozen=True)
class CostModel:
    """How blocks cost, and what a network costs before its first block."""

    blocks: BlockCosts
    constant: float = 0.0
    unit: str = "ms"


def predicted_costs(predictor: LatencyPredictor) -> CostModel:
    """Milliseconds from a latency table: measured blocks where there are any, modelled ones elsewhere."""
    return CostModel(lambda signatures: predictor.latencies(signatures).numpy(), predictor.constant_ms)


MACS = CostModel(lambda signatures: np.array([signature.macs for signature in signatures], dtype=np.float64), 0, "MACs")
"""Multiply-adds instead of time, for comparison."""


class NetworkCosts(Protocol):
    """Cost of a network by the widths of its groups."""

    @property
    def unit(self) -> str:
        """What costs are counted in."""
        ...

    def total(self, widths: Widths) -> float:
        """Of the whole network; groups left out are whole."""
        ...

    def curves(self, counts: Mapping[str, Sequence[int]], widths: Widths, own: bool = False) -> dict[str, Floats]:
        """Of what each group concerns, for each count of its units, the others at ``widths``; ``own``: see below."""
        ...

    def in_macs(self) -> NetworkCosts:
        """The same network counted in multiply-adds."""
        ...


class ChannelCosts:
    """Cost of a network as a function of how many units of each group it keeps.

    Every number in a block's signature (channels, groups) is an affine function of the widths. Its coefficients are
    read off once, by taking one unit from each group in turn; afterwards any widths are a matter of arithmetic and of
    asking the cost model for signatures that were not met before. The recorded graph is read at other shapes, in
    milliseconds; where it has numbers written into it, as ``x.view(b, c)`` leaves them, a pruned copy is traced anew.

    Args:
        net: with all its units; left as it is.
        groups: of this very network.
        size: (H, W) of the input in pixels.
        costs: what blocks cost.
        batch, precision: as the target has them.

    Raises:
        CatchweightError: the network cannot be traced, or its blocks are others when it is pruned.
    """

    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[ChannelGroup],
        size: tuple[int, int],
        costs: CostModel,
        *,
        batch: int = 1,
        precision: str = "fp32",
    ) -> None:
        self.costs = costs
        self._subject = (net, tuple(groups), size, batch)
        self.full = {group.name: group.units for group in groups}
        self._cache: dict[Signature, float] = {}
        traced, have = trace(net, size, batch), shapes(net)
        found = blocks(traced, precision)
        self._blocks = [block.signature for block in found]
        self._numbers = _numbers(self._blocks)
        self._slopes: dict[str, Ints] = {}
        self._made: dict[str, NDArray[np.bool_]] = {}
        for group in groups:
            fewer = self._reshaped(traced, have, {group: 1}, precision)
            self._slopes[group.name] = self._numbers - fewer
            weights = {f"{maker}.weight" for maker in group.makers}
            self._made[group.name] = np.array([any(weights & op.weights.keys() for op in block.ops) for block in found])
        # One probe of everything: were a number not affine in the widths, this would tell.
        half = {group: group.units // 2 for group in groups}
        expected = self._at({group.name: group.units - gone for group, gone in half.items()})
        if not np.array_equal(expected, self._reshaped(traced, have, half, precision)):
            raise CatchweightError(f"{type(net).__name__} computes otherwise at other widths; it cannot be predicted")

    @property
    def unit(self) -> str:
        return self.costs.unit

    def in_macs(self) -> ChannelCosts:
        """The same network counted in multiply-adds."""
        other = copy.copy(self)
        other.costs, other._cache = MACS, {}
        return other

    def signatures(self, widths: Widths) -> list[Signature]:
        """All blocks at these widths; groups left out are whole."""
        numbers = self._at(widths)
        return [_with_numbers(base, row) for base, row in zip(self._blocks, numbers, strict=True)]

    def total(self, widths: Widths) -> float:
        """Cost of the whole network."""
        return float(self._costs(self.signatures(widths)).sum()) + self.costs.constant

    def curve(self, group: str, widths: Widths, counts: Sequence[int], own: bool = False) -> Floats:
        """Cost of the blocks that a group concerns, for each count of its units, the others at ``widths``.

        Args:
            own: only blocks that compute the group's channels, as HALP counts; not those that read them.
        """
        return self.curves({group: counts}, widths, own)[group]

    def curves(self, counts: Mapping[str, Sequence[int]], widths: Widths, own: bool = False) -> dict[str, Floats]:
        """:meth:`curve` of many groups at once."""
        start = self._at(widths)
        asked: dict[str, list[list[Signature]]] = {}
        for name, wanted in counts.items():
            places = np.flatnonzero(self._made[name] if own else self._slopes[name].any(axis=1))
            here = widths.get(name, self.full[name])
            asked[name] = [
                [_with_numbers(self._blocks[p], start[p] + (n - here) * self._slopes[name][p]) for p in places]
                for n in wanted
            ]
        self._costs([signature for rows in asked.values() for row in rows for signature in row])
        return {
            name: np.array([sum(self._cache[signature] for signature in row) for row in rows], dtype=np.float64)
            for name, rows in asked.items()
        }

    def _at(self, widths: Widths) -> Ints:
        numbers = self._numbers
        for name, count in widths.items():
            if count != self.full[name]:
                numbers = numbers + (count - self.full[name]) * self._slopes[name]
        return numbers

    def _costs(self, signatures: Sequence[Signature]) -> Floats:
        missing = [signature for signature in dict.fromkeys(signatures) if signature not in self._cache]
        if missing:
            found = np.maximum(self.costs.blocks(missing), 0.0)
            self._cache |= dict(zip(missing, found.tolist(), strict=True))
        return np.array([self._cache[signature] for signature in signatures], dtype=np.float64)

    def _reshaped(self, traced: Trace, have: Shapes, gone: Mapping[ChannelGroup, int], precision: str) -> Ints:
        try:
            at_these = reshaped(traced, _fewer(have, gone))
        except CatchweightError:
            at_these = self._retraced(gone)
        found = blocks(at_these, precision)
        if [block.signature.kind for block in found] != [signature.kind for signature in self._blocks]:
            raise CatchweightError("the network's blocks are others when it is pruned; it cannot be predicted")
        return _numbers([block.signature for block in found])

    def _retraced(self, gone: Mapping[ChannelGroup, int]) -> Trace:
        net, groups, size, batch = self._subject
        pruned = copy.deepcopy(net)
        Groups(groups, {}).prune(pruned, {group.name: range(group.units - units) for group, units in gone.items()})
        return trace(pruned, size, batch)


def _fewer(have: Shapes, gone: Mapping[ChannelGroup, int]) -> Shapes:
    """Shapes of all tensors that change when so many units of the groups go."""
    changed: dict[str, list[int]] = {}
    for group, units in gone.items():
        for (name, dim), indices in group.slices.items():
            changed.setdefault(name, list(have[name]))[dim] -= units * indices.shape[1]
    return {name: tuple(shape) for name, shape in changed.items()}


def _numbers(signatures: Sequence[Signature]) -> Ints:
    """(blocks, most numbers a block): sizes of inputs and output, and groups; short rows end with zeros."""
    rows = [[length for shape in (*s.inputs, s.output) for length in shape] + [s.groups] for s in signatures]
    table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table


def _with_numbers(base: Signature, row: Ints) -> Signature:
    """Inverse of :func:`_numbers` for one block."""
    values = iter(row.tolist())
    inputs = tuple(tuple(next(values) for _ in shape) for shape in base.inputs)
    output = tuple(next(values) for _ in base.output)
    return replace(base, inputs=inputs, output=output, groups=next(values))
