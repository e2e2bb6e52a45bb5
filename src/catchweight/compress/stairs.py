"""The staircase of a device: which numbers of channels are worth keeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low

from .latency import ChannelCosts, Floats, Widths

COARSEST = 64
"""At most so many counts of a group's units are options."""

WINDOW = 64
"""So many counts in a row are looked at, where a group begins and in its middle."""

STEEP = 0.5
"""A count is a step of the stairs if it saves this share of what the same way down saves on average."""


def steps(counts: Sequence[int], costs: Sequence[float] | Floats) -> list[int]:
    """Counts at which the cost has really fallen since the last such count; ``counts`` descend, one by one.

    On stairs these are the edges; where multiples of a vector's length are quick and all between are slow, the
    multiples; on a smooth slope all of them, and where more is not dearer none.
    """
    slope = (costs[0] - min(costs)) / max(1, len(counts) - 1)
    found, last = [], 0
    for place in range(1, len(counts)):
        if slope > 0 and costs[last] - costs[place] >= STEEP * slope * (place - last):
            found.append(counts[place])
            last = place
    return found


def bundle(counts: Sequence[int], costs: Sequence[float] | Floats) -> int:
    """How many units belong to one step: the median way between the steps, all of them when there is none."""
    edges = [counts[0], *steps(counts, costs)]
    gaps = [above - below for above, below in zip(edges, edges[1:], strict=False)]
    return median_low(gaps) if gaps else len(counts)


def bundles(costs: ChannelCosts, widths: Widths) -> dict[str, int]:
    """Units of every group that are worth removing only together, found from the costs at the present widths."""
    windows = {}
    for name, units in widths.items():
        for start in {units, max(2, units // 2)}:
            windows[name, start] = list(range(start, max(0, start - WINDOW - 1), -1))
    found: dict[str, list[int]] = {}
    for (name, _), counts in windows.items():
        curve = costs.curve(name, widths, counts)
        found.setdefault(name, []).append(bundle(counts, curve))
    return {name: max(min(sizes), -(-widths[name] // COARSEST)) for name, sizes in found.items()}


def options(widths: Widths, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Counts that each group may keep, descending: all it has, then multiples of its bundle, at least one bundle."""
    return {
        name: [units, *range((units - 1) // sizes[name] * sizes[name], 0, -sizes[name])]
        for name, units in widths.items()
    }
