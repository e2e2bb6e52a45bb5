"""Dual path networks: a residual and a dense path through the same blocks."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="dpn",
    family="DPN",
    claim="Features are re-used and new ones explored in one block.",
    module="dpn",
    references=(Reference("dpn68", 224, 12.612, 2.326), Reference("dpn92", 224, 37.668, 6.502)),
)
