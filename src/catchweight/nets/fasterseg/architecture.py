"""What a FasterSeg is made of, as plain values: branches of cells, and which cells the branches share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...errors import UsageError, unknown

OPS = ("skip", "conv", "zoomed", "conv_2x", "zoomed_2x")
"""The operators in the authors' order: none, one 3x3, one zoomed 3x3, two 3x3, two zoomed 3x3."""

STRIDES = (8, 16, 32)
"""Input pixels per map pixel that a cell may work at."""

TWELFTHS = 12
"""Widths are counted in twelfths of a stride's full width; the paper searches 4, 6, 8, 10 and 12."""


@dataclass(frozen=True)
class Branch:
    """One path of cells from the stem (stride 8) to its own end; the first cells may be another branch's too.

    Args:
        ops: operator of each cell, of ``OPS``.
        scales: stride of each cell's *input*; starts with 8, and each is the one before or twice it. A cell halves
            its map when the next scale is twice its own; the last cell never does.
        widths: channels each cell gives, in twelfths of the full width at its output's stride. The last cell has
            none: it gives the head's width.

    Raises:
        UsageError: the three do not describe a path.
    """

    ops: tuple[str, ...]
    scales: tuple[int, ...]
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        for op in self.ops:
            if op not in OPS:
                raise unknown("operator", op, OPS)
        if not len(self.ops) == len(self.scales) == len(self.widths) + 1:
            raise UsageError(
                "a branch has one operator and one scale a cell, and a width for all but the last cell, but got "
                f"{len(self.ops)} operators, {len(self.scales)} scales and {len(self.widths)} widths"
            )
        steps = zip(self.scales, self.scales[1:], strict=False)
        if self.scales[0] != 8 or self.end not in STRIDES or any(after not in (s, 2 * s) for s, after in steps):
            raise UsageError(
                f"the scales of a branch go from 8 to 8, 16 or 32, doubling at most, but got {self.scales}"
            )
        if min(self.widths, default=1) < 1:
            raise UsageError(f"the widths of a branch must be 1 or more twelfths, but got {self.widths}")

    @property
    def end(self) -> int:
        """Stride of the last map: 8, 16 or 32."""
        return self.scales[-1]

    def outputs(self) -> tuple[int, ...]:
        """Stride of each cell's output."""
        return (*self.scales[1:], self.end)


@dataclass(frozen=True)
class FasterSegConfig:
    """One architecture.

    Args:
        branches: one to three, each with an end of its own; their maps are concatenated in this order.
        stem, head: widths of stem and decoder, in twelfths.
        base: full width per unit of stride, F in the paper: a map of stride s has s * F channels at 12 twelfths.

    Raises:
        UsageError: two branches with one end, no branch, a number below 1, or a skip of stride 1 between different
            channel counts (in a derived network it is the identity).
    """

    branches: tuple[Branch, ...]
    stem: int = 8
    head: int = 8
    base: int = 12

    def __post_init__(self) -> None:
        ends = [branch.end for branch in self.branches]
        if not ends or len(set(ends)) < len(ends):
            raise UsageError(f"a FasterSeg has one to three branches with different ends, but these end at {ends}")
        if min(self.stem, self.head, self.base) < 1:
            raise UsageError(f"stem, head and base must be 1 or more, but got {self.stem}, {self.head} and {self.base}")
        for cell in cells(self):
            if cell.op == "skip" and cell.stride == 1 and cell.inp != cell.out:
                raise UsageError(
                    f"cell {cell.layer} of branch {self.branches[cell.branches[0]].end} is a skip from width "
                    f"{cell.inp} to {cell.out}; a skip that keeps the scale keeps the width too: give both the same "
                    "or take another operator"
                )

    def channels(self, stride: int, twelfths: int) -> int:
        """Channels of a map of that stride at that width."""
        return map_channels(self.base, stride, twelfths)


def map_channels(base: int, stride: int, twelfths: int) -> int:
    """Channels of a map of that stride at that width, where the full width is ``base`` a unit of stride.

    >>> map_channels(12, 8, 4)
    32
    """
    return round(stride * base * twelfths / TWELFTHS)


@dataclass(frozen=True)
class Cell:
    """One operator of the network, as often as it is computed: once, however many branches share it.

    Args:
        layer: position in its branches, from 0.
        branches: indices of the branches it belongs to.
        op: of ``OPS``.
        scale: stride of its input.
        stride: 2 when it halves its map, else 1.
        inp, out: widths of input and output in twelfths.
    """

    layer: int
    branches: tuple[int, ...]
    op: str
    scale: int
    stride: int
    inp: int
    out: int

    @property
    def scale_out(self) -> int:
        """Stride of its output."""
        return self.scale * self.stride


def cells(config: FasterSegConfig) -> Iterator[Cell]:
    """Every cell once, in an order of computation: layer by layer, branches in their order.

    Branches share their first cells as long as operator, width and next scale agree; a last cell is never shared.
    """
    for layer in range(max(len(branch.ops) for branch in config.branches)):
        for members in _groups(config.branches, layer):
            yield _cell(config, members, layer)


def _groups(branches: tuple[Branch, ...], layer: int) -> list[tuple[int, ...]]:
    groups: dict[object, tuple[int, ...]] = {}
    for index, branch in enumerate(branches):
        if layer < len(branch.ops):
            shared = (branch.ops[: layer + 1], branch.widths[: layer + 1], branch.scales[: layer + 2])
            key = index if layer == len(branch.ops) - 1 else shared
            groups[key] = (*groups.get(key, ()), index)
    return list(groups.values())


def _cell(config: FasterSegConfig, members: tuple[int, ...], layer: int) -> Cell:
    branch = config.branches[members[0]]
    widths = (config.stem, *branch.widths, config.head)
    scale = branch.scales[layer]
    stride = branch.outputs()[layer] // scale
    return Cell(layer, members, branch.ops[layer], scale, stride, widths[layer], widths[layer + 1])


def last_widths(config: FasterSegConfig, index: int, channels: Callable[[int, int], int]) -> dict[int, int]:
    """Channels of the last map that branch ``index`` has at each stride, finest first.

    Args:
        channels: gives the count for (stride, twelfths).
    """
    found = {8: channels(8, config.stem)}
    for cell in cells(config):
        if index in cell.branches:
            found[cell.scale_out] = channels(cell.scale_out, cell.out)
    return found
