"""The schedule: targets, momenta that are pruned along, and going on as if nothing had happened."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_halp_latency import stair_costs
from torch import Tensor, nn

from catchweight.compress import Groups, HalpSettings, OutOfReachError, find_groups
from catchweight.compress.landing import SECONDS, Line, Scales, calibrated, land
from catchweight.compress.latency import ChannelCosts, CostModel
from catchweight.compress.schedule import Pruner, restore, save, schedule, targets
from catchweight.errors import CatchweightError
from catchweight.nets import SegmentationNet, build_network
from catchweight.targets.tracing.blocks import blocks
from catchweight.targets.tracing.trace import trace

SIZE = (64, 64)


class KilledError(Exception):
    pass


def loss(net: nn.Module, iteration: int) -> Tensor:
    generator = torch.Generator().manual_seed(iteration)
    return F.cross_entropy(
        net(torch.randn(2, 3, *SIZE, generator=generator)), torch.randint(0, 4, (2, *SIZE), generator=generator)
    )


def network() -> SegmentationNet:
    torch.manual_seed(0)
    return build_network("timm/test_resnet+fpn:width=32,levels=2-3", 4)


@cache
def knowledge() -> tuple[Groups, ChannelCosts]:
    """Groups and costs of the network: the same for every pruning of it."""
    groups = find_groups(network())
    return groups, ChannelCosts(network(), groups.groups, SIZE, CostModel(stair_costs))


def pruner(method: str = "halp-refined", **changes: object) -> Pruner:
    net, (groups, costs) = network(), knowledge()
    values = {"method": method, "steps": 4, "interval": 2, **changes}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    return Pruner(net, groups, costs, loss, optimizer, HalpSettings.model_validate(values))


def run(subject: Pruner, path: Path, steps: int = 99, share: float = 0.5) -> list[str]:
    """The schedule, killed after so many steps have been saved."""
    lines: list[str] = []

    def saving() -> None:
        save(subject, path)
        if subject.state.step == steps:
            raise KilledError

    end = share * subject.costs.total({})
    schedule(subject, end, lines.append, saving)
    return lines


def test_targets_fall_by_the_same_factor() -> None:
    found = targets(16.0, 2.0, 3)
    assert found == pytest.approx([8.0, 4.0, 2.0])


def test_it_prunes_in_steps_and_tells_them(tmp_path: Path) -> None:
    subject = pruner()
    whole = subject.predicted
    lines = run(subject, tmp_path / "step.pt")
    rows = subject.state.history
    assert [row["step"] for row in rows] == [1, 2, 3]  # the fourth is the landing's
    assert all(row["predicted_ms"] <= row["limit"] for row in rows)
    assert rows[-1]["limit"] == pytest.approx(whole * 0.5**0.75)
    assert 0 < subject.state.share < 1
    assert len(lines) == 3
    assert "left" in lines[0]
    assert {name: len(kept) for name, kept in subject.state.kept.items()} == subject.groups.widths


def test_steps_whose_time_is_up_are_left_to_the_landing() -> None:
    subject, lines = pruner(), []
    whole = subject.predicted
    schedule(subject, 0.5 * whole, lines.append, lambda: None, deadline=time.monotonic())
    assert (subject.state.step, subject.predicted) == (0, whole)
    assert "stopped before step 1 of 4" in lines[0]
    widths = subject.plan(subject.train_interval(), 0.5 * whole)  # as the landing does
    assert subject.costs.total(widths) <= 0.5 * whole


def test_gradients_of_frozen_weights_do_not_add_up() -> None:
    """The optimiser does not know them, but their importance is taken: it must be that of each iteration."""
    alone, subject = pruner(interval=1), pruner(interval=3)
    name = subject.groups.groups[-1].name
    known = {id(p) for p in subject.net.get_submodule(name).parameters()}
    trained = [p for p in subject.net.parameters() if id(p) not in known]
    subject.optimizer = torch.optim.SGD(trained, lr=0.0)
    subject.loss = lambda net, iteration: loss(net, 0)
    assert subject.train_interval().importance[name] == pytest.approx(alone.train_interval().importance[name], rel=1e-3)
    assert all(p.grad is None for p in subject.net.parameters())


def test_momenta_are_those_of_the_channels_that_stay() -> None:
    subject = pruner()
    interval = subject.train_interval()
    name = subject.groups.groups[0].makers[0]
    weight = subject.net.get_submodule(name).weight
    before = subject.optimizer.state[weight]["exp_avg"].clone()
    widths = {group.name: max(1, group.units // 2) for group in subject.groups.groups}
    subject.apply(interval, widths)
    kept = subject.state.kept[subject.groups.groups[0].name]
    after = subject.optimizer.state[weight]["exp_avg"]
    assert after.shape == weight.shape
    assert torch.equal(after.sum((2, 3))[:, :1], before[kept].sum((2, 3))[:, :1])
    subject.train_interval()  # and the optimiser goes on with them


@pytest.mark.parametrize("method", ["halp-refined", "magnitude"])
def test_a_killed_pruning_goes_on_to_the_same_end(method: str, tmp_path: Path) -> None:
    straight = pruner(method)
    run(straight, tmp_path / "straight.pt")
    with pytest.raises(KilledError):
        run(pruner(method), tmp_path / "step.pt", steps=2)
    again = pruner(method)
    restore(again, tmp_path / "step.pt")
    assert again.state.step == 2
    run(again, tmp_path / "step.pt")
    assert again.state.kept == straight.state.kept
    assert again.state.share == pytest.approx(straight.state.share)
    for (name, one), other in zip(again.net.state_dict().items(), straight.net.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    subject = pruner()
    save(subject, tmp_path / "step.pt")
    subject.state.kept["rubbish"] = [0]
    content = torch.load(tmp_path / "step.pt", weights_only=True)
    content["state"] = {"steps": 1}
    torch.save(content, tmp_path / "step.pt")
    with pytest.raises(CatchweightError, match="no pruning of this network"):
        restore(pruner(), tmp_path / "step.pt")


def test_every_group_keeps_its_least_share(tmp_path: Path) -> None:
    subject = pruner(least=0.5)
    full = subject.groups.widths
    run(subject, tmp_path / "step.pt", share=0.75)
    assert all(units >= full[name] / 2 for name, units in subject.groups.widths.items())


class Formula:
    """Scales of a device whose latency is a formula of the network's blocks, 3 ms beside what is predicted."""

    def of(self, net: nn.Module, seconds: float = 0.0) -> float:
        return 3 + float(stair_costs([block.signature for block in blocks(trace(net, SIZE))]).sum())


