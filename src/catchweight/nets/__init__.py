"""Networks: backbones, necks, heads and whole published segmentation networks."""

from __future__ import annotations

from .build import build_from_spec, build_network, describe_network, network_names, pruned_spec
from .checkpoint import load_network, save_network
from .segmentation import Family, FeatureInfo, NetSpec, SegmentationNet, Weights

__all__ = [
    "Family",
    "FeatureInfo",
    "NetSpec",
    "SegmentationNet",
    "Weights",
    "build_from_spec",
    "build_network",
    "describe_network",
    "load_network",
    "network_names",
    "pruned_spec",
    "save_network",
]
