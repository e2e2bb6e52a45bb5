"""The training images in two halves, one for weights and one for architectures, and both as batches of one step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...data import SegmentationData
from ...data.cache import PixelCache
from ...data.loading import Batch, TrainLoader
from ...errors import CatchweightError
from .settings import CoSearchSettings, PhaseSettings

PAIR = 2


class HalfLoader(TrainLoader):
    """A ``TrainLoader`` over one half of the training split.

    Args:
        half: 0, the weights' images, or 1, the architectures'; a seed always cuts the same way.

    Raises:
        CatchweightError: there are too few images for two halves.
    """

    def __init__(
        self,
        data: SegmentationData,
        phase: PhaseSettings,
        settings: CoSearchSettings,
        half: int,
        cache: PixelCache | None,
    ) -> None:
        # A loader's zoom of 1 shows the whole image, so a crop at the image's own scale is a larger one.
        zoom = settings.image_size[0] / phase.size[0]
        low, high = settings.augment.scale
        augment = settings.augment.model_copy(update={"scale": (zoom * low, zoom * high)})
        super().__init__(data, phase.size, phase.batch, augment, settings.seed + half, cache, workers=settings.workers)
        order = np.random.default_rng(settings.seed).permutation(len(self.records))
        mine = sorted(order[half::PAIR].tolist())
        if len(order) < PAIR:
            raise CatchweightError(f"{data.root} has {len(order)} training images: a search needs two or more")
        self.records = tuple(self.records[index] for index in mine)


def pairs(weights: HalfLoader, architecture: HalfLoader, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
    """The batches of both halves step by step, as many as the smaller half gives."""
    return zip(weights.epoch(epoch, start), architecture.epoch(epoch, start), strict=False)


__all__ = ["HalfLoader", "pairs"]
