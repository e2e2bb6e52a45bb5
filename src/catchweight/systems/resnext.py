"""ResNeXt: cardinality, the number of parallel equal paths, as a grouped convolution."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="resnext",
    family="ResNeXt",
    claim="Many equal paths at the cost of one wide one.",
    module="resnet",
    references=(Reference("resnext50_32x4d", 224, 25.029, 4.230), Reference("resnext101_32x4d", 224, 44.178, 7.970)),
)
