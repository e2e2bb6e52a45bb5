"""The first stage: every image is read once, and whoever goes on in the run folder finds the same data set."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..data import DataReport, SegmentationData, check_data, draw_grid
from ..errors import CatchweightError
from ..files import read_json, write_json
from ..run import Run
from .job import Job

SAME = ("format", "classes", "counts", "sizes", "shares", "made_val", "files")
"""What a data set must still be when a run goes on; an older version's ``data.json`` has no ``files``."""


def look(job: Job) -> dict[str, Any]:
    """Check the data set and keep what was found in ``data.json``.

    Raises:
        CatchweightError: it cannot be trained on; names the first files.
    """
    report = check_data(job.data)
    write_json(job.run.path("data.json"), _kept(job.data, report))
    refuse_untrainable(job.data, report)
    draw_grid(job.data, job.run.path("data.png"))
    counted = ", ".join(f"{c['images']} {split}" for split, c in report.counts.items())
    job.say(f"data: {counted} images, {len(report.classes)} classes, {len(report.problems)} warnings")
    return {"counts": report.counts, "warnings": len(report.problems)}


def refuse_untrainable(data: SegmentationData, report: DataReport) -> None:
    """Raises CatchweightError where the report has errors; names the first files."""
    errors = [p for p in report.problems if p.level == "error"]
    if not report.trainable:
        first = "; ".join(f"{p.file}: {p.message}" for p in errors[:3])
        raise CatchweightError(f"{data.root} cannot be trained on ({len(errors)} errors): {first}")


def refuse_other_data(job: Job) -> None:
    """Every stage holds for the data set that it saw, so a run goes on with that one alone.

    Another fingerprint alone proves nothing: another version may have made it in another way, or have read the files
    otherwise. Then all are read once more, and what they show decides.

    Raises:
        CatchweightError: it is read in another format, or has changed since; tells in what.
    """
    known, data = known_data(job.run), job.data
    if known.get("format", data.format) != data.format:
        raise CatchweightError(
            f"{job.run.folder} was begun with {data.root} read as {known['format']}, not as {data.format}: "
            f"use --format {known['format']}, or a new --run folder"
        )
    if known.get("fingerprint") == data.fingerprint():
        return
    job.say(f"data: {data.root} has changed since, or was looked at by another version; reading it once more")
    today = _kept(data, check_data(data))
    differing = [name for name in SAME if name in known and known[name] != today[name]]
    if differing:
        raise CatchweightError(
            f"the data set {data.root} has changed since {job.run.folder} was begun (differs in: "
            f"{', '.join(differing)}): use a new --run folder, or bring the data back as they were"
        )
    write_json(job.run.path("data.json"), today)


def known_data(run: Run) -> dict[str, Any]:
    """``data.json``; empty where there is none."""
    path = run.path("data.json")
    known = read_json(path) if path.exists() else {}
    return known if isinstance(known, dict) else {}


def _kept(data: SegmentationData, report: DataReport) -> dict[str, Any]:
    """What ``data.json`` shall hold, as it will be read back: the report, and a hash of all files."""
    kept: dict[str, Any] = json.loads(json.dumps({**report.to_json(), "files": _files_digest(data)}))
    return kept


def _files_digest(data: SegmentationData) -> str:
    """Of the splits and all files' names and lengths: unlike the fingerprint it outlives later versions, which look at
    files or read them otherwise."""
    digest = hashlib.sha256()
    for split in sorted(data.splits):
        for record in data.splits[split]:
            paths = [path for path in (record.image, record.mask) if path is not None and path.exists()]
            said = [(path.relative_to(data.root).as_posix(), path.stat().st_size) for path in paths]
            digest.update(repr((split, record.id, said)).encode())
    return digest.hexdigest()


__all__ = ["known_data", "look", "refuse_other_data", "refuse_untrainable"]
