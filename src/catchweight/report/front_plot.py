"""The front of one or several searches: as an interactive plot for a page, and as a PNG for a document.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; shape always says the same as colour.
"""

from __future__ import annotations

import hashlib
import html
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..budget import QUANTITIES, Budget, display_unit, format_quantity, measured
from ..errors import unknown
from ..files import write_text, written_aside
from ..front import Arch, Candidate, Front
from ..spaces.whole import label

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, GRID = "#1b2129", "#5a6572", "#dfe3e8"
TWILIGHT = "#7b8794"
"""Text that can be read on a light and on a dark page."""

Baselines = Mapping[str, Iterable[Candidate] | Front]
"""Networks to compare with, by the name that the legend shows: published ones, or the fronts of other runs, of which
the non-dominated ones are drawn and joined."""

MOST_NAMED = 12
"""Points of a still picture that are named below it."""
KEY_ROW = 0.19
"""Height of such a line in inches."""

_BASELINE_LOOKS = (
    (GREEN, "D", "diamond"),
    (PURPLE, "^", "triangle-up"),
    (SKY, "v", "triangle-down"),
    (TWILIGHT, "P", "cross"),
)


@dataclass(frozen=True)
class _Series:
    """Points that look the same: ``x`` in the axis's unit, ``y`` the score."""

    name: str
    candidates: tuple[Candidate, ...]
    color: str
    marker: str
    symbol: str
    """Plotly's name of ``marker``."""
    size: float = 8
    filled: bool = True
    steps: bool = False


@dataclass(frozen=True)
class _Scene:
    """What both plots draw."""

    quantity: str
    unit: str
    factor: float
    series: tuple[_Series, ...]
    limits: tuple[float, ...]
    """Limits of the budgets in the axis's unit."""
    named: tuple[Candidate, ...]
    """Points that a still picture labels."""

    @property
    def empty(self) -> str:
        """What to say in place of points; empty if there are any."""
        return "" if self.series else f"no candidate has a score and a measured {self.quantity}"

    @property
    def x_title(self) -> str:
        unit = f", {self.unit}" if self.unit else ""
        words = {"latency": "latency on the target", "params": "parameters", "macs": "multiply-adds"}
        return f"{words.get(self.quantity, self.quantity)}{unit}"

    def x(self, candidate: Candidate) -> float:
        value = measured(self.quantity, candidate.cost)
        assert value is not None
        return value / self.factor


def front_html(
    front: Front,
    *,
    budgets: Sequence[Budget] = (),
    baselines: Baselines | None = None,
    quantity: str = "latency",
    inline: bool = False,
    div_id: str = "front",
) -> str:
    """An interactive plot of cost against score as an HTML ``<div>``; hovering shows architecture, costs and score.

    Args:
        front: candidates; those with a score and a value of ``quantity`` are drawn.
        budgets: their limits of ``quantity`` become lines, the best candidate under each is marked.
        baselines: other networks by name.
        quantity: the cost on the x axis, by its budget name.
        inline: bring plotly.js along (about 5 MB), so that the page needs nothing else. Without it the page must
            load plotly.js itself, once for all its plots.
        div_id: id of the element; every plot of a page needs its own.

    Raises:
        UsageError: unknown quantity.
    """
    figure = _plotly_figure(_scene(front, budgets, baselines or {}, quantity))
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=inline, div_id=div_id, default_height="480px",
        config={"displaylogo": False, "responsive": True},
    )  # fmt: skip
    return text


def front_figure(
    front: Front, *, budgets: Sequence[Budget] = (), baselines: Baselines | None = None, quantity: str = "latency"
) -> dict[str, Any]:
    """The same plot as plotly's own JSON (``data``, ``layout``), for a page that brings plotly.js and shows several.

    The ``ids`` of a trace are its candidates' :func:`candidate_key`, so that a page can tell which one was clicked.

    Raises:
        UsageError: unknown quantity.
    """
    figure: dict[str, Any] = json.loads(_plotly_figure(_scene(front, budgets, baselines or {}, quantity)).to_json())
    return {name: figure[name] for name in ("data", "layout")}


