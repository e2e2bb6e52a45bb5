"""MGD: multi-granularity distillation for semi-supervised segmentation (Qin et al., ECCV 2022).

A light student, few labels, many unlabelled images, and two complementary teachers that were trained on the labelled
part: a wide and shallow one and a thin and deep one. Three levels:

- pixel: both teachers' most likely classes are labels, for labelled images and for CutMix mixtures of unlabelled ones;
- region: the student's decoder map is as similar to itself between 7x7 regions as the wide teacher's is;
- image: the student's mean logits over the image are those of the deep teacher.

Departures: the authors also train each teacher against the student's predictions, which moves nothing because teachers
are frozen, and is left out; their teachers run in training mode and so update their norm statistics, ours are in
evaluation mode; pixels that zooming out has padded count for nothing. An option of our own: teachers that see the
images at a larger size than the student.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..data import IGNORE
from ..data.unlabelled import UnlabelledData
from ..nets import SegmentationNet
from ..tasks.losses import SegmentationLoss, cross_entropy, log_probabilities
from .batches import Batches, FinerImages, MakeLoader, Triples, finer_size, taken_apart
from .distill.taps import Taps
from .distill.teacher import Size, Teacher, network_hash, require_same_classes, seen
from .recipes import Recipe

AUTHORS_BATCH = 16
"""The authors add the image term up over a batch of 16; here it is the mean over images, with that much more weight."""


class MgdTerms(Config):
    """Weights of the terms; 0 leaves one out. The defaults are the authors'."""

    pixel: float = Field(default=1.0, ge=0)
    """Weight of each teacher's pixel labels, on labelled and on mixed unlabelled images alike."""
    region: float = Field(default=100.0, ge=0)
    """Weight of the mean squared difference of the self-similarities, from the wide teacher."""
    image: float = Field(default=0.001 * AUTHORS_BATCH, ge=0)
    """Weight of the absolute differences of the mean logits, summed over classes, from the deep teacher."""
    regions: int = Field(default=7, ge=2)
    """Regions along each side for the self-similarity."""
    boxes: int = Field(default=3, ge=1)
    """Boxes of a CutMix mixture; where two overlap, the first image shows again."""
    box_area: tuple[float, float] = (0.25, 0.5)
    """Least and largest share of the image that the boxes cover together, overlaps aside."""
    student_map: str = "neck[0]"
    """The student's decoder map: a module, and which of its outputs."""
    wide_map: str = "neck[0]"
    """The wide teacher's."""


@dataclass(frozen=True)
class MultiGranularity:
    """An ``Objective``: train a student on a labelled split, with two teachers and unlabelled images.

    A batch of the recipe is that many labelled images and twice as many unlabelled ones.

    Args:
        wide: the wide and shallow teacher, trained on the labelled images.
        deep: the thin and deep one.
        unlabelled: images without labels, e.g. from ``labelled_share``.
        terms: weights and options.
        split: of ``unlabelled``.
        size: (H, W) at which the teachers see the images. Where it is larger than the recipe's, images are loaded at
            that size and reduced for the student, so the teachers see more detail; by default as the student does.
    """

    wide: SegmentationNet
    deep: SegmentationNet
    unlabelled: UnlabelledData
    terms: MgdTerms = MgdTerms()
    split: str = "train"
    size: Size | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "multi-granularity distillation",
            "wide": {"network": self.wide.spec.name, "hash": network_hash(self.wide)},
            "deep": {"network": self.deep.spec.name, "hash": network_hash(self.deep)},
            "unlabelled": f"{self.split}: {len(self.unlabelled.splits[self.split])} images",
            "images": self.unlabelled.fingerprint()[:16],
            "terms": self.terms.model_dump(mode="json"),
            **({} if self.size is None else {"size": list(self.size)}),
        }

    def batches(self, make: MakeLoader, recipe: Recipe) -> Batches:
        """Each labelled image with two unlabelled ones; the labelled order is that of a training without them."""
        # The seeds of the three orders must differ, and those of neighbouring recipes must not meet.
        seeds = [recipe.seed + offset * 1_000_003 for offset in (1, 2)]
        finer = finer_size(self.size, recipe.size)
        size = finer or recipe.size
        first, second = (make(data=self.unlabelled, split=self.split, seed=seed, size=size) for seed in seeds)
        triples = Triples(make(size=size), first, second)
        return FinerImages(triples, recipe.size) if finer else triples

    def __call__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool) -> nn.Module:
        """The step as a module.

        Raises:
            UsageError: classes that differ, or a map that does not exist.
        """
        require_same_classes(net, self.wide, self.deep)
        return MgdStep(net, loss, self, channels_last)


