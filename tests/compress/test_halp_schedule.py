"""The schedule: targets, momenta that are pruned along, and going on as if nothing had happened."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_halp_latency import stair_costs
from torch import Tensor, nn

from catchweight.compress import Groups, HalpSettings, OutOfReachError, find_groups
from catchweight.compress.latency import ChannelCosts, CostModel
from catchweight.compress.schedule import Pruner, restore, save, schedule, targets
from catchweight.errors import CatchweightError
from catchweight.nets import SegmentationNet, build_network

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


def test_a_latency_out_of_reach_is_known_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(OutOfReachError, match="pruning alone cannot"):
        run(pruner(least=0.9), tmp_path / "step.pt", share=0.3)


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
