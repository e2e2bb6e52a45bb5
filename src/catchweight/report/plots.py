"""The report's plots as inline SVG, drawn by matplotlib in colours that follow the page's light or dark theme.

Figures are drawn at the width of a phone, so that nothing is shrunk below reading size; text stays text. Colours are
those of Okabe and Ito (2008), told apart with any colour vision; shape or position always says the same as colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator

from ..front import Candidate
from .inputs import Block, Evaluation, Prediction

# Stand-ins that matplotlib writes as plain hex and the page replaces by its own variables.
INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
BLUE, ORANGE, GREEN, RED = "#010105", "#010106", "#010107", "#010108"
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--card",
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", RED: "--red",
}  # fmt: skip

WIDTH = 4.7
"""Inches at 72 dots, about 340 CSS pixels: a phone."""

_PHASES = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"))

MAX_CLASSES = 24
"""Classes in the confusion matrix; of more, those with the most pixels."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "catchweight",
    "text.parse_math": False,  # class names are the user's: a "$" in one is no formula
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def front(
    candidates: Sequence[Candidate], on_front: Collection[Candidate], chosen: Candidate | None, limits: Sequence[float]
) -> str:
    """Latency against score, budgets as lines; what has no score lies on the ground, as crosses.

    Args:
        candidates: with a latency; that of estimated ones is predicted.
        on_front: those of them that are not dominated.
        chosen: the winner, if there is one.
        limits: in ms.
    """
    scored = [c for c in candidates if c.score is not None]
    low, high = _range([_score(c) for c in scored])
    ground = low - 0.14 * (high - low)
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(3.9 if scored else 2.3)
        _draw_untrained(axes, [_ms(c) for c in candidates if c.score is None], ground)
        _draw_scored(axes, scored, on_front, chosen)
        axes.set(xlabel="latency on the target, ms", ylabel="validation mIoU" if scored else None)
        axes.set_xlim(0, 1.08 * max([_ms(c) for c in candidates] + [*limits]) or 1.0)
        for limit in limits:
            _draw_limit(axes, limit)
        axes.yaxis.set_major_locator(MaxNLocator(6) if scored else NullLocator())
        said = ""
        if chosen in scored and chosen is not None:
            said = f"; the chosen network has {_score(chosen):.3f} mIoU at {_ms(chosen):.2f} ms"
        guessed = sum(c.estimated for c in scored)
        counted = f"{len(scored) - guessed} trained {f'and {guessed} estimated ' if guessed else ''}candidates"
        return _svg(figure, "front", f"{counted} by latency and mIoU{said}")


def search_history(evaluations: Sequence[Evaluation]) -> str:
    """Every score in the order it was found, and the best so far, each phase by itself."""
    phases = list(dict.fromkeys(e.phase for e in evaluations))
    said = []
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(3.3)
        for phase, (color, marker) in zip(phases, _PHASES * len(phases), strict=False):
            found = [(n, e.score) for n, e in enumerate(evaluations, 1) if e.phase == phase]
            numbers, scores = [n for n, _ in found], [score for _, score in found]
            axes.plot(numbers, scores, marker, color=color, markersize=4, alpha=0.6, label=_short(phase))
            axes.plot(numbers, np.maximum.accumulate(scores), color=color, linewidth=1.8, drawstyle="steps-post")
            said.append(f"{phase}: best {max(scores):.3f} of {len(scores)} evaluations")
        axes.plot([], [], color=MUTED, linewidth=1.8, label="best so far")
        axes.set(xlabel="evaluation", ylabel="score")
        _whole_epochs(axes)
        _legend(figure)
        return _svg(figure, "history", "search history; " + "; ".join(said))


def blocks(rows: Sequence[Block], most: int = 16) -> str:
    """Time of the longest blocks; the filled part is what the device would need at best."""
    shown = sorted(rows, key=lambda row: row.ms)[-most:]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(0.7 + 0.27 * len(shown))
        places = range(len(shown))
        axes.barh(places, [r.ms for r in shown], height=0.62, facecolor="none", edgecolor=ORANGE, label="measured")
        axes.barh(
            places, [r.ms * min(r.efficiency, 1.0) for r in shown], height=0.62, color=BLUE, label="needed at best"
        )
        for place, row in enumerate(shown):
            said = f"{row.ms:.2g} ms, {row.efficiency:.0%}"
            axes.annotate(said, (row.ms, place), (4, 0), textcoords="offset points", va="center", size=8.5, color=INK)
        axes.set_yticks(places, [_short(row.name, 26) for row in shown])
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
        axes.set(xlim=(0, 1.4 * max(row.ms for row in shown) or 1.0), xlabel="ms")
        axes.grid(visible=False, axis="y")
        _legend(figure)
        worst = shown[-1]
        return _svg(figure, "blocks", f"time by block; the longest is {worst.name} with {worst.ms:.2g} ms")


