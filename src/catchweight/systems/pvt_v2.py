"""PVT v2: a transformer that gives a pyramid of maps."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="pvt_v2",
    family="PVT v2",
    claim="Attention over reduced keys and values gives maps at strides 4 to 32.",
    module="pvt_v2",
    references=(Reference("pvt_v2_b0", 224, 3.667, 0.566), Reference("pvt_v2_b1", 224, 14.009, 2.108)),
)
