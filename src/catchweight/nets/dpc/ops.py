"""The operations of a dense prediction cell: (B, C, h, w) -> (B, F, h, w)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ConvNormAct, SmallMapBatchNorm

Pooling = Literal["dense", "grid"]
"""Two readings of "spatial pyramid pooling": see :func:`pool`."""


class SeparableAtrous(nn.Module):
    """Depthwise 3x3 of its own rate in each direction, then 1x1; norm and ReLU behind both, as DeepLab has it."""

    def __init__(self, channels: int, filters: int, rates: tuple[int, int]) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=rates, dilation=rates, groups=channels, bias=False)
        self.norm = SmallMapBatchNorm(channels)
        self.act = nn.ReLU(inplace=True)
        self.pointwise = ConvNormAct(channels, filters)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.act(self.norm(self.depthwise(x))))


class PyramidPooling(nn.Module):
    """Average pooling on a grid, 1x1 convolution with norm and ReLU, and back to the size of the map."""

    def __init__(self, channels: int, filters: int, grid: tuple[int, int], pooling: Pooling) -> None:
        super().__init__()
        self.grid, self.pooling = grid, pooling
        self.pointwise = ConvNormAct(channels, filters)

    def forward(self, x: Tensor) -> Tensor:
        return spread(self.pointwise(pool(x, self.grid, self.pooling)), x, self.pooling)


def pool(x: Tensor, grid: tuple[int, int], pooling: Pooling) -> Tensor:
    """Average-pool a map.

    Args:
        grid: rows and columns.
        pooling: "dense", what the released code does: windows of the grid's size at every position, no padding, so
            the result is larger than the grid unless that is 1x1; "grid", what the paper describes: one value a cell
            of the grid.
    """
    height, width = x.shape[-2:]
    if pooling == "dense":
        return F.avg_pool2d(x, ((height - 1) // grid[0] + 1, (width - 1) // grid[1] + 1), stride=1)
    return _averages(height, grid[0], x) @ x @ _averages(width, grid[1], x).t()


def spread(pooled: Tensor, like: Tensor, pooling: Pooling) -> Tensor:
    """Bilinear to the size of ``like``; the released code's dense windows end where the map does, hence its corners
    are aligned."""
    return F.interpolate(pooled, size=like.shape[-2:], mode="bilinear", align_corners=pooling == "dense")


def _averages(length: int, cells: int, like: Tensor) -> Tensor:
    """(cells, length): row i averages the i-th of ``cells`` parts, as adaptive pooling cuts them.

    A matrix, for adaptive pooling to sizes that do not divide the map cannot be exported to ONNX.
    """
    matrix = torch.zeros(cells, length)
    for cell in range(cells):
        begin, end = cell * length // cells, -(-(cell + 1) * length // cells)
        matrix[cell, begin:end] = 1 / (end - begin)
    return matrix.to(like)


__all__ = ["Pooling", "PyramidPooling", "SeparableAtrous", "pool", "spread"]
