"""EfficientNet: depth, width and resolution scaled by one coefficient."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="efficientnet",
    family="EfficientNet",
    claim="A searched block, scaled jointly in depth, width and resolution.",
    module="efficientnet",
    references=(
        Reference("efficientnet_b0", 224, 5.289, 0.386),
        Reference("efficientnet_b1", 240, 7.794, 0.687),
        Reference("efficientnet_b3", 300, 12.233, 1.827),
    ),
)
