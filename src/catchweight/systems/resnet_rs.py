"""ResNet-RS: an old network, new training and scaling."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="resnet_rs",
    family="ResNet-RS",
    claim="ResNet with the D stem, squeeze-excite and better scaling rules.",
    module="resnet",
    references=(Reference("resnetrs50", 160, 35.692, 2.279), Reference("resnetrs101", 192, 63.619, 6.012)),
)
