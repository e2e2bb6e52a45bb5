"""The two published architectures, and architectures as text.

Both follow, by the derivation rules, from the op, path and width scores that the authors released; the student is the
one drawn in the paper's figure 6. A branch is its cells joined by "-"; a cell is

- its operator: ``s`` skip, ``c`` 3x3 convolution, ``z`` zoomed convolution, ``cc`` and ``zz`` two of them;
- its width in twelfths (the last cell has none, it gives the head's width);
- ``d`` when it halves its map.

Options may follow a colon and replace fields of ``FasterSegConfig``; branches are joined by "+":
``fasterseg_student:branches=cc4-zz4d-zz+cc4-c,stem=6,head=6``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from ...errors import UsageError, unknown
from .architecture import OPS, Branch, FasterSegConfig

CODES = dict(zip(OPS, ("s", "c", "z", "cc", "zz"), strict=True))
_OPS = {code: op for op, code in CODES.items()}
_CELL = re.compile(r"(s|cc?|zz?)(\d*)(d?)")


def read_branch(text: str) -> Branch:
    """The branch a text stands for.

    >>> read_branch("cc4-zz6d-zz")
    Branch(ops=('conv_2x', 'zoomed_2x', 'zoomed_2x'), scales=(8, 8, 16), widths=(4, 6))

    Raises:
        UsageError: the text is not in the grammar above, or is no path.
    """
    parts = [_CELL.fullmatch(cell) for cell in text.split("-")]
    for cell, part in zip(text.split("-"), parts, strict=True):
        if part is None:
            raise UsageError(f'cannot read the cell "{cell}": write s, c, z, cc or zz, its width, then d if it halves')
    ops, widths, halves = zip(*(part.groups() for part in parts if part), strict=True)
    if widths[-1] or halves[-1] or "" in widths[:-1]:
        raise UsageError(
            f'cannot read the branch "{text}": every cell but the last has a width, the last has none and never halves'
        )
    scales = [8]
    for half in halves[:-1]:
        scales.append(scales[-1] * (2 if half else 1))
    return Branch(tuple(_OPS[op] for op in ops), tuple(scales), tuple(map(int, widths[:-1])))


def write_branch(branch: Branch) -> str:
    """The inverse of ``read_branch``."""
    halves = ("" if s == after else "d" for s, after in zip(branch.scales, branch.outputs(), strict=True))
    widths = (*map(str, branch.widths), "")
    return "-".join(f"{CODES[op]}{w}{d}" for op, w, d in zip(branch.ops, widths, halves, strict=True))


STUDENT = FasterSegConfig(
    branches=(
        read_branch("cc4-cc4-zz4-z8d-zz4-zz4-zz4-zz4d-zz4-zz"),
        read_branch("cc4-cc4-zz4-zz4-cc4-cc4d-zz4-zz12-zz"),
    ),
)
TEACHER = FasterSegConfig(
    branches=(
        read_branch("z12-zz12-zz12-zz12-zz12-zz12d-zz12-z12-zz12-zz12-zz12-zz12-zz12-zz12d-cc12-cc"),
        read_branch("z12-zz12-zz12-zz12-zz12d-cc12-zz12-z12-zz12-zz12-zz12-zz12-zz12-zz12-zz12-zz"),
    ),
    stem=12,
    head=12,
)
FASTERSEGS: dict[str, FasterSegConfig] = {"fasterseg_student": STUDENT, "fasterseg_teacher": TEACHER}
"""Every name with its architecture."""


def fasterseg_config(name: str) -> FasterSegConfig:
    """The architecture a name stands for, options included.

    Raises:
        UsageError: unknown name or option (the nearest known one is named), or a value that makes no network.
    """
    base, _, options = name.partition(":")
    if base not in FASTERSEGS:
        raise unknown("FasterSeg", base, FASTERSEGS)
    given: dict[str, Any] = {}
    for item in filter(None, options.split(",")):
        key, _, value = item.partition("=")
        if key not in _OPTIONS:
            raise unknown("FasterSeg option", key, _OPTIONS)
        given[key] = _read(name, key, value)
    try:
        return replace(FASTERSEGS[base], **given)
    except UsageError as error:
        raise UsageError(f'network "{name}": {error}') from None


def config_name(config: FasterSegConfig, base: str = "fasterseg_student") -> str:
    """The name that ``fasterseg_config`` reads as ``config``; a published one has its own.

    >>> config_name(FasterSegConfig((read_branch("c4-c8d-zz"),), head=6))
    'fasterseg_student:branches=c4-c8d-zz,head=6'
    """
    for name, known in FASTERSEGS.items():
        if known == config:
            return name
    said = []
    for field in fields(FasterSegConfig):
        value = getattr(config, field.name)
        if value != getattr(FASTERSEGS[base], field.name):
            said.append(f"{field.name}={'+'.join(map(write_branch, value)) if field.name == 'branches' else value}")
    return f"{base}:{','.join(said)}"


def _branches(text: str) -> tuple[Branch, ...]:
    return tuple(read_branch(part) for part in text.split("+"))


_OPTIONS: dict[str, Callable[[str], Any]] = {"branches": _branches, "stem": int, "head": int, "base": int}


def _read(name: str, key: str, value: str) -> Any:
    try:
        return _OPTIONS[key](value)
    except UsageError as error:
        raise UsageError(f'network "{name}": {error}') from None
    except ValueError:
        raise UsageError(f'network "{name}": {key} must be a whole number, but got "{value}"') from None


def describe(name: str) -> str:
    """One line about the named network."""
    config, kind = FASTERSEGS[name], name.rpartition("_")[2]
    ends = " and ".join(str(branch.end) for branch in config.branches)
    return f"FasterSeg (Chen et al., ICLR 2020): the searched {kind}, branches to stride {ends}"
