"""Tasks: one file a task, with its loss, its metric and its drawing."""

from __future__ import annotations

from .losses import LossConfig, SegmentationLoss
from .metrics import SegmentationScore
from .segmentation import SegmentationTask

__all__ = ["LossConfig", "SegmentationLoss", "SegmentationScore", "SegmentationTask"]
