"""Search spaces: networks with choices in them, and functions from choices to networks."""

from __future__ import annotations

from collections.abc import Callable

from .block_map import BlockMap, ExpectedLatency
from .choices import Choice, Kernel, Resolution, Width
from .decisions import Decision, Decisions
from .dpc import DensePredictionCells, dpc_space
from .elastic import Elastic
from .elastic_layers import ElasticConv, ElasticDepthwise, Residual, Zoomed, basic_block
from .elastic_pyramid import ElasticPyramid, elastic_fpn
from .fasterseg import FasterSegSpace, fasterseg_space
from .relaxation import Relaxation
from .segmentation import SegmentationSpace
from .space import Space
from .structure import Depth, OneOf, Rescale
from .whole import WholeNetworks

SPACES: dict[str, Callable[..., SegmentationSpace]] = {
    "elastic": ElasticPyramid,
    "elastic-fpn": elastic_fpn,
    "dpc": dpc_space,
    "fasterseg": fasterseg_space,
}
"""Spaces that ``fit`` searches, by name; called with (classes, sizes, backbone=, weights=)."""

__all__ = [
    "SPACES",
    "BlockMap",
    "Choice",
    "Decision",
    "Decisions",
    "DensePredictionCells",
    "Depth",
    "Elastic",
    "ElasticConv",
    "ElasticDepthwise",
    "ExpectedLatency",
    "FasterSegSpace",
    "Kernel",
    "OneOf",
    "ElasticPyramid",
    "Relaxation",
    "SegmentationSpace",
    "Rescale",
    "Residual",
    "Resolution",
    "Space",
    "WholeNetworks",
    "Width",
    "Zoomed",
    "basic_block",
]
