"""Architectures, candidates and the non-dominated front.

Direction is fixed once, here: ``score`` larger is better (0..1), every cost smaller is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .budget import Budget, Cost


class Arch(Mapping[str, Any]):
    """One value for every choice: an immutable, hashable, JSON-able mapping.

    >>> Arch(network="eseg_lite_s", width=0.5)["width"]
    0.5
    """

    __slots__ = ("_items", "_key")

    def __init__(self, **choices: Any) -> None:
        self._items: dict[str, Any] = dict(sorted(choices.items()))
        self._key = json.dumps(self._items, sort_keys=True)

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arch) and self._key == other._key

    def __repr__(self) -> str:
        return f"Arch({', '.join(f'{name}={value!r}' for name, value in self._items.items())})"

    def to_json(self) -> dict[str, Any]:
        """Plain dict of JSON values."""
        value: dict[str, Any] = json.loads(self._key)
        return value


@dataclass(frozen=True)
class Candidate:
    """An architecture with its cost and, once trained, its score; ``note`` says what became of it."""

    arch: Arch
    cost: Cost
    score: float | None = None
    note: str = ""
    epochs: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by :meth:`from_json`."""
        return {
            "arch": self.arch.to_json(),
            "cost": self.cost.to_json(),
            "score": self.score,
            "note": self.note,
            "epochs": self.epochs,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Candidate:
        """Inverse of :meth:`to_json`."""
        return cls(
            Arch(**values["arch"]),
            Cost.from_json(values["cost"]),
            values.get("score"),
            values.get("note", ""),
            values.get("epochs", 0),
        )


@dataclass(frozen=True)
class Front:
    """Candidates of one search; ``points`` are the non-dominated ones in latency and score."""

    candidates: tuple[Candidate, ...] = field(default_factory=tuple)

    @property
    def points(self) -> tuple[Candidate, ...]:
        """Non-dominated scored candidates, fastest first.

        Of two with equal latency and score the one named first stays. Candidates without latency or score are
        never on the front.
        """
        ordered = sorted(_scored(self.candidates), key=lambda c: (_latency(c), -_score(c)))
        kept: list[Candidate] = []
        for candidate in ordered:
            if not kept or _score(candidate) > _score(kept[-1]):
                kept.append(candidate)
        return tuple(kept)

    def best(self, budget: Budget | None = None) -> Candidate | None:
        """The highest score among those the budget allows; the faster one of equals."""
        allowed = [c for c in _scored(self.candidates) if budget is None or budget.allows(c.cost)]
        return max(allowed, key=lambda c: (_score(c), -_latency(c)), default=None)

    def to_json(self) -> dict[str, Any]:
        """JSON form of all candidates, and which are on the front."""
        on_front = {candidate.arch for candidate in self.points}
        return {"candidates": [c.to_json() | {"on_front": c.arch in on_front} for c in self.candidates]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Front:
        """Inverse of :meth:`to_json`."""
        return cls(tuple(Candidate.from_json(value) for value in values["candidates"]))


def _scored(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.score is not None and c.cost.latency_ms is not None]


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


def _latency(candidate: Candidate) -> float:
    assert candidate.cost.latency_ms is not None
    return candidate.cost.latency_ms
