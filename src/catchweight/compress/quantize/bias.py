"""Bias correction: what rounding the weights shifts on average is taken back in the bias.

Nagel et al., ICCV 2019, section 4.2: with a rounding error e = W~ - W of the weights, the output of a layer moves by
e * E[x] on average. E[x] is measured on calibration images here (the paper, which has none, derives it from the norms).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from ...targets.tracing.wiring import Wiring, replace_constant


def corrected(quantised: onnx.ModelProto, model: onnx.ModelProto, means: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of the int8 graph with corrected biases.

    Args:
        quantised: from ``quantized_graph(model, ...)``.
        model: the float graph it was made from.
        means: of each convolution's input tensor in ``model``, (C,): see ``inputs_of_convolutions``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(quantised)
    wiring, floats = Wiring(copy.graph), Wiring(model.graph)
    originals = {node.name: node for node in model.graph.node}
    for node in copy.graph.node:
        stored = _stored(node, wiring)
        if stored is None:
            continue
        weight, bias, scale = stored
        original = originals[node.name]
        exact = floats.array(original.input[1])
        assert exact is not None, "a quantised weight was a constant"
        shift = _mean_shift(weight - exact, means[original.input[0]])
        values = wiring.array(bias)
        assert values is not None, "looked up in _stored"
        limits = np.iinfo(np.int32)
        replace_constant(copy.graph, bias, np.clip(np.rint(values - shift / scale), limits.min, limits.max))
    return copy


def inputs_of_convolutions(model: onnx.ModelProto) -> list[str]:
    """The tensors whose channel means the correction needs."""
    return list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "Conv"))


def _stored(node: onnx.NodeProto, wiring: Wiring) -> tuple[np.ndarray, str, np.ndarray] | None:
    """Of a quantised convolution: weights as they are computed with, name of the int32 bias, scale of the bias."""
    if node.op_type != "Conv" or len(node.input) < 3:
        return None
    sources = [wiring.makers.get(name) for name in node.input[1:3]]
    weight, bias = sources
    if weight is None or bias is None or {weight.op_type, bias.op_type} != {"DequantizeLinear"}:
        return None
    integers, scale = wiring.array(weight.input[0]), wiring.array(weight.input[1])
    bias_scale = wiring.array(bias.input[1])
    if integers is None or scale is None or bias_scale is None or len(wiring.readers[bias.input[0]]) != 1:
        return None
    return integers * scale.reshape(-1, *[1] * (integers.ndim - 1)).astype(np.float64), bias.input[0], bias_scale


def _mean_shift(error: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """e * E[x]: errors (O, C / groups, k, k) of weights and means (C,) of inputs to a shift (O,) of outputs."""
    groups = len(mean) // error.shape[1]
    by_group = mean.reshape(groups, error.shape[1])
    rows = np.repeat(by_group, len(error) // groups, axis=0)
    return np.asarray((error.sum(axis=tuple(range(2, error.ndim))) * rows).sum(axis=1))
