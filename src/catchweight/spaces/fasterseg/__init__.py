"""The search space of FasterSeg (Chen et al., ICLR 2020): multi-resolution cells, zoomed convolutions, open widths."""

from __future__ import annotations

from .derive import candidates, derive
from .latency import DECOUPLED, FasterSegLatency
from .lattice import Edge, Lattice, Node
from .logits import ArchitectureLogits, Values, at_width, even, plain, random_widths
from .parts import OpTimes, Part, parts
from .space import ROLES, FasterSegSpace, fasterseg_space
from .supernet import PAIRS, PREDICTIONS, Ends
from .times import MeasuredTimes, predicted_times

__all__ = [
    "DECOUPLED",
    "PAIRS",
    "PREDICTIONS",
    "ROLES",
    "ArchitectureLogits",
    "Edge",
    "Ends",
    "FasterSegLatency",
    "FasterSegSpace",
    "Lattice",
    "MeasuredTimes",
    "Node",
    "OpTimes",
    "Part",
    "Values",
    "at_width",
    "candidates",
    "derive",
    "even",
    "fasterseg_space",
    "parts",
    "plain",
    "predicted_times",
    "random_widths",
]
