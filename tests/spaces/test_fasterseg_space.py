"""FasterSeg's space: lattice, supernet, derivation rules and expected latency.

The derivation was also run once on the scores that the authors released. With the first of their slips put in (see
``spaces.fasterseg.derive``) it gives the published student and teacher, cell by cell.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from catchweight.errors import CatchweightError, UsageError
from catchweight.front import Arch
from catchweight.nets import build_network
from catchweight.nets.fasterseg import FASTERSEGS, OPS, FasterSegConfig, config_name, fasterseg_config
from catchweight.nets.fasterseg.architecture import cells
from catchweight.nets.fasterseg.table import read_branch
from catchweight.spaces import SPACES, Space
from catchweight.spaces.fasterseg import (
    PAIRS,
    PREDICTIONS,
    ArchitectureLogits,
    Edge,
    FasterSegLatency,
    FasterSegSpace,
    Lattice,
    Node,
    Part,
    at_width,
    candidates,
    derive,
    even,
    parts,
    random_widths,
)
from catchweight.spaces.fasterseg.derive import assemble, nodes_along
from catchweight.spaces.fasterseg.latency import usage
from catchweight.spaces.fasterseg.mixed import MAKERS, SlimConv, shares
from catchweight.spaces.fasterseg.parts import build
from catchweight.spaces.testing import SpaceContract
from catchweight.targets import count_params

SMALL = Lattice(layers=8, base=2, widths=(4, 8, 12))
DEEPER = Lattice(layers=10, base=2, widths=(4, 12))
SIZE = (64, 96)


def one_hot(index: int, count: int) -> torch.Tensor:
    return torch.eye(count, dtype=torch.float64)[index]


def made_up_ms(wanted: Sequence[Part]) -> list[float]:
    """Milliseconds of a device that tells all parts apart."""
    ops = (*OPS, "lift", "join", "fuse", "classify")
    return [
        0.01 + 1e-5 * p.inp * p.out + 1e-4 * p.height * p.width / p.stride + 0.003 * ops.index(p.op) for p in wanted
    ]


def one_hot_values(
    lattice: Lattice, first: int, second: int, rng: random.Random, ops: Sequence[str] = OPS[1:]
) -> dict[str, Any]:
    """One-hot probabilities whose maps halve at these two layers, whatever the end; other choices are random."""
    values: dict[str, Any] = {node.op: one_hot(OPS.index(rng.choice(ops)), 5) for node in lattice.nodes}
    for node in lattice.nodes:
        if lattice.steered(node):
            down = node.layer == (first if node.stride == 16 else second) + 1
            values[node.origin] = one_hot(0 if down else 1, 2)
    count = len(lattice.widths)
    return values | {name: one_hot(rng.randrange(count), count) for name in lattice.open_widths()}


# --- The lattice


def test_lattice_has_the_published_parameters() -> None:
    """alpha [16+15+14, 5], beta [14, 2] and [13, 2], ratio [15+15+14, 5]."""
    lattice = Lattice()
    shapes: dict[tuple[str, int], int] = {}
    for name, options in {**lattice.structure(), **lattice.open_widths()}.items():
        kind = name.rstrip("0123456789.").rstrip("0123456789")
        shapes[kind, int(name.rpartition(".")[2])] = shapes.get((kind, int(name.rpartition(".")[2])), 0) + 1
        assert len(options) == (2 if kind == "from" else 5)
    assert shapes == {
        ("op", 8): 16, ("op", 16): 15, ("op", 32): 14,
        ("from", 16): 14, ("from", 32): 13,
        ("width", 8): 15, ("width", 16): 15, ("width", 32): 14,
    }  # fmt: skip


def test_channels_are_those_of_a_derived_network() -> None:
    assert [Lattice().channels(s, 12) for s in (8, 16, 32)] == [96, 192, 384]
    for base, width in ((12, 1.0), (8, 1.0), (12, 2 / 3)):
        lattice = Lattice(base=base, width=width)
        config = FasterSegConfig((read_branch("c6d-c10-z"),), base=base)
        net = build_network(config_name(config), 3, width=width)
        convs = [m for m in net.get_submodule("cells").modules() if isinstance(m, torch.nn.Conv2d)]
        assert [conv.out_channels for conv in convs[:2]] == [lattice.channels(16, 6), lattice.channels(16, 10)]


def test_wrong_lattices_are_refused() -> None:
    with pytest.raises(UsageError, match="5 layers or more"):
        Lattice(layers=4)
    with pytest.raises(UsageError, match="ascending"):
        Lattice(widths=(8, 4))
    with pytest.raises(UsageError, match="student's decoder is 8"):
        FasterSegSpace(3, [SIZE], layers=5, base=2, widths=(4, 12))


# --- Operators


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", OPS)
def test_full_width_operator_computes_what_the_plain_one_does(op: str, stride: int) -> None:
    """With the same weights; a skip of stride 1, nothing in a derived network, is a 1x1 convolution."""
    torch.manual_seed(0)
    slim, x = MAKERS[op](6, (3, 6 * stride), stride).eval(), torch.randn(2, 6, 9, 12)
    if op == "skip" and stride == 1:
        assert slim(x, 1).shape == x.shape
        return
    part = build(Part(op, 9, 12, 6, 6 * stride, stride)).eval()
    pairs = zip(_weights(slim), (p for p in part.parameters() if p.ndim == 4), strict=True)
    for mine, plain in pairs:
        plain.data.copy_(mine)
    torch.testing.assert_close(slim(x, 1), part(x))


def _weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p for p in module.parameters() if p.ndim == 4]


def test_narrow_convolution_is_a_slice_with_a_norm_of_its_own() -> None:
    torch.manual_seed(0)
    conv = SlimConv(8, (3, 8)).train()
    x = torch.randn(4, 5, 6, 7)
    before = [norm.running_mean.clone() for norm in conv.norms]
    y = conv(0, x)
    assert y.shape == (4, 3, 6, 7)
    raw = torch.nn.functional.conv2d(x, conv.convs[0].weight[:3, :5], padding=1)
    torch.testing.assert_close(y, torch.nn.functional.batch_norm(raw, None, None, training=True), rtol=1e-4, atol=1e-5)
    moved = [not torch.equal(a, norm.running_mean) for a, norm in zip(before, conv.norms, strict=True)]
    assert moved == [True, False]


@given(st.integers(1, 300), st.integers(1, 2))
def test_shares_add_up(width: int, count: int) -> None:
    found = shares(width, count)
    assert sum(found) == width
    assert max(found) - min(found) <= 1


# --- The supernet


@pytest.fixture(scope="module")
def space() -> FasterSegSpace:
    torch.manual_seed(0)
    return FasterSegSpace(4, [SIZE], layers=6, base=2, widths=(4, 8, 12))


def test_five_predictions_at_stride_eight_for_odd_sizes_too(space: FasterSegSpace) -> None:
    x = torch.randn(1, 3, 67, 93)
    found = space.predictions(x, even(space.lattice), "student")
    assert tuple(found) == PREDICTIONS
    assert {tuple(logits.shape) for logits in found.values()} == {(1, 4, 9, 12)}
    with space.held(even(space.lattice), "teacher", (32, 8)):
        assert space(x).shape == (1, 4, 67, 93)
        assert len(space.train_logits(x)) == 5
    assert [info.channels for info in space.feature_info] == [16, 32, 64]


def test_gradient_reaches_every_architecture_parameter(space: FasterSegSpace) -> None:
    torch.manual_seed(1)
    logits = ArchitectureLogits(space.lattice, widths=True)
    reached: set[str] = set()
    for _ in range(3):
        found = space.train().predictions(torch.randn(2, 3, *SIZE), logits.draw(), "student")
        sum(y.square().mean() for y in found.values()).backward()
    for relaxation in (logits.structure, logits.widths):
        for name, vector in zip(relaxation.names, relaxation.logits, strict=True):
            if vector.grad is not None and bool(vector.grad.any()):
                reached.add(name)
    assert reached == {*space.lattice.structure(), *space.lattice.open_widths()}


def test_score_of_a_drawn_width_changes_no_value(space: FasterSegSpace) -> None:
    """Straight-through: the draw counts as 1, so the same widths given as numbers compute the same."""
    torch.manual_seed(2)
    logits = ArchitectureLogits(space.lattice, widths=True)
    values = logits.draw()
    widths = {name: space.lattice.widths[int(values[name].argmax())] for name in space.lattice.open_widths()}
    x = torch.randn(2, 3, *SIZE)
    space.eval()
    drawn = space.predictions(x, values, "student")
    fixed = space.predictions(x, {**values, **widths}, "student")
    for ends in PREDICTIONS:
        torch.testing.assert_close(drawn[ends], fixed[ends])


def test_node_mixes_its_inputs_by_in_degree_probabilities(space: FasterSegSpace) -> None:
    """One-hot origins: what comes from the other node makes no difference."""
    lattice, node = space.lattice, Node(3, 32)
    values = even(lattice)
    values[node.origin] = torch.tensor([0.0, 1.0])
    space.eval()
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        before = space.predictions(x, values, "student")[(32,)]
        halving = space.supernet.cells["2-16"].ops["halve"].ops[1].convs[0].convs[0].weight
        kept = halving.clone()
        halving.zero_()
        same = space.predictions(x, values, "student")[(32,)]
        values[node.origin] = torch.tensor([0.5, 0.5])
        changed = space.predictions(x, values, "student")[(32,)]
        halving.copy_(kept)
        different = space.predictions(x, values, "student")[(32,)]
    torch.testing.assert_close(before, same, rtol=0, atol=0)
    assert not torch.equal(changed, different)


def test_teacher_has_no_open_width(space: FasterSegSpace) -> None:
    teacher = ArchitectureLogits(space.lattice, widths=False)
    values = teacher.draw()
    assert {values[name] for name in space.lattice.open_widths()} == {12}
    assert sum(p.numel() for p in teacher.parameters()) == sum(map(len, space.lattice.structure().values()))


def test_random_widths_are_uniform_and_repeatable() -> None:
    lattice = Lattice()
    drawn = [v for s in range(40) for v in random_widths(lattice, torch.Generator().manual_seed(s)).values()]
    assert all(abs(drawn.count(width) / len(drawn) - 0.2) < 0.05 for width in lattice.widths)
    again = [v for s in range(40) for v in random_widths(lattice, torch.Generator().manual_seed(s)).values()]
    assert drawn == again


def test_a_member_does_not_run_in_the_supernet(space: FasterSegSpace) -> None:
    arch = space.sample(random.Random(0))
    with pytest.raises(UsageError, match="inherits no weights"):
        space.subnet(arch)
    with pytest.raises(UsageError, match="inherits no weights"):
        space.activate(arch)


# --- Derivation


def scores(lattice: Lattice, ops: dict[Node, Sequence[str]], widths: dict[Node, int], down: dict[Node, float]) -> Any:
    """Probabilities: per node its operators from the best on, its input's width, and that of coming from above."""
    values: dict[str, Any] = {node.op: one_hot(0, 5) for node in lattice.nodes}
    for node, ranked in ops.items():
        values[node.op] = sum(0.7**place * one_hot(OPS.index(op), 5) for place, op in enumerate(ranked))
    for node in lattice.nodes:
        if lattice.steered(node):
            values[node.origin] = torch.tensor([down.get(node, 0.0), 1 - down.get(node, 0.0)])
        if node.layer:
            values[node.width] = one_hot(lattice.widths.index(widths.get(node, 4)), len(lattice.widths))
    return values


