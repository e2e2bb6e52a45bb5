"""Who holds a run folder: what its holder writes into the lock, and whether that very process still lives."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from .processes import lives, this_process


def sign(lock: Path) -> None:
    """Write this process into the lock; in place, since the lock is on this very file."""
    lock.write_text(json.dumps({**this_process(), "host": platform.node()}), encoding="utf-8")


def in_words(lock: Path) -> str:
    known = _read(lock)
    return f"process {known['pid']} on {known['host']}" if known else "a process that has just started"


def living(lock: Path) -> int | None:
    """Process number in the lock if that very process is alive; of another host we only know what it wrote."""
    known = _read(lock)
    if not known:
        return None
    if known["host"] != platform.node():
        return int(known["pid"])
    return int(known["pid"]) if lives(known) else None


def _read(lock: Path) -> dict[str, Any]:
    """What the holder wrote; empty while it has not yet, or has just left."""
    try:
        known = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    kinds: dict[str, type | tuple[type, ...]] = {"pid": int, "host": str, "started": (int, float)}
    whole = isinstance(known, dict) and all(isinstance(known.get(key), kind) for key, kind in kinds.items())
    return dict(known) if whole else {}


__all__ = ["in_words", "living", "sign"]
