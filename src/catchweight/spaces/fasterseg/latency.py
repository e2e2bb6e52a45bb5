"""Expected latency of FasterSeg's space: differentiable, exact, and a derived network's own where nothing is open.

Every node draws where its input comes from, its operator and its input's width, independently of all others. Walking
back from the ends of a network's branches along these draws gives its cells; two branches that meet at a node share
everything before it, so it is counted once. The expectation of the sum of all cells' times under these draws is
computed exactly. (The authors' recursion adds up three branches with their common beginning each, and mixes scales by
the probabilities of the last one.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import fsum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import CatchweightError
from ...nets.fasterseg import OPS, FasterSegConfig
from .lattice import Edge, Lattice, Node
from .logits import even
from .parts import OpTimes, Part, Size, at, final_parts, join, lift, parts, stem_parts
from .supernet import PAIRS, Ends

DECOUPLED = (1 / 500, 497 / 500, 2 / 500)
"""The authors' weights of the latency's three groups: operators, paths, widths."""

Usage = dict[Edge, Tensor]
"""Probability that an operator is part of the network."""


class FasterSegLatency:
    """Expected latency in ms as a function of probabilities.

    Args:
        lattice: the space.
        size: input (H, W), that of deployment.
        classes: K.
        times: of parts; asked once, for all that the space needs.
        stem, head: widths of the network's stem and decoder in twelfths.
        pairs: branch ends of the networks that the expectation is over, each equally likely; as published, the two
            pairs of which a search keeps one.

    Raises:
        CatchweightError: a time is negative or not finite.
    """

    def __init__(
        self, lattice: Lattice, size: Size, classes: int, times: OpTimes, *, stem: int, head: int,
        pairs: Sequence[Ends] = PAIRS,
    ) -> None:  # fmt: skip
        self.lattice, self.size, self.classes = lattice, size, classes
        self.stem, self.head, self.pairs = stem, head, tuple(pairs)
        wanted = sorted({*self._open_parts(), *self._fixed_parts()})
        self._ms = dict(zip(wanted, _checked(wanted, times(wanted)), strict=True))
        self._times = times
        self._tables = {edge: self._table(edge) for edge in lattice.edges}
        self._joins = {edge: self._join_table(edge) for edge in lattice.edges if edge.halves}
        self._constant = fsum(self._ms[part] for part in self._fixed_parts()) / len(self.pairs)
        self._even = even(lattice)
        self._even_usage = self._usages(self._even)

    def __call__(self, values: Mapping[str, Any]) -> Tensor:
        """Scalar float64: all groups together, the *coupled* latency."""
        return self._expected(values, self._usages(values))

    def decoupled(self, values: Mapping[str, Any], weights: Sequence[float] = DECOUPLED) -> Tensor:
        """Scalar float64: the groups one by one, the others even and of full width, weighted.

        Alone, every group's share of the gradient can be set; together, operators and widths outweigh paths by far and
        the search slides to skips and narrow maps.
        """
        ops = {**self._even, **{node.op: values[node.op] for node in self.lattice.nodes}}
        widths = {**self._even, **{name: values[name] for name in self.lattice.open_widths()}}
        paths = {name: value for name, value in values.items() if name.startswith("from")}
        terms = (
            self._expected(ops, self._even_usage),
            self._expected(self._even, self._usages({**self._even, **paths})),
            self._expected(widths, self._even_usage),
        )
        return torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum()

    def network(self, config: FasterSegConfig) -> float:
        """Latency in ms of a plain network by the same table."""
        wanted = list(parts(config, self.size, self.classes, self.lattice.width))
        unknown = sorted(set(wanted) - set(self._ms))
        self._ms |= zip(unknown, _checked(unknown, self._times(unknown)), strict=True) if unknown else ()
        return fsum(self._ms[part] for part in wanted)

    # --- Tables

    def _open_parts(self) -> Iterator[Part]:
        for edge in self.lattice.edges:
            for inp, out in product(self._channels(edge.node), self._channels(edge.target)):
                yield from (part for op in OPS if (part := self._part(edge, op, inp, out)) is not None)
            if edge.halves:
                yield from (self._join(edge, inp) for inp in self._channels(edge.node))

    def _fixed_parts(self) -> list[Part]:
        """Of all pairs together."""
        found: list[Part] = []
        scale = self.lattice.channels
        for ends in self.pairs:
            found += stem_parts(self.stem, scale, self.size)
            found += [lift(self.head, scale, self.size, stride) for end in ends for stride in (8, 16) if stride < end]
            found += final_parts(len(ends) * scale(8, self.head), self.size, self.classes)
        return found

    def _channels(self, node: Node) -> tuple[int, ...]:
        """Channels of a node's input, by option; at both ends of the lattice there is but one."""
        if node.layer in (0, self.lattice.layers):
            return (self.lattice.channels(node.stride, self.head if node.layer else self.stem),)
        return tuple(self.lattice.channels(node.stride, width) for width in self.lattice.widths)

    def _part(self, edge: Edge, op: str, inp: int, out: int) -> Part | None:
        if op == "skip" and not edge.halves:
            return None  # nothing is left of it in a derived network
        return Part(op, *at(self.size, edge.node.stride), inp, out, 1 + edge.halves)

    def _join(self, edge: Edge, inp: int) -> Part:
        return join(self.head, self.lattice.channels, self.size, edge.node.stride, inp)

    def _table(self, edge: Edge) -> Tensor:
        """ms (5, widths in, widths out)."""
        shape = len(self._channels(edge.node)), len(self._channels(edge.target))
        pairs = list(product(self._channels(edge.node), self._channels(edge.target)))
        rows = [[self._part(edge, op, *pair) for pair in pairs] for op in OPS]
        ms = [[0.0 if part is None else self._ms[part] for part in row] for row in rows]
        return torch.tensor(ms, dtype=torch.float64).view(len(OPS), *shape)

    def _join_table(self, edge: Edge) -> Tensor:
        """ms (widths in,) of the join in the decoder that a halving brings with it."""
        return torch.tensor([self._ms[self._join(edge, inp)] for inp in self._channels(edge.node)], dtype=torch.float64)

    # --- Expectations

    def _expected(self, values: Mapping[str, Any], usages: tuple[Usage, Usage]) -> Tensor:
        used, halvings = usages
        vectors = {node: self._vector(node, values) for edge in self.lattice.edges for node in (edge.node, edge.target)}
        terms = [torch.tensor(self._constant, dtype=torch.float64)]
        for edge, probability in used.items():
            ops = values[edge.node.op].to(torch.float64)
            by_width = torch.einsum("k,kio->io", ops, self._tables[edge])
            terms.append(probability * (vectors[edge.node] @ by_width @ vectors[edge.target]))
        terms += [count * (vectors[edge.node] @ self._joins[edge]) for edge, count in halvings.items()]
        return torch.stack(terms).sum()

    def _vector(self, node: Node, values: Mapping[str, Any]) -> Tensor:
        """Probabilities of a node's input widths."""
        if node.layer in (0, self.lattice.layers):
            return torch.ones(1, dtype=torch.float64)
        value = values[node.width]
        if isinstance(value, Tensor):
            return value.to(torch.float64)
        index = torch.tensor(self.lattice.widths.index(value))
        return F.one_hot(index, len(self.lattice.widths)).to(torch.float64)

    def _usages(self, values: Mapping[str, Any]) -> tuple[Usage, Usage]:
        """Probability of every operator, and how many branches are expected to halve there (each has a decoder)."""
        used = _mean([usage(self.lattice, values, ends) for ends in self.pairs])
        single = {end: usage(self.lattice, values, (end,)) for end in {end for ends in self.pairs for end in ends}}
        by_branch = _mean([_sum([single[end] for end in ends]) for ends in self.pairs])
        return used, {edge: count for edge, count in by_branch.items() if edge.halves}


