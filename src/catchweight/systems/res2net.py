"""Res2Net: several scales inside one residual block."""

from __future__ import annotations

from .backbone import Reference, backbone_system

SYSTEM = backbone_system(
    name="res2net",
    family="Res2Net",
    claim="Splits of a block's channels feed one another, widening its field at unchanged cost.",
    module="res2net",
    references=(
        Reference("res2net50_26w_4s", 224, 25.699, 4.255),
        Reference("res2net50_14w_8s", 224, 25.060, 4.179),
        Reference("res2next50", 224, 24.671, 4.173),
    ),
)
