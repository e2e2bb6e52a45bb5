"""The architectures of a space as data: drawing, varying and counting them needs no network."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError, unknown
from ..front import Arch

Place = tuple[tuple[str, frozenset[int]], ...]
"""Where a choice is read: there only if each named choice takes one of these options, by index."""
Indices = dict[str, int]


@dataclass(frozen=True)
class Decision:
    """A choice by name.

    Attributes:
        options: JSON values.
        places: everywhere it is read; one without conditions, ``()``, is always in use.
    """

    name: str
    options: tuple[Any, ...]
    places: tuple[Place, ...] = ((),)

    def active(self, indices: Mapping[str, int]) -> bool:
        """Whether it makes a difference, given all other choices."""
        return any(all(indices[gate] in allowed for gate, allowed in place) for place in self.places)

    @property
    def graded(self) -> bool:
        """Whether its options are numbers, or tuples of numbers, from small to large."""
        try:
            return all(not isinstance(option, str) for option in self.options) and list(self.options) == sorted(
                self.options
            )
        except TypeError:
            return False

    def index(self, value: Any) -> int:
        """Place of an option, lists as good as tuples.

        Raises:
            UsageError: there is no such option.
        """
        value = tuple(value) if isinstance(value, list) else value
        if value not in self.options:
            raise UsageError(f'choice "{self.name}" has no option {value!r}: it is one of {list(self.options)}')
        return self.options.index(value)


class Decisions(Mapping[str, Decision]):
    """All choices of a space by name, in the order of the network.

    An architecture is *canonical*: a choice that makes no difference, because it lies in an operator that was not
    chosen or a block beyond the depth, is at its first option. So equal networks have equal ``Arch``.
    """

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._decisions = {decision.name: decision for decision in decisions}

    def __getitem__(self, name: str) -> Decision:
        return self._decisions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decisions)

    def __len__(self) -> int:
        return len(self._decisions)

    def indices(self, values: Mapping[str, Any]) -> Indices:
        """Options by place, in order.

        Raises:
            UsageError: a choice is missing or unknown, or has no such option.
        """
        for name in values:
            if name not in self:
                raise unknown("choice", name, self)
        missing = [name for name in self if name not in values]
        if missing:
            raise UsageError(f"an architecture has one value for every choice; missing: {', '.join(missing)}")
        return {name: decision.index(values[name]) for name, decision in self.items()}

    def canonical(self, values: Mapping[str, Any]) -> Arch:
        """The ``Arch`` of these values; the errors of :meth:`indices`."""
        return self.arch(self.indices(values))

    def arch(self, indices: Mapping[str, int]) -> Arch:
        """The canonical ``Arch`` of options given by place."""
        return Arch(**{n: d.options[indices[n] if d.active(indices) else 0] for n, d in self.items()})

    def size(self) -> int:
        """Number of different architectures."""
        return _count({name: decision.places for name, decision in self.items()}, self)

    def schema(self) -> dict[str, Any]:
        """JSON schema (draft 2020-12) of an ``Arch``."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {name: {"enum": list(decision.options)} for name, decision in self.items()},
            "required": list(self),
            "additionalProperties": False,
        }

    def sample(self, rng: random.Random) -> Arch:
        """Every choice in use takes each of its options with equal probability, independently of the others.

        That is the sampling of one-shot search (Guo et al., ECCV 2020). It is not uniform over architectures: a
        shallow network, with fewer choices in use, is as likely as all deep ones together.
        """
        return self.arch(self._drawn(rng))

    def sample_graded(self, rng: random.Random) -> Arch:
        """Small, middling and large architectures in equal numbers, by choices that lean the same way.

        One share is drawn for all; each choice with graded options then counts successes among as many trials. So
        every single choice still takes each of its options with equal probability, as in :meth:`sample`. Where many
        choices are drawn independently, the sums that make a cost are all alike, and the ends are never seen.
        """
        share, drawn = rng.random(), self._drawn(rng)
        for name, decision in self.items():
            if decision.graded:
                drawn[name] = sum(rng.random() < share for _ in decision.options[1:])
        return self.arch(drawn)

    def mutate(self, arch: Mapping[str, Any], rng: random.Random, rate: float = 0.1) -> Arch:
        """Each choice in use takes another option with probability ``rate``; if none did, one of them does.

        Choices that come into use by that take any option.
        """
        now = self.indices(arch)
        open_ = [name for name, decision in self.items() if decision.active(now) and len(decision.options) > 1]
        changed = [name for name in open_ if rng.random() < rate] or open_ and [rng.choice(open_)]
        drawn = self._drawn(rng)
        new = {name: now[name] if decision.active(now) else drawn[name] for name, decision in self.items()}
        for name in changed:
            new[name] = rng.choice([i for i in range(len(self[name].options)) if i != now[name]])
        return self.arch(new)

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: random.Random) -> Arch:
        """Each choice from one of two parents in which it is in use; any option where it is in neither."""
        parents, drawn = (self.indices(a), self.indices(b)), self._drawn(rng)
        child = {}
        for name, decision in self.items():
            known = [parent[name] for parent in parents if decision.active(parent)]
            child[name] = rng.choice(known) if known else drawn[name]
        return self.arch(child)

    def neighbours(self, arch: Mapping[str, Any]) -> list[Arch]:
        """All architectures that differ in one choice in use, and in what follows from it: choices that come into
        use or go out of it are at their first option."""
        now = self.indices(self.canonical(arch))
        found = [
            self.arch({**now, name: index})
            for name, decision in self.items()
            if decision.active(now)
            for index in range(len(decision.options))
            if index != now[name]
        ]
        return list(dict.fromkeys(found))

    def _drawn(self, rng: random.Random) -> Indices:
        return {name: rng.randrange(len(decision.options)) for name, decision in self.items()}


_Open = dict[str, tuple[Place, ...]]


def _count(open_: _Open, decisions: Decisions) -> int:
    """Architectures of choices not yet made: independent groups multiply, options of one gate add up."""
    return math.prod(_count_group(group, decisions) for group in _groups(open_))


def _count_group(group: _Open, decisions: Decisions) -> int:
    # Conditions hold those of the enclosing operators too, so every group has a gate that is always in use.
    gate = next(name for name, places in group.items() if () in places)
    options = range(len(decisions[gate].options))
    if len(group) == 1:
        return len(options)
    rest = {name: places for name, places in group.items() if name != gate}
    return sum(_count(_given(rest, gate, index), decisions) for index in options)


def _given(open_: _Open, gate: str, index: int) -> _Open:
    """What is left to choose once ``gate`` is at ``index``."""
    left = {}
    for name, places in open_.items():
        kept = [place for place in places if all(index in allowed for other, allowed in place if other == gate)]
        if kept:
            left[name] = tuple(tuple(entry for entry in place if entry[0] != gate) for place in kept)
    return left


def _groups(open_: _Open) -> list[_Open]:
    """Split where no choice decides about another; a choice always in use needs no gate."""
    label = {name: name for name in open_}
    for name, places in open_.items():
        if () in places:
            continue
        linked = {label[name], *(label[gate] for place in places for gate, _ in place if gate in label)}
        label = {other: label[name] if mark in linked else mark for other, mark in label.items()}
    groups: dict[str, _Open] = {}
    for name, mark in label.items():
        groups.setdefault(mark, {})[name] = open_[name]
    return list(groups.values())


__all__ = ["Decision", "Decisions", "Place"]
