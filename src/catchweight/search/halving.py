"""Successive halving (Jamieson and Talwalkar, 2016) over a given list of candidates.

All candidates are trained a little, the best share goes on, and so again. Optuna holds the study (so its dashboard
opens it, and a killed search goes on). Its own ``SuccessiveHalvingPruner`` is the asynchronous variant: with one
worker it would train the first candidate to the end before it has seen a second. So the rule here is the
synchronous one, written as an Optuna pruner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from ..front import Candidate, Front

Evaluate = Callable[[Candidate, int], float]
"""(candidate, epochs) -> score after training to ``epochs`` in all, going on where the last call stopped; ``-inf`` if
the training diverged."""


class SynchronousHalving(optuna.pruners.BasePruner):
    """Keep the best ``ceil(n / eta)`` of all n trials that reported at the same step."""

    def __init__(self, eta: int) -> None:
        self.eta = eta

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        return step is not None and trial.number not in self.kept(study.get_trials(deepcopy=False), step)

    def kept(self, trials: Sequence[FrozenTrial], step: int) -> set[int]:
        """Numbers of the trials that go on after ``step``; of equals the earlier one."""
        peers = [t for t in trials if step in t.intermediate_values]
        peers.sort(key=lambda t: (-t.intermediate_values[step], t.number))
        return {t.number for t in peers[: math.ceil(len(peers) / self.eta)]}


def rungs_for(epochs: int, candidates: int, eta: int = 3) -> list[int]:
    """Epochs after which the field is cut, ending with ``epochs``: each rung ``eta`` times the one before.

    >>> rungs_for(27, 9)
    [3, 9, 27]
    >>> rungs_for(27, 1)
    [27]
    """
    cuts = math.ceil(math.log(candidates, eta) - 1e-9) if candidates > 1 else 0
    rungs = {max(1, round(epochs / eta**cut)) for cut in range(cuts + 1)}
    return sorted(rungs)


def successive_halving(
    candidates: Sequence[Candidate],
    evaluate: Evaluate,
    *,
    rungs: Sequence[int],
    eta: int = 3,
    storage: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Front:
    """Train ``candidates`` rung by rung, dropping the weakest after each rung but the last.

    Args:
        candidates: with their cost; order decides between equal scores.
        evaluate: trains and scores (larger is better); may be called again for work already done.
        rungs: growing numbers of epochs, from :func:`rungs_for`. The last one is *not* trained here for more than
            one survivor's sake: with one candidate left the search is over, and the caller trains it fully.
        eta: one in ``eta`` goes on.
        storage: Optuna storage URL, e.g. ``sqlite:///study.db``; ``None`` keeps it in memory.
        say: receives one line per event.

    Returns:
        Every candidate with the score and epochs of its last rung, without a score where it diverged.
    """
    rule = SynchronousHalving(eta)
    study = _open_study(storage, rule)
    numbers = _enrol(study, len(candidates))
    results = list(candidates)
    alive = list(range(len(candidates)))
    for epochs in rungs:
        if len(alive) <= 1 and epochs != rungs[0]:
            break
        for index in alive:
            score = _score_at(study, numbers[index], epochs, partial(evaluate, candidates[index], epochs))
            results[index] = _scored(results[index], score, epochs)
        going_on = _cut(study, rule, numbers, alive, epochs, last=epochs == rungs[-1])
        alive = [index for index in going_on if results[index].score is not None]
        for index, result in enumerate(results):
            if index not in alive and not result.note:
                results[index] = replace(result, note=f"stopped after {counted(epochs)}")
        if not alive:
            break
        if epochs != rungs[-1]:
            say(f"after {counted(epochs)} {len(alive)} of {len(candidates)} go on")
    return Front(tuple(results))


def _scored(candidate: Candidate, score: float, epochs: int) -> Candidate:
    if math.isfinite(score):
        return replace(candidate, score=score, epochs=epochs)
    return replace(candidate, score=None, epochs=epochs, note="its training diverged")


def counted(epochs: int) -> str:
    return f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"


def _open_study(storage: str | None, rule: SynchronousHalving) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="search",
        storage=storage,
        direction="maximize",
        pruner=rule,
        load_if_exists=True,
    )


def _enrol(study: optuna.Study, count: int) -> list[int]:
    """One trial a candidate, in order; trials of an interrupted search are taken up again."""
    options = CategoricalDistribution(tuple(range(count)))
    known = {int(t.params["candidate"]): t.number for t in study.get_trials(deepcopy=False) if "candidate" in t.params}
    for index in range(count):
        if index not in known:
            study.enqueue_trial({"candidate": index}, skip_if_exists=True)
    while len(known) < count:
        trial = study.ask({"candidate": options})
        known[int(trial.params["candidate"])] = trial.number
    return [known[index] for index in range(count)]


def _score_at(study: optuna.Study, number: int, epochs: int, evaluate: Callable[[], float]) -> float:
    frozen = study.trials[number]
    if epochs in frozen.intermediate_values:
        return float(frozen.intermediate_values[epochs])
    score = evaluate()
    if not frozen.state.is_finished():
        optuna.trial.Trial(study, frozen._trial_id).report(score, epochs)
    return score


def _cut(
    study: optuna.Study, rule: SynchronousHalving, numbers: list[int], alive: list[int], epochs: int, *, last: bool
) -> list[int]:
    """Tell the study who is out (or, after the last rung, done) and return those who go on."""
    trials = study.trials
    kept = set(numbers) if last else rule.kept(trials, epochs)
    for index in alive:
        trial = trials[numbers[index]]
        if trial.state.is_finished():
            continue
        if last:
            study.tell(trial.number, trial.intermediate_values[epochs])
        elif trial.number not in kept:
            study.tell(trial.number, state=TrialState.PRUNED)
    return [index for index in alive if numbers[index] in kept]
