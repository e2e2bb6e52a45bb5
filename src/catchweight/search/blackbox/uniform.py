"""Random search: what every other strategy has to beat (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from ...front import Arch
from .base import BlackBox
from .turn import Turn


@dataclass(frozen=True)
class RandomSearch(BlackBox):
    """Architectures drawn by :meth:`.Decisions.sample`, those over the budget and those known drawn again.

    Several budgets are served in turn.

    Args:
        tries: draws for one candidate before the space counts as exhausted. Where less than about one in a
            thousand fits, ``evolution`` finds what this cannot.
    """

    tries: int = 10_000
    name = "random"

    def propose(self, turn: Turn) -> Arch | None:
        return turn.uniform(self.tries, turn.limit) or turn.uniform(self.tries)
