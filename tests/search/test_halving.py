"""Successive halving: who is trained how long, ties, and a search that is killed and goes on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchweight.budget import Cost
from catchweight.front import Arch, Candidate
from catchweight.search import rungs_for, successive_halving


def field(count: int) -> list[Candidate]:
    return [Candidate(Arch(index=i), Cost(latency_ms=1.0 + i)) for i in range(count)]


@given(st.integers(1, 200), st.integers(1, 40))
def test_rungs_grow_and_end_at_the_full_length(epochs, candidates):
    rungs = rungs_for(epochs, candidates)
    assert rungs == sorted(set(rungs))
    assert rungs[-1] == epochs
    assert rungs[0] >= 1


@settings(deadline=None, max_examples=30)  # Optuna's bookkeeping takes a while on a busy machine
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_best_survives_and_each_rung_keeps_its_share(scores):
    trained: dict[int, int] = {}

    def evaluate(candidate: Candidate, epochs: int) -> float:
        trained[candidate.arch["index"]] = epochs
        return scores[candidate.arch["index"]]

    rungs = rungs_for(27, len(scores))
    front = successive_halving(field(len(scores)), evaluate, rungs=rungs)
    longest = max(trained.values())
    best = max(range(len(scores)), key=lambda i: (scores[i], -i))
    assert trained[best] == longest
    expected = len(scores)
    for rung, following in zip(rungs, rungs[1:], strict=False):
        reached = sum(epochs >= rung for epochs in trained.values())
        assert reached == expected
        expected = math.ceil(expected / 3)
        if expected == 1:
            break
        assert sum(epochs >= following for epochs in trained.values()) == expected
    assert [c.score for c in front.candidates] == scores


def test_one_that_diverges_is_out_without_a_score_and_the_others_go_on():
    front = successive_halving(
        field(4), lambda c, epochs: -math.inf if c.arch["index"] < 2 else float(c.arch["index"]), rungs=[1, 3, 9], eta=2
    )
    assert [c.score for c in front.candidates] == [None, None, 2.0, 3.0]
    assert "diverged" in front.candidates[0].note
    assert front.best().arch["index"] == 3
    none = successive_halving(field(2), lambda c, epochs: -math.inf, rungs=[1, 3])
    assert [c.score for c in none.candidates] == [None, None]


def test_a_killed_search_goes_on_without_repeating_finished_work(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    calls: list[tuple[int, int]] = []

    def dies_at(limit: int):
        def evaluate(candidate: Candidate, epochs: int) -> float:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append((candidate.arch["index"], epochs))
            return candidate.arch["index"] / 10

        return evaluate

    rungs = rungs_for(9, 9)
    for limit in (2, 5, 10, 11):
        with pytest.raises(KeyboardInterrupt):
            successive_halving(field(9), dies_at(limit), rungs=rungs, storage=storage)
    front = successive_halving(field(9), dies_at(99), rungs=rungs, storage=storage)
    again = successive_halving(field(9), dies_at(len(calls)), rungs=rungs, storage=storage)
    assert calls == [(i, 1) for i in range(9)] + [(i, 3) for i in (6, 7, 8)]
    assert front == again
    assert [c.epochs for c in front.candidates] == [1] * 6 + [3] * 3
    assert front.best().arch["index"] == 8
    assert front.candidates[0].note == "stopped after 1 epoch"
