"""``report.html``: what a run promised and did, in one file that needs no network.

The facts come in as :class:`ReportData`; whatever a run has not reached yet is left at its default, and the page says
so. All text is escaped by the template engine, and the page's content policy lets nothing be loaded or run that is
not in the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from .. import __version__
from ..budget import QUANTITIES, Budget, format_quantity, measured
from ..errors import CatchweightError
from ..files import write_text
from ..front import Candidate, Front
from ..targets.latency.predictor import ErrorStatement
from . import plots
from .front_plot import Baselines, arch_words, candidate_key, candidate_name, front_figure
from .inputs import Ablation, Blocks, Chain, Evaluation, Predictions

MAX_IMAGE_WIDTH = 1400
"""Pixels; wider example pictures are shrunk before they go into the page."""
MOST_ROWS = 40
"""Candidates in the table; the others are one click away."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


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


class PointRow(_Facts):
    """One of several budgets of a run: what was made for it, and where its own report is."""

    budget: str
    verdict: str
    """ "passed", "failed" or "open"."""
    network: str = ""
    score: float | None = None
    measured: str = ""
    link: str = ""
    """To its report, relative to this one."""


class StageRow(_Facts):
    """A stage of the run and how long it took; None: not reached."""

    name: str
    seconds: float | None = None


class Example(_Facts):
    """Pictures that belong together: one ready-made figure, or image, truth and prediction."""

    caption: str
    images: dict[str, Path]
    """Label (may be empty for a single picture) to file."""


class Source(_Facts):
    """Where a figure of the page comes from."""

    figure: str
    file: str
    how: str


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
    points: tuple[PointRow, ...] = ()
    """The budgets of a run of several; such a page shows what they share."""
    budgets: tuple[Budget, ...] = ()
    front: Front = Front()
    """Every candidate that is known."""
    chosen: Candidate | None = None
    """The winner, once there is one."""
    baselines: dict[str, tuple[Candidate, ...]] = Field(default_factory=dict)
    """Networks to compare with, by name."""
    evaluations: tuple[Evaluation, ...] = ()
    """Scores in the order the search found them."""
    blocks: Blocks | None = None
    predictions: Predictions | None = None
    chain: Chain | None = None
    """The steps of the compression, where there was one."""
    ablation: Ablation | None = None
    file_bytes: float | None = None
    """Size of the exported file."""
    history: tuple[dict[str, Any], ...] = ()
    """One dict per epoch of a training: epoch, lr, train_loss, val_miou, pixel_accuracy."""
    trains: str = "the chosen network"
    """Whose training that is."""
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
    examples_note: str = ""
    """How they were picked, or why there are none."""
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
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be read of the run folder."""

    @property
    def verdict(self) -> str:
        """ "passed", "failed" or "open": the promise as a whole."""
        if self.points:
            states = [{"passed": True, "failed": False}.get(point.verdict) for point in self.points]
            states += [None] * (len(self.budgets) - len(self.points))
        else:
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
    rows = ordered(data.front.candidates, data.chosen)
    first = data.chosen or next(iter(data.front.points), None)
    return render(
        "report.html", d=data, figures=_figures(data), rows=rows[:MOST_ROWS], more_rows=rows[MOST_ROWS:],
        on_front=set(data.front.points), interactive=interactive(data.front, data.budgets, data.baselines),
        first=candidate_key(first) if first else "", error=_error(data), **_lists(data), connect="",
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A page of this folder; every value is escaped unless a plotting library wrote it."""
    return _environment().get_template(template).render(version=__version__, zip=zip, plotly=plotly_js(), **values)


@lru_cache
def _environment() -> jinja2.Environment:
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
        "name": lambda candidate: candidate_name(candidate.arch),
        "words": lambda candidate: arch_words(candidate.arch),
        "key": candidate_key,
        "json": _json_block,
    }
    return environment


