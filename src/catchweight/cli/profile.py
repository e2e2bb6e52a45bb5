"""``profile`` and ``cost``: learn this device, and what a network costs on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .options import Seed, Size, Target, Threads, parse_minutes, parse_size

if TYPE_CHECKING:
    from torch import nn

    from ..targets.latency.profile import ProfileReport, Subject

console = Console(highlight=False, soft_wrap=True)
TableFolder = Annotated[
    Path | None, typer.Option("--table", help="Folder of the latency table. Default: the user's cache, by device.")
]


def profile(
    networks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK ...]", help="Networks to learn from. Default: random relatives of ours."),
    ] = None,
    target: Target = "onnxruntime:cpu",
    threads: Threads = None,
    time: Annotated[str, typer.Option("--time", help="How long to go on, e.g. 10m. Call again to learn more.")] = "10m",
    count: Annotated[int, typer.Option("--count", min=1, help="At most this many random networks.")] = 150,
    size: Size = None,
    table: TableFolder = None,
    seed: Seed = 0,
) -> None:
    """Learn this device: time every block of many networks, and state how well other networks are predicted.

    The figures go into a table that `cost` and later searches read. Keep the machine quiet meanwhile. A killed
    profile goes on where it was; what is known is not timed again.
    """
    from ..targets import Target as Targets
    from ..targets.latency.predictor import LEAST, LatencyPredictor
    from ..targets.latency.profile import profile as profile_
    from ..targets.latency.table import LatencyTable

    place = Targets.parse(target, threads=threads)
    store = LatencyTable(place, table)
    subjects = _subjects(networks or [], parse_size(size), count, seed)
    console.print(f"learning {place} ({place.threads} threads) into {escape(str(store.folder))}")
    with _progress() as bar:
        job = bar.add_task("profile", total=len(subjects))

        def told(done: int, total: int, text: str) -> None:
            bar.update(job, completed=done, total=total)
            bar.console.print(text, markup=False)

        report = profile_(store, subjects, minutes=parse_minutes(time), told=told)
    console.print(_summary(report))
    console.print(f"the table knows {len(store.networks)} networks and {len(store)} block signatures")
    if len(store.networks) >= LEAST:
        console.print(f"stated error, {LatencyPredictor(store).error}")
    else:
        console.print(f"{LEAST} networks are the least for a statement of error: call this again")


def cost(
    network: Annotated[str, typer.Argument(metavar="NETWORK|MODEL.pt", help="A network's name, or a trained one.")],
    size: Size = None,
    classes: Annotated[int, typer.Option("--classes", min=2, help="Of a network given by name.")] = 19,
    width: Annotated[float, typer.Option("--width", min=0.01, help="Of a network given by name.")] = 1.0,
    target: Target = "onnxruntime:cpu",
    threads: Threads = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also export it and measure it here.")] = False,
    table: TableFolder = None,
) -> None:
    """What a network costs: latency predicted from this device's table, with its stated error; MACs, parameters.

    Needs `catchweight profile` once. With --measure the network is also timed, and the prediction's error shown.
    """
    from ..errors import CatchweightError
    from ..targets import Target as Targets
    from ..targets.counts import count_macs, count_params
    from ..targets.latency.predictor import LatencyPredictor
    from ..targets.latency.table import LatencyTable

    net, at = _network(network, classes, width, parse_size(size))
    place = Targets.parse(target, threads=threads)
    rows = [("MACs", f"{count_macs(net, at) / 1e9:.3f} G"), ("parameters", f"{count_params(net) / 1e6:.2f} M")]
    predicted = None
    try:
        predictor = LatencyPredictor(LatencyTable(place, table))
        predicted = predictor.network(net, at)
    except CatchweightError as error:
        if not measure:
            raise
        rows.append(("latency, predicted", str(error)))
    if predicted is not None:
        interval = f"{predicted.low_ms:.2f} to {predicted.high_ms:.2f}, {predicted.known:.0%} from measured blocks"
        rows += [("latency, predicted", f"{predicted.ms:.2f} ms ({interval})"), ("", str(predictor.error))]
    if measure:
        timed = place.measure(net, at)
        off = f", prediction off by {predicted.ms / timed.median_ms - 1:+.1%}" if predicted is not None else ""
        rows.append(("latency, measured", f"{timed.median_ms:.2f} ms (spread {timed.spread:.0%}){off}"))
        rows += [("", note) for note in timed.notes]
    view = Table("cost", escape(f"{network} at {at[0]}x{at[1]} on {place}, {place.threads} threads"))
    for name, text in rows:
        view.add_row(name, escape(text))
    console.print(view)


def _network(name: str, classes: int, width: float, size: tuple[int, int] | None) -> tuple[nn.Module, tuple[int, int]]:
    from ..errors import UsageError
    from ..nets import build_network, load_network

    if name.endswith(".pt"):
        net, meta = load_network(Path(name))
        size = size or meta.get("size")
        if size is not None:
            return net, (int(size[0]), int(size[1]))
    if size is None:
        raise UsageError(f"give the input size at which {name} shall run, e.g. --size 180x240")
    return build_network(name, classes, width=width), size


def _subjects(names: list[str], size: tuple[int, int] | None, count: int, seed: int) -> list[Subject]:
    from ..errors import UsageError
    from ..spaces.variants import Variant, random_variants
    from ..spaces.whole import known

    if not names:
        return [variant.subject() for variant in random_variants(count, seed)]
    if size is None:
        raise UsageError("give the input size at which the networks shall be timed, e.g. --size 180x240")
    return [Variant(name, 1.0, size).subject() for name in known(tuple(names))]


def _summary(report: ProfileReport) -> str:
    lines = [f"{report.new} networks timed in {report.seconds / 60:.1f} min, {report.known} were known"]
    if report.left:
        lines.append(f"{report.left} are left: the same command goes on with them")
    lines += [f"skipped {name}: {reason}" for name, reason in report.failed]
    return escape("\n".join(lines))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
