"""ResNet: layers learn a residual that is added to their input."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="resnet",
    family="ResNet",
    claim="Depth trains when blocks add to their input.",
    module="resnet",
    references=(Reference("resnet50", 224, 25.557, 4.089),),
)
