"""A latency table of a device that does not exist: its times are a formula, and no test waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from catchweight.compress import find_groups
from catchweight.compress.tables import random_pruning
from catchweight.targets import Target
from catchweight.targets.clock.measure import Measurement
from catchweight.targets.latency.observe import Observation, Observed
from catchweight.targets.latency.predictor import LEAST
from catchweight.targets.latency.table import LatencyTable
from catchweight.targets.tracing.blocks import Signature, blocks
from catchweight.targets.tracing.trace import trace


def block_ms(signatures: Sequence[Signature]) -> np.ndarray:
    """By multiply-adds, elements moved, and a little for each block."""
    return np.array([s.macs / 2e7 + s.elements / 1e7 + 1e-3 for s in signatures])


def analytic_table(net: nn.Module, size: tuple[int, int], target: Target, folder: Path) -> Path:
    """A table in ``folder`` that knows ``net`` at as many widths as a statement of error needs."""
    groups, table = find_groups(net), LatencyTable(target, folder)
    for number in range(LEAST):
        found = [block.signature for block in blocks(trace(random_pruning(net, groups, number), size))]
        times = block_ms(found).tolist()
        rows = tuple(Observed(s, "", ms) for s, ms in zip(found, times, strict=True))
        whole = Measurement(*(5 * [sum(times)]), n=1, threads=target.threads, batch=1, runtime="none")
        table.add(f"formula {number}", size, Observation(rows, 0.0, len(rows), whole))
    return folder
