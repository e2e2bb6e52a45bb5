"""The controller of lambda, the weight of latency in the architecture's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class LambdaController:
    """Halves lambda when the derived networks have become fast enough, doubles it while they are too slow.

    Args:
        weight: lambda, loss per ms.
        window_ms: (low, high); at 1000 / frames per second.
    """

    weight: float
    window_ms: tuple[float, float]

    @classmethod
    def from_fps(cls, weight: float, window: tuple[float, float]) -> LambdaController:
        """The window in frames a second, (least, most), as published."""
        return cls(weight, (1000 / window[1], 1000 / window[0]))

    def update(self, latencies_ms: Sequence[float]) -> float:
        """Look at the candidates of one epoch: one at or under ``low`` is enough to halve, else one at or over
        ``high`` to double. Gives lambda."""
        low, high = self.window_ms
        if min(latencies_ms) <= low:
            self.weight /= 2
        elif max(latencies_ms) >= high:
            self.weight *= 2
        return self.weight


__all__ = ["LambdaController"]
