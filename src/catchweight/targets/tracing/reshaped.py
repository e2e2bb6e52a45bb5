"""The trace of a network whose weights have other shapes, without tracing it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_map_only

from ...errors import CatchweightError
from .trace import Trace, read_program


def reshaped(traced: Trace, shapes: Mapping[str, Sequence[int]]) -> Trace:
    """The operators of ``traced`` as they are when the named parameters and buffers have these shapes.

    The recorded graph runs on tensors without data, so this takes milliseconds where tracing takes seconds.

    Args:
        traced: of the network with its present weights; stays as it is.
        shapes: by dotted path; weights that are not named keep theirs.

    Raises:
        CatchweightError: the graph has numbers written into it that do not go with these shapes.
    """
    program = traced.program
    with _fitted(program.graph_module.graph, _constants(program), shapes):
        shadow = _Shapes(program.graph_module)
        try:
            shadow.run(*_inputs(program, shapes))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise CatchweightError(f"the recorded graph does not run with pruned weights: {reason}") from error
        old = {node: node.meta["val"] for node in shadow.found}
        try:
            for node, value in shadow.found.items():
                node.meta["val"] = value
            return read_program(program, traced.image)
        finally:
            for node, value in old.items():
                node.meta["val"] = value


class _Shapes(Interpreter):
    """Runs a graph on the meta device and remembers every result; what no new shape reaches is not run again."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.found: dict[Node, Any] = {}
        self._changed: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        if n.op == "call_function" and "assert" in str(n.target):
            return None  # checks of device and type, which are not what they were
        known = n.meta.get("val")
        if n.op == "call_function" and known is not None and self._changed.isdisjoint(n.all_input_nodes):
            result = tree_map_only(Tensor, _empty, known)
        else:
            result = super().run_node(n)
        if n.op != "output" and known is not None:
            self.found[n] = result
            if _sizes(result) != _sizes(known):
                self._changed.add(n)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("meta")}
        return super().call_function(target, args, kwargs)


def _empty(value: Tensor) -> Tensor:
    return torch.empty(tuple(value.shape), dtype=value.dtype, device="meta")


def _sizes(value: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _constants(program: Any) -> dict[str, str]:
    """Placeholder -> dotted path of the weight it stands for."""
    return {
        spec.arg.name: str(spec.target)
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None
    }


def _inputs(program: Any, shapes: Mapping[str, Sequence[int]]) -> Iterator[Tensor]:
    paths = _constants(program)
    for node in program.graph_module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            shape = shapes.get(paths.get(node.name, ""), value.shape)
            yield torch.empty(tuple(shape), dtype=value.dtype, device="meta")


@contextmanager
def _fitted(graph: Any, paths: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Numbers of layers that the graph has written out (groups, normalised shape), made those of the new weights."""
    changed: list[tuple[Node, tuple[Any, ...]]] = []
    try:
        for node in graph.nodes:
            arguments = _refit(node, paths, shapes) if node.op == "call_function" else None
            if arguments is not None:
                changed.append((node, node.args))
                node.args = arguments
        yield
    finally:
        for node, arguments in changed:
            node.args = arguments


def _refit(node: Node, paths: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> tuple[Any, ...] | None:
    """New arguments of a layer that counts its channels itself; None for all others."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return None
    places = {argument.name: place for place, argument in enumerate(schema.arguments)}
    weight = node.args[places["weight"]] if "weight" in places and places["weight"] < len(node.args) else None
    if not isinstance(weight, Node) or paths.get(weight.name) not in shapes:
        return None
    old, new = weight.meta["val"].shape, shapes[paths[weight.name]]
    arguments: list[Any] = list(node.args)
    for name in ("groups", "num_groups"):
        place = places.get(name, len(arguments))
        if place < len(arguments) and isinstance(arguments[place], int) and arguments[place] > 1:
            arguments[place] = max(1, arguments[place] * new[0] // old[0])
    if "normalized_shape" in places:
        arguments[places["normalized_shape"]] = list(new)
    return tuple(arguments)
