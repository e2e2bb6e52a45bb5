"""The report's plots as inline SVG, drawn by matplotlib in colours that follow the page's light or dark theme.

Figures are drawn at the width of a phone, so that nothing is shrunk below reading size; text stays text. Colours are
those of Okabe and Ito (2008), told apart with any colour vision; shape or position always says the same as colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator

# Stand-ins that matplotlib writes as plain hex and the page replaces by its own variables.
INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
BLUE, ORANGE, GREEN, RED = "#010105", "#010106", "#010107", "#010108"
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--card",
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", RED: "--red",
}  # fmt: skip

WIDTH = 4.7
"""Inches at 72 dots, about 340 CSS pixels: a phone."""

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

Point = tuple[int, float | None, float | None, bool, bool]
"""Number in the table, latency in ms, score 0..1, on the front, chosen."""


def front(points: Sequence[Point], limit_ms: float | None) -> str:
    """Latency against score, the budget as a line; what was never trained lies on the ground, as crosses."""
    measured = [(n, ms, score, on, chosen) for n, ms, score, on, chosen in points if ms is not None]
    scored = [(n, ms, score, on, chosen) for n, ms, score, on, chosen in measured if score is not None]
    low, high = _range([score for _, _, score, *_ in scored])
    ground = low - 0.14 * (high - low)
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(3.9 if scored else 2.3)
        _draw_untrained(axes, [ms for _, ms, score, *_ in measured if score is None], ground)
        _draw_scored(axes, scored)
        axes.set(xlabel="latency on the target, ms", ylabel="validation mIoU" if scored else None)
        axes.set_xlim(0, 1.08 * max([ms for _, ms, *_ in measured] + [limit_ms or 0]))
        if limit_ms is not None:
            _draw_limit(axes, limit_ms)
        axes.yaxis.set_major_locator(MaxNLocator(6) if scored else NullLocator())
        chosen = next(((ms, score) for _, ms, score, _, is_chosen in scored if is_chosen), None)
        said = f"; the chosen network has {chosen[1]:.3f} mIoU at {chosen[0]:.2f} ms" if chosen else ""
        return _svg(figure, "front", f"{len(scored)} trained candidates by latency and mIoU{said}")


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


def _draw_scored(axes: Axes, scored: Sequence[tuple[int, float, float, bool, bool]]) -> None:
    best = sorted((ms, score) for _, ms, score, on_front, _ in scored if on_front)
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color=BLUE, linewidth=1.2, alpha=0.55, drawstyle="steps-post")
    groups = (
        ([p for p in scored if not p[3] and not p[4]], "o", BLUE, PAPER, 6, "trained"),
        ([p for p in scored if p[3] and not p[4]], "o", BLUE, BLUE, 6.5, "on the front"),
        ([p for p in scored if p[4]], "*", ORANGE, ORANGE, 15, "chosen"),
    )
    for members, marker, edge, face, size, label in groups:
        if members:
            axes.plot(
                [p[1] for p in members], [p[2] for p in members], marker, markersize=size, label=label,
                markeredgecolor=edge, markerfacecolor=face, markeredgewidth=1.2,
            )  # fmt: skip
    for number, ms, score, on_front, is_chosen in scored:
        # Above for the front and below for the others: that is where the step line is not.
        above = 10 if is_chosen else 7 if on_front else -14
        axes.annotate(str(number), (ms, score), (0, above), textcoords="offset points", ha="center", color=MUTED)
    figure = axes.figure
    assert isinstance(figure, Figure)
    _legend(figure, columns=2)


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
