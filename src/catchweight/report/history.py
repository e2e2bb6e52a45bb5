"""What a search has found so far: from ``history.json``, or from the run's Optuna studies, also while it goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CatchweightError
from ..files import sqlite_url
from ..front import Candidate, Front
from ..run import Run, known_front
from .inputs import Evaluation, History, read_input

if TYPE_CHECKING:
    import optuna

SUPERNET_NOTE = "supernet score at predicted latency"
STUDIES = {
    "explore.journal": "supernet",
    "study.db": "race",
    "compress/direct/study.db": "race under the budget",
    "compress/relaxed/study.db": "race under the relaxed budget",
}
"""Optuna's files in a run folder, and what the scores in them are of."""


def search_history(run: Run) -> tuple[Evaluation, ...]:
    """Every score of the search, oldest first within its phase.

    Raises:
        CatchweightError: a file is there but cannot be read; names it.
    """
    told = read_input(History, run.path("history.json"))
    if told is not None:
        return told.evaluations
    return tuple(
        evaluation
        for name, phase in STUDIES.items()
        for study in _studies(run.found(name))
        for evaluation in _evaluations(study, phase)
    )


def front_so_far(run: Run) -> Front:
    """The run's front, with the scores of a race that goes on and of the supernet's members.

    Raises:
        CatchweightError: a file is there but cannot be read; names it.
    """
    known = known_front(run)
    if any(candidate.score is not None for candidate in known.candidates):
        return known
    races = [Run(path.parent) for path in sorted(run.folder.glob("compress/*/run.json")) if _is_race(path.parent)]
    if races or run.points:
        found = Front().merge(*map(front_so_far, (*races, *run.points))).candidates
        return Front(tuple(replace(c, note="so far") if c.note == "chosen" else c for c in found))
    scores = {
        int(trial.params.get("candidate", trial.number)): max(trial.intermediate_values.items())
        for study in _studies(run.path("study.db"))
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values
    }
    raced = tuple(_scored(c, *scores[n]) if n in scores else c for n, c in enumerate(known.candidates))
    explored = run.found("explored.json")
    members = Front.read(explored).candidates if explored.exists() else ()
    return Front((*raced, *(replace(c, note=c.note or SUPERNET_NOTE, estimated=True) for c in members)))


def _is_race(folder: Path) -> bool:
    return (folder / "stages" / "screen.json").exists()


def _scored(candidate: Candidate, epochs: int, score: float) -> Candidate:
    if not math.isfinite(score):
        return replace(candidate, epochs=epochs, note="its training diverged")
    return replace(candidate, score=score, epochs=epochs, note=candidate.note or "so far")


def _studies(path: Path) -> list[optuna.Study]:
    if not path.exists():
        return []
    import optuna  # slow to import

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _journal(path) if path.suffix == ".journal" else _database(path)
        names = optuna.get_all_study_names(storage)
        found = [optuna.load_study(study_name=name, storage=storage) for name in names]
        for study in found:
            study.get_trials(deepcopy=False)  # kept by the storage, so that the file can be closed
        if isinstance(storage, optuna.storages.RDBStorage):
            storage.engine.dispose()
        return found
    except Exception as error:  # SQLAlchemy's and Optuna's errors have no common base
        raise CatchweightError(f"{path}: cannot be read as an Optuna study ({str(error).splitlines()[0]})") from error


def _database(path: Path) -> optuna.storages.BaseStorage:
    """Optuna writes when it opens a file, and a reader must not: SQLite is told so."""
    from optuna.storages import RDBStorage

    return RDBStorage(f"{sqlite_url(path)}&mode=ro", skip_compatibility_check=True, skip_table_creation=True)


def _journal(path: Path) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _evaluations(study: optuna.Study, phase: str) -> list[Evaluation]:
    """Scores at the steps of halving, by step and trial; of trials without steps, their values as they ended."""
    from optuna.study import StudyDirection

    score = study.directions.index(StudyDirection.MAXIMIZE) if StudyDirection.MAXIMIZE in study.directions else 0
    stepped: list[tuple[int, int, float]] = []
    ended: list[tuple[float, int, float]] = []
    for trial in study.get_trials(deepcopy=False):
        stepped += [(step, trial.number, value) for step, value in trial.intermediate_values.items()]
        if not trial.intermediate_values and trial.values and trial.datetime_complete:
            ended.append((trial.datetime_complete.timestamp(), trial.number, trial.values[score]))
    found = [Evaluation(score=v, name=f"candidate {n}", phase=phase, epochs=s) for s, n, v in sorted(stepped)]
    found += [Evaluation(score=v, name=f"trial {n}", phase=phase) for _, n, v in sorted(ended)]
    return [evaluation for evaluation in found if math.isfinite(evaluation.score)]  # others diverged
