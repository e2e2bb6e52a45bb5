"""Our own best space and ``fit``'s default: a pretrained backbone and a BiFPN, both elastic."""

from __future__ import annotations

from .options import Options
from .space import ElasticPyramid, elastic_fpn

__all__ = ["ElasticPyramid", "Options", "elastic_fpn"]
