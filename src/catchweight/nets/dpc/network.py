"""Networks with a dense prediction cell between backbone and classifier, by name.

``dpc/<timm backbone>:cell=best,stride=16,filters=256,rate=1,pool=dense``: what is as here need not be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ...errors import UsageError, unknown
from ..backbones import TimmBackbone, load_weights
from ..layers import ConvNormAct, round_channels
from ..segmentation import Family, FeatureInfo, NetSpec, SegmentationNet, Weights
from .cell import BACKBONE, CELLS, Branch, Cell
from .ops import Pooling, PyramidPooling, SeparableAtrous

PREFIX = "dpc/"
KEEP = 0.9
"""Share of the concatenated features that dropout keeps, as released."""


@dataclass(frozen=True)
class DpcConfig:
    """All but the backbone.

    Args:
        cell: the branches.
        stride: output stride of the backbone, 8 or 16 (by dilation), or 32.
        filters: channels of every branch and of the projection, before the network's ``width``.
        rate: what rates are multiplied by, then rounded, 1 at least; ``None``: 16 / stride, as published. On small
            maps the largest published rates see padding only; less than 1 brings them back.
        pool: pyramid pooling as in the released code, "dense", or as in the paper, "grid"; see :func:`.ops.pool`.

    Raises:
        UsageError: a value out of range.
    """

    cell: Cell = CELLS["best"]
    stride: int = 16
    filters: int = 256
    rate: float | None = None
    pool: Pooling = "dense"

    def __post_init__(self) -> None:
        if self.stride not in (8, 16, 32):
            raise UsageError(f"a dense prediction cell stands on a map of stride 8, 16 or 32, but got {self.stride}")
        if self.filters < 1:
            raise UsageError(f"filters must be 1 or more, but got {self.filters}")
        if self.rate is not None and not 0 < self.rate <= 8:
            raise UsageError(f"rate must lie in (0, 8], but got {self.rate}")
        if self.pool not in get_args(Pooling):
            raise unknown("pyramid pooling", self.pool, get_args(Pooling))

    def dilation(self, rate: int) -> int:
        """Of a convolution whose rate in the cell is ``rate``."""
        factor = 16 / self.stride if self.rate is None else self.rate
        return max(1, int(rate * factor + 0.5))


class CellNetwork(nn.Module):
    """A cell as layers: (B, C, h, w) -> (B, F, h, w); branches, dropout on their concatenation, 1x1 to F."""

    def __init__(self, channels: int, filters: int, config: DpcConfig) -> None:
        super().__init__()
        self.sources = [branch.source for branch in config.cell.branches]
        self.branches = nn.ModuleList(
            _operation(branch, channels if branch.source == BACKBONE else filters, filters, config)
            for branch in config.cell.branches
        )
        self.dropout = nn.Dropout(1 - KEEP)
        self.project = ConvNormAct(filters * len(self.sources), filters)

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for source, branch in zip(self.sources, self.branches, strict=True):
            found.append(branch(x if source == BACKBONE else found[source]))
        return self.project(self.dropout(torch.cat(found, 1)))


def _operation(branch: Branch, channels: int, filters: int, config: DpcConfig) -> nn.Module:
    if branch.kind == "conv":
        return ConvNormAct(channels, filters)
    if branch.kind == "pool":
        return PyramidPooling(channels, filters, (branch.rows, branch.columns), config.pool)
    return SeparableAtrous(channels, filters, (config.dilation(branch.rows), config.dilation(branch.columns)))


class DpcNet(SegmentationNet):
    """Backbone at an output stride of 8 or 16, cell, 1x1 classifier: what DeepLabv3 is, with a cell for its ASPP.

    ``spec.width`` scales the filters; there are no auxiliary heads.
    """

    def __init__(self, spec: NetSpec, backbone: TimmBackbone, config: DpcConfig) -> None:
        mean, std = backbone.mean_std
        super().__init__(spec, mean=mean, std=std)
        filters = config.filters if spec.width == 1 else round_channels(config.filters * spec.width)
        self.config = config
        self.backbone = backbone
        self.cell = CellNetwork(backbone.info[-1].channels, filters, config)
        self.head = nn.Conv2d(filters, spec.classes, 1)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        return self.backbone.info

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.backbone(x)[-1]))


def dpc_backbone(name: str, stride: int) -> TimmBackbone:
    """The whole of a timm backbone, its coarsest map at ``stride``; the strides left out become dilation."""
    return TimmBackbone(name, (stride,), output_stride=stride)


def network_name(backbone: str, config: DpcConfig) -> str:
    """The name that ``build_network`` takes.

    >>> network_name("resnet18", DpcConfig(stride=8))
    'dpc/resnet18:stride=8'
    """
    default = DpcConfig()
    changed = {f.name: getattr(config, f.name) for f in fields(DpcConfig)}
    text = ",".join(f"{k}={_text(v)}" for k, v in changed.items() if v != getattr(default, k))
    return f"{PREFIX}{backbone}{':' if text else ''}{text}"


def parse_name(name: str) -> tuple[str, DpcConfig]:
    """Backbone and the rest of a name.

    Raises:
        UsageError: unknown option, or a value that cannot be read.
    """
    backbone, _, options = name.removeprefix(PREFIX).partition(":")
    config = DpcConfig()
    for item in filter(None, options.split(",")):
        key, _, value = item.partition("=")
        if key not in _READERS:
            raise unknown("network option", key, _READERS)
        try:
            read = _READERS[key](value)
        except ValueError as error:
            raise UsageError(f'network option {key}: cannot read "{value}"') from error
        config = replace(config, **{key: read})
    return backbone, config


def _text(value: Any) -> str:
    named = [name for name, cell in CELLS.items() if cell == value]
    return named[0] if named else f"{value:g}" if isinstance(value, float) else str(value)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "cell": Cell.parse, "stride": int, "filters": int, "rate": float, "pool": str,
}  # fmt: skip


def build(spec: NetSpec, weights: Weights) -> DpcNet:
    """The network of a name; errors as ``build_network`` raises them."""
    backbone, config = parse_name(spec.name)
    features = dpc_backbone(backbone, config.stride)
    pretrained = load_weights(features, weights)
    net = DpcNet(spec, features, config)
    net.pretrained = pretrained
    return net


FAMILY = Family(
    names={
        f"{PREFIX}tf_efficientnet_lite0": "the best dense prediction cell (Chen et al., NeurIPS 2018) on any timm "
        "backbone",
        f"{PREFIX}resnet18": "the same; with :cell=aspp DeepLabv3+'s context module (Chen et al., ECCV 2018)",
    },
    build=build,
    prefix=PREFIX,
)

__all__ = ["FAMILY", "PREFIX", "CellNetwork", "DpcConfig", "DpcNet", "dpc_backbone", "network_name", "parse_name"]
