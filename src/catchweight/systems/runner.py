"""Running a claim check, and the table of systems."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from ..data import open_data
from ..data.scenes import make_scenes
from ..errors import CatchweightError, UsageError, unknown
from ..run import Run
from .result import CheckResult, latest
from .system import CheckContext, CheckData, System

CHECKS = Path("runs") / "checks"
"""Where a user's own results lie, ``<name>.json``, beside the working folder of each check."""

QUICK_SIZE = (96, 128)
QUICK_COUNTS = {"train": 8, "val": 4}


def system_named(name: str) -> System:
    """A row of ``SYSTEMS``.

    Raises:
        UsageError: unknown name; the nearest known one is named.
    """
    from . import SYSTEMS  # here: the table imports every system, and they import this room

    if name not in SYSTEMS:
        raise unknown("system", name, SYSTEMS)
    return SYSTEMS[name]


def run_check(name: str, *, data: Path | None = None, quick: bool = False, out: Path = CHECKS) -> CheckResult:
    """Run the check of a system, or go on with one that was interrupted, and store its result.

    Args:
        name: of the system.
        data: data set to train on, where the check trains; quick checks draw their own scenes.
        quick: run the machinery at tiny sizes; no verdict. Stored as ``<name>-quick.json``.
        out: takes ``<name>.json`` and the working folder ``<name>/``.

    Raises:
        UsageError: unknown name, no check, or no data given to a check that needs some.
        CatchweightError: the folder holds a check of other data or settings; the data cannot be trained on.
    """
    system = system_named(name)
    if system.check is None:
        raise UsageError(f'system "{name}" has no claim check yet')
    label = f"{name}-quick" if quick else name
    folder = Path(out) / label
    opened = _data(system, data, quick, folder)
    request = {"check": name, "quick": quick, "data": opened.fingerprint() if opened else None}
    if protocol := system.protocol(quick):
        request["protocol"] = protocol
    run = Run(folder, request)
    with run.locked():
        verdict = system.check(CheckContext(run, opened, quick))
    result = CheckResult.of(name, verdict, _seconds(run), quick, opened.root.name if opened else None)
    result.save(Path(out) / f"{label}.json")
    return result


def _data(system: System, path: Path | None, quick: bool, folder: Path) -> CheckData | None:
    if not system.needs_data:
        return None
    if quick:
        scenes = folder / "scenes"
        return system.source.draw(scenes) if system.source else open_data(make_scenes(scenes, QUICK_COUNTS, QUICK_SIZE))
    if path is None:
        raise UsageError(f'the check of "{system.name}" trains on a data set: name one, e.g. --data path/to/camvid')
    if system.source is not None:
        return system.source.open(path)
    data = open_data(path)
    missing = {"train", "val"} - set(data.splits)
    if missing:
        raise CatchweightError(f"{path} has no {' and no '.join(sorted(missing))} split, which the check needs")
    return data


def _seconds(run: Run) -> float:
    """Time of all stages, whichever call did them."""
    stages = sorted(run.path("stages").glob("*.json")) if run.path("stages").exists() else []
    return sum(run.seconds(stage.stem) or 0.0 for stage in stages)


def table(checks: Path = CHECKS) -> Table:
    """Every system with its claim and its last result (shipped with the package, or newer in ``checks``)."""
    from . import SYSTEMS

    shown = Table(title="Published systems", show_lines=True)
    shown.add_column("name", no_wrap=True)
    for heading, ratio in (("system (paper, year)", 3), ("claim", 4), ("where", 3)):
        shown.add_column(heading, overflow="fold", ratio=ratio)
    shown.add_column("last result", max_width=11)
    for system in SYSTEMS.values():
        where = "\n".join(place.removeprefix("catchweight.") for place in system.where)
        title = f"{system.title} ({system.paper}, {system.year})"
        shown.add_row(system.name, title, system.claim, where, _last(system, checks))
    return shown


def _last(system: System, checks: Path) -> str:
    if system.check is None:
        return "no check"
    result = latest(system.name, checks)
    return f"{result.word}, {result.date[:10]}" if result else "not run"
