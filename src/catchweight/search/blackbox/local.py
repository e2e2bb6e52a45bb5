"""Random search with local moves, as the search for dense prediction cells has it (Chen et al., NeurIPS 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from ...front import Arch
from ..reach import factor_over
from .base import BlackBox
from .turn import Turn


@dataclass(frozen=True)
class LocalSearch(BlackBox):
    """With some probability a uniform draw, else a small change of one of the best candidates so far.

    Several budgets are served in turn.

    Args:
        uniform: probability of a uniform draw; the paper gives no figure.
        near: how many of the best are changed; with 1, the best observed alone.
        rate: probability of each choice to change; one at least does.
    """

    uniform: float = 0.5
    near: int = 1
    rate: float = 0.2
    name = "local"

    def propose(self, turn: Turn) -> Arch | None:
        decisions, rng = turn.problem.decisions, turn.rng
        limit = turn.limit
        known = [candidate for candidate in turn.scored if factor_over(limit, candidate.cost) <= 1]
        best = sorted(known, key=lambda candidate: -(candidate.score or 0.0))[: self.near]
        found = None
        if best and rng.random() >= self.uniform:
            found = turn.draw(lambda: decisions.mutate(rng.choice(best).arch, rng, self.rate), limit=limit)
        return found or turn.uniform(limit=limit) or turn.anything()
