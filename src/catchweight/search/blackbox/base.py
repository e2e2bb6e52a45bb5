"""The loop that every black-box strategy shares: propose, claim, evaluate, store."""

from __future__ import annotations

import dataclasses
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
from .ledger import Claim, Ledger, Slot, beats_elsewhere, plain
from .turn import Prices, Turn
from .worker import at_work, beating, new_claim

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
        self.ledger = Ledger(problem, strategy.name, _settings(strategy))
        self.unheard = beats_elsewhere(self.ledger.slots())
        self.waits = False
        self.prices = Prices(problem)
        self.memo: dict[str, Any] = {}
        self.exhausted = False
        self.begun = time.monotonic()
        self.done_before: int | None = None

    def run(self) -> Front:
        pause = POLL_S[0]
        while True:
            slots = self._slots()
            if self._late(slots) or (self._full(slots) and all(slot.done for slot in slots)):
                return self._end(slots)
            if self._must_wait(slots):
                time.sleep(pause)
                pause = min(2 * pause, POLL_S[1])
                continue
            worker = new_claim()
            with at_work(worker):  # from before the claim is stored until its result is: other threads look in between
                claim = self._next(slots, worker)
                if claim is not None:
                    pause = POLL_S[0]
                    self._evaluate(claim, slots)

    def _slots(self) -> list[Slot]:
        """Those of this search, the candidates of workers that are gone given back."""
        slots = self.ledger.slots()[: self.evaluations]
        for worker in self.ledger.release_lost(slots):
            self.say(f"a candidate of {worker}, which is gone, is taken up again")
            slots = self.ledger.slots()[: self.evaluations]
        return slots

    def _must_wait(self, slots: Sequence[Slot]) -> bool:
        """Whether there is nothing to begin, or it is too early to propose."""
        if any(slot.open for slot in slots):
            return False
        return self._full(slots) or self._unsure(slots)

    def _unsure(self, slots: Sequence[Slot]) -> bool:
        """Whether a worker elsewhere that was at a candidate when this one came has not been heard of since.

        It may be this very search, killed with its container and started in another one: what is proposed without that
        candidate's score is not what an undisturbed search proposes.
        """
        beats = beats_elsewhere(slots)
        self.unheard = {trial: beat for trial, beat in self.unheard.items() if beats.get(trial) == beat}
        if self.unheard and not self.waits:
            self.waits = True
            self.say(
                f"workers elsewhere hold {len(self.unheard)} of the candidates: waits for their signs of life before "
                f"it proposes another, {self.ledger.grace:.0f} s at most"
            )
        return bool(self.unheard)

    def _late(self, slots: Sequence[Slot]) -> bool:
        """Whether the time is up and enough was found; what other workers are at is not waited for."""
        deadline, done = self.problem.deadline, sum(slot.done is not None for slot in slots)
        return deadline is not None and time.monotonic() >= deadline and done >= max(1, self.problem.least)

    def _full(self, slots: Sequence[Slot]) -> bool:
        return self.exhausted or len(slots) >= self.evaluations

    def _next(self, slots: Sequence[Slot], worker: dict[str, Any]) -> Claim | None:
        """An open candidate, else a new one; ``None`` if there is none or another worker was first."""
        for slot in slots:
            if slot.open:
                return self.ledger.claim(worker, slot.arch, slot.cost, self.evaluations)
        if self._full(slots):
            return None
        turn = self._turn(slots)
        arch = self.strategy.propose(turn)
        if arch is None:
            self._exhaust(slots, turn)
            return None
        return self.ledger.claim(worker, arch, self.prices[arch], self.evaluations, dict(turn.rejected))

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
            with beating(lambda count: self.ledger.beat(claim, count)):
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
        found: list[Candidate] = [slot.done for slot in slots if slot.done is not None]
        late = f" of {self.evaluations}, the time was up" if self._late(slots) and len(found) < self.evaluations else ""
        self.say(f"{len(found)} candidates evaluated{late}; rejected before any evaluation: {rejected or 'none'}")
        return Front(tuple(found))


def _settings(strategy: BlackBox) -> dict[str, Any]:
    """Its dataclass's fields that are not at their default, as far as they are plain values; JSON-able."""
    fields: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(strategy):
        fields = dataclasses.fields(strategy)
    changed = {f.name: getattr(strategy, f.name) for f in fields if getattr(strategy, f.name) != f.default}
    return {name: value for name, value in changed.items() if plain(value)}
