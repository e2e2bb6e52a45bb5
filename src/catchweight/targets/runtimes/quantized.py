"""int8 files for ONNX Runtime: a float graph made ready, and quantised with given ranges of activations.

Which ranges, and whether the result is worth having, is decided by compression; :func:`quantize_for_latency` takes
those of random images, to measure latency before anything is trained.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorsData,
    create_calibrator,
)

from ...errors import CatchweightError, StorageError
from ..tracing.graph import MODULE_KEY, load_graph, save_graph
from ..tracing.wiring import Wiring, drop_unused

OPS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Add", "Mul", "Concat", "Split",
    "Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten",
    "Slice", "Pad",
)  # fmt: skip
"""Operator types that ONNX Runtime computes on 8-bit integers, or moves them without computing."""

Ranges = dict[str, tuple[float, float]]
"""Lowest and highest value of each activation tensor that its quantised form must hold."""

_NOISE_IMAGES = 4


def prepare_graph(path: Path, batch: int | None = None, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """Read a float file and make it quantisable: constants folded, norms in convolutions, every shape known.

    ONNX Runtime's quantiser skips, without a word, tensors whose shape it does not know; so a graph in which one
    stays open is refused.

    Args:
        batch, size: what free axes of the input are fixed to.

    Raises:
        CatchweightError: not an ONNX file, or its shapes are not constant; names the node.
    """
    model = load_graph(path)
    for axis, length in ((0, batch), (2, size and size[0]), (3, size and size[1])):
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if length and not dim.HasField("dim_value"):
            dim.dim_value = length
    if not _is_fixed(model.graph.input[0]):
        raise CatchweightError(f"{path} leaves its batch or size free; int8 needs fixed shapes: export it with them")
    with quiet(path):
        model = onnx.shape_inference.infer_shapes(_folded(model), data_prop=True)
    _tidy(model.graph)
    _check_shapes(model.graph, path)
    return model


def calibrate(
    model: onnx.ModelProto,
    images: Iterable[np.ndarray],
    kind: CalibrationMethod = CalibrationMethod.MinMax,
    options: Mapping[str, Any] | None = None,
) -> Ranges:
    """Ranges of every tensor that is quantised, seen on images (B, 3, H, W) float32, one batch in memory at a time.

    Args:
        model: from :func:`prepare_graph`.
        kind, options: ONNX Runtime's way of choosing them.

    Raises:
        CatchweightError: ONNX Runtime cannot run the graph.
    """
    with tempfile.TemporaryDirectory() as folder, quiet("the network"):
        source = Path(folder) / "float.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            list(OPS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=dict(options or {}),
        )
        for image in images:
            calibrator.collect_data(_Feed({model.graph.input[0].name: image}))
        found = calibrator.compute_data()
    # The calibrators give scalars or arrays of one element, depending on the method.
    return {
        tensor: (float(np.min(one.range_value[0])), float(np.max(one.range_value[1]))) for tensor, one in found.items()
    }


def quantized_graph(model: onnx.ModelProto, ranges: Ranges, left_float: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with QuantizeLinear and DequantizeLinear around everything but the nodes ``left_float``.

    Activations become uint8 with a zero point, one range a tensor; weights int8, symmetric, one range a channel: the
    combination with the fastest kernels on x86. A multiplication with a positive constant becomes part of a scale. The
    upsampling that makes the graph's result stays float: eight bits would be too coarse for interpolated logits, and it
    is not faster in them.

    Args:
        model: from :func:`prepare_graph`.
        ranges: from :func:`calibrate` on the same graph.
        left_float: names of nodes.

    Raises:
        CatchweightError: ONNX Runtime cannot quantise the graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    excluded = {*left_float, *always_float(copy.graph), *_scalings(copy.graph)}
    present = {node.op_type for node in copy.graph.node}
    as_arrays = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    with quiet("the network"):
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=saturates(),
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, as_arrays),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=[op for op in OPS if op in present],
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    _fold_scalings(result.graph)
    drop_unused(result.graph)
    return result


def quantize_for_latency(path: Path, out: Path, batch: int = 1, size: tuple[int, int] | None = None) -> Path:
    """The int8 file of an ONNX file, with ranges calibrated on random images.

    It is as fast as a properly calibrated one, but its predictions are worth nothing.

    Raises:
        CatchweightError: the file cannot be read or quantised.
    """
    model = prepare_graph(path, batch, size)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    images = (rng.standard_normal(shape, dtype=np.float32) for _ in range(_NOISE_IMAGES))
    return save_graph(quantized_graph(model, calibrate(model, images)), out)


def is_quantized(path: Path) -> bool:
    """Whether a file's graph already holds quantised tensors; the errors of :func:`.graph.load_graph`."""
    return any(node.op_type in {"QuantizeLinear", "QLinearConv"} for node in load_graph(path).graph.node)