def predictions(points: Sequence[Prediction]) -> str:
    """Predicted against measured latency; the band is 10 % off."""
    x, y = np.array([p.measured_ms for p in points]), np.array([p.predicted_ms for p in points])
    reach = 1.06 * max(x.max(), y.max())
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(3.9)
        axes.fill_between([0, reach], [0, 0.9 * reach], [0, 1.1 * reach], color=GREEN, alpha=0.14, linewidth=0)
        axes.plot([0, reach], [0, reach], color=MUTED, linewidth=1, linestyle="--")
        axes.plot(x, y, "o", color=BLUE, markersize=4.5, alpha=0.75)
        axes.set(xlim=(0, reach), ylim=(0, reach), xlabel="measured, ms", ylabel="predicted, ms", aspect="equal")
        near = float(np.mean(np.abs(y / x - 1) <= 0.1))
        said = f"predicted against measured latency of {len(points)} networks; {near:.0%} are within 10 percent"
        return _svg(figure, "predictions", said)


def loss_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """Training loss over the epochs, the learning rate faintly behind it."""
    rows = [row for row in history if row.get("train_loss") is not None]
    epochs, losses = [row["epoch"] for row in rows], [row["train_loss"] for row in rows]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(3.3)
        axes.plot(epochs, losses, color=BLUE, linewidth=1.8, label="loss")
        axes.set(xlabel="epoch", ylabel="training loss")
        axes.set_ylim(0, None)
        _whole_epochs(axes)
        if all(row.get("lr") is not None for row in rows):
            rate = axes.twinx()
            rate.plot(epochs, [row["lr"] for row in rows], color=MUTED, linewidth=1, linestyle=":")
            rate.set_ylim(0, None)
            rate.set_yticks([])
            rate.grid(visible=False)
            axes.plot([], [], color=MUTED, linewidth=1, linestyle=":", label="learning rate (own scale)")
        _legend(figure)
        last = f"from {losses[0]:.3f} to {losses[-1]:.3f}" if losses else "not recorded"
        return _svg(figure, "loss", f"training loss over {len(epochs)} epochs, {last}")


def score_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """Validation mIoU and pixel accuracy over the epochs, the best epoch marked."""
    rows = [row for row in history if row.get("val_miou") is not None]
    epochs, scores = [row["epoch"] for row in rows], [row["val_miou"] for row in rows]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(3.3)
        accuracy = [(row["epoch"], row["pixel_accuracy"]) for row in rows if row.get("pixel_accuracy") is not None]
        if accuracy:
            axes.plot(*zip(*accuracy, strict=True), color=ORANGE, linewidth=1.4, linestyle="--", label="pixel accuracy")
        axes.plot(epochs, scores, color=BLUE, linewidth=1.8, label="mIoU")
        axes.set(xlabel="epoch", ylabel="validation")
        axes.set_ylim(0, 1)
        _whole_epochs(axes)
        said = "no validation yet"
        if scores:
            best = int(np.argmax(scores))
            said = f"best {scores[best]:.3f} at epoch {epochs[best]:g}"
            axes.plot(epochs[best], scores[best], "o", color=BLUE, markersize=6, label=said)
        _legend(figure)
        return _svg(figure, "score", f"validation mIoU over the epochs, {said}")


def class_bars(per_class: Mapping[str, float], colors: Mapping[str, tuple[int, int, int]]) -> str:
    """IoU of every class, best on top; the square before a bar is the colour of the class in the masks."""
    names = sorted(per_class, key=lambda name: per_class[name])
    values = [per_class[name] for name in names]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(0.6 + 0.28 * len(names))
        axes.barh(range(len(names)), values, height=0.62, color=BLUE)
        for row, (name, value) in enumerate(zip(names, values, strict=True)):
            axes.text(value + 0.012, row, f"{value:.3f}", va="center", size=9.5, color=INK)
            if name in colors:
                swatch = [channel / 255 for channel in colors[name]]
                axes.plot(-0.03, row, "s", color=swatch, markersize=8, markeredgecolor=MUTED, markeredgewidth=0.4)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.tick_params(axis="y", length=0, pad=2, labelcolor=INK)
        axes.set(xlim=(-0.055, 1.13), ylim=(-0.6, len(names) - 0.4), xlabel="intersection over union")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        said = ", ".join(f"{name} {per_class[name]:.2f}" for name in reversed(names))
        return _svg(figure, "classes", f"IoU by class: {said}")


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Of each true class (row), the share of its pixels that each class (column) got."""
    matrix = np.asarray(counts, np.float64)
    kept = np.sort(np.argsort(-matrix.sum(1), kind="stable")[:MAX_CLASSES])
    truth = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, truth, out=np.zeros_like(matrix), where=truth > 0)[np.ix_(kept, kept)]
    labels = [_short(names[index], 14) for index in kept]
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        figure, axes = _axes(4.7)
        _draw_cells(axes, share)
        axes.set_xticks(np.arange(len(kept)) + 0.5, labels, rotation=90)
        axes.set_yticks(np.arange(len(kept)) + 0.5, labels)
        axes.tick_params(length=0, labelcolor=INK, labelsize=9.5 if len(kept) <= 14 else 7)
        axes.set(xlim=(0, len(kept)), ylim=(len(kept), 0), xlabel="predicted", ylabel="true", aspect="equal")
        for spine in axes.spines.values():
            spine.set_visible(False)
        worst = _worst_confusion(share, [names[index] for index in kept])
        return _svg(figure, "confusion", f"confusion matrix of {len(kept)} classes{worst}")


def _range(scores: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest score, at least 0.05 apart."""
    low = min(scores, default=0.0)
    return low, max([*scores, low + 0.05])


