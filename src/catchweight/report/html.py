"""``report.html``: what a run promised and did, in one file that needs no network.

The facts come in as :class:`ReportData`; whatever a run has not reached yet is left at its default, and the page says
so. All text is escaped by the template engine, and the page's content policy lets nothing be loaded or run that is
not in the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from .. import __version__
from ..budget import format_quantity
from ..errors import CatchweightError
from ..files import write_text
from . import plots

MAX_IMAGE_WIDTH = 1400
"""Pixels; wider example pictures are shrunk before they go into the page."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Verdict(_Facts):
    """One limit of the budget against what was measured on the target."""

    budget: str
    """As the user wrote it: ``latency<=10ms``."""
    measured: str | None = None
    """With its unit: ``8.4 ms``; None when it was not measured."""
    ok: bool | None = None
    """None: not reached."""
    note: str = ""
    """For example the spread of the measurement."""


class CandidateRow(_Facts):
    """One line of the table and, with latency and score, one point of the front."""

    name: str
    size: tuple[int, int]
    """(H, W) in pixels."""
    width: float = 1.0
    latency_ms: float | None = None
    params: float | None = None
    macs: float | None = None
    status: str = ""
    """What became of it: "over the budget by 31%", "stopped after 10 epochs", "chosen"..."""
    score: float | None = None
    """Validation mIoU, 0..1, after ``epochs``."""
    epochs: int | None = None
    on_front: bool = False
    chosen: bool = False


class StageRow(_Facts):
    """A stage of the run and how long it took; None: not reached."""

    name: str
    seconds: float | None = None


class Example(_Facts):
    """Pictures that belong together: one ready-made figure, or image, truth and prediction."""

    caption: str
    images: dict[str, Path]
    """Label (may be empty for a single picture) to file."""


class Snippet(_Facts):
    """A copyable way to use the result."""

    title: str
    text: str


class ReportData(_Facts):
    """Everything the page shows. Every field but the title may stay at its default."""

    title: str
    subtitle: str = ""
    stopped: str = ""
    """Why the run ended before its end; empty when it did not."""
    verdicts: tuple[Verdict, ...] = ()
    candidates: tuple[CandidateRow, ...] = ()
    latency_limit_ms: float | None = None
    file_bytes: float | None = None
    """Size of the exported file."""
    history: tuple[dict[str, Any], ...] = ()
    """One dict per epoch of the final training: epoch, lr, train_loss, val_miou, pixel_accuracy."""
    miou: float | None = None
    pixel_accuracy: float | None = None
    boundary_f: float | None = None
    per_class: dict[str, float] = Field(default_factory=dict)
    absent: tuple[str, ...] = ()
    """Classes in neither truth nor prediction."""
    class_names: tuple[str, ...] = ()
    class_colors: tuple[tuple[int, int, int], ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """Pixel counts, rows truth and columns prediction, in the order of ``class_names``."""
    examples: tuple[Example, ...] = ()
    latency: dict[str, Any] = Field(default_factory=dict)
    """``Measurement.to_json()`` of the exported file."""
    target: str = ""
    verification: dict[str, Any] = Field(default_factory=dict)
    """``Verification.to_json()``."""
    data: dict[str, Any] = Field(default_factory=dict)
    """``DataReport.to_json()``."""
    stages: tuple[StageRow, ...] = ()
    snippets: tuple[Snippet, ...] = ()
    config_yaml: str = ""
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def chosen(self) -> CandidateRow | None:
        """The winner, once there is one."""
        return next((row for row in self.candidates if row.chosen), None)

    @property
    def verdict(self) -> str:
        """ "passed", "failed" or "open": the promise as a whole."""
        states = [verdict.ok for verdict in self.verdicts]
        if False in states or self.verification.get("passed") is False:
            return "failed"
        return "passed" if states and all(states) and not self.stopped else "open"


def write_report(folder: Path, data: ReportData) -> Path:
    """Write ``folder/report.html``; an old one stays whole until the new one is.

    Raises:
        CatchweightError: the folder cannot be written, or an example picture cannot be read.
    """
    path = Path(folder) / "report.html"
    write_text(path, render_report(data))
    return path


def render_report(data: ReportData) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("catchweight", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "amount": amount,
        "duration": duration,
        "sha256": _sha256,
        "picture": _picture,
        "points": lambda value: f"{100 * value:.1f}",
    }
    template = environment.get_template("report.html")
    return template.render(
        d=data, figures=_figures(data), rows=_ordered(data.candidates), version=__version__, zip=zip, **_lists(data)
    )


def _lists(data: ReportData) -> dict[str, Any]:
    """The name-value lists of the page."""
    shares: dict[str, dict[str, float]] = data.data.get("shares", {})
    first: dict[str, float] = next(iter(shares.values()), {})
    sizes = list(data.data.get("sizes", {}).items())
    more = [("other sizes", sum(count for _, count in sizes[5:]))] if len(sizes) > 5 else []
    total = sum(stage.seconds or 0.0 for stage in data.stages)
    stages = [(s.name, "not reached" if s.seconds is None else duration(s.seconds)) for s in data.stages]
    return {
        "split_counts": [(name, _count(value)) for name, value in data.data.get("counts", {}).items()],
        "image_sizes": sizes[:5] + more,
        "share_names": sorted(first, key=lambda name: -first[name]),
        "stage_times": [*stages, ("together", duration(total))],
    }


def _count(value: Any) -> str:
    """``{"images": 101, "labelled": 101}`` or a plain number."""
    return ", ".join(f"{n} {what}" for what, n in value.items()) if isinstance(value, dict) else str(value)


def amount(value: float | None, quantity: str) -> str:
    """A cost with its unit, "4.38M"; a dash where it was not measured."""
    return "–" if value is None else format_quantity(quantity, value)


def duration(seconds: float | None) -> str:
    """ "48 s", "12 min 05 s", "2 h 31 min"; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _ordered(rows: Sequence[CandidateRow]) -> list[CandidateRow]:
    """The winner, then by score, then the untrained by latency; numbers in plot and table follow this order."""
    never = float("inf")

    def rank(row: CandidateRow) -> tuple[bool, float, float]:
        return not row.chosen, -row.score if row.score is not None else never, row.latency_ms or never

    return sorted(rows, key=rank)


def _figures(data: ReportData) -> dict[str, Markup]:
    """Every plot there are numbers for."""
    drawn: dict[str, str] = {}
    rows = _ordered(data.candidates)
    if any(row.latency_ms is not None for row in rows):
        drawn["front"] = plots.front(
            [(i, r.latency_ms, r.score, r.on_front, r.chosen) for i, r in enumerate(rows, 1)], data.latency_limit_ms
        )
    if data.history:
        drawn["loss"] = plots.loss_curve(data.history)
        drawn["score"] = plots.score_curve(data.history)
    if data.per_class:
        colors = dict(zip(data.class_names, data.class_colors, strict=False))
        drawn["classes"] = plots.class_bars(data.per_class, colors)
    if data.confusion and len(data.class_names) == len(data.confusion):
        drawn["confusion"] = plots.confusion(data.confusion, data.class_names)
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes the text in it


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _picture(path: Path) -> str:
    """A file as data URI, at most MAX_IMAGE_WIDTH wide."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise CatchweightError(f"{path}: cannot be read for the report ({error})") from error
    image.thumbnail((MAX_IMAGE_WIDTH, 4 * MAX_IMAGE_WIDTH))
    packed = io.BytesIO()
    image.save(packed, format="WEBP", quality=84, method=4)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
