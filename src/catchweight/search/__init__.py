"""Search strategies: candidates in, front out."""

from __future__ import annotations

from .halving import rungs_for, successive_halving
from .plan import fitting_plan

__all__ = ["fitting_plan", "rungs_for", "successive_halving"]
