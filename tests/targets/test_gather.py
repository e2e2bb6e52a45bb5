"""Waking each other: it ends, works on every processor, and leaves no trace."""

from __future__ import annotations

import os
import threading
import time

import pytest

from catchweight.targets.clock import gather as module
from catchweight.targets.clock.gather import gather

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be tied to processors")


def test_it_leaves_neither_threads_nor_ties_behind() -> None:
    before, threads = os.sched_getaffinity(0), threading.active_count()
    gather(0.02)
    assert os.sched_getaffinity(0) == before
    assert threading.active_count() == threads


def test_every_processor_takes_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        pytest.skip("one processor has nobody to wake")
    worked: list[int] = []
    real = module._work

    def noting() -> None:
        worked.extend(os.sched_getaffinity(0))
        real()

    monkeypatch.setattr(module, "_work", noting)
    gather(20.5 * module.HOP_S)
    assert worked == [processors[number % len(processors)] for number in range(20)]


def test_one_processor_sleeps() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        begun, worked = time.perf_counter(), time.thread_time()
        gather(0.05)
        assert time.perf_counter() - begun >= 0.05
        assert time.thread_time() - worked < 0.05
    finally:
        os.sched_setaffinity(0, before)
