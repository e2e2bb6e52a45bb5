"""Pre-activation ResNet: nothing but addition on the path from block to block."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="preact_resnet",
    family="pre-activation ResNet",
    claim="Norm and activation before each convolution leave the skip path clean.",
    module="resnetv2",
    references=(Reference("resnetv2_50", 224, 25.549, 4.089),),
)
