"""int8 that is kept only if it is faster and within tolerance here: see :func:`quantize`."""

from __future__ import annotations

from .run import RUNTIMES, quantize
from .settings import TOLERANCE, Latency, QuantizeResult, QuantizeSettings, Recipe
from .trials import Timer

__all__ = ["RUNTIMES", "TOLERANCE", "Latency", "QuantizeResult", "QuantizeSettings", "Recipe", "Timer", "quantize"]
