"""Milliseconds of FasterSeg's parts on a target: measured ones kept in a file, or predicted from the latency table.

A part is looked at inside a carrier network, between 1x1 convolutions: alone it would meet maps in a memory layout
that no network hands it, and a runtime takes images only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CatchweightError
from ...files import read_json, write_json
from ...targets.latency.observe import observe
from ...targets.latency.predictor import LatencyPredictor
from ...targets.target import Target
from ...targets.tracing.blocks import blocks
from ...targets.tracing.trace import trace
from .parts import OpTimes, Part, build

PARTS_AT_ONCE = 40
"""Parts of one carrier: many share the cost of an export, and few are lost when a measurement is killed."""


class Carrier(nn.Module):
    """Parts of one input size side by side: ``(B, 3, h, w)`` -> the sum of all their results' means, ``(B, 1)``.

    Each width of map is made once, by a 1x1 convolution of the image, and read by every part that wants it.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        wanted = sorted({channels for part in parts for channels in part.inputs})
        self.entries = nn.ModuleDict({str(c): nn.Sequential(nn.Conv2d(3, c, 1), nn.ReLU()) for c in wanted})
        self.inputs = [part.inputs for part in parts]
        self.parts = nn.ModuleList(map(build, parts))
        self.exits = nn.ModuleList(nn.Conv2d(part.out, 1, 1) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        maps = {channels: entry(x) for channels, entry in self.entries.items()}
        results = [
            leave(part(*(maps[str(c)] for c in inputs))).mean((2, 3))
            for inputs, part, leave in zip(self.inputs, self.parts, self.exits, strict=True)
        ]
        return torch.stack(results).sum(0)


class MeasuredTimes:
    """Times observed on a target, kept in a JSON file and measured once.

    Args:
        target: one whose kernels can be observed, see :func:`.targets.latency.observe.observable`.
        file: made if needed; it names the device it holds for.

    Raises:
        CatchweightError: the file holds another device's times, or is none of ours.
        UsageError: (when asked for a part) the target's kernels cannot be observed.
    """

    def __init__(self, target: Target, file: Path) -> None:
        self.target, self.file = target, Path(file)
        self._known = self._read()

    def __call__(self, parts: Sequence[Part]) -> list[float]:
        for chunk in carriers([part for part in dict.fromkeys(parts) if part not in self._known]):
            self._known |= zip(chunk, self._measured(chunk), strict=True)
            self._write()
        return [self._known[part] for part in parts]

    def _measured(self, parts: Sequence[Part]) -> list[float]:
        torch.manual_seed(0)
        seen = observe(self.target, Carrier(parts), (parts[0].height, parts[0].width), seconds=0.0)
        ms = [0.0] * len(parts)
        for row in seen.rows:
            place = owner(row.module)
            if place is not None:
                ms[place] += row.ms
        return ms

    def _read(self) -> dict[Part, float]:
        if not self.file.exists():
            return {}
        stored: dict[str, Any] = read_json(self.file)
        if stored.get("device") != self.target.fingerprint():
            raise CatchweightError(
                f"{self.file} holds latencies of another device or runtime ({stored.get('device')}); name another file "
                "or delete it"
            )
        return {Part(*entry["part"]): float(entry["ms"]) for entry in stored["parts"]}

    def _write(self) -> None:
        rows = [{"part": list(part), "ms": ms} for part, ms in sorted(self._known.items())]
        write_json(self.file, {"device": self.target.fingerprint(), "parts": rows})


def predicted_times(predictor: LatencyPredictor) -> OpTimes:
    """Times by a target's latency predictor: each part's share of what a network is predicted to take."""

    def times(parts: Sequence[Part]) -> list[float]:
        found: dict[Part, float] = {}
        for chunk in carriers(list(dict.fromkeys(parts))):
            with torch.device("meta"):
                carrier = Carrier(chunk)
            traced = trace(carrier, (chunk[0].height, chunk[0].width), predictor.target.batch)
            seen = blocks(traced, predictor.target.precision)
            ms = predictor.latencies([block.signature for block in seen]).tolist()
            found |= dict.fromkeys(chunk, 0.0)
            for block, value in zip(seen, ms, strict=True):
                place = owner(block.module)
                if place is not None:
                    found[chunk[place]] += value
        return [max(0.0, found[part]) for part in parts]

    return times


def carriers(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts in groups of one input size, of at most :data:`PARTS_AT_ONCE`."""
    ordered = sorted(parts, key=lambda part: (part.height, part.width))
    for _, group in groupby(ordered, key=lambda part: (part.height, part.width)):
        same = list(group)
        yield from (same[start : start + PARTS_AT_ONCE] for start in range(0, len(same), PARTS_AT_ONCE))


def owner(module: str) -> int | None:
    """Which part of a carrier a module belongs to; ``None`` for what carries."""
    first, _, rest = module.partition(".")
    return int(rest.split(".")[0]) if first == "parts" else None


__all__ = ["Carrier", "MeasuredTimes", "carriers", "predicted_times"]
