"""Timing as a benchmarker does it: warm, interleaved, until the median is known, and honest about noise."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol

PRECISION = 0.02
"""A median is known when half of its 95 % interval is at most this share of it."""

_SETTLE = 0.003  # seconds: worker threads of another session may still be spinning for its next run
_TURN = 0.02  # seconds of timed runs in one session's turn
_TURN_RUNS = 5
_NOISY_SPREAD = 0.3


class Session(Protocol):
    """A network ready to run: its buffers exist, a run costs nothing but the run."""

    runtime: str
    threads: int
    batch: int

    def run(self) -> object:
        """One batch through the network."""

    def ready(self) -> AbstractContextManager[None]:
        """The surroundings in which ``run`` is timed, e.g. this session's number of threads."""


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

    @property
    def spread(self) -> float:
        """(p90 - p10) / median."""
        return (self.p90_ms - self.p10_ms) / self.median_ms

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.median_ms

    @property
    def noisy(self) -> bool:
        """Whether the median is not known to within 2 %, or single runs scatter by more than 30 %."""
        return _half_width(self.low_ms, self.high_ms, self.median_ms) > PRECISION or self.spread > _NOISY_SPREAD

    def to_json(self) -> dict[str, Any]:
        """Everything but the single turns; an unknown interval is null."""
        values = {**asdict(self), "spread": self.spread, "noisy": self.noisy, "notes": list(self.notes)}
        del values["turns"]
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
    sessions: Sequence[Session], seconds: float = 5.0, min_runs: int = 30, warmup: int = 5
) -> list[Measurement]:
    """Time sessions in turns A, B, A, B, ..., so that a slow minute of the machine hits all of them.

    Repeats until every session has ``min_runs`` timed runs and the 95 % interval of its median is within 2 %,
    or until ``seconds`` per session have passed (each session has one turn at least, whatever it takes).
    A turn is up to five runs back to back, as in serving, after untimed ones that let other sessions' threads
    go to sleep. No garbage is collected meanwhile.
    """
    runs: list[list[list[float]]] = [[] for _ in sessions]
    with _no_garbage_collection():
        estimates = [_warm_up(session, warmup) for session in sessions]
        deadline = time.perf_counter() + seconds * len(sessions)
        while True:
            for session, turns, estimate in zip(sessions, runs, estimates, strict=True):
                turns.append(_turn(session, estimate))
            if time.perf_counter() >= deadline or all(_known(turns, min_runs) for turns in runs):
                break
    return [_measurement(session, turns) for session, turns in zip(sessions, runs, strict=True)]


def distinguishable(first: Measurement, second: Measurement) -> Comparison:
    """Compare two sessions, by paired turns when they were measured together, else by their intervals.

    Pairs make the comparison immune to the machine's slow drift. With too few turns the interval is infinite
    and nothing is claimed.
    """
    ratio = second.median_ms / first.median_ms
    if first.turns and len(first.turns) == len(second.turns):
        ratios = sorted(b / a for a, b in zip(first.turns, second.turns, strict=True))
        low, high = median_interval(ratios)
        return Comparison(ratio if low <= ratio <= high else median(ratios), low, high)
    return Comparison(ratio, second.low_ms / first.high_ms, second.high_ms / first.low_ms)


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


def _warm_up(session: Session, runs: int) -> float:
    """Run untimed; the fastest run in seconds."""
    with session.ready():
        return min(_timed(session) for _ in range(max(runs, 1)))


def _turn(session: Session, estimate: float) -> list[float]:
    timed = min(max(int(_TURN / max(estimate, 1e-9)), 1), _TURN_RUNS)
    with session.ready():
        settled = time.perf_counter() + _SETTLE
        # A run ten times as long as the settling is hardly touched by it and too dear to throw away.
        while estimate < 10 * _SETTLE and time.perf_counter() < settled:
            session.run()
        return [_timed(session) for _ in range(timed)]


def _timed(session: Session) -> float:
    start = time.perf_counter()
    session.run()
    return time.perf_counter() - start


def _known(turns: Sequence[Sequence[float]], min_runs: int) -> bool:
    if sum(map(len, turns)) < min_runs:
        return False
    medians = [median(turn) for turn in turns]
    return _half_width(*median_interval(medians), median(medians)) <= PRECISION


def _half_width(low: float, high: float, middle: float) -> float:
    return (high - low) / 2 / middle


def _measurement(session: Session, turns: Sequence[Sequence[float]]) -> Measurement:
    runs = sorted(1000 * run for turn in turns for run in turn)
    medians = tuple(1000 * median(turn) for turn in turns)
    low, high = median_interval(medians)
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
    )
    return Measurement(**{**vars(plain), "notes": _notes(plain)})


def _notes(measured: Measurement) -> tuple[str, ...]:
    notes = []
    if measured.noisy:
        width = _half_width(measured.low_ms, measured.high_ms, measured.median_ms)
        known = f"to within {width:.1%}" if math.isfinite(width) else f"from {len(measured.turns)} turns only"
        notes.append(f"noisy: median known {known}, single runs spread over {measured.spread:.0%}")
    third = len(measured.turns) // 3
    if third >= 2:
        change = median(measured.turns[-third:]) / median(measured.turns[:third]) - 1
        if abs(change) > 2.5 * PRECISION:
            notes.append(f"drifted by {change:+.0%} while it was measured")
    return tuple(notes)


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
