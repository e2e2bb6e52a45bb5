"""Several runs on one front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CatchweightError
from ..files import write_text
from ..front import Candidate, Front
from ..run import Run, summarise
from .front_plot import candidate_key
from .history import front_so_far
from .html import MOST_ROWS, interactive, ordered, render

COMPARABLE = ("data", "target", "threads")
"""Settings of a run that its scores and costs depend on."""


def require_comparable(requests: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse runs on other data or another target, for their figures do not compare.

    Raises:
        CatchweightError: names the two runs and what differs.
    """
    for name, request in requests.items():
        first, known = next(iter(requests.items()))
        for setting in COMPARABLE:
            if request.get(setting) != known.get(setting):
                raise CatchweightError(
                    f"{first} and {name} do not compare: {setting} is {known.get(setting)} there and "
                    f"{request.get(setting)} here; show them one at a time"
                )


def write_comparison(runs: Sequence[Run], path: Path) -> Path:
    """Write one page with the fronts of several runs, finished or not.

    Raises:
        CatchweightError: runs that do not compare, a damaged run folder, or ``path`` cannot be written.
    """
    names = run_names(runs)
    require_comparable({str(run.folder): run.request for run in runs})
    fronts = {name: _tagged(name, front_so_far(run)) for name, run in zip(names, runs, strict=True)}
    merged = Front().merge(*fronts.values())
    rows = ordered(merged.candidates, None)
    page = render(
        "compare.html",
        summaries=list(zip(names, (summarise(run.folder) for run in runs), strict=True)),
        request=runs[0].request,
        interactive=interactive(Front(), [b for run in runs for b in run.budgets], fronts, known=merged),
        first=candidate_key(merged.points[-1]) if merged.points else "",
        merged=merged,
        on_front=set(merged.points),
        rows=rows[:MOST_ROWS],
        more_rows=rows[MOST_ROWS:],
        connect="",
    )
    write_text(Path(path), page)
    return Path(path)


def run_names(runs: Sequence[Run]) -> list[str]:
    """The folders' own names, with as much of the path before them as tells them apart."""
    paths = [run.folder.absolute() for run in runs]
    if len(set(paths)) < len(paths):
        raise CatchweightError("a run is named twice: name each run once")
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = [str(Path(*path.parts[-parts:])) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _tagged(name: str, front: Front) -> Front:
    """Candidates that say which run they are of."""

    def told(candidate: Candidate) -> Candidate:
        return replace(candidate, note=f"{name}: {candidate.note}" if candidate.note else name)

    return Front(tuple(told(candidate) for candidate in front.candidates))
