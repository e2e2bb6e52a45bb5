"""Whose turn it is when the winner of a race misses the budget once it is a file, or diverges while it trains on.

What the winner made is put aside, below ``passed/``, and the next candidate is trained on instead. When nobody is left
everything is forgotten, so that the same command measures the best one again: the machine may have been busy.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..front import Candidate, Front
from ..run import Run
from ..spaces.whole import label
from .job import Point

MADE = ("train", "model.pt", "model.onnx", "verification.json", "latency.json", "stages/train.json",
        "stages/export.json")  # fmt: skip
"""What a winner leaves in the folder besides its measurement."""


def next_winner(point: Point, front: Front) -> Candidate | None:
    """The best candidate within the budget whose turn has not been, what it made before taken back; all of them have
    their turn again once nobody is left. ``None`` where there never was one."""
    run = point.run
    _finish_putting_aside(run)
    winner = _left(point, front)
    if winner is None:
        _list(run).unlink(missing_ok=True)
        winner = _left(point, front)
    if winner is not None:
        _move(_aside(run, winner), run.folder, keep_source=True)
    return winner


def pass_over(point: Point, front: Front, winner: Candidate, reason: str) -> bool:
    """Put the winner aside; whether there is another one. Else what the best one made lies in the folder again.

    Args:
        front: of the race.
        winner: with what its file costs, if that was measured.
    """
    run = point.run
    write_json(_list(run), [*_entries(run), {"candidate": winner.to_json(), "reason": reason, "aside": False}])
    _finish_putting_aside(run)
    for stage in ("measure", "blocks"):
        run.forget(stage)
    following = _left(point, front)
    if following is None:
        next_winner(point, front)
        return False
    point.say(f"{label(winner.arch)} is passed over, {reason}; next is {label(following.arch)}")
    return True


def told_passed_over(run: Run) -> dict[Any, Candidate]:
    """Those that had their turn, by architecture, with why they were not taken."""
    known = ((_known(entry), entry["reason"]) for entry in _entries(run))
    return {c.arch: replace(c, note=f"passed over: {reason}") for c, reason in known}


def _left(point: Point, front: Front) -> Candidate | None:
    gone = {_known(entry).arch for entry in _entries(point.run)}
    return Front(tuple(c for c in front.candidates if c.arch not in gone)).best(point.budget)


def _known(entry: dict[str, Any]) -> Candidate:
    return Candidate.from_json(entry["candidate"])


def _list(run: Run) -> Path:
    return run.path("passed_over.json")


def _entries(run: Run) -> list[dict[str, Any]]:
    return list(read_json(_list(run))) if _list(run).exists() else []


def _aside(run: Run, candidate: Candidate) -> Path:
    return run.path("passed", label(candidate.arch))


def _finish_putting_aside(run: Run) -> None:
    """Killed in between, what lies in the folder is still that of the one passed over last."""
    entries = _entries(run)
    if entries and not entries[-1]["aside"]:
        _move(run.folder, _aside(run, _known(entries[-1])), keep_source=False)
        write_json(_list(run), [*entries[:-1], entries[-1] | {"aside": True}])


def _move(source: Path, to: Path, keep_source: bool) -> None:
    """What a winner has made, file by file; done again it goes on.

    Args:
        keep_source: whether to keep the source's of what is in both folders: a report that was written meanwhile makes
            pictures.
    """
    for name in MADE:
        if not (source / name).exists():
            continue
        if (to / name).exists():
            _remove((to if keep_source else source) / name)
        if (source / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(source / name, to / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


__all__ = ["next_winner", "pass_over", "told_passed_over"]
