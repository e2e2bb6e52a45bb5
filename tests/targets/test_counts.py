"""Counts against closed forms, and against other counters over whole networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from catchweight.nets import SegmentationNet, build_network
from catchweight.targets.counts import Counts, count, count_macs, count_params
from catchweight.targets.counts.macs import FREE, RULES, einsum_macs
from catchweight.targets.tracing.graph import evaluating

NETWORKS = (
    "eseg_lite_s",
    "ffnet_22s_bcc_mobile",
    "timm/resnet18+bifpn",
    "timm/pvt_v2_b0+fpn",
    "timm/mobilenetv3_small_100+fpn",
)
SIZE = (64, 96)


@cache
def counted(name: str) -> tuple[SegmentationNet, Counts]:
    net = build_network(name, 11)
    return net, count(net, SIZE)


def both(net: nn.Module, size: tuple[int, int]) -> int:
    """The two counters of ours, which must agree."""
    full = count(net, size)
    assert full.unsupported == ()
    assert count_macs(net, size) == full.macs
    return full.macs


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(1, 1, 0, 1), (3, 2, 1, 1), (5, 3, 2, 2)])
def test_convolution(groups: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, kernel, stride, padding, dilation, groups), nn.BatchNorm2d(12)
    )
    height, width = 37, 41
    out = [(length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for length in (height, width)]
    first = 3 * 8 * height * width
    second = 8 // groups * 12 * kernel**2 * out[0] * out[1]
    assert count_macs(net, (height, width)) == first + second
    assert count_params(net) == (3 * 8 + 8) + (8 // groups * 12 * kernel**2 + 12) + 2 * 12


@settings(max_examples=20, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    batch=st.integers(1, 3),
    transposed=st.booleans(),
    bias=st.booleans(),
)
def test_any_convolution(channels, groups, kernel, stride, padding, dilation, batch, transposed, bias) -> None:
    inner, outer = channels[0] * groups, channels[1] * groups
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    second = kind(inner, outer, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias)
    net, size = nn.Sequential(nn.Conv2d(3, inner, 1), second), (11, 13)
    with torch.no_grad():
        out = second(torch.zeros(batch, inner, *size))
    places = size[0] * size[1] if transposed else out.shape[2] * out.shape[3]
    expected = batch * (3 * inner * size[0] * size[1] + places * inner * outer // groups * kernel[0] * kernel[1])
    found = count(net, size, batch)
    assert found.macs == expected
    assert batch > 1 or count_macs(net, size) == expected
    assert found.by_module["1"].macs == expected - batch * 3 * inner * size[0] * size[1]
    assert found.by_module["1"].params == second.weight.numel() + (outer if bias else 0)


class Function(nn.Module):
    """A network of one function of the image."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


N, H, W = 3, 8, 10
PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "matmul": (lambda x: x @ x.transpose(-1, -2), N * H * H * W),
    "bmm": (lambda x: torch.bmm(x[0], x[0].transpose(-1, -2)), N * H * H * W),
    "mm": (lambda x: x[0, 0] @ x[0, 0].t(), H * H * W),
    "broadcast": (lambda x: x @ torch.ones(W, 7), N * H * W * 7),
    "addmm": (lambda x: torch.addmm(torch.ones(H, H), x[0, 0], x[0, 0].t()), H * H * W),
    "baddbmm": (lambda x: torch.baddbmm(torch.ones(1, H, H), x[0], x[0].transpose(-1, -2)), N * H * H * W),
    "einsum": (lambda x: torch.einsum("bchw,bciw->bchi", x, x), N * H * H * W),
    "linear": (lambda x: nn.functional.linear(x, torch.ones(5, W)), N * H * W * 5),
    "attention": (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), 2 * N * H * H * W),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    function, expected = PRODUCTS[name]
    assert both(Function(function), (H, W)) == expected


def test_einsum_of_several_operands_and_ellipses() -> None:
    assert einsum_macs("ij,jk,kl->il", [(2, 3), (3, 5), (5, 7)]) == 2 * 3 * 5 + 2 * 5 * 7
    assert einsum_macs("...ij,jk", [(4, 2, 3), (3, 5)]) == 4 * 2 * 3 * 5
    assert einsum_macs("b...,...->b...", [(2, 3, 5), (3, 1)]) == 2 * 3 * 5
    assert einsum_macs("ijk->kij", [(2, 3, 5)]) == 0


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


def test_attention() -> None:
    tokens = 8 * 8
    assert both(Attention(), (8, 8)) == tokens * 3 * 24 + 2 * tokens * tokens * 8


