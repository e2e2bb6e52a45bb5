"""Search strategies: candidates in, front out."""

from __future__ import annotations

from .halving import rungs_for, successive_halving

__all__ = ["rungs_for", "successive_halving"]
