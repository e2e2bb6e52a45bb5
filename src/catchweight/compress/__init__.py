"""Compression: structural pruning to a measured latency."""

from __future__ import annotations

from .allocate import METHODS, OutOfReachError
from .channels import ChannelGroup, Groups
from .groups import find_groups
from .halp import CompressSettings, PruneResult, prune
from .knapsack import solve
from .modules import load_pruned, prune_module, save_pruned
from .schedule import HalpSettings

__all__ = [
    "METHODS",
    "ChannelGroup",
    "CompressSettings",
    "Groups",
    "HalpSettings",
    "OutOfReachError",
    "PruneResult",
    "find_groups",
    "load_pruned",
    "prune",
    "prune_module",
    "save_pruned",
    "solve",
]
