"""TPE and NSGA-II as Optuna has them: score and cost are the objectives, the samplers are Optuna's.

Ours is the translation. For each turn the candidates evaluated so far are laid out as an Optuna study in memory, and a
sampler seeded for this turn is asked until a proposal is within the budget. A choice is known to the sampler by the
places of its options: ordered numbers as an integer, anything else as a category.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from ...budget import measured
from ...front import Arch, Candidate
from ...spaces.decisions import Decision, Decisions, Indices
from .base import BlackBox
from .ledger import directions
from .turn import Turn

ASKS = 24
"""Proposals of a sampler for one turn before another way is tried."""

Values = dict[str, int]


class _Sampled(BlackBox):
    """Base: lays the history out, asks, repairs."""

    def propose(self, turn: Turn) -> Arch | None:
        if not turn.scored or turn.slot < self.begin(turn):
            return turn.anything()
        study = self._laid_out(turn)
        return turn.draw(lambda: self._asked(turn, study), ASKS) or self._near(turn) or turn.anything()

    @abstractmethod
    def begin(self, turn: Turn) -> int:
        """Members drawn at random before the sampler is asked."""

    @abstractmethod
    def sampler(self, turn: Turn, seed: int) -> optuna.samplers.BaseSampler:
        """For this turn alone."""

    @abstractmethod
    def ask(self, decisions: Decisions, trial: optuna.Trial) -> Indices:
        """One option for every choice, asked of the sampler."""

    @abstractmethod
    def params(self, decisions: Decisions, indices: Indices) -> Values:
        """What the sampler is told of an architecture."""

    def _laid_out(self, turn: Turn) -> optuna.Study:
        if "study" not in turn.memo:
            turn.memo["study"] = optuna.create_study(directions=directions(turn.problem))
        study: optuna.Study = turn.memo["study"]
        told: set[int] = turn.memo.setdefault("told", set())
        for place, candidate in turn.done.items():
            if place not in told and candidate.score is not None:
                study.add_trial(self._told(turn, place, candidate, candidate.score))
                told.add(place)
        study.sampler = self.sampler(turn, turn.rng.getrandbits(31))
        return study

    def _told(self, turn: Turn, place: int, candidate: Candidate, score: float) -> FrozenTrial:
        decisions = turn.problem.decisions
        params = self.params(decisions, decisions.indices(candidate.arch))
        costs = [measured(name, candidate.cost) for name in turn.problem.quantities]
        return optuna.trial.create_trial(
            values=[score, *(cost for cost in costs if cost is not None)],
            params=params,
            distributions={name: distribution(decisions[name]) for name in params},
            user_attrs={"place": place},
        )

    def _asked(self, turn: Turn, study: optuna.Study) -> Arch:
        trial = study.ask()
        indices = self.ask(turn.problem.decisions, trial)
        study.tell(trial, state=TrialState.FAIL)  # what became of it is known when it has been evaluated
        return turn.problem.decisions.arch(indices)

    def _near(self, turn: Turn) -> Arch | None:
        """A mutant of an evaluated candidate."""
        known, rng = turn.scored, turn.rng
        return turn.draw(lambda: turn.problem.decisions.mutate(rng.choice(known).arch, rng), ASKS)


@dataclass(frozen=True)
class TPE(_Sampled):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) for several objectives (Ozaki et al., 2020).

    A choice that is not in use is not asked, and an option is judged by the candidates in which its choice was in use.

    Args:
        initial: random members at the beginning.
    """

    initial: int = 10
    name = "tpe"

    def begin(self, turn: Turn) -> int:
        return self.initial

    def sampler(self, turn: Turn, seed: int) -> optuna.samplers.BaseSampler:
        # Options that are in use together are drawn from their joint distribution.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, group=True)

    def ask(self, decisions: Decisions, trial: optuna.Trial) -> Indices:
        # A gate comes before what it opens, whatever the order of the choices in the network.
        indices: Indices = {}
        waiting = dict(decisions)
        while waiting:
            ready = [name for name, decision in waiting.items() if _gates(decision) <= indices.keys()]
            for name in ready:
                decision = waiting.pop(name)
                indices[name] = _suggested(trial, decision) if decision.active(indices) else 0
        return indices

    def params(self, decisions: Decisions, indices: Indices) -> Values:
        return {n: indices[n] for n, d in decisions.items() if len(d.options) > 1 and d.active(indices)}


@dataclass(frozen=True)
class NSGA2(_Sampled):
    """Non-dominated sorting genetic algorithm II (Deb et al., 2002).

    Every choice is a gene, also one not in use, which is at its first option: so crossover is over all of them, and
    children are brought to canonical form. Generations follow the places of the candidates.

    Args:
        population: size of a generation; ``None``: a tenth of all evaluations, between 8 and 50.
    """

    population: int | None = None
    name = "nsga2"

    def begin(self, turn: Turn) -> int:
        return self.population or max(8, min(50, turn.evaluations // 10))

    def sampler(self, turn: Turn, seed: int) -> optuna.samplers.BaseSampler:
        return _ByPlace(self.begin(turn), seed, turn.slot)

    def ask(self, decisions: Decisions, trial: optuna.Trial) -> Indices:
        return {name: _suggested(trial, decision) for name, decision in decisions.items()}

    def params(self, decisions: Decisions, indices: Indices) -> Values:
        return {name: indices[name] for name, decision in decisions.items() if len(decision.options) > 1}


class _ByPlace(optuna.samplers.NSGAIISampler):
    """Optuna's sampler with generations counted by candidates, not by its own trials."""

    def __init__(self, size: int, seed: int, place: int) -> None:
        super().__init__(population_size=size, seed=seed)
        self._size, self._place = size, place
        self._parents: dict[int, list[FrozenTrial]] = {0: []}

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return int(trial.user_attrs.get("place", self._place)) // self._size

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in done if self.get_trial_generation(study, trial) == generation]

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        # Not kept in the study, where they would come back in another order than at first.
        if generation not in self._parents:
            self._parents[generation] = self.select_parent(study, generation)
        return self._parents[generation]


def distribution(decision: Decision) -> BaseDistribution:
    """Of the places of a choice's options."""
    count = len(decision.options)
    return IntDistribution(0, count - 1) if _ordered(decision) else CategoricalDistribution(tuple(range(count)))


def _suggested(trial: optuna.Trial, decision: Decision) -> int:
    count = len(decision.options)
    if count == 1:
        return 0
    if _ordered(decision):
        return trial.suggest_int(decision.name, 0, count - 1)
    return int(trial.suggest_categorical(decision.name, range(count)))


def _ordered(decision: Decision) -> bool:
    options = decision.options
    numbers = all(isinstance(option, int | float) and not isinstance(option, bool) for option in options)
    return numbers and list(options) == sorted(options)


def _gates(decision: Decision) -> set[str]:
    return {gate for place in decision.places for gate, _ in place}
