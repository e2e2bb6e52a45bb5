"""The space of dense prediction cells: how many there are, none twice, and the weights they share."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from catchweight.nets.dpc import CELLS, Cell, DpcConfig
from catchweight.spaces import SPACES, DensePredictionCells
from catchweight.spaces.dpc import CellOptions, Cells, cell_of, encode
from catchweight.spaces.dpc.cells import KINDS, different_cells
from catchweight.spaces.testing import SpaceContract, image

SMALL = CellOptions(branches=2, rates=(1, 3), grids=(1, 2))
BACKBONE = "test_efficientnet"


class TestDpc(SpaceContract):
    sizes = ((64, 96), (65, 83))
    members = 2

    def make(self):
        return DensePredictionCells(
            3, [(64, 96)], backbone=BACKBONE, config=DpcConfig(filters=8, rate=0.5), options=SMALL
        )


def test_the_published_space_has_the_published_size():
    options = CellOptions()
    assert options.operations == 81
    assert options.encodings == 120 * 81**5 == 418_414_128_120
    space = DensePredictionCells(3, [(64, 96)], backbone=BACKBONE, config=DpcConfig(filters=8))
    assert space.size() == options.encodings
    assert space.distinct().size() == different_cells(5, 81) < options.encodings


def every_cell(options: CellOptions) -> list[dict]:
    """All encodings."""
    cells = Cells(options)
    names = list(cells)
    values = itertools.product(*(cells[name].options for name in names))
    return [dict(zip(names, chosen, strict=True)) for chosen in values]


@pytest.mark.parametrize(
    "options", [SMALL, CellOptions(3, (1,), (1, 2)), CellOptions(3, (1, 6), (1,)), CellOptions(4, (1,), (1,))]
)
def test_different_cells_are_counted_as_enumeration_finds_them(options):
    cells = Cells(options)
    found = {cells.canonical(values) for values in every_cell(options)}
    assert len(found) == cells.size() == different_cells(options.branches, options.operations)
    assert len({cell_of(arch).canonical() for arch in found}) == len(found)


def test_with_one_operation_cells_are_rooted_trees():
    # Sloane's A000081, shifted: forests of n nodes are rooted trees of n + 1.
    assert [different_cells(n, 1) for n in range(9)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


def test_draws_are_uniform_over_encodings_as_published():
    options = CellOptions(2, (1, 3), (1,))
    cells, rng = Cells(options), random.Random(0)
    expected: Counter = Counter()
    for values in every_cell(options):
        if super(Cells, cells).arch(cells.indices(values)).to_json() == values:  # once for what is not in use
            expected[cells.canonical(values)] += 1
    assert sum(expected.values()) == options.encodings
    drawn = Counter(cells.sample(rng) for _ in range(20 * len(expected)))
    assert set(drawn) <= set(expected)
    scale = sum(drawn.values()) / sum(expected.values())
    assert chisquare([drawn[arch] for arch in expected], [scale * n for n in expected.values()]).pvalue > 1e-3


def test_variations_are_other_cells():
    cells, rng = Cells(SMALL), random.Random(1)
    for _ in range(60):
        arch, other = cells.sample(rng), cells.sample(rng)
        assert cells.canonical(arch) == arch
        assert cells.mutate(arch, rng, 0.2) != arch
        assert cells.crossover(arch, arch, rng) == arch
        child = cells.crossover(arch, other, rng)
        assert cells.canonical(child) == child
        near = cells.neighbours(arch)
        assert arch not in near
        assert len(set(near)) == len(near) > 0


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_named_cells_are_members(cell):
    cells = Cells()
    arch = cells.canonical(encode(cell))
    assert cell_of(arch) == cell.canonical()
    assert str(Cell.parse(str(cell_of(arch)))) == str(cell.canonical())


def test_a_backbone_with_few_channels_has_its_own_order_of_inputs():
    wide = DensePredictionCells(
        3, [(64, 96)], backbone=BACKBONE, config=DpcConfig(filters=512), options=CellOptions(2, (1,), (1,))
    )
    thin = DensePredictionCells(
        3, [(64, 96)], backbone=BACKBONE, config=DpcConfig(filters=8), options=CellOptions(2, (1,), (1,))
    )
    assert wide.choices()["input1"] == (-1, 0)
    assert thin.choices()["input1"] == (0, -1)
    for space in (wide, thin):
        counts = [sum(p.numel() for p in space.subnet(end).parameters()) for end in (space.smallest(), space.largest())]
        assert counts[0] < counts[1]


def test_members_have_published_names_and_share_weights_whatever_their_rates():
    space = TestDpc().make().eval()
    first = {"input0": -1, "op0": "atrous", "rate_h0": 1, "rate_w0": 3, "input1": 0, "op1": "conv"}
    arch = space.canonical({**{name: options[0] for name, options in space.choices().items()}, **first})
    other = space.canonical({**arch, "rate_h0": 3, "rate_w0": 1})
    assert space.network_name(arch) == f"dpc/{BACKBONE}:cell=x.r1x3-0.c,filters=8,rate=0.5"
    one, two = space.subnet(arch), space.subnet(other)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    x = image((128, 192))
    with torch.no_grad():
        assert not torch.allclose(one(x), two(x))


def test_it_is_a_space_that_fit_knows():
    small, large = (SPACES["dpc"](3, [size], backbone=BACKBONE) for size in ((64, 96), (513, 700)))
    assert isinstance(small, DensePredictionCells)
    assert (small.config.rate, large.config.rate) == (0.12, None), "rates shrink with inputs below the published crop"
    assert KINDS[-1] == "atrous"
