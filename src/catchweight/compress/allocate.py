"""How many units each group keeps under a limit on cost: HALP's knapsack, and the baselines it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CatchweightError
from .importance import Values
from .knapsack import OverCapacityError, solve
from .latency import NetworkCosts, Widths

BISECTIONS = 14
"""Halvings of the capacity's range: 1/16384 of it is left."""

ROUNDS = 3
"""Solutions around the last one, with costs taken at its widths."""

SWAPS = 200
"""Most moves of the local search."""


@dataclass(frozen=True)
class Problem:
    """What an allocation decides on.

    Attributes:
        values: importance of every unit of every group.
        costs: of the network by widths; groups are as ``values`` has them.
        options: counts each group may keep, descending, the first being all it has.
        limit: on :meth:`.NetworkCosts.total`.
    """

    values: Values
    costs: NetworkCosts
    options: Mapping[str, Sequence[int]]
    limit: float

    def worth(self, widths: Widths) -> float:
        """Importance of what is kept, the most important units of each group."""
        return float(sum(_best(self.values[name], count) for name, count in widths.items()))

    def share(self, widths: Widths) -> float:
        """:meth:`worth` as a share of all importance."""
        return self.worth(widths) / max(float(sum(values.sum() for values in self.values.values())), 1e-300)

    def fits(self, widths: Widths) -> bool:
        return self.costs.total(widths) <= self.limit

    @property
    def all(self) -> dict[str, int]:
        return {name: counts[0] for name, counts in self.options.items()}

    @property
    def least(self) -> dict[str, int]:
        return {name: counts[-1] for name, counts in self.options.items()}


class OutOfReachError(CatchweightError):
    """The limit is below what the network costs with one bundle a group."""


Allocate = Callable[[Problem], dict[str, int]]
"""Units to keep of every group, within the limit.

Raises OutOfReachError when even the least widths cost more.
"""


def halp(problem: Problem) -> dict[str, int]:
    """HALP as published (Shen et al., NeurIPS 2022), its capacity set right.

    A bundle costs what the layers that compute it save without it, all other widths as they are; consumers' savings
    are not counted, so a capacity equal to the limit would use only part of it. It is therefore bisected until the true
    cost of the solution is just within the limit.
    """
    return _checked(problem, _bisected(problem, problem.all, own=True))


def halp_refined(problem: Problem) -> dict[str, int]:
    """HALP with what the linear costs leave on the table: our reading, not the paper's.

    A bundle's cost also counts what its consumers save; costs are taken again around each solution; at last bundles
    move one by one, alone or from one group to another, while that keeps more importance within the limit.
    """
    best = _bisected(problem, problem.all, own=True)
    around: Widths = problem.all
    for _ in range(ROUNDS):
        found = _bisected(problem, around, own=False)
        if problem.fits(found) and (problem.worth(found) > problem.worth(best) or not problem.fits(best)):
            best = found
        around = found
    return _improved(problem, _checked(problem, best))


def uniform(problem: Problem) -> dict[str, int]:
    """Every group keeps the same share of its units, the largest that fits; what is left goes bundle by bundle."""

    def at(share: float) -> dict[str, int]:
        return {
            name: next((count for count in counts if count <= share * counts[0]), counts[-1])
            for name, counts in problem.options.items()
        }

    found = _largest(problem, at)
    return _filled(problem, found, lambda name, count: -count / problem.options[name][0])


def magnitude(problem: Problem) -> dict[str, int]:
    """One threshold on the importance of single units over all groups, whatever they cost; then filled up.

    With filter magnitudes as ``values`` this is global magnitude pruning.
    """
    every = np.sort(np.concatenate(list(problem.values.values())))

    def at(share: float) -> dict[str, int]:
        floor = every[min(int((1 - share) * len(every)), len(every) - 1)] if share > 0 else np.inf
        kept = {name: int((values >= floor).sum()) for name, values in problem.values.items()}
        return {name: _at_least(counts, kept[name]) for name, counts in problem.options.items()}

    found = _largest(problem, at)
    return _filled(problem, found, lambda name, count: _gain(problem, name, count))


def macs(problem: Problem) -> dict[str, int]:
    """The same knapsack with multiply-adds for costs, the largest capacity whose solution is within the limit.

    What is lost against the others is lost by not knowing the device.
    """
    counted = problem.costs.in_macs()
    found = _checked(problem, _bisected(problem, problem.all, own=False, costs=counted))
    for _ in range(ROUNDS):
        again = _bisected(problem, found, own=False, costs=counted)
        if problem.worth(again) > problem.worth(found) and problem.fits(again):
            found = again
    return _filled(problem, found, lambda name, count: _gain(problem, name, count))


METHODS: dict[str, Allocate] = {
    "halp": halp,
    "halp-refined": halp_refined,
    "uniform": uniform,
    "magnitude": magnitude,
    "macs": macs,
}


def _checked(problem: Problem, widths: dict[str, int]) -> dict[str, int]:
    if problem.fits(widths):
        return widths
    least = problem.least
    if not problem.fits(least):
        raise OutOfReachError(
            f"pruned to the least widths the network still costs {problem.costs.total(least):.4g} "
            f"{problem.costs.unit}, and {problem.limit:.4g} are allowed"
        )
    return least


