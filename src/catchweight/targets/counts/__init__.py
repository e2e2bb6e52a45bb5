"""Costs that need no clock, by operator and by module."""

from __future__ import annotations

from .network import Counts, ModuleCount, OpCount, Unsupported, count, count_macs, count_params

__all__ = ["Counts", "ModuleCount", "OpCount", "Unsupported", "count", "count_macs", "count_params"]