def usage(lattice: Lattice, values: Mapping[str, Any], ends: Ends) -> Usage:
    """Probability that an operator lies on the path to at least one of the ends.

    Going back layer by layer, the strides that the paths occupy are a Markov chain over sets: the nodes of a set choose
    where their inputs come from, independently, and those that choose the same node are one from there on.
    """
    last = lattice.layers - 1
    states = {frozenset(ends): torch.ones((), dtype=torch.float64)}
    used: Usage = {Edge(Node(last, end), halves=False): states[frozenset(ends)] for end in ends}
    for layer in range(last, 0, -1):
        before: dict[frozenset[int], Tensor] = {}
        for strides, probability in states.items():
            choices = [list(_arrivals(lattice, values, Node(layer, stride))) for stride in sorted(strides)]
            for combination in product(*choices):
                chance = probability
                for _, p in combination:
                    chance = chance * p
                for edge, _ in combination:
                    used[edge] = used[edge] + chance if edge in used else chance
                reached = frozenset(edge.node.stride for edge, _ in combination)
                before[reached] = before[reached] + chance if reached in before else chance
        states = before
    return used


def _arrivals(lattice: Lattice, values: Mapping[str, Any], node: Node) -> Iterator[tuple[Edge, Tensor]]:
    """Each operator whose result may enter a node, with its probability."""
    arrivals = list(lattice.arrivals(node))
    if len(arrivals) == 1:
        yield arrivals[0][1], torch.ones((), dtype=torch.float64)
    else:
        odds = values[node.origin].to(torch.float64)
        yield from ((edge, odds[index]) for index, (_, edge) in enumerate(arrivals))


def _sum(usages: Sequence[Usage]) -> Usage:
    edges = dict.fromkeys(edge for one in usages for edge in one)
    return {edge: torch.stack([one[edge] for one in usages if edge in one]).sum() for edge in edges}


def _mean(usages: Sequence[Usage]) -> Usage:
    return {edge: total / len(usages) for edge, total in _sum(usages).items()}


def _checked(wanted: Sequence[Part], ms: Sequence[float]) -> list[float]:
    found = [float(value) for value in ms]
    for part, value in zip(wanted, found, strict=True):
        if not 0 <= value < float("inf"):
            raise CatchweightError(f"the latency of {part} is given as {value} ms: a table of positive times is needed")
    return found


__all__ = ["DECOUPLED", "FasterSegLatency", "usage"]
