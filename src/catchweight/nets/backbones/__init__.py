"""Backbones: any timm network that gives feature maps, and where its weights come from."""

from __future__ import annotations

from .named import PUBLISHED, PublishedBackbone
from .timm_backbone import TimmBackbone
from .weights import load_weights

__all__ = ["PUBLISHED", "PublishedBackbone", "TimmBackbone", "load_weights"]
