"""One training step as a module, so that Fabric, DDP and ``torch.compile`` see all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..nets import SegmentationNet
from ..tasks.losses import SegmentationLoss
from .checkpoints import Progress


class Step(nn.Module):
    """Normalise, run the network, take the loss: uint8 images and masks to a scalar."""

    def __init__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool = True) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Loss of images ``(B, 3, H, W)`` uint8 with masks ``(B, H, W)`` uint8."""
        inputs = self.net.normalise(images).contiguous(memory_format=self.memory_format)
        return self.loss(self.net.train_logits(inputs), masks)


class Objective(Protocol):
    """What a step of training optimises, beyond the plain loss of one network: distillation, a supernet's members."""

    def describe(self) -> dict[str, Any]:
        """Plain values that tell it from others; a checkpoint of another objective is refused."""
        ...

    def __call__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool) -> nn.Module:
        """The step as a module: images (B, 3, H, W) uint8 and masks (B, H, W) uint8 -> scalar loss.

        Its parameters are optimised; those of ``net`` must be among them, and what is fixed must not require gradients.
        Whatever its ``state_dict`` holds beside ``net`` (adapters, say) is stored and restored with the training; only
        ``net`` is averaged and kept. It is called once a step with torch's generator seeded for that step, so what it
        draws from it is repeated on resume.
        """
        ...


class PlainLoss:
    """The loss of the network alone."""

    def describe(self) -> dict[str, Any]:
        return {}

    def __call__(self, net: SegmentationNet, loss: SegmentationLoss, channels_last: bool) -> nn.Module:
        return Step(net, loss, channels_last)


class LossWatch:
    """Adds losses up and refuses to go on after one that is not finite.

    On a CPU every loss is looked at before its backward pass. Elsewhere that would make the host wait for the
    device at every step, so losses are looked at in groups, and always before anything is stored.

    Args:
        progress: takes the losses.
        every: so many losses are looked at together.
        files: image file by id, for the message.
    """

    def __init__(self, progress: Progress, every: int, files: Mapping[str, str] | None = None) -> None:
        self.progress, self.every, self.files = progress, every, files or {}
        self._pending: list[tuple[Tensor, int, int, tuple[str, ...]]] = []

    def add(self, loss: Tensor, epoch: int, step: int, ids: tuple[str, ...]) -> None:
        """Take in the loss of one batch."""
        self._pending.append((loss.detach(), epoch, step, ids))
        if len(self._pending) >= self.every:
            self.check()

    def check(self) -> None:
        """Look at every loss that waits.

        Raises:
            DivergedError: a loss is NaN or infinite; names the epoch, the step and the batch's files.
        """
        values = torch.stack([loss for loss, *_ in self._pending]).tolist() if self._pending else []
        for value, (_, epoch, step, ids) in zip(values, self._pending, strict=True):
            if value != value or abs(value) == float("inf"):
                named = ", ".join(self.files.get(name, name) for name in ids)
                raise DivergedError(
                    f"the loss became {value} in epoch {epoch + 1}, step {step + 1}, on the images "
                    f"{named}. The last good checkpoint is kept: look at these images, or train with a "
                    "lower lr or with clip=1 in a fresh folder"
                )
            self.progress.loss_total += value
            self.progress.loss_count += 1
        self._pending.clear()

    @property
    def mean(self) -> float:
        """Mean loss per batch so far, of the losses that were looked at."""
        return self.progress.loss_total / max(1, self.progress.loss_count)
