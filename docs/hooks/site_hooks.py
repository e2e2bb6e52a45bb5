"""Parts of the site that are made when it is built: the table of systems and the list of commands.

``mkdocs.yml`` names this file; a page asks for a part by its comment, e.g. ``<!-- systems table -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import typer
from typer.cli import get_docs_for_click

from catchweight.cli.app import app
from catchweight.systems import CHECKS, SYSTEMS, System, latest

ROLE = re.compile(r":(?:meth|func|class|attr|mod|data|exc):<code>[~.]*([^<]*)</code>")
"""How docstrings refer to other names."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """MkDocs calls this with the text of each page."""
    for name, make in PARTS.items():
        comment = f"<!-- {name} -->"
        if comment in markdown:
            markdown = markdown.replace(comment, make())
    return markdown


def on_page_content(html: str, **_: object) -> str:
    """MkDocs calls this with each page as HTML: names that docstrings refer to are shown as code."""
    return ROLE.sub(r"<code>\1</code>", html)


def systems_table() -> str:
    """What ``catchweight systems`` prints, as a table of the page."""
    head = "| name | system | claim | where | last result |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(_row(system) for system in SYSTEMS.values())


def _row(system: System) -> str:
    where = "<br>".join(f"`{place.removeprefix('catchweight.')}`" for place in system.where)
    title = f"{system.title} ({system.paper}, {system.year})"
    cells = (f"`{system.name}`", _cell(title), _cell(system.claim), where, _last(system))
    return f"| {' | '.join(cells)} |\n"


def _cell(text: str) -> str:
    """Text that stays in its cell and means nothing to Markdown."""
    return "".join(f"\\{c}" if c in "|*_<>[]`" else c for c in " ".join(text.split()))


def _last(system: System) -> str:
    if system.check is None:
        return "no check"
    result = latest(system.name, CHECKS)
    return f"{result.word}, {result.date[:10]}" if result else "not run"


def commands() -> str:
    """Every command with its arguments and options, out of its own help."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="catchweight"), name="catchweight")
    return text[text.index("\n## ") :]  # before it: the program's own help, which the page has in other words


PARTS: Mapping[str, Callable[[], str]] = {"systems table": systems_table, "commands": commands}
