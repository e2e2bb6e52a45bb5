"""The last step of a pruning: onto the latency that was asked for, as measured."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ..targets import Target
from ..targets.clock.measure import Measurement, distinguishable, interleaved
from ..targets.clock.rounds import Session
from .allocate import OutOfReachError
from .schedule import Interval, Pruner, Say

SECONDS, VERDICT_SECONDS = 2.5, 6.0
"""Time limits for one measurement on the way and for the last one."""
TRIES = 3
"""So often is measured where something else has the machine."""
NUDGES = 12
"""So often the aim is moved until the plan is another one than those that were measured."""
LEAST_NUDGE = 0.01
"""Share of the aim by which it is moved at least."""


Tried = list[tuple[float, dict[str, int]]]
"""Measured latency and units of every group."""


@dataclass(frozen=True)
class Landing:
    """Where a pruning ended, before fine-tuning: latency as measured, importance kept, units of every group.

    Attributes:
        limit_ms: what was asked for; ``latency_ms`` is above it where no attempt came within it.
        steps: that were taken, this last one included; fewer than planned where the time was up.
        bundles: units of every group that are worth removing only together on the device.
        median_error: of the predictions that the bundles come from, as their table states it; a share.
    """

    latency_ms: float
    share: float
    widths: dict[str, tuple[int, int]]
    tried: list[dict[str, float]]
    limit_ms: float | None = None
    steps: int | None = None
    bundles: dict[str, int] | None = None
    median_error: float | None = None

    @property
    def met(self) -> bool:
        return self.limit_ms is None or self.latency_ms <= self.limit_ms

    def hurried(self, planned: int) -> str:
        """What to tell of steps that were left out; empty where none were."""
        if self.steps is None or self.steps >= planned:
            return ""
        return f"; for want of time in {self.steps} of {planned} steps, the last of which did what those left out would"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Landing:
        widths = {name: (int(before), int(after)) for name, (before, after) in value["widths"].items()}
        # Earlier versions told fewer.
        known = {name: value.get(name) for name in ("limit_ms", "steps", "bundles", "median_error")}
        return cls(value["latency_ms"], value["share"], widths, value["tried"], **known)


def undisturbed(sessions: Sequence[Session], seconds: float) -> list[Measurement]:
    """In turns; again while something else has the machine, a few times at most."""
    found: list[Measurement] = []
    for _ in range(TRIES):
        found = interleaved(sessions, seconds)
        if not any(m.disturbed for m in found):
            break
    return found


def alone(net: nn.Module, target: Target, size: tuple[int, int]) -> tuple[float, list[str]]:
    """Latency of a network by itself in ms, measured at length, and what there is to know of it.

    On a machine that stays busy it is that at the machine's usual pace.
    """
    (found,) = undisturbed([target.prepare(net, size)], VERDICT_SECONDS)
    return found.told_ms, list(found.notes)


class Scales:
    """Measures pruned networks in turns with the unpruned one, so that a slow minute of the machine tells nothing.

    Args:
        net: unpruned.
        latency_ms: of ``net``, measured alone and at length.
    """

    def __init__(self, net: nn.Module, target: Target, size: tuple[int, int], latency_ms: float) -> None:
        self.target, self.size, self.latency_ms = target, size, latency_ms
        self._whole = target.prepare(net, size)

    def of(self, net: nn.Module, seconds: float = SECONDS) -> float:
        """Latency in ms: the ratio to the unpruned network, times what that takes."""
        whole, pruned = undisturbed([self._whole, self.target.prepare(net, self.size)], seconds)
        return self.latency_ms * distinguishable(whole, pruned).ratio


class Line:
    """From measured to predicted: a line between the two measured networks that enclose a latency.

    Args:
        points: (measured, predicted) latency of networks, in ms.
    """

    def __init__(self, points: Iterable[Sequence[float]] = ()) -> None:
        self.points = [(measured, predicted) for measured, predicted in points]

    def add(self, measured: float, predicted: float) -> None:
        """A network that was measured, with what had been predicted for it."""
        self.points.append((measured, predicted))

    def predicted(self, measured: float) -> float:
        """What is to be predicted for a network that shall measure so much."""
        below = max((point for point in self.points if point[0] <= measured), default=None)
        above = min((point for point in self.points if point[0] > measured), default=None)
        if below is not None and above is not None and below[1] < above[1]:
            return below[1] + (measured - below[0]) / (above[0] - below[0]) * (above[1] - below[1])
        nearest = min(self.points, key=lambda point: abs(point[0] - measured))
        return nearest[1] * measured / nearest[0]


def calibrated(pruner: Pruner, scales: Scales, limit: float) -> Line:
    """Measure the network as it is and with as little as may be left: predictions are trusted between the two.

    Raises:
        OutOfReachError: the least network is measured to be over the limit.
    """
    line = Line()
    line.add(scales.of(pruner.net), pruner.predicted)
    smallest = copy.deepcopy(pruner.net)
    pruner.groups.prune(smallest, {name: range(count) for name, count in pruner.least.items()})
    measured = scales.of(smallest)
    if measured > limit:
        raise OutOfReachError(
            f"pruning alone cannot reach {limit:g} ms: with as little as may be left of every group the network still "
            f"takes {measured:.2f} ms. Allow more, or take a smaller network or input"
        )
    line.add(measured, pruner.costs.total(pruner.least))
    return line


def land(pruner: Pruner, scales: Scales, line: Line, limit: float, say: Say) -> Landing:
    """Train one more interval, then solve and measure until the latency is right, and prune so.

    Where no solution comes near enough, the slowest one within the limit is taken, and where there is none, the
    fastest. What is taken was measured a second time, at length: of several, one is always lucky.

    Args:
        line: what measurements so far tell of predictions; those made here are added.
    """
    interval, settings = pruner.train_interval(), pruner.settings
    line.add(scales.of(pruner.net), pruner.predicted)
    aim = limit * (1 - settings.close / 2)
    tried: Tried = []
    for attempt in range(settings.attempts):
        widths = _another(pruner, interval, line.predicted(aim), aim, tried)
        if widths is None:
            break
        latency = scales.of(pruner.preview(interval, widths))
        tried.append((latency, widths))
        say(f"land: attempt {attempt + 1} measures {latency:.2f} ms for {limit:g} ms")
        if limit * (1 - settings.close) <= latency <= limit:
            break
        line.add(latency, pruner.costs.total(widths))
    latency, widths = _chosen(pruner, interval, scales, limit, tried)
    pruner.apply(interval, widths)
    return Landing(
        latency, pruner.state.share, {name: (pruner.full[name], units) for name, units in pruner.groups.widths.items()},
        [{"latency_ms": ms} for ms, _ in tried], limit, pruner.state.step + 1,
    )  # fmt: skip


def _another(pruner: Pruner, interval: Interval, wanted: float, aim: float, tried: Tried) -> dict[str, int] | None:
    """A plan that has not been measured yet: the aim moves the way that the measured one was off."""
    factor = 0.0
    for _ in range(NUDGES):
        widths = pruner.plan(interval, wanted)
        known = next((ms for ms, others in tried if others == widths), None)
        if known is None:
            return widths
        if not factor:
            factor = min(aim / known, 1 - LEAST_NUDGE) if known > aim else max(aim / known, 1 + LEAST_NUDGE)
        wanted *= factor
    return None


def _chosen(
    pruner: Pruner, interval: Interval, scales: Scales, limit: float, tried: Tried
) -> tuple[float, dict[str, int]]:
    """The slowest that is within the limit also when it is measured again; else the fastest."""
    by_latency = sorted(tried, key=lambda found: found[0])
    again: Tried = []
    for _, widths in [found for found in reversed(by_latency) if found[0] <= limit] or by_latency[:1]:
        measured = scales.of(pruner.preview(interval, widths), VERDICT_SECONDS)
        if measured <= limit:
            return measured, widths
        again.append((measured, widths))
    return min(again, key=lambda found: found[0])


@dataclass(frozen=True)
class Verdict:
    """Both networks measured in turns at the end."""

    before_ms: float
    after_ms: float
    limit_ms: float
    faster: str
    notes: tuple[str, ...] = ()
    """What was wrong with the machine meanwhile; empty where nothing was."""

    @property
    def met(self) -> bool:
        return self.after_ms <= self.limit_ms

    def message(self, score: float, before: float) -> str:
        told = (
            f"{self.after_ms:.2f} ms instead of {self.before_ms:.2f} ms ({self.faster}), mIoU {score:.4f} instead of "
            f"{before:.4f}"
        )
        if self.notes:
            told += f"; while it was measured, {', '.join(self.notes)}"
        if self.met:
            return f"within {self.limit_ms:g} ms: {told}"
        return f"MISSED {self.limit_ms:g} ms: {told}. On a machine that is busy, the same command measures again"


def verdict(
    before: nn.Module, after: nn.Module, target: Target, size: tuple[int, int], limit: float
) -> Verdict:  # fmt: skip
    """Measure the network as it came and as it is now; what counts is the measured latency of the latter."""
    one, other = undisturbed([target.prepare(net, size) for net in (before, after)], VERDICT_SECONDS)
    notes = tuple(dict.fromkeys((*one.notes, *other.notes))) if one.disturbed or other.disturbed else ()
    return Verdict(one.median_ms, other.median_ms, limit, str(distinguishable(one, other)), notes)
