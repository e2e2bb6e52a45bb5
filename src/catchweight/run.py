"""The run folder: what each stage wrote, who is writing, and what may be skipped.

Layout: ``run.json`` (version, request, state), ``stages/<stage>.json`` (result of a finished stage), and the files
the stages make. A stage's result is written last and in one step, so a stage either has finished or has not.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from .errors import CatchweightError
from .files import read_json, remove_leftovers, write_json

FORMAT = 1
"""Version of the folder's layout; a folder of another version is refused by name."""


class Run:
    """One run folder.

    Args:
        folder: made if needed. A folder that holds a run with another ``request`` is refused.
        request: what was asked for (data, budget, settings...), JSON-able. Running again with the same request
            goes on where the run was stopped.

    Raises:
        CatchweightError: the folder belongs to another request or version, or cannot be written.
    """

    def __init__(self, folder: Path, request: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        known = self._read()
        if request is None:
            if known is None:
                raise CatchweightError(f"{self.folder} is not a run folder: it has no run.json")
            request = known["request"]
        elif known is None:
            write_json(self.folder / "run.json", {"format": FORMAT, "created": time.time(), "request": request})
        else:
            _refuse_other_request(self.folder, known["request"], request)
        self.request: dict[str, Any] = request

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / "run.json"
        if not path.exists():
            return None
        known: dict[str, Any] = read_json(path)
        if known.get("format") != FORMAT:
            raise CatchweightError(
                f"{self.folder} was written in run format {known.get('format')}, this version reads {FORMAT}; "
                "use another --run folder or the version that wrote it"
            )
        return known

    def path(self, *parts: str) -> Path:
        """A path inside the run folder."""
        return self.folder.joinpath(*parts)

    def result(self, stage: str) -> Any | None:
        """What ``stage`` returned when it finished, or ``None`` if it has not."""
        path = self.path("stages", f"{stage}.json")
        return read_json(path)["result"] if path.exists() else None

    def seconds(self, stage: str) -> float | None:
        """How long the finished stage took, summed over interruptions as far as known."""
        path = self.path("stages", f"{stage}.json")
        return float(read_json(path)["seconds"]) if path.exists() else None

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the stored result of stage ``name``, or do ``work`` and store its JSON-able result."""
        stored = self.result(name)
        if stored is not None:
            return stored
        start = time.monotonic()
        result = work()
        assert result is not None, "a stage's result must tell that it is done"
        write_json(
            self.path("stages", f"{name}.json"),
            {"result": result, "seconds": round(time.monotonic() - start, 3), "finished": time.time()},
        )
        return result

    def forget(self, stage: str) -> None:
        """Let the next call do ``stage`` again."""
        self.path("stages", f"{stage}.json").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second one is refused by the first one's number.

        A lock left by a killed process is taken over: the process is gone, or its number was given to one that
        started later.
        """
        path = self.path("run.lock")
        holder = _living_holder(path)
        if holder is not None and holder != os.getpid():
            raise CatchweightError(
                f"{self.folder} is in use by process {holder} on {platform.node()}; wait for it, stop it, "
                "or choose another --run folder"
            )
        write_json(path, {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": platform.node()})
        remove_leftovers(self.folder)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _living_holder(lock: Path) -> int | None:
    """Process number in the lock if that very process is alive (on this host), else ``None``."""
    if not lock.exists():
        return None
    known = read_json(lock)
    if known.get("host") != platform.node():
        raise CatchweightError(
            f"{lock.parent} is locked by process {known['pid']} on {known['host']}; remove {lock} if it is gone"
        )
    try:
        process = psutil.Process(known["pid"])
        alive = abs(process.create_time() - known["started"]) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return int(known["pid"]) if alive else None


def _refuse_other_request(folder: Path, known: dict[str, Any], asked: dict[str, Any]) -> None:
    differing = sorted(key for key in known.keys() | asked.keys() if known.get(key) != asked.get(key))
    if differing:
        key = differing[0]
        raise CatchweightError(
            f"{folder} holds a run that was asked for {key}={known.get(key)!r}, not {asked.get(key)!r} "
            f"(differs in: {', '.join(differing)}); use another --run folder, or the same settings to go on"
        )
