"""Reachability: the answer is brute force's, it asks no more than it needs, and what it says to allow is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.budget import Budget, Cost, Limit
from catchweight.errors import CatchweightError
from catchweight.front import Arch
from catchweight.search.reach import ends, factor_over, reach
from catchweight.search.screen import look_ahead
from catchweight.spaces import WholeNetworks
from catchweight.spaces.whole import label, size_of
from catchweight.targets import Target, count_macs

TINY = "timm/test_efficientnet+fpn"


def member(index: int) -> Arch:
    return Arch(network=f"net{index}", size=[64, 64], width=1.0)


class Scale:
    """Costs by member, and who was asked."""

    def __init__(self, *costs: tuple[float, float]) -> None:
        self.members = [member(i) for i in range(len(costs))]
        self.costs = {m: Cost(latency_ms=ms, params=p) for m, (ms, p) in zip(self.members, costs, strict=True)}
        self.asked: list[Arch] = []

    def __call__(self, arch: Arch) -> Cost:
        self.asked.append(arch)
        return self.costs[arch]

    def reach(self, budget: Budget, headroom: float = 0.0):
        """The first member stands for the smallest, the last for the largest."""
        others = self.members[1:-1]
        return reach(budget, self.members[0], self.members[-1], self, others=others, headroom=headroom)


amount = st.floats(0.01, 1e4)
scales = st.lists(st.tuples(amount, amount), min_size=1, max_size=6)
budgets = st.tuples(amount, amount).map(lambda v: Budget((Limit("latency", v[0]), Limit("params", v[1]))))


@given(scales, budgets, st.sampled_from([0.0, 0.04, 0.5]))
def test_the_answer_is_that_of_measuring_every_member(costs, budget, headroom):
    scale = Scale(*costs)
    found = scale.reach(budget, headroom)
    tight = budget.tightened(headroom)
    assert found.reachable == any(tight.allows(cost) for cost in scale.costs.values())
    assert found.binds != tight.allows(scale.costs[scale.members[-1]])
    assert len(scale.asked) == len(set(scale.asked))
    if found.reachable:
        found.check()
        assert tight.allows(found.nearest.cost)
    else:
        assert set(scale.asked) == set(scale.members)
        assert found.factor == min(factor_over(budget, cost) for cost in scale.costs.values())
        with pytest.raises(CatchweightError, match="no network of the space"):
            found.check()


@given(scales, budgets, st.sampled_from([0.0, 0.04, 0.5]))
def test_what_it_says_to_allow_is_enough_and_not_much_more(costs, budget, headroom):
    found = Scale(*costs).reach(budget, headroom)
    needed = Budget.parse(str(found.needed))
    assert needed.tightened(headroom).allows(found.nearest.cost)
    assert (needed == budget) == found.reachable
    for limit, before in zip(needed.limits, budget.limits, strict=True):
        value = limit.measured(found.nearest.cost)
        assert limit == before or limit.value <= 1.0101 * value / (1 - headroom)


def test_a_budget_the_smallest_makes_asks_nobody_else():
    scale = Scale((2.0, 1e6), (1.0, 1e6), (20.0, 5e6))
    found = scale.reach(Budget.parse("latency<=10ms"))
    assert scale.asked == [member(0), member(2)]
    assert str(found) == (
        "within reach: the smallest network, net0-w1-64x64, needs latency 2ms: 0.2x the budget; "
        "the largest network, net2-w1-64x64, needs latency 20ms: 2x the budget"
    )


def test_a_budget_the_largest_makes_does_not_bind():
    found = Scale((2.0, 1e6), (8.0, 5e6)).reach(Budget.parse("latency<=10ms"))
    assert (found.reachable, found.binds) == (True, False)
    assert str(found) == (
        "the largest network, net1-w1-64x64, needs latency 8ms: 0.8x the budget and makes it: the budget does not bind"
    )


def test_the_fewest_multiply_adds_need_not_be_the_fastest():
    found = Scale((12.0, 1e6), (11.0, 1e6), (9.0, 2e6), (50.0, 5e6)).reach(Budget.parse("latency<=10ms"))
    assert found.reachable
    assert "the cheapest asked network, net2-w1-64x64, needs latency 9ms" in str(found)


def test_an_unreachable_budget_tells_how_far_off_and_the_repair():
    found = Scale((4.2, 3e6), (40.0, 9e6)).reach(Budget.parse("latency<=2ms, params<=5M"), headroom=0.04)
    assert found.factor == pytest.approx(2.1)
    with pytest.raises(CatchweightError) as caught:
        found.check("onnxruntime:cpu")
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        "no network of the space makes the budget latency<=2ms, params<=5M on onnxruntime:cpu: the smallest network, "
        "net0-w1-64x64, needs latency 4.2ms, params 3M: 2.1x the budget; allow at least latency<=4.38ms, params<=5M "
        "(4% is kept free); or add smaller input sizes with --set search.scales=[...], faster networks with "
        "--set search.networks=[...]"
    )


def test_a_quantity_the_target_does_not_measure_is_refused_at_once():
    scale = Scale((1.0, 1.0), (2.0, 2.0))
    with pytest.raises(CatchweightError, match=r'limits energy, which .* "energy<=2J" out of the budget'):
        scale.reach(Budget.parse("latency<=10ms, energy<=2J"))
    assert len(scale.asked) == 1


def test_the_ends_of_a_space_are_those_of_counting_every_member():
    space = WholeNetworks((96, 128), (TINY, "timm/resnet10t+fpn"), (1.0, 0.25), (1.0, 0.75))
    macs = {a: count_macs(space.network(a, 3), size_of(a)) for ladder in space.ladders() for a in ladder}
    found = ends(space, 3)
    assert macs[found.smallest] == min(macs.values())
    assert macs[found.largest] == max(macs.values())
    smallest = [ladder[-1] for ladder in space.ladders()]
    assert {found.smallest, *found.others} == set(smallest)
    assert [macs[a] for a in found.others] == sorted(macs[a] for a in found.others)


def test_figures_are_kept_so_that_nothing_is_measured_twice(tmp_path):
    space = WholeNetworks((64, 96), (TINY,), (0.5, 0.25), (1.0,))
    target = Target.parse("torch:cpu", threads=1)
    lines: list[str] = []
    budget = Budget.parse("latency<=20s")
    first = look_ahead(space, budget, target, 3, tmp_path, headroom=0.0, say=lines.append)
    measured = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert set(measured) == {f"{label(c.arch)}.json" for c in (first.smallest, first.largest)}
    assert (len(lines), lines[-1]) == (3, f"reach: {first}")
    assert look_ahead(space, budget, target, 3, tmp_path, headroom=0.0, say=lines.append) == first
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == measured
