"""Search spaces: networks with choices in them, and functions from choices to networks."""

from __future__ import annotations

from .block_map import BlockMap, ExpectedLatency
from .choices import Choice, Kernel, Resolution, Width
from .decisions import Decision, Decisions
from .elastic import Elastic
from .elastic_layers import ElasticConv, ElasticDepthwise, Residual, Zoomed, basic_block
from .relaxation import Relaxation
from .space import Space
from .structure import Depth, OneOf, Rescale
from .whole import WholeNetworks

__all__ = [
    "BlockMap",
    "Choice",
    "Decision",
    "Decisions",
    "Depth",
    "Elastic",
    "ElasticConv",
    "ElasticDepthwise",
    "ExpectedLatency",
    "Kernel",
    "OneOf",
    "Relaxation",
    "Rescale",
    "Residual",
    "Resolution",
    "Space",
    "WholeNetworks",
    "Width",
    "Zoomed",
    "basic_block",
]
