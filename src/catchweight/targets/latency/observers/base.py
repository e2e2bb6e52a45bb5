"""What every observer of a runtime has in common: kernels with their times, taken while the machine is itself."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...clock.rounds import Round, Session, rounds
from ...target import Target
from ...tracing.trace import Trace

RUNS, WARM = 40, 10
SECONDS = 1.0
"""Time limit of the observed runs; they may take three times as long on a machine that is not itself."""

NOWHERE = -1


@dataclass(frozen=True)
class Kernels:
    """Block (or -1) and milliseconds of every kernel of a network, and whether the machine was not itself meanwhile.

    The milliseconds hold for the machine's usual pace.
    """

    times: list[tuple[int, float]]
    disturbed: bool


class Observer(ABC):
    """Watches one runtime from inside while it runs a whole network, so that every block has its own context."""

    @abstractmethod
    def write(
        self, net: nn.Module, size: tuple[int, int], target: Target, folder: Path
    ) -> tuple[Trace, dict[str, str]]:
        """Put into ``folder`` what :meth:`kernels` will run; the slow half, which may run in another process.

        Returns:
            The traced network, and for every name that :meth:`kernels` may meet the operator it comes from.
        """

    @abstractmethod
    def kernels(self, target: Target, folder: Path, size: tuple[int, int], owner: Mapping[str, int]) -> Kernels:
        """Run what was written for images of (H, W); ``owner`` is the block of every name."""

    @abstractmethod
    def whole(
        self, target: Target, folder: Path, size: tuple[int, int], build: Callable[[], nn.Module] | None
    ) -> Session:
        """The network as a user runs it, unobserved.

        Args:
            build: makes the network, for runtimes that run networks, not files.
        """


class Watched:
    """Runs of a network that is watched; remembers which of them were timed."""

    runtime, batch = "observed", 1

    def __init__(self, run: Callable[[], object], threads: int, device: str = "cpu") -> None:
        self._run, self.threads, self.device = run, threads, device
        self.timed: list[int] = []
        self._done = 0

    def run(self) -> None:
        self._run()
        self._done += 1

    def timed_run(self) -> float:
        self.timed.append(self._done)
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()


def watched_runs(session: Watched) -> tuple[dict[int, float], bool]:
    """Run until enough runs had the machine to themselves.

    Returns:
        The number of each, and what brings it to the usual pace; and whether even these were disturbed.
    """

    def enough(good: Sequence[Round]) -> bool:
        return sum(len(turn.runs) for (turn,) in good) >= RUNS

    done = rounds([session], SECONDS, WARM, True, enough)
    scales: dict[int, float] = {}
    for number, (turn,) in zip(done.numbers, done.counted, strict=True):
        first = WARM + number * len(turn.runs)  # every turn has the same number of runs
        pace, usual = turn.pace_ms, done.usual_ms[0]
        scale = usual / pace if pace and usual else 1.0
        scales |= dict.fromkeys(session.timed[first : first + len(turn.runs)], scale)
    return scales, bool(done.disturbances)


def middle(values: Sequence[float]) -> float:
    """Mean of the middle half: a clock that counts whole microseconds would keep a median on one of them."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    kept = ordered[quarter : len(ordered) - quarter]
    return sum(kept) / len(kept) if kept else 0.0
