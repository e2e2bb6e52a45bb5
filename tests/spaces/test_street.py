"""The design's example, as printed: everything a space promises, and its member beside a network written by hand."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import catchweight.spaces as cw
from catchweight.errors import UsageError
from catchweight.front import Arch
from catchweight.spaces import BlockMap, Depth, ElasticConv, Kernel, OneOf, Width, Zoomed
from catchweight.spaces.testing import SpaceContract, image, made_up_ms, one_hot, trained
from catchweight.targets import Measurement, Target, count_macs
from catchweight.targets.latency.observe import Observation, Observed
from catchweight.targets.latency.predictor import LatencyPredictor
from catchweight.targets.latency.table import LatencyTable
from catchweight.targets.tracing.blocks import blocks
from catchweight.targets.tracing.graph import build_graph
from catchweight.targets.tracing.trace import trace


class Street(cw.Space):
    """Two-stage net with open width, depth and operator."""

    def __init__(self, classes: int):
        super().__init__()
        width = Width([16, 24, 32], name="width")
        self.stem = ElasticConv(3, width, kernel=3, stride=2)
        self.body = Depth([ElasticConv(width, width, kernel=Kernel([3, 5])) for _ in range(4)], least=1)
        self.mix = OneOf(plain=ElasticConv(width, width), zoomed=Zoomed(width))
        self.head = ElasticConv(width, classes, kernel=1)

    def forward(self, x):  # (B, 3, H, W) -> (B, classes, H/2, W/2)
        return self.head(self.mix(self.body(self.stem(x))))


def unit(channels_in: int, channels_out: int, kernel: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers[: 3 if act else 2])


class HandZoomed(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = unit(channels, channels, 3, act=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        half = F.interpolate(x, size=(height // 2, width // 2), mode="bilinear", align_corners=True)
        return F.relu(F.interpolate(self.conv(half), size=(height, width), mode="bilinear", align_corners=True))


class HandStreet(nn.Module):
    """Width 24, kernels 5 and 3, zoomed: what somebody who knows of no choices would write."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 24, 3, 2)
        self.body = nn.Sequential(unit(24, 24, 5), unit(24, 24, 3))
        self.mix = HandZoomed(24)
        self.head = unit(24, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.body(self.stem(x))))


ARCH = {
    "width": 24,
    "depth": 2,
    "op": "zoomed",
    "body.0.kernel": 5,
    "body.1.kernel": 3,
    "body.2.kernel": 3,
    "body.3.kernel": 3,
}


class TestStreet(SpaceContract):
    def make(self) -> cw.Space:
        torch.manual_seed(0)
        return Street(classes=11)


def test_its_architectures_read_as_printed() -> None:
    space = Street(classes=11)
    arch = space.sample(random.Random(0))
    assert isinstance(arch, Arch)
    assert {"width", "depth", "op"} < set(arch)
    assert {arch: 1}[space.canonical(arch.to_json())] == 1
    assert space.size() == 3 * 2 * (2 + 4 + 8 + 16)
    assert (space.smallest()["width"], space.smallest()["depth"]) == (16, 1)
    assert (space.largest()["width"], space.largest()["depth"], space.largest()["body.3.kernel"]) == (32, 4, 5)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, HandStreet]:
    torch.manual_seed(0)
    member, hand = trained(Street(classes=11), (32, 48)).subnet(ARCH), HandStreet().eval()
    hand.load_state_dict(member.state_dict(), strict=True)
    return member, hand


def test_a_member_loads_into_the_network_written_by_hand(pair: tuple[nn.Module, HandStreet]) -> None:
    member, hand = pair
    assert list(member.state_dict()) == list(hand.state_dict())
    torch.testing.assert_close(member(image((31, 45))), hand(image((31, 45))), rtol=0, atol=0)


def test_a_member_costs_what_the_network_written_by_hand_does(pair: tuple[nn.Module, HandStreet]) -> None:
    member, hand = pair
    assert count_macs(member, (32, 48)) == count_macs(hand, (32, 48))
    ours, theirs = ([b.signature for b in blocks(trace(net, (31, 45)), "fp32")] for net in pair)
    assert ours == theirs


def test_a_member_exports_to_the_same_graph(pair: tuple[nn.Module, HandStreet]) -> None:
    ours, theirs = (build_graph(net, (32, 48)).graph for net in pair)
    assert [node.op_type for node in ours.node] == [node.op_type for node in theirs.node]
    assert sorted(tuple(w.dims) for w in ours.initializer) == sorted(tuple(w.dims) for w in theirs.initializer)


def test_a_member_is_made_of_torch_layers(pair: tuple[nn.Module, HandStreet]) -> None:
    kinds = Counter(type(module).__name__ for module in pair[0].modules())
    assert kinds == {"Subnet": 1, "Sequential": 6, "Conv2d": 5, "BatchNorm2d": 5, "ReLU": 5, "Zoomed": 1}
    assert repr(pair[0]).startswith("Street(")


def test_expected_latency_is_the_predictors(tmp_path: Path) -> None:
    """A table of twelve profiled members: one-hot, the expectation is what the predictor says of the network."""
    space, rng, size = Street(classes=11), random.Random(0), (32, 48)
    table = LatencyTable(Target.parse("onnxruntime:cpu", threads=1), tmp_path)
    for number in range(12):
        signatures = space.signatures(space.sample(rng), size)
        ms = made_up_ms(signatures).tolist()
        timed = Measurement(*[0.1 + 1.2 * sum(ms)] * 5, 30, 1, 1, "made up")
        seen = tuple(Observed(s, "", t) for s, t in zip(signatures, ms, strict=True))
        table.add(f"member {number}", size, Observation(seen, 0.0, len(seen), timed))
    predictor = LatencyPredictor(table)
    latency = BlockMap(space, size, checks=4).latency(predictor.latencies, predictor.constant_ms)
    for _ in range(5):
        arch = space.sample(rng)
        truth = predictor.network(space.subnet(arch), size).ms
        assert float(latency(one_hot(space, arch))) == pytest.approx(truth, rel=1e-9)
    logits = space.relax()
    latency(logits.softmax()).backward()
    slopes = {name: v.grad for name, v in zip(logits.names, logits.logits, strict=True)}
    assert bool((slopes["width"].diff() > 0).all()), "wider is slower"


def test_wrong_architectures_name_the_repair() -> None:
    space = Street(classes=11)
    with pytest.raises(UsageError, match='unknown choice "widht": did you mean "width"'):
        space.subnet({**ARCH, "widht": 24})
    with pytest.raises(UsageError, match="missing: width, depth"):
        space.subnet({name: value for name, value in ARCH.items() if name not in ("width", "depth")})
    with pytest.raises(UsageError, match=r'"width" has no option 17: it is one of \[16, 24, 32\]'):
        space.activate({**ARCH, "width": 17})
    with pytest.raises(UsageError, match="3 probabilities"):
        space.activate({**ARCH, "depth": 4, "width": torch.ones(2) / 2})
    assert space.body.depth.value == 4, "a refused architecture leaves the space as it was"
    with pytest.raises(UsageError, match='unknown weights "random"'):
        space.subnet(ARCH, weights="random")


def test_activate_sets_and_inside_with_only_lends() -> None:
    space = Street(classes=11)
    with space.activate(ARCH):
        assert (space.body.depth.value, space.mix.op.value) == (2, "zoomed")
    assert (space.body.depth.value, space.mix.op.value) == (4, "plain")
    space.activate(ARCH)
    assert space.body.depth.value == 2
