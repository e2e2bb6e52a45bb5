"""Scores of a supernet's members: weights inherited, statistics their own, the supernet untouched."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from catchweight.data import open_data
from catchweight.data.scenes import make_scenes
from catchweight.search.one_shot import SupernetScore, spaced
from catchweight.spaces import ElasticPyramid


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(make_scenes(tmp_path_factory.mktemp("one_shot") / "scenes", {"train": 6, "val": 3}, size=(64, 96)))


@pytest.fixture(scope="module")
def score(data) -> SupernetScore:
    torch.manual_seed(0)
    space = ElasticPyramid(len(data.classes), ((64, 64), (64, 96)), backbone="test_efficientnet")
    return SupernetScore(space, data, images=(4, 2), batch=2)


def test_scores_repeat_and_leave_the_supernet_alone(score) -> None:
    before = copy.deepcopy(score.space.state_dict())
    rng = random.Random(0)
    for arch in (score.space.smallest(), score.space.largest(), score.space.sample(rng)):
        first = score(arch)
        assert 0 <= first <= 1
        assert score(arch) == first
    assert all(torch.equal(value, before[name]) for name, value in score.space.state_dict().items())


def test_a_member_has_inherited_weights_and_statistics_of_its_own(score) -> None:
    arch = score.space.largest()
    member, plain = score.member(arch).state_dict(), score.space.subnet(arch).state_dict()
    assert all(torch.equal(member[name], value) for name, value in plain.items() if name.endswith("weight"))
    assert any(not torch.equal(member[name], value) for name, value in plain.items() if name.endswith("running_mean"))


def test_only_the_images_asked_for_are_read(score) -> None:
    assert {split: len(records) for split, records in score.data.splits.items()} == {"train": 4, "val": 2}


def test_spaced_takes_from_all_over() -> None:
    assert spaced(range(100), 4) == (0, 25, 50, 75)
    assert spaced([1, 2], 5) == (1, 2)
