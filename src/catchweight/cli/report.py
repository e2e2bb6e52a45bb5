"""``report``, ``runs`` and ``watch``: what a run did, which runs there are, and a run as it goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folder of a fit; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the comparison of several runs goes. Default: runs/comparison.html."),
    ] = None,
) -> None:
    """Write report.html of a run again, finished or not; of several runs, one page with all their fronts."""
    from ..errors import UsageError
    from ..report.build import write_run_report
    from ..report.compare import write_comparison
    from ..run import Run

    folders = [Run(path) for path in runs]
    if len(folders) > 1:
        console.print(escape(str(write_comparison(folders, out or Path("runs/comparison.html")))))
        return
    if out is not None:
        raise UsageError("--out is for a comparison of several runs; the report of one run is written into its folder")
    for run in (*folders[0].points, folders[0]):
        console.print(escape(str(write_run_report(run))))


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Looked through for run folders.")] = Path("runs"),
) -> None:
    """List the runs below a folder: state, best score, budget."""
    from ..run import find_runs

    found = find_runs(folder)
    if not found:
        console.print(f"no run below {escape(str(folder))}")
        return
    table = Table()
    table.add_column("run", no_wrap=True)  # it is typed again; on a narrow terminal the others are folded
    for heading in ("state", "best", "latency", "budget", "target", "begun"):
        table.add_column(heading, overflow="fold")
    for run in sorted(found, key=lambda run: -run.created):
        latency = run.best.cost.latency_ms if run.best else None
        table.add_row(
            escape(str(run.folder)), run.state if not run.stage or run.state == "finished" else
            f"{run.state} after {escape(run.stage)}", "" if run.score is None else f"{run.score:.3f}",
            "" if latency is None else f"{latency:.2f} ms", escape(run.budget), escape(run.target),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created)) if run.created else "",
        )  # fmt: skip
    console.print(table, soft_wrap=False)
    for run in found:
        if run.reason:
            console.print(f"{run.folder}: {run.reason}", markup=False)


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a fit that goes on, or has ended.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On this machine; 0 takes a free one.")] = 0,
) -> None:
    """Show a run as it goes on, in the terminal and as a page on this machine alone; Ctrl-C ends it."""
    from ..report.watch import watch as watch_
    from ..run import Run

    opened = Run(run)
    _ = opened.budgets  # raises where it is not the folder of a fit
    watch_(opened, port, say=lambda line: console.print(line, markup=False))
