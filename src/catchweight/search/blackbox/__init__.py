"""Black-box strategies: candidates are scored one by one, by any number of workers.

A new strategy is one file and one line in ``STRATEGIES``.
"""

from __future__ import annotations

from ...errors import unknown
from .base import BlackBox
from .evolution import Evolution, GradedEvolution
from .local import LocalSearch
from .samplers import NSGA2, TPE
from .turn import Turn
from .uniform import RandomSearch

STRATEGIES: dict[str, type[BlackBox]] = {
    strategy.name: strategy
    for strategy in (
        RandomSearch,
        Evolution,
        GradedEvolution,
        TPE,
        NSGA2,
        LocalSearch,
    )
}


def strategy_named(name: str) -> BlackBox:
    """A strategy with its default settings.

    Raises:
        UsageError: unknown name; the nearest known one is named.
    """
    if name not in STRATEGIES:
        raise unknown("search strategy", name, STRATEGIES)
    return STRATEGIES[name]()


__all__ = [
    "NSGA2",
    "STRATEGIES",
    "TPE",
    "BlackBox",
    "Evolution",
    "GradedEvolution",
    "LocalSearch",
    "RandomSearch",
    "Turn",
    "strategy_named",
]
