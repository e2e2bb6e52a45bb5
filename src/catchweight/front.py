"""Architectures, candidates and the non-dominated front.

Direction is fixed once, here: ``score`` larger is better (0..1), every cost smaller is better.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .budget import QUANTITIES, Budget, Cost, measured
from .errors import CatchweightError, UsageError, unknown
from .files import read_json

ROUNDING = 1e-9
"""Share of the front's range below which a bend is rounding, not a knee."""


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
    """An architecture with its cost and, once trained, its score; ``note`` says what became of it.

    Attributes:
        estimated: the score is one with inherited weights, at a predicted cost: a hint, no promise. Such a candidate
            is no point of a front.

    Raises:
        CatchweightError: the score is infinite or not a number; without a score it is ``None``.
    """

    arch: Arch
    cost: Cost
    score: float | None = None
    note: str = ""
    epochs: int = 0
    estimated: bool = False

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise CatchweightError(
                f"the score of {self.arch!r} is {self.score}: did its training diverge? A candidate without a usable "
                "score has score None and a note"
            )

    @property
    def ranked(self) -> bool:
        """Whether it takes part in a front: it has a score that was not estimated."""
        return self.score is not None and not self.estimated

    def to_json(self) -> dict[str, Any]:
        """JSON form, read back by :meth:`from_json`."""
        return {
            "arch": self.arch.to_json(),
            "cost": self.cost.to_json(),
            "score": self.score,
            "note": self.note,
            "epochs": self.epochs,
            **({"estimated": True} if self.estimated else {}),
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
            values.get("estimated", values.get("note", "").startswith("supernet score")),  # earlier versions noted it
        )


@dataclass(frozen=True)
class Front:
    """Candidates of one search; ``points`` are the non-dominated ones in latency and score.

    Every question takes the cost quantities it is asked in, by their budget names (``latency``, ``memory``...).
    Candidates without a score, or without a value of one of these quantities, take no part in the answer, nor do those
    whose score is estimated.
    """

    candidates: tuple[Candidate, ...] = field(default_factory=tuple)

    @property
    def points(self) -> tuple[Candidate, ...]:
        """:meth:`points_in` latency: the non-dominated scored candidates, fastest first."""
        return self.points_in("latency")

    def points_in(self, *quantities: str) -> tuple[Candidate, ...]:
        """Non-dominated candidates in the given cost quantities and the score, smallest first cost first.

        A candidate is dominated if another is no worse in all of them and better in one. Of several that are equal
        in all, the one named first stays.

        Raises:
            UsageError: no or unknown quantity.
        """
        known = self._stating(quantities)
        if not known:
            return ()
        import moocore  # exact for any number of objectives; here, for inference needs no front

        values = _objectives(known, quantities)
        kept = [c for c, stays in zip(known, moocore.is_nondominated(values), strict=True) if stays]
        return tuple(sorted(kept, key=lambda c: (*_costs(c, quantities), -_score(c))))

    def best(self, budget: Budget | None = None) -> Candidate | None:
        """The highest score among those the budget allows; the faster one of equals."""
        allowed = [c for c in self.candidates if c.ranked and (budget is None or budget.allows(c.cost))]
        return max(allowed, key=lambda c: (_score(c), -_latency_or_worst(c)), default=None)

    def knee(self, quantity: str = "latency") -> Candidate | None:
        """The point of the front where more cost begins to buy little score; ``None`` if there is no such bend.

        Cost and score are scaled so that the front's ends are (0, 0) and (1, 1); the knee is the point farthest
        above the chord between them (Das 1999, "On characterizing the knee of the Pareto curve"; the discrete form
        is that of Satopaa et al. 2011, "Kneedle"). The cheaper one of equals; both ends lie on the chord.
        """
        points = self.points_in(quantity)
        if len(points) < 3:
            return None
        cost = [_costs(c, (quantity,))[0] for c in points]
        score = [_score(c) for c in points]
        above = [(s - score[0]) / (score[-1] - score[0]) - (c - cost[0]) / (cost[-1] - cost[0])
                 for c, s in zip(cost, score, strict=True)]  # fmt: skip
        highest = max(above[1:-1])
        return points[above.index(highest)] if highest > ROUNDING else None

    def hypervolume(self, reference: Cost, score: float = 0.0) -> float:
        """Volume that the front dominates up to a reference point (Zitzler and Thiele 1998); larger is better.

        Args:
            reference: worst cost that counts; the quantities it states are the ones asked for, so
                ``Budget.parse("latency<=10ms").corner()`` asks in latency alone.
            score: worst score that counts.

        Returns:
            In units of the costs times score, e.g. ms for latency; 0 if no point is better than the reference.

        Raises:
            UsageError: the reference states no cost.
        """
        quantities = reference.stated()
        points = self.points_in(*quantities)
        if not points:
            return 0.0
        import moocore

        corner = [measured(name, reference) for name in quantities]
        return float(moocore.hypervolume(_objectives(points, quantities), ref=[*corner, -score]))

    def merge(self, *others: Front) -> Front:
        """All candidates of several fronts, this one's first; equal candidates once.

        Costs and scores must mean the same: measured on one target, scored on the same images.
        """
        return Front(tuple(dict.fromkeys(c for front in (self, *others) for c in front.candidates)))

    def to_json(self) -> dict[str, Any]:
        """JSON form of all candidates, and which are on the front."""
        on_front = {id(candidate) for candidate in self.points}
        return {"candidates": [c.to_json() | {"on_front": id(c) in on_front} for c in self.candidates]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Front:
        """Inverse of :meth:`to_json`."""
        return cls(tuple(Candidate.from_json(value) for value in values["candidates"]))

    @classmethod
    def read(cls, path: Path) -> Front:
        """The front written in a JSON file.

        Raises:
            CatchweightError: no such file, not JSON, or not a front.
        """
        values = read_json(path)
        try:
            return cls.from_json(values)
        except (KeyError, TypeError, AttributeError) as error:
            raise CatchweightError(f'{path} is not a front: a "front.json" of a run holds "candidates"') from error
        except CatchweightError as error:
            raise CatchweightError(f"{path}: {error}") from error

    def _stating(self, quantities: Sequence[str]) -> list[Candidate]:
        """The scored candidates that state every one of ``quantities``."""
        if not quantities:
            raise UsageError(f"a front needs one or more cost quantities, of {', '.join(QUANTITIES)}")
        for name in quantities:
            if name not in QUANTITIES:
                raise unknown("cost quantity", name, QUANTITIES)
        return [
            c for c in self.candidates if c.ranked and all(measured(name, c.cost) is not None for name in quantities)
        ]


def _objectives(candidates: Sequence[Candidate], quantities: Sequence[str]) -> np.ndarray:
    """(candidates, quantities + 1), all to be minimised."""
    return np.array([[*_costs(c, quantities), -_score(c)] for c in candidates], dtype=np.float64)


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


def _costs(candidate: Candidate, quantities: Sequence[str]) -> list[float]:
    values = [measured(name, candidate.cost) for name in quantities]
    return [value for value in values if value is not None]


def _latency_or_worst(candidate: Candidate) -> float:
    latency = candidate.cost.latency_ms
    return math.inf if latency is None else latency
