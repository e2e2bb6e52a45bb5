"""Arch, Candidate and Front against brute force."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.budget import Budget, Cost
from catchweight.front import Arch, Candidate, Front

candidates = st.lists(
    st.tuples(st.integers(1, 6), st.none() | st.integers(0, 6)),
    max_size=12,
).map(
    lambda rows: Front(
        tuple(
            Candidate(Arch(index=i), Cost(latency_ms=float(ms)), None if s is None else s / 6)
            for i, (ms, s) in enumerate(rows)
        )
    )
)


def dominates(a: Candidate, b: Candidate) -> bool:
    no_worse = a.cost.latency_ms <= b.cost.latency_ms and a.score >= b.score
    return no_worse and (a.cost.latency_ms < b.cost.latency_ms or a.score > b.score)


@given(candidates)
def test_points_are_exactly_the_non_dominated(front):
    scored = [c for c in front.candidates if c.score is not None]
    expected = {(c.cost.latency_ms, c.score) for c in scored if not any(dominates(o, c) for o in scored)}
    assert {(c.cost.latency_ms, c.score) for c in front.points} == expected
    assert list(front.points) == sorted(front.points, key=lambda c: c.cost.latency_ms)


@given(candidates, st.integers(1, 6))
def test_best_under_a_budget_is_brute_force_best(front, limit):
    allowed = [c for c in front.candidates if c.score is not None and c.cost.latency_ms <= limit]
    best = front.best(Budget.parse(f"latency<={limit}ms"))
    if not allowed:
        assert best is None
    else:
        assert best.score == max(c.score for c in allowed)


@given(candidates)
def test_json_round_trip(front):
    assert Front.from_json(json.loads(json.dumps(front.to_json()))) == front


def test_arch_is_a_value():
    a, b = Arch(width=0.5, size=[1, 2]), Arch(size=[1, 2], width=0.5)
    assert a == b
    assert hash(a) == hash(b)
    assert Arch(**a.to_json()) == a
    assert a != Arch(width=1.0, size=[1, 2])
    with pytest.raises(TypeError):
        a["width"] = 1  # type: ignore[index]
