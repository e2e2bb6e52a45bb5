"""Roofline: how much of a device each piece of a network uses (Williams, Waterman and Patterson, CACM 2009)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CatchweightError
from ...files import cache_folder, digest, read_json, write_json
from ..target import Target
from .observe import Observation

COMPUTE, MEMORY = "compute", "memory"
HALF = 0.5
"""Share of the roofline below which a piece counts as wasteful."""

_SECONDS = 1.0  # at most, for each probe
_PROBES = ((256, 3, 48), (64, 1, 96), (128, 1, 96))  # channels, kernel, side: which is fastest differs by runtime
_LAYERS = 4
_STREAM = (2048, 4096)  # of 3 channels: 100 MB read, 100 MB written


@dataclass(frozen=True)
class Peak:
    """What a device can do at best, measured through its own runtime.

    Attributes:
        gflops: billion floating-point operations a second, a multiply-add being two.
        gbs: billion bytes a second between memory and processor, read and written.
    """

    gflops: float
    gbs: float

    def attainable_ms(self, macs: int, bytes_: int) -> float:
        return max(self.compute_ms(macs), bytes_ / self.gbs / 1e6)

    def compute_ms(self, macs: int) -> float:
        return 2 * macs / self.gflops / 1e6


@dataclass(frozen=True)
class Piece:
    """A kernel, block or whole network: what it computes, what it moves at least, and its measured time."""

    name: str
    kind: str
    macs: int
    bytes: int
    ms: float


@dataclass(frozen=True)
class Row:
    """A piece against the roofline.

    Attributes:
        share: of the time of all pieces.
        intensity: floating-point operations a byte.
        gflops: reached.
        attainable_ms: what the device would need at best.
        efficiency: attainable over measured; above 1 when bytes came from a cache rather than from memory.
        bound: "compute" or "memory", whichever limits the attainable time; of the whole, where most time is spent.
    """

    name: str
    kind: str
    macs: int
    bytes: int
    ms: float
    share: float
    intensity: float
    gflops: float
    attainable_ms: float
    efficiency: float
    bound: str

    @property
    def wasted_ms(self) -> float:
        """Measured beyond what the device would need."""
        return max(self.ms - self.attainable_ms, 0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Roofline:
    """Rows by time, longest first.

    Attributes:
        whole: the sums. Its attainable time takes no row as better than it is measured, so that a row fed from a cache
            does not make up for a slow one.
        uncounted: kinds of pieces whose arithmetic nobody counted, so that they look memory-bound.
    """

    peak: Peak
    rows: tuple[Row, ...]
    whole: Row
    uncounted: tuple[str, ...] = ()

    @property
    def wasteful(self) -> tuple[Row, ...]:
        """Pieces under half of their roofline, those that lose the most milliseconds first."""
        slow = [row for row in self.rows if row.efficiency < HALF]
        return tuple(sorted(slow, key=lambda row: -row.wasted_ms))

    def to_json(self) -> dict[str, Any]:
        return {
            "peak": asdict(self.peak),
            "whole": self.whole.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "uncounted": list(self.uncounted),
        }


def roofline(pieces: Iterable[Piece], peak: Peak, uncounted: Sequence[str] = ()) -> Roofline:
    """Place pieces under the roof of a device.

    Raises:
        CatchweightError: no piece took any time.
    """
    timed = [piece for piece in pieces if piece.ms > 0]
    total = sum(piece.ms for piece in timed)
    if total <= 0:
        raise CatchweightError("nothing was timed, so there is nothing to place under a roofline")
    rows = [_row(piece, peak, total) for piece in sorted(timed, key=lambda piece: -piece.ms)]
    best = sum(min(row.attainable_ms, row.ms) for row in rows)
    compute = sum(row.ms for row in rows if row.bound == COMPUTE)
    macs, moved = sum(row.macs for row in rows), sum(row.bytes for row in rows)
    whole = Row(
        name="whole", kind="", macs=macs, bytes=moved, ms=total, share=1.0, intensity=_ratio(2 * macs, moved),
        gflops=2 * macs / total / 1e6, attainable_ms=best, efficiency=best / total,
        bound=COMPUTE if 2 * compute >= total else MEMORY,
    )  # fmt: skip
    return Roofline(peak, tuple(rows), whole, tuple(uncounted))


def observed_pieces(observation: Observation, itemsize: int = 4) -> list[Piece]:
    """Blocks of an observed network as pieces; ``itemsize`` is bytes per number."""
    return [
        Piece(
            row.module or row.signature.kind,
            row.signature.kind,
            row.signature.macs,
            (row.signature.elements + row.signature.weights) * itemsize,
            row.ms,
        )
        for row in observation.rows
    ]


def device_peak(target: Target, folder: Path | None = None, *, again: bool = False) -> Peak:
    """The peaks of a target, measured once (a few seconds) and kept.

    Args:
        folder: of the kept figures; ``$CATCHWEIGHT_CACHE/roofline``, else the user's cache folder.
        again: measure even if they are known.

    Raises:
        CatchweightError: the target cannot run the two probes.
    """
    fingerprint = target.fingerprint()
    path = (folder or cache_folder("roofline")) / f"{digest(fingerprint)}.json"
    if path.exists() and not again:
        kept = read_json(path)
        if isinstance(kept, dict) and kept.get("fingerprint") == fingerprint:
            return Peak(float(kept["gflops"]), float(kept["gbs"]))
    peak = measure_peak(target)
    write_json(path, {"fingerprint": fingerprint, **asdict(peak)})
    return peak


def measure_peak(target: Target) -> Peak:
    """Peaks through the target's own runtime, from the fastest tenth of the runs.

    Compute: the best of several stacks of convolutions whose maps and weights stay in the cache. Memory: one addition
    over 100 MB, read and written once (the fetch of a line before it is written is not counted, as in STREAM, McCalpin
    1995). On a busy machine both come out low, and blocks then exceed 100 %.
    """
    probes = [(_Convolutions(channels, kernel).eval(), side) for channels, kernel, side in _PROBES]
    gflops = [
        2 * net.macs(side) * target.batch / target.measure(net, (side, side), _SECONDS).p10_ms / 1e6
        for net, side in probes
    ]
    stream = target.measure(_Stream().eval(), _STREAM, _SECONDS)
    moved = 2 * 4 * 3 * _STREAM[0] * _STREAM[1] * target.batch
    return Peak(max(gflops), moved / stream.p10_ms / 1e6)


class _Convolutions(nn.Module):
    """A network that only computes: its first layer alone reads the image."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.channels, self.kernel = channels, kernel
        layers = [nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(_LAYERS)]
        self.layers = nn.Sequential(nn.Conv2d(3, channels, 1), *layers, nn.Conv2d(channels, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y

    def macs(self, side: int) -> int:
        return side**2 * (3 * self.channels + _LAYERS * self.kernel**2 * self.channels**2 + 16 * self.channels)


class _Stream(nn.Module):
    """A network that only moves bytes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, 1.0)


def _row(piece: Piece, peak: Peak, total: float) -> Row:
    attainable = peak.attainable_ms(piece.macs, piece.bytes)
    return Row(
        **asdict(piece),
        share=piece.ms / total,
        intensity=_ratio(2 * piece.macs, piece.bytes),
        gflops=2 * piece.macs / piece.ms / 1e6,
        attainable_ms=attainable,
        efficiency=attainable / piece.ms,
        bound=COMPUTE if peak.compute_ms(piece.macs) >= attainable else MEMORY,
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0
