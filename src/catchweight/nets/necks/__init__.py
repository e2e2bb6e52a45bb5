"""Necks: backbone maps in, a pyramid of equal width out."""

from __future__ import annotations

from .bifpn import BiFPN
from .fpn import FPN, TopDown

__all__ = ["FPN", "BiFPN", "TopDown"]
