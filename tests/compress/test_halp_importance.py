"""Taylor importance against its formula, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catchweight.compress import find_groups
from catchweight.compress.importance import TaylorImportance, magnitude_importance

SIZE = (64, 64)


class Residual(nn.Module):
    """Two layers whose outputs are added: one group, two norms."""

    def __init__(self, norms: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 3, padding=1)
        self.an = nn.BatchNorm2d(8) if norms else nn.Identity()
        self.bn = nn.BatchNorm2d(8) if norms else nn.Identity()
        self.head = nn.Conv2d(8, 3, 1)
        for module in (self.an, self.bn):
            for parameter in module.parameters():
                nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.head(self.an(self.a(y)) + self.bn(self.b(y)))


def backward(net: nn.Module, seed: int) -> None:
    net.zero_grad()
    net(torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed))).square().mean().backward()


def test_it_is_the_absolute_value_of_the_sum_over_layers_averaged_over_steps() -> None:
    net = Residual()
    groups = find_groups(net, SIZE).groups
    assert [group.makers for group in groups] == [("a", "b")]
    importance, wanted = TaylorImportance(net, groups), torch.zeros(8)
    for step in range(3):
        backward(net, step)
        importance.add()
        wanted += sum(n.weight * n.weight.grad + n.bias * n.bias.grad for n in (net.an, net.bn)).detach().abs() / 3
    found = importance.values()["a"]
    assert found == pytest.approx(wanted.numpy(), rel=1e-4)
    apart = sum((n.weight * n.weight.grad).abs() + (n.bias * n.bias.grad).abs() for n in (net.an, net.bn)).detach()
    assert not np.allclose(found, apart.numpy(), rtol=0.05), "layers of a group must be able to cancel"


def test_without_norms_filters_count() -> None:
    net = Residual(norms=False)
    importance = TaylorImportance(net, find_groups(net, SIZE).groups)
    backward(net, 0)
    importance.add()
    wanted = sum((m.weight * m.weight.grad).sum((1, 2, 3)) for m in (net.a, net.b)).detach().abs()
    assert importance.values()["a"] == pytest.approx(wanted.numpy(), rel=1e-4)


def test_it_predicts_what_the_loss_loses() -> None:
    """First order: scaling a channel's norms down a little changes the loss by so much of its importance."""
    net = Residual().double()
    group = find_groups(net, SIZE).groups
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        return net(image).square().mean()

    net.zero_grad()
    start = loss()
    start.backward()
    importance = TaylorImportance(net, group)
    importance.add()
    step = 1e-5
    for channel in range(8):
        with torch.no_grad():
            for norm in (net.an, net.bn):
                norm.weight[channel] *= 1 - step
                norm.bias[channel] *= 1 - step
            change = abs(float(loss() - start)) / step
            for norm in (net.an, net.bn):
                norm.weight[channel] /= 1 - step
                norm.bias[channel] /= 1 - step
        assert importance.values()["a"][channel] == pytest.approx(change, rel=1e-3, abs=1e-6)


def test_magnitude_is_the_filters_norm_over_its_groups_mean() -> None:
    net = Residual()
    norms = sum(m.weight.square().sum((1, 2, 3)) for m in (net.a, net.b)).sqrt().detach().numpy()
    found = magnitude_importance(net, find_groups(net, SIZE).groups)["a"]
    assert found == pytest.approx(norms / norms.mean(), rel=1e-5)


def test_without_gradients_all_count_nothing() -> None:
    net = Residual()
    importance = TaylorImportance(net, find_groups(net, SIZE).groups)
    net.zero_grad()
    importance.add()
    assert importance.values()["a"].tolist() == [0.0] * 8
