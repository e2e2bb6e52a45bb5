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

from ..targets.runtimes.onnxruntime_target import open_session
from ..targets.tracing.graph import MODULE_KEY, evaluating, load_graph


@dataclass(frozen=True)
class Departure:
    """The first module, in order of computation, whose output in the file is not that of the network.

    Attributes:
        module: dotted path, as in ``net.get_submodule``; empty for what the network's own ``forward`` does last.
        kind: the module's class.
        seen: the module at whose output it shows. Another one than ``module`` when the file has a norm or an
            activation merged with it and holds no value in between.
        difference: largest |difference| over the largest |value| of the eager output.
        after: the last module before it that still agrees, or None.
    """

    module: str
    kind: str
    seen: str
    difference: float
    after: str | None

    def __str__(self) -> str:
        name = f'layer "{self.module}" ({self.kind})' if self.module else "the last step of forward()"
        merged = f' (seen at "{self.seen}", which the file computes with it)' if self.seen != self.module else ""
        before = f'; "{self.after}" before it agrees' if self.after else ""
        return f"{name} departs first{merged}, by {self.difference:.2g} of its largest value{before}"


@dataclass(frozen=True)
class _Pair:
    """One call of a module: where the file holds its output, and what it should be."""

    module: str
    position: int
    value: str
    expected: Tensor


def first_departure(path: Path, net: nn.Module, image: Tensor, rel: float = 1e-3) -> Departure | None:
    """Compare every module's eager output with the value the file computes for it.

    One run of each: forward hooks collect the network's outputs, a copy of the graph gives out the values that
    belong to them.

    Args:
        path: a file written by ``to_onnx`` or ``export`` from the same network.
        net: the network in eager torch.
        image: (B, 3, H, W) float, of a batch and size that the file accepts.
        rel: largest allowed |difference|, relative to the largest |value|.

    Returns:
        The first departure, or None when every module and the output agree.
    """
    model = load_graph(path)
    pairs = _pairs(model.graph, _eager_outputs(net, image))
    exported = _values(model, {pair.value for pair in pairs}, image)
    agreed: dict[str, str] = {}
    for pair in pairs:
        found = exported[pair.value]
        if found.shape != tuple(pair.expected.shape):
            continue  # the exporter merged the module's last step into a later one: it cannot be compared
        difference = relative_difference(torch.from_numpy(found), pair.expected)
        if not difference <= rel:  # also true of nan
            module = _weight_owner(net, model.graph, pair.value, set(agreed)) or pair.module
            kind = type(net.get_submodule(module)).__name__
            return Departure(module, kind, pair.module, difference, next(reversed(agreed.values()), None))
        agreed[pair.value] = pair.module
    return None


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest |found - expected| over largest |expected|; nan when a value is not finite."""
    found, expected = found.double(), expected.double()
    return float((found - expected).abs().amax() / expected.abs().amax().clamp_min(1e-12))


def _pairs(graph: onnx.GraphProto, outputs: dict[str, list[Tensor]]) -> list[_Pair]:
    """Calls that have one value in the file, in order of computation.

    A module called once ends at the last node inside it. One called more often has a node per call, or is left
    out. Modules that end at the same node come innermost first: that names the trouble best.
    """
    inside: dict[str, list[int]] = {}
    own: dict[str, list[int]] = {}
    for position, node in enumerate(graph.node):
        scope = next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
        own.setdefault(scope, []).append(position)
        parts = scope.split(".") if scope else []
        for depth in range(1, len(parts) + 1):
            inside.setdefault(".".join(parts[:depth]), []).append(position)
    pairs = []
    for name, calls in outputs.items():
        places = inside.get(name, [])[-1:] if len(calls) == 1 else own.get(name, [])
        if len(places) == len(calls):
            pairs += [_Pair(name, at, graph.node[at].output[0], call) for at, call in zip(places, calls, strict=True)]
    pairs.append(_Pair("", len(graph.node), graph.output[0].name, outputs[""][0]))
    return sorted(pairs, key=lambda pair: (pair.position, -pair.module.count(".")))


def _eager_outputs(net: nn.Module, image: Tensor) -> dict[str, list[Tensor]]:
    """Each module's outputs, one a call, by dotted path; the network's own path is empty."""
    outputs: dict[str, list[Tensor]] = {}
    parameter = next(net.parameters(), image)
    with _hooked(net, outputs), evaluating(net):
        net(image.to(parameter))
    return outputs


@contextmanager
def _hooked(net: nn.Module, outputs: dict[str, list[Tensor]]) -> Iterator[None]:
    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            # A copy: an activation that works in place would change it after the module has ended.
            outputs.setdefault(name, []).append(output.detach().float().cpu().clone())

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, module in net.named_modules()
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


def _weight_owner(net: nn.Module, graph: onnx.GraphProto, value: str, agreed: set[str]) -> str | None:
    """The one module whose weights go into ``value`` after the last values that agree; None unless there is one.

    A convolution into which a norm is folded keeps the name of its weights, though its nodes belong to the norm.
    """
    modules = dict(net.named_modules())
    makers = {output: node for node in graph.node for output in node.output}
    owners, left, seen = set(), [value], set(agreed)
    while left:
        name = left.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        left += makers[name].input
        owners |= {entry.rsplit(".", 1)[0] for entry in makers[name].input if entry.endswith(".weight")}
    owners &= set(modules)
    return owners.pop() if len(owners) == 1 else None
