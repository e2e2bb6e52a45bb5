"""A dense prediction cell with every choice open: all cells share the weights of their branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nets.dpc import BACKBONE, DpcConfig
from ...nets.dpc.network import KEEP
from ...nets.dpc.ops import pool, spread
from ...nets.layers import ConvNormAct, SmallMapBatchNorm
from ..choices import Choice
from ..elastic import Condition, Elastic
from ..structure import mixed, scored
from .cells import KINDS, CellOptions, names


def _choice(options: Sequence[Any], name: str, kind: str) -> Choice[Any]:
    choice: Choice[Any] = Choice(options, name=name)
    choice.kind = kind
    return choice


def _over(first: Choice[Any], second: Choice[Any], give: Any) -> Tensor:
    """``give(a, b)`` for the present options of two choices, or their weighted sum where options are mixed."""
    rows = range(len(first.options)) if first.mixture is not None else [first.index]
    found = [_along(second, lambda column, row=row: give(first.options[row], column)) for row in rows]
    return scored(found[0], first) if first.mixture is None else mixed(found, first.mixture)


def _along(choice: Choice[Any], give: Any) -> Tensor:
    mixture = choice.mixture
    if mixture is None:
        return scored(give(choice.value), choice)
    return mixed([give(option) for option in choice.options], mixture)


class OpenAtrous(Elastic):
    """Separable convolution of open rates: one kernel, spread as the rates say."""

    def __init__(self, channels: int, filters: int, rates: tuple[Choice[int], Choice[int]], config: DpcConfig) -> None:
        super().__init__()
        self.rates, self._config = rates, config
        self.depthwise = nn.Conv2d(channels, channels, 3, groups=channels, bias=False)
        self.norm = SmallMapBatchNorm(channels)
        self.act = nn.ReLU()
        self.pointwise = ConvNormAct(channels, filters)

    def forward(self, x: Tensor) -> Tensor:
        spread_out = _over(*self.rates, lambda row, column: self._convolved(x, row, column))
        return self.pointwise(self.act(self.norm(spread_out)))

    def _convolved(self, x: Tensor, row: int, column: int) -> Tensor:
        rates = (self._config.dilation(row), self._config.dilation(column))
        return F.conv2d(x, self.depthwise.weight, None, 1, rates, rates, x.shape[1])


class OpenPooling(Elastic):
    """Pyramid pooling of an open grid: one 1x1 convolution."""

    def __init__(self, channels: int, filters: int, grid: tuple[Choice[int], Choice[int]], config: DpcConfig) -> None:
        super().__init__()
        self.grid, self._pooling = grid, config.pool
        self.pointwise = ConvNormAct(channels, filters)

    def forward(self, x: Tensor) -> Tensor:
        return _over(*self.grid, lambda rows, columns: self._pooled(x, (rows, columns)))

    def _pooled(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return spread(self.pointwise(pool(x, grid, self._pooling)), x, self._pooling)


class OpenOperation(Elastic):
    """One of the operations on a map of given channels."""

    def __init__(self, channels: int, filters: int, choices: dict[str, Choice[Any]], config: DpcConfig) -> None:
        super().__init__()
        self.op = choices["op"]
        self.pool = OpenPooling(channels, filters, (choices["grid_h"], choices["grid_w"]), config)
        self.conv = ConvNormAct(channels, filters)
        self.atrous = OpenAtrous(channels, filters, (choices["rate_h"], choices["rate_w"]), config)

    def conditions(self) -> dict[str, Condition]:
        return {kind: (self.op, frozenset([index])) for index, kind in enumerate(self.op.options)}

    def forward(self, x: Tensor) -> Tensor:
        return _along(self.op, lambda kind: self.get_submodule(kind)(x))


class OpenBranch(Elastic):
    """An operation on the backbone's map, or with other weights on the output of an earlier branch."""

    def __init__(self, number: int, channels: int, filters: int, options: CellOptions, config: DpcConfig) -> None:
        super().__init__()
        source, op, rate_h, rate_w, grid_h, grid_w = names(number)
        earlier = list(range(number))
        # The option with the most parameters comes last.
        sources = [BACKBONE, *earlier] if channels <= filters else [*earlier, BACKBONE]
        self.source = _choice(sources, source, "input")
        choices = {
            "op": _choice(KINDS, op, "op"),
            "rate_h": _choice(options.rates, rate_h, "rate"),
            "rate_w": _choice(options.rates, rate_w, "rate"),
            "grid_h": _choice(options.grids, grid_h, "grid"),
            "grid_w": _choice(options.grids, grid_w, "grid"),
        }
        self.outer = OpenOperation(channels, filters, choices, config)
        self.inner = OpenOperation(filters, filters, choices, config) if number else None

    def conditions(self) -> dict[str, Condition]:
        place = self.source.options.index(BACKBONE)
        others = frozenset(range(len(self.source.options))) - {place}
        return {"outer": (self.source, frozenset([place])), "inner": (self.source, others)}

    def forward(self, x: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        return _along(self.source, lambda source: self._read(x, earlier, source))

    def _read(self, x: Tensor, earlier: Sequence[Tensor], source: int) -> Tensor:
        if source == BACKBONE:
            return self.outer(x)
        assert self.inner is not None
        return self.inner(earlier[source])


class OpenCell(nn.Module):
    """All cells in one: (B, C, h, w) -> (B, F, h, w)."""

    def __init__(self, channels: int, filters: int, options: CellOptions, config: DpcConfig) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            OpenBranch(number, channels, filters, options, config) for number in range(options.branches)
        )
        self.dropout = nn.Dropout(1 - KEEP)
        self.project = ConvNormAct(filters * options.branches, filters)

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for branch in self.branches:
            found.append(branch(x, found))
        return self.project(self.dropout(torch.cat(found, 1)))


__all__ = ["OpenBranch", "OpenCell"]
