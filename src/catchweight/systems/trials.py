"""What claim checks compare with: paired seeds, and arms brought to equal cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..errors import CatchweightError

Arm = Callable[[int], float]
"""A score (higher is better) for a seed."""

LATENCY_TOLERANCE = 0.05
MACS_TOLERANCE = 0.02


@dataclass(frozen=True)
class PairedTrial:
    """Two arms under the same seeds; ``differences[i] = a[i] - b[i]``."""

    seeds: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        return tuple(x - y for x, y in zip(self.a, self.b, strict=True))

    @property
    def mean(self) -> float:
        """Mean difference."""
        return fmean(self.differences)

    @property
    def wins(self) -> int:
        """Seeds under which the first arm is not worse."""
        return sum(d >= 0 for d in self.differences)

    def to_json(self) -> dict[str, object]:
        return {
            "a": list(self.a),
            "b": list(self.b),
            "differences": list(self.differences),
            "mean": self.mean,
            "wins": self.wins,
        }


def paired_trial(arm_a: Arm, arm_b: Arm, seeds: Sequence[int]) -> PairedTrial:
    """Run both arms seed by seed, so that an interrupted check has whole pairs first."""
    pairs = [(arm_a(seed), arm_b(seed)) for seed in seeds]
    return PairedTrial(tuple(seeds), tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


@dataclass(frozen=True)
class Match:
    """A size whose cost equals a reference's; ``ratio`` = its cost over the reference's."""

    size: int
    ratio: float

    def within(self, tolerance: float) -> bool:
        return abs(self.ratio - 1) <= tolerance


def match_cost(ratio: Callable[[int], float], low: int, high: int, step: int = 1, tolerance: float = 0.0) -> Match:
    """The size in ``range(low, high + 1, step)`` whose cost ratio to the reference is nearest to 1, by bisection.

    Args:
        ratio: cost of a size over the reference's cost; grows with the size, up to noise.
        tolerance: stop at the first size with ``|ratio - 1|`` no larger.

    Where ``low`` is ``high`` nothing is sought, and the one size comes back whatever it costs.

    Raises:
        CatchweightError: even ``low`` costs more, or ``high`` less, than the reference by over 5 %.
    """
    sizes = range(low, high + 1, step)
    left, right = 0, len(sizes) - 1
    seen: dict[int, float] = {}
    while left <= right:
        middle = (left + right) // 2
        seen[sizes[middle]] = ratio(sizes[middle])
        if abs(seen[sizes[middle]] - 1) <= tolerance:
            break
        left, right = (middle + 1, right) if seen[sizes[middle]] < 1 else (left, middle - 1)
    best = min(seen, key=lambda size: abs(seen[size] - 1))
    if low < high and best in (sizes[0], sizes[-1]) and abs(seen[best] - 1) > LATENCY_TOLERANCE:
        raise CatchweightError(
            f"no size from {low} to {high} has the reference's cost: {best} costs {seen[best]:.3f} of it"
        )
    return Match(best, seen[best])
