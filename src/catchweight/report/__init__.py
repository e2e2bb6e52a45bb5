"""The run's report: one offline page that says whether the promise was kept, and shows why to believe it."""

from __future__ import annotations

from .html import (
    CandidateRow,
    Example,
    ReportData,
    Snippet,
    StageRow,
    Verdict,
    render_report,
    write_report,
)

__all__ = [
    "CandidateRow",
    "Example",
    "ReportData",
    "Snippet",
    "StageRow",
    "Verdict",
    "render_report",
    "write_report",
]
