"""The multiple-choice knapsack against every choice there is, and against OR-tools' integer optimum."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from catchweight.compress.knapsack import BINS, OverCapacityError, solve

SCALE = 1_000_000


def brute_force(values: list[np.ndarray], costs: list[np.ndarray], capacity: float) -> float:
    """The best value by trying every choice."""
    best = -np.inf
    for choice in itertools.product(*(range(len(group)) for group in values)):
        cost = sum(group[option] for group, option in zip(costs, choice, strict=True))
        if cost <= capacity + 1e-9:
            best = max(best, sum(group[option] for group, option in zip(values, choice, strict=True)))
    return float(best)


def integer_optimum(values: list[np.ndarray], costs: list[np.ndarray], capacity: int) -> float:
    """Proven by CP-SAT; costs are whole numbers."""
    model = cp_model.CpModel()
    taken = [[model.new_bool_var(f"{g} {o}") for o in range(len(group))] for g, group in enumerate(values)]
    for group in taken:
        model.add_exactly_one(group)
    pairs = [
        (v, c, t) for vs, cs, ts in zip(values, costs, taken, strict=True) for v, c, t in zip(vs, cs, ts, strict=True)
    ]
    model.add(sum(int(cost) * var for _, cost, var in pairs) <= capacity)
    model.maximize(sum(round(SCALE * float(value)) * var for value, _, var in pairs))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    return solver.objective_value / SCALE


def layers(rng: np.random.Generator, groups: int, options: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Groups like layers: importance falls from bundle to bundle, cost rises about evenly, in whole numbers."""
    values, costs = [], []
    for _ in range(groups):
        count = int(rng.integers(2, options + 1))
        values.append(np.cumsum(np.sort(rng.pareto(1.5, count) * rng.uniform(0.1, 3))[::-1]))
        costs.append(np.cumsum(rng.integers(1, 40, count)))
    return values, costs


@pytest.mark.parametrize("seed", range(30))
def test_small_instances_equal_every_choice_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=int(rng.integers(1, 5))) for _ in range(5)]
    costs = [rng.normal(size=len(group)) for group in values]  # real, and of either sign
    capacity = sum(float(c.min()) for c in costs) + rng.uniform(0, 4)
    found = solve(values, costs, capacity)
    assert found.cost <= capacity + 1e-9
    best = brute_force(values, costs, capacity)
    assert found.value <= best + 1e-9
    assert found.value == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("seed", range(50))
def test_fifty_instances_equal_the_integer_optimum(seed: int) -> None:
    """Small and medium ones; each bin is one whole cost, so nothing may be lost."""
    rng = np.random.default_rng(seed)
    values, costs = layers(rng, groups=int(rng.integers(3, 21)), options=int(rng.integers(3, 13)))
    least = sum(int(c.min()) for c in costs)
    capacity = least + int(rng.integers(0, min(BINS, sum(int(c.max()) for c in costs) - least) + 1))
    found = solve(values, costs, capacity, bins=max(1, capacity - least))
    assert found.cost <= capacity
    assert found.value == pytest.approx(integer_optimum(values, costs, capacity), abs=len(values) / SCALE)


@pytest.mark.parametrize("seed", range(5))
def test_real_costs_are_within_a_thousandth_of_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    values, whole = layers(rng, groups=20, options=10)
    # Costs in units of 1/1000, so that CP-SAT knows them exactly and many share a bin.
    fine = [np.round(1000 * c * rng.uniform(0.5, 1.5)).astype(np.int64) for c in whole]
    capacity = int(0.5 * sum(int(c.max()) for c in fine))
    found = solve(values, fine, capacity)
    assert found.cost <= capacity
    assert found.value >= (1 - 1e-3) * integer_optimum(values, fine, capacity)


def test_an_instance_of_the_size_of_resnet50_takes_under_a_second() -> None:
    rng = np.random.default_rng(0)
    values = [np.cumsum(rng.pareto(2, size=32)) for _ in range(50)]
    costs = [np.cumsum(rng.random(32)) for _ in range(50)]
    capacity = 0.5 * sum(float(c[-1]) for c in costs)
    begun = time.process_time()
    found = solve(values, costs, capacity)
    # Seen: 0.08 s. The limit is the one that was promised, ten times as long.
    assert time.process_time() - begun < 1
    assert 0.999 * capacity < found.cost <= capacity


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_more_capacity_is_never_worth_less_and_shifts_change_nothing(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    values, costs = layers(rng, groups=4, options=5)
    least = sum(int(c.min()) for c in costs)
    low = least + data.draw(st.integers(0, 200))
    high = low + data.draw(st.integers(0, 200))
    worth = [solve(values, costs, capacity, bins=capacity - least or 1).value for capacity in (low, high)]
    assert worth[0] <= worth[1] + 1e-9
    shift = data.draw(st.integers(-500, 500))
    shifted = solve(values, [costs[0] + shift, *costs[1:]], low + shift, bins=low - least or 1)
    assert shifted.value == pytest.approx(worth[0])


def test_costs_below_nothing_make_room() -> None:
    found = solve([[0, 5], [0, 3]], [[0, -2], [0, 2]], capacity=0)
    assert found.options == (1, 1)
    assert (found.cost, found.value) == (0, 8)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(OverCapacityError, match="the cheapest choice costs 3"):
        solve([[1, 2], [1]], [[1, 2], [2]], capacity=2.5)
    with pytest.raises(ValueError, match="as many values as costs"):
        solve([[1, 2]], [[1]], 5)
    with pytest.raises(ValueError, match="finite"):
        solve([[1.0]], [[float("nan")]], 5)
    assert solve([], [], 0).options == ()
