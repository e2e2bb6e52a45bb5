"""Blocks of members without tracing each: held against torch.export and against a trace of every structure."""

from __future__ import annotations

import copy
import random

import pytest

from catchweight.errors import CatchweightError
from catchweight.nets import build_network
from catchweight.spaces.elastic_pyramid import ElasticPyramid, Options
from catchweight.targets.tracing.blocks import blocks
from catchweight.targets.tracing.shape_trace import shape_trace
from catchweight.targets.tracing.trace import trace

OPTIONS = Options(widths=(0.5, 1.0), expand=(0.5, 1.0), coarsest=(5, 6, 8), neck=(0.25, 0.5), repeats=(0, 2))
SIZE = (65, 101)


def placed(traced, precision: str = "fp32") -> list[tuple[str, str]]:
    return [(block.module, block.signature.key) for block in blocks(traced, precision)]


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv3_small_050"])
def test_blocks_are_those_of_the_exported_member(backbone: str) -> None:
    space = ElasticPyramid(20, [(64, 64)], backbone=backbone, options=OPTIONS)
    arch = space.sample(random.Random(4))
    exported = placed(trace(space.subnet(arch, "none"), SIZE))
    assert placed(shape_trace(space.subnet(arch), SIZE)) == exported
    space.signatures(space.largest(), SIZE)  # what was remembered of another must not matter
    assert [(path, found.key) for path, found in space.placed_signatures(arch, SIZE)] == exported


def test_blocks_put_together_are_those_of_a_trace() -> None:
    """Depths, levels, layers and widths in many combinations, from a few parts that are remembered."""
    space, rng = ElasticPyramid(20, [(64, 64)], options=OPTIONS).eval(), random.Random(5)
    for arch in [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(40))]:
        with space.activate(arch):
            expected = placed(shape_trace(space, SIZE), "fp16")
        found = space.placed_signatures(arch, SIZE, precision="fp16")
        assert [(path, signature.key) for path, signature in found] == expected


def test_size_and_batch_are_part_of_it() -> None:
    space = ElasticPyramid(4, [(64, 64)], options=OPTIONS)
    arch = space.largest()
    shapes = {space.signatures(arch, size, batch)[0].inputs for size in ((64, 96), (96, 64)) for batch in (1, 2)}
    assert len(shapes) == 4
    assert copy.deepcopy(space).signatures(arch, SIZE) == space.signatures(arch, SIZE)


def test_asking_leaves_the_supernet_as_it_was() -> None:
    space = ElasticPyramid(4, [(64, 64)], options=OPTIONS).train()
    before = copy.deepcopy(space.state_dict())
    arch = space.smallest()
    with space.activate(arch):
        space.signatures(space.largest(), SIZE)
        assert {name: choice.value for name, choice in space.named_choices().items()} == dict(arch)
    assert space.training
    assert all((value == before[name]).all() for name, value in space.state_dict().items())


def test_an_unknown_operator_is_named() -> None:
    net = build_network("timm/pvt_v2_b0+fpn", 4)
    with pytest.raises(CatchweightError, match="not known here"):
        shape_trace(net, (64, 64))