def test_derives_the_published_student() -> None:
    """Six skips are removed from the deep branch and seven from the other; at layer 9 a skip that must halve becomes
    the second-best operator in the one and is removed from the other."""
    fine = ["cc", "cc", "s", "zz", "s", "s", "s", "s", "s", "s+z", "zz", "cc", "cc"]
    ops = {Node(layer, 8): text for layer, text in enumerate(fine)}
    ops |= {Node(layer, 16): "zz" for layer in range(10, 16)} | {Node(layer, 32): "zz" for layer in (14, 15)}
    codes = {"s": "skip", "z": "zoomed", "cc": "conv_2x", "zz": "zoomed_2x"}
    named = {node: [codes[code] for code in text.split("+")] for node, text in ops.items()}
    values = scores(
        Lattice(), named, {Node(10, 16): 8, Node(15, 16): 12}, {Node(10, 16): 0.6, Node(13, 16): 0.8, Node(14, 32): 0.9}
    )
    found = derive(values, Lattice(), (32, 16), stem=8, head=8)
    assert found == FASTERSEGS["fasterseg_student"]
    assert config_name(found) == "fasterseg_student"


def test_derives_the_published_teacher_from_one_hot_scores() -> None:
    teacher, lattice = FASTERSEGS["fasterseg_teacher"], Lattice()
    ops, widths, paths = {}, {}, []
    for branch in teacher.branches:
        steps = zip(branch.scales, branch.outputs(), strict=True)
        paths.append(tuple(layer for layer, (a, b) in enumerate(steps) if a != b))
        nodes = nodes_along(lattice, paths[-1])
        for node, op in zip(nodes, branch.ops, strict=True):
            assert ops.setdefault(node, [op]) == [op]
        widths |= zip(nodes[1:], branch.widths, strict=True)
    found = assemble(scores(lattice, ops, widths, {}), lattice, paths, stem=12, head=12, skips=False)
    assert found == teacher
    assert config_name(found) == "fasterseg_teacher"


