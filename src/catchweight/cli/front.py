"""``front``: the non-dominated candidates of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..budget import Budget, Cost
    from ..front import Candidate, Front

console = Console(highlight=False, soft_wrap=True)

Paths = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or front.json files.")]
Budgets = Annotated[
    list[str] | None, typer.Option("--budget", help='E.g. "latency<=5ms": tells the best within it. May be repeated.')
]
Costs = Annotated[
    list[str] | None,
    typer.Option("--cost", help="Cost of the front: latency (default), params... May be repeated."),
]
Html = Annotated[Path | None, typer.Option("--out", help="Write an interactive plot, one page that stands alone.")]
Png = Annotated[Path | None, typer.Option("--png", help="Write a picture of it.")]


def front(paths: Paths, budget: Budgets = None, cost: Costs = None, out: Html = None, png: Png = None) -> None:
    """Show the front of one or several runs: its points, knee, hypervolume, and the best candidate in each budget.

    Runs that are compared must have the same data and target. With several --cost, a candidate is on the front if
    no other is at least as good in all of them and in score; plots show the first.
    """
    from ..budget import Budget
    from ..report.front_plot import front_page, front_png

    fronts = _read(paths)
    merged = next(iter(fronts.values())).merge(*fronts.values())
    quantities = tuple(dict.fromkeys(cost or ("latency",)))
    budgets = [Budget.parse(text) for text in budget or ()]
    points = merged.points_in(*quantities)
    console.print(_table(points, fronts, quantities), soft_wrap=False)
    for line in (*_summary(merged, points, quantities), *_bests(merged, budgets, quantities)):
        console.print(line, markup=False)
    plotted: dict[str, Any] = {"budgets": budgets, "quantity": quantities[0]}
    if out is not None:
        console.print(f"plot: {escape(str(front_page(merged, out, **plotted)))}")
    if png is not None:
        console.print(f"picture: {escape(str(front_png(merged, png, **plotted)))}")


def _read(paths: Sequence[Path]) -> dict[str, Front]:
    """Fronts by path; runs on other data or another target are refused, for their figures do not compare."""
    from ..errors import CatchweightError
    from ..files import read_json
    from ..front import Front
    from ..report.compare import require_comparable

    requests: dict[str, dict[str, Any]] = {}
    fronts: dict[str, Front] = {}
    for path in paths:
        file = path / "front.json" if path.is_dir() else path
        if not file.exists():
            raise CatchweightError(f"{file} does not exist: name a finished run folder, or a front.json")
        fronts[str(path)] = Front.read(file)
        run = file.parent / "run.json"
        if run.exists():
            requests[str(path)] = read_json(run).get("request", {})
    require_comparable(requests)
    return fronts


def _table(points: Sequence[Candidate], fronts: dict[str, Front], quantities: Sequence[str]) -> Table:
    from ..budget import QUANTITIES, format_quantity, measured
    from ..report.front_plot import arch_words

    shown = [q for q in QUANTITIES if q in quantities or any(measured(q, c.cost) is not None for c in points)]
    table = Table("", "architecture", "score", *shown, "epochs", *(["run"] if len(fronts) > 1 else []))
    for number, candidate in enumerate(points, start=1):
        values = [measured(name, candidate.cost) for name in shown]
        origin = next(name for name, found in fronts.items() if candidate in found.candidates)
        table.add_row(
            str(number), escape(arch_words(candidate.arch)), f"{candidate.score:.4f}",
            *("" if v is None else format_quantity(name, v) for name, v in zip(shown, values, strict=True)),
            str(candidate.epochs), *([escape(origin)] if len(fronts) > 1 else []),
        )  # fmt: skip
    return table


def _summary(merged: Front, points: Sequence[Candidate], quantities: Sequence[str]) -> list[str]:
    from ..budget import QUANTITIES, Cost, measured
    from ..report.front_plot import arch_words

    axes = ", ".join((*quantities, "score"))
    lines = [f"{len(points)} of {len(merged.candidates)} candidates are on the front in {axes}"]
    if estimated := sum(c.estimated for c in merged.candidates):
        lines.append(f"{estimated} are only estimated, not trained alone: they are no part of it")
    if not points:
        return lines
    for name in quantities:
        knee = merged.knee(name)
        lines.append(f"knee in {name}: {arch_words(knee.arch) if knee else 'none (it needs three points and a bend)'}")
    trained = [c for c in merged.candidates if c.ranked]
    worst = {q: max(measured(q, c.cost) or 0.0 for c in trained) for q in quantities}
    reference = Cost(**{QUANTITIES[q].field: value for q, value in worst.items()})
    return [*lines, _volume(merged, reference)]


def _bests(merged: Front, budgets: Sequence[Budget], quantities: Sequence[str]) -> list[str]:
    from ..report.front_plot import arch_words

    lines = []
    for budget in budgets:
        best = merged.best(budget)
        said = f"{best.score:.4f}, {arch_words(best.arch)}" if best else "no candidate makes it"
        lines.append(f"best in {budget}: {said}")
        if set(budget.corner().stated()) == set(quantities):
            lines.append(f"  {_volume(merged, budget.corner())}")
    return lines


def _volume(merged: Front, reference: Cost) -> str:
    from ..budget import format_quantity, measured

    corner = [format_quantity(name, measured(name, reference) or 0.0) for name in reference.stated()]
    return f"hypervolume {merged.hypervolume(reference):.5g} up to {', '.join(corner)}, score 0"
