"""``compress``: prune a trained network to a latency, quantise it where that pays; one function a step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .compress_int8 import Tolerance
from .deploy import Checkpoint
from .job import Clock
from .options import Format, Seed, Settings, Size, Target, Threads, parse_size

if TYPE_CHECKING:
    from ..compress import CompressSettings, PruneResult
    from ..data import SegmentationData
    from ..nets import SegmentationNet

console = Console(highlight=False, soft_wrap=True)


def compress(
    checkpoint: Checkpoint,
    data: Annotated[Path, typer.Option("--data", help="Data set the network was trained on.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results. The same command again goes on in it.")],
    prune: Annotated[
        str | None, typer.Option("--prune", metavar="LIMIT", help='Prune channels to a latency, e.g. "latency<=10ms".')
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise; kept only if measured faster here and within --tolerance.")
    ] = False,
    target: Target = "onnxruntime:cpu",
    threads: Threads = None,
    method: Annotated[
        str,
        typer.Option(
            "--method", help="How channels are given out: halp-refined, halp, or a baseline: uniform, magnitude, macs."
        ),
    ] = "halp-refined",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Pruning steps, 40 training iterations each.")] = 30,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of fine-tuning after pruning.")] = 30,
    variants: Annotated[
        int, typer.Option("--variants", min=0, help="Prunings of this network to profile for the latency table.")
    ] = 16,
    table: Annotated[
        Path | None, typer.Option("--table", help="Latency table to start from. Default: the user's cache.")
    ] = None,
    tolerance: Tolerance = None,
    size: Size = None,
    format_: Format = "auto",
    seed: Seed = 0,
    settings: Settings = None,
) -> None:
    """Make a trained network measurably faster: prune it to a latency (--prune), quantise it (--int8), or both.

    Pruning removes channels where the device gains most time for the least importance (HALP): the latency falls in
    small steps with training in between, the last one is measured until it is right, then the network is fine-tuned.
    What comes out is a plain, smaller network: OUT/prune/model.pt loads, trains and exports like any other,
    OUT/model.onnx is ready, and int8 files are in OUT/int8.
    Only the measured latency counts; if it is missed, or pruning costs more than --tolerance, the exit code is 1.

    For example:  catchweight compress runs/street/model.pt --data camvid --prune "latency<=10ms" --out runs/pruned

    The most time goes into profiling (seconds for each of --variants), --steps and --epochs. --set reaches
    everything else, e.g. --set train.lr=0.001 --set prune.interval=100 --set prune.least=0.1. With
    --set int8.tune_epochs=5 a network that loses too much in int8 is trained on, rounded, and tried again.
    """
    from ..compress.quantize import TOLERANCE
    from ..data import open_data
    from ..errors import UsageError

    if prune is None and not int8:
        raise UsageError('compress what? Give --prune "latency<=10ms", --int8, or both')
    opened, clock = open_data(data, format_, seed=seed), Clock()
    network, wanted, met = checkpoint, parse_size(size), True
    how = _settings(method, steps, epochs, seed, settings)
    if prune is not None:
        result = _prune(
            checkpoint, opened, prune, out / "prune", how, size=wanted, target=target, threads=threads,
            variants=variants, table=table, clock=clock,
        )  # fmt: skip
        network, met = result.file, result.met and _tolerated(result, tolerance)
        console.print(_widths(result))
        console.print(f"pruned network: {escape(str(result.file))}")
        _export(result.file, opened, out / "model.onnx", clock)
    if int8:
        allowed = TOLERANCE if tolerance is None else tolerance
        _int8(network, opened, out / "int8", how, allowed, target, threads, wanted, clock)
    if not met:
        raise typer.Exit(1)


def _tolerated(result: PruneResult, tolerance: float | None) -> bool:
    """Whether pruning cost no more points than it may; told where it did."""
    cost = 100 * (result.score_before - result.score)
    if tolerance is None or cost <= tolerance:
        return True
    console.print(f"pruning costs {cost:.2f} points of val mIoU, more than --tolerance {tolerance:g} allows")
    return False


def _settings(method: str, steps: int, epochs: int, seed: int, settings: list[str] | None) -> CompressSettings:
    """Options and ``--set`` as typed values; errors of the one and the other name the nearest key."""
    from ..compress import METHODS, CompressSettings
    from ..config import build, override
    from ..errors import unknown

    if method not in METHODS:
        raise unknown("method of pruning", method, METHODS)
    defaults = CompressSettings().model_dump(mode="json")
    defaults["prune"] |= {"method": method, "steps": steps}
    defaults["train"] |= {"epochs": epochs, "seed": seed}
    return override(build(CompressSettings, defaults, where="options"), settings or ())


def _prune(
    checkpoint: Path,
    data: SegmentationData,
    limit: str,
    out: Path,
    settings: CompressSettings,
    *,
    size: tuple[int, int] | None,
    target: str,
    threads: int | None,
    variants: int,
    table: Path | None,
    clock: Clock,
) -> PruneResult:
    from ..compress import prune
    from ..nets import load_network
    from ..targets import Target as Targets
    from ..train import Distiller, DistillTerms

    net, meta = load_network(checkpoint)
    recipe = settings.train.model_copy(update={"size": size or _size(checkpoint, meta)})
    _require_classes(net, data)
    place = Targets.parse(target, threads=threads)
    teacher = Distiller(net, DistillTerms(kl=settings.distill), recipe.size) if settings.distill else None
    return prune(
        net, data, place, limit, recipe, out, settings=settings.prune, variants=variants, table=table,
        objective=teacher, say=clock,
    )  # fmt: skip


def _size(checkpoint: Path, meta: dict[str, Any]) -> tuple[int, int]:
    from ..errors import UsageError

    if "size" not in meta:
        raise UsageError(f"{checkpoint} does not say at which size it runs: give it, e.g. --size 180x240")
    height, width = meta["size"]
    return int(height), int(width)


def _require_classes(net: SegmentationNet, data: SegmentationData) -> None:
    from ..errors import CatchweightError

    if net.spec.classes != len(data.classes):
        raise CatchweightError(
            f"the network knows {net.spec.classes} classes and the data set has {len(data.classes)}: give the data it "
            "was trained on"
        )


def _export(network: Path, data: SegmentationData, out: Path, clock: Clock) -> None:
    """Export the pruned network and compare the file with it on the validation images."""
    from ..data.loading import EvalLoader
    from ..deploy.export import export
    from ..deploy.verify import verify
    from ..errors import CatchweightError
    from ..nets import load_network

    net, meta = load_network(network)
    height, width = meta["size"]
    export(net, out, size=(height, width), classes=data.classes, meta=meta)
    checked = verify(out, net, EvalLoader(data, "val", (height, width), 8), data.classes)
    if not checked.passed:
        raise CatchweightError(checked.message)
    clock(f"export: {out}, {checked.message}")


def _int8(
    network: Path,
    data: SegmentationData,
    out: Path,
    how: CompressSettings,
    tolerance: float,
    target: str,
    threads: int | None,
    size: tuple[int, int] | None,
    clock: Clock,
) -> None:
    """A refusal is a result as well: it is told, and the float network stays."""
    from .compress_int8 import int8

    result = int8(
        network, data, out, tolerance=tolerance, target=target, threads=threads, size=size, settings=how.int8,
        recipe=how.train, say=clock,
    )  # fmt: skip
    console.print(f"int8: {escape(str(result.file))}")


def _widths(result: PruneResult) -> Table:
    """What became of every layer, those that lost most first."""
    table = Table("layer (and all that goes with it)", "units", "left", title="pruned channels")
    for name, (before, after) in sorted(result.widths.items(), key=lambda item: item[1][1] / item[1][0]):
        table.add_row(escape(name), str(before), f"{after} ({after / before:.0%})")
    return table
