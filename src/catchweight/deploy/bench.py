"""Latency of exported files on this machine, side by side, with and without the work around the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.table import Table

from ..errors import UsageError
from ..targets.clock.measure import Comparison, Measurement, distinguishable, interleaved
from ..targets.clock.rounds import Session
from ..targets.runtimes.onnxruntime_target import OnnxRuntimeCpu
from ..targets.target import default_threads
from ..targets.tracing.graph import fixed_input
from .segmenter import Segmenter


@dataclass(frozen=True)
class BenchRow:
    """One file's latency; ``processing`` says whether decoding-to-mask work is in it (JPEG decoding is not)."""

    path: Path
    processing: bool
    measured: Measurement

    @property
    def label(self) -> str:
        return f"{self.path.name}{' with processing' if self.processing else ''}"

    def to_json(self) -> dict[str, Any]:
        return {"file": self.path.name, "processing": self.processing, **self.measured.to_json()}


class PipelineSession:
    """What serving does to one image: resize and normalise, run, upsample and take the best class."""

    def __init__(self, path: Path, threads: int, batch: int, image_size: tuple[int, int] | None) -> None:
        self.segmenter = Segmenter(path, threads=threads)
        self.runtime = f"onnxruntime {onnxruntime.__version__} cpu, with processing"
        self.threads, self.batch = threads, batch
        shape = (*(image_size or self.segmenter.size), 3)
        # Pixels that differ from image to image, but the same on every machine.
        pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
        self._images = list(pixels)

    def run(self) -> None:
        self.segmenter.predict_batch(self._images)

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield


def bench(
    paths: Sequence[Path],
    *,
    threads: int | None = None,
    batch: int | None = None,
    seconds: float = 5.0,
    with_processing: bool = True,
    image_size: tuple[int, int] | None = None,
) -> list[BenchRow]:
    """Measure files interleaved; the networks alone first, then the whole way from pixels to mask.

    Args:
        paths: files written by ``export``; without processing any ONNX file of one (B, 3, H, W) float input.
        threads: intra-op threads, the same for all; None for this process's physical cores.
        batch: images per run; None for what the file fixes, else 1.
        seconds: time limit for each row.
        image_size: (H, W) of the pictures that go into processing; None for the network's own size.

    Raises:
        CatchweightError: a file cannot be loaded.
        UsageError: no file, no thread, or a file fixed to another batch.
    """
    if not paths:
        raise UsageError("name at least one ONNX file to measure")
    count = default_threads() if threads is None else threads
    if count < 1:
        raise UsageError(f"a measurement needs 1 or more threads, but got {count}")
    files = [Path(path) for path in paths]
    rows = _rows(files, False, [_alone(path, count, batch) for path in files], seconds)
    if with_processing:
        around: list[Session] = [_whole(path, count, batch, image_size) for path in files]
        rows += _rows(files, True, around, seconds)
    return rows


def comparisons(rows: Sequence[BenchRow]) -> list[tuple[BenchRow, BenchRow, Comparison]]:
    """Neighbours in order of latency, within each kind of row: may the ranking be claimed?"""
    pairs: list[tuple[BenchRow, BenchRow, Comparison]] = []
    for processing in (False, True):
        same = [row for row in rows if row.processing is processing]
        same.sort(key=lambda row: row.measured.median_ms / row.measured.batch)
        pairs += [(a, b, distinguishable(a.measured, b.measured)) for a, b in zip(same, same[1:], strict=False)]
    return pairs


def warnings(rows: Sequence[BenchRow]) -> list[str]:
    """What the reader must know before trusting the table: noise, and pairs that cannot be told apart."""
    notes = [f"{row.label}: {note}" for row in rows for note in row.measured.notes]
    for first, second, compared in comparisons(rows):
        if not compared.different:
            notes.append(f"{second.label} and {first.label} {compared}: no ranking can be claimed")
    return notes


def table(rows: Sequence[BenchRow]) -> Table:
    """The rows for a terminal; print :func:`warnings` under it."""
    view = Table(title=_title(rows))
    for name in ("file", "processing"):
        view.add_column(name)
    for name in ("median ms", "p90 ms", "spread", "images/s", "runs"):
        view.add_column(name, justify="right")
    for row in rows:
        measured = row.measured
        view.add_row(
            str(row.path),
            "yes" if row.processing else "no",
            f"{measured.median_ms:.2f}{' ~' if measured.noisy else ''}",
            f"{measured.p90_ms:.2f}",
            f"{measured.spread:.0%}",
            f"{measured.images_per_second:.1f}",
            str(measured.n),
        )
    if any(row.measured.noisy for row in rows):
        view.caption = "~ noisy: see the warnings"
    return view


def _alone(path: Path, threads: int, batch: int | None) -> Session:
    fixed_batch, fixed_size = fixed_input(path)
    size = fixed_size or Segmenter(path, threads=1).size
    return OnnxRuntimeCpu(threads, batch or fixed_batch or 1).prepare(path, size)


def _whole(path: Path, threads: int, batch: int | None, image_size: tuple[int, int] | None) -> Session:
    return PipelineSession(path, threads, batch or fixed_input(path)[0] or 1, image_size)


def _rows(paths: Sequence[Path], processing: bool, sessions: Sequence[Session], seconds: float) -> list[BenchRow]:
    measured = interleaved(sessions, seconds)
    return [BenchRow(path, processing, one) for path, one in zip(paths, measured, strict=True)]


def _title(rows: Sequence[BenchRow]) -> str:
    if not rows:
        return "latency"
    first = rows[0].measured
    batches = {row.measured.batch for row in rows}
    size = f"batch {batches.pop()}" if len(batches) == 1 else "batches as in the files"
    return f"latency of one batch, {first.runtime}, {first.threads} threads, {size}"
