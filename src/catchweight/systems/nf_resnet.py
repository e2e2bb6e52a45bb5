"""NF-ResNet: signal propagation kept in check without normalisation."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="nf_resnet",
    family="NF-ResNet",
    claim="Standardised weights and scaled residuals replace batch norm.",
    module="nfnet",
    references=(Reference("nf_resnet50", 224, 25.557, 4.089), Reference("nf_resnet26", 224, 15.995, 2.342)),
)
