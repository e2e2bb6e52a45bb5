"""Search by gradient: FasterSeg's teacher-student co-search (Chen et al., ICLR 2020)."""

from __future__ import annotations

from .controller import LambdaController
from .cosearch import co_search, pretrain
from .result import CoSearchResult
from .settings import CoSearchSettings, PhaseSettings, aimed

__all__ = ["CoSearchResult", "CoSearchSettings", "LambdaController", "PhaseSettings", "aimed", "co_search", "pretrain"]
