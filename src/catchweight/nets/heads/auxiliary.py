"""A training-only classifier on one backbone map (deep supervision, PSPNet, Zhao et al., CVPR 2017)."""

from __future__ import annotations

from torch import nn

from ..layers import ConvNormAct


class AuxiliaryHead(nn.Sequential):
    """3x3 convolution, norm, activation, 1x1 classifier: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(self, channels: int, hidden: int, classes: int, *, act: str = "relu") -> None:
        super().__init__(ConvNormAct(channels, hidden, 3, act=act), nn.Conv2d(hidden, classes, 1))
