"""The contract on spaces that have what the design's example lacks."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from catchweight.errors import CatchweightError, UsageError
from catchweight.spaces import (
    BlockMap,
    Depth,
    ElasticConv,
    ElasticDepthwise,
    Kernel,
    OneOf,
    Rescale,
    Residual,
    Resolution,
    Space,
    Width,
    Zoomed,
    basic_block,
)
from catchweight.spaces.elastic import Convert
from catchweight.spaces.testing import SpaceContract, image, one_hot


class Bridge(Space):
    """A small U-net: skip connection, concatenation, inverted bottleneck, tied widths, one norm per width."""

    def __init__(self) -> None:
        super().__init__()
        narrow, wide = Width([4, 6], name="narrow"), Width([6, 8, 12], name="wide")
        inside = wide.times(1.5)
        self.widths = {"narrow": narrow}
        self.stem = ElasticConv(3, narrow, stride=2, norm="switchable")
        self.down = ElasticConv(narrow, wide, kernel=Kernel([1, 3], name="down"), stride=2, norm="switchable")
        self.bottleneck = Residual(
            nn.Sequential(
                ElasticConv(wide, inside, 1, act="relu6"),
                ElasticDepthwise(inside, Kernel([3, 5], name="depthwise"), norm="switchable"),
                ElasticConv(inside, wide, 1, act="none"),
            ),
            act="none",
        )
        self.up = ElasticConv([wide, narrow, 3], narrow, norm="switchable", act="silu")
        self.head = ElasticConv(narrow, 5, 1, norm="none", act="none")

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 5, H/2, W/2)
        fine = self.stem(x)
        coarse = self.bottleneck(self.down(fine))
        size = fine.shape[-2:]
        pieces = [F.interpolate(coarse, size=size), fine, F.interpolate(x, size=size)]
        return self.head(self.up(torch.cat(pieces, 1)))


class Nested(Space):
    """Choices inside choices: an op that holds blocks, of which some hold ops; input resolution; learnt kernels."""

    def __init__(self) -> None:
        super().__init__()
        kernel = Kernel([1, 3, 5], name="kernel", transform=True)
        self.rescale = Rescale(Resolution([0.5, 1.0]))
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        inner = OneOf(name="inner", skip=nn.Identity(), conv=ElasticConv(6, 6, kernel))
        self.body = OneOf(
            name="outer",
            row=Depth([basic_block(6, 6, hidden=Width([3, 6], name="hidden")), inner], least=0),
            zoomed=Zoomed(6),
            separable=nn.Sequential(ElasticDepthwise(6, kernel), ElasticConv(6, 6, 1)),
        )
        self.head = ElasticConv(6, 4, 1, norm="none", act="none")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(self.rescale(x))))


class Scaled(nn.Module):
    """A third party's layer: it knows of no choice, but has a parameter."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


