"""Predicting whole networks from whole networks, on a target whose runtime tells no times of blocks."""

from __future__ import annotations

from functools import partial

import pytest

from catchweight.errors import CatchweightError
from catchweight.nets import build_network
from catchweight.targets import Target
from catchweight.targets.latency.coarse import CoarsePredictor, WholeNetwork, WholeTable, profile_whole
from catchweight.targets.latency.profile import Subject
from catchweight.targets.tracing.blocks import Signature


def conv(channels: int, side: int) -> Signature:
    shape = (1, channels, side, side)
    return Signature("conv2d+relu", (shape,), shape, kernel=(3, 3))


def linear_world(count: int) -> list[WholeNetwork]:
    """Networks whose latency really is a cost a block and a cost a multiply-add."""
    found = []
    for number in range(count):
        signatures = tuple(conv(8 * (1 + (number * k) % 7), 16 + number % 5) for k in range(1, 2 + number % 6))
        ms = 0.1 + sum(0.02 + signature.macs / 2e7 for signature in signatures)
        found.append(WholeNetwork(f"n{number}", signatures, ms))
    return found


def test_a_linear_world_is_predicted_exactly_and_beyond_its_range() -> None:
    predictor = CoarsePredictor(linear_world(40))
    assert predictor.error.within5 > 0.9
    wide = conv(96, 32)
    prediction = predictor.signatures([wide])
    assert prediction.ms == pytest.approx(0.12 + wide.macs / 2e7, rel=0.1)
    assert prediction.low_ms <= prediction.ms <= prediction.high_ms


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(CatchweightError, match="too few"):
        CoarsePredictor(linear_world(5))


def test_profiling_measures_each_network_once_and_refuses_another_device(tmp_path) -> None:
    target = Target.parse("torch:cpu", threads=1)
    table = WholeTable(target, tmp_path)
    name = "timm/test_efficientnet+fpn:width=8"
    subjects = [Subject(name, size, partial(build_network, name, 3)) for size in ((64, 64), (64, 96))]
    first = profile_whole(table, subjects, seconds=0.05)
    assert (first.new, first.known, first.failed) == (2, 0, ())
    assert profile_whole(table, subjects, seconds=0.05).known == 2
    assert all(network.ms > 0 and network.signatures for network in table.networks)
    with pytest.raises(CatchweightError, match="measured elsewhere"):
        _ = WholeTable(Target.parse("torch:cpu", threads=2), tmp_path).networks