@lru_cache
def plotly_js() -> Markup:
    """The plotting library's script, brought along so that a page needs no network (4.8 MB)."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704 - a library's own script


def interactive(
    front: Front, budgets: Sequence[Budget], baselines: Baselines, known: Front | None = None
) -> dict[str, Any]:
    """What the page's script draws: a plot for every cost that is known of the front, and a card a candidate.

    Args:
        front: drawn as the front.
        budgets: drawn as lines.
        baselines: drawn beside it, by name.
        known: whose costs are offered; by default those of ``front``.

    Returns:
        Plain JSON values; empty if there is no candidate with a score and a cost.
    """
    offered = known or front
    estimates = [c for c in offered.candidates if c.estimated]
    names = [
        name for name in QUANTITIES
        if len(offered.points_in(name)) + sum(name in c.cost.stated() for c in estimates) > (name != "latency")
    ]  # fmt: skip
    if not names:
        return {}
    shown = {name: front_figure(front, budgets=budgets, baselines=baselines, quantity=name) for name in names}
    on_front = set(offered.points)
    drawn = [c for found in baselines.values() for c in (found.candidates if isinstance(found, Front) else found)]
    cards = {candidate_key(c): _card(c, "on the front" if c in on_front else "") for c in (*front.candidates, *drawn)}
    return {"figures": shown, "cards": cards}


def _card(candidate: Candidate, place: str) -> dict[str, Any]:
    """Everything that is known of a candidate, as text."""
    score = [] if candidate.score is None else [("score", f"{candidate.score:.4f}")]
    epochs = [("trained for", f"{candidate.epochs} epochs")] if candidate.epochs else []
    costs = [(name, format_quantity(name, measured(name, candidate.cost) or 0.0)) for name in candidate.cost.stated()]
    choices = [(name, _choice(value)) for name, value in candidate.arch.to_json().items()]
    return {
        "title": candidate_name(candidate.arch),
        "note": "; ".join(filter(None, (candidate.note, place))),
        "result": [*score, *epochs, *costs],
        "choices": choices,
    }


def _error(data: ReportData) -> str:
    """How far the predictions are off."""
    points = data.predictions.points if data.predictions else ()
    if not points:
        return ""
    return str(ErrorStatement.of([p.predicted_ms for p in points], [p.measured_ms for p in points]))


def _choice(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _json_block(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: no character in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped just now


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


def ordered(candidates: Sequence[Candidate], chosen: Candidate | None) -> list[Candidate]:
    """The winner, then by score, then the estimated, then the untrained by latency."""
    never = float("inf")

    def rank(c: Candidate) -> tuple[bool, bool, bool, float, float]:
        score = never if c.score is None else -c.score
        return c != chosen, c.score is None, c.estimated, score, c.cost.latency_ms or never

    return sorted(dict.fromkeys(candidates), key=rank)


def _figures(data: ReportData) -> dict[str, Markup]:
    """Every still plot there are numbers for."""
    drawn: dict[str, str] = {}
    measured_ms = [c for c in data.front.candidates if c.cost.latency_ms is not None]
    if measured_ms:
        drawn["front"] = plots.front(measured_ms, set(data.front.points), data.chosen, _latency_limits(data.budgets))
    if data.evaluations:
        drawn["history"] = plots.search_history(data.evaluations)
    drawn |= _training_figures(data)
    if data.per_class:
        colors = dict(zip(data.class_names, data.class_colors, strict=False))
        drawn["classes"] = plots.class_bars(data.per_class, colors)
    if data.confusion and len(data.class_names) == len(data.confusion):
        drawn["confusion"] = plots.confusion(data.confusion, data.class_names)
    if data.blocks and data.blocks.rows:
        drawn["blocks"] = plots.blocks(data.blocks.rows)
    if data.predictions and data.predictions.points:
        drawn["predictions"] = plots.predictions(data.predictions.points)
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes the text in it


def _training_figures(data: ReportData) -> dict[str, str]:
    if not data.history:
        return {}
    return {"loss": plots.loss_curve(data.history), "score": plots.score_curve(data.history)}


def _latency_limits(budgets: Sequence[Budget]) -> list[float]:
    return sorted({limit.value for budget in budgets for limit in budget.limits if limit.name == "latency"})


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
