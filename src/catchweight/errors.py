"""The errors a user can meet, and the one way to say "no such name"."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class CatchweightError(Exception):
    """A failure the user can act on: the message names the file, key or image and what would be right.

    The command line prints the message alone and ends with ``exit_code``.
    """

    exit_code = 1


class UsageError(CatchweightError):
    """What was asked for cannot be understood: unknown name, malformed value, contradictory flags."""

    exit_code = 2


class StorageError(CatchweightError):
    """Files and folders are in the way: a disk is full, a folder read-only, in use or another run's, a file cut off.

    It says nothing about a network, so nobody who tries things out may keep it as a finding: the next call may go well.
    """


class DivergedError(CatchweightError):
    """A training whose loss or weights became infinite or NaN: a finding about its network and recipe."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name nobody knows: lists what is known, nearest match first.

    >>> str(unknown("loss", "dise", ["dice", "ohem"]))
    'unknown loss "dise": did you mean "dice"? Known: dice, ohem'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f' did you mean "{near[0]}"?' if near else ""
    return UsageError(f'unknown {kind} "{name}":{hint} Known: {", ".join(names)}')


def shown(value: Any) -> str:
    """A value as a message may show it: what it is at most two levels deep, and cut where it is long.

    >>> shown([[1, [2]], "x"])
    "[[1, [...]], 'x']"
    """
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
