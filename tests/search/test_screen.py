"""Screening by bisection finds what measuring every member would find, and measures each member once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchweight.budget import Budget, Cost
from catchweight.errors import CatchweightError
from catchweight.front import Arch
from catchweight.search.screen import _descend, screen
from catchweight.spaces import WholeNetworks
from catchweight.targets import Target


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 50), st.integers(1, 3))
def test_bisection_finds_the_largest_members_within_the_budget(latencies, limit, per_ladder):
    latencies = sorted(latencies, reverse=True)  # a smaller input is never slower
    measured: list[int] = []

    def cost_of(arch: Arch) -> Cost:
        measured.append(arch["index"])
        return Cost(latency_ms=float(latencies[arch["index"]]))

    ladder = [Arch(index=i) for i in range(len(latencies))]
    fits, fails = _descend(ladder, Budget.parse(f"latency<={limit}ms"), cost_of, per_ladder)
    within = [i for i, ms in enumerate(latencies) if ms <= limit]
    assert [c.arch["index"] for c in fits] == within[:per_ladder]
    assert all(c.cost.latency_ms > limit and "over" in c.note for c in fails)
    assert len(measured) == len(set(measured))


@dataclass
class Tape:
    """A stand-in for a target: latency is read off the input size; it counts how often it is asked."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    runtime: str = "1"

    def fingerprint(self) -> dict[str, str]:
        return {"runtime": self.runtime}

    def cost(self, net, size: tuple[int, int], seconds: float = 0.0) -> Cost:
        self.asked.append(size)
        return Cost(latency_ms=size[0] / 10, params=1.0)

    def __str__(self) -> str:
        return "tape"


SPACE = WholeNetworks((128, 128), ("timm/test_efficientnet+fpn",), (0.25,), (1.0, 0.75, 0.5))


def test_stored_figures_are_reused_but_not_those_of_another_runtime(tmp_path):
    budget = Budget.parse("latency<=10ms")
    first, second = Tape(), Tape()
    result = screen(SPACE, budget, first, 3, tmp_path, headroom=0.0, per_ladder=1)
    assert [c.arch["size"] for c in result.allowed] == [[96, 96]]
    assert screen(SPACE, budget, second, 3, tmp_path, headroom=0.0, per_ladder=1) == result
    assert (len(first.asked) > 0, second.asked) == (True, [])
    other = Tape(runtime="2")
    screen(SPACE, budget, other, 3, tmp_path, headroom=0.0, per_ladder=1)
    assert other.asked == first.asked


def test_where_the_time_is_short_the_first_networks_that_fit_are_enough(tmp_path):
    space = WholeNetworks((128, 128), ("timm/test_efficientnet+fpn",), (0.25, 0.125), (1.0, 0.75, 0.5))
    said: list[str] = []
    given: dict = {"headroom": 0.0, "per_ladder": 1, "say": said.append}
    whole = screen(space, Budget.parse("latency<=10ms"), Tape(), 3, tmp_path / "a", **given)
    given["deadline"] = time.monotonic()
    hurried = screen(space, Budget.parse("latency<=10ms"), Tape(), 3, tmp_path / "b", **given)
    assert len(hurried.allowed) == 1
    assert hurried.allowed == whole.allowed[:1]
    assert said[-1] == "screen: the time is short, 1 of 2 networks are left out"


def test_headroom_drops_what_only_just_fits(tmp_path):
    budget = Budget.parse("latency<=9.7ms")
    assert screen(SPACE, budget, Tape(), 3, tmp_path / "a", headroom=0.0).allowed[0].arch["size"] == [96, 96]
    assert screen(SPACE, budget, Tape(), 3, tmp_path / "b", headroom=0.05).allowed[0].arch["size"] == [64, 64]


def test_no_candidate_tells_the_nearest_ones_figure_after_the_ends_alone(tmp_path):
    tape = Tape()
    with pytest.raises(
        CatchweightError, match=r"smallest network, test_efficientnet\+fpn-w0.25-64x64, needs latency 6.4ms: 6.4x the"
    ):
        screen(SPACE, Budget.parse("latency<=1ms"), tape, 3, tmp_path)
    assert tape.asked == [(64, 64), (128, 128)]


@dataclass
class Busy(Tape):
    """A machine so busy that only the largest member's figure makes the budget."""

    def cost(self, net, size: tuple[int, int], seconds: float = 0.0) -> Cost:
        super().cost(net, size)
        return Cost(latency_ms=1.0 if size == (128, 128) else 20.0)


def test_the_member_that_made_the_budget_is_kept_whatever_noise_says_of_smaller_ones(tmp_path):
    result = screen(SPACE, Budget.parse("latency<=10ms"), Busy(), 3, tmp_path)
    assert [c.arch["size"] for c in result.allowed] == [[128, 128]]


def test_a_real_target_gives_real_figures(tmp_path):
    space = WholeNetworks((64, 64), ("timm/test_efficientnet+fpn",), (0.25,), (1.0,))
    target = Target.parse("onnxruntime:cpu", threads=1)
    result = screen(space, Budget.parse("latency<=10s"), target, 3, tmp_path)
    cost = result.allowed[0].cost
    assert cost.latency_ms > 0
    assert cost.params == sum(p.numel() for p in space.network(result.allowed[0].arch, 3).parameters())


def test_memory_is_measured_where_a_budget_limits_it(tmp_path):
    """Figures kept from a screening that did not need it are not enough."""
    target = Target.parse("onnxruntime:cpu", threads=1)
    space = WholeNetworks((64, 64), ("timm/test_efficientnet+fpn",), (0.25,), (1.0,))
    plain = screen(space, Budget.parse("latency<=10s"), target, 3, tmp_path)
    assert plain.allowed[0].cost.memory_bytes is None
    limited = screen(space, Budget.parse("latency<=10s, memory<=64GB"), target, 3, tmp_path)
    assert (limited.allowed[0].cost.memory_bytes or 0) > 1e5
