"""FasterSeg: a searched segmenter of two branches at different resolutions, built from zoomed convolutions.

Chen, Gong, Liu, Zhang, Li, Wang, "FasterSeg: Searching for Faster Real-time Semantic Segmentation", ICLR 2020.
Here are the derived networks: any architecture of the paper's search space, the two published ones by name.
"""

from __future__ import annotations

from .architecture import OPS, Branch, FasterSegConfig
from .network import FAMILY, FasterSeg
from .table import FASTERSEGS, config_name, fasterseg_config

__all__ = [
    "FAMILY",
    "FASTERSEGS",
    "OPS",
    "Branch",
    "FasterSeg",
    "FasterSegConfig",
    "config_name",
    "fasterseg_config",
]