def test_paths_are_limited_as_published() -> None:
    lattice = Lattice()
    assert candidates(lattice, 8) == [()]
    assert candidates(lattice, 16) == [(layer,) for layer in range(2, 14)]
    pairs = candidates(lattice, 32)
    assert pairs[0] == (2, 5)
    assert {first for first, _ in pairs} == set(range(2, 11))
    assert all(first + 3 <= second <= 13 for first, second in pairs)
    assert candidates(Lattice(layers=5), 32) == [(1, 3)]
    with pytest.raises(UsageError, match="ends at stride"):
        candidates(lattice, 64)


def test_path_has_the_largest_product_of_probabilities() -> None:
    lattice = Lattice(layers=10)
    down = {Node(3, 16): 0.9, Node(4, 16): 0.5, Node(6, 32): 0.2, Node(7, 32): 0.6, Node(8, 32): 0.5}
    values = scores(lattice, {}, {}, down)
    found = derive(values, lattice, (32, 16), stem=8, head=8, skips=False)
    assert found.branches[0].scales == (8, 8, 8, 16, 16, 16, 16, 32, 32, 32)
    assert found.branches[1].scales == (8, 8, 8, 16, 16, 16, 16, 16, 16, 16)


def ranked(path: tuple[int, ...], best: Sequence[str], sure: Sequence[float] = (), layers: int = 9) -> Any:
    """A branch whose cells have these best operators; ``sure`` is the probability of skip where it is the best."""
    lattice = Lattice(layers=layers)
    values = scores(lattice, {}, {}, {})
    for place, (node, op) in enumerate(zip(nodes_along(lattice, path), best, strict=True)):
        p = sure[place] if sure else 0.5
        values[node.op] = p * one_hot(OPS.index(op), 5) + (1 - p) * one_hot(3 if op != "conv_2x" else 1, 5)
    return assemble(values, lattice, [path], stem=8, head=8).branches[0]


