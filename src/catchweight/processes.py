"""Which process wrote something, and whether that very process still lives: process numbers are given out again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Number and beginning of this process; JSON-able. :func:`lives` reads it where the number means the same."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time(), "born": _born(os.getpid())}


def lives(known: Mapping[str, Any]) -> bool:
    """Whether the process of :func:`this_process` is there; "born" may be missing, as in what older versions wrote."""
    try:
        process = psutil.Process(known["pid"])
        return _same(process, known) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):  # gone, or a number that is none of a process
        return False


def _same(process: psutil.Process, known: Mapping[str, Any]) -> bool:
    born = _born(process.pid)
    if born and known.get("born"):
        return born == known["born"]
    return abs(process.create_time() - known["started"]) < 2


def _born(pid: int) -> str:
    """Boot and clock tick in which a process began; empty where there is no Linux to tell.

    The time of day at which it began is counted from the machine's, and so moves when somebody sets the clock.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    after_name = stat.rpartition(b")")[2].split()  # a name may hold blanks; what follows begins with field 3
    return f"{boot}/{int(after_name[22 - 3])}"


__all__ = ["lives", "this_process"]
