"""Who works on a trial, and whether that worker is still there."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from ...processes import lives, this_process

BEAT_S = 15.0
"""Seconds between signs of life during an evaluation."""

GRACE_S = 120.0
"""Seconds without a new sign of life after which a worker on another machine counts as gone."""

_active: set[str] = set()
"""Claims that this process works on now."""


def place() -> str:
    """Where process numbers mean the same: the host and, in containers, the process namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{platform.node()}/{namespace}"


def new_claim() -> dict[str, Any]:
    """This process as the worker of one trial; JSON-able."""
    return {"claim": uuid4().hex, "place": place(), **this_process()}


def describe(claim: dict[str, Any]) -> str:
    return f"process {claim['pid']} on {claim['place'].split('/')[0]}"


def elsewhere(claim: dict[str, Any]) -> bool:
    """Whether its process number means nothing here: of another host, or of a container before it was started again."""
    return bool(claim["place"] != place())


class Watch:
    """Tells which claims were left by workers that are gone.

    On this machine the operating system is asked. For other machines a trial carries a counter that its worker moves;
    one that stands still for ``grace`` seconds of this process's own clock is lost, so no two clocks are compared.
    """

    def __init__(self, grace: float = GRACE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.grace, self._clock = grace, clock
        self._seen: dict[str, tuple[int, float]] = {}

    def lost(self, claim: dict[str, Any], beat: int) -> bool:
        """Whether the worker is gone; ``beat`` is the counter as stored now."""
        if not elsewhere(claim):
            return not _works(claim)
        now = self._clock()
        known, since = self._seen.get(claim["claim"], (-1, now))
        if beat != known:
            self._seen[claim["claim"]] = (beat, now)
            return False
        return now - since > self.grace


def _works(claim: dict[str, Any]) -> bool:
    return lives(claim) and (claim["pid"] != os.getpid() or claim["claim"] in _active)


@contextmanager
def at_work(claim: dict[str, Any]) -> Iterator[None]:
    """While inside, other threads of this process know that the claim is worked on."""
    _active.add(claim["claim"])
    try:
        yield
    finally:
        _active.discard(claim["claim"])


@contextmanager
def beating(beat: Callable[[int], None], interval: float = BEAT_S) -> Iterator[None]:
    """Call ``beat(1)``, ``beat(2)``... every ``interval`` seconds from a thread while inside.

    One that fails is left out: whether the storage is there shows when the result is stored.
    """
    stop = threading.Event()

    def work() -> None:
        count = 0
        while not stop.wait(interval):
            count += 1
            try:
                beat(count)
            except Exception:  # noqa: S112 - any storage's own kind of error
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
