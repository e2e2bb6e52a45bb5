"""Screening: every candidate is exported and measured on the target before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..budget import Budget, Cost, format_quantity
from ..errors import CatchweightError
from ..files import read_json, write_json
from ..front import Arch, Candidate
from ..spaces.whole import WholeNetworks, label, size_of
from ..targets import Target

Say = Callable[[str], None]


@dataclass(frozen=True)
class Screening:
    """The candidates with their cost: those that make the budget, and those that do not, with the reason."""

    allowed: tuple[Candidate, ...]
    dropped: tuple[Candidate, ...]

    @property
    def fastest(self) -> Candidate:
        """The candidate with the smallest latency of all that were measured."""
        measured = [c for c in self.allowed + self.dropped if c.cost.latency_ms is not None]
        return min(measured, key=lambda c: c.cost.latency_ms or 0.0)


def screen(
    space: WholeNetworks,
    budget: Budget,
    target: Target,
    classes: int,
    store: Path,
    *,
    headroom: float = 0.03,
    per_ladder: int = 2,
    say: Say = lambda _: None,
) -> Screening:
    """Measure the ladders of ``space``; in each, find by bisection the largest input sizes that make the budget.

    A smaller input to the same network is never slower, so what lies above a member that was too slow is dropped
    unmeasured, by that member's figure.

    Args:
        store: folder of one JSON file per measured member; a killed screening goes on from them. Figures of
            another target are measured anew.
        headroom: share of every limit that is kept free, so that noise does not break the promise at the end.
        per_ladder: how many members of one network and width are kept.

    Raises:
        CatchweightError: no member makes the budget; tells the fastest one's figure.
    """
    tightened = Budget(tuple(type(limit)(limit.name, limit.value * (1 - headroom)) for limit in budget.limits))
    allowed: list[Candidate] = []
    dropped: list[Candidate] = []
    for ladder in space.ladders():
        fits, fails = _descend(
            ladder, tightened, lambda arch: _cost(space, arch, target, classes, store, say), per_ladder
        )
        allowed += fits
        dropped += fails
    result = Screening(tuple(allowed), tuple(dropped))
    if not allowed:
        fastest = result.fastest
        raise CatchweightError(
            f"no network of the space makes the budget {budget} on {target}: the fastest, {label(fastest.arch)}, "
            f"has {'; '.join(budget.violations(fastest.cost)) or 'no headroom left'}. "
            "Allow more, or add faster networks, smaller widths or scales with --set search.networks=[...]"
        )
    return result


def _descend(
    ladder: list[Arch], budget: Budget, cost_of: Callable[[Arch], Cost], per_ladder: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Bisect for the largest member within ``budget``, then take the next smaller ones as well."""
    costs: dict[int, Cost] = {}

    def allows(index: int) -> bool:
        if index not in costs:
            costs[index] = cost_of(ladder[index])
        return budget.allows(costs[index])

    low, high = 0, len(ladder)  # the first member within budget is in [low, high]; high = len: none is
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if allows(middle) else (middle + 1, high)
    wanted = range(low, min(low + per_ladder, len(ladder)))
    fits = [Candidate(ladder[i], costs[i]) for i in wanted if allows(i)]
    fails = [
        Candidate(ladder[i], costs[i], note="; ".join(budget.violations(costs[i])))
        for i in sorted(costs)
        if not budget.allows(costs[i])
    ]
    return fits, fails


def _cost(space: WholeNetworks, arch: Arch, target: Target, classes: int, store: Path, say: Say) -> Cost:
    """Measured cost of a member; from ``store`` when this very target measured it before."""
    path = store / f"{label(arch)}.json"
    if path.exists():
        known: dict[str, Any] = read_json(path)
        if known["target"] == target.fingerprint() and known["arch"] == arch.to_json():
            return Cost.from_json(known["cost"])
    start = time.monotonic()
    torch.manual_seed(0)
    net = space.network(arch, classes)
    cost = target.cost(net, size_of(arch))
    write_json(path, {"arch": arch.to_json(), "target": target.fingerprint(), "cost": cost.to_json()})
    shown = format_quantity("latency", cost.latency_ms or 0.0)
    say(f"{label(arch)}: {shown} ({time.monotonic() - start:.0f} s to export and measure)")
    return cost
