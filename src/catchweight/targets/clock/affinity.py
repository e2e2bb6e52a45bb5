"""Pinning this process to chosen cores while something is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import UsageError


def allowed_cpus() -> set[int]:
    """The cores that the calling thread may use, by number."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


@contextmanager
def pinned(cpus: Sequence[int] | None) -> Iterator[None]:
    """Inside, every thread of this process runs on ``cpus`` only; afterwards each has its own cores again.

    None pins nothing. Threads that runtimes started before are pinned as well; those born inside get the cores of
    the calling thread afterwards.

    Raises:
        UsageError: no such core here, or a system that cannot pin (only Linux is supported).
    """
    if cpus is None:
        yield
        return
    _check(cpus)
    own = os.sched_getaffinity(0)
    before = {thread: mask for thread in _threads() if (mask := _cores_of(thread)) is not None}
    _pin(dict.fromkeys(before, set(cpus)))
    try:
        yield
    finally:
        _pin({thread: before.get(thread, own) for thread in _threads()})


def _check(cpus: Sequence[int]) -> None:
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/task").is_dir():
        raise UsageError("threads can be pinned to cores on Linux only: leave the cores out")
    here = allowed_cpus()
    if not cpus or not set(cpus) <= here:
        raise UsageError(f"cannot pin to cores {list(cpus)}: this process may use {sorted(here)}")


def _threads() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]


def _cores_of(thread: int) -> set[int] | None:
    with suppress(OSError):  # it may have ended
        return os.sched_getaffinity(thread)
    return None


def _pin(masks: dict[int, set[int]]) -> None:
    for thread, mask in masks.items():
        with suppress(OSError):
            os.sched_setaffinity(thread, mask)
