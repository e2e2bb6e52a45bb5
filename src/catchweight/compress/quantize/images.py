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
        besides: images of the same split that these do not meet, unless they are all there are.
    """

    data: SegmentationData
    segmenter: Segmenter
    split: str = "train"
    count: int = 64
    besides: Images | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def indices(self) -> list[int]:
        """Positions in the split."""
        if self.split not in self.data.splits:
            raise unknown("split", self.split, self.data.splits)
        everything = range(len(self.data.splits[self.split]))
        if not everything:
            raise CatchweightError(f"split {self.split} of {self.data.root} has no images to calibrate on")
        taken = set(self.besides.indices) if self.besides is not None else set()
        left = [index for index in everything if index not in taken] or everything
        return [left[place] for place in spaced(len(left), self.count)]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Batches (B, 3, H, W) float32, normalised; the last one is filled up with its last image."""
        records, batch, indices = self.data.splits[self.split], self.segmenter.batch or 1, self.indices
        for start in range(0, len(indices), batch):
            part = [
                resize_image(self.data.image(records[i]), self.segmenter.size).numpy() for i in indices[start:][:batch]
            ]
            yield self.segmenter.normalise(np.stack(part + [part[-1]] * (batch - len(part))))


def spaced(count: int, wanted: int) -> list[int]:
    """``wanted`` indices spread evenly over ``range(count)``, all of them when there are fewer."""
    step = max(1.0, count / wanted)
    return [int(place * step) for place in range(min(count, wanted))]
