"""Where an exported file stops computing what the network computes: the first module that departs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ..targets.graph import MODULE_KEY, evaluating, load_graph
from ..targets.onnxruntime_target import open_session


@dataclass(frozen=True)
class Departure:
    """The first module, in order of computation, whose output in the file is not that of the network.

    Attributes:
        module: dotted path, as in ``net.get_submodule``; empty for what the network's own ``forward`` does last.
        kind: the module's class.
        folded: path of a norm that the file computes within this module, or None.
        difference: largest |difference| over the largest |value| of the eager output.
        after: the last module before it that still agrees, or None.
    """

    module: str
    kind: str
    folded: str | None
    difference: float
    after: str | None

    def __str__(self) -> str:
        name = f'layer "{self.module}" ({self.kind})' if self.module else "the last step of forward()"
        folded = f', with "{self.folded}" folded into it,' if self.folded else ""
        before = f'; "{self.after}" before it agrees' if self.after else ""
        return f"{name}{folded} departs first, by {self.difference:.2g} of its largest value{before}"


@dataclass(frozen=True)
class Place:
    """Where the file holds a module's output: node index in order of computation, and value name."""

    position: int
    value: str


def first_departure(path: Path, net: nn.Module, image: Tensor, rel: float = 1e-3) -> Departure | None:
    """Compare every module's eager output with the value the file computes for it.

    One run of each: forward hooks collect the network's outputs, a copy of the graph gives out the last value
    of each module.

    Args:
        path: a file written by ``to_onnx`` or ``export`` from the same network.
        net: the network in eager torch.
        image: (B, 3, H, W) float, of a batch and size that the file accepts.
        rel: largest allowed |difference|, relative to the largest |value|.

    Returns:
        The first departure, or None when every module and the output agree.
    """
    model = load_graph(path)
    places = module_places(model.graph)
    eager = _eager_outputs(net, image, places)
    exported = _values(model, {place.value for place in places.values()}, image)
    agreed: str | None = None
    # Modules that end in the same node are told apart by depth: the innermost names the trouble best.
    for name in sorted(eager, key=lambda name: (places[name].position, -name.count("."))):
        place, expected = places[name], eager[name]
        found = exported[place.value]
        if found.shape != tuple(expected.shape):
            continue  # the exporter merged the module's last step into a later one: it cannot be compared
        difference = relative_difference(torch.from_numpy(found), expected)
        if not difference <= rel:  # also true of nan
            return _departure(net, model.graph, place, name, difference, agreed)
        agreed = name or agreed
    return None


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest |found - expected| over largest |expected|; nan when a value is not finite."""
    found, expected = found.double(), expected.double()
    return float((found - expected).abs().amax() / expected.abs().amax().clamp_min(1e-12))


def module_places(graph: onnx.GraphProto) -> dict[str, Place]:
    """Dotted module path -> the last value computed inside it; the network itself has the empty path."""
    places: dict[str, Place] = {}
    for position, node in enumerate(graph.node):
        scope = next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
        parts = scope.split(".") if scope else []
        for depth in range(1, len(parts) + 1):
            places[".".join(parts[:depth])] = Place(position, node.output[0])
    return {**places, "": Place(len(graph.node), graph.output[0].name)}


def _eager_outputs(net: nn.Module, image: Tensor, wanted: dict[str, Place]) -> dict[str, Tensor]:
    outputs: dict[str, list[Tensor]] = {}
    parameter = next(net.parameters(), image)
    with _hooked(net, wanted, outputs), evaluating(net):
        net(image.to(parameter))
    # A module called more than once has no one value in the file.
    return {name: calls[0] for name, calls in outputs.items() if len(calls) == 1}


@contextmanager
def _hooked(net: nn.Module, wanted: dict[str, Place], outputs: dict[str, list[Tensor]]) -> Iterator[None]:
    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            # A copy: an activation that works in place would change it after the module has ended.
            outputs.setdefault(name, []).append(output.detach().float().cpu().clone())

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, module in net.named_modules()
        if name in wanted
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _values(model: onnx.ModelProto, names: set[str], image: Tensor) -> dict[str, np.ndarray]:
    """Run a copy of the graph that also gives out the named inner values."""
    present = {output.name for output in model.graph.output}
    wanted = [*present, *sorted(names - present)]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
    session = open_session(copy.SerializeToString(), threads=1)
    found = session.run(wanted, {session.get_inputs()[0].name: image.float().cpu().numpy()})
    return dict(zip(wanted, found, strict=True))


def _departure(
    net: nn.Module, graph: onnx.GraphProto, place: Place, name: str, difference: float, agreed: str | None
) -> Departure:
    owner = _weight_owner(net, graph, place) if name else None
    folded = name if owner not in (None, name) else None
    module = owner or name
    kind = type(net.get_submodule(module)).__name__
    return Departure(module, kind, folded, difference, agreed)


def _weight_owner(net: nn.Module, graph: onnx.GraphProto, place: Place) -> str | None:
    """The module whose weights the node uses: a convolution keeps their name when a norm is folded into it."""
    modules = dict(net.named_modules())
    owners = (value.rsplit(".", 1)[0] for value in graph.node[place.position].input if value.endswith(".weight"))
    return next((owner for owner in owners if owner in modules), None)
