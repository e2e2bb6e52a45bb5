"""``fit``, the main job: every stage in order, resumable."""

from __future__ import annotations

from .job import native_size, prepare
from .join import join
from .main import BudgetMissedError, FitResult, PointResult, describe_plan, fit
from .settings import CompressionSettings, FitSettings, GradientSettings, SearchSettings

__all__ = [
    "BudgetMissedError", "CompressionSettings", "FitResult", "FitSettings", "GradientSettings", "PointResult",
    "SearchSettings", "describe_plan", "fit", "join", "native_size", "prepare",
]  # fmt: skip
