"""Opening a data set: the format is told from the folder, every format gives the same records and masks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..errors import UsageError, unknown
from .classes import IGNORE, ClassSet
from .readers import READERS
from .readers.layout import BadFileError, Labels, Layout, Options, Problem, Reader, Record, listed
from .readers.pixels import Views, read_sizes, read_views

__all__ = ["IGNORE", "Record", "Sample", "SegmentationData", "open_data"]

LABELLED_SPLITS = ("train", "val")
"""Splits that training needs; their pictures without a mask are left out. Other splits keep them."""

LOOKED_AT = 2**14
"""Bytes at either end of a file that its fingerprint looks at."""


class Sample(NamedTuple):
    """A picture with its mask.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` uint8, class indices and IGNORE (255).
        id: the record's.
    """

    image: np.ndarray
    mask: np.ndarray
    id: str


@dataclass(frozen=True)
class SegmentationData:
    """A data set on disk; reading happens in :meth:`read`. Pickles, so loaders may send it to workers.

    Attributes:
        root: the folder.
        format: a name in ``READERS``.
        classes: names and colours; a mask's values are their positions.
        splits: records by split name, "train" and "val" among them when there are labels enough.
        labels: what turns a record into a mask.
        problems: what the reader met in the folder (missing pairs, entries it did not follow).
        notes: what was decided for the user, e.g. a split that was made.
        made_val: ids of the records of a "val" that was made; empty where the data set came with one.
        file: the file in ``root`` that was opened in the folder's place, if any; opening it again gives the same data.
    """

    root: Path
    format: str
    classes: ClassSet
    splits: Mapping[str, tuple[Record, ...]]
    labels: Labels
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    made_val: tuple[str, ...] = ()
    file: Path | None = None

    def read(self, record: Record) -> Sample:
        """Picture and mask, of one size.

        Raises:
            BadFileError: unreadable, a mask value that is no class, no mask, or sizes that differ.
        """
        views = read_views(record.image)
        mask = self._mask(record, views.stored.shape[:2], views.upright.shape[:2])
        image = self._turned(views, mask.shape)
        if image.shape[:2] != mask.shape:
            sizes = f"{image.shape[1]}x{image.shape[0]} (W x H), its mask {mask.shape[1]}x{mask.shape[0]}"
            raise BadFileError(record.image, f"the image is {sizes}: make them the same size")
        return Sample(image, mask, record.id)

    def image(self, record: Record) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB, the same way up as in :meth:`read`; the record needs no mask."""
        views = read_views(record.image)
        shape = views.stored.shape[:2]
        if views.upright.shape != views.stored.shape and record.mask is not None:
            with suppress(BadFileError):
                shape = self._mask(record, shape, views.upright.shape[:2]).shape
        return self._turned(views, shape)

    def mask(self, record: Record) -> np.ndarray:
        """``(H, W)`` uint8, class indices and IGNORE."""
        return self._mask(record, *read_sizes(record.image))

    def fingerprint(self) -> str:
        """A hash that changes when files, splits, classes or the way of reading change; decodes no pixels.

        Files count by path below the root, size, beginning and end, so a data set that was moved, copied or unpacked
        again keeps its fingerprint. (A picture that is stored compressed has another end when a pixel is another one.)
        """
        digest = hashlib.sha256(self.reading().encode())
        look = lru_cache(maxsize=None)(lambda file: _look(file, self.root))
        for split in sorted(self.splits):
            for record in self.splits[split]:
                line = f"{split}|{record.id}|{look(record.image)}|{look(record.mask)}\n"
                digest.update(line.encode())
        return digest.hexdigest()

    def reading(self) -> str:
        """A hash of how files become pixels and classes, whatever the files."""
        said = (self.format, self.classes, self.labels.signature())
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def _mask(self, record: Record, stored: tuple[int, ...], upright: tuple[int, ...]) -> np.ndarray:
        if record.mask is None:
            raise BadFileError(record.image, "there is no mask for this image")
        height, width = upright if self.labels.upright else stored
        return self.labels.mask(record, (height, width))

    def _turned(self, views: Views, shape: tuple[int, ...]) -> np.ndarray:
        """The view that goes with a mask of ``shape``: see the policy in ``readers/pixels.py``."""
        fits = shape == views.upright.shape[:2] and shape != views.stored.shape[:2]
        return views.upright if self.labels.upright or fits else views.stored


def _look(file: Path | None, root: Path) -> str:
    """A file's place, size, and a hash of how it begins and ends: small ones are read whole."""
    if file is None:
        return "-"
    try:
        with file.open("rb") as opened:
            ends = hashlib.sha256(opened.read(LOOKED_AT))
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(LOOKED_AT, size - LOOKED_AT))
            ends.update(opened.read())
    except OSError:
        return f"{file.name} absent"
    return f"{file.relative_to(root).as_posix()} {size} {ends.hexdigest()[:16]}"


def open_data(
    path: str | Path,
    format: str = "auto",
    seed: int = 0,
    val_share: float = 0.2,
    background: Literal["class", "ignore"] | None = None,
) -> SegmentationData:
    """Open the data set at ``path``; lists files and reads annotations, but no pixels.

    Args:
        path: the folder, or a YOLO ``data.yaml``.
        format: one of ``READERS``, or "auto" to tell it from the folder.
        seed: of the split that is made when there is a "train" but no "val".
        val_share: part of the labelled "train" pictures that such a split takes, in (0, 1).
        background: COCO instances and YOLO polygons: what pixels without an annotation are, a class of their own
            ("class", the default) or left out ("ignore").

    Raises:
        UsageError: no such folder, a format that is unknown, cannot be told or is ambiguous, an option that
            means nothing to the format, or a broken classes file.
        CatchweightError: an annotation file that cannot be read.
    """
    root, file = _root(Path(path))
    if not 0 < val_share < 1:
        raise UsageError(f"val_share must lie in (0, 1), but got {val_share}")
    reader = _reader(root, format)
    if background is not None and not reader.has_background:
        raise UsageError(f'format "{reader.name}" labels every pixel: "background" has no effect, leave it out')
    if background not in (None, "class", "ignore"):
        raise unknown("background", str(background), ("class", "ignore"))
    layout = reader.read(root, Options(background or "class", file))
    _leave_out_unlabelled(layout)
    made = _make_val(layout, seed, val_share)
    return SegmentationData(
        root=root,
        format=reader.name,
        classes=layout.classes,
        splits={split: tuple(records) for split, records in layout.splits.items() if records},
        labels=layout.labels,
        problems=tuple(layout.problems),
        notes=tuple(layout.notes),
        made_val=made,
        file=file,
    )


def _root(path: Path) -> tuple[Path, Path | None]:
    """The folder, and the file in it that was given in its place."""
    if path.is_dir():
        return path.resolve(), None
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        file = path.resolve()
        return file.parent, file
    if path.exists():
        raise UsageError(f"{path} is a file: give the folder of the data set")
    raise UsageError(f"{path} does not exist: give the folder of the data set")


def _reader(root: Path, format: str) -> Reader:
    if format != "auto":
        if format not in READERS:
            raise unknown("data format", format, ("auto", *READERS))
        reader = READERS[format]
        if not reader.recognises(root):
            raise UsageError(f"{root} is not {format}: it needs {reader.looks_for}. Seen: {_seen(root)}")
        return reader
    fitting = [reader for reader in READERS.values() if reader.recognises(root)]
    names = {reader.name for reader in fitting}
    fitting = [reader for reader in fitting if not names & set(reader.yields_to)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        kinds = "; ".join(f"{reader.name} ({reader.looks_for})" for reader in fitting)
        raise UsageError(f"{root} fits several formats: {kinds}. Name the one you mean (format, --format)")
    raise UsageError(_unrecognised(root))


def _unrecognised(root: Path) -> str:
    looked = "\n".join(f"  {reader.name}: {reader.looks_for}" for reader in READERS.values())
    text = f"cannot tell the format of {root}. Looked for\n{looked}\nSeen: {_seen(root)}"
    below = [path for path in (*root.glob("*/"), *root.glob("*/*/")) if not path.name.startswith(".")][:200]
    fitting = [path for path in below if any(reader.recognises(path) for reader in READERS.values())]
    return text + (f"\nDid you mean {fitting[0]}?" if fitting else "")


def _seen(root: Path) -> str:
    entries = sorted(root.iterdir(), key=lambda path: (path.is_file(), path.name))
    return listed(path.name + "/" * path.is_dir() for path in entries) or "nothing, the folder is empty"


def _leave_out_unlabelled(layout: Layout) -> None:
    """Training and validation need a mask: pictures without one are reported and not used."""
    for split in set(LABELLED_SPLITS) & set(layout.splits):
        records = layout.splits[split]
        layout.splits[split] = [record for record in records if record.mask is not None]
        layout.problems += [
            Problem("warning", str(record.image), "image without a mask: it is not used")
            for record in records
            if record.mask is None
        ]
    for split, records in layout.splits.items():
        count = sum(record.mask is None for record in records)
        if count:
            layout.notes.append(f"split {split}: {count} of {len(records)} images have no mask")


def _make_val(layout: Layout, seed: int, share: float) -> tuple[str, ...]:
    """Split off "val" by a hash of seed and id, so that it depends on nothing else, not even on the order.

    Returns:
        The ids that it took; none where there is a "val".
    """
    records = layout.splits.get("train", [])
    if layout.splits.get("val") or len(records) < 2:
        return ()
    count = min(max(1, round(share * len(records))), len(records) - 1)
    ranked = sorted(records, key=lambda record: hashlib.sha256(f"{seed}|{record.id}".encode()).digest())
    chosen = {record.id for record in ranked[:count]}
    layout.splits["train"] = [record for record in records if record.id not in chosen]
    layout.splits["val"] = [record for record in records if record.id in chosen]
    layout.notes.append(
        f"no val split given: {count} of {len(records)} train images were taken by a hash of seed {seed} and the id "
        "(frames of one film look alike: give a val split of your own for an honest score)"
    )
    return tuple(record.id for record in layout.splits["val"])
