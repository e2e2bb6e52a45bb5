"""The machine's pace: how fast it runs fixed work now, against what it usually does.

A processor shared with strangers (a virtual machine, a laptop that gets hot) slows down for seconds at a time, and
nothing in the system tells: no load, no stolen time. On the machine this was written on, networks of many kernels took
up to twice as long in half of all seconds. The reference kernels, run before and after each turn, see it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CatchweightError
from ...files import cache_folder, digest, read_json, write_json

TOLERANCE = 1.07
"""A turn counts while the reference kernel takes at most this many times its usual time."""

_LOW = 0.2
"""The usual time is this quantile: of the turns of one measurement, and of the measurements kept."""
_KEPT = 50
_LEAST = 10
"""Fewer turns of the reference kernel than this are not worth keeping."""


def low(values: Sequence[float]) -> float:
    """The time of the reference kernel while nothing slows the machine down, from turns of all kinds."""
    return float(np.quantile(values, _LOW))


class UsualPace:
    """What the reference kernel usually takes on this device, learnt from measurement to measurement.

    Kept in ``$CATCHWEIGHT_CACHE/pace``, else the user's cache folder. A machine that was slow throughout one
    measurement is so found out by the others. Not being able to read or write the file costs only that knowledge.

    Args:
        kernel: name of the reference kernel with its runtime's version.
        processor: name of the processor.
        threads: of the kernel.
    """

    def __init__(self, kernel: str, processor: str, threads: int, folder: Path | None = None) -> None:
        about = {"kernel": kernel, "processor": processor, "threads": threads, "cores": os.cpu_count()}
        self._about = about
        self._path = (folder or cache_folder("pace")) / f"{digest(about)}.json"
        self._before = self._kept()

    @property
    def known(self) -> int:
        """Measurements kept."""
        return len(self._before)

    def usual(self, seen: Sequence[float]) -> float:
        """The usual time in ms, given the turns ``seen`` so far (at least one) and all that is known from before."""
        return low([*self._before, low(seen)])

    def learn(self, seen: Sequence[float]) -> None:
        """Add the turns of one measurement."""
        if len(seen) < _LEAST:
            return
        kept = [*self._kept(), low(seen)][-_KEPT:]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {**self._about, "low_ms": kept})
        except (OSError, CatchweightError):
            return

    def _kept(self) -> list[float]:
        try:
            found: Any = read_json(self._path)
            return [float(value) for value in found["low_ms"] if float(value) > 0]
        except (OSError, CatchweightError, KeyError, TypeError, ValueError):
            return []
