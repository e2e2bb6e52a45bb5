"""Distillation for segmentation: a student learns from labels and from a trained teacher at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ...config import Config
from ...data.classes import IGNORE
from ...errors import UsageError
from ...nets import SegmentationNet
from ...tasks.losses import SegmentationLoss
from ..batches import Batches, FinerImages, MakeLoader, finer_size
from ..recipes import Recipe
from .losses import Reduction, channel_kl, imitation, pixel_kl
from .taps import Taps
from .teacher import Size, Teacher, network_hash, require_same_classes, seen

Place = tuple[str, str]
"""Where a map comes out in the student, and where in the teacher."""
Maps = list[tuple[Tensor, Tensor]]
"""The student's map, as wide as the teacher's by its adapter, and the teacher's."""


class DistillTerms(Config):
    """Weights of the terms that are summed, and their options. A weight of 0 leaves a term out.

    The default is FasterSeg's (Chen et al., ICLR 2020): the loss on the labels and the KL divergence at each pixel,
    both with weight 1, at temperature 1.
    """

    labels: float = Field(default=1.0, ge=0)
    """Weight of the recipe's own loss on the labels."""
    kl: float = Field(default=1.0, ge=0)
    """Weight of the KL divergence of the class distributions at each pixel."""
    kl_temperature: float = Field(default=1.0, gt=0)
    """Divides both logits; the term is multiplied by its square."""
    kl_reduction: Reduction = "pixel"
    """"pixel": mean over pixels; "element": mean over pixels and classes, K times smaller."""
    kl_labelled: bool = False
    """Compare only pixels that have a label, which leaves out the padding of zoomed-out images."""
    cwd: float = Field(default=0.0, ge=0)
    """Weight of channel-wise distillation on the logits (Shu et al., ICCV 2021, who take 3)."""
    cwd_features: float = Field(default=0.0, ge=0)
    """Weight of channel-wise distillation on the encoder's maps, through adapters (they take 50)."""
    cwd_temperature: float = Field(default=4.0, gt=0)
    """Of the softmax over positions; both terms are multiplied by its square."""
    features: float = Field(default=0.0, ge=0)
    """Weight of the imitation of the encoder's maps of equal stride, through 1x1 adapters (FitNets, ICLR 2015)."""
    layers: float = Field(default=0.0, ge=0)
    """Weight of layerwise imitation at the places that ``layer_pairs`` names."""
    layer_pairs: tuple[Place, ...] = ()
    """Pairs of modules, of the student and of the teacher, e.g. [[neck.layers.0, neck.layers.2]]; a module that gives
    several maps takes a number behind it, as in ``neck[0]``."""
    relative: bool = True
    """Imitation errors count relative to the mean square of the teacher's map; off: FitNets' plain half mean square."""


@dataclass(frozen=True)
class Distiller:
    """An ``Objective``: what :func:`.train` optimises when a student has a teacher.

    Args:
        teacher: a trained network of the same classes; a frozen copy is used. Not stored in checkpoints: its hash is,
            so a training goes on only with the same teacher.
        terms: what is compared, and how much it counts.
        size: (H, W) at which the teacher sees the images. Where it is larger than the recipe's, images are loaded at
            that size and reduced for the student, so the teacher sees more detail.
    """

    teacher: SegmentationNet
    terms: DistillTerms = DistillTerms()
    size: Size | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "distillation",
            "teacher": {"network": self.teacher.spec.name, "hash": network_hash(self.teacher)},
            "size": None if self.size is None else list(self.size),
            "terms": self.terms.model_dump(mode="json"),
        }

    def batches(self, make: MakeLoader, recipe: Recipe) -> Batches:
        """The plain batches, or such whose images have the teacher's size."""
        finer = finer_size(self.size, recipe.size)
        return FinerImages(make(size=finer), recipe.size) if finer else make()

    def __call__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool) -> nn.Module:
        """The step as a module.

        Raises:
            UsageError: other classes than the teacher's, a place that does not exist, or nothing to compare.
        """
        require_same_classes(net, self.teacher)
        return DistillStep(net, loss, self, channels_last)