def test_skips_are_removed_down_to_a_length_the_surest_first() -> None:
    """9 layers to stride 16: 3 + 2 cells must stay, so of six skips the four surest go."""
    best = ["skip", "conv", "conv", "conv", *["skip"] * 5]
    sure = [0.9, 0.5, 0.5, 0.5, 0.8, 0.7, 0.6, 0.55, 0.95]
    branch = ranked((3,), best, sure)
    assert len(branch.ops) == 5
    assert branch.ops == ("conv", "conv", "conv", "conv_2x", "conv_2x")
    assert branch.scales == (8, 8, 8, 16, 16)


def test_a_cell_stays_between_two_halvings_and_behind_the_last() -> None:
    best = ["conv", "conv", "conv", "skip", "skip", "conv", "skip", "skip", "skip"]
    sure = [0.5, 0.5, 0.5, 0.9, 0.8, 0.5, 0.7, 0.6, 0.6]
    branch = ranked((2, 5), best, sure)
    assert branch.scales == (8, 8, 8, 16, 16, 32, 32, 32)
    assert branch.ops == ("conv", "conv", "conv", "conv_2x", "conv", "conv_2x", "conv_2x", "conv_2x")


def test_a_skip_that_halves_becomes_the_second_best() -> None:
    branch = ranked((3,), ["conv", "conv", "conv", "skip", *["conv"] * 5])
    assert branch.ops[3] == "conv_2x"


