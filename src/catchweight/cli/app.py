"""The application: one typer app, commands grouped in files by what they are about."""

from __future__ import annotations

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
        'Start with:  [bold]catchweight fit path/to/data --budget "latency<=15ms"[/bold]'
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
    """Options before the command; ``--debug`` (anywhere) shows tracebacks."""


MAIN, FILES, MORE = "The main job", "Networks and files", "Data and systems"
app.command(rich_help_panel=MAIN)(job.fit)
app.command(rich_help_panel=MAIN)(job.demo)
app.command(rich_help_panel=MAIN)(job.join)
app.command(rich_help_panel=MAIN)(compress.compress)
app.command(rich_help_panel=MAIN)(report.report)
app.command(rich_help_panel=MAIN)(report.runs)
app.command(rich_help_panel=MAIN)(report.watch)
app.command(rich_help_panel=FILES)(deploy.predict)
app.command(rich_help_panel=FILES)(deploy.bench)
app.command(rich_help_panel=FILES, name="eval")(deploy.evaluate)
app.command(rich_help_panel=FILES)(deploy.export)
app.command(rich_help_panel=FILES)(deploy.verify)
app.command(rich_help_panel=FILES)(job.train)
app.command(rich_help_panel=FILES)(front.front)
app.command(rich_help_panel=FILES)(counts.count)
app.command(rich_help_panel=FILES)(profile.cost)
app.command(rich_help_panel=FILES)(profile.profile)
app.command(rich_help_panel=FILES)(systems.networks)
app.command(rich_help_panel=FILES)(targets.targets)
app.add_typer(data.app, name="data", rich_help_panel=MORE)
app.command(rich_help_panel=MORE, name="systems")(systems.systems)
app.command(rich_help_panel=MORE)(systems.check)