def _best(values: np.ndarray, count: int) -> float:
    """Sum of the ``count`` largest."""
    return float(np.sort(values)[::-1][:count].sum())


def _at_least(counts: Sequence[int], wanted: int) -> int:
    """The smallest option that is not below ``wanted``."""
    return min((count for count in counts if count >= wanted), default=counts[0])


def _gain(problem: Problem, name: str, count: int) -> float:
    """Importance per unit of the next bundle above ``count``."""
    above = _next_up(problem.options[name], count)
    values = problem.values[name]
    return (_best(values, above) - _best(values, count)) / max(1, above - count)


def _neighbours(counts: Sequence[int], count: int) -> list[int]:
    """The options below and above, and the count itself; at an end it stands twice."""
    return [_next_down(counts, count), count, _next_up(counts, count)]


def _next_up(counts: Sequence[int], count: int) -> int:
    return min((other for other in counts if other > count), default=count)


def _next_down(counts: Sequence[int], count: int) -> int:
    return max((other for other in counts if other < count), default=count)


def _bisected(problem: Problem, around: Widths, own: bool, costs: NetworkCosts | None = None) -> dict[str, int]:
    """The knapsack's solution for the largest capacity at which its true cost is within the limit.

    The least widths where no capacity gives one.

    Args:
        around: widths of the other groups at which a group's options are costed.
        own: see :meth:`.NetworkCosts.curves`.
        costs: of the knapsack, where they are not those of the limit.
    """
    curves = (costs or problem.costs).curves(problem.options, around, own)
    names = list(problem.options)
    weights = [curves[name] for name in names]
    values = [[_best(problem.values[name], count) for count in problem.options[name]] for name in names]
    low, high = sum(float(w.min()) for w in weights), sum(float(w.max()) for w in weights)
    best: dict[str, int] | None = None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        try:
            choice = solve(values, weights, middle)
        except OverCapacityError:  # rounding, at the very bottom
            low = middle
            continue
        found = {name: problem.options[name][option] for name, option in zip(names, choice.options, strict=True)}
        if problem.fits(found):
            low = middle
            if best is None or problem.worth(found) >= problem.worth(best):
                best = found
        else:
            high = middle
    return best if best is not None else problem.least


def _largest(problem: Problem, at: Callable[[float], dict[str, int]], rounds: int = BISECTIONS) -> dict[str, int]:
    """The widths of the largest share (0..1) that fit."""
    low, high, best = 0.0, 1.0, _checked(problem, problem.least)
    for _ in range(rounds):
        middle = (low + high) / 2
        found = at(middle)
        if problem.fits(found):
            low, best = middle, found
        else:
            high = middle
    return best


def _filled(problem: Problem, widths: dict[str, int], eager: Callable[[str, int], float]) -> dict[str, int]:
    """Add bundles while they fit, the most eager group first; a group whose next bundle does not fit is done."""
    widths, open_ = dict(widths), set(problem.options)
    while open_:
        name = max(sorted(open_), key=lambda name: eager(name, widths[name]))
        more = {**widths, name: _next_up(problem.options[name], widths[name])}
        if more[name] > widths[name] and problem.fits(more):
            widths = more
        else:
            open_.discard(name)
    return widths


def _improved(problem: Problem, widths: dict[str, int]) -> dict[str, int]:
    """Local search: one bundle more of a group, paid for by one bundle less of another where need be."""
    for _ in range(SWAPS):
        better = _move(problem, widths)
        if better is None:
            return widths
        widths = better
    return widths


def _move(problem: Problem, widths: dict[str, int]) -> dict[str, int] | None:
    """The best move whose true cost is within the limit, of the twenty that promise most; None when none helps."""
    names = list(problem.options)
    around = {name: _neighbours(problem.options[name], widths[name]) for name in names}
    curves = problem.costs.curves(around, widths)
    down, here, up = (np.array([curves[name][place] for name in names]) for place in range(3))
    less, now, more = (np.array([_best(problem.values[n], around[n][place]) for n in names]) for place in range(3))
    room = problem.limit - problem.costs.total(widths)
    # Rows: who gets a bundle. Columns: who gives one; the last column gives nothing.
    gain = np.column_stack([(more - now)[:, None] - (now - less)[None, :], more - now])
    cost = np.column_stack([(up - here)[:, None] - (here - down)[None, :], up - here])
    np.fill_diagonal(gain, -np.inf)
    gain[(gain <= 1e-12 * now.sum()) | (cost > 1.1 * room)] = -np.inf
    for flat in np.argsort(gain, axis=None)[::-1][:20]:
        getter, giver = np.unravel_index(flat, gain.shape)
        if not np.isfinite(gain[getter, giver]):
            return None
        moved = {**widths, names[getter]: around[names[getter]][2]}
        if giver < len(names):
            moved[names[giver]] = around[names[giver]][0]
        if problem.fits(moved):
            return moved
    return None
