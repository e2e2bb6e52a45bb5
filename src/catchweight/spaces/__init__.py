"""Search spaces: functions from choices to networks."""

from __future__ import annotations

from .whole import WholeNetworks

__all__ = ["WholeNetworks"]
