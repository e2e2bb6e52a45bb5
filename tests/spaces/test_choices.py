"""Choices and the layers that read them, one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from catchweight.errors import UsageError
from catchweight.spaces import (
    Choice,
    Depth,
    ElasticConv,
    ElasticDepthwise,
    Kernel,
    OneOf,
    Relaxation,
    Rescale,
    Resolution,
    Space,
    Width,
    Zoomed,
    basic_block,
)
from catchweight.spaces.elastic import to_plain
from catchweight.spaces.testing import image


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def features(channels: int, side: int = 9) -> torch.Tensor:
    return image((side, side))[:, :1].repeat(1, channels, 1, 1) * torch.arange(1, channels + 1).view(-1, 1, 1)


# --- choices


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice([]), "one or more distinct options"),
        (lambda: Choice(["a", "a"], "op"), 'choice "op" needs one or more distinct'),
        (lambda: Width([0, 8]), "positive numbers of channels"),
        (lambda: Kernel([3, 4]), "kernels are odd"),
        (lambda: Resolution([0.0, 1.0]), "positive shares"),
        (lambda: Width([8, 16], tie=Width([8, 16, 24])), "equally many options"),
        (lambda: Kernel([5, 3], tie=Width([16, 32])), r"paired one by one and must ascend, but got \[5, 3\]"),
        (lambda: Depth([nn.Identity()], least=2), "least from 0 to 1"),
        (lambda: OneOf(train=nn.Identity()), 'cannot be called "train"'),
        (lambda: ElasticConv(3, 8, 2), "kernels are odd"),
        (lambda: ElasticConv(Width([4, 8]), 8, groups=2), "needs fixed widths"),
        (lambda: ElasticConv(3, 8, norm="batch"), 'unknown norm "batch"'),
        (lambda: ElasticConv(3, 8, act="rulu"), 'unknown activation "rulu": did you mean "relu"'),
        (lambda: Relaxation({"a": (1, 2)}).softmax(0), "temperature is positive"),
        (lambda: Width([4, 8]).relax(torch.tensor([0.5, 0.9])), "sum 1.4"),
    ],
)
def test_senseless_choices_are_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_choices_of_every_kind_follow_their_leader():
    width, first = Width([8, 16]), OneOf(a=nn.Identity(), b=nn.ReLU())
    stage = Depth([nn.Identity(), nn.ReLU()], least=1)
    kernel, ops = Kernel([3, 5], tie=width), OneOf(tie=first, narrow=nn.Identity(), wide=nn.ReLU())
    depth = Depth([nn.ReLU(), nn.ReLU()], least=1, tie=stage)
    for place in (0, 1, 0):
        for leader in (width, first.op, stage.depth):
            leader.fix(place)
        assert (kernel.value, ops.op.value, depth.depth.value) == ((3, 5)[place], ("narrow", "wide")[place], place + 1)


def test_ordered_options_are_sorted_and_the_largest_is_the_first_held() -> None:
    width, kernel = Width([32, 16, 24]), Kernel([5, 3])
    assert (width.options, width.value, kernel.options, kernel.value) == ((16, 24, 32), 32, (3, 5), 5)
    assert OneOf(a=nn.Identity(), b=nn.Identity()).op.value == "a"


def test_tied_choices_move_together() -> None:
    width = Width([16, 24, 32])
    inside, further = width.times(4), width.times(1.5).times(2)
    inside.fix(1)
    assert (width.value, inside.value, further.value) == (24, 96, 72)
    width.relax(torch.tensor([0.0, 0.0, 1.0]))
    assert (inside.value, inside.score, inside.mixture) == (128, torch.tensor(1.0), None)
    width.relax(torch.tensor([0.5, 0.25, 0.25]))
    assert torch.equal(inside.mask()[[0, 63, 64, 95, 96]], torch.tensor([1, 1, 0.5, 0.5, 0.25]))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_a_mask_is_the_probability_that_a_channel_is_there(options: list[int], seed: int) -> None:
    width = Width(options)
    probabilities = torch.rand(len(options), generator=torch.Generator().manual_seed(seed)).softmax(0)
    width.relax(probabilities)
    mask = width.mask()
    if mask is None:
        assert len(options) == 1
        return
    assert float(mask.sum()) == pytest.approx(float(probabilities @ torch.tensor(width.options).float()), rel=1e-5)
    assert bool((mask.diff() <= 1e-6).all())


# --- layers


def test_a_narrow_convolution_is_the_leading_slice_of_the_widest() -> None:
    a, b = Width([2, 4], "a"), Width([3, 6], "b")
    layer = ElasticConv(a, b, Kernel([3, 5]), norm="none", act="none")
    a.fix(0)
    b.fix(0)
    layer.kernel.fix(0)
    expected = F.conv2d(features(2), layer.conv.weight[:3, :2, 1:4, 1:4], layer.conv.bias[:3], padding=1)
    torch.testing.assert_close(layer(features(2)), expected, rtol=0, atol=0)
    plain = to_plain(layer)
    assert type(plain) is nn.Conv2d
    assert (plain.in_channels, plain.out_channels, plain.kernel_size, plain.padding) == (2, 3, (3, 3), (1, 1))
    torch.testing.assert_close(plain(features(2)), expected, rtol=0, atol=0)


def test_gradients_stay_inside_the_slice() -> None:
    width = Width([2, 4])
    layer = ElasticConv(3, width, Kernel([1, 3]), norm="none", act="none")
    width.fix(0)
    layer.kernel.fix(0)
    layer(features(3)).sum().backward()
    reached = layer.conv.weight.grad != 0
    assert bool(reached[:2, :, 1, 1].all())
    assert int(reached.sum()) == 2 * 3


def test_every_part_of_a_concatenation_is_sliced_for_itself() -> None:
    a, b = Width([2, 4], "a"), Width([1, 3], "b")
    layer = ElasticConv([a, 2, b], 5, 1, norm="none", act="none")
    a.fix(0)
    b.fix(0)
    kept = [0, 1, 4, 5, 6]
    expected = F.conv2d(features(5), layer.conv.weight[:, kept], layer.conv.bias)
    torch.testing.assert_close(layer(features(5)), expected)
    assert to_plain(layer).weight.shape == (5, 5, 1, 1)


def test_one_norm_per_width_keeps_statistics_apart() -> None:
    width = Width([2, 4])
    layer = ElasticConv(3, width, norm="switchable")
    width.fix(0)
    layer(features(3))
    narrow, wide = layer.norms
    assert (narrow.num_features, wide.num_features) == (2, 4)
    assert narrow.num_batches_tracked == 1
    assert wide.num_batches_tracked == 0
    assert torch.equal(to_plain(layer)[1].running_mean, narrow.running_mean)


def test_a_shared_norm_moves_the_leading_statistics_only() -> None:
    width = Width([2, 4])
    layer = ElasticConv(3, width)
    width.fix(0)
    layer(features(3))
    assert bool(layer.norms[0].running_mean[:2].all())
    assert not bool(layer.norms[0].running_mean[2:].any())


def test_groups_dilation_and_stride_are_torchs() -> None:
    layer = ElasticConv(4, 8, 3, 2, groups=2, dilation=2, norm="none", act="none")
    plain = to_plain(layer)
    assert (plain.groups, plain.dilation, plain.stride, plain.padding) == (2, (2, 2), (2, 2), (2, 2))
    torch.testing.assert_close(layer(features(4)), plain(features(4)))


def test_a_depthwise_convolution_has_one_filter_a_channel() -> None:
    width = Width([2, 5])
    layer = ElasticDepthwise(width, Kernel([3, 7]), norm="none", act="none")
    width.fix(0)
    layer.kernel.fix(0)
    plain = to_plain(layer)
    assert (plain.groups, plain.weight.shape) == (2, (2, 1, 3, 3))
    torch.testing.assert_close(layer(features(2)), plain(features(2)))


def test_a_learnt_kernel_goes_through_its_matrices_from_the_largest_down() -> None:
    layer = ElasticConv(2, 2, Kernel([1, 3, 5], transform=True), norm="none", act="none")
    nn.init.normal_(layer.transforms["3"].weight)
    nn.init.normal_(layer.transforms["1"].weight)
    layer.kernel.fix(0)
    centre = layer.conv.weight[:, :, 1:4, 1:4].flatten(2) @ layer.transforms["3"].weight.T
    expected = centre[..., 4] * layer.transforms["1"].weight[0, 0]
    torch.testing.assert_close(to_plain(layer).weight[..., 0, 0], expected)
    torch.testing.assert_close(layer(features(2)), to_plain(layer)(features(2)))


def test_mixed_kernels_are_the_mixture_of_convolutions() -> None:
    layer = ElasticConv(2, 3, Kernel([1, 3, 5]), stride=2, norm="none", act="none")
    weights = torch.tensor([0.2, 0.3, 0.5])
    parts = []
    for index in range(3):
        layer.kernel.fix(index)
        parts.append(layer(features(2)) * weights[index])
    layer.kernel.relax(weights)
    torch.testing.assert_close(layer(features(2)), sum(parts))


@pytest.mark.parametrize("norm", ["shared", "switchable", "none"])
def test_mixed_widths_are_the_mixture_of_padded_widths(norm: str) -> None:
    width = Width([2, 3, 5])
    layer = ElasticConv(3, width, norm=norm).eval()
    weights = torch.tensor([0.2, 0.3, 0.5])
    parts = []
    for index, channels in enumerate(width.options):
        width.fix(index)
        parts.append(F.pad(layer(features(3)), [0, 0, 0, 0, 0, 5 - channels]) * weights[index])
    width.relax(weights)
    torch.testing.assert_close(layer(features(3)), sum(parts))


def test_mixed_depths_and_ops_are_the_mixture_of_their_outputs() -> None:
    x, weights = features(2), torch.tensor([0.2, 0.3, 0.5])
    row = Depth([ElasticConv(2, 2), ElasticConv(2, 2)], least=0).eval()
    row.depth.relax(weights)
    first = row.blocks[0](x)
    torch.testing.assert_close(row(x), 0.2 * x + 0.3 * first + 0.5 * row.blocks[1](first))
    one = OneOf(skip=nn.Identity(), conv=ElasticConv(2, 2), zoomed=Zoomed(2)).eval()
    one.op.relax(weights)
    torch.testing.assert_close(one(x), 0.2 * x + 0.3 * one.conv(x) + 0.5 * one.zoomed(x))


def test_resolutions_scale_and_mix_at_the_largest() -> None:
    layer = Rescale(Resolution([0.5, 1.0]))
    layer.resolution.fix(0)
    assert layer(features(2)).shape == (2, 2, 4, 4)
    assert type(to_plain(layer)) is nn.Upsample
    layer.resolution.relax(torch.tensor([0.5, 0.5]))
    small = F.interpolate(features(2), scale_factor=0.5, mode="bilinear")
    back = F.interpolate(small, size=(9, 9), mode="bilinear")
    torch.testing.assert_close(layer(features(2)), (features(2) + back) / 2)
    layer.resolution.fix(1)
    assert type(to_plain(layer)) is nn.Identity


def test_a_zoomed_convolution_takes_the_smallest_maps() -> None:
    zoomed = Zoomed(2).eval()
    assert [zoomed(features(2, side)).shape[-1] for side in (1, 2, 3)] == [1, 2, 3]
    plain = ElasticConv(2, 2)
    assert sum(p.numel() for p in zoomed.parameters()) == sum(p.numel() for p in plain.parameters())


def test_a_block_projects_its_shortcut_only_where_the_shape_changes() -> None:
    width = Width([4, 8])
    assert type(basic_block(width, width).shortcut) is nn.Identity
    assert type(basic_block(4, 4).shortcut) is nn.Identity
    for block in (basic_block(width, Width([4, 8])), basic_block(4, 8), basic_block(4, 4, stride=2)):
        assert type(block.shortcut) is ElasticConv
    net = basic_block(4, 8, stride=2, hidden=6).eval()
    assert net(features(4)).shape == (2, 8, 5, 5)


# --- one-hot relaxation and its draws


def test_a_straight_through_draw_executes_one_option_and_reaches_all_logits() -> None:
    calls: list[str] = []

    class Op(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            return x * 2

    one = OneOf(a=Op("a"), b=Op("b"), c=Op("c"))
    logits = Relaxation({"op": one.op.options})
    drawn = logits.gumbel(generator=torch.Generator().manual_seed(1))["op"]
    one.op.relax(drawn)
    y = one(features(1))
    assert calls == [one.op.value]
    assert torch.equal(y, features(1) * 2), "the score is exactly one"
    y.square().mean().backward()
    assert bool(logits.logits[0].grad.all())


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 99))
def test_draws_follow_the_softmax_and_the_seed(seed: int) -> None:
    logits = Relaxation({"a": (1, 2, 3)})
    with torch.no_grad():
        logits.logits[0].copy_(torch.tensor([0.0, 1.0, 2.0]))
    first, second = (torch.Generator().manual_seed(seed) for _ in range(2))
    draws = torch.stack([logits.gumbel(5.0, first)["a"].detach() for _ in range(2000)])
    again = torch.stack([logits.gumbel(5.0, second)["a"].detach() for _ in range(2000)])
    assert torch.equal(draws, again)
    assert torch.equal(draws.sum(1), torch.ones(2000))
    torch.testing.assert_close(draws.mean(0), logits.softmax()["a"].detach(), rtol=0, atol=0.06)


# --- names


def test_names_are_given_or_the_only_kind_or_the_place() -> None:
    class Names(Space):
        def __init__(self) -> None:
            super().__init__()
            self.a = ElasticConv(3, Width([4, 8]), Kernel([1, 3]))
            self.b = ElasticConv([self.a.channels_out, 1], 8, Kernel([1, 3], name="depth"))
            self.rows = nn.ModuleList(Depth([nn.Identity()], least=0) for _ in range(2))
            self.op = OneOf(x=nn.Identity(), y=nn.Identity())

    assert list(Names().choices()) == ["width", "kernel", "depth", "rows.0.depth", "rows.1.depth", "op"]
