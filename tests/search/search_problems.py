"""Closed-form problems for the tests of strategies, and a worker process that searches one of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from catchweight.budget import Budget, Cost
from catchweight.front import Arch, Front
from catchweight.search import STRATEGIES, Problem
from catchweight.spaces import Decision, Decisions

BUDGET = Budget.parse("latency<=24ms")

SEPARABLE = Decisions(
    [*(Decision(f"width{i}", tuple(range(1, 9))) for i in range(6)), Decision("op", ("plain", "wide", "zoomed"))]
)
"""786,432 architectures without conditions."""

CONDITIONAL = Decisions(
    [
        Decision("kernel", (3, 5, 7), ((("op", frozenset({1})),),)),  # its gate comes after it
        Decision("op", ("none", "conv")),
        Decision("depth", (1, 2, 3)),
        Decision("second", (8, 16), ((("depth", frozenset({1, 2})),),)),
        Decision("third", (8, 16), ((("depth", frozenset({2})),),)),
    ]
)
"""(1 + 3) * (1 + 2 + 4) = 28 architectures."""


def score(arch: Arch) -> float:
    """0..1: every choice counts by itself, the later ones for more."""
    gains = {"plain": 0.0, "wide": 3.0, "zoomed": 6.0}
    widths = sum((i + 1) * math.log2(arch[f"width{i}"]) for i in range(6))
    return (widths + gains[arch["op"]]) / 69


def latency(arch: Arch) -> Cost:
    return Cost(latency_ms=sum(arch[f"width{i}"] for i in range(6)) + {"plain": 0, "wide": 3, "zoomed": 3}[arch["op"]])


def separable(**changes: object) -> Problem:
    values = {"decisions": SEPARABLE, "evaluate": score, "cost": latency, "budgets": (BUDGET,), **changes}
    return Problem(**values)  # type: ignore[arg-type]


def conditional(limit: float = 100.0, **changes: object) -> Problem:
    """Score and latency are sums over all values, so two architectures that differ in anything in use can be told."""

    def total(arch: Arch) -> float:
        return 10 * (arch["op"] == "conv") + arch["kernel"] + arch["second"] + arch["third"] + arch["depth"]

    values = {
        "decisions": CONDITIONAL,
        "evaluate": lambda arch: total(arch) / 100,
        "cost": lambda arch: Cost(latency_ms=total(arch)),
        "budgets": (Budget.parse(f"latency<={limit}ms"),),
        **changes,
    }
    return Problem(**values)  # type: ignore[arg-type]


def note(log: Path, line: str) -> None:
    """Append a line in one write, so that lines of several processes do not mix."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def key(arch: Arch) -> str:
    return "".join(str(arch[f"width{i}"]) for i in range(6)) + arch["op"]


def logged(log: Path, seconds: float, hang_at: int | None = None) -> Callable[[Arch], float]:
    """``score`` that takes its time and writes ``begin KEY PID`` and ``end KEY PID``.

    Args:
        hang_at: the evaluation of this process, counted from 1, that never ends.
    """
    count = 0

    def evaluate(arch: Arch) -> float:
        nonlocal count
        count += 1
        note(log, f"begin {key(arch)} {os.getpid()}")
        time.sleep(600 if count == hang_at else seconds)
        note(log, f"end {key(arch)} {os.getpid()}")
        return score(arch)

    return evaluate


def work(strategy: str, storage: str, evaluations: int, log: Path, seconds: float, hang_at: int | None = None) -> Front:
    """One worker, in a process of its own or not."""
    problem = separable(evaluate=logged(log, seconds, hang_at), storage=storage, seed=3)
    return STRATEGIES[strategy]().search(problem, evaluations)
