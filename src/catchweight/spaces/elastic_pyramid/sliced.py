"""Convolutions and norms that compute with the leading part of their weights, in the place of those of a plain network.

They keep the names of parameters and buffers, so that a member's state is cut from the supernet's name by name. Unlike
:class:`..elastic_layers.ElasticConv` they are single layers: timm's blocks run them as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

from ...nets.layers import SmallMapBatchNorm
from ...nets.layers.norm import FEWEST_VALUES
from ..choices import Width
from ..elastic_layers import Channels, present
from ..structure import scored


class SlicedConv(nn.Conv2d):
    """As many input channels as come in, and leading output channels. (B, Cin, H, W) -> (B, Cout, H', W').

    Args:
        like: the widest; its parameters become this layer's own.
        channels_out: width of the output; a depthwise convolution gives as many as come in.
    """

    def __init__(self, like: nn.Conv2d, channels_out: Channels) -> None:
        super().__init__(
            like.in_channels, like.out_channels, _pair(like.kernel_size), _pair(like.stride),
            like.padding if isinstance(like.padding, str) else _pair(like.padding), _pair(like.dilation),
            like.groups, like.bias is not None, device="meta",
        )  # fmt: skip
        self.weight, self.bias = like.weight, like.bias
        self.channels_out = channels_out
        self.same = isinstance(like, Conv2dSame)

    def forward(self, x: Tensor) -> Tensor:
        if self.same:  # TensorFlow's padding, which depends on the input's size
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        depthwise = self.groups > 1
        width = x.shape[1] if depthwise else present(self.channels_out)
        weight, bias = self.weight, self.bias
        if width < self.out_channels or x.shape[1] < self.in_channels:
            weight = weight[:width] if depthwise else weight[:width, : x.shape[1]]
            bias = None if bias is None else bias[:width]
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, width if depthwise else 1)


class SlicedNorm(nn.BatchNorm2d):
    """Batch norm by as many leading channels as come in, then the activation. Keeps (B, C, H, W).

    All widths share one norm: its statistics are those of the last ones trained, so a member's are to be recalibrated.

    Args:
        like: the widest, with an activation of its own or not; parameters and statistics become this layer's.
        channels: width of what comes in.
    """

    def __init__(self, like: nn.BatchNorm2d, channels: Channels) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, device="meta")
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.channels = channels
        self.act: nn.Module = getattr(like, "act", nn.Identity())
        self.fewest = FEWEST_VALUES if isinstance(like, SmallMapBatchNorm) else 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self._normalised(x))
        mask = self.channels.mask() if isinstance(self.channels, Width) else None
        return scored(y, self.channels) if mask is None else y * mask.to(y.dtype)[:, None, None]

    def _normalised(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        width = x.shape[1]
        mean, var = self.running_mean, self.running_var
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if width < self.num_features:
            mean, var = mean[:width], var[:width]
            weight, bias = weight[:width], bias[:width]
        if not self.training:
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)
        if x.numel() // width >= self.fewest:
            return F.batch_norm(x, mean, var, weight, bias, True, self._step(), self.eps)
        self._follow(x.detach().float(), mean, var)
        # Clones: another forward before this one's backward moves the buffers in place.
        return F.batch_norm(x, mean.clone(), var.clone(), weight, bias, False, 0.0, self.eps)

    def _step(self) -> float:
        """Share of this batch in the running statistics; without a momentum they are plain means over all batches."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    @torch.no_grad()
    def _follow(self, x: Tensor, mean: Tensor, var: Tensor) -> None:
        """Move the statistics by a batch too small to have any; see :class:`.SmallMapBatchNorm`."""
        step = self._step()
        # Not seen by autograd: a larger batch's forward in the same step holds the statistics, but does not read them.
        mean, var = mean.data, var.data
        mean.lerp_(x.mean((0, 2, 3)).to(mean.dtype), step)
        spread = (x - mean.float().view(1, -1, 1, 1)).square().mean((0, 2, 3))
        var.lerp_(spread.to(var.dtype), step)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = values
    return rows, columns


def sliced(module: Any, channels: Channels) -> SlicedConv | SlicedNorm:
    """What takes the place of a convolution or norm that gives so many channels."""
    return SlicedConv(module, channels) if isinstance(module, nn.Conv2d) else SlicedNorm(module, channels)


__all__ = ["SlicedConv", "SlicedNorm", "sliced"]
