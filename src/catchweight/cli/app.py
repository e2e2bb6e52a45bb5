"""The application: one typer app, commands grouped in files by what they are about."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated

import typer

from . import compress, counts, data, deploy, front, job, profile, report, systems, targets

app = typer.Typer(
    name="catchweight",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From a data set, a device and a budget to the best segmentation network that fits: "
        "trained, exported, verified and measured on that device.\n\n"
        'Start with:  [bold]catchweight fit path/to/data --budget "latency<=15ms"[/bold]\n\n'
        "--debug, anywhere, shows the traceback of an error."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"catchweight {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options before the command."""


def flowing(text: str) -> str:
    """A docstring whose paragraphs are single lines, so that a terminal of any width breaks them; a line that is
    indented stays one."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(re.sub(r"\n(?! )", " ", paragraph) for paragraph in paragraphs)


def _add(function: Callable[..., None], panel: str, name: str | None = None) -> None:
    app.command(rich_help_panel=panel, name=name, help=flowing(function.__doc__ or ""))(function)


MAIN, FILES, MORE = "The main job", "Networks and files", "Data and systems"
_add(job.fit, MAIN)
_add(job.demo, MAIN)
_add(job.join, MAIN)
_add(compress.compress, MAIN)
_add(report.report, MAIN)
_add(report.runs, MAIN)
_add(report.watch, MAIN)
_add(deploy.predict, FILES)
_add(deploy.bench, FILES)
_add(deploy.evaluate, FILES, "eval")
_add(deploy.export, FILES)
_add(deploy.verify, FILES)
_add(job.train, FILES)
_add(front.front, FILES)
_add(counts.count, FILES)
_add(profile.cost, FILES)
_add(profile.profile, FILES)
_add(systems.networks, FILES)
_add(targets.targets, FILES)
app.add_typer(data.app, name="data", rich_help_panel=MORE)
_add(systems.systems, MORE, "systems")
_add(systems.check, MORE)
