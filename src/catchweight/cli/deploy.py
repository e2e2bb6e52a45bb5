"""``export``, ``verify``, ``bench``, ``predict`` and ``eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from .options import DataPath, Format, Seed, Size, Split, Threads, parse_size

if TYPE_CHECKING:
    from ..data import ClassSet, SegmentationData
    from ..deploy.verify import Verification
    from ..nets import SegmentationNet

console = Console(highlight=False, soft_wrap=True)
Onnx = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="File written by `catchweight export` or `fit`.")]
Checkpoint = Annotated[
    Path, typer.Argument(metavar="MODEL.pt", help="Network written by training (best.pt, model.pt).")
]


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path | None, typer.Option("--out", help="Default: beside the checkpoint, with .onnx.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Verify on this data set's validation images.")] = None,
    size: Size = None,
    dynamic: Annotated[
        str, typer.Option("--dynamic", help="What may differ at run time: no, batch, size or both.")
    ] = "no",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per run of a fixed file.")] = 1,
    format_: Format = "auto",
    seed: Seed = 0,
) -> None:
    """Write a trained network as ONNX with classes, colours, normalisation and size inside; verify it with --data."""
    from ..data import open_data
    from ..deploy.export import export as export_
    from ..deploy.verify import require_classes
    from ..errors import unknown
    from ..nets import load_network
    from ..targets.tracing.graph import Dynamic

    choices: dict[str, Dynamic] = {"no": False, "batch": "batch", "size": "size", "both": True}
    if dynamic not in choices:
        raise unknown("value of --dynamic", dynamic, choices)
    net, meta = load_network(checkpoint)
    classes, wanted = _classes(meta, checkpoint), parse_size(size) or _own_size(meta, checkpoint)
    opened = None if data is None else open_data(data, format_, seed=seed)
    if opened is not None:
        require_classes(checkpoint, classes.names, opened.classes)
    path = export_(
        net, out or checkpoint.with_suffix(".onnx"), size=wanted, classes=classes,
        dynamic=choices[dynamic], batch=batch, meta=meta,
    )  # fmt: skip
    console.print(f"written: {escape(str(path))}")
    if opened is not None:
        _tell(_verified(path, net, opened, "val", wanted))


def verify(
    onnx: Onnx,
    checkpoint: Checkpoint,
    path: DataPath,
    split: Split = "val",
    format_: Format = "auto",
    seed: Seed = 0,
) -> None:
    """Compare an ONNX file with the network it came from on real images; exit 1 names the first layer that departs."""
    from ..data import open_data
    from ..deploy.export import read_meta
    from ..nets import load_network

    net, _ = load_network(checkpoint)
    _tell(_verified(onnx, net, open_data(path, format_, seed=seed), split, tuple(read_meta(onnx)["size"])))


def _verified(
    onnx: Path, net: SegmentationNet, data: SegmentationData, split: str, size: tuple[int, int]
) -> Verification:
    from ..data.loading import EvalLoader
    from ..deploy.verify import verify as verify_

    return verify_(onnx, net, EvalLoader(data, split, size, 8), data.classes)


def _tell(result: Verification) -> None:
    console.print(result.message, markup=False)
    if not result.passed:
        raise typer.Exit(1)


def _classes(meta: dict, checkpoint: Path) -> ClassSet:
    from ..data import ClassSet
    from ..errors import CatchweightError

    if "classes" not in meta:
        raise CatchweightError(f"{checkpoint} does not name its classes: it was not written by training")
    return ClassSet.from_json(meta["classes"])


def _own_size(meta: dict, checkpoint: Path) -> tuple[int, int]:
    from ..errors import UsageError

    if "size" not in meta:
        raise UsageError(f"{checkpoint} does not say its input size: name it, e.g. --size 180x240")
    height, width = meta["size"]
    return int(height), int(width)


def bench(
    files: Annotated[list[Path], typer.Argument(metavar="A.onnx [B.onnx ...]", help="ONNX files to measure.")],
    threads: Threads = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images per run, for files that leave it free.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time limit for each row.")] = 5.0,
    processing: Annotated[
        bool, typer.Option("--processing/--no-processing", help="Also time resize, normalise, upsample, argmax.")
    ] = True,
    size: Size = None,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also each block against the device's measured peaks.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Latency in ONNX Runtime on this machine: interleaved, warm, median, p90 and spread; says when two cannot be told
    apart.

    --size is that of the pictures that go into processing (default: the network's own).
    """
    from ..deploy import bench as room
    from ..files import write_json

    rows = room.bench(
        files, threads=threads, batch=batch, seconds=seconds, with_processing=processing, image_size=parse_size(size)
    )
    console.print(room.table(rows))
    for warning in room.warnings(rows):
        console.print(f"warning: {warning}", markup=False)
    figures = [row.to_json() for row in rows]
    found = _rooflines(files, threads, batch) if roofline else {}
    if json is not None:
        write_json(json, {"latency": figures, "roofline": found} if roofline else figures)


def _rooflines(files: list[Path], threads: int | None, batch: int | None) -> dict[str, Any]:
    from ..deploy import roofline as room

    found = room.file_rooflines(files, threads=threads, batch=batch)
    for path, one in found:
        console.print(room.table(one, f"{path}, roofline"))
        for line in room.verdict(one):
            console.print(line, markup=False)
    return {str(path): one.to_json() for path, one in found}


def predict(
    source: Annotated[str, typer.Argument(metavar="FILE|FOLDER|VIDEO", help="Pictures, a folder of them, or a video.")],
    model: Annotated[Path, typer.Option("--model", help="ONNX file written by fit or export.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for overlays, masks and shares.csv.")],
    threads: Threads = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures at a time.")] = 8,
    overlays: Annotated[
        bool, typer.Option("--overlays/--no-overlays", help="Pictures with the classes over them.")
    ] = True,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Index masks as palette PNG.")] = True,
    frame_masks: Annotated[bool, typer.Option("--frame-masks", help="Of a video, write each frame's mask.")] = False,
    resume: Annotated[bool, typer.Option("--resume/--again", help="Skip what is already done.")] = True,
) -> None:
    """Segment pictures or videos; a broken one is reported and skipped, and the exit code is then 1."""
    from ..deploy.predict import predict as predict_
    from ..deploy.segmenter import Segmenter

    done = predict_(
        Segmenter(model, threads=threads), source, out, batch=batch, overlays=overlays, masks=masks,
        frame_masks=frame_masks, resume=resume,
    )  # fmt: skip
    console.print(
        f"{done.done} done, {done.skipped} skipped, {len(done.failed)} failed in {done.seconds:.1f} s: {out}",
        markup=False,
    )
    for path, reason in done.failed:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"failed: {str(path)!r}: {reason}", markup=False)
    raise typer.Exit(done.exit_code)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .pt or .onnx file of ours.")],
    path: DataPath,
    split: Split = "val",
    size: Size = None,
    threads: Threads = None,
    format_: Format = "auto",
    seed: Seed = 0,
    boundary: Annotated[bool, typer.Option("--boundary", help="Also the boundary F-score (slower).")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Score a checkpoint or an ONNX file on any split: mIoU, per-class IoU, pixel accuracy, boundary F-score."""
    from ..data import open_data
    from ..deploy import evaluate as room
    from ..files import write_json

    data = open_data(path, format_, seed=seed)
    score = room.evaluate_file(model, data, split, parse_size(size), threads=threads, boundary=boundary)
    console.print(room.table(score, title=f"{model}, {split}"))
    if json is not None:
        write_json(json, score.to_json())
