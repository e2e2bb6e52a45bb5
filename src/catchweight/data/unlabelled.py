"""Images whose labels are absent or set aside, for semi-supervised training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import CatchweightError, UsageError, unknown
from .classes import MAX_CLASSES
from .dataset import Record, Sample, SegmentationData
from .readers.layout import IMAGE_SUFFIXES, pictures

UNLABELLED = MAX_CLASSES
"""Mask value of a pixel that shows something but has no label; no class has it, and padding is IGNORE as ever.

A loss of labels fails on it instead of learning it as a class.
"""


@dataclass(frozen=True)
class UnlabelledData(SegmentationData):
    """A data set that shows images only: every mask is UNLABELLED throughout, and no label file is opened."""

    def read(self, record: Record) -> Sample:
        """The picture, and a mask of its size without a label.

        Raises:
            BadFileError: the picture is unreadable.
        """
        image = self.image(record)
        return Sample(image, np.full(image.shape[:2], UNLABELLED, np.uint8), record.id)

    def reading(self) -> str:
        return hashlib.sha256(f"unlabelled|{super().reading()}".encode()).hexdigest()


def unlabelled_images(folder: Path | str, like: SegmentationData) -> UnlabelledData:
    """Every picture below a folder, as images without labels to train with beside those of ``like``.

    Args:
        folder: of pictures; their names do not matter.
        like: whose classes and way of reading pictures they share.

    Returns:
        A data set with the split "train".

    Raises:
        CatchweightError: there is no such folder, or no picture in it.
    """
    root = Path(folder)
    found = pictures(root)
    if not found:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise CatchweightError(f"{root} has no picture in or below it: name a folder of images ({kinds})")
    records = tuple(Record(f"unlabelled/{name}", path, None) for name, path in found.items())
    return UnlabelledData(root, like.format, like.classes, {"train": records}, like.labels)


def labelled_share(
    data: SegmentationData, share: float, seed: int = 0, split: str = "train"
) -> tuple[SegmentationData, UnlabelledData]:
    """Keep the labels of a part of a split and set the others aside.

    The choice is by a hash of seed and id, so with one seed a smaller share is part of a larger one.

    Args:
        data: the data set.
        share: of the images of ``split`` that keep their labels, in (0, 1); at least one does and one does not.
        seed: of the choice.
        split: the other splits stay as they are in the first result; the second has this one alone.

    Returns:
        The data set with the labelled part as ``split``, and the rest of ``split`` without labels.

    Raises:
        UsageError: an unknown split, fewer than two images, or a share that is none.
    """
    if split not in data.splits:
        raise unknown("split", split, data.splits)
    records = data.splits[split]
    if not 0 < share < 1 or len(records) < 2:
        raise UsageError(
            f"a share of {share:g} of {len(records)} images leaves nothing on one side: it must lie in (0, 1)"
        )
    count = min(max(1, round(share * len(records))), len(records) - 1)
    ranked = sorted(records, key=lambda record: hashlib.sha256(f"{seed}|{record.id}".encode()).digest())
    chosen = {record.id for record in ranked[:count]}
    kept = tuple(record for record in records if record.id in chosen)
    rest = tuple(replace(record, mask=None) for record in records if record.id not in chosen)
    return replace(data, splits={**data.splits, split: kept}), _unlabelled(data, {split: rest})


def _unlabelled(data: SegmentationData, splits: dict[str, tuple[Record, ...]]) -> UnlabelledData:
    return UnlabelledData(data.root, data.format, data.classes, splits, data.labels)
