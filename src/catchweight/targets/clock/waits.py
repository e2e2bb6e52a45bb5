"""What our threads do, as Linux tells it: whether any still runs, and how long they stood ready without a core."""

from __future__ import annotations

import threading
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


def asleep() -> bool | None:
    """Whether all threads of this process but the caller's sleep; ``None`` where the system does not tell.

    Processor times do not answer that: for a thread that runs on another core they move once in a tick (4 ms here).
    """
    own = str(threading.get_native_id())
    try:
        for task in _TASKS.iterdir():
            try:
                if task.name != own and (task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"R":
                    return False
            except (FileNotFoundError, ProcessLookupError):
                continue
    except (OSError, IndexError):
        return None
    return True


def undisturbed(work: Callable[[], T]) -> tuple[T, bool]:
    """Do ``work``; whether it had the cores it asked for. Where that cannot be told, it had."""
    before, began = waited(), time.perf_counter()
    result = work()
    spent, after = time.perf_counter() - began, waited()
    if before is None or after is None:
        return result, True
    return result, after - before <= TOLERATED * spent
