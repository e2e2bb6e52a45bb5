"""Multiple-choice knapsack: of every group exactly one option, as much value as a capacity allows.

HALP (Shen et al., NeurIPS 2022) keeps a less important bundle of channels only together with all more important ones of
its layer. A layer's decision is then how many bundles it keeps, one of a few options: the multiple-choice knapsack
(Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, ch. 11), which dynamic programming over the groups solves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CatchweightError

BINS = 5000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class OverCapacityError(CatchweightError):
    """Even the cheapest options together cost more than the capacity."""


@dataclass(frozen=True)
class Choice:
    """The option taken of each group, by its place, and what all of them cost and are worth."""

    options: tuple[int, ...]
    cost: float
    value: float


def solve(values: Sequence[ArrayLike], costs: Sequence[ArrayLike], capacity: float, bins: int = BINS) -> Choice:
    """The most valuable choice of one option a group whose cost is within the capacity.

    Every reachable cost is sorted into one of ``bins`` bins, and of each bin the most valuable state is kept with its
    true cost, so that rounding does not pile up over the groups. Where costs are whole numbers and the capacity, less
    the cheapest choice, is at most ``bins`` (or any unit of which this holds), each bin is one cost and the result is
    the optimum; else it misses the optimum by what two states of one bin differ in.

    Args:
        values: of each group its options' values, any sign.
        costs: of each group its options' costs in the same order, any sign.
        capacity: upper limit of the sum of costs, in their unit.
        bins: how many costs are told apart.

    Raises:
        OverCapacityError: no choice is within the capacity.
        ValueError: a group has no option, values and costs do not pair, or a number is not finite.
    """
    pairs = [_checked(value, cost) for value, cost in zip(values, costs, strict=True)]
    least = sum(float(cost.min()) for _, cost in pairs)
    slack = capacity - least
    if slack < -_tolerance(capacity, least):
        raise OverCapacityError(f"the cheapest choice costs {least:.6g}, which is over the capacity {capacity:.6g}")
    taken = _walk_back(_forward(pairs, max(slack, 0.0), bins, _tolerance(capacity, least)))
    return Choice(
        tuple(taken),
        sum(float(cost[option]) for (_, cost), option in zip(pairs, taken, strict=True)),
        sum(float(value[option]) for (value, _), option in zip(pairs, taken, strict=True)),
    )


def _tolerance(*amounts: float) -> float:
    """What sums of such numbers may be off by rounding."""
    return 1e-9 * max(1e-12, *(abs(amount) for amount in amounts))


def _checked(values: ArrayLike, costs: ArrayLike) -> tuple[Floats, Floats]:
    value, cost = np.asarray(values, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if value.ndim != 1 or value.shape != cost.shape or not len(value):
        raise ValueError(f"a group needs as many values as costs, one at least, but got {value.shape} and {cost.shape}")
    if not (np.isfinite(value).all() and np.isfinite(cost).all()):
        raise ValueError("values and costs of a group must be finite")
    return value, cost


@dataclass(frozen=True)
class _Step:
    """One group: for every bin the option that led there and the bin it came from (-1: not reachable)."""

    option: Ints
    source: Ints


def _forward(
    pairs: Sequence[tuple[Floats, Floats]], slack: float, bins: int, tolerance: float
) -> tuple[list[_Step], int]:
    """Every group in turn; the steps, and the bin of the best end."""
    width = slack / bins if slack > 0 else 1.0
    best, spent = np.full(bins + 1, -np.inf), np.zeros(bins + 1)
    best[0] = 0.0
    steps = []
    for value, cost in pairs:
        best, spent, step = _one_group(value, cost - cost.min(), best, spent, slack + tolerance, width)
        steps.append(step)
    return steps, int(np.argmax(best))


def _one_group(
    value: Floats, cost: Floats, best: Floats, spent: Floats, limit: float, width: float
) -> tuple[Floats, Floats, _Step]:
    after, paid = np.full_like(best, -np.inf), np.zeros_like(spent)
    step = _Step(np.full(len(best), -1), np.full(len(best), -1))
    reachable = np.flatnonzero(np.isfinite(best))
    for option in _worth_trying(value, cost):
        # Neighbouring bins may meet in one bin after a shift; every other one cannot, so each half is free of clashes.
        for half in (reachable[::2], reachable[1::2]):
            total = spent[half] + cost[option]
            fits = total <= limit
            sources, total = half[fits], total[fits]
            target = np.minimum((total / width + 1e-6).astype(np.int64), len(best) - 1)
            worth = best[sources] + value[option]
            better = (worth > after[target]) | ((worth == after[target]) & (total < paid[target]))
            at = target[better]
            after[at], paid[at] = worth[better], total[better]
            step.option[at], step.source[at] = option, sources[better]
    return after, paid, step


def _worth_trying(value: Floats, cost: Floats) -> list[int]:
    """Options for which no cheaper one is worth as much."""
    kept: list[int] = []
    for option in sorted(range(len(cost)), key=lambda place: (cost[place], -value[place])):
        if not kept or value[option] > value[kept[-1]]:
            kept.append(option)
    return kept


def _walk_back(found: tuple[list[_Step], int]) -> list[int]:
    steps, at = found
    taken = []
    for step in reversed(steps):
        taken.append(int(step.option[at]))
        at = int(step.source[at])
    return taken[::-1]
