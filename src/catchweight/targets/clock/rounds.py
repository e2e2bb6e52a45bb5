"""Sessions taking turns, with reference kernels between them; and which rounds had the machine to themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ...quiet import measuring
from .conditions import Conditions
from .gather import gather
from .pace import TOLERANCE, UsualPace
from .processor import processor_name
from .reference import Kernel, references
from .waits import asleep, undisturbed

LEAST_ROUNDS = 6
"""Fewer give no interval of the median (see :func:`.measure.median_interval`)."""

LEAST_GOOD = 3
"""So many good rounds count alone: a rough figure of this machine, where all rounds would tell of its neighbours."""

_SETTLE = 0.003  # seconds of untimed runs that warm the caches at the beginning of a turn
_LONGEST_QUIET, _BLIND_QUIET = 0.15, 0.05  # seconds: see _quieten
_TURN = 0.06  # seconds of timed runs in one session's turn
_TURN_RUNS, _REFERENCE_RUNS = 5, 9
_PATIENCE = 3
"""A measurement that was disturbed in more than half of its rounds may take this many times its time."""
_WAIT_TIMES, _WAIT_S = 5, 20.0
"""Or so many times its time longer, at most those seconds, where nobody has the cores and yet the machine is slow."""
_GATHER_S = 0.1
_LEARNT, _LEARNING_S = 3, 5.0


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
        slowness: the worst of all kernels, before and after, over its usual time.
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


@measuring()
def rounds(
    sessions: Sequence[Session], seconds: float, warmup: int, reference: bool, enough: Callable[[Sequence[Round]], bool]
) -> Rounds:
    """Take turns until ``enough`` rounds are good or the time is over; one round at least.

    A round is good when no other process had the cores and the reference kernels ran at their usual pace before and
    after every turn. Where that is so in under half of the rounds the measurement may take three times its time, or
    six times (20 seconds more at most) while it waits for a machine that nobody uses and that is slow all the same.

    Args:
        seconds: time limit for each session.
        warmup: untimed runs of each session at first.
        reference: whether the reference kernels run between turns.
    """
    paces = _Paces(sessions) if reference else None
    estimates = [_warm_up(session, warmup) for session in sessions]
    conditions, clock = Conditions.now(), _Time(seconds * len(sessions))
    taken: list[Round] = []
    slow = 0
    while True:
        if len(taken) >= LEAST_ROUNDS and paces and clock.waiting(taken) and paces.slow():
            slow += 1
            if slow % 2 == 0:  # looking on is work too, and brings a good state back as often (machine_states.py)
                gather(_GATHER_S)
        else:
            taken.append(_round(sessions, estimates, paces))
        numbers = [number for number, turns in enumerate(taken) if all(turn.good for turn in turns)]
        good = [taken[number] for number in numbers]
        sufficient = enough(good)
        if sufficient or clock.over(taken, len(good)):
            break
    beside = conditions.since(max(session.threads for session in sessions))
    usual = paces.learnt() if paces else (None,) * len(sessions)
    if sufficient or len(good) >= min(LEAST_GOOD, len(taken)):
        return Rounds(tuple(good), tuple(numbers), usual, len(taken) - len(good), beside)
    return Rounds(tuple(taken), tuple(range(len(taken))), usual, 0, (*beside, _disturbed(taken)))


class _Time:
    """How long a measurement may go on: its own time, and what it gets on top where the machine was not itself."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.perf_counter()

    def over(self, taken: Sequence[Round], good: int) -> bool:
        if 2 * good >= len(taken):
            return self._spent >= self._seconds
        return self._spent >= max(_PATIENCE * self._seconds, self._patient_s(taken))

    def waiting(self, taken: Sequence[Round]) -> bool:
        """Whether the time that is left is only for a better moment: no use in more rounds like those before."""
        return self._spent < self._patient_s(taken)

    def _patient_s(self, taken: Sequence[Round]) -> float:
        alone = sum(all(turn.alone for turn in turns) for turns in taken)
        return self._seconds + (min(_WAIT_S, _WAIT_TIMES * self._seconds) if 2 * alone > len(taken) else 0.0)

    @property
    def _spent(self) -> float:
        return time.perf_counter() - self._began


def learn_pace(device: str, threads: int, told: Callable[[str], None]) -> None:
    """Look at the reference kernels for 15 seconds where little is known of this machine's usual pace yet.

    A first measurement of a second or two would else take whatever state the machine is in for the usual one.
    """
    name = processor_name()
    beats = [_Beat(kernel, name) for kernel in references(device, threads)]
    if all(beat.known >= _LEARNT for beat in beats):
        return
    told(f"learning the machine's usual pace: {_LEARNT} times {_LEARNING_S:.0f} seconds")
    for _ in range(_LEARNT):
        _learn([_Beat(kernel, name) for kernel in references(device, threads)])


