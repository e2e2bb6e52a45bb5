"""Arch, Candidate and Front against brute force; the hypervolume against cells counted and another library."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.budget import Budget, Cost
from catchweight.errors import CatchweightError, UsageError
from catchweight.front import Arch, Candidate, Front

FIELDS = {"latency": "latency_ms", "memory": "memory_bytes", "params": "params"}
MOST = 6
grid = st.integers(0, MOST)


def candidate(index: int, latency=None, memory=None, params=None, score=None) -> Candidate:
    """Small whole numbers, so that ties are common and every volume is exact."""
    whole = [None if v is None else float(v) for v in (latency, memory, params)]
    cost = Cost(latency_ms=whole[0], memory_bytes=whole[1], params=whole[2])
    return Candidate(Arch(index=index), cost, None if score is None else float(score))


rows = st.tuples(*[st.none() | grid] * 3, st.none() | grid)
fronts = st.lists(rows, max_size=10).map(lambda found: Front(tuple(candidate(i, *row) for i, row in enumerate(found))))
asked = st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3, unique=True).map(tuple)


def objectives(c: Candidate, quantities) -> tuple[float, ...] | None:
    values = [getattr(c.cost, FIELDS[name]) for name in quantities]
    return None if c.score is None or None in values else (*values, -c.score)


def brute_force(front: Front, quantities) -> set[tuple[float, ...]]:
    known = {o for c in front.candidates if (o := objectives(c, quantities)) is not None}
    return {o for o in known if not any(p != o and all(a <= b for a, b in zip(p, o, strict=True)) for p in known)}


def cells(front: Front, quantities, corner: float) -> int:
    """Unit cells up to ``corner`` in every cost and down to score 0 that some candidate dominates."""
    known = brute_force(front, quantities)
    sides = [range(int(corner))] * len(quantities) + [range(-MOST, 0)]
    return sum(
        any(all(a <= b for a, b in zip(o, cell, strict=True)) for o in known) for cell in itertools.product(*sides)
    )


def corner(quantities, value: float) -> Cost:
    return Cost(**{FIELDS[name]: value for name in quantities})


def test_estimated_candidates_are_kept_and_are_no_answer():
    trained = candidate(0, 2, score=1)
    guess = replace(candidate(1, 1, score=5), estimated=True)
    front = Front((trained, guess))
    assert front.points == (trained,)
    assert front.best() == front.best(Budget.parse("latency<=3ms")) == trained
    assert front.hypervolume(Cost(latency_ms=3.0)) == 1.0
    assert Front.from_json(json.loads(json.dumps(front.to_json()))) == front
    assert "estimated" not in trained.to_json(), "files of earlier versions are the same"
    earlier = {**guess.to_json(), "note": "supernet score at predicted latency, not trained alone"}
    del earlier["estimated"]
    assert Candidate.from_json(earlier).estimated


@given(fronts, asked)
def test_points_are_exactly_the_non_dominated(front, quantities):
    points = front.points_in(*quantities)
    found = [objectives(c, quantities) for c in points]
    assert len(set(found)) == len(found)
    assert set(found) == brute_force(front, quantities)
    assert found == sorted(found)


@given(fronts)
def test_points_are_those_in_latency_and_of_equals_the_first(front):
    assert front.points == front.points_in("latency")
    for point in front.points:
        twins = [c for c in front.candidates if objectives(c, ("latency",)) == objectives(point, ("latency",))]
        assert point is twins[0]


@pytest.mark.parametrize(("quantities", "message"), [((), "one or more"), (("latancy",), 'did you mean "latency"')])
def test_unknown_quantities_are_refused(quantities, message):
    with pytest.raises(UsageError, match=message):
        Front().points_in(*quantities)


@given(fronts, asked, st.integers(0, MOST + 2))
def test_hypervolume_is_the_number_of_dominated_cells(front, quantities, worst):
    assert front.hypervolume(corner(quantities, float(worst))) == cells(front, quantities, worst)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=12), st.floats(0.1, 1))
def test_hypervolume_agrees_with_another_library(found, worst):
    wfg = pytest.importorskip("optuna._hypervolume", reason="Optuna moved its hypervolume")
    front = Front(tuple(candidate(i, ms, mb, None, s) for i, (ms, mb, s) in enumerate(found)))
    inside = np.array([(ms, mb, -s) for ms, mb, s in found if ms <= worst and mb <= worst])
    reference = np.array([worst, worst, 0.0])
    expected = wfg.compute_hypervolume(inside, reference) if len(inside) else 0.0
    assert front.hypervolume(corner(("latency", "memory"), worst)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(fronts, asked, rows)
def test_hypervolume_never_falls_when_a_candidate_is_added(front, quantities, row):
    reference = corner(quantities, float(MOST))
    more = Front((*front.candidates, candidate(99, *row)))
    assert more.hypervolume(reference) >= front.hypervolume(reference)


@given(fronts, asked, st.data())
def test_a_dominated_candidate_changes_nothing(front, quantities, data):
    points = front.points_in(*quantities)
    if not points:
        return
    point = data.draw(st.sampled_from(points))
    worse = {FIELDS[name]: getattr(point.cost, FIELDS[name]) + 1 for name in quantities}
    beaten = Candidate(Arch(index="beaten"), Cost(**worse), point.score - 1)
    more = Front((beaten, *front.candidates))
    reference = corner(quantities, float(MOST))
    assert more.points_in(*quantities) == points
    assert more.hypervolume(reference) == front.hypervolume(reference)
    assert more.knee(quantities[0]) == front.knee(quantities[0]) or len(quantities) > 1


@given(fronts, asked, st.randoms(use_true_random=False))
def test_order_does_not_matter(front, quantities, random):
    shuffled = list(front.candidates)
    random.shuffle(shuffled)
    other = Front(tuple(shuffled))
    reference = corner(quantities, float(MOST))
    assert {objectives(c, quantities) for c in other.points_in(*quantities)} == {
        objectives(c, quantities) for c in front.points_in(*quantities)
    }
    assert other.hypervolume(reference) == front.hypervolume(reference)


def test_hypervolume_by_hand_and_without_a_cost():
    front = Front((candidate(0, latency=2, score=0.5), candidate(1, latency=4, score=0.75)))
    assert front.hypervolume(Budget.parse("latency<=10ms").corner()) == pytest.approx(2 * 0.5 + 6 * 0.75)
    assert front.hypervolume(Cost(latency_ms=10.0), score=0.5) == pytest.approx(6 * 0.25)
    assert front.hypervolume(Cost(latency_ms=2.0)) == 0
    with pytest.raises(UsageError, match="one or more"):
        front.hypervolume(Cost())


def knee_by_distance(front: Front) -> set[float]:
    """Latencies of the interior points farthest above the chord, by the distance of a point from a line."""
    points = np.array([(c.cost.latency_ms, c.score) for c in front.points]).reshape(-1, 2)
    if len(points) < 3:
        return set()
    scaled = (points - points[0]) / (points[-1] - points[0])
    distance = (scaled[:, 1] - scaled[:, 0]) / math.sqrt(2)
    best = distance[1:-1].max()
    return set() if best <= 1e-9 else set(points[1:-1][distance[1:-1] >= best - 1e-12, 0])


@given(fronts)
def test_the_knee_is_farthest_above_the_chord(front):
    expected, knee = knee_by_distance(front), front.knee()
    assert knee is None if not expected else knee.cost.latency_ms in expected


@given(fronts, st.sampled_from([0.25, 8.0]), st.sampled_from([0.5, 2.0]))
def test_the_knee_does_not_depend_on_units(front, slower, better):
    scaled = Front(
        tuple(
            Candidate(
                c.arch,
                Cost(latency_ms=None if c.cost.latency_ms is None else c.cost.latency_ms * slower),
                None if c.score is None else c.score * better,
            )
            for c in front.candidates
        )
    )
    knee, other = front.knee(), scaled.knee()
    assert (knee is None) == (other is None)
    assert knee is None or knee.arch == other.arch


def test_a_straight_or_hollow_front_has_no_knee():
    straight = [candidate(i, latency=i, score=i) for i in range(5)]
    hollow = [candidate(i, latency=i, score=i * i) for i in range(5)]
    bent = [candidate(0, latency=0, score=0), candidate(1, latency=1, score=3), candidate(2, latency=4, score=4)]
    assert Front(tuple(straight)).knee() is None
    assert Front(tuple(hollow)).knee() is None
    assert Front(tuple(bent)).knee() == bent[1]


@given(fronts, st.integers(1, MOST))
def test_best_under_a_budget_is_brute_force_best(front, limit):
    allowed = [c for c in front.candidates if c.score is not None and (c.cost.latency_ms or 0) <= limit]
    allowed = [c for c in allowed if c.cost.latency_ms is not None]
    best = front.best(Budget.parse(f"latency<={limit}ms"))
    if not allowed:
        assert best is None
    else:
        assert best.score == max(c.score for c in allowed)
        assert best.cost.latency_ms == min(c.cost.latency_ms for c in allowed if c.score == best.score)


def test_best_needs_only_what_the_budget_limits():
    small = candidate(0, params=3, score=0.5)
    assert Front((small,)).best(Budget.parse("params<=3")) == small
    assert Front((small, candidate(1, latency=1, score=0.5))).best().arch == Arch(index=1)


@given(fronts, fronts, asked)
def test_a_merged_front_holds_the_better_of_both(one, other, quantities):
    merged = one.merge(other)
    both = brute_force(Front(one.candidates + other.candidates), quantities)
    assert {objectives(c, quantities) for c in merged.points_in(*quantities)} == both
    assert set(merged.candidates) == {*one.candidates, *other.candidates}
    assert merged.merge(one, other) == merged
    reference = corner(quantities, float(MOST))
    assert merged.hypervolume(reference) >= max(one.hypervolume(reference), other.hypervolume(reference))


@given(fronts)
def test_json_round_trip(front):
    values = json.loads(json.dumps(front.to_json(), allow_nan=False))
    assert Front.from_json(values) == front
    flagged = {i for i, value in enumerate(values["candidates"]) if value["on_front"]}
    assert flagged == {i for i, c in enumerate(front.candidates) if c in front.points}


def test_a_second_training_of_an_architecture_is_flagged_on_its_own():
    first, again = (Candidate(Arch(a=1), Cost(latency_ms=ms), 0.5) for ms in (2.0, 1.0))
    assert [c["on_front"] for c in Front((first, again)).to_json()["candidates"]] == [False, True]


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(CatchweightError, match=r"Arch\(a=1\) is .*diverge"):
        Candidate(Arch(a=1), Cost(), score)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a front"),
        ('{"candidates": [1]}', "is not a front"),
        ('{"candidates": [{"arch": {}}]}', "is not a front"),
        ('{"candidates": [{"arch": {}, "cost": {"latency_ms": "fast"}}]}', "is not a front"),
        ('{"candidates": [{"arch": {}, "cost": {}, "score": NaN}]}', "bad.json: the score"),
        ('{"candidates": [{"arch": {}, "cost": {"latency_ms": Infinity}}]}', "bad.json: latency_ms"),
        ("{", "not valid JSON"),
    ],
)
def test_a_file_that_is_no_front_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(CatchweightError, match=message):
        Front.read(path)


def test_a_front_is_read_back_from_its_file(tmp_path):
    front = Front((candidate(0, latency=1, score=1), candidate(1, latency=2)))
    (tmp_path / "front.json").write_text(json.dumps(front.to_json()))
    assert Front.read(tmp_path / "front.json") == front


def test_arch_is_a_value():
    a, b = Arch(width=0.5, size=[1, 2]), Arch(size=[1, 2], width=0.5)
    assert a == b
    assert hash(a) == hash(b)
    assert Arch(**a.to_json()) == a
    assert a != Arch(width=1.0, size=[1, 2])
    with pytest.raises(TypeError):
        a["width"] = 1  # type: ignore[index]
