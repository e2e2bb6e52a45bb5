"""BiFPN over many levels (EfficientDet, Tan et al., CVPR 2020; over P2..P9 in ESeg, Meng et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import SeparableConv, activation, fusion_weights, resize_to
from ..layers.resize import check_mode, pool_to
from ..segmentation import FeatureInfo
from .fpn import TopDown
from .pyramid import PyramidInputs


class Fusion(nn.Module):
    """One BiFPN node: O = conv(act(sum_i w_i I_i / (eps + sum_j w_j))); n maps (B, C, h, w) -> (B, C, h, w).

    As in EfficientDet the activation stands between fusion and convolution, and the node ends with its norm: maps of
    either sign travel along the pyramid (with the activation last, ESeg-Lite-S learned more slowly on CamVid: 0.31
    against 0.37 val mIoU after 3 epochs, one run each). In an exported graph the weights are constants and the
    runtime folds their arithmetic.
    """

    def __init__(self, inputs: int, width: int, act: str) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.ones(inputs))
        self.act = activation(act)
        self.conv = SeparableConv(width, width, act="none")

    def weights(self, inputs: int) -> Tensor:
        """(n,) before normalisation, of so many maps (here always all)."""
        return self.v

    def forward(self, *maps: Tensor) -> Tensor:
        weights = fusion_weights(self.weights(len(maps))).unbind()
        total = weights[0] * maps[0]
        for w, x in zip(weights[1:], maps[1:], strict=True):
            total = total + w * x
        return self.conv(self.act(total))


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass over L >= 2 levels; every size stays as it is.

    An inner level's bottom-up node takes three maps: the layer's own input, the top-down result and the
    finer level's output. The finest level ends with the top-down pass, the coarsest has no top-down node.
    """

    def __init__(self, levels: int, width: int, act: str, resize: str) -> None:
        super().__init__()
        self.resize = resize
        self.down = nn.ModuleList(Fusion(2, width, act) for _ in range(levels - 1))
        inner = [Fusion(3, width, act) for _ in range(levels - 2)]
        self.up = nn.ModuleList([*inner, Fusion(2, width, act)])

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        top_down = list(levels)
        for i in range(len(levels) - 2, -1, -1):
            coarser = resize_to(top_down[i + 1], levels[i], self.resize)
            top_down[i] = self.down[i](levels[i], coarser)
        outputs = [top_down[0]]
        for i in range(1, len(levels)):
            finer = pool_to(outputs[-1], levels[i])
            own = (levels[i], top_down[i]) if i < len(levels) - 1 else (levels[i],)
            outputs.append(self.up[i - 1](*own, finer))
        return outputs


class BiFPN(nn.Module):
    """``repeats`` BiFPN layers on the backbone's maps and coarser levels pooled from them.

    Args:
        features: the backbone's maps, finest first.
        width: channels of every level.
        levels: how many levels, 2 or more; 8 on top of strides 4..32 is P2..P9.
        repeats: BiFPN layers in a row; 0 leaves a single top-down pass, which is an FPN's.
        act: activation name, applied between each node's fusion and its convolution.
        resize: "nearest" or "bilinear" on the way down.
    """

    def __init__(
        self,
        features: Sequence[FeatureInfo],
        *,
        width: int = 64,
        levels: int = 8,
        repeats: int = 3,
        act: str = "relu",
        resize: str = "nearest",
    ) -> None:
        super().__init__()
        self.width, self.levels, self.act, self.resize = width, levels, act, check_mode(resize)
        self.inputs = PyramidInputs(features, width, levels)
        layers = nn.Sequential(*(BiFPNLayer(levels, width, act, resize) for _ in range(repeats)))
        self.layers: nn.Module = layers if repeats else self.bare()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C_i, h_i, w_i)] -> ``levels`` maps (B, width, h_l, w_l), finest first."""
        levels: list[Tensor] = self.layers(self.inputs(maps))
        return levels

    def bare(self) -> TopDown:
        """What stands for no layers at all."""
        return TopDown(self.levels, self.width, self.act, self.resize)
