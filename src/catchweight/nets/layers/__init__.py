"""Small building blocks shared by necks and heads."""

from __future__ import annotations

from .conv import ConvNormAct, SeparableConv, activation, round_channels
from .fusion import fusion_weights
from .norm import SmallMapBatchNorm
from .resize import halve, resize_to

__all__ = [
    "ConvNormAct",
    "SeparableConv",
    "SmallMapBatchNorm",
    "activation",
    "fusion_weights",
    "halve",
    "resize_to",
    "round_channels",
]
