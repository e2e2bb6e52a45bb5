"""The space ``dpc``: dense prediction cells."""

from __future__ import annotations

from .cells import CellOptions, Cells, cell_of, encode
from .space import DensePredictionCells, dpc_space

__all__ = ["CellOptions", "Cells", "DensePredictionCells", "cell_of", "dpc_space", "encode"]
