"""How long our threads stood ready without a core: the exact sign that something else ran in their place."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TOLERATED = 0.01
"""Share of a turn's time that its threads may wait for a core before the turn counts as disturbed."""

T = TypeVar("T")
_TASKS = Path("/proc/self/task")


def waited() -> float | None:
    """Seconds that this process's threads, all together, have been ready to run and had no core.

    Linux counts it in nanoseconds (schedstat); ``None`` where the system does not tell.
    """
    total = 0
    try:
        for task in _TASKS.iterdir():
            try:
                total += int((task / "schedstat").read_bytes().split()[1])
            except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
                continue
    except (OSError, IndexError, ValueError):
        return None
    return total / 1e9


def undisturbed(work: Callable[[], T]) -> tuple[T, bool]:
    """Do ``work``; whether it had the cores it asked for. Where that cannot be told, it had."""
    before, began = waited(), time.perf_counter()
    result = work()
    spent, after = time.perf_counter() - began, waited()
    if before is None or after is None:
        return result, True
    return result, after - before <= TOLERATED * spent