def candidate_key(candidate: Candidate) -> str:
    """A short name of a candidate for a page: equal ones have the same."""
    said = json.dumps(candidate.to_json(), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def front_page(front: Front, path: Path, *, title: str = "Front", **wanted: Any) -> Path:
    """Write :func:`front_html` as one page that needs no other file; ``wanted`` are its other arguments.

    Raises:
        UsageError: unknown quantity.
        CatchweightError: ``path`` cannot be written.
    """
    plot = front_html(front, inline=True, **wanted)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    write_text(Path(path), f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{plot}\n</body></html>\n')
    return Path(path)


def front_png(
    front: Front,
    path: Path,
    *,
    budgets: Sequence[Budget] = (),
    baselines: Baselines | None = None,
    quantity: str = "latency",
) -> Path:
    """The same plot as a PNG, 1110 pixels wide; the points of the front are numbered and named below.

    Args: as for :func:`front_html`.

    Raises:
        UsageError: unknown quantity.
        CatchweightError: ``path`` cannot be written.
    """
    scene = _scene(front, budgets, baselines or {}, quantity)
    rows = min(len(scene.named), MOST_NAMED + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 4.6 + KEY_ROW * rows), layout="constrained")
        plot, key = figure.subplots(2, 1, height_ratios=(4.6, KEY_ROW * rows + 0.05))
        _draw(plot, scene)
        _write_key(key, scene)
        if scene.series:
            figure.legend(loc="outside upper left", ncols=4, handletextpad=0.4, columnspacing=1.2)
        with written_aside(Path(path)) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    return Path(path)


def arch_words(arch: Arch) -> str:
    """``eseg_lite_s, size 180x240, width 0.5``: an architecture for the eye, whatever its choices are."""
    network = str(arch.get("network", "")).removeprefix("timm/")
    others = (
        f"{name} {'x'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in arch.to_json().items()
        if name != "network"
    )
    return ", ".join([*([network] if network else []), *others])


def candidate_name(arch: Arch) -> str:
    """The name that folders and progress lines use, else the architecture's words, cut short."""
    return label(arch) if "size" in arch else _short(arch_words(arch), 48)


def _scene(front: Front, budgets: Sequence[Budget], baselines: Baselines, quantity: str) -> _Scene:
    points = front.points_in(quantity)
    limits = [limit.value for budget in budgets for limit in budget.limits if limit.name == quantity]
    others = {
        name: found.points_in(quantity) if isinstance(found, Front) else _drawable(Front(tuple(found)), quantity)
        for name, found in baselines.items()
    }
    drawn = _drawable(front, quantity)
    estimated = tuple(c for c in drawn if c.estimated)
    best = tuple(dict.fromkeys(c for budget in budgets if (c := front.best(budget)) is not None and c in drawn))
    knee = front.knee(quantity)
    looks = _BASELINE_LOOKS * (1 + len(others) // len(_BASELINE_LOOKS))
    series = (
        *(
            # Single networks are drawn around what may be a point of the front as well.
            _Series(name, found, *look, steps=True)
            if isinstance(baselines[name], Front)
            else _Series(name, found, *look, size=13, filled=False)
            for (name, found), look in zip(others.items(), looks, strict=False)
        ),
        _Series("estimated, not trained alone", estimated, TWILIGHT, "x", "x", 5),
        _Series(
            "dominated",
            tuple(c for c in drawn if c not in points and not c.estimated),
            BLUE,
            "o",
            "circle",
            7,
            filled=False,
        ),
        _Series("knee", (knee,) if knee else (), RED, "s", "square", 14, filled=False),
        _Series("best in budget", best, ORANGE, "*", "star", 17),
        _Series("front", points, BLUE, "o", "circle", steps=True),
    )
    shown = [measured(quantity, c.cost) or 0.0 for s in series for c in s.candidates]
    unit, factor = display_unit(quantity, max([*shown, *limits], default=1.0))
    return _Scene(
        quantity, unit, factor, tuple(s for s in series if s.candidates),
        tuple(sorted({limit / factor for limit in limits})), tuple(dict.fromkeys((*points, *best))),
    )  # fmt: skip


def _drawable(front: Front, quantity: str) -> tuple[Candidate, ...]:
    if quantity not in QUANTITIES:
        raise unknown("cost quantity", quantity, QUANTITIES)
    return tuple(c for c in front.candidates if c.score is not None and measured(quantity, c.cost) is not None)


# The interactive plot


def _plotly_figure(scene: _Scene) -> PlotlyFigure:
    import plotly.graph_objects as go  # slow to import, and only needed here

    figure = go.Figure()
    for series in scene.series:
        figure.add_trace(_trace(scene, series))
    for limit in scene.limits:
        told = {"text": f"budget {limit:g} {scene.unit}", "font": {"color": RED}, "xshift": 4}
        figure.add_vline(limit, line={"color": RED, "width": 1.5, "dash": "dash"}, annotation=told)
    if scene.empty:
        figure.add_annotation(text=scene.empty, xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False)
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "linecolor": TWILIGHT, "ticks": "outside"}
    figure.update_layout(
        template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": TWILIGHT},
        hovermode="closest", margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, modebar={"bgcolor": "rgba(0,0,0,0)"},
        xaxis={**axis, "title": {"text": scene.x_title}, "rangemode": "tozero"},
        yaxis={**axis, "title": {"text": "score"}},
    )  # fmt: skip
    return figure


def _trace(scene: _Scene, series: _Series) -> dict[str, Any]:
    symbol = series.symbol if series.filled else f"{series.symbol}-open"
    return {
        "type": "scatter",
        "mode": "lines+markers" if series.steps else "markers",
        "name": html.escape(series.name),
        "x": [scene.x(c) for c in series.candidates],
        "y": [c.score for c in series.candidates],
        "ids": [candidate_key(c) for c in series.candidates],
        "customdata": [_hover(c) for c in series.candidates],
        "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
        "marker": {
            "symbol": symbol,
            "size": series.size + 2,
            "color": series.color,
            "line": {"color": series.color, "width": 1.5},
        },
        "line": {"color": series.color, "width": 1.5, "shape": "hv"},
    }


def _hover(candidate: Candidate) -> str:
    """Lines of a hover box; plotly reads a little HTML there, so names are escaped."""
    cost = candidate.cost
    figures = [
        f"{name} {format_quantity(name, value)}"
        for name in cost.stated()
        if (value := measured(name, cost)) is not None
    ]
    score = f"score {candidate.score:.4f}" + (f" after {candidate.epochs} epochs" if candidate.epochs else "")
    note = [html.escape(candidate.note)] if candidate.note else []
    words = [html.escape(line) for line in textwrap.wrap(arch_words(candidate.arch), 64)]
    return "<br>".join([f"<b>{'<br>'.join(words)}</b>", score, *figures, *note])


# The still picture

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
}