def always_float(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that are never quantised: the upsampling at the end of a graph."""
    makers = Wiring(graph).makers
    last = [makers[output.name] for output in graph.output if output.name in makers]
    return {node.name for node in last if node.op_type == "Resize"}


@cache
def saturates() -> bool:
    """Whether this machine's uint8 x int8 convolution overflows: found out by one whose exact result is known.

    x86 processors without VNNI add two products in 16 bits, which saturate at 32767; weights are then held in 7 bits.
    """
    channels = 64
    image, weight = np.full((1, channels, 4, 4), 255, np.uint8), np.full((16, channels, 1, 1), 127, np.int8)
    constants: dict[str, Any] = {
        "one": np.float32(1), "w": weight, "u": np.uint8(0), "i": np.int8(0), "out": np.float32(127 * channels),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", "one", "u", "w", "one", "i", "out", "u"], ["y"], kernel_shape=[1, 1])
    graph = helper.make_graph(
        [node],
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, (1, 16, 4, 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": image})
    return bool((found != 255).any())


@contextlib.contextmanager
def quiet(path: Path | str) -> Iterator[None]:
    """Mute onnxruntime's quantiser, which prints and logs advice that does not apply; its errors become ours.

    Raises:
        StorageError: a temporary file cannot be written.
        CatchweightError: for whatever else it raises; names ``path``.
    """
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except CatchweightError:
        raise
    except OSError as error:
        raise StorageError(f"{path} cannot be quantised: {error.strerror or error}; free some space") from error
    except Exception as error:  # onnx and onnxruntime raise their own untyped families
        reason = (str(error).splitlines() or [""])[0]
        raise CatchweightError(f"{path} cannot be quantised: {type(error).__name__}: {reason}") from error
    finally:
        onnxruntime.set_default_logger_severity(2)
        logging.root.setLevel(level)


class _Feed(CalibrationDataReader):
    """One batch, then nothing: ONNX Runtime's calibrators keep every activation of what one reader gives."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._feeds = iter([feed])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """After ONNX Runtime's optimisations that hold on every machine: constants folded, norms in convolutions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _tidy(graph: onnx.GraphProto) -> None:
    """Every node gets a name of its own, every convolution a bias (for later corrections; it costs no time)."""
    drop_unused(graph)
    constants = Wiring(graph).constants
    taken: set[str] = set()
    for place, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{place}"
        taken.add(node.name)
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in constants:
            zeros = np.zeros(constants[node.input[1]].dims[0], np.float32)
            graph.initializer.append(numpy_helper.from_array(zeros, f"{node.name}_bias"))
            node.input.append(f"{node.name}_bias")


def _check_shapes(graph: onnx.GraphProto, path: Path) -> None:
    known = {value.name for value in (*graph.value_info, *graph.output) if _is_fixed(value)}
    for node in graph.node:
        for name in node.output:
            if name and name not in known:
                module = next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
                raise CatchweightError(
                    f'{path}: the shape of "{name}" (made by {node.op_type} "{node.name}"'
                    f"{f', module {module}' if module else ''}) is not constant, so what follows cannot be quantised; "
                    "export the network with a fixed input size"
                )


def _is_fixed(value: onnx.ValueInfoProto) -> bool:
    shape = value.type.tensor_type
    return shape.HasField("shape") and all(dim.HasField("dim_value") for dim in shape.shape.dim)


def _scalings(graph: onnx.GraphProto) -> set[str]:
    wiring = Wiring(graph)
    return {node.name for node in graph.node if _scaling(node, wiring) is not None}


def _scaling(node: onnx.NodeProto, wiring: Wiring) -> tuple[str, float] | None:
    """The tensor and the positive constant that a node multiplies, or None when it does something else."""
    if node.op_type != "Mul":
        return None
    operands: Sequence[str] = node.input
    for factor, tensor in (operands, operands[::-1]):
        value = wiring.scalar(factor)
        if value is not None and value > 0 and tensor not in wiring.constants:
            return tensor, value
    return None


def _fold_scalings(graph: onnx.GraphProto) -> None:
    """Mul(DequantizeLinear(q, s, z), w) = DequantizeLinear(q, s * w, z): the same numbers, one kernel less."""
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
