"""How long to train whom, so that the whole search fits into the time there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .halving import rungs_for


def fitting_plan(seconds: Sequence[float], epochs: int, eta: int, available: float | None) -> dict[str, Any]:
    """The longest plan of at most ``epochs`` that takes at most ``available`` seconds.

    Candidates are dropped from the end of the list only when even a third of the epochs would not fit.

    Args:
        seconds: of one epoch of each candidate, the preferred candidate first.
        available: ``None`` for no bound.
    """

    def cost(count: int, length: int) -> float:
        total, alive, done = 0.0, sorted(seconds[:count], reverse=True), 0
        for rung in rungs_for(length, count, eta):
            total += (rung - done) * sum(alive)
            alive, done = alive[: -(-len(alive) // eta)], rung
        return total

    options = [(count, length) for count in range(len(seconds), 0, -1) for length in range(epochs, 0, -1)]
    if available is None:
        best = options[0]
    else:
        short = max(1, epochs // 3)
        long_enough = (o for o in options if o[1] >= short and cost(*o) <= available)
        best = next(long_enough, None) or next((o for o in options if o[0] == 1 and cost(*o) <= available), (1, 1))
    count, length = best
    return {
        "candidates": count,
        "epochs": length,
        "rungs": rungs_for(length, count, eta),
        "minutes": round(cost(count, length) / 60, 2),
        "epoch_seconds": [round(s, 2) for s in seconds],
    }
