"""Timing as a benchmarker does it: warm, interleaved, until the median is known, and honest about noise."""

from __future__ import annotations

import gc
import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from .affinity import pinned
from .conditions import clock_notes
from .rounds import Round, Rounds, Session, Turn, rounds

PRECISION = 0.02
"""A median is known when half of its 95 % interval is at most this share of it."""

_NOISY_SPREAD = 0.3
_REFERENCE_SPREAD = 0.3
_REFERENCE_TURNS = 4


@dataclass(frozen=True)
class Measurement:
    """Wall-clock times of one session; milliseconds for one batch.

    Attributes:
        median_ms, p10_ms, p90_ms: of all timed runs.
        low_ms, high_ms: 95 % interval of the median, from the medians of turns: runs of one turn resemble each
            other, so they are not counted as independent. Infinite while there are under six turns.
        n: timed runs.
        notes: what the reader should know, e.g. that the machine was noisy.
        turns: the median of each turn, in order; sessions measured together have them in pairs.
        reference_ms: median of the reference kernel (``reference.py``) that took turns with the session, or None.
        usual_ms: what the reference kernel usually takes on this device (``pace.py``), or None.
        relative: how many times as long as the reference kernel, median over turns in pairs: comparable between
            quiet and slow minutes, and between machines of one kind.
        disturbed: whether something else than the session took the machine's time, as the notes say.
        conditions: what is neither good nor bad to know: frequency governor, clock, pinned cores.
        joint: names the call of :func:`interleaved`, so that only what was measured together is paired; empty: nothing.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    low_ms: float
    high_ms: float
    n: int
    threads: int
    batch: int
    runtime: str
    notes: tuple[str, ...] = ()
    turns: tuple[float, ...] = field(default=(), repr=False)
    reference_ms: float | None = None
    usual_ms: float | None = None
    relative: float | None = None
    disturbed: bool = False
    conditions: tuple[str, ...] = ()
    joint: str = field(default="", repr=False, compare=False)

    @property
    def spread(self) -> float:
        """(p90 - p10) / median."""
        return (self.p90_ms - self.p10_ms) / self.median_ms

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.median_ms

    @property
    def steady_ms(self) -> float:
        """Milliseconds at the machine's usual pace: what tables learn from, since paces of other minutes differ."""
        if self.relative is None or self.usual_ms is None:
            return self.median_ms
        return self.relative * self.usual_ms

    @property
    def told_ms(self) -> float:
        """The median; on a machine that was disturbed what it would be at the usual pace."""
        return self.steady_ms if self.disturbed else self.median_ms

    @property
    def noisy(self) -> bool:
        """Whether the machine was disturbed, the median is not known to within 2 %, or runs scatter by over 30 %."""
        return self.disturbed or self._uncertain

    @property
    def _uncertain(self) -> bool:
        return _half_width(self.low_ms, self.high_ms, self.median_ms) > PRECISION or self.spread > _NOISY_SPREAD

    def to_json(self) -> dict[str, Any]:
        """Everything but the single turns and what pairs them; an unknown interval is null."""
        values = {
            **asdict(self),
            "steady_ms": self.steady_ms,
            "spread": self.spread,
            "noisy": self.noisy,
            "notes": list(self.notes),
        }
        values["conditions"] = list(self.conditions)
        del values["turns"], values["joint"]
        if not math.isfinite(self.high_ms):
            values["low_ms"] = values["high_ms"] = None
        return values


