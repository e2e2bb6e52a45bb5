"""``data check`` and ``data scenes``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from .options import DataPath, Format, Seed, Size, parse_size

if TYPE_CHECKING:
    from ..data import DataReport, SegmentationData

app = typer.Typer(no_args_is_help=True, help="Look at a data set, or draw one.")
console = Console(highlight=False)
SHOWN = 20


@app.command()
def check(
    path: DataPath,
    format_: Format = "auto",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for data.json and data.png. Default: runs/data-<name>.")
    ] = None,
) -> None:
    """Read every image and mask; count, measure, and name every problem with its file.

    Writes data.json and a picture grid with the masks overlaid. Exit code 1 if training could not run.
    """
    from ..data import check_data, open_data
    from ..files import write_json

    data = open_data(path, format_, seed=seed)
    total = sum(len(records) for records in data.splits.values())
    with _bar(total) as advance:
        report = check_data(data, progress=advance)
    folder = out or Path("runs") / f"data-{data.root.resolve().name}"
    write_json(folder / "data.json", report.to_json())
    written = [folder / "data.json", *_drawn(data, folder / "data.png")]
    _show(report)
    console.print(f"written: {escape(', '.join(map(str, written)))}", soft_wrap=True)
    if not report.trainable:
        raise typer.Exit(1)


def _drawn(data: SegmentationData, path: Path) -> list[Path]:
    """The picture grid; none where no labelled image can be read, which the report says of each by its name."""
    from ..data import BadFileError, draw_grid

    try:
        return [draw_grid(data, path)]
    except BadFileError:
        return []


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr that takes (done, total)."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _show(report: DataReport) -> None:
    console.print(f"[bold]{escape(report.root)}[/bold]: {report.format}, {len(report.classes)} classes", soft_wrap=True)
    for split, count in report.counts.items():
        console.print(f"  {split}: " + ", ".join(f"{value} {name}" for name, value in count.items()))
    console.print("  sizes: " + ", ".join(f"{size} ({count})" for size, count in list(report.sizes.items())[:6]))
    table = Table("class", *report.shares, title="share of pixels")
    for name in (*report.classes, "ignored"):
        table.add_row(escape(name), *(f"{shares.get(name, 0.0):.4f}" for shares in report.shares.values()))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for problem in report.problems[:SHOWN]:
        console.print(f"{problem.level}: {problem.file}: {problem.message}", markup=False, soft_wrap=True)
    if len(report.problems) > SHOWN:
        console.print(f"... and {len(report.problems) - SHOWN} more problems in data.json")
    verdict = "[green]training can run[/green]" if report.trainable else "[red]training could not run[/red]"
    console.print(f"{verdict}, {len(report.problems)} problems")


@app.command()
def scenes(
    out: Annotated[Path, typer.Argument(help="New folder.")],
    train: Annotated[int, typer.Option("--train", min=0, help="Scenes to train on.")] = 120,
    val: Annotated[int, typer.Option("--val", min=0, help="Scenes to validate on.")] = 40,
    size: Size = "128x192",
    seed: Seed = 0,
) -> None:
    """Draw street scenes with exact masks, the same for the same seed."""
    from ..data.scenes import make_scenes

    made = make_scenes(out, {"train": train, "val": val}, size=parse_size(size) or (128, 192), seed=seed)
    console.print(escape(str(made)))
