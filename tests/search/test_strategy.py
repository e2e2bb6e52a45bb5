"""What every strategy promises, and what each of them is for."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from search_problems import BUDGET, CONDITIONAL, SEPARABLE, conditional, latency, score, separable

from catchweight.budget import Budget, Cost
from catchweight.errors import CatchweightError, UsageError
from catchweight.front import Front
from catchweight.search import (
    NSGA2,
    STRATEGIES,
    TPE,
    Evolution,
    GradedEvolution,
    LocalSearch,
    Problem,
    RandomSearch,
    strategy_named,
)
from catchweight.spaces import Decision, Decisions

every_strategy = pytest.mark.parametrize("name", STRATEGIES)


class StopError(Exception):
    """Stands for whatever may end an evaluation."""


def stopping_after(count: int):
    """``score`` that raises at its evaluation number ``count``."""
    calls = iter(range(count))

    def evaluate(arch):
        if next(calls, None) is None:
            raise StopError
        return score(arch)

    return evaluate


@every_strategy
def test_all_candidates_are_new_canonical_scored_and_within_the_budget(name):
    evaluated: Counter = Counter()

    def evaluate(arch):
        evaluated[arch] += 1
        return score(arch)

    problem = separable(evaluate=evaluate, headroom=0.1)
    front = strategy_named(name).search(problem, 40)
    assert len(front.candidates) == 40
    assert {c.arch for c in front.candidates} == set(evaluated)
    assert set(evaluated.values()) == {1}
    for candidate in front.candidates:
        assert BUDGET.tightened(0.1).allows(candidate.cost)
        assert candidate.cost == latency(candidate.arch)
        assert candidate.score == score(candidate.arch)


def test_once_the_time_is_up_no_more_candidates_are_begun():
    lines: list[str] = []
    problem = replace(separable(seed=5), deadline=time.monotonic())
    front = Evolution().search(problem, 30, lines.append)
    assert len(front.candidates) == 1, "one is always found"
    assert lines[-1].startswith("1 candidates evaluated of 30, the time was up")


@every_strategy
@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10_000), st.integers(1, 32), st.sampled_from([100.0, 40.0, 30.0]))
def test_conditional_choices_stay_canonical_and_a_small_space_is_used_up(name, seed, evaluations, limit):
    problem = conditional(limit, seed=seed)
    every = {CONDITIONAL.canonical(dict(zip(CONDITIONAL, values, strict=True))) for values in _all(CONDITIONAL)}
    fitting = {arch for arch in every if problem.limits[0].allows(problem.cost(arch))}
    found = [c.arch for c in strategy_named(name).search(problem, evaluations).candidates]
    assert len(set(found)) == len(found) == min(evaluations, len(fitting))
    assert set(found) <= fitting


def _all(decisions):
    import itertools

    return itertools.product(*(decision.options for decision in decisions.values()))


def test_random_search_is_uniform_over_what_fits():
    space = Decisions([Decision("a", (1, 2, 3)), Decision("b", (1, 2, 3, 4)), Decision("c", ("x", "y"))])

    def cost(arch):
        return Cost(latency_ms=arch["a"] + arch["b"])

    budget = Budget.parse("latency<=5ms")
    fitting = [arch for arch in (space.canonical(dict(zip(space, v, strict=True))) for v in _all(space))
               if budget.allows(cost(arch))]  # fmt: skip
    drawn: Counter = Counter()
    for seed in range(450):
        front = RandomSearch().search(Problem(space, lambda arch: 0.5, cost, (budget,), seed=seed), 2)
        drawn.update(candidate.arch for candidate in front.candidates)
    assert set(drawn) == set(fitting)
    assert chisquare(list(drawn.values())).pvalue > 0.01


SEEDS = range(8)


@pytest.fixture(scope="module")
def random_fronts() -> list[Front]:
    return [RandomSearch().search(separable(seed=seed), 70) for seed in SEEDS]


@pytest.mark.parametrize("strategy", [Evolution(), LocalSearch()], ids=["evolution", "local"])
def test_comes_nearer_to_the_optimum_than_random_search_at_equal_evaluations(strategy, random_fronts):
    gains = [
        _best(strategy.search(separable(seed=seed), 70)) - _best(front)
        for seed, front in zip(SEEDS, random_fronts, strict=True)
    ]
    assert fmean(gains) > 0.01
    assert sum(gain > 0 for gain in gains) >= 6


@pytest.mark.parametrize("strategy", [TPE(), NSGA2(), Evolution(levels=4), GradedEvolution()],
                         ids=["tpe", "nsga2", "evolution", "graded-evolution"])  # fmt: skip
def test_has_a_better_front_than_random_search_at_equal_evaluations(strategy, random_fronts):
    corner = BUDGET.corner()
    ratios = [
        strategy.search(separable(seed=seed), 70).hypervolume(corner) / front.hypervolume(corner)
        for seed, front in zip(SEEDS, random_fronts, strict=True)
    ]
    assert fmean(ratios) > 1.05
    assert sum(ratio > 1 for ratio in ratios) >= 6


def test_initial_members_of_all_sizes_help_where_the_budget_is_loose():
    loose = (Budget.parse("latency<=70ms"),)
    plain, graded = (
        [_best(strategy.search(separable(seed=seed, budgets=loose), 70)) for seed in SEEDS]
        for strategy in (Evolution(), GradedEvolution())
    )
    assert fmean(graded) > fmean(plain) + 0.01


def test_evolution_finds_the_optimum_of_a_separable_problem():
    space = Decisions([Decision(f"width{i}", (1, 2, 4, 8)) for i in range(6)] + [Decision("op", ("plain", "zoomed"))])
    best = max((c for c in _canonical(space) if BUDGET.allows(latency(c))), key=score)
    fronts = [Evolution().search(separable(decisions=space, seed=seed), 250) for seed in range(3)]
    assert max(map(_best, fronts)) == score(best)
    assert min(map(_best, fronts)) > 0.95 * score(best)


def _canonical(space):
    return [space.canonical(dict(zip(space, values, strict=True))) for values in _all(space)]


def _best(front: Front) -> float:
    best = front.best(BUDGET)
    assert best is not None
    assert best.score is not None
    return best.score


@every_strategy
def test_several_budgets_in_one_go(name):
    tight = Budget.parse("latency<=16ms")
    front = strategy_named(name).search(separable(budgets=(tight, BUDGET)), 60)
    assert all(BUDGET.allows(c.cost) for c in front.candidates)
    if name in ("random", "local", "evolution"):
        assert sum(tight.allows(c.cost) for c in front.candidates) >= 0.4 * len(front.candidates)
        assert front.best(BUDGET).score > front.best(tight).score


@every_strategy
@pytest.mark.parametrize("after", [0, 1, 9, 23])
def test_a_search_that_was_stopped_ends_as_if_it_had_not_been(name, after, tmp_path):
    whole = strategy_named(name).search(separable(seed=5), 30)
    storage = tmp_path / "search.journal"
    with pytest.raises(StopError):
        strategy_named(name).search(separable(seed=5, evaluate=stopping_after(after), storage=storage), 30)
    assert strategy_named(name).search(separable(seed=5, storage=storage), 30) == whole


def test_more_evaluations_go_on_from_what_is_there(tmp_path):
    storage = f"sqlite:///{tmp_path}/search.db"
    first = RandomSearch().search(separable(storage=storage), 10)
    more = RandomSearch().search(separable(storage=storage, evaluate=stopping_after(5)), 15)
    assert more.candidates[:10] == first.candidates
    assert RandomSearch().search(separable(storage=storage, evaluate=stopping_after(0)), 15) == more


def test_the_seed_decides():
    fronts = [Evolution().search(separable(seed=seed), 20) for seed in (1, 1, 2)]
    assert fronts[0] == fronts[1] != fronts[2]


def test_a_space_in_which_nothing_fits_names_the_smallest_cost_seen():
    tiny = Budget.parse("latency<=3ms")  # the smallest member needs 6 ms
    with pytest.raises(CatchweightError, match=r"smallest cost seen is latency 6ms, 2x what is allowed"):
        Evolution().search(separable(budgets=(tiny,)), 10)
    with pytest.raises(CatchweightError, match=r"of \d+ architectures drawn makes the budget \"latency<=3ms\", 10%"):
        RandomSearch(tries=50).search(separable(budgets=(tiny,), headroom=0.1), 10)


def test_evolution_walks_into_a_budget_that_draws_do_not_hit():
    tight = Budget.parse("latency<=7ms")  # 7 of 786,432 members
    front = Evolution().search(separable(budgets=(tight,)), 20)
    assert sorted(c.cost.latency_ms for c in front.candidates) == [6, *[7] * 6]


def test_a_candidate_without_a_usable_score_is_kept_and_no_parent():
    def evaluate(arch):
        return math.nan if arch["op"] == "plain" else score(arch)

    for name in STRATEGIES:
        front = strategy_named(name).search(separable(evaluate=evaluate), 30)
        failed = [c for c in front.candidates if c.score is None]
        assert {c.arch["op"] for c in failed} <= {"plain"}
        assert all("no usable score" in c.note for c in failed)
    assert failed


def test_rejections_are_told():
    lines: list[str] = []
    front = RandomSearch().search(separable(), 20, lines.append)
    assert lines[0].startswith("candidate 1 of 20: score 0.")
    assert f"best so far {max(c.score for c in front.candidates):.4f}" in lines[19]
    assert "20 candidates evaluated; rejected before any evaluation:" in lines[-1]
    assert " over the budget" in lines[-1]


def test_the_time_left_is_told_at_the_pace_so_far(monkeypatch):
    now = 0.0

    def evaluate(arch):
        nonlocal now
        now += 90.0
        return score(arch)

    lines: list[str] = []
    monkeypatch.setattr("catchweight.search.blackbox.base.time.monotonic", lambda: now)
    RandomSearch().search(separable(evaluate=evaluate), 5, lines.append)
    left = [line.partition("about ")[2] for line in lines[:5]]
    assert left == ["6 min left", "4 min left", "3 min left", "2 min left", ""]


def test_a_used_up_space_is_told():
    lines: list[str] = []
    assert len(RandomSearch().search(conditional(), 100, lines.append).candidates) == 28
    assert any("no more than 28 different candidates" in line for line in lines)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"headroom": 0.1},
        {"budgets": (Budget.parse("latency<=20ms"),)},
        {"decisions": Decisions([*SEPARABLE.values(), Decision("more", (1, 2))])},
    ],
)
def test_a_storage_with_another_search_is_refused(other, tmp_path):
    storage = tmp_path / "search.journal"
    RandomSearch().search(separable(storage=storage), 3)
    with pytest.raises(CatchweightError, match=f"with {next(iter(other)).replace('decisions', 'choices')}="):
        RandomSearch().search(separable(storage=storage, **other), 3)
    with pytest.raises(CatchweightError, match="with strategy='random', not 'local'"):
        LocalSearch().search(separable(storage=storage), 3)
    assert len(RandomSearch().search(separable(storage=storage, name="another", **other), 3).candidates) == 3


def test_a_storage_of_the_same_strategy_with_other_settings_is_refused(tmp_path):
    storage = tmp_path / "search.journal"
    front = Evolution(initial=8, levels=2).search(separable(storage=storage), 12)
    assert Evolution(levels=2, initial=8, rate=0.3).search(separable(storage=storage), 12) == front
    with pytest.raises(CatchweightError, match=r"with settings=\{'initial': 8, 'levels': 2\}, not \{'rate': 0.5\}"):
        Evolution(rate=0.5).search(separable(storage=storage), 12)
    with pytest.raises(CatchweightError, match=r"'levels': 2\}, not \{\}"):
        Evolution().search(separable(storage=storage), 12)


@pytest.mark.parametrize("strategy", [LocalSearch(), LocalSearch(rate=0.05)])
def test_a_journal_from_before_settings_were_stored_goes_on(strategy, tmp_path):
    storage = tmp_path / "search.journal"
    strategy.search(separable(storage=storage), 8)
    text = storage.read_text()
    begin = text.index('"settings":')
    storage.write_text(text[:begin] + text[text.index("},", begin) + 2 :])
    assert strategy.search(separable(storage=storage), 16) == strategy.search(separable(), 16)


def test_wrong_requests():
    with pytest.raises(UsageError, match='did you mean "evolution"'):
        strategy_named("evoluton")
    with pytest.raises(UsageError, match="a search needs a budget"):
        separable(budgets=())
    with pytest.raises(UsageError, match="one evaluation or more"):
        RandomSearch().search(separable(), 0)
    with pytest.raises(CatchweightError, match="limits params, which is not predicted here"):
        RandomSearch().search(separable(budgets=(Budget.parse("params<=5M"),)), 3)


def test_optuna_shows_the_choices_in_use(tmp_path):
    import optuna

    storage = f"sqlite:///{tmp_path}/search.db"
    front = RandomSearch().search(conditional(storage=storage), 6)
    trials = optuna.load_study(study_name="search", storage=storage).trials
    for trial, candidate in zip(trials, front.candidates, strict=True):
        indices = CONDITIONAL.indices(candidate.arch)
        active = {name for name, decision in CONDITIONAL.items() if decision.active(indices)}
        assert trial.params == {name: candidate.arch[name] for name in active}
        assert trial.values == [candidate.score, candidate.cost.latency_ms]


def test_a_storage_that_cannot_be_opened_names_it(tmp_path):
    broken = tmp_path / "broken.journal"
    broken.write_text('{"op_code": \nno json\n')
    for storage, text in [
        (tmp_path / "folder", "folder"),
        (broken, "is not a journal of a search"),
        ("oracl://u:secret@h/x", r"no driver for oracl://u:\*\*\*@h/x"),
        (f"sqlite:///{tmp_path}/none/x.db", "cannot open the storage sqlite"),
    ]:
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(CatchweightError, match=text):
            RandomSearch().search(separable(storage=storage), 1)


def test_half_a_line_at_the_end_of_a_journal_is_cut(tmp_path: Path):
    storage = tmp_path / "search.journal"
    whole = RandomSearch().search(separable(), 8)
    RandomSearch().search(separable(storage=storage), 4)
    with storage.open("a") as file:
        file.write('{"op_code":4,"worker')
    assert RandomSearch().search(separable(storage=storage), 8) == whole


def test_half_a_line_that_is_left_while_a_search_runs_is_cut(tmp_path: Path):
    storage = tmp_path / "search.journal"
    calls = 0

    def evaluate(arch):
        nonlocal calls
        calls += 1
        if calls == 3:  # a sign of life on a full disk, which has room again when the score is there
            with storage.open("a") as file:
                file.write('{"op_code":8,"worker')
        return score(arch)

    whole = RandomSearch().search(separable(), 8)
    assert RandomSearch().search(separable(storage=storage, evaluate=evaluate), 8) == whole
    assert RandomSearch().search(separable(storage=storage, evaluate=stopping_after(0)), 8) == whole


def test_a_journal_opens_as_optunas_dashboard_opens_it(tmp_path):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path / "explore.journal"
    front = strategy_named("evolution").search(separable(storage=path), 12)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))  # with a lock of Optuna's own
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert len(trials) == len(front.candidates) == 12
    for trial in trials:
        assert score(trial.params) in trial.values, "each choice is a parameter that the dashboard can plot"
