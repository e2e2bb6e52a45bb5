"""Evolution under a budget: mutation, crossover, parents from the whole history.

The scheme of one-shot searches (Guo et al., ECCV 2020; ViT-ResNAS, Liao et al. 2021): random members first, then
generations whose parents are the best of all so far, half of the children mutants and half crossovers; what is over
the budget or known is drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...budget import Budget, Limit, measured
from ...front import Arch, Candidate
from ..reach import factor_over
from .base import BlackBox
from .turn import TRIES, Turn

GENERATIONS = 20
INITIAL_SHARE = 1 / 7
"""Of all evaluations, as in ViT-ResNAS: 500 of 500 + 20 * 150."""


@dataclass(frozen=True)
class Evolution(BlackBox):
    """Evolution for one budget, or for a whole front in one run.

    With several budgets, or ``levels``, candidates serve the limits in turn: one that serves a limit meets it, and
    its parents are the best of those that meet it. So one history feeds every point of the front.

    Args:
        initial: random members at the beginning; ``None``: a seventh of all evaluations, at least eight.
        children: members of a generation; ``None``: as many as make twenty generations, at least four.
        parents: how many are selected; ``None``: half the children, at least four.
        rate: probability of each choice to mutate.
        least: share of the budget that initial members use at least.
        graded: whether initial members are of all sizes (:meth:`.Decisions.sample_graded`) instead of uniform ones,
            which in a space of many choices all cost about the same: evolution then walks for long before it comes near
            a loose budget. Ours.
        levels: with one budget, that many limits: evenly spaced from the cheapest initial member's cost, which is none
            itself, to the budget.
    """

    initial: int | None = None
    children: int | None = None
    parents: int | None = None
    rate: float = 0.3
    least: float = 0.0
    levels: int = 1
    graded: bool = False
    name = "evolution"

    def propose(self, turn: Turn) -> Arch | None:
        first, children, parents = self._sizes(turn.evaluations)
        generation = (turn.slot - first) // children
        begin = first + generation * children
        known = [c for place, c in turn.done.items() if place < begin and c.score is not None]
        if generation < 0 or not known:
            return self._initial(turn) or turn.anything()
        limits = self._limits(turn, first)
        limit = limits[turn.slot % len(limits)]
        best = _best(known, limit, parents)
        mutant = (turn.slot // len(limits)) % 2 == 0
        return self._child(turn, best, limit, mutant) or turn.anything(limit) or turn.anything()

    def _initial(self, turn: Turn) -> Arch | None:
        if self.graded:
            return turn.draw(lambda: turn.problem.decisions.sample_graded(turn.rng), least=self.least)
        return turn.uniform(least=self.least)

    def _sizes(self, evaluations: int) -> tuple[int, int, int]:
        first = self.initial or max(8, round(evaluations * INITIAL_SHARE))
        children = self.children or max(4, round((evaluations - first) / GENERATIONS))
        return first, children, self.parents or max(4, children // 2)

    def _child(self, turn: Turn, best: Sequence[Candidate], limit: Budget, mutant: bool) -> Arch | None:
        decisions, rng = turn.problem.decisions, turn.rng
        if not best:
            return None

        def mutate() -> Arch:
            return decisions.mutate(rng.choice(best).arch, rng, self.rate)

        def cross() -> Arch:
            mother, father = rng.sample(best, 2)
            return decisions.crossover(mother.arch, father.arch, rng)

        crossed = None if mutant or len(best) < 2 else turn.draw(cross, TRIES // 10, limit)
        return crossed or turn.draw(mutate, limit=limit)

    def _limits(self, turn: Turn, first: int) -> list[Budget]:
        """The budgets that candidates serve in turn."""
        limits = list(turn.problem.limits)
        if self.levels == 1 or len(limits) > 1:
            return limits
        main, *others = limits[0].limits
        costs = [measured(main.name, c.cost) or 0.0 for place, c in turn.done.items() if place < first]
        low, step = min(costs, default=main.value), 1 / self.levels
        for level in range(self.levels - 1, 0, -1):
            value = low + (main.value - low) * level * step
            limits.append(Budget((Limit(main.name, value), *others)))
        return list(dict.fromkeys(limits))


@dataclass(frozen=True)
class GradedEvolution(Evolution):
    """:class:`Evolution` whose initial members are of all sizes."""

    graded: bool = True
    name = "graded-evolution"


def _best(known: Sequence[Candidate], limit: Budget, count: int) -> list[Candidate]:
    """Those with the highest scores that meet the limit; while none does, those nearest to it."""
    within = [c for c in known if factor_over(limit, c.cost) <= 1]
    if not within:
        return sorted(known, key=lambda c: factor_over(limit, c.cost))[:count]
    return sorted(within, key=lambda c: -(c.score or 0.0))[:count]