def test_teacher_ignores_skips() -> None:
    lattice = Lattice(layers=9)
    values = scores(lattice, {node: ["skip", "zoomed"] for node in lattice.nodes}, {}, {})
    (branch,) = derive(values, lattice, (8,), stem=12, head=12, skips=False).branches
    assert branch.ops == ("zoomed",) * 9


@given(st.integers(0, 10**6), st.integers(5, 16))
@settings(max_examples=40, deadline=None)
def test_every_derived_network_is_one(seed: int, layers: int) -> None:
    """Whatever the probabilities: branches end where they should, no skip is left, names read back."""
    lattice, generator = Lattice(layers=layers), torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        name: torch.rand(len(options), generator=generator, dtype=torch.float64).pow(3)
        for name, options in {**lattice.structure(), **lattice.open_widths()}.items()
    }
    for ends in PAIRS:
        config = derive(values, lattice, ends, stem=8, head=8)
        assert tuple(branch.end for branch in config.branches) == ends
        assert all("skip" not in branch.ops for branch in config.branches)
        for branch, end in zip(config.branches, ends, strict=True):
            assert min(layers, round(layers / 3) + {8: 0, 16: 2, 32: 4}[end]) <= len(branch.ops) <= layers
        assert fasterseg_config(config_name(config)) == config


# --- Parts and latency


@pytest.mark.parametrize("name", [*FASTERSEGS, "fasterseg_student:branches=c4-s4-c8d-z8-c+c4-s4-zz4-c,stem=4,base=8"])
def test_parts_are_all_of_the_network(name: str) -> None:
    """Multiply-adds and parameters of the parts add up to those of the network."""
    width, size = 0.25, (64, 96)
    net = build_network(name, 5, width=width).eval()
    found = list(parts(fasterseg_config(name), size, 5, width))
    assert sum(count_params(build(part)) for part in found) == count_params(net)
    assert sum(_macs(build(p), *(torch.zeros(1, c, p.height, p.width) for c in p.inputs)) for p in found) == _macs(
        net, torch.zeros(1, 3, *size)
    )


