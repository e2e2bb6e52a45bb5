"""Multiply-adds of a cell in closed form: cheap enough to ask of every cell that is drawn."""

from __future__ import annotations

from .cell import BACKBONE, Branch, Cell
from .ops import Pooling


def cell_macs(cell: Cell, channels: int, filters: int, size: tuple[int, int], pooling: Pooling = "dense") -> int:
    """Multiply-adds of a cell's convolutions, the projection behind the concatenation included.

    Args:
        channels: C of the backbone's map.
        filters: F of every branch.
        size: (h, w) of the map.
    """
    positions = size[0] * size[1]
    branches = sum(
        _branch(branch, channels if branch.source == BACKBONE else filters, filters, size, pooling)
        for branch in cell.branches
    )
    return branches + positions * len(cell.branches) * filters * filters


def _branch(branch: Branch, channels: int, filters: int, size: tuple[int, int], pooling: Pooling) -> int:
    height, width = size
    if branch.kind == "pool":
        rows, columns = branch.rows, branch.columns
        if pooling == "grid":
            averages = channels * rows * width * (height + columns)  # two products with matrices
            return averages + rows * columns * channels * filters
        windows = (height - (height - 1) // rows) * (width - (width - 1) // columns)
        return windows * channels * filters
    depthwise = 9 * channels if branch.kind == "atrous" else 0
    return height * width * (depthwise + channels * filters)


__all__ = ["cell_macs"]
