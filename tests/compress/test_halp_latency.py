"""Costs by widths against traces of really pruned networks; stairs; and how channels are given out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from catchweight.compress import METHODS, Groups, OutOfReachError, find_groups
from catchweight.compress.allocate import Problem
from catchweight.compress.latency import MACS, ChannelCosts, CostModel
from catchweight.compress.stairs import bundle, bundles, options
from catchweight.nets import SegmentationNet, build_network
from catchweight.nets.shrink import shapes
from catchweight.targets.counts import count_macs
from catchweight.targets.tracing.blocks import Signature, blocks
from catchweight.targets.tracing.reshaped import reshaped
from catchweight.targets.tracing.trace import trace

SIZE = (64, 96)
STAIR = 8


def stair_costs(signatures: Sequence[Signature]) -> np.ndarray:
    """A device whose time goes by multiply-adds, channels rounded up to 8, and a little by elements."""

    def up(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-(-n // STAIR) * STAIR if place == 1 else n for place, n in enumerate(shape))

    rounded = [
        dataclasses.replace(s, inputs=tuple(map(up, s.inputs)), output=up(s.output), groups=up((1, s.groups))[1])
        if s.groups > 1
        else dataclasses.replace(s, inputs=tuple(map(up, s.inputs)), output=up(s.output))
        for s in signatures
    ]
    return np.array([s.macs / 1e6 + s.elements / 1e5 for s in rounded])


def subject(name: str, width: float = 1.0) -> tuple[SegmentationNet, Groups]:
    torch.manual_seed(0)
    net = build_network(name, 4, width=width)
    return net, find_groups(net)


@pytest.fixture(scope="module")
def ffnet() -> tuple[SegmentationNet, Groups, ChannelCosts]:
    net, groups = subject("ffnet_22s_bcc_mobile", 0.5)
    return net, groups, ChannelCosts(net, groups.groups, SIZE, CostModel(stair_costs, 0.5))


def random_values(groups: Groups, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {g.name: rng.pareto(1.5, g.units) * 10 ** rng.uniform(-0.5, 0.5) for g in groups.groups}


NAMES = ["timm/test_resnet+fpn:width=16,levels=2-3", "timm/test_efficientnet+fpn:width=16"]


@pytest.mark.parametrize("name", NAMES)
def test_signatures_at_any_widths_are_those_of_the_pruned_network(name: str) -> None:
    net, groups = subject(name)
    costs = ChannelCosts(net, groups.groups, SIZE, MACS)
    whole, before = trace(net, SIZE), shapes(net)
    rng = np.random.default_rng(0)
    widths = {g.name: int(rng.integers(min(g.units, 5), g.units + 1)) for g in groups.groups}
    groups.prune(net, {name: range(count) for name, count in widths.items()})
    changed = {name: shape for name, shape in shapes(net).items() if shape != before[name]}
    wanted = [block.signature for block in blocks(trace(net, SIZE))]
    assert [block.signature for block in blocks(reshaped(whole, changed))] == wanted
    assert costs.signatures(widths) == wanted
    assert costs.total(widths) == count_macs(net, SIZE)


class Squeezed(nn.Module):
    """A convolution under squeeze and excitation whose code reads the channels off the map, so that a recorded graph
    has their number written into it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 32, 3, padding=1)
        self.gate = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32), nn.Sigmoid())
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.stem(x).relu())
        b, c, _, _ = x.size()
        return self.head(x * self.gate(x.mean((2, 3)).view(b, c)).view(b, c, 1, 1))


