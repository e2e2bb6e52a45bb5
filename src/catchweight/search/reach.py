"""Can the budget be made at all? Asked of the smallest and the largest member of a space before any search.

The smallest by multiply-adds need not be the fastest, so its failing alone proves nothing: the other members that
could be cheaper are asked as well, until one makes the budget. Only when none does is the budget called unreachable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_UP, Context
from typing import NamedTuple

import torch

from ..budget import Budget, Cost, Limit, format_quantity
from ..errors import CatchweightError
from ..front import Arch, Candidate
from ..spaces.whole import WholeNetworks, label, size_of
from ..targets import count_macs

CostOf = Callable[[Arch], Cost]
"""Measures a member on the target, or tells what was measured before."""

HINT = "add smaller input sizes with --set search.scales=[...], faster networks with --set search.networks=[...]"
"""What else helps where no known network makes a budget."""

_UPWARDS = Context(prec=3, rounding=ROUND_UP)


@dataclass(frozen=True)
class Reach:
    """Where a budget lies between the members of a space; ``str`` says it in one sentence.

    Args:
        budget: as the user wrote it.
        headroom: share of every limit that must stay free.
        smallest, largest: the members with the fewest and the most multiply-adds.
        nearest: the first member found within the budget; if there is none, the one that misses it by least.
    """

    budget: Budget
    headroom: float
    smallest: Candidate
    largest: Candidate
    nearest: Candidate

    @property
    def reachable(self) -> bool:
        """Whether a measured member makes the budget with the headroom."""
        return self._makes(self.nearest)

    @property
    def binds(self) -> bool:
        """Whether the largest member is over the budget, so that there is something to choose."""
        return not self._makes(self.largest)

    @property
    def factor(self) -> float:
        """Cost of the nearest member over its limit, the worst of all limits; above 1 is too much."""
        return factor_over(self.budget, self.nearest.cost)

    @property
    def needed(self) -> Budget:
        """The least budget, to three digits, that the nearest member makes with the headroom."""
        return Budget(tuple(_raised(limit, self.nearest.cost, self.headroom) for limit in self.budget.limits))

    def check(self, target: object = "the target", hint: str = HINT) -> None:
        """Do nothing if the budget can be reached.

        Args:
            hint: what else could help, for the message.

        Raises:
            CatchweightError: it cannot; tells the nearest member, how far off it is and what would have to be allowed.
        """
        if not self.reachable:
            raise CatchweightError(
                f"no network of the space makes the budget {self.budget} on {target}: {self}; or {hint}"
            )

    def __str__(self) -> str:
        if not self.reachable:
            kept = f" ({self.headroom:.0%} is kept free)" if self.headroom else ""
            return f"{self._needs('nearest', self.nearest)}; allow at least {self.needed}{kept}"
        largest = self._needs("largest", self.largest)
        if not self.binds:
            return f"{largest} and makes it: the budget does not bind"
        kind = "smallest" if self.nearest == self.smallest else "cheapest asked"
        return f"within reach: {self._needs(kind, self.nearest)}; {largest}"

    def _makes(self, candidate: Candidate) -> bool:
        return self.budget.tightened(self.headroom).allows(candidate.cost)

    def _needs(self, kind: str, candidate: Candidate) -> str:
        """``the smallest network, X, needs latency 4.2ms: 2.1x the budget``."""
        if candidate == self.smallest and kind == "nearest":
            kind = "smallest"
        figures = ", ".join(_figure(limit, candidate.cost) for limit in self.budget.limits)
        times = factor_over(self.budget, candidate.cost)
        return f"the {kind} network, {label(candidate.arch)}, needs {figures}: {times:.2g}x the budget"


class Ends(NamedTuple):
    """The members that bound what a space can cost: :func:`reach`'s arguments."""

    smallest: Arch
    largest: Arch
    others: tuple[Arch, ...]


def ends(space: WholeNetworks, classes: int) -> Ends:
    """The members with the fewest and the most multiply-adds, and the other ladders' smallest, fewest first.

    Within a ladder cost falls with the input size, so that the ends of the ladders are all that need be counted.
    """
    fewest: dict[Arch, int] = {}
    most: dict[Arch, int] = {}
    for ladder in space.ladders():
        with torch.device("meta"):  # counting needs shapes, no weights
            net = space.network(ladder[0], classes)
        most[ladder[0]], fewest[ladder[-1]] = (count_macs(net, size_of(arch)) for arch in (ladder[0], ladder[-1]))
    smallest, *others = sorted(fewest, key=lambda arch: fewest[arch])
    return Ends(smallest, max(most, key=lambda arch: most[arch]), tuple(others))


def reach(
    budget: Budget, smallest: Arch, largest: Arch, cost: CostOf, *, others: Iterable[Arch] = (), headroom: float = 0.0
) -> Reach:
    """Measure the smallest and the largest member, and of ``others`` only as many as the answer needs.

    Args:
        smallest: the member expected to cost least.
        largest: the member expected to cost most.
        others: members that may cost less than ``smallest``; asked in turn while none makes the budget.
        headroom: share of every limit that must stay free.

    Raises:
        CatchweightError: the budget limits a quantity that this target does not measure.
    """
    tight = budget.tightened(headroom)
    low = Candidate(smallest, cost(smallest))
    _refuse_unmeasured(budget, low.cost)
    top = low if largest == smallest else Candidate(largest, cost(largest))
    nearest = low if tight.allows(low.cost) else _nearer(budget, low, top)
    for arch in others:
        if tight.allows(nearest.cost):
            break
        nearest = _nearer(budget, nearest, Candidate(arch, cost(arch)))
    return Reach(budget, headroom, low, top, nearest)


def factor_over(budget: Budget, cost: Cost) -> float:
    """The worst ratio of a cost to its limit; all limited quantities must be stated."""
    return max((limit.measured(cost) or 0.0) / limit.value for limit in budget.limits)


def _nearer(budget: Budget, one: Candidate, other: Candidate) -> Candidate:
    return min(one, other, key=lambda candidate: factor_over(budget, candidate.cost))


def _refuse_unmeasured(budget: Budget, cost: Cost) -> None:
    missing = [limit for limit in budget.limits if limit.measured(cost) is None]
    if missing:
        names = " and ".join(limit.name for limit in missing)
        raise CatchweightError(
            f"the budget limits {names}, which this target does not measure: leave "
            f'"{", ".join(map(str, missing))}" out of the budget, or choose another --target'
        )


def _raised(limit: Limit, cost: Cost, headroom: float) -> Limit:
    """The limit itself if ``cost`` makes it, else the next one of three digits that it makes."""
    value = limit.measured(cost)
    if value is None or value <= limit.value * (1 - headroom):
        return limit
    enough = _UPWARDS.create_decimal_from_float(value / (1 - headroom) * (1 + 1e-12))  # beyond rounding errors
    return Limit(limit.name, float(enough))


def _figure(limit: Limit, cost: Cost) -> str:
    return f"{limit.name} {format_quantity(limit.name, limit.measured(cost) or 0.0)}"
