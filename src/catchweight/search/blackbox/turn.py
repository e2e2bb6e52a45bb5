"""One turn of a search: what a strategy sees when it is asked for a candidate, and the gate that keeps the rest out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...budget import Budget, Cost, format_quantity
from ...errors import CatchweightError
from ...front import Arch, Candidate
from ..reach import factor_over
from ..strategy import Problem

TRIES = 1000
"""Draws before a way of drawing is given up."""

STEPS = 100
"""Steps of a walk towards the budget; the number of repairs in ViT-ResNAS (2021)."""

OVER, KNOWN = "over the budget", "known already"


class Prices:
    """Predicted costs, each asked once by this worker, and the one that came nearest to a budget."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._costs: dict[Arch, Cost] = {}
        self.nearest: Candidate | None = None

    def __getitem__(self, arch: Arch) -> Cost:
        if arch not in self._costs:
            cost = self._costs[arch] = self._problem.price(arch)
            if self.nearest is None or self._problem.over(cost) < self._problem.over(self.nearest.cost):
                self.nearest = Candidate(arch, cost)
        return self._costs[arch]

    def over(self, arch: Arch) -> float:
        """See :meth:`.Problem.over`."""
        return self._problem.over(self[arch])

    def nothing_fits(self, drawn: int) -> CatchweightError:
        """The error for a space in which no candidate was found."""
        budgets = " or ".join(f'"{budget}"' for budget in self._problem.budgets)
        if self.nearest is None:
            return CatchweightError(f"nothing was drawn for the budget {budgets}: is the space empty?")
        cost = self.nearest.cost
        budget = min(self._problem.limits, key=lambda b: factor_over(b, cost))
        figures = ", ".join(
            f"{limit.name} {format_quantity(limit.name, limit.measured(cost) or 0.0)}" for limit in budget.limits
        )
        kept = f", {self._problem.headroom:.0%} of it kept free" if self._problem.headroom else ""
        return CatchweightError(
            f"none of {drawn} architectures drawn makes the budget {budgets}{kept}: the smallest cost seen is "
            f"{figures}, {self._problem.over(cost):.3g}x what is allowed; allow more, or add smaller options"
        )


@dataclass
class Turn:
    """What is known when the candidate at place ``slot`` is chosen.

    Attributes:
        done: evaluated candidates by place; with several workers some places before ``slot`` may be missing.
        taken: all that are evaluated or being evaluated.
        rng: of this place alone, so that a search that goes on after a stop draws what it would have drawn.
        rejected: how many were drawn in vain, by reason.
        memo: kept from turn to turn for what a strategy could as well compute anew.
    """

    problem: Problem
    slot: int
    evaluations: int
    done: dict[int, Candidate]
    taken: Container[Arch]
    rng: random.Random
    prices: Prices
    rejected: Counter[str] = field(default_factory=Counter)
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def limit(self) -> Budget:
        """The budget that this candidate serves, where a strategy serves several in turn."""
        return self.problem.limits[self.slot % len(self.problem.limits)]

    @property
    def scored(self) -> list[Candidate]:
        """Evaluated candidates with a score, in order."""
        return [candidate for candidate in self.done.values() if candidate.score is not None]

    def admits(self, arch: Arch, limit: Budget | None = None, least: float = 0.0) -> bool:
        """Whether it is new and within a budget; counts those that are not.

        Args:
            limit: instead of the problem's budgets.
            least: share of the limit that it must use.
        """
        cost = self.prices[arch]
        share = self.problem.over(cost) if limit is None else factor_over(limit, cost)
        if self.problem.over(cost) > 1 or not least <= share <= 1:
            self.rejected[OVER] += 1
            return False
        if arch in self.taken:
            self.rejected[KNOWN] += 1
            return False
        return True

    def draw(
        self, make: Callable[[], Arch], tries: int = TRIES, limit: Budget | None = None, least: float = 0.0
    ) -> Arch | None:
        """The first of ``make``'s architectures that :meth:`admits` lets in; ``None`` if none of ``tries`` is."""
        return next((arch for arch in (make() for _ in range(tries)) if self.admits(arch, limit, least)), None)

    def uniform(self, tries: int = TRIES, limit: Budget | None = None, least: float = 0.0) -> Arch | None:
        """One drawn by :meth:`.Decisions.sample`, rejected until it fits."""
        return self.draw(lambda: self.problem.decisions.sample(self.rng), tries, limit, least)

    def anything(self, limit: Budget | None = None) -> Arch | None:
        """Uniform if that succeeds soon, else one reached by a walk towards the budget, else beside a known one."""
        return self.uniform(TRIES // 10, limit) or self._walked(limit) or self._beside(limit)

    def _walked(self, limit: Budget | None) -> Arch | None:
        """Change one or more choices of a random member again and again, keeping what costs no more."""
        decisions, rng = self.problem.decisions, self.rng
        over = self.prices.over if limit is None else lambda arch: factor_over(limit, self.prices[arch])
        now = decisions.sample(rng)
        for _ in range(STEPS):
            if self.admits(now, limit):
                return now
            step = decisions.mutate(now, rng)
            if over(step) <= max(over(now), 1.0):
                now = step
        return self._descended(now, limit)

    def _descended(self, start: Arch, limit: Budget | None) -> Arch | None:
        """Steepest descent in cost: ends at the first that is let in, or where no single choice is cheaper."""
        over = self.prices.over if limit is None else lambda arch: factor_over(limit, self.prices[arch])
        now = start
        while not self.admits(now, limit):
            step = min(self.problem.decisions.neighbours(now), key=over, default=now)
            if over(step) >= over(now):
                return None
            now = step
        return now

    def _beside(self, limit: Budget | None) -> Arch | None:
        """A neighbour of an evaluated one, the last evaluated first."""
        for candidate in reversed(self.done.values()):
            near: Sequence[Arch] = self.problem.decisions.neighbours(candidate.arch)
            found = next((arch for arch in self.rng.sample(near, len(near)) if self.admits(arch, limit)), None)
            if found is not None:
                return found
        return None


__all__ = ["Prices", "Turn"]
