"""What every neck starts with: backbone maps to one width, and coarser levels beyond the backbone's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..layers import ConvNormAct, halve
from ..segmentation import FeatureInfo


class PyramidInputs(nn.Module):
    """1x1 convolution and norm per backbone map, then max-pooled levels until there are ``levels``.

    The first added level has its own 1x1 convolution from the coarsest backbone map, later ones are
    pooled only (EfficientDet, Tan et al., 2020). [(B, C_i, h_i, w_i)] -> [(B, width, h_l, w_l)],
    finest first; a pooled size is ceil(h / 2).
    """

    def __init__(self, features: Sequence[FeatureInfo], width: int, levels: int) -> None:
        super().__init__()
        used = features[:levels]
        self.laterals = nn.ModuleList(ConvNormAct(f.channels, width, act="none") for f in used)
        self.added = levels - len(used)
        self.beyond = ConvNormAct(used[-1].channels, width, act="none") if self.added else None

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        # One lateral per map; the backbone hands out exactly the maps that are used.
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        if self.beyond is not None:
            levels.append(halve(self.beyond(maps[-1])))
            for _ in range(self.added - 1):
                levels.append(halve(levels[-1]))
        return levels