class DistillStep(nn.Module):
    """uint8 images ``(B, 3, H', W')`` and masks ``(B, H, W)`` -> the sum of the terms; the student sees (H, W)."""

    def __init__(
        self, net: SegmentationNet, loss: SegmentationLoss, how: Distiller, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.terms = terms = how.terms
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        require_sense(terms)
        features = feature_pairs(net, how.teacher) if terms.features or terms.cwd_features else []
        self.count = len(features)
        self.pairs = [*features, *(terms.layer_pairs if terms.layers else ())]
        self.taps = Taps(net, [mine for mine, _ in self.pairs])
        self.teacher = Teacher(how.teacher, how.size, [theirs for _, theirs in self.pairs], channels_last)
        self.adapters = nn.ModuleList(adapter(*channels) for channels in self._channels())

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        terms = self.terms
        with self.taps.caught() as mine:
            logits = self.net.train_logits(seen(self.net, images, masks.shape[-2:], self.memory_format))
        taught, theirs = self.teacher(images)
        maps = [(fit(mine[a]), theirs[b]) for fit, (a, b) in zip(self.adapters, self.pairs, strict=True)]
        total = self._of_maps(maps[: self.count], maps[self.count :])
        if terms.labels:
            total = total + terms.labels * self.loss(logits, masks)
        if terms.kl:
            valid = masks != IGNORE if terms.kl_labelled else None
            total = total + terms.kl * pixel_kl(logits[0], taught, terms.kl_temperature, terms.kl_reduction, valid)
        if terms.cwd:
            total = total + terms.cwd * channel_kl(logits[0], taught, terms.cwd_temperature)
        return total

    def _of_maps(self, features: Maps, layers: Maps) -> Tensor:
        """The terms on inner maps, each the mean over its pairs."""
        terms = self.terms
        total = torch.zeros((), device=self.net.mean.device)
        if terms.features:
            total = total + terms.features * mean(imitation(*pair, terms.relative) for pair in features)
        if terms.cwd_features:
            total = total + terms.cwd_features * mean(channel_kl(*pair, terms.cwd_temperature) for pair in features)
        if terms.layers:
            total = total + terms.layers * mean(imitation(*pair, terms.relative) for pair in layers)
        return total

    def _channels(self) -> list[tuple[int, int]]:
        """Channels of each pair's maps, the student's and the teacher's."""
        if not self.pairs:
            return []
        have, want = self.taps.channels(self.net), self.teacher.taps.channels(self.teacher.net)
        return [(have[a], want[b]) for a, b in self.pairs]


def require_sense(terms: DistillTerms) -> None:
    """Raises UsageError for terms that leave nothing to compare."""
    if terms.layers and not terms.layer_pairs:
        raise UsageError("layers asks for layerwise imitation, but layer_pairs names no layers")
    if not any((terms.kl, terms.cwd, terms.cwd_features, terms.features, terms.layers)):
        raise UsageError("only the labels have a weight: leave the teacher out, or weigh kl, cwd, features or layers")


def mean(values: Iterable[Tensor]) -> Tensor:
    """Mean of scalars."""
    return torch.stack(list(values)).mean()


def adapter(channels: int, wanted: int) -> nn.Conv2d:
    """A 1x1 convolution; between equal channel counts it begins as the identity."""
    made = nn.Conv2d(channels, wanted, 1)
    if channels == wanted:
        assert made.bias is not None, "a convolution has one unless told otherwise"
        nn.init.dirac_(made.weight)
        nn.init.zeros_(made.bias)
    return made


def feature_pairs(student: SegmentationNet, teacher: SegmentationNet) -> list[Place]:
    """The encoder's maps of equal stride in both, finest first; of several the last.

    Raises:
        UsageError: no stride in common.
    """
    mine, theirs = (
        {info.stride: place for info, place in zip(net.feature_info, net.feature_places, strict=True)}
        for net in (student, teacher)
    )
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        raise UsageError(
            f"the student {student.spec.name} has maps of the strides {sorted(mine)}, the teacher {teacher.spec.name} "
            f"of {sorted(theirs)}: none in common to imitate. Name pairs of modules in layer_pairs instead"
        )
    return [(mine[stride], theirs[stride]) for stride in common]
