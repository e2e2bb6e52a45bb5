"""Heads: a pyramid in, logits at the finest level's size out."""

from __future__ import annotations

from .auxiliary import AuxiliaryHead
from .multilevel import LinearHead, WeightedHead

__all__ = ["AuxiliaryHead", "LinearHead", "WeightedHead"]
