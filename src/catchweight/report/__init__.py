"""The run's report: one offline page that says whether the promise was kept, and shows why to believe it."""

from __future__ import annotations

from .html import Example, PointRow, ReportData, Snippet, Source, StageRow, Verdict, render_report, write_report

__all__ = [
    "Example",
    "PointRow",
    "ReportData",
    "Snippet",
    "Source",
    "StageRow",
    "Verdict",
    "render_report",
    "write_report",
]
