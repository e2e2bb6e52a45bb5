"""The run folder: what each stage wrote, who is writing, and what may be skipped.

Layout: ``run.json`` (version, request), ``stages/<stage>.json`` (result of a finished stage), ``sessions.json`` (when
and with what the run was worked on), ``stopped.json`` (why the last session ended early), ``run.lock`` (while a
process writes), and the files the stages make. A stage's result is written last and in one step, so a stage either
has finished or has not.
"""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import __version__, holder
from .budget import Budget
from .errors import CatchweightError, StorageError, shown
from .files import read_json, remove_leftovers, write_json
from .front import Candidate, Front

FORMAT = 1
"""Version of the folder's layout; a folder of another version is refused by name."""

FINAL_STAGE = "measure"
"""A run is finished once this stage has its result, of several budgets for each."""

LATEST = 253402300800.0
"""Seconds since 1970 at the end of the year 9999: what lies beyond is no time that a run was begun at."""

MOST_DIFFERENCES = 6
"""Settings that the refusal of another request names."""

VERSIONS = ("torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime", "optuna")
"""Packages that decide a run's figures."""


class Run:
    """One run folder.

    Args:
        folder: made if needed. A folder that holds a run with another ``request`` is refused.
        request: what was asked for (data, budget, settings...), JSON-able. Running again with the same request
            goes on where the run was stopped.

    Raises:
        CatchweightError: the folder belongs to another request or version, or cannot be read or written.
    """

    def __init__(self, folder: Path, request: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        known = self._read()
        if request is None and known is None:
            raise CatchweightError(f"{self.folder} is not a run folder: it has no run.json")
        if request is not None and known is None:
            _claim(self.folder / "run.json", {
                "format": FORMAT, "version": __version__, "created": time.time(), "request": request,
            })  # fmt: skip
            known = self._read()
        assert known is not None
        if request is not None:
            _refuse_other_request(self.folder, known, request)
        self.request: dict[str, Any] = known["request"]
        self.created: float = known["created"]

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / "run.json"
        try:
            if not path.exists():
                return None
        except OSError as error:  # a name that is too long, a folder above that may not be entered
            raise StorageError(
                f"cannot look into {self.folder}: {error.strerror or error}; choose another --run folder"
            ) from error
        known = read_json(path)
        if not isinstance(known, dict) or "format" not in known:
            raise CatchweightError(f"{path} does not describe a run; use another --run folder")
        if known["format"] != FORMAT:
            by = f" by catchweight {known['version']}" if "version" in known else ""
            raise CatchweightError(
                f"{self.folder} was written{by} in run format {known['format']}; catchweight {__version__} reads "
                f"format {FORMAT}. Use another --run folder or the version that wrote it"
            )
        if not isinstance(known.get("request"), dict):
            raise CatchweightError(f"{path} does not say what was asked for; use another --run folder")
        known["created"] = _time(known.get("created", 0.0), path)
        return known

    def path(self, *parts: str) -> Path:
        """A path inside the run folder."""
        return self.folder.joinpath(*parts)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """One, or several that share a search; each of several has a run of its own in :attr:`points`.

        Raises:
            CatchweightError: the run is of something that has no budget, or its file is damaged.
        """
        asked = self.request.get("budget")
        texts = [asked] if isinstance(asked, str) else asked
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
            raise CatchweightError(
                f"{self.path('run.json')} names no budget (it has {shown(asked)}): give the folder of a fit"
            )
        return tuple(map(Budget.parse, texts))

    @property
    def points(self) -> tuple[Run, ...]:
        """The runs of the single budgets, as far as they were begun; empty if there is one budget only."""
        return tuple(Run(path.parent) for path in sorted(self.folder.glob("points/*/run.json")))

    @property
    def parent(self) -> Run | None:
        """The run that this one is a budget of."""
        above = self.folder.absolute().parent
        return Run(above.parent) if above.name == "points" and (above.parent / "run.json").exists() else None

    def found(self, *parts: str) -> Path:
        """A path inside the run folder, or where its parent keeps what several budgets share."""
        own, parent = self.path(*parts), self.parent
        return own if parent is None or own.exists() else parent.path(*parts)

    @property
    def finished(self) -> bool:
        """Whether every budget's network was measured."""
        runs = self.points if len(self.budgets) > 1 else (self,)
        return len(runs) == len(self.budgets) and all(run.result(FINAL_STAGE) is not None for run in runs)

    def result(self, stage: str) -> Any | None:
        """What ``stage`` returned when it finished, or ``None`` if it has not."""
        stored = self._stored(stage)
        return None if stored is None else stored["result"]

    def seconds(self, stage: str) -> float | None:
        """How long the finished stage took, summed over interruptions as far as known."""
        stored = self._stored(stage)
        return None if stored is None else float(stored.get("seconds", 0.0))

    def _stored(self, stage: str) -> dict[str, Any] | None:
        """What the stage left, ``None`` if it has not finished.

        Raises:
            StorageError: the file is damaged.
        """
        path = self.path("stages", f"{stage}.json")
        if not path.exists():
            return None
        stored = read_json(path)
        whole = isinstance(stored, dict) and "result" in stored
        if not (whole and all(isinstance(stored.get(key, 0.0), (int, float)) for key in ("seconds", "finished"))):
            raise StorageError(f"{path} does not hold the result of a stage: delete it to have the stage done again")
        return dict(stored)

    def stages(self) -> tuple[str, ...]:
        """Names of the finished stages, the first to finish first."""
        names = (path.stem for path in self.path("stages").glob("*.json"))
        found = {name: (self._stored(name) or {}).get("finished", 0.0) for name in names}
        return tuple(sorted(found, key=lambda name: (found[name], name)))

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

    def sessions(self) -> list[dict[str, Any]]:
        """When the run was worked on, and with which versions: ``{"started": seconds, "environment": {...}}``."""
        path = self.path("sessions.json")
        return list(read_json(path)) if path.exists() else []

    def note_stop(self, reason: str) -> None:
        """Keep why this session ended early, for whoever looks at the folder later."""
        write_json(self.path("stopped.json"), {"reason": reason, "when": time.time()})

    @property
    def stopped(self) -> str:
        """Why the last session ended early; empty if it did not, or had no time to say so."""
        path = self.path("stopped.json")
        if not path.exists():
            return ""
        known = read_json(path)
        return str(known.get("reason", "")) if isinstance(known, dict) else f"{path} is damaged"

    @property
    def holder(self) -> int | None:
        """Number of the living process that holds the folder, as far as this machine can tell."""
        return holder.living(self.path("run.lock"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second one is refused by the first one's number.

        The lock is the operating system's (flock): it ends with its process, however that ends, and of two that
        start at the same moment one gets it.

        Raises:
            StorageError: another process has it, or the folder cannot be written.
        """
        path = self.path("run.lock")
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StorageError(
                f"{self.folder} is in use by {holder.in_words(path)}; wait for it, stop it, "
                "or choose another --run folder"
            ) from None
        except OSError as error:
            raise StorageError(
                f"cannot write into {self.folder}: {error.strerror or error}; choose a writable --run folder"
            ) from error
        try:
            self._begin_session(path)
            yield
        finally:
            with suppress(OSError):  # while it is still held, so that nobody else's is removed
                path.unlink()
            lock.release()

    def _begin_session(self, lock: Path) -> None:
        holder.sign(lock)
        remove_leftovers(self.folder)
        self.path("stopped.json").unlink(missing_ok=True)
        write_json(
            self.path("sessions.json"), [*self.sessions(), {"started": time.time(), "environment": environment()}]
        )


def environment() -> dict[str, str]:
    """Versions and machine, without its name."""
    found = {"catchweight": __version__, "python": platform.python_version()}
    for package in VERSIONS:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


@dataclass(frozen=True)
class RunSummary:
    """A run in one line.

    Attributes:
        state: "running", "finished", "stopped" (goes on with the same command) or "unreadable".
        stage: the last one that finished; empty: none has.
        best: the best known candidate within the budget; None: none has a score.
        score: its score, or the best validation score of a training under way.
        reason: why it stopped or cannot be read.
    """

    folder: Path
    state: str
    stage: str = ""
    budget: str = ""
    target: str = ""
    best: Candidate | None = None
    score: float | None = None
    created: float = 0.0
    reason: str = ""


def summarise(folder: Path) -> RunSummary:
    """The run in ``folder`` in one line; a damaged one is "unreadable" instead of an error."""
    try:
        run = Run(folder)
        done = run.stages()
        best = max(filter(None, map(known_front(run).best, run.budgets)), key=lambda c: c.score or 0.0, default=None)
        state = "running" if run.holder else "finished" if run.finished else "stopped"
        return RunSummary(
            Path(folder), state, done[-1] if done else "", "; ".join(map(str, run.budgets)),
            str(run.request["target"]), best, best.score if best else _best_training(run), run.created,
            run.stopped if state == "stopped" else "",
        )  # fmt: skip
    except (CatchweightError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        return RunSummary(Path(folder), "unreadable", reason=str(error))


def find_runs(folder: Path) -> tuple[RunSummary, ...]:
    """Every run of a ``fit`` in or below ``folder``; those it is made of (single budgets, steps) are not listed.

    Raises:
        CatchweightError: there is no such folder, or it may not be entered.
    """
    try:
        if not Path(folder).is_dir():
            raise CatchweightError(f"{folder} is not a folder: name one that holds run folders")
    except OSError as error:
        raise StorageError(f"cannot look into {folder}: {error.strerror or error}") from error
    found = sorted(path.parent for path in Path(folder).rglob("run.json"))
    own = (path for path in found if not (path.parent.parent / "run.json").exists())
    return tuple(summarise(path) for path in own if _may_be_a_fit(path))


def _may_be_a_fit(folder: Path) -> bool:
    """Whether its request has a budget, or cannot be read; claim checks and compressions have none."""
    try:
        return "budget" in Run(folder).request
    except CatchweightError:
        return True


def known_front(run: Run) -> Front:
    """The front as far as it is known: final, after the search, or only screened (no scores)."""
    if run.path("front.json").exists():
        return Front.read(run.path("front.json"))
    if run.points:
        return Front().merge(*(known_front(point) for point in run.points))
    searched, screened = run.result("search"), run.result("screen")
    if isinstance(searched, dict) and "candidates" in searched:
        return Front.from_json(searched)
    if isinstance(screened, dict) and "allowed" in screened:
        return Front.from_json({"candidates": [*screened["allowed"], *screened.get("dropped", [])]})
    return Front()


def _best_training(run: Run) -> float | None:
    """Best validation score in the training logs (``metrics.csv``) below the folder."""
    scores: list[float] = []
    for path in run.folder.rglob("metrics.csv"):
        with suppress(OSError, ValueError, csv.Error), path.open(newline="", encoding="utf-8") as file:
            scores += [float(row["val_miou"]) for row in csv.DictReader(file) if row.get("val_miou")]
    return max(scores, default=None)


def _claim(path: Path, value: dict[str, Any]) -> None:
    """Write ``run.json`` in one step, unless another start has just done so: then that one stands."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    write_json(aside, value)
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _refuse_other_request(folder: Path, known: dict[str, Any], asked: dict[str, Any]) -> None:
    """``known`` is what ``run.json`` holds, ``asked`` the request of today, which another version may put otherwise."""
    before, now = _flat(known["request"]), _flat(asked)
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key, _UNSET) != now.get(key, _UNSET))
    if not differing:
        return
    key, more = differing[0], len(differing) - MOST_DIFFERENCES
    by = str(known.get("version", "an older version"))
    other = "" if by == __version__ else f", or catchweight {by}, for this is {__version__}"
    raise StorageError(
        f"{folder} holds a run of catchweight {by} that was asked for {key}={before.get(key, _UNSET)!r}, not "
        f"{now.get(key, _UNSET)!r} (differs in: {', '.join(differing[:MOST_DIFFERENCES])}"
        f"{f' and {more} more' if more > 0 else ''}); use another --run folder, or the same settings to go on{other}"
    )


def _time(value: Any, path: Path) -> float:
    """Seconds since 1970, if it is that."""
    if isinstance(value, (int, float)) and 0 <= value < LATEST:
        return float(value)
    raise CatchweightError(f"{path} says that the run was begun at {shown(value)}, which is no time; correct the file")


class _Unset:
    def __repr__(self) -> str:
        return "nothing"


_UNSET = _Unset()


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their whole names: ``{"a": {"b": 1}}`` is ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found
