"""The roofline of exported files: which kernels use the device, and which waste it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..targets.latency.kernels import profile_kernels
from ..targets.latency.roofline import HALF, Roofline, Row, device_peak, roofline
from ..targets.runtimes.onnxruntime_target import OnnxRuntimeCpu
from ..targets.target import default_threads
from ..targets.tracing.graph import fixed_input
from .segmenter import Segmenter

_WASTE_SHOWN = 5


def file_rooflines(
    paths: Sequence[Path], *, threads: int | None = None, batch: int | None = None
) -> list[tuple[Path, Roofline]]:
    """Profile files kernel by kernel in ONNX Runtime on the processor, against this device's measured peaks.

    The peaks are measured at the first call (some seconds) and kept for this device, runtime and number of threads.

    Args:
        threads: intra-op threads; None for this process's physical cores.
        batch: images per run; None for what a file fixes, else 1.

    Raises:
        CatchweightError: a file cannot be loaded or run.
        UsageError: a file fixed to another batch.
    """
    count = default_threads() if threads is None else threads
    peak = device_peak(OnnxRuntimeCpu(count))
    found = []
    for path in paths:
        fixed_batch, fixed_size = fixed_input(path)
        size = fixed_size or Segmenter(path, threads=1).size
        pieces, uncounted = profile_kernels(path, size, batch or fixed_batch or 1, count)
        found.append((path, roofline(pieces, peak, uncounted)))
    return found


def table(found: Roofline, title: str = "roofline", top: int = 20) -> Table:
    """The longest ``top`` pieces and a line for the whole."""
    peak = found.peak
    view = Table(title=f"{escape(title)}: {peak.gflops:.0f} GFLOP/s, {peak.gbs:.1f} GB/s")
    view.add_column("block", overflow="fold")
    view.add_column("kind")
    for name in ("time ms", "share", "MACs", "MB moved", "GFLOP/s", "of roofline"):
        view.add_column(name, justify="right")
    view.add_column("bound by")
    for row in found.rows[:top]:
        view.add_row(*_cells(row))
    hidden = found.rows[top:]
    if hidden:
        share = sum(row.share for row in hidden)
        view.add_row(
            f"{len(hidden)} more", "", f"{sum(row.ms for row in hidden):.3f}", f"{share:.0%}", "", "", "", "", ""
        )
    view.add_section()
    view.add_row(*_cells(found.whole), style="bold")
    return view


def verdict(found: Roofline) -> list[str]:
    """Which blocks waste the device, in words."""
    slow = found.wasteful
    lines = []
    if slow:
        lost, total = sum(row.wasted_ms for row in slow), found.whole.ms
        lines.append(
            f"{len(slow)} of {len(found.rows)} blocks reach less than {HALF:.0%} of the roofline and lose "
            f"{lost:.2f} ms of {total:.2f} ms. The worst:"
        )
        lines += [
            f"  {row.name} ({row.kind}): {row.wasted_ms:.3f} ms lost, {row.efficiency:.0%} of the roofline, "
            f"bound by {row.bound}"
            for row in slow[:_WASTE_SHOWN]
        ]
    if any(row.efficiency > 1 for row in found.rows):
        lines.append("Over 100 %: the bytes came from a cache, which is faster than memory")
    if found.uncounted:
        lines.append(f"Arithmetic not counted: {', '.join(found.uncounted)}")
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    return (
        escape(row.name),
        row.kind,
        f"{row.ms:.3f}",
        f"{row.share:.1%}",
        f"{row.macs / 1e6:.1f}M",
        f"{row.bytes / 1e6:.2f}",
        f"{row.gflops:.1f}",
        f"{row.efficiency:.0%}",
        row.bound,
    )
