"""The loop that every black-box strategy shares: propose, claim, evaluate, store."""

from __future__ import annotations

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ...budget import format_quantity, measured
from ...errors import UsageError
from ...front import Arch, Candidate, Front
from ..strategy import Problem, Say, silent
from .ledger import Claim, Ledger, Slot
from .turn import Prices, Turn
from .worker import at_work, beating

POLL_S = (0.05, 2.0)
"""First and longest pause while other workers finish the last candidates."""


class BlackBox(ABC):
    """Base of strategies that score whole candidates: a subclass says which one is next.

    Any number of processes may call :meth:`search` with the same problem and storage, at any time: each takes the
    next candidate. What a killed one had begun is taken up by another, or by the next call.
    """

    name: str

    @abstractmethod
    def propose(self, turn: Turn) -> Arch | None:
        """A new candidate that the turn :meth:`~.Turn.admits`; ``None`` if none can be found.

        It depends on nothing but the turn, so that a search goes on after a stop as if there had been none.
        """

    def search(self, problem: Problem, evaluations: int, say: Say = silent) -> Front:
        """See :class:`.Strategy`. Returns when all candidates are evaluated, also those that other workers hold.

        Raises:
            UsageError: fewer than one evaluation.
            CatchweightError: nothing meets a budget; the storage holds another search. What ``evaluate`` raises
                passes through, and its candidate is taken up again by the next call.
        """
        if evaluations < 1:
            raise UsageError(f"a search needs one evaluation or more, but got {evaluations}")
        return _Search(self, problem, evaluations, say).run()


class _Search:
    """One worker's part in a search."""

    def __init__(self, strategy: BlackBox, problem: Problem, evaluations: int, say: Say) -> None:
        self.strategy, self.problem, self.evaluations, self.say = strategy, problem, evaluations, say
        self.ledger = Ledger(problem, strategy.name)
        self.prices = Prices(problem)
        self.memo: dict[str, Any] = {}
        self.exhausted = False
        self.begun = time.monotonic()
        self.done_before: int | None = None

    def run(self) -> Front:
        pause = POLL_S[0]
        while True:
            slots = self.ledger.slots()[: self.evaluations]
            for worker in self.ledger.release_lost(slots):
                self.say(f"a candidate of {worker}, which is gone, is taken up again")
                slots = self.ledger.slots()[: self.evaluations]
            if self._full(slots) and all(slot.done for slot in slots):
                return self._end(slots)
            claim = self._next(slots)
            if claim is not None:
                pause = POLL_S[0]
                self._evaluate(claim, slots)
            elif self._full(slots) and not any(slot.open for slot in slots):
                time.sleep(pause)
                pause = min(2 * pause, POLL_S[1])

    def _full(self, slots: Sequence[Slot]) -> bool:
        return self.exhausted or len(slots) >= self.evaluations

    def _next(self, slots: Sequence[Slot]) -> Claim | None:
        """An open candidate, else a new one; ``None`` if there is none or another worker was first."""
        for slot in slots:
            if slot.open:
                return self.ledger.claim(slot.arch, slot.cost, self.evaluations)
        if self._full(slots):
            return None
        turn = self._turn(slots)
        arch = self.strategy.propose(turn)
        if arch is None:
            self._exhaust(slots, turn)
            return None
        return self.ledger.claim(arch, self.prices[arch], self.evaluations, dict(turn.rejected))

    def _turn(self, slots: Sequence[Slot]) -> Turn:
        done = {place: slot.done for place, slot in enumerate(slots)}
        return Turn(
            self.problem,
            len(slots),
            self.evaluations,
            {place: candidate for place, candidate in done.items() if candidate is not None},
            {slot.arch for slot in slots},
            random.Random(f"{self.problem.seed}/{self.strategy.name}/{len(slots)}"),
            self.prices,
            memo=self.memo,
        )

    def _exhaust(self, slots: Sequence[Slot], turn: Turn) -> None:
        if not slots:
            raise self.prices.nothing_fits(turn.rejected.total())
        self.exhausted = True
        self.say(f"no more than {len(slots)} different candidates within the budget were found")

    def _evaluate(self, claim: Claim, slots: Sequence[Slot]) -> None:
        try:
            with at_work(claim.worker), beating(lambda count: self.ledger.beat(claim, count)):
                score = self.problem.evaluate(claim.arch)
        except BaseException as error:  # also Ctrl-C: the next call takes it up again at once
            self.ledger.abandon(claim, f"{type(error).__name__}: {error}")
            raise
        counts = self.ledger.finish(claim, score)
        figures = ", ".join(
            f"{name} {format_quantity(name, measured(name, claim.cost) or 0.0)}" for name in self.problem.quantities
        )
        late = "" if counts else " (too late: another worker took it up)"
        known = [slot.done.score or 0.0 for slot in slots if slot.done is not None]
        best = max([*known, score if math.isfinite(score) else 0.0])
        self.say(
            f"candidate {claim.place + 1} of {self.evaluations}: score {score:.4f}, {figures}{late}; "
            f"best so far {best:.4f}{self._left(len(known) + 1)}"
        )

    def _left(self, done: int) -> str:
        """Minutes to go at the pace of this worker and the others since it began; empty where that is little."""
        self.done_before = done - 1 if self.done_before is None else self.done_before
        pace = (time.monotonic() - self.begun) / (done - self.done_before)
        minutes = pace * (self.evaluations - done) / 60
        return f", about {minutes:.0f} min left" if minutes >= 0.5 else ""

    def _end(self, slots: Sequence[Slot]) -> Front:
        rejected = "; ".join(f"{count} {reason}" for reason, count in sorted(self.ledger.rejected().items()))
        self.say(f"{len(slots)} candidates evaluated; rejected before any evaluation: {rejected or 'none'}")
        found: list[Candidate] = [slot.done for slot in slots if slot.done is not None]
        return Front(tuple(found))
