"""VoVNet and VoVNetV2: features are aggregated once, at the end of a block."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="vovnet",
    family="VoVNetV2",
    claim="One-shot aggregation keeps dense features cheap in memory traffic.",
    module="vovnet",
    references=(
        Reference("ese_vovnet19b_dw", 224, 6.543, 1.333),
        Reference("ese_vovnet39b", 224, 24.569, 7.074),
        Reference("vovnet39a", 224, 22.600, 7.072),
    ),
)
