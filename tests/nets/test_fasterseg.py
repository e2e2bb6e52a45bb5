"""FasterSeg against closed forms, and against the authors' own networks instantiated once beside it.

The authors' code was run beside this one with copied weights and norms, at 64x128: the three outputs of training and
the one of evaluation are equal to the last bit, for student and teacher.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network, describe_network, load_network, network_names, save_network
from catchweight.nets.fasterseg import (
    FAMILY,
    FASTERSEGS,
    OPS,
    Branch,
    FasterSeg,
    FasterSegConfig,
    config_name,
    fasterseg_config,
)
from catchweight.nets.fasterseg.architecture import Cell, cells
from catchweight.nets.fasterseg.ops import MAKERS, FactorizedReduce, Zoomed, resize
from catchweight.nets.fasterseg.table import read_branch, write_branch
from catchweight.nets.segmentation import NetSpec
from catchweight.targets import count_macs, count_params
from catchweight.targets.tracing.graph import to_onnx
from departures import departs

AUTHORS = {
    # name: parameters with the training heads, those of an attention that is never used, deployed MACs at 3x128x256
    "fasterseg_student": (4385689, 32768, 433913856),
    "fasterseg_teacher": (23524137, 73728, 1684045824),
}
SKIPPING = "fasterseg_student:branches=s4-c4d-s4-zz8d-s+s4-c4d-zz4-z+s4-c4-cc,stem=4,head=8"
"""Three branches and all five operators, the skip at both strides."""
TINY = 0.25


def tiny(name: str, classes: int = 5, **options: object) -> FasterSeg:
    torch.manual_seed(0)
    return FasterSeg(NetSpec(name, classes, width=TINY, **options))  # type: ignore[arg-type]


def macs(net: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        net(x)
    return int(counter.get_total_flops()) // 2


# --- The published networks


@pytest.mark.parametrize("name", AUTHORS)
def test_parameters_and_macs_equal_the_authors(name: str) -> None:
    parameters, unused, multiply_adds = AUTHORS[name]
    with torch.device("meta"):
        net = FasterSeg(NetSpec(name, 19, aux=True)).eval()
        assert macs(net, torch.empty(1, 3, 128, 256)) == multiply_adds
        assert net.logits(torch.empty(1, 3, 128, 256)).shape == (1, 19, 16, 32)
    assert count_params(net) == parameters - unused


def test_student_is_within_a_percent_of_the_published_figures() -> None:
    net = build_network("fasterseg_student", 19, aux=True)
    assert count_params(net) == pytest.approx(4.38e6, rel=0.01)
    assert count_macs(net, (1024, 2048)) == pytest.approx(27.7e9, rel=0.01)
    assert count_params(build_network("fasterseg_student", 19)) == 3421875


def test_student_is_the_one_drawn_in_the_paper() -> None:
    """Figure 6 by nodes: 1-4 shared at stride 8, 5-6 and 5-8, then the coarser strides."""
    deep, shallow = FASTERSEGS["fasterseg_student"].branches
    assert Counter((8, *deep.outputs())) == {8: 4, 16: 4, 32: 3}
    assert Counter((8, *shallow.outputs())) == {8: 6, 16: 4}
    shared = [c.layer for c in cells(FASTERSEGS["fasterseg_student"]) if len(c.branches) == 2]
    assert shared == [0, 1, 2]


def test_teacher_has_sixteen_cells_a_branch_at_full_width() -> None:
    teacher = FASTERSEGS["fasterseg_teacher"]
    assert [len(b.ops) for b in teacher.branches] == [16, 16]
    assert {w for b in teacher.branches for w in b.widths} == {teacher.stem} == {teacher.head} == {12}
    assert len(list(cells(teacher))) == 32 - 4


def test_names_are_registered() -> None:
    assert set(FASTERSEGS) <= set(network_names())
    assert describe_network("fasterseg_teacher").startswith("FasterSeg (Chen et al., ICLR 2020)")
    assert isinstance(build_network("fasterseg_student", 3, width=TINY), FasterSeg)


# --- The operators


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", OPS)
def test_operator_shapes_parameters_and_macs_have_a_closed_form(op: str, stride: int) -> None:
    inp, out = 6, 6 if op == "skip" and stride == 1 else 10
    module = MAKERS[op](inp, out, stride).eval()
    x = torch.randn(2, inp, 12, 20)
    y = module(x)
    assert y.shape == (2, out, 12 // stride, 20 // stride)
    if op == "skip":
        weights, places = (inp * out if stride == 2 else 0), 6 * 10
        norms = 2 * out if stride == 2 else 0
    else:
        second = out * out if op.endswith("2x") else 0
        weights, norms = 9 * (inp * out + second), 2 * out * (2 if second else 1)
        places = 6 * 10 if stride == 2 or op.startswith("zoomed") else 12 * 20
        assert (y >= 0).all()
        assert (y == 0).any()
    assert count_params(module) == weights + norms
    assert macs(module, x[:1]) == weights * places


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", OPS)
@given(height=st.integers(2, 9), width=st.integers(2, 9))
@settings(max_examples=10, deadline=None)
def test_every_operator_gives_the_same_size_on_any_map(op: str, stride: int, height: int, width: int) -> None:
    y = MAKERS[op](4, 4, stride).eval()(torch.randn(1, 4, height, width))
    assert y.shape == (1, 4, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("depth", [1, 2])
def test_zoomed_convolution_works_at_half_resolution(depth: int) -> None:
    torch.manual_seed(0)
    zoomed, x = Zoomed(4, 8, 1, depth).eval(), torch.randn(1, 4, 14, 22)
    seen: list[tuple[int, ...]] = []
    for module in zoomed.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[-2:])))
    y = zoomed(x)
    assert seen == [(7, 11)] * depth
    torch.testing.assert_close(y, resize(zoomed.convs(resize(x, (7, 11))), (14, 22)).relu())
    twin = MAKERS["conv_2x" if depth == 2 else "conv"](4, 8, 1).eval()
    assert 4 * macs(zoomed, x) == macs(twin, x)


def test_resizing_aligns_corners_as_published() -> None:
    y = resize(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
    torch.testing.assert_close(y.flatten(), torch.tensor([0, 1 / 3, 2 / 3, 1]))


def test_zoomed_convolution_of_stride_two_stays_at_half_resolution() -> None:
    kept, halved = Zoomed(4, 4, 1).eval(), Zoomed(4, 4, 2).eval()
    halved.load_state_dict(kept.state_dict())
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(halved(x), kept.convs(resize(x, (4, 4))).relu())


def test_zoomed_convolution_sees_further_than_the_plain_one() -> None:
    spans = {}
    for op in ("conv", "zoomed"):
        module = MAKERS[op](1, 1, 1).eval()
        nn.init.ones_(next(m for m in module.modules() if isinstance(m, nn.Conv2d)).weight)
        x = torch.ones(1, 1, 32, 32, requires_grad=True)
        module(x)[..., 15, 15].sum().backward()
        assert x.grad is not None
        seen = x.grad.sum((0, 1, 3)).nonzero().flatten()
        spans[op] = int(seen.max() - seen.min()) + 1
    assert spans["conv"] == 3
    assert spans["zoomed"] >= 6


def test_strided_skip_reads_both_diagonals() -> None:
    module = FactorizedReduce(1, 2).eval()
    for conv in (module.even, module.odd):
        nn.init.ones_(conv.weight)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    y = module(x) * (1 + module.norm.eps) ** 0.5
    torch.testing.assert_close(y[0, 0], x[0, 0, ::2, ::2])
    torch.testing.assert_close(y[0, 1], x[0, 0, 1::2, 1::2])


# --- Architectures and names


@st.composite
def branches(draw: st.DrawFn, end: int) -> Branch:
    halvings = {8: 0, 16: 1, 32: 2}[end]
    length = draw(st.integers(halvings + 1, 6))
    downs = set(draw(st.permutations(range(length - 1)))[:halvings])
    scales = [8]
    for layer in range(length - 1):
        scales.append(scales[-1] * (2 if layer in downs else 1))
    widths = draw(st.lists(st.sampled_from([4, 6, 8, 10, 12]), min_size=length - 1, max_size=length - 1))
    ops = draw(st.lists(st.sampled_from(OPS[1:]), min_size=length, max_size=length))
    for layer in downs:
        ops[layer] = draw(st.sampled_from(OPS))
    return Branch(tuple(ops), tuple(scales), tuple(widths))


@st.composite
def configs(draw: st.DrawFn) -> FasterSegConfig:
    ends = draw(st.lists(st.sampled_from([8, 16, 32]), min_size=1, max_size=3, unique=True))
    found = [draw(branches(end)) for end in ends]
    return FasterSegConfig(tuple(found), draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 16)))


@given(configs())
@settings(max_examples=100, deadline=None)
def test_an_architecture_round_trips_through_its_name(config: FasterSegConfig) -> None:
    assert fasterseg_config(config_name(config)) == config
    assert all(read_branch(write_branch(branch)) == branch for branch in config.branches)


@given(configs())
@settings(max_examples=100, deadline=None)
def test_every_branch_is_computed_in_order_and_shared_only_from_the_start(config: FasterSegConfig) -> None:
    plan = list(cells(config))
    for index, branch in enumerate(config.branches):
        own = [cell for cell in plan if index in cell.branches]
        assert [cell.layer for cell in own] == list(range(len(branch.ops)))
        assert tuple(cell.op for cell in own) == branch.ops
        assert tuple(cell.scale_out for cell in own) == branch.outputs()
        assert (own[0].inp, own[-1].out) == (config.stem, config.head)
        companions = [set(cell.branches) for cell in own]
        assert all(later <= before for before, later in zip(companions, companions[1:], strict=False))
        assert companions[-1] == {index}


@given(configs(), st.integers(64, 130), st.integers(64, 130))
@settings(max_examples=15, deadline=None)
def test_any_architecture_builds_at_any_size(config: FasterSegConfig, height: int, width: int) -> None:
    with torch.device("meta"):
        net = FasterSeg(NetSpec(config_name(config), 3, width=TINY, aux=True)).eval()
        x = torch.empty(1, 3, height, width)
        main, *aux = net.train_logits(x)
        maps = net.features(x)
    assert main.shape == (1, 3, -(-height // 8), -(-width // 8))
    passed = {s for branch in config.branches for s in branch.scales} - {8}
    assert [a.shape for a in aux] == [(1, 3, -(-height // s), -(-width // s)) for s in sorted(passed)]
    for found, info in zip(maps, net.feature_info, strict=True):
        assert found.shape[1:] == (info.channels, -(-height // info.stride), -(-width // info.stride))


def test_a_name_says_only_what_differs() -> None:
    student, teacher = FASTERSEGS["fasterseg_student"], FASTERSEGS["fasterseg_teacher"]
    assert config_name(student) == "fasterseg_student"
    assert config_name(teacher) == "fasterseg_teacher"
    assert config_name(replace(student, head=6, base=8)) == "fasterseg_student:head=6,base=8"
    assert config_name(replace(teacher, base=8), base="fasterseg_teacher") == "fasterseg_teacher:base=8"
    assert fasterseg_config("fasterseg_student:base=8").channels(32, 12) == 256


def test_merging_needs_operator_width_and_next_scale() -> None:
    def shared(first: str, second: str) -> list[int]:
        config = FasterSegConfig((read_branch(first), read_branch(second)))
        return [cell.layer for cell in cells(config) if len(cell.branches) == 2]

    assert shared("c4-c4-c4d-c", "c4-c4-c4-c") == [0, 1]
    assert shared("c4-z4-c4d-c", "c4-c4-c4-c") == [0]
    assert shared("c4-c6-c4d-c", "c4-c4-c4-c") == [0]
    assert shared("c4d-c4-c4-c", "c4-c4-c4-c") == []
    assert shared("z4-c4-c4d-c", "c4-c4-c4-c") == []
    assert shared("c4-c4-c4d-c", "c4-c") == [0]
    assert list(cells(FasterSegConfig((read_branch("c4d-zz"),)))) == [
        Cell(0, (0,), "conv", 8, 2, 8, 4),
        Cell(1, (0,), "zoomed_2x", 16, 1, 4, 8),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fasterseg_studen", 'did you mean "fasterseg_student"'),
        ("fasterseg_student:branch=c", 'did you mean "branches"'),
        ("fasterseg_student:stem=wide", 'stem must be a whole number, but got "wide"'),
        ("fasterseg_student:head=0", "stem, head and base must be 1 or more, but got 8, 0 and 12"),
        ("fasterseg_student:branches=c4-x", 'cannot read the cell "x"'),
        ("fasterseg_student:branches=c4-c4", "the last has none"),
        ("fasterseg_student:branches=c4-cd", "never halves"),
        ("fasterseg_student:branches=c-c", "every cell but the last has a width"),
        ("fasterseg_student:branches=", 'cannot read the cell ""'),
        ("fasterseg_student:branches=c0-c", "1 or more twelfths"),
        ("fasterseg_student:branches=c4d-c4d-c4d-c", "go from 8 to 8, 16 or 32"),
        ("fasterseg_student:branches=c4-c+z4-z", r"different ends, but these end at \[8, 8\]"),
        ("fasterseg_student:branches=s4-c", "cell 0 of branch 8 is a skip from width 8 to 4"),
    ],
)
def test_wrong_names_say_what_would_be_right(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fasterseg_config(name)


def test_wrong_values_and_weights_are_refused() -> None:
    with pytest.raises(UsageError, match='did you mean "zoomed"'):
        Branch(("zoomd",), (8,), ())
    with pytest.raises(UsageError, match="2 operators, 1 scales and 0 widths"):
        Branch(("conv", "conv"), (8,), ())
    with pytest.raises(UsageError, match=r"one to three branches .* end at \[\]"):
        FasterSegConfig(())
    with pytest.raises(CatchweightError, match="no FasterSeg weights"):
        FAMILY.build(NetSpec("fasterseg_student", 3), "offline")


# --- What every network here must do

NAMES = ["fasterseg_student", "fasterseg_teacher", SKIPPING]


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (90, 121)])
@pytest.mark.parametrize("name", NAMES)
def test_any_size_from_64_gives_full_size_logits(name: str, size: tuple[int, int]) -> None:
    net = tiny(name).eval()
    with torch.no_grad():
        out = net(torch.randn(1, 3, *size))
    assert out.shape == (1, 5, *size)
    assert torch.isfinite(out).all()
    assert out.std() > 0


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str, batch: int) -> None:
    net = tiny(name, aux=True).train()
    parts = net.train_logits(torch.randn(batch, 3, 96, 80))
    assert len(parts) == 3
    torch.stack([(part * torch.randn_like(part)).sum() for part in parts]).sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_auxiliary_heads_are_not_part_of_the_forward_pass() -> None:
    net, bare = tiny("fasterseg_student", aux=True).eval(), tiny("fasterseg_student").eval()
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("aux.")})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(net(x), bare(x))
        assert torch.equal(net.train_logits(x)[0], net.logits(x))
    assert [p.shape[-2:] for p in net.train_logits(x)] == [(8, 12), (4, 6), (2, 3)]
    assert len(bare.train_logits(x)) == 1


def test_a_shared_cell_is_computed_once() -> None:
    net = tiny("fasterseg_teacher").eval()
    calls: Counter[int] = Counter()
    for index, op in enumerate(net.cells.ops):
        op.register_forward_hook(lambda *_, index=index: calls.update([index]))
    net.logits(torch.zeros(1, 3, 64, 64))
    assert calls == dict.fromkeys(range(28), 1)


def test_both_branches_reach_the_logits() -> None:
    net = tiny("fasterseg_student").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net.logits(x)
        for index, branch in enumerate(net.config.branches):
            last = next(
                i for i, c in enumerate(net.cells.plan) if c.branches == (index,) and c.layer + 1 == len(branch.ops)
            )
            handle = net.cells.ops[last].register_forward_hook(lambda _, __, out: torch.zeros_like(out))
            assert not torch.allclose(net.logits(x), before)
            handle.remove()
        assert torch.equal(net.logits(x), before)


def test_width_scales_every_channel_and_rounds_to_8() -> None:
    full, half = FasterSeg(NetSpec("fasterseg_student", 11)), FasterSeg(NetSpec("fasterseg_student", 11, width=0.5))
    assert [i.channels for i in full.feature_info] == [32, 32, 64, 128, 256]
    assert [i.channels for i in half.feature_info] == [16, 16, 32, 64, 128]
    inner = [m for m in half.modules() if isinstance(m, nn.Conv2d) and m.out_channels != 11]
    assert all(m.out_channels % 8 == 0 for m in inner)
    assert 0.2 < count_params(half) / count_params(full) < 0.3


def test_bfloat16_stays_near_float32() -> None:
    net = tiny("fasterseg_student").eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = net(x).float()
        rough = net.bfloat16()(x.bfloat16()).float()
    for y in (mixed, rough):
        assert (y - exact).abs().max() < 0.05 * exact.abs().max()


def test_saved_network_computes_the_same(tmp_path: Path) -> None:
    net = tiny(SKIPPING, aux=True).train()
    net(torch.randn(2, 3, 64, 64))  # statistics move
    save_network(tmp_path / "model.pt", net)
    again, _ = load_network(tmp_path / "model.pt")
    assert isinstance(again, FasterSeg)
    assert again.config == net.config
    x = torch.randn(1, 3, 67, 97)
    with torch.no_grad():
        assert torch.equal(again(x), net.eval()(x))


@pytest.mark.parametrize(
    ("name", "dynamic", "sizes"),
    [("fasterseg_student", False, [(67, 97)]), (SKIPPING, True, [(64, 96), (71, 65)])],
)
def test_exported_file_agrees(name: str, dynamic: bool, sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    net = tiny(name).train()
    net(torch.randn(2, 3, 64, 64))
    net.eval()
    file = to_onnx(net, tmp_path / "net.onnx", (67, 97), dynamic=dynamic)
    for size in sizes:
        assert departs(file, net, (1, 3, *size)) < 1e-4
