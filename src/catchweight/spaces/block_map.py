"""Blocks of every option of a space, and with a latency table the expected latency of relaxed choices."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CatchweightError
from ..front import Arch
from ..targets.latency.predictor import expected_latency
from ..targets.tracing.blocks import Signature
from .decisions import Decisions, Indices
from .space import Space

MOST_ENTRIES = 20_000
"""Largest table over the choices that one block depends on."""
_Blocks = dict[str, tuple[Signature, ...]]
_Table = dict[tuple[int, ...], tuple[Indices, tuple[Signature, ...]]]


class BlockMap:
    """What every architecture of a space consists of at one input size, as small tables.

    The blocks at one place of the network (a module's path) depend on few choices: its widths and kernel, what decides
    whether it is there, what its neighbours are. Which ones is found out by asking: architectures are traced; where
    two differ at a place although they agree in the choices known to matter there, halving the way from one to the
    other finds a choice that does (the usual way to learn a function of few variables). It ends when every
    combination of the choices that matter at a place has been seen at every place, and ``checks`` random
    architectures in a row are as the tables say.

    Args:
        size: input (H, W).
        batch, precision: of the target.
        checks: random architectures that must be as predicted.
        seed: of the random architectures.

    Raises:
        CatchweightError: a member cannot be traced, or a place depends on so many choices that no table of
            :data:`MOST_ENTRIES` holds them.
    """

    def __init__(
        self, space: Space, size: tuple[int, int], batch: int = 1, precision: str = "fp32", *,
        checks: int = 16, seed: int = 0,
    ) -> None:  # fmt: skip
        self._space, self._size, self._batch, self._precision = space, size, batch, precision
        self.decisions: Decisions = space.decisions()
        self._traced: dict[Arch, _Blocks] = {}
        self._seen: list[tuple[Indices, _Blocks]] = []
        self.depends: dict[str, tuple[str, ...]] = {}
        """The choices that matter at each place."""
        self._tables: dict[str, _Table] = {}
        self._learn(random.Random(seed), checks)

    @property
    def signatures(self) -> list[Signature]:
        """Every block of every option, once: what a latency table must know."""
        found = {s.key: s for table in self._tables.values() for _, value in table.values() for s in value}
        return [found[key] for key in sorted(found)]

    @property
    def traces(self) -> int:
        """Number of architectures that were traced."""
        return len(self._traced)

    def blocks(self, values: Mapping[str, Any]) -> list[Signature]:
        """Blocks of an architecture, by place; no tracing."""
        indices = self.decisions.indices(values)
        return [s for place, table in self._tables.items() for s in table[self._projection(place, indices)][1]]

    def latency(self, times: Callable[[Sequence[Signature]], Tensor], constant_ms: float = 0.0) -> ExpectedLatency:
        """Expected latency by a table or predictor.

        Args:
            times: milliseconds (n,) of n signatures, e.g. ``LatencyPredictor.latencies``.
            constant_ms: of a network before its first block, e.g. ``LatencyPredictor.constant_ms``.
        """
        known = self.signatures
        ms = dict(zip(known, times(known).tolist(), strict=True))
        tables: dict[tuple[str, ...], Tensor] = {}
        for place, names in self.depends.items():
            table = torch.zeros([len(self.decisions[name].options) for name in names], dtype=torch.float64)
            for entry, (_, value) in self._tables[place].items():
                table[entry] = math.fsum(ms[signature] for signature in value)
            tables[names] = tables[names] + table if names in tables else table
        return ExpectedLatency(self.decisions, tables, constant_ms)

    def _learn(self, rng: random.Random, checks: int) -> None:
        sizes = {name: len(decision.options) for name, decision in self.decisions.items()}
        for start in (dict.fromkeys(sizes, 0), {n: k - 1 for n, k in sizes.items()}, _drawn(sizes, rng)):
            for name, count in sizes.items():
                for index in range(count):
                    self._record({**start, name: index})
        agreed = 0
        while agreed < checks:
            target = self._uncovered(_drawn(sizes, rng))
            complete = target is None
            same = self._record(_drawn(sizes, rng) if target is None else target)
            agreed = agreed + 1 if complete and same else 0

    def _record(self, indices: Indices) -> bool:
        """Trace an architecture and enter it everywhere; whether it was as the tables say."""
        found, before = self._at(indices), dict(self.depends)
        self._seen.append((indices, found))
        for place in [*self._tables, *(place for place in found if place not in self._tables)]:
            self._enter(place, self._seen if place not in self._tables else self._seen[-1:])
        return self.depends == before

    def _enter(self, place: str, seen: Sequence[tuple[Indices, _Blocks]]) -> None:
        table = self._tables.setdefault(place, {})
        self.depends.setdefault(place, ())
        for indices, found in seen:
            value = found.get(place, ())
            known, value_known = table.setdefault(self._projection(place, indices), (indices, value))
            if value_known != value:
                matters = {self._difference(place, known, indices), *self.depends[place]}
                self.depends[place] = tuple(name for name in self.decisions if name in matters)
                self._check_entries(place)
                del self._tables[place]
                return self._enter(place, self._seen)
        return None

    def _difference(self, place: str, a: Indices, b: Indices) -> str:
        """One choice that makes a difference at a place, on the way from ``a`` to ``b``, which differ there."""
        names = [name for name in a if a[name] != b[name]]
        low, high = 0, len(names)
        start = self._at(a).get(place, ())
        while high - low > 1:
            middle = (low + high) // 2
            step = {**a, **{name: b[name] for name in names[:middle]}}
            low, high = (low, middle) if self._at(step).get(place, ()) != start else (middle, high)
        return names[low]

    def _uncovered(self, indices: Indices) -> Indices | None:
        """``indices`` changed to combinations that are missing, at as many places as go together; None if none is."""
        pinned: Indices = {}
        for place in sorted(self._tables, key=lambda place: -self._entries(place)):
            entry = next(self._missing(place, pinned), None)
            if entry is not None:
                pinned |= zip(self.depends[place], entry, strict=True)
        return {**indices, **pinned} if pinned else None

    def _missing(self, place: str, pinned: Indices) -> Iterator[tuple[int, ...]]:
        ranges = [
            [pinned[name]] if name in pinned else range(len(self.decisions[name].options))
            for name in self.depends[place]
        ]
        return (entry for entry in product(*ranges) if entry not in self._tables[place])

    def _entries(self, place: str) -> int:
        return math.prod(len(self.decisions[name].options) for name in self.depends[place])

    def _check_entries(self, place: str) -> None:
        if self._entries(place) > MOST_ENTRIES:
            raise CatchweightError(
                f'the blocks at "{place}" of {type(self._space).__name__} depend on {", ".join(self.depends[place])}: '
                f"{self._entries(place)} combinations, more than {MOST_ENTRIES}. Let fewer choices reach there"
            )

    def _projection(self, place: str, indices: Indices) -> tuple[int, ...]:
        return tuple(indices[name] for name in self.depends[place])

    def _at(self, indices: Indices) -> _Blocks:
        arch = self.decisions.arch(indices)
        if arch not in self._traced:
            found: dict[str, list[Signature]] = {}
            for place, signature in self._space.placed_signatures(arch, self._size, self._batch, self._precision):
                found.setdefault(place, []).append(signature)
            self._traced[arch] = {place: tuple(signatures) for place, signatures in found.items()}
        return self._traced[arch]


class ExpectedLatency:
    """Latency in ms as a differentiable function of independent choices; one-hot, it is the member's own.

    Args:
        decisions: the choices.
        tables: ms (n1, ..., nk) float64 of each combination of some choices; the latency is their sum.
        constant_ms: added to it.
    """

    def __init__(self, decisions: Decisions, tables: Mapping[tuple[str, ...], Tensor], constant_ms: float) -> None:
        self._decisions = decisions
        self._tables = dict(tables)
        self._constant = constant_ms

    def __call__(self, values: Mapping[str, Any]) -> Tensor:
        """Scalar float64.

        Args:
            values: for each choice an option, or probabilities (n,); the values that :meth:`.Space.activate` takes.

        Raises:
            UsageError: a choice is missing or unknown, or has no such option.
        """
        known = self._decisions
        fixed = {name: known[name].options[0] if isinstance(value, Tensor) and name in known else value
                 for name, value in values.items()}  # fmt: skip
        vectors = {
            name: value if isinstance(value := values[name], Tensor) else _one_hot(index, len(known[name].options))
            for name, index in known.indices(fixed).items()
        }
        parts = [expected_latency(table, *(vectors[name].cpu() for name in names))
                 for names, table in self._tables.items()]  # fmt: skip
        return torch.stack([*parts, torch.tensor(self._constant, dtype=torch.float64)]).sum()


def _one_hot(index: int, count: int) -> Tensor:
    return F.one_hot(torch.tensor(index), count).to(torch.float64)


def _drawn(sizes: Mapping[str, int], rng: random.Random) -> Indices:
    return {name: rng.randrange(count) for name, count in sizes.items()}


__all__ = ["MOST_ENTRIES", "BlockMap", "ExpectedLatency"]
