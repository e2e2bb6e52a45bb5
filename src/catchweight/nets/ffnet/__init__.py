"""FFNet: a deep ResNet of basic blocks and a small convolutional up-head, nothing else.

Mehta, Skliar, Ben Yahia, Borse, Porikli, Habibian, Blankevoort, "Simple and Efficient Architectures for Semantic
Segmentation", CVPR Workshops 2022. The reading: what special segmentation architectures buy is receptive
field, and a plain stack of basic blocks has it already.
"""

from __future__ import annotations

from .network import FAMILY, FFNet
from .table import FFNETS, FFNetConfig, config_name, ffnet_config

__all__ = ["FAMILY", "FFNETS", "FFNet", "FFNetConfig", "config_name", "ffnet_config"]
