"""From a float graph and ranges to the int8 file's graph, in QDQ format."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QDQQuantizer, QuantType

from ...targets.onnxruntime_target import open_session
from .calibrate import Ranges, tensors_data
from .graph import Wiring, drop_unused, quiet

OPS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Add", "Mul", "Concat", "Split",
    "Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten",
    "Slice", "Pad",
)  # fmt: skip
"""Operator types that ONNX Runtime computes on 8-bit integers, or moves them without computing."""


def quantized_graph(model: onnx.ModelProto, ranges: Ranges, left_float: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with QuantizeLinear and DequantizeLinear around everything but the nodes ``left_float``.

    Activations become uint8 with a zero point, one range a tensor; weights int8, symmetric, one range a channel: the
    combination with the fastest kernels on x86 (docs/int8.md has the measurements). A multiplication with a positive
    constant becomes part of a scale. The upsampling that makes the graph's result stays float: eight bits would be too
    coarse for interpolated logits, and it is not faster in them.

    Args:
        model: from ``prepare_graph``.
        ranges: from ``calibrate`` on the same graph.
        left_float: names of nodes.

    Raises:
        CatchweightError: ONNX Runtime cannot quantise the graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    excluded = {*left_float, *_output_makers(copy.graph), *_scalings(copy.graph)}
    present = {node.op_type for node in copy.graph.node}
    with quiet("the network"):
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=saturates(),
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=tensors_data(ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=[op for op in OPS if op in present],
            extra_options={},
        )
        quantizer.quantize_model()
    result: onnx.ModelProto = quantizer.model.model
    quantizer.model.topological_sort()
    _fold_scalings(result.graph)
    drop_unused(result.graph)
    return result


@cache
def saturates() -> bool:
    """Whether this machine's uint8 x int8 convolution overflows: found out by one whose exact result is known.

    x86 processors without VNNI add two products in 16 bits, which saturates from 32767 on; weights are then held in
    7 bits.
    """
    channels = 64
    image, weight = np.full((1, channels, 4, 4), 255, np.uint8), np.full((16, channels, 1, 1), 127, np.int8)
    one, zero = np.float32(1), np.uint8(0)
    constants = {"s": one, "zu": zero, "w": weight, "zi": np.int8(0), "so": np.float32(255 * 127 * channels / 255)}
    node = helper.make_node("QLinearConv", ["x", "s", "zu", "w", "s", "zi", "so", "zu"], ["y"], kernel_shape=[1, 1])
    graph = helper.make_graph(
        [node],
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, (1, 16, 4, 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (found,) = open_session(model.SerializeToString(), threads=1).run(None, {"x": image})
    return bool((found != 255).any())


def _output_makers(graph: onnx.GraphProto) -> set[str]:
    makers = Wiring(graph).makers
    last = [makers[output.name] for output in graph.output if output.name in makers]
    return {node.name for node in last if node.op_type == "Resize"}


def _scalings(graph: onnx.GraphProto) -> set[str]:
    wiring = Wiring(graph)
    return {node.name for node in graph.node if _scaling(node, wiring) is not None}


def _scaling(node: onnx.NodeProto, wiring: Wiring) -> tuple[str, float] | None:
    """The tensor and the positive constant that a node multiplies, or None when it does something else."""
    if node.op_type != "Mul":
        return None
    for factor, tensor in (node.input, reversed(node.input)):
        value = wiring.scalar(factor)
        if value is not None and value > 0 and tensor not in wiring.constants:
            return tensor, value
    return None


def _fold_scalings(graph: onnx.GraphProto) -> None:
    """Mul(DequantizeLinear(q, s, z), w) = DequantizeLinear(q, s * w, z): exactly the same numbers, one kernel less."""
    wiring = Wiring(graph)
    for node in graph.node:
        scaling = _scaling(node, wiring)
        source = wiring.makers.get(scaling[0]) if scaling else None
        if scaling is None or source is None or source.op_type != "DequantizeLinear":
            continue
        scale = wiring.array(source.input[1])
        assert scale is not None, "the quantiser writes scales as constants"
        name = f"{node.output[0]}_scale"
        graph.initializer.append(numpy_helper.from_array((scale * np.float32(scaling[1])).astype(np.float32), name))
        inputs = [source.input[0], name, *source.input[2:]]
        node.CopyFrom(helper.make_node("DequantizeLinear", inputs, list(node.output), node.name))
