"""The sandwich rule: who learns in a step, from what, and the same again on resume; statistics taken anew."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from catchweight.config import build
from catchweight.errors import UsageError
from catchweight.nets import build_network
from catchweight.spaces import ElasticPyramid
from catchweight.tasks.losses import LossConfig, SegmentationLoss
from catchweight.train.supernet import Sandwich, SupernetStep, recalibrate, resized

SIZES = ((64, 64), (64, 96))


@pytest.fixture
def space() -> ElasticPyramid:
    torch.manual_seed(0)
    return ElasticPyramid(3, SIZES, backbone="test_efficientnet")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 3, (4, 64, 96), dtype=torch.uint8, generator=generator)


def loss_of(space: ElasticPyramid, how: Sandwich, seed: int = 0) -> torch.Tensor:
    step = how(space.train(), SegmentationLoss(LossConfig(aux=0.0)), True)
    torch.manual_seed(seed)
    return step(*batch())


@pytest.mark.parametrize("how", [Sandwich(), Sandwich(members=4, share_batch=True), Sandwich(labels=0.5)])
def test_gradients_reach_every_weight_and_the_choices_stay_as_they_were(space, how) -> None:
    before = {name: choice.state for name, choice in _choices(space).items()}
    loss_of(space, how).backward()
    without = [name for name, parameter in space.named_parameters() if parameter.grad is None]
    assert not without
    assert {name: choice.state for name, choice in _choices(space).items()} == before


def test_the_same_seed_draws_the_same_members_and_another_one_others(space) -> None:
    losses = [loss_of(copy.deepcopy(space), Sandwich(), seed).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_without_weights_only_the_largest_member_learns(space) -> None:
    space.eval()
    alone = _evaluating(space, 0, Sandwich(members=0, distill=0.0))
    images, masks = batch()
    loss = SegmentationLoss(LossConfig(aux=0.0))
    with torch.no_grad(), space.activate(space.largest()):
        expected = loss(
            space.train_logits(space.normalise(images).contiguous(memory_format=torch.channels_last)), masks
        )
    assert alone == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("members", "share"), [(1, False), (2, False), (2, True), (4, True)])
def test_uniform_sampling_trains_random_members_alone_on_the_labels(space, members: int, share: bool) -> None:
    space.eval()
    how, seed = Sandwich(rule="uniform", members=members, share_batch=share), 3
    found = _evaluating(space, seed, how)
    torch.manual_seed(seed)
    rng = random.Random(int(torch.randint(2**62, (1,))))
    images, masks = batch()
    loss, expected = SegmentationLoss(LossConfig(aux=0.0)), 0.0
    for number in range(members):
        part = slice(4 * number // members, 4 * (number + 1) // members) if share else slice(None)
        arch = space.sample(rng)
        x = resized(space.normalise(images[part]).contiguous(memory_format=torch.channels_last), arch)
        with torch.no_grad(), space.activate(arch):
            expected += float(loss(space.train_logits(x), masks[part])) / (members if share else 1)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("members", [3, 5, 6, 7, 11])
def test_a_shared_batch_counts_once_however_many_members_share_it(space, members: int) -> None:
    """The weights of the parts add up to one, and every image is seen."""
    step = SupernetStep(
        space, SegmentationLoss(LossConfig(aux=0.0)), Sandwich(rule="uniform", members=members, share_batch=True)
    )
    seen: list[int] = []

    def learn(arch, x, masks, teacher):
        seen.append(len(x))
        return torch.ones(())

    step._learn = learn
    images, masks = batch()
    assert float(step(images, masks)) == pytest.approx(1.0)
    assert len(seen) == members
    assert sum(seen[: len(images)]) == len(images)


def test_uniform_sampling_leaves_the_rest_of_the_supernet_alone(space) -> None:
    torch.manual_seed(0)
    arch = space.sample(random.Random(int(torch.randint(2**62, (1,)))))
    loss_of(space, Sandwich(rule="uniform", members=1), seed=0).backward()
    moved = sum(int((p.grad != 0).sum()) for p in space.parameters() if p.grad is not None)
    assert 0 < moved <= sum(p.numel() for p in space.subnet(arch).parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"members": 0}, "1 or more"), ({"labels": 1.0}, "no teacher"), ({"distill": 0.0}, "no teacher")],
)
def test_settings_without_effect_in_uniform_sampling_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(Sandwich, {"rule": "uniform", **wrong})


def test_a_supernet_begun_before_there_was_a_rule_goes_on() -> None:
    before = {"kind": "sandwich", "members": 2, "share_batch": False, "distill": 1.0, "labels": 0.0, "temperature": 1.0}
    assert Sandwich().describe() == before
    assert Sandwich(rule="uniform").describe() == {**before, "rule": "uniform"}


def test_a_plain_network_is_refused() -> None:
    net = build_network("timm/test_efficientnet+fpn:width=8", 3)
    with pytest.raises(UsageError, match="plain network"):
        Sandwich()(net, SegmentationLoss(LossConfig()), True)


def test_images_are_brought_to_the_members_size(space) -> None:
    x = torch.rand(1, 3, 64, 96)
    arch = space.canonical({**space.largest(), "size": [64, 64]})
    assert resized(x, arch).shape == (1, 3, 64, 64)
    assert resized(x, space.largest()) is x


def test_recalibrated_statistics_are_those_of_the_images() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
    batches = [torch.randn(4, 3, 9, 9) * 3 + 1 for _ in range(3)]
    recalibrate(net.eval(), batches)
    with torch.no_grad():
        maps = torch.cat([net[0](x) for x in batches])
    torch.testing.assert_close(net[1].running_mean, maps.mean((0, 2, 3)))
    assert net[1].momentum == 0.1
    assert not net[1].training


def _choices(space: ElasticPyramid) -> dict:
    from catchweight.spaces.elastic import named_choices

    return named_choices(space)


def _evaluating(space: ElasticPyramid, seed: int, how: Sandwich | None = None) -> float:
    step = (how or Sandwich())(space, SegmentationLoss(LossConfig(aux=0.0)), True).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        return float(step(*batch()))
