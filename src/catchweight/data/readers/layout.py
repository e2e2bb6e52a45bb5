"""What every reader speaks: records, problems, labels, and the layout it finds in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ...errors import CatchweightError
from ..classes import ClassSet

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif"})
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
"""Pillow's names of the formats behind IMAGE_SUFFIXES, the only ones that are read, whatever a file's suffix."""

SPLIT_NAMES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}


@dataclass(frozen=True)
class Record:
    """One picture and where its label is.

    Attributes:
        id: unique in the data set, stable across machines; usually the path without suffix.
        image: the picture's file.
        mask: the file that holds the label: a mask, a text file of polygons, or a file shared by many records.
            None: the picture has no label.
    """

    id: str
    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    ``level`` "error": training could not run until it is repaired; "warning": it could, but read this.
    """

    level: Literal["error", "warning"]
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class BadFileError(CatchweightError):
    """A file of the data set that cannot be used; ``reason`` says why and what would be right."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = str(file)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadFileError], tuple[str, str]]:
        # An exception rebuilt from its message alone could not come back from a worker process.
        return BadFileError, (self.file, self.reason)


class Labels(Protocol):
    """Turns a record's label into a mask. Must pickle: loaders send it to worker processes."""

    @property
    def upright(self) -> bool:
        """The labels were drawn on the picture as its EXIF orientation turns it, not as it is stored."""
        ...

    def mask(self, record: Record, size: tuple[int, int]) -> np.ndarray:
        """``(H, W)`` uint8 of class indices and IGNORE.

        Args:
            record: one with a label.
            size: the picture's (H, W), for labels that have no size of their own.

        Raises:
            BadFileError: unreadable, or values that stand for no class.
        """
        ...

    def signature(self) -> str:
        """What of the mapping decides the masks, for use in a cache key."""
        ...


@dataclass
class Layout:
    """What a reader found in a folder."""

    classes: ClassSet
    labels: Labels
    splits: dict[str, list[Record]]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the user may choose about a format.

    ``background``: where nothing is annotated (COCO instances, YOLO polygons), "class" makes a class named
    background with index 0, "ignore" leaves those pixels out of loss and score. ``file``: the file in the folder that
    was given in its place (YOLO: the YAML file to follow); None leaves the choice to the reader.
    """

    background: Literal["class", "ignore"] = "class"
    file: Path | None = None


@dataclass(frozen=True)
class Reader:
    """One format: how to tell it and how to read it.

    Attributes:
        name: what a user calls it.
        looks_for: the layout in one line, shown when no format fits.
        recognises: whether a folder has this layout; looks at names only.
        read: the layout; raises CatchweightError when the folder cannot be this format.
        yields_to: formats that win when both fit.
        has_background: whether ``Options.background`` means anything here.
    """

    name: str
    looks_for: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options], Layout]
    yields_to: tuple[str, ...] = ()
    has_background: bool = False


def split_name(folder: str) -> str:
    """The name a split goes by here: ``valid`` and ``validation`` are ``val``, ``train2017`` is ``train``."""
    plain = folder.lower().rstrip("0123456789").rstrip("_-") or folder.lower()
    return SPLIT_NAMES.get(plain, plain)


def inside(root: Path, *parts: str) -> Path | None:
    """The path of an entry some file names, or None when it leads out of ``root``.

    Only the text is judged: links a user made in the folder are followed, ``..`` in a file's text is not.
    """
    joined = Path(os.path.normpath(root.joinpath(*parts)))
    base = Path(os.path.normpath(root))
    return joined if joined == base or base in joined.parents else None


def present(path: Path | None) -> bool:
    """Whether a path that a file names is there; names too long or with odd characters simply are not."""
    return path is not None and os.path.exists(path)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in ``folder``, sorted; none when it is absent."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures(folder: Path, ending: str = "", recursive: bool = True) -> dict[str, Path]:
    """Every picture below ``folder``, keyed by its path without suffix (and without ``ending``), sorted.

    Of two files with one key (``a.jpg``, ``a.png``) the first in the alphabet is kept.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key.endswith(ending):
            found.setdefault(key.removesuffix(ending), path)
    return found


def pair(
    images: dict[str, Path], masks: dict[str, Path], prefix: str, problems: list[Problem], expected: str
) -> list[Record]:
    """Records for the images; a picture without a mask has mask None, a mask without a picture is a problem.

    Args:
        images: key to file.
        masks: key to file.
        prefix: put before the key to make the id unique over the splits.
        problems: appended to.
        expected: where a picture was looked for, for the message.
    """
    problems += [
        Problem("warning", str(path), f"mask without an image: no {expected} of that name; it is not used")
        for key, path in masks.items()
        if key not in images
    ]
    return [Record(prefix + key, path, masks.get(key)) for key, path in images.items()]


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names joined by commas, cut after ``most``."""
    every = list(names)
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
