"""Convolution, normalisation, activation: the unit that necks and heads are made of."""

from __future__ import annotations

from torch import nn

from ...errors import unknown
from .norm import SmallMapBatchNorm

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
}


def activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, at least one: ``round_channels(43) == 40``."""
    return max(divisor, int(channels / divisor + 0.5) * divisor)


class ConvNormAct(nn.Sequential):
    """k x k convolution (no bias), batch norm, activation; keeps the size at stride 1."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, *, groups: int = 1, act: str = "relu"
    ) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False),
            SmallMapBatchNorm(channels_out),
            activation(act),
        )


class SeparableConv(nn.Sequential):
    """3x3 depthwise then 1x1 convolution, batch norm, activation (no norm between the two)."""

    def __init__(self, channels_in: int, channels_out: int, *, act: str = "relu") -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
            ConvNormAct(channels_in, channels_out, act=act),
        )
