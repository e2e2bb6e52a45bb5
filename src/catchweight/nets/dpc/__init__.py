"""Dense prediction cell: a searched context module of atrous convolutions and pyramid pooling.

Chen, Collins, Zhu, Papandreou, Zoph, Schroff, Adam, Shlens, "Searching for Efficient Multi-Scale Architectures for
Dense Image Prediction", NeurIPS 2018. Here are the networks: any cell of the paper's space on any backbone, the best
one and DeepLab's ASPP by name.
"""

from __future__ import annotations

from .cell import BACKBONE, BRANCHES, CELLS, GRIDS, RATES, Branch, Cell
from .macs import cell_macs
from .network import FAMILY, CellNetwork, DpcConfig, DpcNet, dpc_backbone, network_name, parse_name

__all__ = [
    "BACKBONE",
    "BRANCHES",
    "CELLS",
    "FAMILY",
    "GRIDS",
    "RATES",
    "Branch",
    "Cell",
    "CellNetwork",
    "DpcConfig",
    "DpcNet",
    "cell_macs",
    "dpc_backbone",
    "network_name",
    "parse_name",
]
