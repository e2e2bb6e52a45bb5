"""Search strategies: candidates in, front out."""

from __future__ import annotations

from .blackbox import (
    NSGA2,
    STRATEGIES,
    TPE,
    BlackBox,
    Evolution,
    GradedEvolution,
    LocalSearch,
    RandomSearch,
    strategy_named,
)
from .halving import rungs_for, successive_halving
from .plan import fitting_plan
from .strategy import Problem, Strategy

__all__ = [
    "NSGA2",
    "STRATEGIES",
    "TPE",
    "BlackBox",
    "Evolution",
    "GradedEvolution",
    "LocalSearch",
    "Problem",
    "RandomSearch",
    "Strategy",
    "fitting_plan",
    "rungs_for",
    "strategy_named",
    "successive_halving",
]
