"""Catchweight: from a data set, a device and a budget to the best vision network that fits.

Names are loaded on first use, so that ``from catchweight import Segmenter`` needs numpy, pillow and onnxruntime only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import Budget as Budget
    from .budget import Cost as Cost
    from .data import open_data as open_data
    from .deploy.segmenter import Segmenter as Segmenter
    from .errors import CatchweightError as CatchweightError
    from .errors import UsageError as UsageError
    from .fitting import FitResult as FitResult
    from .fitting import fit as fit
    from .front import Arch as Arch
    from .front import Candidate as Candidate
    from .front import Front as Front
    from .nets import build_network as build_network
    from .run import Run as Run
    from .spaces import Space as Space

__version__ = "0.1.0"

_HOME = {
    "Arch": "front",
    "Budget": "budget",
    "Candidate": "front",
    "CatchweightError": "errors",
    "Cost": "budget",
    "FitResult": "fitting",
    "Front": "front",
    "Run": "run",
    "Segmenter": "deploy.segmenter",
    "Space": "spaces",
    "UsageError": "errors",
    "build_network": "nets",
    "fit": "fitting",
    "open_data": "data",
}
__all__ = sorted(_HOME)  # noqa: PLE0605 - derived, so that the list exists once


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'catchweight' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