class Trunk(Space):
    def __init__(self, width: Width) -> None:
        super().__init__()
        self.stem = ElasticConv(3, width, stride=2)
        self.body = Depth([Scaled(ElasticConv(width, width)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


class Shared(Space):
    """A space inside a space, a layer used twice, helpers of the author's own class."""

    levels = 2

    def __init__(self) -> None:
        super().__init__()
        width = Width([4, 8], name="width")
        self.trunk = Trunk(width)
        self.ops = nn.ModuleList(OneOf(name=f"op{i}", a=Zoomed(width), b=ElasticConv(width, width)) for i in range(2))
        self.head = ElasticConv(width, self.classes, 1, norm="none", act="none")

    @property
    def classes(self) -> int:
        return 3

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        found = self.logits(x)
        for op, _ in zip(self.ops, range(self.levels), strict=True):
            x = op(x)
            found = found + self.logits(x) / self.classes
        return found


class TestBridge(SpaceContract):
    def make(self) -> Space:
        torch.manual_seed(0)
        return Bridge()


class TestNested(SpaceContract):
    sizes = ((32, 48), (45, 31))

    def make(self) -> Space:
        torch.manual_seed(0)
        return Nested()


class TestShared(SpaceContract):
    def make(self) -> Space:
        torch.manual_seed(0)
        return Shared()


def test_choices_out_of_use_are_at_their_first_option() -> None:
    space = Nested()
    values = {"resolution": 1.0, "kernel": 5, "inner": "conv", "hidden": 6, "outer": "zoomed", "depth": 2}
    assert dict(space.canonical(values)) == {
        "resolution": 1.0, "kernel": 1, "inner": "skip", "hidden": 3, "outer": "zoomed", "depth": 0,
    }  # fmt: skip
    shallow = space.canonical({**values, "outer": "row", "depth": 1})
    assert (shallow["hidden"], shallow["inner"], shallow["kernel"]) == (6, "skip", 1)
    # per resolution: zoomed 1, separable 3 kernels, rows: empty 1, one block 2, two blocks 2 * (skip + 3 kernels)
    assert space.size() == 2 * (1 + 3 + (1 + 2 + 2 * 4))


def test_an_attribute_that_was_a_choice_is_its_option() -> None:
    arch = Bridge().sample(random.Random(0))
    assert Bridge().subnet(arch).widths == {"narrow": arch["narrow"]}


def test_a_layer_used_twice_stays_one_layer() -> None:
    net = Shared().subnet(Shared().smallest())
    assert (net.classes, net.levels, type(net.trunk).__name__) == (3, 2, "Subnet")
    assert not hasattr(net, "sample")
    assert len([name for name, _ in net.named_parameters() if name.startswith("head")]) == 2


def test_fresh_weights_are_drawn_or_refused() -> None:
    torch.manual_seed(0)
    bridge, shared = Bridge(), Shared()
    arch = bridge.largest()
    torch.manual_seed(1)
    fresh, inherited = bridge.subnet(arch, weights="fresh"), bridge.subnet(arch)
    assert not torch.equal(fresh.stem[0].weight, inherited.stem[0].weight)
    assert float(fresh.stem[0].weight.detach().abs().max()) <= (3 * 9) ** -0.5, "torch's own bound"
    with pytest.raises(UsageError, match=r'"trunk.body.0" \(Scaled\) has parameters but no reset_parameters'):
        shared.subnet(shared.largest(), weights="fresh")


def test_building_a_subnet_moves_no_random_numbers() -> None:
    space = Bridge()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    space.subnet(space.largest())
    assert torch.equal(torch.rand(1), expected)


def test_frozen_layers_and_modes_are_kept() -> None:
    space = Bridge()
    space.stem.norms.eval()
    space.stem.conv.weight.requires_grad_(False)
    net = space.subnet(space.largest())
    assert [net.stem.training, net.stem[1].training, net.down[1].training] == [True, False, True]
    assert [net.stem[0].weight.requires_grad, net.down[0].weight.requires_grad] == [False, True]


def test_a_forward_that_calls_super_is_refused() -> None:
    class Child(Bridge):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    space = Child()
    with pytest.raises(UsageError, match=r"Child.forward calls super\(\)"):
        space.subnet(space.smallest())


def test_two_choices_of_one_name_are_refused() -> None:
    class Twice(Space):
        def __init__(self) -> None:
            super().__init__()
            self.a = ElasticConv(3, Width([4, 8], name="width"))
            self.b = ElasticConv(8, Width([4, 8], name="width"))

    with pytest.raises(UsageError, match='two choices of Twice are called "width"'):
        Twice().choices()


def test_relaxed_choices_mix_with_fixed_ones() -> None:
    torch.manual_seed(0)
    space = Bridge().eval()
    arch = space.largest()
    logits = space.relax().softmax()
    with torch.no_grad(), space.activate({**arch, "wide": logits["wide"]}):
        soft = space(image((32, 48)))
    with torch.no_grad(), space.activate({**one_hot(space, arch), "wide": logits["wide"]}):
        torch.testing.assert_close(space(image((32, 48))), soft)


def test_the_architecture_is_learnt_by_gradient() -> None:
    """Logits alone, weights held: the expected latency falls to the fastest member's."""
    space = Shared()
    latency = BlockMap(space, (32, 48), checks=4).latency(
        lambda signatures: torch.tensor([1.0 + s.macs / 1e5 for s in signatures], dtype=torch.float64)
    )
    logits = space.relax()
    optimiser = torch.optim.Adam(logits.parameters(), 0.3)
    for _ in range(60):
        optimiser.zero_grad()
        latency(logits.softmax()).backward()
        optimiser.step()
    best = space.canonical({name: space.choices()[name][int(v.argmax())] for name, v in logits.softmax().items()})
    decisions = space.decisions()
    every = {latency(decisions.sample(random.Random(seed))).item() for seed in range(60)}
    assert latency(best).item() == pytest.approx(min(every))


def test_the_contract_catches_a_member_with_the_wrong_weights() -> None:
    class Trailing(ElasticConv):
        def to_plain(self, convert: Convert) -> nn.Module:
            plain = super().to_plain(convert)
            plain[0].weight.data = self.conv.weight.data[-plain[0].out_channels :].clone()
            return plain

    class Wrong(Space):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Trailing(3, Width([4, 8]))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    class Contract(SpaceContract):
        def make(self) -> Space:
            return Wrong()

    with pytest.raises(AssertionError, match="not close"):
        Contract().test_a_subnet_computes_what_the_supernet_does()


def test_a_place_that_depends_on_too_much_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catchweight.spaces.block_map.MOST_ENTRIES", 3)
    with pytest.raises(CatchweightError, match='the blocks at "'):
        BlockMap(Shared(), (32, 48))
