"""Sessions taking turns, with the reference kernel between them; and which rounds had the machine to themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .conditions import Conditions
from .pace import TOLERANCE, UsualPace
from .processor import processor_name
from .reference import reference
from .waits import asleep, undisturbed

LEAST_ROUNDS = 6
"""Fewer give no interval of the median (see :func:`.measure.median_interval`)."""

_SETTLE = 0.003  # seconds of untimed runs that warm the caches at the beginning of a turn
_QUIET, _LONGEST_QUIET, _BLIND_QUIET = 0.001, 0.15, 0.05  # seconds: see _quieten
_TURN = 0.06  # seconds of timed runs in one session's turn
_TURN_RUNS, _REFERENCE_RUNS = 5, 9
_PATIENCE = 3
"""A measurement that was disturbed in more than half of its rounds may take this many times its time."""


class Session(Protocol):
    """A network ready to run: its buffers exist, a run costs nothing but the run."""

    runtime: str
    threads: int
    batch: int

    def run(self) -> object:
        """One batch through the network."""

    def ready(self) -> AbstractContextManager[None]:
        """The surroundings in which ``run`` is timed, e.g. this session's number of threads."""


@runtime_checkable
class SelfTimed(Protocol):
    """A session that knows its time better than our clock does, e.g. by events on a GPU."""

    def timed_run(self) -> float:
        """One run; its seconds."""


@dataclass(frozen=True)
class Turn:
    """Runs of one session back to back.

    Attributes:
        runs: seconds of the timed ones.
        alone: whether no other process had the cores meanwhile.
        pace_ms: the reference kernel's time around it, the mean of before and after; None without a reference.
        slowness: the worse of the two over the kernel's usual time.
    """

    runs: tuple[float, ...]
    alone: bool
    pace_ms: float | None = None
    slowness: float = 1.0

    @property
    def good(self) -> bool:
        return self.alone and self.slowness <= TOLERANCE


Round = tuple[Turn, ...]
"""One turn of every session."""


@dataclass(frozen=True)
class Rounds:
    """A measurement's rounds.

    Attributes:
        counted: those that had the machine to themselves at its usual pace, or all where too few had.
        usual_ms: of each session's reference kernel, or None.
        numbers: which of all rounds these are, counted from 0.
        left_out: rounds that do not count.
        disturbances: what the counted ones may have suffered.
    """

    counted: tuple[Round, ...]
    numbers: tuple[int, ...]
    usual_ms: tuple[float | None, ...]
    left_out: int
    disturbances: tuple[str, ...]


def rounds(
    sessions: Sequence[Session], seconds: float, warmup: int, reference: bool, enough: Callable[[Sequence[Round]], bool]
) -> Rounds:
    """Take turns until ``enough`` rounds are good or the time is over; one round at least.

    A round is good when no other process had the cores and the reference kernel ran at its usual pace before and
    after every turn. Where that is so in under half of the rounds the measurement may take three times its time.

    Args:
        seconds: time limit for each session.
        warmup: untimed runs of each session at first.
        reference: whether the reference kernel runs between turns.
    """
    paces = _Paces(sessions) if reference else None
    estimates = [_warm_up(session, warmup) for session in sessions]
    conditions, began = Conditions.now(), time.perf_counter()
    taken: list[Round] = []
    while True:
        taken.append(_round(sessions, estimates, paces))
        numbers = [number for number, turns in enumerate(taken) if all(turn.good for turn in turns)]
        good = [taken[number] for number in numbers]
        patience = _PATIENCE if 2 * len(good) < len(taken) else 1
        if enough(good) or time.perf_counter() - began >= patience * seconds * len(sessions):
            break
    beside = conditions.since(max(session.threads for session in sessions))
    usual = paces.learnt() if paces else (None,) * len(sessions)
    if len(good) >= min(LEAST_ROUNDS, len(taken)):
        return Rounds(tuple(good), tuple(numbers), usual, len(taken) - len(good), beside)
    return Rounds(tuple(taken), tuple(range(len(taken))), usual, 0, (*beside, _disturbed(taken)))


def _disturbed(taken: Sequence[Round]) -> str:
    hit = sum(not all(turn.alone for turn in turns) for turns in taken)
    slow = max(turn.slowness for turns in taken for turn in turns)
    return (
        f"disturbed: other processes had the cores in {hit} of {len(taken)} rounds, and the machine took up to "
        f"{slow:.2f} times its usual time for the reference kernel"
    )