def _macs(net: torch.nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(*inputs)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("ends", [*PAIRS, (32, 16, 8), (16,)])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_expected_latency_of_one_network_is_its_own(ends: tuple[int, ...], seed: int) -> None:
    rng = random.Random(seed)
    first, second = rng.choice(candidates(DEEPER, 32))
    values = one_hot_values(DEEPER, first, second, rng)
    latency = FasterSegLatency(DEEPER, SIZE, 5, made_up_ms, stem=8, head=8, pairs=(ends,))
    config = derive(values, DEEPER, ends, stem=8, head=8)
    assert len({branch.scales for branch in config.branches}) == len(ends)
    expected = float(latency(values))
    assert expected == pytest.approx(latency.network(config), rel=1e-12)
    whole = sum(made_up_ms_of(latency, config))
    assert expected == pytest.approx(whole, rel=1e-12)


def made_up_ms_of(latency: FasterSegLatency, config: FasterSegConfig) -> list[float]:
    """By the table, part by part, without the class's own addition."""
    return [latency._ms[part] for part in parts(config, SIZE, 5)]


def test_a_removed_skip_costs_nothing() -> None:
    lattice, rng = SMALL, random.Random(0)
    values = one_hot_values(lattice, 2, 5, rng)
    values |= {name: one_hot(1, 3) for name in lattice.open_widths()}
    latency = FasterSegLatency(lattice, SIZE, 5, made_up_ms, stem=8, head=8, pairs=((32, 8),))
    values[Node(1, 8).op] = one_hot(0, 5)
    config = derive(values, lattice, (32, 8), stem=8, head=8)
    assert [len(branch.ops) for branch in config.branches] == [7, 7]
    assert float(latency(values)) == pytest.approx(latency.network(config), rel=1e-12)


def test_shared_beginning_is_counted_once() -> None:
    values = one_hot_values(SMALL, 2, 5, random.Random(1))
    used = usage(SMALL, values, (32, 8))
    shared = [Edge(Node(layer, 8), halves=False) for layer in range(2)]
    assert [float(used[edge]) for edge in shared] == [1.0, 1.0]
    assert sum(float(p) for p in used.values()) == 8 + 8 - 2
    config = derive(values, SMALL, (32, 8), stem=8, head=8)
    assert len(list(cells(config))) == 14


def test_usage_is_a_probability_of_sets_of_paths() -> None:
    """Against drawing: each node draws where its input comes from; the union of the walks back from the ends."""
    lattice, rng = Lattice(layers=6, base=2), random.Random(0)
    values = {n.origin: torch.tensor([0.3, 0.7], dtype=torch.float64) for n in lattice.nodes if lattice.steered(n)}
    for ends in PAIRS:
        expected, draws = usage(lattice, values, ends), 4000
        counts: dict[Edge, int] = {}
        for _ in range(draws):
            for edge in drawn_edges(lattice, ends, rng, down=0.3):
                counts[edge] = counts.get(edge, 0) + 1
        assert counts.keys() <= expected.keys()
        for edge, p in expected.items():
            assert counts.get(edge, 0) / draws == pytest.approx(float(p), abs=0.04)


def drawn_edges(lattice: Lattice, ends: tuple[int, ...], rng: random.Random, down: float) -> set[Edge]:
    origin = {n: rng.random() < down for n in lattice.nodes}
    used = set()
    for end in ends:
        node = Node(lattice.layers - 1, end)
        used.add(Edge(node, halves=False))
        while node.layer:
            arrivals = dict(lattice.arrivals(node))
            wanted = "down" if origin[node] else "keep"
            edge = arrivals[wanted] if len(arrivals) > 1 else next(iter(arrivals.values()))
            used.add(edge)
            node = edge.node
    return used


def test_groups_are_decoupled_and_weighted() -> None:
    torch.manual_seed(0)
    lattice = SMALL
    latency = FasterSegLatency(lattice, SIZE, 5, made_up_ms, stem=8, head=8)
    logits = ArchitectureLogits(lattice, widths=True)
    for vector in logits.parameters():
        torch.nn.init.normal_(vector)
    values = logits.draw()
    base = even(lattice)
    ops = {name: value for name, value in values.items() if name.startswith("op")}
    paths = {name: value for name, value in values.items() if name.startswith("from")}
    widths = {name: value for name, value in values.items() if name.startswith("width")}
    terms = [float(latency({**base, **group}).detach()) for group in (ops, paths, widths)]
    weights = (0.2, 0.3, 0.5)
    found = latency.decoupled(values, weights)
    assert float(found.detach()) == pytest.approx(sum(w * t for w, t in zip(weights, terms, strict=True)), rel=1e-12)
    found.backward()
    assert all(vector.grad is not None and bool(vector.grad.any()) for vector in logits.parameters())


def test_gradient_is_that_of_the_expectation() -> None:
    """Central differences in the logits of operators and paths."""
    torch.manual_seed(1)
    lattice = Lattice(layers=5, base=2, widths=(8, 12))
    latency = FasterSegLatency(lattice, SIZE, 3, made_up_ms, stem=8, head=8)
    logits = ArchitectureLogits(lattice, widths=False).double()
    latency(logits.draw()).backward()
    for name, vector in zip(logits.structure.names, logits.structure.logits, strict=True):
        if name not in (Node(3, 16).op, Node(3, 16).origin, Node(4, 32).origin):
            continue
        step, ahead = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                vector[0] += sign * step
                ahead.append(float(latency(logits.draw())))
                vector[0] -= sign * step
        assert float(vector.grad[0]) == pytest.approx((ahead[0] - ahead[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_narrower_is_faster_in_expectation() -> None:
    latency = FasterSegLatency(SMALL, SIZE, 5, made_up_ms, stem=8, head=8)
    wide, narrow = ({**even(SMALL), **at_width(SMALL, width)} for width in (12, 4))
    assert float(latency(narrow)) < float(latency(wide))


def test_impossible_times_are_refused() -> None:
    with pytest.raises(CatchweightError, match="table of positive times"):
        FasterSegLatency(SMALL, SIZE, 5, lambda wanted: [float("nan")] * len(wanted), stem=8, head=8)


# --- Architectures as data


class TestFasterSegArchitectures(SpaceContract):
    """What the contract says of architectures. Members have no weights in the supernet, so the rest does not apply."""

    sizes = ((64, 96), (65, 93))
    members = 2

    def make(self) -> Space:
        return FasterSegSpace(3, [(64, 96), (96, 128)], layers=6, base=2, widths=(8, 12))

    def trained(self) -> Space:
        return self.make()

    def member(self, space: Space, arch: Arch) -> nn.Module:
        return space.subnet(arch, "fresh").eval()

    test_a_subnet_computes_what_the_supernet_does = None
    test_weights_are_copied_drawn_anew_or_left_out = None
    test_gradients_reach_what_is_in_use_and_nothing_else = None
    test_the_smallest_and_the_largest_member_bound_all = None
    test_one_hot_probabilities_are_a_member = None
    test_probabilities_close_to_one_hot_are_close_to_a_member = None
    test_relaxed_choices_have_gradients = None
    test_copies_are_equal_and_independent = None
    test_expected_latency_of_a_member_is_its_blocks_own = None


def test_smallest_and_largest_have_the_fewest_and_the_most_parameters() -> None:
    space = FasterSegSpace(3, [SIZE], layers=8, base=2, roles={"student": 8})
    low, high = (count_params(space.subnet(arch, "none")) for arch in (space.smallest(), space.largest()))
    rng = random.Random(0)
    assert all(low <= count_params(space.subnet(space.sample(rng), "none")) <= high for _ in range(15))


def test_the_table_of_spaces_makes_it() -> None:
    made = SPACES["fasterseg"](3, sizes=[SIZE], backbone="tf_efficientnet_lite0", weights="none")
    assert isinstance(made, FasterSegSpace)
    assert made.spec.name == "fasterseg"


def test_arch_names_the_network_it_stands_for() -> None:
    space = FasterSegSpace(3, [SIZE], layers=8, base=4)
    rng = random.Random(0)
    for _ in range(20):
        arch = space.sample(rng)
        config = fasterseg_config(space.network_name(arch))
        assert config.base == 4
        assert "-".join(str(branch.end) for branch in config.branches) == arch["ends"]
    net = space.subnet(arch, "none")
    assert net.spec.name == space.network_name(arch)
    assert next(net.parameters()).is_meta
    fresh = space.subnet(arch, "fresh").eval()
    with torch.no_grad():
        assert fresh(torch.zeros(1, 3, *SIZE)).shape == (1, 3, *SIZE)


def test_published_student_is_an_architecture_of_the_space() -> None:
    """Choose what the search chose: the same network comes out by name."""
    space = FasterSegSpace(19, [SIZE], base=1, roles={"student": 8})
    ops = dict.fromkeys((f"op{layer}.8" for layer in (2, 4, 5, 6, 7, 8)), "skip")
    ops |= {"op0.8": "conv_2x", "op1.8": "conv_2x", "op3.8": "zoomed_2x", "op9.8": "zoomed"}
    arch = {**space.sample(random.Random(0)), **ops, "ends": "32-8", "path32": "9-13"}
    name = space.network_name({k: v if not k.startswith("width") else 4 for k, v in arch.items()})
    deep = fasterseg_config(name).branches[0]
    assert deep.ops[:4] == ("conv_2x", "conv_2x", "zoomed_2x", "zoomed")
    assert deep.scales[:5] == (8, 8, 8, 8, 16)
