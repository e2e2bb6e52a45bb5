"""Equalisation leaves the function alone, and makes the ranges equal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_files import GraphBuilder, noise

from catchweight.compress.quantize.equalise import equalised, find_pairs, unlimited
from catchweight.compress.quantize.simulate import runner

SMALL = (8, 8)


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Dense, grouped and depthwise convolutions in a row, with and without ReLU, with wildly different channels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    built, name, channels = GraphBuilder(SMALL), "image", 3
    for place in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["dense", "depthwise", "grouped"])) if place else "dense"
        groups = {"dense": 1, "depthwise": channels, "grouped": 2}[kind]
        out = channels * draw(st.integers(1, 2)) if kind == "depthwise" else 2 * draw(st.integers(1, 4))
        kernel = draw(st.sampled_from([1, 3]))
        weight = rng.standard_normal((out, channels // groups, kernel, kernel))
        weight *= np.exp(rng.uniform(-3, 3, (out, 1, 1, 1)))
        weight[rng.random(out) < 0.1] = 0  # dead channels
        bias = rng.standard_normal(out) if draw(st.booleans()) else None
        name = built.conv(name, f"conv{place}", weight, bias, groups)
        if draw(st.booleans()):
            name = built.op("Relu", [name], f"relu{place}")
        channels = out
    return built.model(name, channels, SMALL)


@settings(max_examples=40, deadline=None)
@given(chains())
def test_the_function_stays_as_it_is(model: onnx.ModelProto) -> None:
    pairs = find_pairs(model)
    assert pairs, "a chain has nothing but pairs"
    before, after = runner(model), runner(equalised(model, pairs))
    for image in noise(2, SMALL):
        expected = before(image)
        scale = np.abs(expected).max() + 1e-6
        assert np.abs(after(image) - expected).max() <= 2e-5 * scale


@settings(max_examples=40, deadline=None)
@given(chains())
def test_both_layers_of_a_pair_end_with_equal_ranges(model: onnx.ModelProto) -> None:
    pairs = find_pairs(model)
    after = equalised(model, pairs[-1:])
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    nodes = {node.name: node for node in after.graph.node}
    first, second = (nodes[name] for name in (pairs[-1].first, pairs[-1].second))
    weight, then = weights[first.input[1]], weights[second.input[1]]
    own = np.abs(weight).max(axis=(1, 2, 3))
    per_group = then.shape[1]
    for channel, value in enumerate(own):
        group, inside = divmod(channel, per_group)
        rows = len(then) // (len(own) // per_group)
        other = np.abs(then[group * rows : (group + 1) * rows, inside]).max()
        if value > 0 and other > 0:
            assert value == pytest.approx(other, rel=1e-4)


def _relu6(high: float) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    built = GraphBuilder(SMALL)
    first = built.conv("image", "a", rng.standard_normal((6, 3, 1, 1)), rng.standard_normal(6))
    second = built.conv(built.clip(first, "limited", high), "b", rng.standard_normal((6, 1, 3, 3)), None, 6)
    return built.model(second, 6, SMALL)


def test_a_relu6_becomes_relu_only_where_it_is_asked_for() -> None:
    model = _relu6(100.0)
    (pair,) = find_pairs(model)
    assert pair.limit == "node_limited"
    assert list(unlimited([pair])) == []
    after = equalised(model, [pair])
    assert [node.op_type for node in after.graph.node] == ["Conv", "Relu", "Conv"]
    image = noise(1, SMALL)[0]
    assert runner(after)(image) == pytest.approx(runner(model)(image), abs=1e-4), "the limit was never reached"
    binding = _relu6(0.5)
    moved = runner(equalised(binding, find_pairs(binding)))(image) - runner(binding)(image)
    assert np.abs(moved).max() > 0.1, "beyond the limit the function is another one, as the paper accepts"


@pytest.mark.parametrize("how", ["read twice", "shared weights", "result"])
def test_factors_do_not_pass_where_others_would_see_them(how: str) -> None:
    rng = np.random.default_rng(2)
    built = GraphBuilder(SMALL)
    weight = rng.standard_normal((3, 3, 1, 1))
    first = built.conv("image", "a", weight)
    if how == "shared weights":
        last = built.op("Conv", [first, "a.weight"], "again", kernel_shape=[1, 1])
    elif how == "read twice":
        last = built.op("Add", [built.conv(first, "b", weight), first], "sum")
    else:
        built.conv(first, "b", weight)
        last = first
    model = built.model(last, 3, SMALL)
    assert find_pairs(model) == []
    assert equalised(model, []).SerializeToString() == model.SerializeToString()
