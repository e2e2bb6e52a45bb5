"""Dense prediction cells: their text, which are the same, what their operations compute and cost."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network, load_network, save_network
from catchweight.nets.backbones import TimmBackbone
from catchweight.nets.dpc import (
    BACKBONE,
    CELLS,
    GRIDS,
    RATES,
    Branch,
    Cell,
    CellNetwork,
    DpcConfig,
    cell_macs,
    network_name,
    parse_name,
)
from catchweight.nets.dpc.ops import PyramidPooling, SeparableAtrous, pool, spread
from catchweight.targets.counts import count_macs

BEST = CELLS["best"]
TINY = "test_efficientnet"
"""timm's own network for tests, 0.4 M parameters."""


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    branches = []
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(("conv", "atrous", "pool")))
        options = {"conv": (1,), "atrous": RATES, "pool": GRIDS}[kind]
        sides = draw(st.sampled_from(options)), draw(st.sampled_from(options))
        branches.append(Branch(draw(st.integers(BACKBONE, number - 1)), kind, *sides))
    return Cell(tuple(branches))


def reordered(cell: Cell, rng: random.Random) -> Cell:
    """The same cell with its branches in another order that is as good."""
    left, placed = set(range(len(cell.branches))), {BACKBONE: BACKBONE}
    found: list[Branch] = []
    while left:
        number = rng.choice([n for n in sorted(left) if cell.branches[n].source in placed])
        branch = cell.branches[number]
        placed[number] = len(found)
        found.append(Branch(placed[branch.source], *branch.operation))
        left.remove(number)
    return Cell(tuple(found))


@given(cells(), st.randoms(use_true_random=False))
def test_the_text_of_a_cell_reads_back_and_order_makes_no_difference(cell, rng):
    assert Cell.parse(str(cell)) == cell
    assert cell.canonical().canonical() == cell.canonical()
    assert reordered(cell, rng).canonical() == cell.canonical()


def test_the_published_best_cell():
    assert str(BEST) == "x.r1x6-0.r18x15-1.r6x3-0.r1x1-0.r6x21"
    assert Cell.parse("best") == BEST
    shown = [(b.source, b.rows, b.columns) for b in BEST.branches]
    assert shown == [(BACKBONE, 1, 6), (0, 18, 15), (1, 6, 3), (0, 1, 1), (0, 6, 21)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x.r6", r'cannot read branch "x.r6" of cell "x.r6": .* one of best, aspp'),
        ("x.c-1.c", "branch 1 of cell x.c-1.c reads branch 1"),
        ("0.c", "branch 0 .* reads branch 0"),
        ("x.p0x1", "cannot read branch"),
        ("", "cannot read branch"),
    ],
)
def test_a_cell_that_cannot_be_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        Cell.parse(text)


def test_a_cell_needs_a_branch():
    with pytest.raises(UsageError, match="needs a branch"):
        Cell(())


