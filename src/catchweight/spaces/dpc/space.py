"""The space of dense prediction cells on a backbone (Chen et al., NeurIPS 2018)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...nets.backbones import load_weights
from ...nets.dpc import BACKBONE, DpcConfig, dpc_backbone, network_name
from ...nets.segmentation import FeatureInfo, NetSpec, Weights
from ..segmentation import SegmentationSpace, Size
from .cells import CellOptions, Cells, cell_of
from .elastic_cell import OpenCell

PUBLISHED_CROP = 513
"""Pixels on either side of the crops for which the published rates were chosen."""

_BRANCH = re.compile(r"(cell\.branches\.(\d+))\.(.*)")


class DensePredictionCells(SegmentationSpace):
    """Any cell between a backbone and a classifier; (B, 3, H, W) -> (B, K, H, W).

    Open are for every branch its input, operation, rates and grid, and the input size. As published, cells are trained
    apart from one another (see :mod:`catchweight.search.proxy`); here they also share weights: of a branch those of
    each operation, whatever its rates or grid, once for the backbone's map and once for other branches' outputs.
    Members are the networks ``dpc/<backbone>:cell=...``.

    Args:
        classes: number of classes K.
        sizes: input sizes (H, W) in pixels that a member may be made for.
        backbone: timm's name.
        weights: of the backbone, as ``build_network`` takes them.
        config: stride, filters and so on; its cell is not looked at.
        options: how large the space is.

    Raises:
        UsageError: unknown backbone; a size below 64 pixels.
        CatchweightError: the backbone cannot be dilated; the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        classes: int,
        sizes: Sequence[Size],
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: Weights = "none",
        config: DpcConfig | None = None,
        options: CellOptions | None = None,
    ) -> None:
        config = config or DpcConfig()
        features = dpc_backbone(backbone, config.stride)
        mean, std = features.mean_std
        super().__init__(NetSpec(network_name(backbone, config), classes), sizes, mean=mean, std=std)
        self.config, self.cell_options = config, options or CellOptions()
        self.pretrained = load_weights(features, weights)
        self.backbone = features
        self.cell = OpenCell(features.info[-1].channels, config.filters, self.cell_options, config)
        self.head = nn.Conv2d(config.filters, classes, 1)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        return self.backbone.info

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.backbone(x)[-1]))

    def distinct(self) -> Cells:
        """The same space with every cell once, however its branches are ordered, and operations drawn as published."""
        return Cells(self.cell_options, [self.decisions()["size"]])

    def network_name(self, arch: Mapping[str, Any]) -> str:
        return network_name(self.backbone.name, replace(self.config, cell=cell_of(arch)))

    def member_state(self, arch: Mapping[str, Any]) -> dict[str, Tensor]:
        mine, cell = self.state_dict(), cell_of(arch)

        def here(name: str) -> str:
            found = _BRANCH.fullmatch(name)
            if found is None:
                return name
            branch = cell.branches[int(found[2])]
            return f"{found[1]}.{'outer' if branch.source == BACKBONE else 'inner'}.{branch.kind}.{found[3]}"

        return {name: mine[here(name)] for name in self.subnet(arch, "none").state_dict()}


def dpc_space(
    classes: int, sizes: Sequence[Size], *, backbone: str = "tf_efficientnet_lite0", weights: Weights = "none"
) -> DensePredictionCells:
    """The published space, as the table of spaces makes it: on inputs smaller than the published crop rates shrink with
    it, since the largest would see nothing but padding."""
    shorter = max(min(size) for size in sizes)
    rate = None if shorter >= PUBLISHED_CROP else round(shorter / PUBLISHED_CROP, 2)
    return DensePredictionCells(classes, sizes, backbone=backbone, weights=weights, config=DpcConfig(rate=rate))


__all__ = ["DensePredictionCells", "dpc_space"]
