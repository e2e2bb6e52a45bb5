"""The five operators of FasterSeg (ICLR 2020), as they stand in a derived network.

Every one maps ``(B, C, h, w)`` to ``(B, C', h, w)`` at stride 1 and to ``(B, C', ceil(h/2), ceil(w/2))`` at stride 2.
The authors' zoomed operators and skip give ``floor(h/2)``; on even maps, all that they ever use, it is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ffnet.blocks import conv_bn, conv_bn_relu
from ..layers import SmallMapBatchNorm


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned as published: ``(B, C, h, w) -> (B, C, *size)``."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class Zoomed(nn.Module):
    """The zoomed convolution: halve the map, convolve 3x3 there, restore the size unless the operator halves anyway.

    A quarter of the multiply-adds of the plain operator at stride 1, and twice its receptive field. The last ReLU
    follows the upsampling. At stride 2 the resize replaces the convolution's stride and saves nothing.

    Args:
        inp, out: channels.
        stride: 1 or 2.
        depth: how many 3x3 convolutions, all on the halved map.
    """

    def __init__(self, inp: int, out: int, stride: int, depth: int = 1) -> None:
        super().__init__()
        self.stride = stride
        inner = [conv_bn_relu(inp if i == 0 else out, out) for i in range(depth - 1)]
        self.convs = nn.Sequential(*inner, conv_bn(out if inner else inp, out))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = self.convs(resize(x, ((height + 1) // 2, (width + 1) // 2)))
        if self.stride == 1:
            y = resize(y, (height, width))
        return F.relu(y, inplace=True)


class FactorizedReduce(nn.Module):
    """The skip of stride 2: two 1x1 convolutions of stride 2, one of them a pixel further down and right.

    Together they read the even and the odd diagonal of pixels; concatenated, then batch norm and ReLU.
    """

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inp, out // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inp, out - out // 2, 1, stride=2, bias=False)
        self.norm = SmallMapBatchNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        # The zero border is read on maps of odd size alone, where the shifted one would come out a pixel smaller.
        shifted = F.pad(x[..., 1:, 1:], (0, 1, 0, 1))
        return F.relu(self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1)), inplace=True)


def skip(inp: int, out: int, stride: int) -> nn.Module:
    """Nothing at all at stride 1 (``inp`` must equal ``out``), ``FactorizedReduce`` at stride 2."""
    if stride == 2:
        return FactorizedReduce(inp, out)
    assert inp == out, (inp, out)
    return nn.Identity()


def plain(inp: int, out: int, stride: int, depth: int = 1) -> nn.Sequential:
    """``depth`` times 3x3 convolution, batch norm, ReLU; the first has the stride. No residual addition."""
    first = conv_bn_relu(inp, out, stride=stride)
    return nn.Sequential(first, *(conv_bn_relu(out, out) for _ in range(depth - 1)))


MAKERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "skip": skip,
    "conv": plain,
    "zoomed": Zoomed,
    "conv_2x": lambda inp, out, stride: plain(inp, out, stride, depth=2),
    "zoomed_2x": lambda inp, out, stride: Zoomed(inp, out, stride, depth=2),
}
"""How to make each operator from (channels in, channels out, stride), in the authors' order."""
