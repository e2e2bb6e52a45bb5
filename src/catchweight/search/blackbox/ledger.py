"""An Optuna study as the list of candidates that workers share.

A *slot* is a candidate with its place in the search; an Optuna trial is one attempt at it. An attempt enters the
study as running, in one step, with its architecture and its worker. Trial numbers are given in order by the storage,
so of workers that try the same candidate, or one beyond the last, at the same time, all agree who was first.

States of an attempt: COMPLETE, has a score; PRUNED, evaluated without a usable score; FAIL, withdrawn, or its worker
is gone. A slot whose attempts have all failed is open: anyone may take it up again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...budget import Cost, measured
from ...errors import CatchweightError
from ...front import Arch, Candidate
from ...spaces.decisions import Decisions
from ..strategy import Problem
from .store import open_storage, without_password
from .worker import Watch, describe, elsewhere

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Slot:
    """A candidate of the search and its attempts, first to last."""

    arch: Arch
    cost: Cost
    attempts: list[FrozenTrial] = field(default_factory=list)

    @property
    def done(self) -> Candidate | None:
        """The evaluated candidate."""
        for trial in self.attempts:
            if trial.state == TrialState.COMPLETE:
                return Candidate(self.arch, self.cost, trial.values[0])
            if trial.state == TrialState.PRUNED:
                return Candidate(self.arch, self.cost, None, trial.user_attrs.get("note", "no usable score"))
        return None

    @property
    def open(self) -> bool:
        """Whether nobody works on it and it is not done."""
        return all(trial.state == TrialState.FAIL for trial in self.attempts)


@dataclass(frozen=True)
class Claim:
    """An attempt of this worker: trial ``number`` for the candidate at ``place``."""

    number: int
    place: int
    arch: Arch
    cost: Cost


class Ledger:
    """The candidates of one search in its storage.

    Args:
        strategy: its name.
        settings: of the strategy, as far as they are not at their default; JSON-able.

    Raises:
        CatchweightError: the storage cannot be opened, or it holds a search for something else.
    """

    def __init__(self, problem: Problem, strategy: str, settings: dict[str, Any]) -> None:
        self._problem = problem
        self._storage = open_storage(problem.storage)
        self._study = optuna.create_study(
            study_name=problem.name,
            storage=self._storage,
            sampler=optuna.samplers.RandomSampler(),
            directions=directions(problem),
            load_if_exists=True,
        )
        self._watch = Watch()
        self._known: dict[int, tuple[Arch, Cost]] = {}
        self._agree({"strategy": strategy, "settings": settings, **problem.request()})

    def slots(self) -> list[Slot]:
        """All candidates in the order in which they came up."""
        found: dict[Arch, Slot] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if "arch" not in trial.user_attrs:
                continue  # somebody's own experiment in our study
            if trial.number not in self._known:
                attrs = trial.user_attrs
                self._known[trial.number] = (Arch(**attrs["arch"]), Cost.from_json(attrs["cost"]))
            arch, cost = self._known[trial.number]
            found.setdefault(arch, Slot(arch, cost)).attempts.append(trial)
        return list(found.values())

    def release_lost(self, slots: Sequence[Slot]) -> list[str]:
        """Fail the attempts of workers that are gone, and say who they were."""
        gone = []
        for trial in (t for slot in slots for t in slot.attempts if t.state == TrialState.RUNNING):
            worker = trial.user_attrs["worker"]
            lost = self._watch.lost(worker, trial.user_attrs.get("beat", 0))
            if lost and self._fail(trial.number, "its worker is gone"):
                gone.append(describe(worker))
        return gone

    @property
    def grace(self) -> float:
        """Seconds without a sign of life after which a worker elsewhere counts as gone."""
        return self._watch.grace

    def claim(
        self, worker: dict[str, Any], arch: Arch, cost: Cost, last: int, rejected: dict[str, int] | None = None
    ) -> Claim | None:
        """Begin an attempt at a candidate; ``None`` if another worker was first or the slot is beyond the ``last``.

        Args:
            worker: a claim of its own for each attempt, which this process is :func:`.at_work` on.
            rejected: how many were drawn in vain before it, by reason; kept for the account at the end.
        """
        params, distributions = shown(self._problem.decisions, arch)
        attrs = {"arch": arch.to_json(), "cost": cost.to_json(), "worker": worker, "rejected": rejected or {}}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attrs
            )
        )
        slots = self.slots()
        place = next(index for index, slot in enumerate(slots) if slot.arch == arch)
        alive = [trial for trial in slots[place].attempts if trial.state != TrialState.FAIL]
        mine = next((trial for trial in alive if trial.user_attrs["worker"] == worker), None)
        if mine is not None and alive[0] is mine and place < last:
            return Claim(mine.number, place, arch, cost)
        if mine is not None:
            self._fail(mine.number, "another worker was first" if place < last else "the search was full")
        return None

    def beat(self, claim: Claim, count: int) -> None:
        """A sign of life."""
        self._set(claim.number, "beat", count)

    def finish(self, claim: Claim, score: float) -> bool:
        """Store the score; ``False`` if the attempt was taken for lost meanwhile, so that it no longer counts."""
        usable = math.isfinite(score)
        costs = [measured(name, claim.cost) for name in self._problem.quantities]
        values = [score, *(value for value in costs if value is not None)]
        state = TrialState.COMPLETE if usable else TrialState.PRUNED
        try:
            if not usable:
                self._set(claim.number, "note", f"no usable score: {score}")
            told = self._study.tell(claim.number, values if usable else None, state=state, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return told.state in DONE

    def abandon(self, claim: Claim, reason: str) -> None:
        """Give the candidate back."""
        self._fail(claim.number, reason)

    def rejected(self) -> dict[str, int]:
        """How many were drawn in vain by all workers, by reason."""
        total: dict[str, int] = {}
        for trial in self._study.get_trials(deepcopy=False):
            for reason, count in trial.user_attrs.get("rejected", {}).items():
                total[reason] = total.get(reason, 0) + count
        return total

    def _fail(self, number: int, reason: str) -> bool:
        """``False`` if it has ended meanwhile: its worker was done and left, or is back, or somebody else did this."""
        try:
            self._set(number, "note", reason)
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _set(self, number: int, name: str, value: Any) -> None:
        study = self._storage.get_study_id_from_name(self._problem.name)
        self._storage.set_trial_user_attr(
            self._storage.get_trial_id_from_study_id_trial_number(study, number), name, value
        )

    def _agree(self, request: dict[str, Any]) -> None:
        request = json.loads(json.dumps(request))
        if "request" not in self._study.user_attrs:
            self._study.set_user_attr("request", request)
        known = {"settings": request["settings"], **self._study.user_attrs["request"]}  # older versions kept none
        if known != request:
            key = next(key for key in request if known.get(key) != request[key])
            raise CatchweightError(
                f'{without_password(self._problem.storage)} holds a search "{self._problem.name}" with '
                f"{key}={known.get(key)!r}, "
                f"not {request[key]!r}: use another storage or name, or the same settings to go on"
            )


def beats_elsewhere(slots: Sequence[Slot]) -> dict[int, int]:
    """Attempts that workers elsewhere are at, if these still live: their signs of life so far by trial number."""
    return {
        trial.number: trial.user_attrs.get("beat", 0)
        for slot in slots
        if slot.done is None
        for trial in slot.attempts
        if trial.state == TrialState.RUNNING and elsewhere(trial.user_attrs["worker"])
    }


def directions(problem: Problem) -> list[StudyDirection]:
    """Of a trial's values: the score, then every limited cost."""
    return [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] * len(problem.quantities))]


def shown(decisions: Decisions, arch: Arch) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The choices in use as Optuna parameters, so that its dashboard and importance plots can show them."""
    indices = decisions.indices(arch)
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, decision in decisions.items():
        if decision.active(indices):
            options = tuple(option if plain(option) else json.dumps(option) for option in decision.options)
            params[name] = options[indices[name]]
            distributions[name] = CategoricalDistribution(options)
    return params, distributions


def plain(option: Any) -> bool:
    """Whether it is a single JSON value."""
    return option is None or isinstance(option, bool | int | float | str)
