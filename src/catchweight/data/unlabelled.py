"""Images whose labels are absent or set aside, for semi-supervised training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UsageError, unknown
from .classes import MAX_CLASSES
from .dataset import Record, Sample, SegmentationData

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