class NoisyFormula(Formula):
    """The same, off by some per cent each time; by less where it is measured longer."""

    def __init__(self, noise: float, seed: int) -> None:
        self.noise, self.draw = noise, np.random.default_rng(seed)

    def of(self, net: nn.Module, seconds: float = SECONDS) -> float:
        return super().of(net) * float(np.exp(self.draw.normal(0, self.noise * (SECONDS / seconds) ** 0.5)))


def test_the_line_between_two_measured_networks() -> None:
    line = Line()
    line.add(10.0, 100.0)
    assert line.predicted(5.0) == 50.0  # of one point, in proportion
    line.add(2.0, 20.0)
    assert line.predicted(6.0) == 60.0
    line.add(6.0, 50.0)
    assert line.predicted(4.0) == 35.0
    line.add(7.0, 10.0)  # noise: slower and yet predicted quicker; the nearest decides
    assert line.predicted(6.2) == pytest.approx(50 * 6.2 / 6)


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_the_landing_is_on_the_measured_latency(share: float, tmp_path: Path) -> None:
    subject, scales = pruner(close=0.05), cast(Scales, Formula())
    limit = share * scales.of(subject.net)
    line = calibrated(subject, scales, limit)
    assert line.predicted(limit) == pytest.approx(limit - 3)
    schedule(subject, line.predicted(limit), lambda said: None, lambda: None)
    landing = land(subject, scales, line, limit, lambda said: None)
    assert 0.95 * limit <= landing.latency_ms <= limit
    assert scales.of(subject.net) == pytest.approx(landing.latency_ms)
    assert {name: units for name, (_, units) in landing.widths.items()} == subject.groups.widths


def test_the_landing_uses_its_attempts_where_measurements_are_noisy(tmp_path: Path) -> None:
    """A plan that comes up again is no reason to stop: the aim moves on."""
    truth, off, tries = cast(Scales, Formula()), [], []
    for seed in range(6):
        subject, scales = pruner(close=0.03, interval=1, steps=1), cast(Scales, NoisyFormula(0.05, seed))
        limit = 0.5 * truth.of(subject.net)
        landing = land(subject, scales, calibrated(subject, scales, limit), limit, lambda said: None)
        off.append(truth.of(subject.net) / limit - 1)
        tries.append(len(landing.tried))
    assert max(off) < 0.08, off
    assert sorted(off)[3] < 0.03, "half of them hardly over the limit"
    assert max(tries) > 2


def test_one_that_was_lucky_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured again and at length it is over the limit, so another one is."""
    truth, subject = cast(Scales, Formula()), pruner(close=0.01, interval=1, steps=1)
    limit = 0.5 * truth.of(subject.net)

    class Lucky(Formula):
        def of(self, net: nn.Module, seconds: float = SECONDS) -> float:
            real = super().of(net)
            return 0.9 * real if seconds == SECONDS and limit < real < 1.1 * limit else real

    landing = land(subject, cast(Scales, Lucky()), calibrated(subject, truth, limit), limit, lambda said: None)
    assert landing.latency_ms <= limit
    assert truth.of(subject.net) == pytest.approx(landing.latency_ms)


def test_a_latency_out_of_reach_is_known_before_any_training() -> None:
    with pytest.raises(OutOfReachError, match=r"cannot reach 3.1 ms: .* still takes"):
        calibrated(pruner(), cast(Scales, Formula()), 3.1)


def test_a_loss_that_is_not_a_number_is_named() -> None:
    subject = pruner()
    subject.loss = lambda net, iteration: net(torch.randn(1, 3, *SIZE)).mean() * float("nan")
    with pytest.raises(CatchweightError, match="the loss became nan"):
        subject.train_interval()


def test_a_network_without_prunable_channels_says_why() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.only(x)

    net = Bare()
    groups = find_groups(net, SIZE)
    costs = ChannelCosts(net, groups.groups, SIZE, CostModel(stair_costs))
    with pytest.raises(CatchweightError, match="no channel of Bare can be pruned: only: first layer"):
        Pruner(net, groups, costs, loss, torch.optim.SGD(net.parameters(), 0.1), HalpSettings())
