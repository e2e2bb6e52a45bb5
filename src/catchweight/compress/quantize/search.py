"""Sensitivity search: layers that cost most accuracy per millisecond saved go back to float until the score holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SHORTEST_MS = 0.001
"""A layer's saving counts as this much at least: the profiler reads whole microseconds."""


@dataclass(frozen=True)
class Sensitivity:
    """One layer: how much logit error goes when it alone is float again, and the time that costs.

    Attributes:
        gain: error of the network with every layer in int8 minus the error with this one in float; may be negative.
        saved_ms: float time minus int8 time of the layer; may be negative.
    """

    layer: str
    gain: float
    saved_ms: float

    @property
    def worth(self) -> float:
        """Error taken back per millisecond given up."""
        return self.gain / max(self.saved_ms, SHORTEST_MS)


def order(layers: Sequence[Sensitivity]) -> list[str]:
    """Layers by ``worth``, highest first; those that gain nothing are left out, for going back cannot help there."""
    useful = [layer for layer in layers if layer.gain > 0]
    return [layer.layer for layer in sorted(useful, key=lambda layer: -layer.worth)]


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
    errors: Mapping[str, float], everything: float, float_ms: Mapping[str, float], int8_ms: Mapping[str, float]
) -> list[Sensitivity]:
    """Put the figures of each layer together.

    Args:
        errors: logit error of the network with only this layer in float.
        everything: logit error with every layer in int8.
        float_ms, int8_ms: time of each layer; where a runtime gives none, all layers save the same.
    """
    return [
        Sensitivity(layer, everything - error if math.isfinite(error) else 0.0, _saved(layer, float_ms, int8_ms))
        for layer, error in errors.items()
    ]


def _saved(layer: str, float_ms: Mapping[str, float], int8_ms: Mapping[str, float]) -> float:
    if not float_ms or not int8_ms:
        return 1.0
    return float_ms.get(layer, 0.0) - int8_ms.get(layer, 0.0)
