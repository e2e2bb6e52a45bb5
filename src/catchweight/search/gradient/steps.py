"""The two steps of FasterSeg's bilevel search, first order: architectures on one half of the images, weights on the
other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...data.loading import Batch
from ...spaces.fasterseg import (
    ArchitectureLogits,
    Ends,
    FasterSegLatency,
    FasterSegSpace,
    Values,
    at_width,
    even,
    random_widths,
)
from ...tasks.losses import log_probabilities, ohem_cross_entropy

OHEM_THRESHOLD, OHEM_KEEP = 0.7, 1 / 16
LABEL_STRIDE = 8

Member = tuple[str, Values]
"""Whose stem and decoder, and at which choices the cells are run."""


def five_losses(predictions: dict[Ends, Tensor], masks: Tensor) -> Tensor:
    """Sum over the predictions (B, K, ceil(H/8), ceil(W/8)) of the cross-entropy of hard pixels.

    Args:
        masks: (B, H, W) uint8; every eighth pixel of every eighth row is the label, as published.
    """
    labels = masks[:, ::LABEL_STRIDE, ::LABEL_STRIDE].long()
    losses = [
        ohem_cross_entropy(log_probabilities(logits, labels.shape[-2:]), labels, OHEM_THRESHOLD, OHEM_KEEP)
        for logits in predictions.values()
    ]
    return torch.stack(losses).sum()


@dataclass
class CoSearch:
    """The supernet with the two sets of architecture parameters, and how each is moved.

    Attributes:
        latency: of the student; ``None`` leaves it out.
        coupled: whether the three groups of the latency are open at once.
        mixed: whether the supernet runs in bfloat16 where that is safe (autocast).
    """

    space: FasterSegSpace
    teacher: ArchitectureLogits
    student: ArchitectureLogits
    latency: FasterSegLatency | None = None
    coupled: bool = False
    groups: Sequence[float] = ()
    channels_last: bool = True
    mixed: bool = False
    latency_ms: float = field(default=0.0, init=False)
    """The student's expected latency at the last architecture step, weighted as it is regularised."""

    @property
    def architecture(self) -> list[nn.Parameter]:
        """Both sets of architecture parameters."""
        return [*self.teacher.parameters(), *self.student.parameters()]

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those of the supernet."""
        return list(self.space.parameters())

    def pretrain_members(self) -> Iterator[Member]:
        """The widest, the narrowest and two random widths, everything else even.

        As published all of them have the teacher's stem and decoder; the student's are first trained in the search.
        """
        lattice = self.space.lattice
        for width in (lattice.widths[-1], lattice.widths[0]):
            yield "teacher", {**even(lattice), **at_width(lattice, width)}
        for _ in range(2):
            yield "teacher", {**even(lattice), **random_widths(lattice)}

    def search_members(self) -> Iterator[Member]:
        """Teacher and student at drawn widths, and the student's operators and paths at the widest and narrowest."""
        lattice = self.space.lattice
        yield "teacher", self.teacher.draw()
        yield "student", self.student.draw()
        for width in (lattice.widths[-1], lattice.widths[0]):
            yield "student", {**self.student.draw(), **at_width(lattice, width)}

    def pretrain_gradient(self, batch: Batch) -> float:
        """Gradients of the weights; the loss."""
        return self._backward(batch, self.pretrain_members(), self.weights)

    def weights_gradient(self, batch: Batch) -> float:
        """Gradients of the weights alone: the architectures' stay empty; the loss."""
        return self._backward(batch, self.search_members(), self.weights)

    def architecture_gradient(self, batch: Batch, weight: float) -> float:
        """Gradients of the architectures alone, of loss + ``weight`` x the student's latency; the loss without it."""
        return self._backward(batch, self.search_members(), self.architecture, weight)

    def _backward(
        self, batch: Batch, members: Iterator[Member], moved: Sequence[nn.Parameter], weight: float = 0.0
    ) -> float:
        """Member by member, so that one graph is held at a time; gradients add up in ``moved`` and nowhere else."""
        for parameter in (*self.weights, *self.architecture):
            parameter.grad = None
        x, masks = self._input(batch)
        total, regularised = 0.0, not (self.latency and weight)
        for role, values in members:
            loss = five_losses(self._predictions(x, values, role), masks)
            total += float(loss.detach())
            if role == "student" and not regularised:  # its first member is the one at drawn widths
                loss, regularised = loss + weight * self._latency(values), True
            loss.backward(inputs=list(moved))
        return total

    def _predictions(self, x: Tensor, values: Values, role: str) -> dict[Ends, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed):
            found = self.space.predictions(x, values, role)
        return {ends: logits.float() for ends, logits in found.items()}

    def _latency(self, values: Values) -> Tensor:
        assert self.latency is not None
        expected = self.latency(values) if self.coupled else self.latency.decoupled(values, self.groups)
        self.latency_ms = float(expected.detach())
        return expected

    def _input(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.space.mean.device
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x = self.space.normalise(batch.images.to(device)).contiguous(memory_format=layout)
        return x, batch.masks.to(device)


__all__ = ["CoSearch", "Member", "five_losses"]
