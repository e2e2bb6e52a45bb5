"""Screening: every candidate is exported and measured on the target before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..budget import Budget, Cost, format_quantity, measured
from ..files import read_json, write_json
from ..front import Arch, Candidate
from ..spaces.whole import WholeNetworks, label, size_of
from ..targets import Target
from .reach import CostOf, Reach, ends, reach

Say = Callable[[str], None]

SCREEN_S = 2.0
"""Time limit of measuring one candidate; what is promised in the end is measured longer."""


@dataclass(frozen=True)
class Screening:
    """The candidates with their cost: those that make the budget, and those that do not, with the reason."""

    allowed: tuple[Candidate, ...]
    dropped: tuple[Candidate, ...]


def look_ahead(
    space: WholeNetworks, budget: Budget, target: Target, classes: int, store: Path, *, headroom: float, say: Say
) -> Reach:
    """Say whether the budget can be made in ``space``, from its smallest and largest member; see :func:`reach`."""
    bounds = ends(space, classes)
    cost = _cost_of(space, budget, target, classes, store, say)
    found = reach(budget, bounds.smallest, bounds.largest, cost, others=bounds.others, headroom=headroom)
    say(f"reach: {found}")
    return found


def screen(
    space: WholeNetworks,
    budget: Budget,
    target: Target,
    classes: int,
    store: Path,
    *,
    headroom: float = 0.03,
    per_ladder: int = 2,
    ahead: Reach | None = None,
    deadline: float | None = None,
    say: Say = lambda _: None,
) -> Screening:
    """Measure the ladders of ``space``; in each, find by bisection the largest input sizes that make the budget.

    Before that, the smallest and the largest member of the space tell whether the budget can be made at all.
    A smaller input to the same network is never slower, so what lies above a member that was too slow is dropped
    unmeasured, by that member's figure.

    Args:
        store: folder of one JSON file per measured member; a killed screening goes on from them. Figures of
            another target are measured anew.
        headroom: share of every limit that is kept free, so that noise does not break the promise at the end.
        per_ladder: how many members of one network and width are kept.
        ahead: what :func:`look_ahead` told of the same budget, where it was asked before.
        deadline: in seconds of ``time.monotonic``; networks whose turn comes later are left out, unless none was found.

    Raises:
        CatchweightError: no member makes the budget; tells the nearest one's figure and what it would need.
    """
    ahead = ahead or look_ahead(space, budget, target, classes, store, headroom=headroom, say=say)
    ahead.check(target)
    tightened, cost_of = budget.tightened(headroom), _cost_of(space, budget, target, classes, store, say)
    allowed: list[Candidate] = []
    dropped: list[Candidate] = []
    ladders = list(space.ladders())
    for number, ladder in enumerate(ladders):
        if allowed and deadline is not None and time.monotonic() > deadline:
            say(f"screen: the time is short, {len(ladders) - number} of {len(ladders)} networks are left out")
            break
        fits, fails = _descend(ladder, tightened, cost_of, per_ladder)
        allowed += fits
        dropped += fails
    # Noise can put a smaller member over the budget and so hide the one that made it.
    return Screening(tuple(allowed) or (ahead.nearest,), tuple(dropped))


def _descend(
    ladder: list[Arch], budget: Budget, cost_of: CostOf, per_ladder: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Find the largest member within ``budget``, then take the next smaller ones as well.

    The largest of all is looked at first, since most budgets leave most ladders their top; then by bisection.
    """
    costs: dict[int, Cost] = {}

    def allows(index: int) -> bool:
        if index not in costs:
            costs[index] = cost_of(ladder[index])
        return budget.allows(costs[index])

    # The first member within budget is in [low, high]; high = len: none is.
    low, high = (0, 0) if allows(0) else (1, len(ladder))
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


def _cost_of(space: WholeNetworks, budget: Budget, target: Target, classes: int, store: Path, say: Say) -> CostOf:
    return stored_costs(lambda arch: space.network(arch, classes), target, store, say, (budget,))


def stored_costs(
    network: Callable[[Arch], nn.Module], target: Target, store: Path, say: Say, budgets: Sequence[Budget] = ()
) -> CostOf:
    """The cost of a member measured on the target; from ``store`` when this very target measured it before.

    Args:
        network: builds a member; its weights do not matter.
        store: folder of one JSON file per measured member.
        budgets: what they limit is measured; memory and energy are not otherwise, since they take their time.
    """
    limited = {limit.name for budget in budgets for limit in budget.limits}
    return partial(_cost, network, target, store, say, limited & _EXTRAS)


_EXTRAS = frozenset({"memory", "energy"})
"""Quantities that a target measures only when asked to."""


def _cost(
    network: Callable[[Arch], nn.Module], target: Target, store: Path, say: Say, extras: Set[str], arch: Arch
) -> Cost:
    path = store / f"{label(arch)}.json"
    if path.exists():
        known: dict[str, Any] = read_json(path)
        if known["target"] == target.fingerprint() and known["arch"] == arch.to_json():
            cost = Cost.from_json(known["cost"])
            if all(measured(name, cost) is not None for name in extras):
                return cost
    start = time.monotonic()
    torch.manual_seed(0)
    asked: dict[str, Any] = dict.fromkeys(extras, True)
    cost = target.cost(network(arch), size_of(arch), seconds=SCREEN_S, **asked)
    write_json(path, {"arch": arch.to_json(), "target": target.fingerprint(), "cost": cost.to_json()})
    shown = format_quantity("latency", cost.latency_ms or 0.0)
    say(f"{label(arch)}: {shown} ({time.monotonic() - start:.0f} s to export and measure)")
    return cost
