"""EfficientNet-Lite: EfficientNet without squeeze-excite and with ReLU6, for deployment."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="efficientnet_lite",
    family="EfficientNet-Lite",
    claim="EfficientNet without what small devices dislike.",
    module="efficientnet",
    references=(Reference("efficientnet_lite0", 224, 4.652, 0.385),),
)