def test_numbers_written_into_a_recorded_graph_are_read_off_a_pruned_copy() -> None:
    net = Squeezed()
    groups = find_groups(net)
    assert {"conv", "gate.0"} <= set(groups.widths)
    costs = ChannelCosts(net, groups.groups, SIZE, MACS)
    groups.prune(net, {"conv": range(20), "gate.0": range(3)})
    assert costs.total({"conv": 20, "gate.0": 3}) == count_macs(net, SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/nf_regnet_b0+fpn", "timm/pvt_v2_b0+fpn"])
def test_backbones_whose_graphs_hold_channel_numbers_cost_what_is_left_of_them(name: str) -> None:
    net, groups = subject(name)
    costs = ChannelCosts(net, groups.groups, SIZE, MACS)
    widths = {group.name: max(1, group.units * 2 // 3) for group in groups.groups}
    groups.prune(net, {name: range(count) for name, count in widths.items()})
    assert costs.total(widths) == count_macs(net, SIZE)


def test_reshaping_leaves_the_trace_as_it_was(ffnet: tuple[SegmentationNet, Groups, ChannelCosts]) -> None:
    net = ffnet[0]
    traced = trace(net, SIZE)
    ops = traced.ops
    fewer = {"head.1.weight": (2, *shapes(net)["head.1.weight"][1:]), "head.1.bias": (2,)}
    assert reshaped(traced, fewer).ops != ops
    assert traced.ops == ops == reshaped(traced, {}).ops


def test_a_groups_curve_is_what_the_total_loses(ffnet: tuple[SegmentationNet, Groups, ChannelCosts]) -> None:
    _, groups, costs = ffnet
    widths = {group.name: group.units - 3 for group in groups.groups}
    for group in groups.groups[::5]:
        counts = [group.units, group.units // 2, 1]
        curve = costs.curve(group.name, widths, counts)
        totals = np.array([costs.total({**widths, group.name: n}) for n in counts])
        assert np.diff(curve) == pytest.approx(np.diff(totals))
        own = costs.curve(group.name, widths, counts, own=True)
        assert (own <= curve + 1e-12).all()
        assert own[0] - own[-1] < curve[0] - curve[-1], "consumers save something too"


def test_an_expensive_first_answer_is_remembered() -> None:
    net, groups = subject("ffnet_22s_bcc_mobile", 0.25)
    asked: list[Signature] = []

    def counting(signatures: Sequence[Signature]) -> np.ndarray:
        asked.extend(signatures)
        return stair_costs(signatures)

    costs = ChannelCosts(net, groups.groups, SIZE, CostModel(counting))
    costs.total({})
    costs.total({})
    assert len(asked) == len(set(asked))


@settings(max_examples=60, deadline=None)
@given(stair=st.sampled_from([4, 8, 16, 32]), units=st.integers(70, 250), slope=st.floats(0.1, 10))
def test_the_width_of_stairs_is_found(stair: int, units: int, slope: float) -> None:
    counts = list(range(units, units - 65, -1))
    assert bundle(counts, [slope * -(-n // stair) for n in counts]) == stair
    assert bundle(counts, [slope * n for n in counts]) == 1
    assert bundle(counts, [1.0] * len(counts)) == 0
    # Vectorised multiples quick, everything between slow, as a runtime with blocked layouts has it.
    quick = min(stair, 16)
    assert bundle(counts, [slope * n * (1 if n % quick == 0 else 2) for n in counts]) == quick


def test_bundles_and_options_follow_the_devices_stairs(ffnet: tuple[SegmentationNet, Groups, ChannelCosts]) -> None:
    _, groups, costs = ffnet
    found = bundles(costs, groups.widths)
    assert set(found.values()) == {STAIR}
    assert options({"a": 20, "b": 8, "c": 3}, {"a": 8, "b": 8, "c": 8}) == {"a": [20, 16, 8], "b": [8], "c": [3]}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_every_method_fills_the_budget(
    method: str, share: float, ffnet: tuple[SegmentationNet, Groups, ChannelCosts]
) -> None:
    _, groups, costs = ffnet
    limit = share * costs.total({})
    problem = Problem(random_values(groups, 0), costs, options(groups.widths, bundles(costs, groups.widths)), limit)
    found = METHODS[method](problem)
    assert 0.97 * limit < costs.total(found) <= limit
    assert all(count in problem.options[name] for name, count in found.items())


@pytest.mark.parametrize("seed", range(2))
def test_knowing_the_device_keeps_more(seed: int, ffnet: tuple[SegmentationNet, Groups, ChannelCosts]) -> None:
    _, groups, costs = ffnet
    allowed = options(groups.widths, bundles(costs, groups.widths))
    problem = Problem(random_values(groups, seed), costs, allowed, 0.5 * costs.total({}))
    kept = {name: problem.share(method(problem)) for name, method in METHODS.items()}
    assert kept["halp-refined"] >= kept["halp"] - 1e-9
    assert kept["halp-refined"] >= kept["macs"] - 1e-3, kept
    for baseline in ("uniform", "magnitude"):
        assert kept["halp-refined"] > kept["halp"] - 1e-9 > kept[baseline], kept


def test_out_of_reach_says_how_far_pruning_goes(ffnet: tuple[SegmentationNet, Groups, ChannelCosts]) -> None:
    _, groups, costs = ffnet
    allowed = options(groups.widths, bundles(costs, groups.widths))
    for method in METHODS.values():
        with pytest.raises(OutOfReachError, match="least widths"):
            method(Problem(random_values(groups, 0), costs, allowed, 0.6))