def test_rates_are_rectangular():
    conv = SeparableAtrous(1, 1, (2, 5)).depthwise
    with torch.no_grad():
        conv.weight.fill_(1.0)
        impulse = torch.zeros(1, 1, 15, 15)
        impulse[0, 0, 7, 7] = 1.0
        reached = conv(impulse)[0, 0].nonzero().tolist()
    assert reached == [[7 + 2 * row, 7 + 5 * column] for row in (-1, 0, 1) for column in (-1, 0, 1)]


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(GRIDS), st.sampled_from(GRIDS))
@settings(max_examples=40, deadline=None)
def test_both_readings_of_pyramid_pooling(height, width, rows, columns):
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(pool(x, (rows, columns), "grid"), F.adaptive_avg_pool2d(x, (rows, columns)))
    dense = pool(x, (rows, columns), "dense")
    window = ((height - 1) // rows + 1, (width - 1) // columns + 1)
    assert dense.shape[-2:] == (height - window[0] + 1, width - window[1] + 1)
    torch.testing.assert_close(dense[..., 0, 0], x[..., : window[0], : window[1]].mean((-2, -1)))
    for pooling in ("dense", "grid"):
        assert spread(pool(x, (rows, columns), pooling), x, pooling).shape == x.shape


def test_with_one_row_and_column_both_readings_are_the_mean():
    x = torch.randn(1, 2, 7, 5)
    for pooling in ("dense", "grid"):
        torch.testing.assert_close(
            spread(pool(x, (1, 1), pooling), x, pooling), x.mean((-2, -1), keepdim=True).expand_as(x)
        )


@given(cells())
@settings(max_examples=25, deadline=None)
def test_macs_in_closed_form_are_those_counted(cell):
    size = (12, 9)
    for pooling in ("dense", "grid"):
        if pooling == "grid" and any(branch.kind == "pool" for branch in cell.branches):
            continue  # a matrix product is counted by its own rule
        net = CellNetwork(5, 4, DpcConfig(cell=cell, pool=pooling)).eval()
        assert count_macs(_OnMaps(net), size) == cell_macs(cell, 5, 4, size, pooling)


class _OnMaps(nn.Module):
    """Counting feeds three channels; a cell here takes five."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x[:, [0, 1, 2, 0, 1]])


def test_the_best_cell_has_the_parameters_of_its_layers():
    net = build_network("dpc/tf_efficientnet_lite0", 19)
    channels, filters = 320, 256
    outer = 9 * channels + 2 * channels + channels * filters + 2 * filters
    inner = 9 * filters + 2 * filters + filters * filters + 2 * filters
    project = 5 * filters * filters + 2 * filters
    assert sum(p.numel() for p in net.cell.parameters()) == outer + 4 * inner + project
    assert sum(p.numel() for p in net.head.parameters()) == 19 * filters + 19


def test_a_cell_is_computed_as_its_text_says():
    torch.manual_seed(0)
    net = CellNetwork(6, 4, DpcConfig(cell=Cell.parse("x.c-0.r3x1-x.p2x1-1.c"))).eval()
    x = torch.randn(2, 6, 9, 8)
    first = net.branches[0](x)
    second = net.branches[1](first)
    parts = [first, second, net.branches[2](x), net.branches[3](second)]
    assert isinstance(net.branches[2], PyramidPooling)
    torch.testing.assert_close(net(x), net.project(torch.cat(parts, 1)))
    assert net.train().dropout.p == pytest.approx(0.1)


def test_rates_follow_the_output_stride_or_the_given_factor():
    assert [DpcConfig().dilation(r) for r in RATES] == list(RATES)
    assert [DpcConfig(stride=8).dilation(r) for r in RATES] == [2 * r for r in RATES]
    halved = [DpcConfig(rate=0.5).dilation(r) for r in RATES]
    assert halved == [1, 2, 3, 5, 6, 8, 9, 11]
    with torch.device("meta"):
        net = build_network("dpc/tf_efficientnet_lite0:stride=8", 2)
    assert net.cell.branches[1].depthwise.dilation == (36, 30)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", [TINY, "resnet18"])
def test_the_backbone_is_dilated_to_the_stride_and_keeps_its_weights(backbone, stride):
    plain = TimmBackbone(backbone)
    dilated = TimmBackbone(backbone, (stride,), output_stride=stride)
    assert dilated.info[-1].stride == stride
    assert dilated.info[-1].channels == plain.info[-1].channels
    assert {k: v.shape for k, v in dilated.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    (found,) = dilated.eval()(torch.randn(1, 3, 97, 130))
    assert found.shape[-2:] == (-(-97 // stride), -(-130 // stride))


def test_a_backbone_that_cannot_dilate_is_named():
    with pytest.raises(CatchweightError, match="pvt_v2_b0 cannot be brought to output stride 16"):
        build_network("dpc/pvt_v2_b0", 3)


@given(cells(), st.sampled_from([8, 16, 32]), st.sampled_from([None, 0.5, 1.25]), st.sampled_from(["dense", "grid"]))
def test_names_read_back(cell, stride, rate, pooling):
    config = DpcConfig(cell, stride, 64, rate, pooling)
    assert parse_name(network_name("resnet18", config)) == ("resnet18", config)


def test_a_network_is_saved_and_built_again_by_its_name(tmp_path):
    name = f"dpc/{TINY}:cell=x.r1x6-0.p2x4,stride=8,filters=16,rate=0.5,pool=grid"
    net = build_network(name, 3, width=0.5).eval()
    x = torch.randn(1, 3, 65, 81)
    save_network(tmp_path / "net.pt", net)
    other, _ = load_network(tmp_path / "net.pt")
    torch.testing.assert_close(other.eval()(x), net(x))
    assert net(x).shape == (1, 3, 65, 81)
    assert net.head.in_channels == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dpc/resnet18:cel=best", 'did you mean "cell"'),
        ("dpc/resnet18:stride=4", "stride 8, 16 or 32, but got 4"),
        ("dpc/resnet18:filters=x", 'filters: cannot read "x"'),
        ("dpc/resnet18:filters=0", "filters must be 1 or more"),
        ("dpc/resnet18:rate=0", "rate must lie in"),
        ("dpc/resnet18:pool=dens", 'did you mean "dense"'),
        ("dpc/resnet81", "unknown timm backbone"),
    ],
)
def test_a_name_that_cannot_be_is_named(name, message):
    with pytest.raises(UsageError, match=message):
        build_network(name, 3)
