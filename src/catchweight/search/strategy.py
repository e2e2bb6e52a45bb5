"""What a search is given and what it gives back, whatever its strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..budget import Budget, Cost
from ..errors import CatchweightError, UsageError
from ..front import Arch, Front
from ..spaces.decisions import Decisions
from .reach import factor_over

Say = Callable[[str], None]


def silent(line: str) -> None:
    """A ``Say`` that drops its line."""


@dataclass(frozen=True)
class Problem:
    """A space, a score and a budget: all that a strategy knows.

    Attributes:
        decisions: the architectures of the space.
        evaluate: score of an architecture, larger is better, 0..1; NaN if there is none, e.g. after its training
            diverged. This is the expensive part.
        cost: cost of an architecture, predicted; asked often, so cheap. It states all that the budgets limit.
        budgets: one or, for several points in one go, more of them. What meets none of them is never evaluated.
        storage: where candidates are shared between workers and kept for a restart: the path of a journal file
            (made if needed), or the URL of a database (``sqlite:///...``, ``postgresql+psycopg://...``); ``None``
            keeps them in memory.
        name: tells apart searches in one storage.
        seed: of everything random. One worker with the same seed ends with the same front, interrupted or not.
        headroom: share of every limit that must stay free.
        deadline: in seconds of ``time.monotonic``; once there are ``least`` candidates, none is begun after it.
        least: candidates that are evaluated in any case.

    Raises:
        UsageError: no budget.
    """

    decisions: Decisions
    evaluate: Callable[[Arch], float]
    cost: Callable[[Arch], Cost]
    budgets: tuple[Budget, ...]
    storage: str | Path | None = None
    name: str = "search"
    seed: int = 0
    headroom: float = 0.0
    deadline: float | None = None
    least: int = 1

    def __post_init__(self) -> None:
        if not self.budgets:
            raise UsageError('a search needs a budget: give one or more, e.g. (Budget.parse("latency<=15ms"),)')

    @cached_property
    def limits(self) -> tuple[Budget, ...]:
        """The budgets less the headroom, the loosest first."""
        tight = [budget.tightened(self.headroom) for budget in self.budgets]
        return tuple(sorted(tight, key=lambda b: [-limit.value for limit in b.limits]))

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """Names of the limited quantities: what the front trades the score for."""
        return tuple(dict.fromkeys(limit.name for budget in self.budgets for limit in budget.limits))

    def over(self, cost: Cost) -> float:
        """The worst ratio of a cost to its limit, under the budget nearest to it; above 1 it is over all budgets."""
        return min(factor_over(budget, cost) for budget in self.limits)

    def price(self, arch: Arch) -> Cost:
        """``cost``, checked.

        Raises:
            CatchweightError: it does not state a quantity that a budget limits.
        """
        cost = self.cost(arch)
        missing = [name for name in self.quantities if name not in cost.stated()]
        if missing:
            raise CatchweightError(
                f"the budget limits {' and '.join(missing)}, which is not predicted here: leave it out of the budget"
            )
        return cost

    def request(self) -> dict[str, Any]:
        """What must be equal for two workers to share one search; JSON-able."""
        return {
            "choices": {name: [str(option) for option in d.options] for name, d in self.decisions.items()},
            "budgets": [str(budget) for budget in self.budgets],
            "headroom": self.headroom,
            "seed": self.seed,
        }


class Strategy(Protocol):
    """A way to search: one small class, one file, one line in a table."""

    def search(self, problem: Problem, evaluations: int, say: Say = silent) -> Front:
        """Evaluate that many candidates, those of earlier or other workers included; every one of them comes back.

        Raises:
            CatchweightError: nothing meets a budget; names the smallest cost seen.
        """
        ...


__all__ = ["Problem", "Say", "Strategy", "silent"]