def _draw_untrained(axes: Axes, latencies: Sequence[float], ground: float) -> None:
    if latencies:
        axes.plot(latencies, [ground] * len(latencies), "x", color=MUTED, markersize=5, label="measured, not trained")


def _draw_scored(
    axes: Axes, scored: Sequence[Candidate], on_front: Collection[Candidate], chosen: Candidate | None
) -> None:
    best = sorted((_ms(c), _score(c)) for c in scored if c in on_front)
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color=BLUE, linewidth=1.2, alpha=0.55, drawstyle="steps-post")
    behind = [c for c in scored if c not in on_front and c != chosen]
    groups = (
        ([c for c in behind if c.estimated], "x", MUTED, MUTED, 4.5, "estimated, not trained alone"),
        ([c for c in behind if not c.estimated], "o", BLUE, PAPER, 6, "dominated"),
        ([c for c in scored if c in on_front and c != chosen], "o", BLUE, BLUE, 6.5, "on the front"),
        ([c for c in scored if c == chosen], "*", ORANGE, ORANGE, 15, "chosen"),
    )
    for members, marker, edge, face, size, label in groups:
        if members:
            axes.plot(
                [_ms(c) for c in members], [_score(c) for c in members], marker, markersize=size, label=label,
                markeredgecolor=edge, markerfacecolor=face, markeredgewidth=1.2,
            )  # fmt: skip
    figure = axes.figure
    assert isinstance(figure, Figure)
    _legend(figure, columns=2)


def _ms(candidate: Candidate) -> float:
    assert candidate.cost.latency_ms is not None
    return candidate.cost.latency_ms


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


def _draw_limit(axes: Axes, limit_ms: float) -> None:
    axes.axvline(limit_ms, color=RED, linewidth=1.3, linestyle="--")
    axes.axvspan(limit_ms, axes.get_xlim()[1], color=RED, alpha=0.07, linewidth=0)
    axes.annotate(
        f"budget {limit_ms:g} ms", (limit_ms, 1), (-4, -3), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right", va="top", rotation=90, size=10, color=RED,
    )  # fmt: skip


def _draw_cells(axes: Axes, share: np.ndarray) -> None:
    # A power below 1 lets small confusions be seen beside a full diagonal.
    cells = [Rectangle((col + 0.03, row + 0.03), 0.94, 0.94) for row, col in np.ndindex(share.shape)]
    diagonal = [row == col for row, col in np.ndindex(share.shape)]
    blue, orange = mpl.colors.to_rgb(BLUE), mpl.colors.to_rgb(ORANGE)
    faces = [
        (*(blue if hit else orange), 0.06 + 0.84 * float(value) ** 0.7)
        for hit, value in zip(diagonal, share.ravel(), strict=True)
    ]
    axes.add_collection(PatchCollection(cells, facecolors=faces, edgecolors="none"))
    if len(share) > 14:
        return
    for row, col in np.ndindex(share.shape):
        if share[row, col] >= 0.01:
            text = f"{100 * share[row, col]:.0f}"
            axes.text(col + 0.5, row + 0.5, text, ha="center", va="center", size=8.5, color=INK)


def _worst_confusion(share: np.ndarray, names: Sequence[str]) -> str:
    off = share * (1 - np.eye(len(share)))
    if not off.any():
        return ""
    row, col = divmod(int(off.argmax()), len(off))
    return f"; most often {names[row]} is taken for {names[col]} ({off[row, col]:.0%} of its pixels)"


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes: Axes = figure.subplots()
    return figure, axes


def _legend(figure: Figure, columns: int = 3) -> None:
    """Above the axes, where it can hide nothing."""
    figure.legend(
        loc="outside upper left", ncols=columns, labelcolor=INK, handlelength=1.5, handletextpad=0.5, columnspacing=1.1
    )


def _whole_epochs(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(figure: Figure, name: str, said: str) -> str:
    """The figure as an ``<svg>`` element with an alt text, ids of its own, and the page's colours."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _own_ids(text, name)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    alt = said.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)


def _own_ids(text: str, name: str) -> str:
    """Prefix the ids that are referred to, drop the others: several figures share one page."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))

    def keep(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]+)"', keep, text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
