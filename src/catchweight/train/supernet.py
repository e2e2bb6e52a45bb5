"""Training a supernet, so that its members work with the weights they share.

Sandwich rule and in-place distillation: every step trains the largest member on the labels, and the smallest and a few
random ones on what the largest predicts (Yu and Huang, "Universally Slimmable Networks", ICCV 2019; Yu et al.,
"BigNAS", ECCV 2020). With ``share_batch`` the random members divide the batch among them, so that a step sees many at
the cost of one (multi-architectural sampling, Liao et al., "Searching for Efficient Multi-Stage Vision Transformers",
2021). Without the sandwich only random members learn, all from the labels: one of them is the uniform sampling of Guo
et al., "Single Path One-Shot", ECCV 2020.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Config
from ..errors import UsageError
from ..front import Arch
from ..nets import SegmentationNet
from ..quiet import give_way
from ..spaces.segmentation import SegmentationSpace, input_size
from ..tasks.losses import SegmentationLoss
from .distill.losses import pixel_kl

Part = tuple[Tensor, Tensor, Tensor | None]
"""Images (B, 3, H, W), masks (B, H, W), and the teacher's logits where there is one."""


class Sandwich(Config):
    """How the members of one step are drawn and what they learn from; an ``Objective`` of :func:`.train`."""

    later: ClassVar[tuple[str, ...]] = ("rule",)

    rule: Literal["sandwich", "uniform"] = "sandwich"
    """"sandwich": the largest member learns from the labels, the smallest and some random ones from it. "uniform":
    random members alone, from the labels."""
    members: int = Field(default=2, ge=0)
    """Random members of a step, of a sandwich besides the largest and the smallest."""
    share_batch: bool = False
    """Divide the batch among the random members instead of giving all of it to each."""
    distill: float = Field(default=1.0, ge=0)
    """Weight of the distillation of all but the largest member."""
    labels: float = Field(default=0.0, ge=0)
    """Weight of their loss on the labels; 0 as published."""
    temperature: float = Field(default=1.0, gt=0)
    """Of both softmaxes in the distillation."""

    @model_validator(mode="after")
    def _check(self) -> Sandwich:
        if self.rule == "uniform" and not self.members:
            raise ValueError("uniform sampling trains random members alone: members must be 1 or more")
        taught = (self.distill, self.labels, self.temperature)
        if self.rule == "uniform" and taught != (1.0, 0.0, 1.0):
            raise ValueError("uniform sampling has no teacher: leave distill, labels and temperature out")
        return self

    def describe(self) -> dict[str, Any]:
        return {"kind": "sandwich", **self.asked()}

    def __call__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool) -> nn.Module:
        """The step as a module.

        Raises:
            UsageError: the network has no choices.
        """
        if not isinstance(net, SegmentationSpace):
            raise UsageError(f"the sandwich rule trains a search space, but {net.spec.name} is a plain network")
        return SupernetStep(net, loss, self, channels_last)


class SupernetStep(nn.Module):
    """uint8 images ``(B, 3, H, W)`` and masks ``(B, H, W)`` -> the sum of the members' losses."""

    def __init__(
        self, space: SegmentationSpace, loss: SegmentationLoss, how: Sandwich, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.net = space
        self.loss = loss
        self.how = how
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._largest, self._smallest = space.largest(), space.smallest()

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        x = self.net.normalise(images).contiguous(memory_format=self.memory_format)
        total, teacher = torch.zeros((), device=x.device), None
        if self.how.rule == "sandwich":
            total, teacher = self._teach(x, masks)
            total = total + self._learn(self._smallest, x, masks, teacher)
        # Drawn from torch's generator, which the loop seeds for each step: a resumed step draws the same members.
        rng = random.Random(int(torch.randint(2**62, (1,))))
        drawn = [self.net.sample(rng) for _ in range(self.how.members)]
        shares = self.how.share_batch and bool(drawn)
        cut = list(self._cut(x, masks, teacher, min(len(drawn), len(x)) if shares else 1))
        turns = len(drawn) / len(cut) if shares else 1.0  # more members than images: a part serves several of them
        for number, arch in enumerate(drawn):
            part = cut[number % len(cut)]
            total = total + len(part[0]) / len(x) / turns * self._learn(arch, *part)
        return total

    @staticmethod
    def _cut(x: Tensor, masks: Tensor, teacher: Tensor | None, parts: int) -> Iterator[Part]:
        """The batch in so many parts of about equal size."""
        taught = [None] * parts if teacher is None else teacher.tensor_split(parts)
        yield from zip(x.tensor_split(parts), masks.tensor_split(parts), taught, strict=True)

    def _teach(self, x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the largest member, and its logits (B, K, h, w) for the others."""
        with self.net.activate(self._largest):
            logits = self.net.train_logits(x)
        return self.loss(logits, masks), logits[0].detach()

    def _learn(self, arch: Arch, x: Tensor, masks: Tensor, teacher: Tensor | None) -> Tensor:
        with self.net.activate(arch):
            logits = self.net.train_logits(resized(x, arch))
        if teacher is None:
            return self.loss(logits, masks)
        total = self.how.distill * pixel_kl(logits[0], teacher, self.how.temperature)
        if self.how.labels:
            total = total + self.how.labels * self.loss(logits, masks)
        return total


def resized(x: Tensor, arch: Mapping[str, Any]) -> Tensor:
    """Images (B, 3, H, W) at the member's own input size, antialiased."""
    height, width = input_size(arch)
    if (height, width) == tuple(x.shape[-2:]):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


@torch.no_grad()
def recalibrate(net: nn.Module, batches: list[Tensor]) -> None:
    """Take the statistics of every batch norm anew from these inputs (B, 3, H, W); weights stay.

    A member of a supernet has the statistics of none in particular (Yu and Huang, ICCV 2019).
    """
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = net.training
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for batch in batches:
        give_way()
        net(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.train(was_training)
