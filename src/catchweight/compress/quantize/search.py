"""Sensitivity search: layers that cost most accuracy per millisecond saved go back to float until the score holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SHORTEST_MS = 0.001
"""A layer's saving counts as this much at least: the profiler reads whole microseconds."""


@dataclass(frozen=True)
class Sensitivity:
    """One layer: what int8 in it alone does to the logits, and the time it saves there.

    Attributes:
        error: logit error of the network with only this layer in int8.
        saved_ms: float time minus int8 time of the layer; may be negative.
    """

    layer: str
    error: float
    saved_ms: float

    @property
    def worth(self) -> float:
        """Error taken back per millisecond given up; errors of layers add up as squares, as independent noise does."""
        return self.error**2 / max(self.saved_ms, SHORTEST_MS)


def order(layers: Sequence[Sensitivity]) -> list[str]:
    """Names of layers by ``worth``, highest first."""
    return [layer.layer for layer in sorted(layers, key=lambda layer: -layer.worth)]


def shortest_prefix(ordered: Sequence[str], holds: Callable[[Sequence[str]], bool], most: int) -> list[str] | None:
    """The shortest prefix of ``ordered`` for which ``holds``, if it holds for every longer one too.

    Doubles until it holds, then bisects: about 2 log2(n) trials. The result holds whether or not the assumption does.

    Returns:
        The prefix, or None when not even ``most`` layers are enough.
    """
    most = min(most, len(ordered))
    fails, length = 0, 1
    while length <= most and not holds(ordered[:length]):
        fails, length = length, 2 * length if 2 * length <= most or length == most else most
    if length > most:
        return None
    while length - fails > 1:
        middle = (fails + length) // 2
        if holds(ordered[:middle]):
            length = middle
        else:
            fails = middle
    return list(ordered[:length])


def sensitivities(
    errors: Mapping[str, float], float_ms: Mapping[str, float], int8_ms: Mapping[str, float]
) -> list[Sensitivity]:
    """Put the figures of each layer together.

    Args:
        errors: logit error of the network with only this layer in int8.
        float_ms, int8_ms: time of each layer; where a runtime gives none, all layers save the same.
    """
    timed = bool(float_ms and int8_ms)
    return [
        Sensitivity(layer, error, float_ms.get(layer, 0.0) - int8_ms.get(layer, 0.0) if timed else 1.0)
        for layer, error in errors.items()
    ]
