"""Our own spaces: an elastic pretrained backbone under an FPN (``elastic-fpn``, ``fit``'s default) or a BiFPN."""

from __future__ import annotations

from .options import Options
from .space import ElasticPyramid, elastic_fpn

__all__ = ["ElasticPyramid", "Options", "elastic_fpn"]