class Standardised(nn.Conv2d):
    """A weight that is computed: known only by its shape in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def test_a_computed_weight_is_counted_by_its_shape() -> None:
    assert both(Standardised(3, 5, 3, padding=1), (8, 8)) == 3 * 5 * 9 * 64


def test_unknown_operators_are_reported_with_their_place() -> None:
    inner = Function(lambda x: torch.fft.rfft2(x).abs() + torch.fft.rfft2(x).abs())
    found = count(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(inner)), (8, 8))
    (one,) = found.unsupported
    assert (one.kind, one.calls, one.modules) == ("fft_rfft2", 2, ("1.0",))
    assert found.macs == 3 * 4 * 64
    complete = {module.path: module.complete for module in found.modules}
    assert complete == {"": False, "0": True, "1": False, "1.0": False}


def test_no_operator_is_both_free_and_counted() -> None:
    assert not FREE & RULES.keys()


def test_shared_parameters_count_once_and_nothing_is_computed() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    net = nn.Sequential(conv, nn.BatchNorm2d(3, affine=False), conv).train()
    assert count_params(net) == 81
    assert both(net, (16, 16)) == 2 * 81 * 256
    assert count(net, (16, 16)).weights_bytes == 4 * (81 + 2 * 3)
    assert net.training
    assert net[1].num_batches_tracked == 0
    assert type(conv.weight) is nn.Parameter


class Remembering(nn.Module):
    """Keeps tensors from run to run: as an attribute, a buffer, and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.register_buffer("places", None)
        self.ramp: Tensor | None = None
        self.scales: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.ramp is None:
            self.ramp, self.places = torch.linspace(0, 1, x.shape[-1]), torch.arange(x.shape[-1])
        scale = self.scales.setdefault(x.shape[-1], self.conv.weight.mean())
        return self.conv(x) * scale + self.ramp + self.places


def test_a_network_that_remembers_remembers_nothing_of_a_count() -> None:
    net = Remembering()
    assert count_macs(net, (8, 8)) == 3 * 4 * 64
    assert (net.ramp, net.places, net.scales) == (None, None, {})
    after = net(torch.ones(1, 3, 8, 8))
    assert type(after) is Tensor
    assert count_macs(net, (8, 8)) == 3 * 4 * 64
    assert torch.equal(net(torch.ones(1, 3, 8, 8)), after)


def test_a_huge_input_costs_no_memory() -> None:
    assert count_macs(nn.Conv2d(3, 64, 1), (100_000, 100_000)) == 3 * 64 * 10**10


def test_auxiliary_heads_are_parameters_but_not_weights_of_evaluation() -> None:
    plain, aux = (count(build_network("ffnet_22s_bcc_mobile", 11, aux=aux), SIZE) for aux in (False, True))
    assert aux.weights_bytes == plain.weights_bytes
    assert aux.macs == plain.macs


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_against_torch(name: str) -> None:
    net, found = counted(name)
    assert found.unsupported == ()
    assert found.macs == count_macs(net, SIZE)
    assert found.params == sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_against_fvcore(name: str) -> None:
    """fvcore also counts norms, pooling and interpolation, and leaves out fused attention."""
    net, found = counted(name)
    with evaluating(net):
        other = FlopCountAnalysis(net, torch.zeros(1, 3, *SIZE)).unsupported_ops_warnings(False)
        other = other.uncalled_modules_warnings(False).by_operator()
    same = {"conv", "linear", "matmul", "addmm", "bmm", "einsum"}
    free = {"batch_norm", "layer_norm", "upsample_nearest2d", "upsample_bilinear2d", "adaptive_avg_pool2d"}
    assert set(other) <= same | free
    attention = sum(op.macs or 0 for op in found.ops if op.kind == "scaled_dot_product_attention")
    assert (attention > 0) == ("pvt" in name)
    assert found.macs - attention == sum(macs for kind, macs in other.items() if kind in same)


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_are_sums_of_what_is_inside(name: str) -> None:
    _, found = counted(name)
    assert found.modules[0].path == ""
    assert found.modules[0].macs == found.macs
    assert found.modules[0].peak_bytes == found.activation_bytes
    for module in found.modules:
        start = f"{module.path}." if module.path else ""
        own = sum(op.macs or 0 for op in found.ops if op.module == module.path)
        below = (one for one in found.modules if one.path and one.path.startswith(start))
        children = [one for one in below if "." not in one.path[len(start) :]]
        assert module.macs == own + sum(child.macs for child in children)
        assert module.peak_bytes >= max((child.peak_bytes for child in children), default=0)
    assert [one.path for one in found.to_depth(0)] == [""]
    assert {one.path.count(".") for one in found.to_depth(2) if one.path} == {0, 1}


def test_bytes_moved() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(2))
    conv, view = count(net, (4, 5), batch=2).ops
    assert conv.bytes == 4 * (2 * 3 * 20 + 3 * 8 + 8 + 2 * 8 * 20)
    assert view.bytes == 0
