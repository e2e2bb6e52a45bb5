"""Architectures as data, on made-up trees of choices."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from statistics import stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from catchweight.errors import UsageError
from catchweight.spaces import Decision, Decisions


@st.composite
def trees(draw: st.DrawFn) -> Decisions:
    """Up to seven choices; each lies at the top, inside options of an earlier one, or in two such places (tied)."""
    made: list[Decision] = []
    for number in range(draw(st.integers(1, 7))):
        places = []
        for _ in range(draw(st.integers(1, 2))):
            place: tuple[tuple[str, frozenset[int]], ...] = ()
            if made and draw(st.booleans()):
                gate = draw(st.sampled_from(made))
                allowed = draw(st.frozensets(st.sampled_from(range(len(gate.options))), min_size=1))
                place = (*draw(st.sampled_from(gate.places)), (gate.name, allowed))
            places.append(place)
        options = tuple(range(draw(st.integers(1, 3))))
        made.append(Decision(f"c{number}", options, tuple(dict.fromkeys(places))))
    return Decisions(made)


def every(decisions: Decisions) -> set:
    names = list(decisions)
    values = itertools.product(*(decisions[name].options for name in names))
    return {decisions.canonical(dict(zip(names, value, strict=True))) for value in values}


@given(trees())
@settings(max_examples=150, deadline=None)
def test_size_counts_what_enumeration_finds(decisions: Decisions) -> None:
    found = every(decisions)
    assert decisions.size() == len(found)
    assert all(decisions.canonical(arch) == arch for arch in found)


@given(trees(), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_all_that_is_made_of_architectures_is_one(decisions: Decisions, seed: int) -> None:
    rng, found = random.Random(seed), every(decisions)
    a, b = decisions.sample(rng), decisions.sample(rng)
    assert {a, b, decisions.crossover(a, b, rng)} | set(decisions.neighbours(a)) <= found
    mutant = decisions.mutate(a, rng, 0.5)
    assert mutant in found
    assert (mutant != a) == (len(found) > 1)
    assert decisions.crossover(a, a, rng) == a
    assert a not in decisions.neighbours(a)


@given(trees(), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_a_child_takes_each_choice_from_a_parent_that_has_it(decisions: Decisions, seed: int) -> None:
    rng = random.Random(seed)
    parents = [decisions.sample(rng), decisions.sample(rng)]
    child = decisions.crossover(*parents, rng)
    indices = decisions.indices(child)
    for name, decision in decisions.items():
        having = [parent[name] for parent in parents if decision.active(decisions.indices(parent))]
        if decision.active(indices) and having:
            assert child[name] in having


def test_a_long_row_of_nested_choices_is_counted_at_once() -> None:
    """64 layers, each with an op and a kernel inside one of its ops: (1 + 3) ** 64, which no enumeration reaches."""
    row = [
        decision
        for n in range(64)
        for decision in (
            Decision(f"op{n}", ("skip", "conv")),
            Decision(f"kernel{n}", (1, 3, 5), (((f"op{n}", frozenset([1])),),)),
        )
    ]
    assert Decisions(row).size() == 4**64


def test_mutation_changes_as_much_as_asked() -> None:
    decisions = Decisions([Decision(f"c{n}", (0, 1, 2)) for n in range(200)])
    rng = random.Random(0)
    arch = decisions.sample(rng)
    changed = [sum(m[n] != arch[n] for n in arch) for m in (decisions.mutate(arch, rng, 0.1) for _ in range(200))]
    assert 19 < sum(changed) / len(changed) < 21
    assert {sum(m[n] != arch[n] for n in arch) for m in (decisions.mutate(arch, rng, 0.0) for _ in range(20))} == {1}


def test_lists_from_json_are_as_good_as_tuples() -> None:
    decision = Decision("size", ((180, 240), (360, 480)))
    assert decision.index([360, 480]) == 1
    with pytest.raises(UsageError, match='"size" has no option'):
        decision.index([1, 2])


def test_the_schema_says_what_an_architecture_is() -> None:
    schema = Decisions([Decision("width", (16, 24)), Decision("op", ("a", "b"))]).schema()
    assert schema["properties"] == {"width": {"enum": [16, 24]}, "op": {"enum": ["a", "b"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["width", "op"], False)


def test_graded_samples_take_every_option_equally_often_but_lean_one_way():
    space = Decisions([*(Decision(f"width{i}", (8, 16, 32, 64)) for i in range(10)), Decision("op", ("z", "a", "m"))])
    rng = random.Random(0)
    drawn = {kind: [getattr(space, kind)(rng) for _ in range(4000)] for kind in ("sample", "sample_graded")}
    for name, decision in space.items():
        counts = Counter(arch[name] for arch in drawn["sample_graded"])
        assert chisquare([counts[option] for option in decision.options]).pvalue > 1e-4
    total = {kind: [sum(arch[f"width{i}"] for i in range(10)) for arch in archs] for kind, archs in drawn.items()}
    assert stdev(total["sample_graded"]) > 1.5 * stdev(total["sample"])
    assert min(total["sample_graded"]) < 1.5 * 80
    assert max(total["sample_graded"]) > 0.9 * 640


@pytest.mark.parametrize(
    ("options", "graded"),
    [((1, 2, 3), True), ((3, 2, 1), False), ((1.0, 2.5), True), (((90, 120), (180, 240)), True), (("a", "b"), False),
     ((None, 1), False), ((7,), True)],
)  # fmt: skip
def test_options_are_graded_if_they_are_numbers_from_small_to_large(options, graded):
    assert Decision("one", options).graded == graded
