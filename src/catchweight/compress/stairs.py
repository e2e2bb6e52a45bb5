"""The staircase of a device: which numbers of channels are worth keeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .latency import Floats, NetworkCosts, Widths

COARSEST = 64
"""At most so many counts of a group's units are options."""

WINDOW = 64
"""So many counts in a row are looked at, where a group begins and in its middle."""

LOSS = 0.08
"""Units that may be lost by keeping multiples of a bundle alone, as a share of it; it is half on a smooth slope."""

NOISE = 0.02
"""Share by which equal costs may differ."""


def bundle(counts: Sequence[int], costs: Sequence[float] | Floats) -> int:
    """How many units belong to one step of the stairs; 0 where fewer units cost no less.

    The largest size whose multiples are all one needs: between the first and the last of them, the counts that are the
    most one gets for their cost are hardly larger than the nearest multiple that costs no more. On stairs that is their
    width, on a smooth slope 1, and where a runtime is quick at multiples of its vectors' length and slow between, that
    length.

    Args:
        counts: descending, one by one.
        costs: of each.
    """
    have, spent = np.asarray(counts), np.asarray(costs, dtype=np.float64)
    if np.ptp(spent) <= 1e-9 * abs(spent).max():
        return 0
    affordable = spent[None, :] <= (1 + NOISE) * spent[:, None]
    best = (affordable * have).max(axis=1)
    wanted = np.isin(have, best)
    found = 1
    for size in range(2, len(have) // 2 + 1):
        multiples = have % size == 0
        between = wanted & (have <= have[multiples].max()) & (have >= have[multiples].min())
        lost = best - (affordable * (have * multiples)).max(axis=1)
        if between.any() and lost[between].mean() <= LOSS * size:
            found = size
    return found


def bundles(costs: NetworkCosts, widths: Widths) -> dict[str, int]:
    """Units of every group that are worth removing only together, found from the costs at the present widths."""
    windows = {}
    for name, units in widths.items():
        for start in {units, max(2, units // 2)}:
            windows[name, start] = list(range(start, max(0, start - WINDOW - 1), -1))
    found: dict[str, list[int]] = {}
    for (name, _), counts in windows.items():
        found.setdefault(name, []).append(bundle(counts, costs.curves({name: counts}, widths)[name]))
    return {name: _coarse_enough(min(filter(None, sizes), default=widths[name]), widths[name])
            for name, sizes in found.items()}  # fmt: skip


def _coarse_enough(size: int, units: int) -> int:
    """A multiple of the bundle found, so that there are not too many options."""
    return size * -(-units // (size * COARSEST))


def options(widths: Widths, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Counts that each group may keep, descending: all it has, then multiples of its bundle, at least one bundle."""
    return {
        name: [units, *range((units - 1) // sizes[name] * sizes[name], 0, -sizes[name])]
        for name, units in widths.items()
    }
