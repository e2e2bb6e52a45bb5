"""Feature pyramid network (Lin et al., CVPR 2017), with depthwise-separable output convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..layers import SeparableConv, resize_to
from ..layers.resize import check_mode
from ..segmentation import FeatureInfo
from .pyramid import PyramidInputs


class FPN(nn.Module):
    """Top-down sums, then one 3x3 separable convolution a level.

    Args:
        features: the backbone's maps, finest first.
        width: channels of every level.
        levels: how many levels; beyond the backbone's they are max-pooled.
        act: activation name.
        resize: "nearest" or "bilinear" on the way down.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        width: int = 64,
        levels: int = 4,
        act: str = "relu",
        resize: str = "nearest",
    ) -> None:
        super().__init__()
        self.width, self.levels, self.resize = width, levels, check_mode(resize)
        self.inputs = PyramidInputs(features, width, levels)
        self.outputs = nn.ModuleList(SeparableConv(width, width, act=act) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C_i, h_i, w_i)] -> ``levels`` maps (B, width, h_l, w_l), finest first."""
        return top_down(self.inputs(maps), self.outputs, self.resize)


class TopDown(nn.Module):
    """What an FPN does between its inputs and its head: L levels (B, width, h_l, w_l) -> the same shapes.

    Args:
        levels, width, act, resize: as of :class:`FPN`.
    """

    def __init__(self, levels: int, width: int, act: str, resize: str) -> None:
        super().__init__()
        self.resize = check_mode(resize)
        self.outputs = nn.ModuleList(SeparableConv(width, width, act=act) for _ in range(levels))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return top_down(levels, self.outputs, self.resize)


def top_down(levels: Sequence[Tensor], outputs: nn.ModuleList, resize: str) -> list[Tensor]:
    """Each level plus all coarser ones, then its own convolution; finest first. Further ``outputs`` are left out."""
    found = list(levels)
    for i in range(len(found) - 2, -1, -1):
        found[i] = found[i] + resize_to(found[i + 1], found[i], resize)
    return [conv(x) for conv, x in zip(outputs, found, strict=False)]