def _draw(axes: Axes, scene: _Scene) -> None:
    for series in scene.series:
        x, y = [scene.x(c) for c in series.candidates], [c.score or 0.0 for c in series.candidates]
        if series.steps and len(x) > 1:
            axes.plot(x, y, color=series.color, linewidth=1.3, alpha=0.6, drawstyle="steps-post")
        axes.plot(
            x, y, series.marker, label=series.name, markersize=series.size, markeredgecolor=series.color,
            markerfacecolor=series.color if series.filled else "none", markeredgewidth=1.4, linestyle="none",
        )  # fmt: skip
    axes.set(xlabel=scene.x_title, ylabel="score")
    axes.margins(y=0.12)  # room for the numbers
    if scene.empty:
        axes.text(0.5, 0.5, scene.empty, ha="center", transform=axes.transAxes, color=MUTED)
    right = max([scene.x(c) for s in scene.series for c in s.candidates] + list(scene.limits), default=1.0)
    axes.set_xlim(0, 1.1 * right or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(7))
    _draw_limits(axes, scene)
    for number, candidate in enumerate(scene.named, start=1):
        place = (scene.x(candidate), candidate.score or 0.0)
        axes.annotate(str(number), place, (0, 11), textcoords="offset points", ha="center", color=INK)


def _draw_limits(axes: Axes, scene: _Scene) -> None:
    for limit in scene.limits:
        axes.axvline(limit, color=RED, linewidth=1.3, linestyle="--")
        axes.annotate(
            f"budget {limit:g} {scene.unit}", (limit, 1), (0, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", size=9.5, color=RED,
        )  # fmt: skip


def _write_key(axes: Axes, scene: _Scene) -> None:
    """What the numbers stand for, one line each."""
    axes.set_axis_off()
    lines = [
        f"{number}  {_short(arch_words(c.arch))}: {c.score:.3f} at {_value(scene, c)}"
        for number, c in enumerate(scene.named[:MOST_NAMED], start=1)
    ]
    left = len(scene.named) - len(lines)
    lines += [f"and {left} more"] if left > 0 else []
    axes.text(0, 1, "\n".join(lines), va="top", size=9, color=INK, linespacing=1.4)


def _value(scene: _Scene, candidate: Candidate) -> str:
    return format_quantity(scene.quantity, scene.x(candidate) * scene.factor)


def _short(name: str, most: int = 80) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
