"""One measurement at a time on a machine, and our trainings stand still meanwhile.

Searches side by side, and workers that share a study, would measure each other's work. So whoever measures holds a lock
that is this user's on this machine, and trainings look at it between their steps. Nobody relies on it: measurements
still tell by themselves when others disturb them, and who has waited for a minute goes on.
"""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

MEASURER_WAITS_S = TRAINING_WAITS_S = 60.0
"""Longest wait for another measurement; a single measurement takes 2 to 30 seconds."""
DEAF_S = 120.0
"""After such a wait a training does not look at the lock for so long: its holder may be a stopped process."""
_POLL_S = 0.05

_deaf_until = 0.0


@contextmanager
def measuring() -> Iterator[bool]:
    """Hold the machine's lock: other measurements wait for it and trainings stand still, both for a minute at most.

    Yields:
        Whether it is held; not where another measurement would not end, or the temporary folder takes no lock.
    """
    held = _acquired(MEASURER_WAITS_S)
    try:
        yield held
    finally:
        if held:
            _lock().release()


def give_way() -> None:
    """Wait while another process measures, between two steps of a training; some 30 microseconds when none does."""
    global _deaf_until
    if time.monotonic() < _deaf_until:
        return
    if _acquired(TRAINING_WAITS_S):
        _lock().release()
    else:
        _deaf_until = time.monotonic() + DEAF_S


def _acquired(seconds: float) -> bool:
    try:
        _lock().acquire(timeout=seconds, poll_interval=_POLL_S)
    except (OSError, Timeout):
        return False
    return True


def _lock() -> FileLock:
    """This process's handle of the lock; the same thread may take it twice."""
    return _lock_of(os.getpid())


@cache
def _lock_of(_process: int) -> FileLock:
    """A forked process must not take its parent's handle for its own.

    Raises:
        OSError: the folder for it cannot be made, or is somebody else's.
    """
    # By number: in a container the user may have no name.
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"catchweight-{getpass.getuser() if user is None else user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None and (folder.is_symlink() or folder.stat().st_uid != user):
        raise PermissionError(f"{folder} belongs to somebody else")
    return FileLock(folder / "measuring.lock")
