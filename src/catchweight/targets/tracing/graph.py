"""From a network to one ONNX file, and safely back from a file to a graph."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import nn

from ...errors import CatchweightError, UsageError
from ...files import written_aside
from .same_padding import TRANSLATIONS, symbolic_same_padding

OPSET = 20
INPUT, OUTPUT = "image", "logits"
MODULE_KEY = "catchweight.module"
"""Key in a node's ``metadata_props``: dotted path of the module whose call the node computes."""

Dynamic = bool | Literal["batch", "size"]
"""What may vary in an exported file: nothing (False), the batch, the height and width, or all three (True)."""

_AXES: dict[int, str] = {0: "batch", 2: "height", 3: "width"}
_PROTOBUF_LIMIT = 2**31


def to_onnx(net: nn.Module, path: Path, size: tuple[int, int], batch: int = 1, dynamic: Dynamic = False) -> Path:
    """Write ``net`` as one ONNX file, bare of metadata: :func:`build_graph`, then :func:`save_graph`."""
    return save_graph(build_graph(net, size, batch, dynamic), path)


def build_graph(net: nn.Module, size: tuple[int, int], batch: int = 1, dynamic: Dynamic = False) -> onnx.ModelProto:
    """The ONNX graph of ``net``, made by the dynamo exporter, weights inside.

    Input ``image`` is (B, 3, H, W), output ``logits`` is (B, K, H, W). The graph is that of evaluation mode,
    with constants folded and norms and constant padding merged into convolutions; every module's own mode is as
    it was afterwards. Each node remembers the module it comes from, so that a departure can be named.

    Args:
        net: takes one image batch, gives one tensor of logits.
        size: (H, W) of the images.
        batch: images per run.
        dynamic: what may vary at run time; ``size`` and ``batch`` are then only examples.

    Raises:
        UsageError: ``size``, ``batch`` or ``dynamic`` makes no sense.
        CatchweightError: the network has an operator or control flow that cannot be exported.
    """
    axes = _dynamic_axes(dynamic)
    if min(*size, batch) < 1:
        raise UsageError(f"export needs a positive size and batch, but got size {size} and batch {batch}")
    # A dimension of 1 would be specialised by torch.export, so a free batch is traced with two images.
    example = torch.zeros(2 if 0 in axes else batch, 3, *size)
    with evaluating(net):
        return _exported(net, example, axes)


def save_graph(model: onnx.ModelProto, path: Path) -> Path:
    """Write one self-contained file in one step; CatchweightError when it is too large or cannot be written."""
    if model.ByteSize() >= _PROTOBUF_LIMIT:
        raise CatchweightError(f"{path}: the network is over 2 GB, which one ONNX file cannot hold")
    with written_aside(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return Path(path)


def traced_graph(program: torch.export.ExportedProgram) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph of an already traced program, and for every node's and result's name the operator it comes from.

    The program must have been traced ``exportable`` (see :mod:`.trace`), so that its names last through the exporter.

    Raises:
        CatchweightError: the network has an operator or control flow that cannot be exported.
    """
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:  # as in _exported
        raise CatchweightError(f"the traced network cannot be exported to ONNX: {_reason(error)}") from error
    assert exported is not None, "the dynamo exporter returns a program unless it raises"
    model = exported.model_proto
    origins: dict[str, str] = {}
    for node in model.graph.node:
        origin = _origin_of(node)
        for name in (node.name, *node.output):
            if name and origin:
                origins[name] = origin
    return _cleaned(model, ()), origins


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, weights included.

    Raises:
        CatchweightError: no such file, not ONNX, or its weights lie in files outside the model's folder (a
            file from elsewhere must not make us read arbitrary paths).
    """
    check_onnx(path)
    model = _read(Path(path))
    onnx.load_external_data_for_model(model, str(Path(path).resolve().parent))
    return model


def check_onnx(path: Path) -> None:
    """Refuse what must not be handed to a runtime; the same errors as :func:`load_graph`."""
    folder = Path(path).resolve().parent
    for tensor in _tensors(_read(Path(path)).graph):
        for entry in tensor.external_data:
            if entry.key == "location" and not (folder / entry.value).resolve().is_relative_to(folder):
                raise CatchweightError(
                    f'{path}: the weights of "{tensor.name}" lie outside its folder, at "{entry.value}". '
                    "Such a file is refused; store the weights inside the file or beside it"
                )


def fixed_input(path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the (H, W) that a file is fixed to; None for what is free. The errors of :func:`load_graph`."""
    check_onnx(path)
    dims = _read(Path(path)).graph.input[0].type.tensor_type.shape.dim
    batch, height, width = (dims[axis].dim_value if len(dims) > axis else 0 for axis in (0, 2, 3))
    return batch or None, (height, width) if height and width else None


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _dynamic_axes(dynamic: Dynamic) -> tuple[int, ...]:
    choices: dict[Dynamic, tuple[int, ...]] = {False: (), "batch": (0,), "size": (2, 3), True: (0, 2, 3)}
    if dynamic not in choices:
        raise UsageError(f'dynamic must be False, True, "batch" or "size", but got {dynamic!r}')
    return choices[dynamic]


def _exported(net: nn.Module, example: torch.Tensor, axes: Sequence[int]) -> onnx.ModelProto:
    parameter = next(net.parameters(), None)
    if parameter is not None:
        example = example.to(parameter)
    shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),) if axes else None
    try:
        with _quiet(), symbolic_same_padding(net) if 2 in axes else nullcontext():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the network's own code raised
        raise CatchweightError(f"{type(net).__name__} cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None, "the dynamo exporter returns a program unless it raises"
    return _cleaned(program.model_proto, axes)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes about its own internals are nothing that a user of ours can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _cleaned(model: onnx.ModelProto, axes: Sequence[int]) -> onnx.ModelProto:
    """Drop the exporter's traces (source code and paths of the machine that exported) but keep the module."""
    for node in model.graph.node:
        module = _module_of(node)
        del node.metadata_props[:]
        node.doc_string = ""
        if module:
            node.metadata_props.add(key=MODULE_KEY, value=module)
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    if axes:
        _name_axes(model.graph, axes)
    return model


def _module_of(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _origin_of(node: onnx.NodeProto) -> str:
    """Name of the traced operator: the exporter writes down the operator's own line, ``%name : ...``."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.fx_node" and entry.value.startswith("%"):
            return entry.value[1:].split(" ", 1)[0]
    return ""


def _name_axes(graph: onnx.GraphProto, axes: Sequence[int]) -> None:
    """Call free dimensions batch, height, width; inner shapes are the runtime's to infer."""
    del graph.value_info[:]
    dims = graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: _AXES[axis] for axis in axes}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise CatchweightError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError is of another class in each of its implementations
        raise CatchweightError(f"{path} is not an ONNX file ({error})") from error
    if not model.graph.node and not model.graph.output:
        raise CatchweightError(f"{path} is not an ONNX file: it holds no graph")
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
