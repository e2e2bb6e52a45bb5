"""Schedule, parameter groups and the average of weights against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from catchweight.nets import build_network
from catchweight.train.ema import Ema
from catchweight.train.optim import build_optimizer, lr_factor, parameter_groups, set_lr
from catchweight.train.recipes import Recipe, finetune, scratch


def factors(recipe: Recipe, steps: int = 100, warmup: int = 10) -> list[float]:
    return [lr_factor(step, steps, warmup, recipe) for step in range(steps)]


def test_warm_up_rises_linearly_to_the_peak() -> None:
    values = factors(Recipe(schedule="poly"))
    assert values[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert max(values) == values[10] == 1.0


def test_poly_and_cosine_fall_as_published() -> None:
    assert factors(Recipe(schedule="poly", poly_power=0.9))[55] == pytest.approx(0.5**0.9)
    assert factors(Recipe(schedule="cosine"))[55] == pytest.approx(0.5)
    assert factors(Recipe(schedule="constant"))[99] == 1.0
    assert factors(Recipe(schedule="cosine", lr_end=0.1))[99] == pytest.approx(0.1, abs=2e-3)


def test_warm_up_takes_at_most_a_third() -> None:
    assert factors(Recipe(), steps=9, warmup=100)[3] == 1.0


@pytest.mark.parametrize("recipe", [scratch(), finetune()])
def test_recipes_describe_every_field(recipe: Recipe) -> None:
    for part in (recipe, recipe.loss):
        assert all(field.description for field in type(part).model_fields.values())


def test_norms_biases_and_fusion_weights_do_not_decay_and_the_backbone_has_its_own_rate() -> None:
    net = build_network("timm/test_resnet+bifpn", 3)
    net.pretrained = True
    recipe = Recipe(backbone_lr_scale=0.25, weight_decay=0.1)
    groups = parameter_groups(net, recipe)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2), names[id(parameter)]
            assert (group["lr_scale"] == 0.25) == names[id(parameter)].startswith("backbone."), names[id(parameter)]
    optimizer = build_optimizer(net, recipe)
    set_lr(optimizer, 0.2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.2, 0.05}


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_one_step_is_torchs_plain_optimiser_also_in_channels_last(kind: str) -> None:
    def step(make: object) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
        optimizer = make(net)  # type: ignore[operator]
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
        return net.weight.detach()

    recipe = Recipe(optimizer=kind, lr=0.01, weight_decay=0.1)
    plain = {
        "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1, foreach=False),
        "sgd": lambda net: torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=False
        ),
    }[kind]
    torch.testing.assert_close(step(lambda net: build_optimizer(net, recipe)), step(plain))


def test_ema_averages_weights_with_a_warm_up_and_averages_statistics() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        net[0].weight.fill_(0.0)
    ema = Ema(net, decay=0.5)
    expected = 0.0
    for step in range(20):
        with torch.no_grad():
            net[0].weight.fill_(step + 1.0)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1.0)
    assert ema.net[0].weight.item() == pytest.approx(expected, rel=1e-5)
    before = ema.net[1].running_var.clone()
    net(3 * torch.randn(8, 1))
    ema.update(20)
    torch.testing.assert_close(ema.net[1].running_var, 0.5 * before + 0.5 * net[1].running_var)
    ema.copy_counters()
    assert ema.net[1].num_batches_tracked == 1
    assert not ema.net.training


def test_without_averaging_the_weights_are_followed_exactly() -> None:
    net = nn.Linear(2, 2)
    ema = Ema(net, decay=0.0)
    with torch.no_grad():
        net.weight.add_(1)
    ema.update(0)
    assert torch.equal(ema.net.weight, net.weight)
