"""A dense prediction cell as data: its branches, its text, and which cells are the same.

The text of a branch is where its input comes from, ``x`` for the backbone or the number of an earlier branch, a dot,
and its operation: ``c`` a 1x1 convolution, ``r6x21`` a 3x3 separable convolution of rates 6 (down) and 21 (across),
``p2x4`` average pooling on a grid of 2 rows and 4 columns. Branches are joined by ``-``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import UsageError

Kind = Literal["conv", "atrous", "pool"]
_LETTERS: dict[str, Kind] = {"c": "conv", "r": "atrous", "p": "pool"}
_BRANCH = re.compile(r"(x|\d+)\.(?:(c)|([rp])([1-9]\d*)x([1-9]\d*))")

RATES = (1, 3, 6, 9, 12, 15, 18, 21)
"""Dilation rates of the published space, for a map of output stride 16."""
GRIDS = (1, 2, 4, 8)
BRANCHES = 5
BACKBONE = -1
"""The input of a branch that reads the backbone's map."""


@dataclass(frozen=True)
class Branch:
    """One operation of a cell.

    Args:
        source: ``BACKBONE`` or the number of an earlier branch.
        kind: "conv", "atrous" or "pool".
        rows, columns: rates of "atrous", grid of "pool", down and across; (1, 1) for "conv".
    """

    source: int
    kind: Kind
    rows: int = 1
    columns: int = 1

    @property
    def operation(self) -> tuple[str, int, int]:
        """What it does, without where it stands."""
        return self.kind, self.rows, self.columns

    def __str__(self) -> str:
        letter = next(letter for letter, kind in _LETTERS.items() if kind == self.kind)
        sides = "" if self.kind == "conv" else f"{self.rows}x{self.columns}"
        return f"{'x' if self.source == BACKBONE else self.source}.{letter}{sides}"


@dataclass(frozen=True)
class Cell:
    """Branches in an order in which each reads an earlier one or the backbone; their outputs are concatenated.

    Raises:
        UsageError: no branch, or one that reads a branch that is not before it.
    """

    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        if not self.branches:
            raise UsageError('a dense prediction cell needs a branch: write for example "x.c-0.r6x6"')
        for number, branch in enumerate(self.branches):
            if not BACKBONE <= branch.source < number:
                raise UsageError(
                    f"branch {number} of cell {self} reads branch {branch.source}: it may read x or a branch before it"
                )

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The inverse of ``str``; also a name of ``CELLS``.

        Raises:
            UsageError: it cannot be read.
        """
        if text in CELLS:
            return CELLS[text]
        return cls(tuple(_parse(part, text) for part in text.split("-")))

    def canonical(self) -> Cell:
        """The same for all cells that differ only in the order of their branches.

        Concatenation and the projection behind it do not care about order, so a cell is a tree below the backbone;
        the canonical order is depth first, children sorted.
        """
        found: list[Branch] = []

        def place(number: int, source: int) -> None:
            mine = len(found)
            found.append(Branch(source, *self.branches[number].operation))  # type: ignore[arg-type]
            for child in self._children(number):
                place(child, mine)

        for number in self._children(BACKBONE):
            place(number, BACKBONE)
        return Cell(tuple(found))

    def _children(self, number: int) -> list[int]:
        readers = [child for child, branch in enumerate(self.branches) if branch.source == number]
        return sorted(readers, key=self._code)

    def _code(self, number: int) -> tuple[Any, ...]:
        """Equal for equal subtrees."""
        return self.branches[number].operation, tuple(self._code(child) for child in self._children(number))

    def __str__(self) -> str:
        return "-".join(map(str, self.branches))


def _parse(part: str, text: str) -> Branch:
    found = _BRANCH.fullmatch(part)
    if found is None:
        raise UsageError(
            f'cannot read branch "{part}" of cell "{text}": write x or the number of an earlier branch, a dot, and '
            f"c, r<rate>x<rate> or p<rows>x<columns>, as in x.r1x6-0.p2x2; or one of {', '.join(CELLS)}"
        )
    source = BACKBONE if found[1] == "x" else int(found[1])
    if found[2]:
        return Branch(source, "conv")
    return Branch(source, _LETTERS[found[3]], int(found[4]), int(found[5]))


CELLS: dict[str, Cell] = {}
"""Cells with a name."""


def _named(name: str, branches: Sequence[str]) -> None:
    CELLS[name] = Cell.parse("-".join(branches))


_named("best", ["x.r1x6", "0.r18x15", "1.r6x3", "0.r1x1", "0.r6x21"])  # the search's best, as the authors released it
_named("aspp", ["x.c", "x.r6x6", "x.r12x12", "x.r18x18", "x.p1x1"])  # DeepLabv3+'s context module is a cell, too

__all__ = ["BACKBONE", "BRANCHES", "CELLS", "GRIDS", "RATES", "Branch", "Cell", "Kind"]
