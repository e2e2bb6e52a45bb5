"""Traces and blocks: every operator is found once, and fusion joins what runtimes join."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network
from catchweight.targets.counts import count_macs
from catchweight.targets.tracing.blocks import GROUPS, Signature, blocks
from catchweight.targets.tracing.shape_trace import shape_trace
from catchweight.targets.tracing.trace import IMAGE, trace

SIZE = (64, 80)


class Residual(nn.Module):
    """conv-norm-relu, conv-norm, added to the input, relu; and a weight that no image reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.ones(3))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        body = self.norm2(self.second(self.norm(self.first(x)).relu()))
        return self.drop((body + x).relu() * self.scale.softmax(0).view(1, 3, 1, 1))


class Gated(nn.Module):
    """The first convolution is read twice, so nothing may be fused into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.relu() + y


def test_a_residual_is_two_fused_blocks_and_a_scaling() -> None:
    found = blocks(trace(Residual(), SIZE))
    assert [block.signature.kind for block in found] == ["conv2d+relu", "conv2d+add+relu", "mul"]
    image = (1, 3, *SIZE)
    assert found[1].signature.inputs == (image, image)
    assert (found[0].signature.before, found[0].signature.after) == ("image", "conv")
    assert (found[1].signature.before, found[1].signature.after) == ("conv/image", "elementwise")
    assert found[2].signature.after == "output"
    assert [block.module for block in found] == ["first", "second", ""]


def test_what_depends_on_weights_alone_is_left_out() -> None:
    kinds = [op.kind for op in trace(Residual(), SIZE).ops]
    assert "softmax" not in kinds
    assert "dropout" not in kinds


def test_a_result_read_twice_is_not_fused() -> None:
    found = blocks(trace(Gated(), SIZE))
    assert [block.signature.kind for block in found] == ["conv2d", "relu", "add"]
    assert found[2].signature.inputs == ((1, 8, *SIZE), (1, 8, *SIZE))


def test_same_padding_belongs_to_its_convolution() -> None:
    net = build_network("timm/tf_efficientnet_lite0+fpn", 5)
    first = blocks(trace(net, (65, 81)))[0]
    assert first.signature.kind == "conv2d+hardtanh"
    assert first.signature.inputs == ((1, 3, 65, 81),)
    assert first.signature.output == (1, 32, 33, 41)


@pytest.mark.parametrize(
    "name",
    [
        "eseg_lite_s", "ffnet_22s_bcc_mobile", "timm/mobilenetv3_small_100+fpn", "timm/pvt_v2_b0+fpn",
        "timm/nf_resnet26+fpn",
    ],
)  # fmt: skip
def test_every_operator_is_in_one_block_and_macs_add_up(name: str) -> None:
    net = build_network(name, 5, width=0.5)
    traced = trace(net, SIZE)
    found = blocks(traced)
    members = Counter(op.name for block in found for op in block.ops)
    assert members == Counter(op.name for op in traced.ops)
    assert sum(block.signature.macs for block in found) == count_macs(net, SIZE)
    assert {block.signature.group for block in found} <= set(GROUPS)
    for block in found:
        assert Signature.from_key(block.signature.key) == block.signature


class Copied(nn.Module):
    """A reshape and a ``contiguous`` that must copy, a clone that is asked for, and shapes in all ways of writing."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1).reshape(1, -1, 3).transpose(1, 2).contiguous()
        return y.unflatten(2, x.shape[2:]).flatten(2).view(x.shape).clone().sigmoid()


@pytest.mark.parametrize(
    "build",
    [
        partial(build_network, "eseg_lite_s:levels=2-5,repeats=1", 5),
        partial(build_network, "timm/pvt_v2_b0+fpn", 5),
        Copied,
    ],
    ids=["eseg", "pvt", "copied"],
)
def test_the_exportable_trace_has_the_same_blocks(build: Callable[[], nn.Module]) -> None:
    """Tables hold blocks of exportable traces; predictions ask for those of plain ones."""
    net = build()
    plain, exportable = (blocks(trace(net, SIZE, exportable=asked)) for asked in (False, True))
    assert [block.signature for block in plain] == [block.signature for block in exportable]


def test_a_computed_weight_has_its_kernel() -> None:
    """Weights behind a parametrisation, as in nf_resnet26: no parameter of the graph has the kernel's shape."""
    nets = [weight_norm(nn.Conv2d(3, 32, kernel, padding=kernel // 2)) for kernel in (1, 3, 5)]
    found = [blocks(trace(net, SIZE))[0].signature for net in nets]
    assert [signature.kernel for signature in found] == [(1, 1), (3, 3), (5, 5)]
    assert [signature.macs for signature in found] == [count_macs(net, SIZE) for net in nets]
    shapes = [blocks(shape_trace(net, SIZE))[0].signature for net in nets]
    assert shapes == found


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 8]), kernel=st.integers(1, 5), stride=st.integers(1, 3), dilation=st.integers(1, 2),
    out=st.sampled_from([8, 16, 24]), batch=st.integers(1, 3),
)  # fmt: skip
def test_a_convolution_is_described_exactly(
    groups: int, kernel: int, stride: int, dilation: int, out: int, batch: int
) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, out, kernel, stride, padding=4, dilation=dilation, groups=groups, bias=False)
    )
    with torch.no_grad():
        shape = tuple(net(torch.zeros(batch, 3, 24, 20)).shape)
    signature = blocks(trace(net, (24, 20), batch))[1].signature
    assert signature.inputs == ((batch, 8, 24, 20),)
    assert signature.output == shape
    assert (signature.kernel, signature.stride) == ((kernel, kernel), (stride, stride))
    assert (signature.dilation, signature.groups) == ((dilation, dilation), groups)
    assert signature.macs == shape[0] * shape[2] * shape[3] * out * (8 // groups) * kernel**2
    assert signature.weights == net[1].weight.numel()
    assert signature.group == ("depthwise" if groups == 8 else "conv")


def test_modules_and_weights_are_named() -> None:
    op = next(op for op in trace(Residual(), SIZE).ops if op.kind == "conv2d")
    assert (op.module, op.module_type, op.inputs) == ("first", "Conv2d", (IMAGE,))
    assert op.weights["first.weight"].shape == (3, 3, 3, 3)
    assert op.out.bytes == 4 * 3 * 64 * 80


def test_modes_are_kept_and_what_cannot_be_traced_is_said() -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    net = Residual().train()
    trace(net, SIZE)
    assert all(module.training for module in net.modules())
    with pytest.raises(CatchweightError, match="Moody cannot be traced at 64x80"):
        trace(Moody(), SIZE)
    with pytest.raises(UsageError, match="positive size"):
        trace(net, (0, 5))
