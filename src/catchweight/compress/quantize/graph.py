"""The float graph made ready for quantisation: shapes constant, constants folded, every node named."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from ...errors import CatchweightError, UsageError
from ...targets.graph import MODULE_KEY, fixed_input, load_graph
from ...targets.quantized import is_quantized

ACTIVATIONS = ("Relu", "Clip")
"""Activations that a quantised result computes for free: its range ends where theirs does."""


def prepare_graph(path: Path) -> onnx.ModelProto:
    """Read a float file and make it quantisable: constants folded, norms in convolutions, all shapes known.

    ``onnxruntime.quantization`` skips, without a word, tensors whose shape it does not know; so a file that leaves
    its input size free is refused, and so is a graph in which a shape stays open.

    Raises:
        CatchweightError: not an ONNX file, or it cannot be prepared.
        UsageError: the file takes any size or batch, or holds int8 tensors already.
    """
    batch, size = fixed_input(path)
    if batch is None or size is None:
        raise UsageError(f"{path} leaves its batch or size free; int8 needs fixed shapes: export it without --dynamic")
    if is_quantized(path):
        raise UsageError(f"{path} is quantised already: give the float file or the checkpoint")
    with tempfile.TemporaryDirectory() as folder, quiet(path):
        out = Path(folder) / "prepared.onnx"
        quant_pre_process(load_graph(path), out, skip_symbolic_shape=True)
        model = onnx.load(out)
    _tidy(model.graph)
    _check_shapes(model, path)
    return model


@contextlib.contextmanager
def quiet(path: Path | str) -> Iterator[None]:
    """Mute onnxruntime.quantization, which prints and logs advice that does not apply; its errors become ours.

    Raises:
        CatchweightError: for whatever it raises; names ``path``.
    """
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except CatchweightError:
        raise
    except Exception as error:  # onnx and onnxruntime raise their own untyped families
        reason = (str(error).splitlines() or [""])[0]
        raise CatchweightError(f"{path} cannot be quantised: {type(error).__name__}: {reason}") from error
    finally:
        onnxruntime.set_default_logger_severity(2)
        logging.root.setLevel(level)


class Wiring:
    """Who makes and who reads every tensor of a graph, and its constants as arrays."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = {output: node for node in graph.node for output in node.output if output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for source in node.input:
                self.readers[source].append(node)
        self.outputs = {output.name for output in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def array(self, name: str) -> np.ndarray | None:
        """A constant's values, or None when ``name`` is computed or absent."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None when there are others, or when it is a result of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one element, else None."""
        values = self.array(name)
        return float(values.reshape(())) if values is not None and values.size == 1 else None


def weight_of(node: onnx.NodeProto) -> str:
    """Name of a convolution's or matrix product's second operand."""
    return str(node.input[1])


def module_of(node: onnx.NodeProto) -> str:
    """Dotted path of the module a node was exported from; empty where the file does not say."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")


def replace_constant(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    """Give the initializer ``name`` other values, in its own type."""
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(numpy_helper.to_array(tensor).dtype), name))
            return
    raise KeyError(name)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads any more."""
    kept = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if kept & set(node.output):
            nodes.append(node)
            kept.update(node.input)
    for field, values in (
        (graph.node, nodes[::-1]),
        (graph.initializer, [t for t in graph.initializer if t.name in kept]),
    ):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)


def _tidy(graph: onnx.GraphProto) -> None:
    drop_unused(graph)
    taken: set[str] = set()
    for place, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{place}"
        taken.add(node.name)
        if node.op_type == "Conv" and len(node.input) == 2:
            _add_bias(graph, node)


def _add_bias(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """A zero bias where there is none, so that equalisation and bias correction find one; it costs no time."""
    weight = next((tensor for tensor in graph.initializer if tensor.name == node.input[1]), None)
    if weight is not None:
        name = f"{node.name}_bias"
        graph.initializer.append(numpy_helper.from_array(np.zeros(weight.dims[0], np.float32), name))
        node.input.append(name)


def _check_shapes(model: onnx.ModelProto, path: Path) -> None:
    known = {value.name for value in (*model.graph.value_info, *model.graph.output) if _is_fixed(value)}
    for node in model.graph.node:
        open_ended = [name for name in node.output if name and name not in known]
        if open_ended:
            raise CatchweightError(
                f'{path}: the shape of "{open_ended[0]}" (made by {node.op_type} "{node.name}"'
                f"{f', module {module_of(node)}' if module_of(node) else ''}) is not constant, so what follows "
                "cannot be quantised; export the network with a fixed input size"
            )


def _is_fixed(value: onnx.ValueInfoProto) -> bool:
    shape = value.type.tensor_type
    return shape.HasField("shape") and all(dim.HasField("dim_value") for dim in shape.shape.dim)
