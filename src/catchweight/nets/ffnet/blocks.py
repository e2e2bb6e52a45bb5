"""The parts of an FFNet: convolution unit, residual blocks, the two stems, the fixed Gaussian."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import SmallMapBatchNorm


def conv_bn(inp: int, out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps ``ceil(size / stride)``, then batch norm; no activation."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inp, out, kernel, stride, padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, SmallMapBatchNorm(out))


def conv_bn_relu(inp: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """``conv_bn`` and ReLU."""
    return nn.Sequential(*conv_bn(inp, out, kernel, stride), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """``relu(shortcut(x) + body(x))``; the shortcut is a 1x1 convolution where shape changes, else nothing."""

    def __init__(self, body: nn.Sequential, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = inp == out and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inp, out, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x), inplace=True)


def basic_block(inp: int, channels: int, stride: int = 1, dilation: int = 1) -> Residual:
    """Two 3x3 convolutions; ``(B, inp, H, W) -> (B, channels, H/stride, W/stride)``."""
    body = nn.Sequential(
        *conv_bn(inp, channels, 3, stride, dilation),
        nn.ReLU(inplace=True),
        *conv_bn(channels, channels, 3, 1, dilation),
    )
    return Residual(body, inp, channels, stride)


def bottleneck_block(inp: int, channels: int, stride: int = 1, dilation: int = 1) -> Residual:
    """1x1, 3x3 (with the stride), 1x1 to four times ``channels``: one 3x3 convolution where a basic block has two."""
    body = nn.Sequential(
        *conv_bn(inp, channels, 1),
        nn.ReLU(inplace=True),
        *conv_bn(channels, channels, 3, stride, dilation),
        nn.ReLU(inplace=True),
        *conv_bn(channels, 4 * channels, 1),
    )
    return Residual(body, inp, 4 * channels, stride)


def mixed_block(inp: int, channels: int, stride: int = 1, dilation: int = 1) -> Residual:
    """A basic block whose second convolution is 1x1, for telling a block's shape from its receptive field."""
    body = nn.Sequential(
        *conv_bn(inp, channels, 3, stride, dilation),
        nn.ReLU(inplace=True),
        *conv_bn(channels, channels, 1),
    )
    return Residual(body, inp, channels, stride)


BLOCKS = {"basic": (basic_block, 1), "bottleneck": (bottleneck_block, 4), "mixed": (mixed_block, 1)}
"""Block by name: how to make it, and how many times its base channels come out."""


class GaussianHalve(nn.Module):
    """Fixed 5x5 Gaussian (sigma 0.7), stride 2, reflected borders: ``(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))``.

    The authors' code pads rows only and by one pixel; here both axes are padded by two, so the halved image stays
    centred on the full one.
    """

    kernel: Tensor

    def __init__(self, sigma: float = 0.7) -> None:
        super().__init__()
        line = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * sigma**2))
        plane = torch.outer(line, line)
        self.register_buffer("kernel", plane / plane.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.to(x.dtype).expand(x.shape[1], 1, 5, 5)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), weight, stride=2, groups=x.shape[1])
