"""Bringing the processors of a virtual machine near each other again.

A host may put two virtual processors on cores of one cache, on cores far apart, or on the two halves of one core, and
leave them there for seconds. Two threads that wait for each other then take up to three times as long (far apart), or
work that fills the cores twice as long (one core). The host moves a virtual processor when it wakes up, towards the one
that woke it. So we let them fall asleep and wake each other, many times. On some days that led out of a slow
state more often than going on with the work, on others less (``docs/results.md``, section 5). On a machine of one's
own it does nothing but take its time.
"""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

HOP_S = 0.0015
"""Work before the next processor is woken: long enough for the one before to be let go by guest and host."""


def gather(seconds: float) -> None:
    """Let the processors of this process wake each other in a ring for about ``seconds``; sleep where that is no use.

    Threads of our own do it, each tied to one processor; the caller's ties are left as they are.
    """
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(processors) < 2:
        time.sleep(seconds)
        return
    hops, queues = int(seconds / HOP_S), [SimpleQueue[int]() for _ in processors]
    ring = [
        threading.Thread(target=_stand, args=(processor, queue, following), daemon=True)
        for processor, queue, following in zip(processors, queues, queues[1:] + queues[:1], strict=True)
    ]
    for thread in ring:
        thread.start()
    queues[0].put(hops)
    for thread in ring:
        thread.join()


def _stand(processor: int, queue: SimpleQueue[int], following: SimpleQueue[int]) -> None:
    """Wait to be woken, work a little, wake the next; the count of hops left goes round, and at last everyone goes."""
    os.sched_setaffinity(0, {processor})  # of this thread alone
    while (left := queue.get()) > 0:
        _work()
        following.put(left - 1)
    following.put(0)


def _work() -> None:
    end = time.perf_counter() + HOP_S
    while time.perf_counter() < end:
        pass


__all__ = ["gather"]
