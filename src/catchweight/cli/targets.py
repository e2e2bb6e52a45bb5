"""``targets``."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)


def targets() -> None:
    """List the targets, runtime:device[:precision], and which of them work on this machine."""
    from ..targets import listing

    table = Table("target", "here", "what is missing")
    for name, missing in listing().items():
        table.add_row(escape(name), "no" if missing else "yes", escape(missing or ""))
    console.print(table)
