"""Dense prediction cells as data: how they are drawn and varied, and how many there are."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...front import Arch
from ...nets.dpc import BACKBONE, BRANCHES, GRIDS, RATES, Branch, Cell
from ...nets.dpc.cell import Kind
from ..decisions import Decision, Decisions, Indices, Place

KINDS: tuple[Kind, ...] = ("pool", "conv", "atrous")
"""Operations, the one with the most parameters last."""

MUTATIONS = 100
"""Tries until a mutant is another cell and not the same in another order."""


@dataclass(frozen=True)
class CellOptions:
    """How large a space of cells is; as published by default."""

    branches: int = BRANCHES
    rates: tuple[int, ...] = RATES
    grids: tuple[int, ...] = GRIDS

    @property
    def operations(self) -> int:
        """Of one branch: 81 as published."""
        return 1 + len(self.rates) ** 2 + len(self.grids) ** 2

    @property
    def encodings(self) -> int:
        """Lists of branches, B! * 81^B as published; many stand for one cell."""
        return math.factorial(self.branches) * self.operations**self.branches


def names(number: int) -> tuple[str, str, str, str, str, str]:
    """Choices of a branch: input, operation, rates down and across, grid rows and columns."""
    sides = ("rate_h", "rate_w", "grid_h", "grid_w")
    return (f"input{number}", f"op{number}", *(f"{side}{number}" for side in sides))  # type: ignore[return-value]


def branch_decisions(number: int, options: CellOptions) -> list[Decision]:
    """The choices of a branch as data."""
    source, op, rate_h, rate_w, grid_h, grid_w = names(number)
    atrous: Place = ((op, frozenset({KINDS.index("atrous")})),)
    pool: Place = ((op, frozenset({KINDS.index("pool")})),)
    return [
        Decision(source, tuple(range(BACKBONE, number))),
        Decision(op, KINDS),
        *(Decision(name, options.rates, (atrous,)) for name in (rate_h, rate_w)),
        *(Decision(name, options.grids, (pool,)) for name in (grid_h, grid_w)),
    ]


class Cells(Decisions):
    """Cells without duplicates, for searches that evaluate one after the other.

    Branches are drawn as published: an input uniform over what is there, an operation uniform over all of them. Cells
    that differ only in the order of their branches have one ``Arch``, and :meth:`size` counts them once.

    Args:
        options: how large the space is.
        others: further decisions, e.g. the size of the input.
    """

    def __init__(self, options: CellOptions | None = None, others: Sequence[Decision] = ()) -> None:
        self.cell_options = options or CellOptions()
        self._others = tuple(others)
        branches = range(self.cell_options.branches)
        super().__init__([*others, *(d for number in branches for d in branch_decisions(number, self.cell_options))])

    def arch(self, indices: Mapping[str, int]) -> Arch:
        plain = super().arch(indices)
        sorted_ = encode(cell_of(plain).canonical(), self.cell_options)
        return Arch(**{**plain, **sorted_})

    def size(self) -> int:
        """Number of different cells, times that of everything else."""
        options = self.cell_options
        return different_cells(options.branches, options.operations) * Decisions(self._others).size()

    def mutate(self, arch: Mapping[str, Any], rng: random.Random, rate: float = 0.1) -> Arch:
        mutant = super().mutate(arch, rng, rate)
        for _ in range(MUTATIONS):
            if mutant != arch:
                break
            mutant = super().mutate(arch, rng, rate)
        return mutant

    def neighbours(self, arch: Mapping[str, Any]) -> list[Arch]:
        now = self.canonical(arch)
        return [other for other in super().neighbours(now) if other != now]

    def _drawn(self, rng: random.Random) -> Indices:
        drawn = super()._drawn(rng)
        options = self.cell_options
        counts = {"conv": 1, "atrous": len(options.rates) ** 2, "pool": len(options.grids) ** 2}
        for number in range(options.branches):
            drawn[names(number)[1]] = rng.choices(range(len(KINDS)), [counts[kind] for kind in KINDS])[0]
        return drawn


def cell_of(values: Mapping[str, Any]) -> Cell:
    """The cell that an ``Arch`` stands for."""
    branches = 0
    while names(branches)[0] in values:
        branches += 1
    return Cell(tuple(_branch(values, number) for number in range(branches)))


def _branch(values: Mapping[str, Any], number: int) -> Branch:
    source, op, rate_h, rate_w, grid_h, grid_w = (values[name] for name in names(number))
    sides = {"conv": (1, 1), "atrous": (rate_h, rate_w), "pool": (grid_h, grid_w)}
    return Branch(source, op, *sides[op])


def encode(cell: Cell, options: CellOptions | None = None) -> dict[str, Any]:
    """Values of the choices that stand for a cell; those not in use are at their first option."""
    options = options or CellOptions()
    found: dict[str, Any] = {}
    for number, branch in enumerate(cell.branches):
        rates = (branch.rows, branch.columns) if branch.kind == "atrous" else (options.rates[0],) * 2
        grid = (branch.rows, branch.columns) if branch.kind == "pool" else (options.grids[0],) * 2
        found |= dict(zip(names(number), (branch.source, branch.kind, *rates, *grid), strict=True))
    return found


@lru_cache(maxsize=64)
def different_cells(branches: int, operations: int) -> int:
    """Forests of that many nodes whose order does not matter, each node one of ``operations``, by Euler transform.

    A tree of n nodes is an operation on a forest of n - 1.
    """
    trees = [0] + [operations * different_cells(n - 1, operations) for n in range(1, branches + 1)]
    forests = [1] + [0] * branches
    for size in range(1, branches + 1):
        # Multisets of trees of this size: their generating function is 1 / (1 - x^size)^count.
        forests = [
            sum(
                math.comb(trees[size] + k - 1, k) * forests[total - k * size]
                for k in range(total // size + 1)
                if trees[size] or k == 0
            )
            for total in range(branches + 1)
        ]
    return forests[branches]


__all__ = ["KINDS", "CellOptions", "Cells", "branch_decisions", "cell_of", "different_cells", "encode", "names"]
