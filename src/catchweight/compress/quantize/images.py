"""Real images for calibration and for comparing files, read one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...data import SegmentationData
from ...data.transforms import resize_image
from ...deploy.segmenter import Segmenter
from ...errors import CatchweightError, unknown


@dataclass(frozen=True)
class Images:
    """Some images of a split as the network sees them; can be walked through again and again.

    Args:
        data: the data set.
        segmenter: the file they are for: it fixes size, batch and normalisation.
        split: name of the split.
        count: how many, evenly spread over the split; all when there are fewer.
        offset: in [0, 1): shifts them, so that two selections of one split do not meet.
    """

    data: SegmentationData
    segmenter: Segmenter
    split: str = "train"
    count: int = 64
    offset: float = 0.0

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def indices(self) -> list[int]:
        """Positions in the split."""
        if self.split not in self.data.splits:
            raise unknown("split", self.split, self.data.splits)
        found = spaced(len(self.data.splits[self.split]), self.count, self.offset)
        if not found:
            raise CatchweightError(f"split {self.split} of {self.data.root} has no images to calibrate on")
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        """Batches (B, 3, H, W) float32, normalised; the last one is filled up with its last image."""
        records, batch, indices = self.data.splits[self.split], self.segmenter.batch or 1, self.indices
        for start in range(0, len(indices), batch):
            part = [
                resize_image(self.data.image(records[i]), self.segmenter.size).numpy() for i in indices[start:][:batch]
            ]
            yield self.segmenter.normalise(np.stack(part + [part[-1]] * (batch - len(part))))


def spaced(count: int, wanted: int, offset: float = 0.0) -> list[int]:
    """``wanted`` indices spread evenly over ``range(count)``, all of them when there are fewer.

    ``offset`` in [0, 1) shifts them by that share of their distance.
    """
    if wanted >= count:
        return list(range(count))
    step = count / wanted
    return sorted({int((place + offset) * step) for place in range(wanted)})
