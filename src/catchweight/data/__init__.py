"""Data sets: reading, checking, drawing and loading. Knows nothing of networks."""

from __future__ import annotations

from .check import DataReport, check_data
from .classes import IGNORE, MAX_CLASSES, ClassSet, distinct_colors
from .dataset import Sample, SegmentationData, open_data
from .drawing import colorize, draw_grid, overlay
from .readers import READERS
from .readers.layout import BadFileError, Problem, Record

__all__ = [
    "IGNORE",
    "MAX_CLASSES",
    "READERS",
    "BadFileError",
    "ClassSet",
    "DataReport",
    "Problem",
    "Record",
    "Sample",
    "SegmentationData",
    "check_data",
    "colorize",
    "distinct_colors",
    "draw_grid",
    "open_data",
    "overlay",
]
