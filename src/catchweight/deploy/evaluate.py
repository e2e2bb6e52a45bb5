"""Score any exported file or checkpoint on any split."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from ..data import ClassSet, SegmentationData
from ..data.cache import PixelCache
from ..data.loading import EvalLoader
from ..errors import CatchweightError, UsageError
from ..nets import load_network
from ..tasks.metrics import SegmentationScore
from ..train.evaluate import Predict, eager_predict, evaluate
from .segmenter import Segmenter
from .verify import onnx_predict, require_classes

SUFFIXES = (".onnx", ".pt")


def evaluate_file(
    path: str | Path,
    data: SegmentationData,
    split: str = "val",
    size: tuple[int, int] | None = None,
    *,
    batch: int = 8,
    threads: int | None = None,
    cache: PixelCache | None = None,
    boundary: bool = False,
) -> SegmentationScore:
    """Score a network's file at native label resolution.

    Args:
        path: ``.onnx`` (scored with ONNX Runtime) or ``.pt`` (scored with torch).
        data: the data set; its class names must be those of the file.
        split: name of the split.
        size: (H, W) that images are resized to; None takes the size the file was made for.
        batch: images at a time; a file of fixed batch is run as often as needed.
        threads: of ONNX Runtime.
        cache: decoded pixels on disk.
        boundary: also compute the boundary F-score.

    Raises:
        UsageError: neither suffix, unknown split, or a size that the file does not take.
        CatchweightError: the file cannot be read, or predicts other classes than the data set has.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a network's file ends in {' or '.join(SUFFIXES)}")
    load = _load_onnx if path.suffix == ".onnx" else _load_checkpoint
    predict, names, own_size = load(path, size, threads)
    require_classes(path, names, data.classes)
    loader = EvalLoader(data, split, size or own_size, batch, cache)
    return evaluate(predict, loader, data.classes, boundary)


def table(score: SegmentationScore, title: str = "") -> Table:
    """Per-class IoU as a table for the terminal, best class first, totals last."""
    rows = Table("class", "IoU", title=_literal(title) if title else None, title_justify="left")
    rows.columns[1].justify = "right"
    for name, value in sorted(score.per_class.items(), key=lambda item: -item[1]):
        rows.add_row(_literal(name), f"{value:.3f}")
    for name in score.absent:
        rows.add_row(_literal(name), "absent", style="dim")
    rows.add_section()
    rows.add_row("mIoU", f"{score.miou:.4f}", style="bold")
    rows.add_row("pixel accuracy", f"{score.pixel_accuracy:.4f}")
    if score.boundary_f is not None:
        rows.add_row("boundary F", f"{score.boundary_f:.4f}")
    return rows


_Loaded = tuple[Predict, tuple[str, ...], tuple[int, int]]


def _load_onnx(path: Path, size: tuple[int, int] | None, threads: int | None) -> _Loaded:
    segmenter = Segmenter(path, threads=threads)
    taken = segmenter.fixed_size
    if size is not None and taken is not None and tuple(size) != taken:
        raise UsageError(
            f"{path} takes images of {taken[0]}x{taken[1]} only, not {size[0]}x{size[1]}; "
            "export it with a dynamic size, or leave the size out"
        )

    return onnx_predict(segmenter), segmenter.names, segmenter.size


def _load_checkpoint(path: Path, size: tuple[int, int] | None, threads: int | None) -> _Loaded:
    net, meta = load_network(path)
    own = meta.get("size") or size
    if "classes" not in meta:
        raise CatchweightError(f"{path} does not say its classes: give a checkpoint that training wrote, e.g. best.pt")
    if own is None:
        raise UsageError(f"{path} does not say its input size: name it, e.g. --size 180x240")
    return eager_predict(net), ClassSet.from_json(meta["classes"]).names, (int(own[0]), int(own[1]))


def _literal(text: str) -> str:
    """Class names are the user's: brackets in them are not markup."""
    from rich.markup import escape

    return escape(text)
