"""``fit``, the main job: every stage in order, resumable."""

from __future__ import annotations

from .job import native_size, prepare
from .main import BudgetMissedError, FitResult, PointResult, describe_plan, fit
from .settings import CompressionSettings, FitSettings, SearchSettings

__all__ = [
    "BudgetMissedError", "CompressionSettings", "FitResult", "FitSettings", "PointResult", "SearchSettings",
    "describe_plan", "fit", "native_size", "prepare",
]  # fmt: skip
