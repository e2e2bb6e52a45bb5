"""``networks``, ``systems`` and ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)


def networks() -> None:
    """List the networks that can be built by name."""
    from ..nets import describe_network, network_names

    table = Table("name", "what it is")
    for name in network_names():
        table.add_row(escape(name), escape(describe_network(name)))
    console.print(table)


def systems() -> None:
    """List the published systems: paper, where each lives here, its claim, and the last result of its check."""
    from ..systems import table

    console.print(table())


def check(
    name: Annotated[str, typer.Argument(help="A system; `catchweight systems` lists them.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the data set the check asks for.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for trainings and the result.")] = Path("runs/checks"),
    quick: Annotated[bool, typer.Option("--quick", help="Run the machinery at toy size; claims nothing.")] = False,
) -> None:
    """Run a system's claim check: a small experiment that shows whether the idea does here what its paper says.

    Results are kept as they come; a killed check goes on. Exit code 1 if the claim did not hold.
    """
    from ..systems import run_check

    result = run_check(name, data=data, quick=quick, out=out)
    for title, conditions in (("claim", result.claim), ("control, which must fail", result.control)):
        console.print(f"{title}:")
        for condition in conditions:
            met = "met    " if condition["met"] else "not met"
            line = (
                f"  {met}  {condition['text']}: {condition['value']:.4g} {condition['kind']} {condition['bound']:.4g}"
            )
            console.print(line, markup=False, soft_wrap=True)
    console.print(f"{name}: {result.word}", markup=False)
    if result.passed is False:
        raise typer.Exit(1)
