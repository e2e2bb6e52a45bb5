"""Latency of every block of a network, read while the whole network runs: each block in its own context."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import UsageError
from ...files import read_json, write_json
from ..clock.measure import Measurement, interleaved
from ..target import Target
from ..tracing.blocks import Signature, blocks
from .observers import NOWHERE, OBSERVERS, Observer


@dataclass(frozen=True)
class Observed:
    """A block's signature, the module it comes from, and its milliseconds in one run of the whole network.

    They hold for the machine's usual pace, as ``Measurement.steady_ms`` does.
    """

    signature: Signature
    module: str
    ms: float


@dataclass(frozen=True)
class Observation:
    """One network's blocks with their times, and its latency as a whole.

    Attributes:
        rows: every block, also those the runtime computes for nothing (0 ms).
        rest_ms: kernels that belong to no block.
        kernels: how many kernels the runtime ran.
        whole: the network timed without any profiler.
        disturbed: whether the machine was not itself while either was taken, so that they do not belong together.
    """

    rows: tuple[Observed, ...]
    rest_ms: float
    kernels: int
    whole: Measurement
    disturbed: bool = False

    @property
    def sum_ms(self) -> float:
        """All kernels together; more than the whole, since the profiler's own work is in it."""
        return sum(row.ms for row in self.rows) + self.rest_ms


def observe(target: Target, net: nn.Module, size: tuple[int, int], seconds: float = 2.0) -> Observation:
    """Time every block of ``net`` at (H, W) on ``target``, in the context of the whole network.

    Raises:
        UsageError: this target's runtime cannot be observed kernel by kernel.
        CatchweightError: the network cannot be traced or exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepare(net, size, target, Path(folder))
        return observe_prepared(target, Path(folder), seconds, lambda: net)


def observable(target: Target) -> bool:
    """Whether :func:`observe` knows this target's runtime."""
    return str(target) in OBSERVERS


def prepare(net: nn.Module, size: tuple[int, int], target: Target, folder: Path) -> None:
    """The slow half of :func:`observe`, which may run in another process: trace, group, write into ``folder``."""
    traced, origins = _observer(target).write(net, size, target, folder)
    found = blocks(traced, target.precision)
    owner = {op.name: place for place, block in enumerate(found) for op in block.ops}
    write_json(
        folder / "blocks.json",
        {
            "size": list(size),
            "blocks": [[block.signature.key, block.module] for block in found],
            "owner": {name: owner[op] for name, op in origins.items() if op in owner},
        },
    )


def observe_prepared(
    target: Target, folder: Path, seconds: float = 2.0, build: Callable[[], nn.Module] | None = None
) -> Observation:
    """The quick half: run what :func:`prepare` wrote.

    Args:
        build: makes the network once more, for runtimes that run networks, not files.
    """
    observer = _observer(target)
    plan: dict[str, Any] = read_json(folder / "blocks.json")
    size = (int(plan["size"][0]), int(plan["size"][1]))
    seen = observer.kernels(target, folder, size, plan["owner"])
    spent: dict[int, float] = defaultdict(float)
    for place, ms in seen.times:
        spent[place] += ms
    rows = tuple(
        Observed(Signature.from_key(key), module, spent.get(place, 0.0))
        for place, (key, module) in enumerate(plan["blocks"])
    )
    (whole,) = interleaved([observer.whole(target, folder, size, build)], seconds)
    return Observation(rows, spent.get(NOWHERE, 0.0), len(seen.times), whole, seen.disturbed or whole.disturbed)


def _observer(target: Target) -> Observer:
    if not observable(target):
        raise UsageError(
            f"{target} cannot be observed kernel by kernel, so it has no latency table; measure whole networks on it. "
            f"Tables can be made for: {', '.join(OBSERVERS)}"
        )
    return OBSERVERS[str(target)]
