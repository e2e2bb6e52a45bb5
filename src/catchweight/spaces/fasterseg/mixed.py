"""Slimmable operators of FasterSeg and their mixture: what a cell of the supernet computes (ICLR 2020).

A map's width is that of its tensor. Who calls an operator says which of its output widths is meant; convolutions take
the leading slice of their weights, and each width has a batch norm of its own (slimmable networks, Yu et al., ICLR
2019): with one for all, the narrowest path would not train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nets.fasterseg import OPS
from ...nets.fasterseg.ops import resize
from ...nets.layers import SmallMapBatchNorm
from ..structure import mixed

Widths = Sequence[int]
"""Channels of each option, ascending."""


class SlimConv(nn.Module):
    """k x k convolution and one batch norm a width: ``(B, c, h, w), option -> (B, widths[option], h', w')``.

    Args:
        inp: most channels of the input.
        widths: channels of the output, by option.
        parts: convolutions side by side whose results are concatenated, each of a share of the output.
    """

    def __init__(self, inp: int, widths: Widths, kernel: int = 3, stride: int = 1, parts: int = 1) -> None:
        super().__init__()
        self.widths, self.parts = tuple(widths), parts
        self.convs = nn.ModuleList(
            nn.Conv2d(inp, width, kernel, stride, kernel // 2, bias=False) for width in shares(self.widths[-1], parts)
        )
        self.norms = nn.ModuleList(SmallMapBatchNorm(width) for width in self.widths)

    def forward(self, option: int, *maps: Tensor) -> Tensor:
        """``maps`` are the inputs of the parts, one for each."""
        widths = shares(self.widths[option], self.parts)
        found = [_convolved(conv, x, width) for conv, x, width in zip(self.convs, maps, widths, strict=True)]
        y: Tensor = self.norms[option](found[0] if self.parts == 1 else torch.cat(found, dim=1))
        return y


class Plain(nn.Module):
    """``depth`` times 3x3 convolution, norm, ReLU; the first has the stride."""

    def __init__(self, inp: int, widths: Widths, stride: int, depth: int = 1) -> None:
        super().__init__()
        rest = [SlimConv(widths[-1], widths) for _ in range(depth - 1)]
        self.convs = nn.ModuleList([SlimConv(inp, widths, stride=stride), *rest])

    def forward(self, x: Tensor, option: int) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(option, x), inplace=True)
        return x


class Zoomed(nn.Module):
    """As :class:`Plain`, on the map at half its size, resized back unless the operator halves anyway."""

    def __init__(self, inp: int, widths: Widths, stride: int, depth: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.convs = nn.ModuleList(SlimConv(inp if i == 0 else widths[-1], widths) for i in range(depth))

    def forward(self, x: Tensor, option: int) -> Tensor:
        height, width = x.shape[-2:]
        y = resize(x, ((height + 1) // 2, (width + 1) // 2))
        for number, conv in enumerate(self.convs):
            y = conv(option, F.relu(y, inplace=True) if number else y)
        return F.relu(resize(y, (height, width)) if self.stride == 1 else y, inplace=True)


class Skip(nn.Module):
    """What stands for no operator: widths change in the supernet, so at stride 1 it is a 1x1 convolution (nothing in
    a derived network); at stride 2 two of them, one shifted by a pixel, as there."""

    def __init__(self, inp: int, widths: Widths, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = SlimConv(inp, widths, kernel=1, stride=stride, parts=stride)

    def forward(self, x: Tensor, option: int) -> Tensor:
        maps = [x] if self.stride == 1 else [x, F.pad(x[..., 1:, 1:], (0, 1, 0, 1))]
        return F.relu(self.conv(option, *maps), inplace=True)


MAKERS: dict[str, Callable[[int, Widths, int], nn.Module]] = {
    "skip": Skip,
    "conv": Plain,
    "zoomed": Zoomed,
    "conv_2x": lambda inp, widths, stride: Plain(inp, widths, stride, depth=2),
    "zoomed_2x": lambda inp, widths, stride: Zoomed(inp, widths, stride, depth=2),
}
"""How to make each operator from (most input channels, widths, stride), in the authors' order."""


class MixedOp(nn.Module):
    """The weighted sum of the five operators: ``(B, c, h, w) -> (B, widths[option], h', w')``."""

    def __init__(self, inp: int, widths: Widths, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(MAKERS[op](inp, widths, stride) for op in OPS)

    def forward(self, x: Tensor, weights: Tensor, option: int) -> Tensor:
        """``weights`` (5,) of the operators."""
        return mixed([op(x, option) for op in self.ops], weights)


def shares(width: int, parts: int) -> tuple[int, ...]:
    """``width`` in equal shares, the larger last: of 21 channels and two parts (10, 11)."""
    return tuple((width + part) // parts for part in range(parts))


def _convolved(conv: nn.Module, x: Tensor, width: int) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight[:width, : x.shape[1]], None, conv.stride, conv.padding)


__all__ = ["MixedOp", "Plain", "Skip", "SlimConv", "Widths", "Zoomed"]