class _Paces:
    """The reference kernel of every session's place (device and threads), and what it has told."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._places = [(getattr(session, "device", "cpu"), session.threads) for session in sessions]
        self._kernels = {place: reference(*place) for place in dict.fromkeys(self._places)}
        name = processor_name()
        self._usual = {place: UsualPace(kernel.runtime, name, place[1]) for place, kernel in self._kernels.items()}
        self._alone: dict[tuple[str, int], list[float]] = {place: [] for place in self._kernels}
        self._last = dict.fromkeys(self._kernels, 0.0)
        self._estimates = {place: _warm_up(kernel, 3) for place, kernel in self._kernels.items()}

    def now(self, number: int) -> float:
        """The kernel of session ``number`` takes a turn; its ms."""
        place = self._places[number]
        runs, alone = _settled_turn(self._kernels[place], self._estimates[place], most=_REFERENCE_RUNS)
        # Its threads sleep between runs and now and then wake on one core; the faster runs tell the machine's pace.
        self._last[place] = 1000 * sorted(runs)[len(runs) // 4]
        self._alone[place] += [self._last[place]] if alone else []
        return self._last[place]

    def usual(self, number: int) -> float:
        place = self._places[number]
        return self._usual[place].usual(self._alone[place] or [self._last[place]])

    def same_place(self, one: int, other: int) -> bool:
        return self._places[one] == self._places[other]

    def learnt(self) -> tuple[float, ...]:
        """Each session's usual time; this measurement is kept for later ones."""
        found = tuple(self.usual(number) for number in range(len(self._places)))
        for place, usual in self._usual.items():
            usual.learn(self._alone[place])
        return found


def _round(sessions: Sequence[Session], estimates: Sequence[float], paces: _Paces | None) -> Round:
    turns, before = [], None
    for number, (session, estimate) in enumerate(zip(sessions, estimates, strict=True)):
        if paces is None:
            turns.append(Turn(*_settled_turn(session, estimate, alone=len(sessions) == 1)))
            continue
        if before is None or not paces.same_place(number, number - 1):
            before = paces.now(number)
        runs, alone = _settled_turn(session, estimate)
        after = paces.now(number)
        slowness = max(before, after) / paces.usual(number)
        turns.append(Turn(runs, alone, (before + after) / 2, slowness))
        before = after
    return tuple(turns)


def _settled_turn(
    session: Session, estimate: float, alone: bool = False, most: int = _TURN_RUNS
) -> tuple[tuple[float, ...], bool]:
    """One turn after the others' threads have gone to sleep, and whether it had the cores to itself."""
    if not alone:
        _quieten()
    return undisturbed(lambda: _turn(session, estimate, most))


def _quieten() -> None:
    """Wait until this process's worker threads sleep, or 150 ms.

    They spin for the next run when there is none: ONNX Runtime's for 40 ms and more, torch's (OpenMP) for about 10 ms,
    OpenVINO's for under 1 ms, seen on two cores. Whoever is next would share its cores with them.
    """
    deadline = time.perf_counter() + _LONGEST_QUIET
    while (quiet := asleep()) is False and time.perf_counter() < deadline:
        time.sleep(_QUIET)
    if quiet is None:
        time.sleep(_BLIND_QUIET)


def _warm_up(session: Session, runs: int) -> float:
    """Run untimed; the fastest run in seconds."""
    with session.ready():
        return min(_timed(session) for _ in range(max(runs, 1)))


def _turn(session: Session, estimate: float, most: int) -> tuple[float, ...]:
    timed = min(max(int(_TURN / max(estimate, 1e-9)), 1), most)
    with session.ready():
        settled = time.perf_counter() + _SETTLE
        # A run ten times as long as the settling is hardly touched by it and too dear to throw away.
        while estimate < 10 * _SETTLE and time.perf_counter() < settled:
            session.run()
        return tuple(_timed(session) for _ in range(timed))


def _timed(session: Session) -> float:
    if isinstance(session, SelfTimed):
        return session.timed_run()
    start = time.perf_counter()
    session.run()
    return time.perf_counter() - start