@dataclass(frozen=True)
class Comparison:
    """How much slower the second is: the ratio of medians and its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def different(self) -> bool:
        """Whether the interval leaves out 1, so that a ranking can be claimed."""
        return not self.low <= 1 <= self.high

    def __str__(self) -> str:
        interval = f"{self.ratio - 1:+.1%}, 95 % interval {self.low - 1:+.1%} to {self.high - 1:+.1%}"
        if self.different:
            return f"{'slower' if self.ratio > 1 else 'faster'} ({interval})"
        return f"cannot be told apart here ({interval})"


def interleaved(
    sessions: Sequence[Session],
    seconds: float = 5.0,
    min_runs: int = 30,
    warmup: int = 5,
    *,
    reference: bool = True,
    cpus: Sequence[int] | None = None,
) -> list[Measurement]:
    """Time sessions in turns A, B, A, B, ..., so that a slow minute of the machine hits all of them.

    Repeats until every session has ``min_runs`` timed runs and the 95 % interval of its median is within 2 %,
    or until ``seconds`` per session have passed (each session has one turn at least, whatever it takes).
    A turn is up to five runs back to back, as in serving, after untimed ones that warm the caches; it begins when
    the worker threads of the session before have gone to sleep. Rounds during which other processes had the cores, or
    the machine was slower than it usually is, do not count (:mod:`.rounds`); a measurement with many of them takes
    up to three times as long. No garbage is collected meanwhile.

    Args:
        reference: whether a fixed small kernel runs between turns, which tells the machine's own pace.
        cpus: cores to pin this process to meanwhile.

    Raises:
        UsageError: cores that this process may not use.
    """

    def enough(good: Sequence[Round]) -> bool:
        return all(_known(good, number, min_runs) for number in range(len(sessions)))

    with pinned(cpus), _no_garbage_collection():
        done = rounds(sessions, seconds, warmup, reference, enough)
    conditions = (*clock_notes(), *_left_out(done), *(() if cpus is None else (f"pinned to cores {list(cpus)}",)))
    joint = uuid.uuid4().hex
    return [
        _measurement(
            session, [one[number] for one in done.counted], done.usual_ms[number], done.disturbances, conditions, joint
        )
        for number, session in enumerate(sessions)
    ]


def distinguishable(first: Measurement, second: Measurement) -> Comparison:
    """Compare two sessions, by paired turns when they were measured together, else by their intervals.

    Pairs make the comparison immune to the machine's slow drift. With too few turns the interval is infinite
    and nothing is claimed.
    """
    ratio = second.median_ms / first.median_ms
    if first.joint and first.joint == second.joint:
        ratios = sorted(b / a for a, b in zip(first.turns, second.turns, strict=True))
        low, high = median_interval(ratios)
        return Comparison(ratio if low <= ratio <= high else median(ratios), low, high)
    high = second.high_ms / first.low_ms if first.low_ms else math.inf  # 0 where too few turns give no interval
    return Comparison(ratio, second.low_ms / first.high_ms, high)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median by order statistics (David and Nagaraja, Order Statistics, 2003, ch. 7).

    No distribution is assumed. Under six values no interval reaches 95 %: (0, inf).
    """
    ordered, n = sorted(values), len(values)
    # The largest k for which fewer than k of n values fall below the median with probability <= 2.5 %.
    tail, k = 0.0, 0
    while k < n // 2 and (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else (0.0, math.inf)


def _known(good: Sequence[Round], number: int, min_runs: int) -> bool:
    turns = [one[number].runs for one in good]
    if sum(map(len, turns)) < min_runs:
        return False
    medians = [median(turn) for turn in turns]
    return _half_width(*median_interval(medians), median(medians)) <= PRECISION


def _half_width(low: float, high: float, middle: float) -> float:
    return (high - low) / 2 / middle


def _left_out(done: Rounds) -> tuple[str, ...]:
    """What was not counted; not a fault of what was."""
    if not done.left_out:
        return ()
    total = done.left_out + len(done.counted)
    return (f"{done.left_out} of {total} rounds left out, the machine being busy or slower than usual",)


def _measurement(
    session: Session,
    turns: Sequence[Turn],
    usual_ms: float | None,
    disturbances: Sequence[str],
    conditions: tuple[str, ...],
    joint: str,
) -> Measurement:
    runs = sorted(1000 * run for turn in turns for run in turn.runs)
    medians = tuple(1000 * median(turn.runs) for turn in turns)
    paces = tuple(turn.pace_ms for turn in turns if turn.pace_ms is not None)
    low, high = median_interval(medians)
    unsteady = _unsteady(paces)
    plain = Measurement(
        median_ms=median(runs),
        p10_ms=_quantile(runs, 0.1),
        p90_ms=_quantile(runs, 0.9),
        low_ms=low,
        high_ms=high,
        n=len(runs),
        threads=session.threads,
        batch=session.batch,
        runtime=session.runtime,
        turns=medians,
        reference_ms=median(paces) if paces else None,
        usual_ms=usual_ms,
        relative=median(own / pace for own, pace in zip(medians, paces, strict=True)) if paces else None,
        disturbed=bool(disturbances or unsteady),
        conditions=conditions,
        joint=joint,
    )
    return replace(plain, notes=(*_notes(plain), *unsteady, *_drift(paces, "the reference kernel"), *disturbances))


def _notes(measured: Measurement) -> tuple[str, ...]:
    notes = []
    if measured._uncertain:
        width = _half_width(measured.low_ms, measured.high_ms, measured.median_ms)
        known = f"to within {width:.1%}" if math.isfinite(width) else f"from {len(measured.turns)} turns only"
        notes.append(f"noisy: median known {known}, single runs spread over {measured.spread:.0%}")
    return (*notes, *_drift(measured.turns, "it"))


def _drift(turns: Sequence[float], who: str) -> tuple[str, ...]:
    """A note when the last third of the turns differs from the first."""
    third = len(turns) // 3
    if third < 2:
        return ()
    change = median(turns[-third:]) / median(turns[:third]) - 1
    return (f"{who} drifted by {change:+.0%} during the measurement",) if abs(change) > 2.5 * PRECISION else ()


def _unsteady(beside: Sequence[float]) -> tuple[str, ...]:
    """A note when the reference kernel, whose work never changes, is often much slower than at its best."""
    if len(beside) < _REFERENCE_TURNS:
        return ()
    ordered = sorted(beside)
    excess = _quantile(ordered, 0.9) / _quantile(ordered, 0.1) - 1
    if excess <= _REFERENCE_SPREAD:
        return ()
    return (f"disturbed: the reference kernel took {ordered[0]:.2f} to {ordered[-1]:.2f} ms for the same work",)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