class MgdStep(nn.Module):
    """uint8 images ``(3 B, 3, H', W')`` and masks ``(3 B, H, W)``, in turns x, u0, u1 -> the sum of all terms.

    The student sees (H, W).
    """

    def __init__(
        self, net: SegmentationNet, loss: SegmentationLoss, how: MultiGranularity, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.terms = terms = how.terms
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.taps = Taps(net, [terms.student_map] if terms.region else [])
        self.wide = Teacher(how.wide, how.size, [terms.wide_map] if terms.region else [], channels_last)
        self.deep = Teacher(how.deep, how.size, channels_last=channels_last)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        terms = self.terms
        x, first, second = taken_apart(images, 3)
        labels, shown, other = taken_apart(masks, 3)
        size = masks.shape[-2:]
        boxes = cutmix_boxes(len(x), (size[0], size[1]), terms.boxes, terms.box_area).to(x.device)
        mixed = torch.where(enlarged(boxes, x.shape[-2:])[:, None], second, first)
        padding = torch.where(boxes, other, shown) == IGNORE
        logits = self.net.train_logits(seen(self.net, x, size, self.memory_format))
        with self.taps.caught() as mine:
            unlabelled = self.net.train_logits(seen(self.net, mixed, size, self.memory_format))[0]
        total = self.loss(logits, labels)
        if terms.pixel:
            teachers = (self.wide, self.deep)
            guesses = [torch.where(boxes, t.classes(second, size), t.classes(first, size)) for t in teachers]
            total = total + terms.pixel * pixel_labels(unlabelled, guesses, padding)
            guesses = [teacher.classes(x, size) for teacher in teachers]
            total = total + terms.pixel * pixel_labels(logits[0], guesses, labels == IGNORE)
        if terms.region:
            theirs = self.wide(mixed)[1][terms.wide_map]
            total = total + terms.region * region_difference(mine[terms.student_map], theirs, terms.regions)
        if terms.image:
            total = total + terms.image * image_difference(unlabelled, self.deep(mixed)[0])
        return total


def pixel_labels(logits: Tensor, guesses: list[Tensor], padding: Tensor) -> Tensor:
    """Sum over teachers of the cross-entropy of logits ``(B, K, h, w)`` with their classes ``(B, H, W)``.

    ``padding`` (B, H, W) marks pixels that count for nothing.
    """
    logp = log_probabilities(logits, padding.shape[-2:])
    return torch.stack([cross_entropy(logp, guess.masked_fill(padding, IGNORE)) for guess in guesses]).sum()


def region_difference(student: Tensor, teacher: Tensor, regions: int = 7) -> Tensor:
    """Mean squared difference of two maps' self-similarities; channels and sizes may differ."""
    return F.mse_loss(self_similarity(student, regions), self_similarity(teacher.detach(), regions))


def self_similarity(maps: Tensor, regions: int) -> Tensor:
    """Cosine between the mean channels of every two of n x n regions: ``(B, C, h, w) -> (B, n^2, n^2)``."""
    pooled = F.normalize(F.adaptive_avg_pool2d(maps.float(), regions).flatten(2), dim=1)
    return pooled.transpose(1, 2) @ pooled


def image_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Absolute difference of the mean logits ``(B, K, h, w)`` over the image, summed over classes, mean over images."""
    mine, theirs = student.float().mean((2, 3)), teacher.detach().float().mean((2, 3))
    return (mine - theirs).abs().sum(1).mean()


def enlarged(shown: Tensor, size: Size | torch.Size) -> Tensor:
    """A mask ``(B, H, W)`` bool at another size."""
    if shown.shape[-2:] == torch.Size(size):
        return shown
    return F.interpolate(shown[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0] > 0


def cutmix_boxes(count: int, size: tuple[int, int], boxes: int, area: tuple[float, float]) -> Tensor:
    """Where the second image of a mixture shows: bool ``(count, H, W)``, drawn from torch's generator.

    Each box covers ``1 / boxes`` of a share of the image drawn from ``area``, has a random aspect ratio and lies inside
    the image (CutMix, Yun et al., ICCV 2019, with several boxes as in French et al., BMVC 2020).
    """
    height, width = size
    low, high = area
    share = low + (high - low) * torch.rand(count, boxes)
    tall = share ** torch.rand(count, boxes)  # log-uniform between the share itself and 1
    sides = torch.stack([tall, share / tall], dim=-1) / math.sqrt(boxes)
    extent = torch.tensor([height, width])
    lengths = (sides * extent).round()
    starts = ((extent - lengths) * torch.rand(count, boxes, 2)).round()
    rows, columns = torch.arange(height), torch.arange(width)
    shown = torch.zeros(count, height, width, dtype=torch.bool)
    for box in range(boxes):
        top, left = starts[:, box, 0, None], starts[:, box, 1, None]
        tall_enough = (rows >= top) & (rows < top + lengths[:, box, 0, None])
        wide_enough = (columns >= left) & (columns < left + lengths[:, box, 1, None])
        shown ^= tall_enough[:, :, None] & wide_enough[:, None, :]
    return shown