@measuring()
def _learn(beats: Sequence[_Beat]) -> None:
    end = time.perf_counter() + _LEARNING_S
    while time.perf_counter() < end:
        for beat in beats:
            beat.now()
    for beat in beats:
        beat.learn()


def _disturbed(taken: Sequence[Round]) -> str:
    hit = sum(not all(turn.alone for turn in turns) for turns in taken)
    slow = max(turn.slowness for turns in taken for turn in turns)
    return (
        f"disturbed: other processes had the cores in {hit} of {len(taken)} rounds, and the machine took up to "
        f"{slow:.2f} times its usual time for a reference kernel"
    )


@dataclass(frozen=True)
class _Pace:
    """What the kernels of one place say: the first one's ms, and the worst of their times over the usual ones."""

    ms: float
    slowness: float


class _Beat:
    """One reference kernel, and what it has told."""

    def __init__(self, kernel: Kernel, processor: str) -> None:
        self._kernel, self._usual = kernel, UsualPace(kernel.runtime, processor, kernel.threads)
        self._alone: list[float] = []
        self._last = 0.0
        self._estimate = _warm_up(kernel, 3)

    def now(self) -> float:
        """A turn of the kernel; its ms."""
        self._last, alone = kernel_turn(self._kernel, self._estimate)
        self._alone += [self._last] if alone else []
        return self._last

    @property
    def known(self) -> int:
        """Measurements that remember this kernel."""
        return self._usual.known

    def usual(self) -> float:
        return self._usual.usual(self._alone or [self._last])

    def learn(self) -> None:
        self._usual.learn(self._alone)


class _Paces:
    """The reference kernels of every session's place (device and threads)."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._places = [(getattr(session, "device", "cpu"), session.threads) for session in sessions]
        name = processor_name()
        self._beats = {
            place: [_Beat(kernel, name) for kernel in references(*place)] for place in dict.fromkeys(self._places)
        }

    def now(self, number: int) -> _Pace:
        """The kernels of session ``number`` take a turn."""
        beats = self._beats[self._places[number]]
        told = [beat.now() for beat in beats]
        return _Pace(told[0], max(ms / beat.usual() for ms, beat in zip(told, beats, strict=True)))

    def slow(self) -> bool:
        """Whether the machine is slower than usual now."""
        firsts = {place: number for number, place in reversed(list(enumerate(self._places)))}
        return any(self.now(number).slowness > TOLERANCE for number in firsts.values())

    def same_place(self, one: int, other: int) -> bool:
        return self._places[one] == self._places[other]

    def learnt(self) -> tuple[float, ...]:
        """The usual time of each session's first kernel; this measurement is kept for later ones."""
        found = tuple(self._beats[place][0].usual() for place in self._places)
        for beats in self._beats.values():
            for beat in beats:
                beat.learn()
        return found


def _round(sessions: Sequence[Session], estimates: Sequence[float], paces: _Paces | None) -> Round:
    turns, before = [], None
    for number, (session, estimate) in enumerate(zip(sessions, estimates, strict=True)):
        if paces is None:
            turns.append(Turn(*settled_turn(session, estimate, alone=len(sessions) == 1)))
            continue
        if before is None or not paces.same_place(number, number - 1):
            before = paces.now(number)
        runs, alone = settled_turn(session, estimate)
        after = paces.now(number)
        turns.append(Turn(runs, alone, (before.ms + after.ms) / 2, max(before.slowness, after.slowness)))
        before = after
    return tuple(turns)


def settled_turn(
    session: Session, estimate: float, alone: bool = False, most: int = _TURN_RUNS
) -> tuple[tuple[float, ...], bool]:
    """One turn after the others' threads have gone to sleep, and whether it had the cores to itself.

    Args:
        estimate: seconds of a run, roughly.
        alone: whether there are no others to wait for.
        most: runs.

    Returns:
        Seconds of each run, and whether no other process took a core.
    """
    if not alone:
        _quieten()
    return undisturbed(lambda: _turn(session, estimate, most))


def kernel_turn(kernel: Session, estimate: float) -> tuple[float, bool]:
    """One turn of a reference kernel: its ms, and whether it had the cores to itself."""
    runs, alone = settled_turn(kernel, estimate, most=_REFERENCE_RUNS)
    # Its threads sleep between runs and now and then wake on one core; the faster runs tell the machine's pace.
    return 1000 * sorted(runs)[len(runs) // 4], alone


def _quieten() -> None:
    """Wait until this process's worker threads sleep, or 150 ms.

    They spin for the next run when there is none: ONNX Runtime's for 40 ms and more, torch's (OpenMP) for about 10 ms,
    OpenVINO's for under 1 ms, seen on two cores. Whoever is next would share its cores with them.
    """
    deadline = time.perf_counter() + _LONGEST_QUIET
    while (quiet := asleep()) is False and time.perf_counter() < deadline:
        pass  # sleeping would lose this thread's place: see :mod:`.gather`
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
