"""Helping a ``fit`` that explores: workers started by hand, each in a process of its own, share its search."""

from __future__ import annotations

from pathlib import Path

from ..config import build
from ..data import open_data
from ..errors import CatchweightError, UsageError
from ..front import Front
from ..run import Run
from .first_look import known_data
from .job import Job, Say, prepare
from .one_shot import OneShotRoute, noted_deadline
from .settings import FitSettings

ASKED = ("data", "budget", "target", "size", "settings", "minutes", "threads", "weights")
"""What the request of a ``fit`` has."""


def job_of(run: Run, say: Say = print) -> Job:
    """The job that a run folder was made for, from what was asked of it.

    Raises:
        UsageError: the folder is not of a ``fit``, or of a version with other settings.
    """
    asked = run.request
    missing = [key for key in ASKED if key not in asked]
    if missing:
        raise UsageError(f"{run.folder} is not the folder of a fit: its request has no {', '.join(missing)}")
    settings = build(FitSettings, asked["settings"], where=f"{run.path('run.json')}, settings")
    seed = settings.train.seed
    data = open_data(Path(asked["data"]), known_data(run).get("format", "auto"), seed=seed)
    return prepare(
        data, run.budgets, target=asked["target"], run=run.folder, size=tuple(asked["size"]), settings=settings,
        set_=(), minutes=asked["minutes"], threads=asked["threads"], weights=asked["weights"], seed=seed, say=say,
    )  # fmt: skip


def join(folder: Path | str, say: Say = print) -> Front:
    """Score members of a run's supernet until its exploration is done, or its ``--time`` is; what all workers found.

    Any number of processes may do so at once, beside ``fit`` or while it is stopped; each takes the next member, and
    what a killed one had begun is taken up again. A machine of its own needs the run folder (shared, or a copy), the
    device's latency table and, for several machines, ``search.storage``.

    Args:
        folder: of a one-shot ``fit``.

    Raises:
        UsageError: the run explores nothing, has not come to it, or is beyond it.
        CatchweightError: not a run folder.
    """
    run = Run(Path(folder))
    job = job_of(run, say)
    strategy = (run.result("strategy") or {}).get("strategy", job.settings.search.strategy)
    if strategy not in ("auto", "one-shot"):
        raise UsageError(f"{folder} does not explore a supernet: its strategy is {strategy}")
    if run.result("explore") is not None:
        raise UsageError(f"{folder} has been explored: there is nothing to join")
    supernet = run.path("supernet", "last.pt")
    planned = run.result("explore-plan")
    if planned is None:
        done = run.stages()
        raise UsageError(
            f"{folder} has not come to exploring (done: {', '.join(done) or 'nothing'}): join once fit says explore"
        )
    if not supernet.exists():
        raise CatchweightError(f"{folder} lacks its supernet, {supernet}: join with the whole run folder")
    return OneShotRoute(job).explored_with_others(planned["evaluations"], noted_deadline(run))


__all__ = ["job_of", "join"]
