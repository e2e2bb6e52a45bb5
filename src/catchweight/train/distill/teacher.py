"""A trained network that others learn from: frozen, in evaluation mode, without gradients."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.classes import ClassSet
from ...errors import UsageError
from ...nets import SegmentationNet, load_network
from .taps import Taps

Size = tuple[int, int]


class Teacher:
    """Runs a copy of ``net`` on uint8 images.

    No module on purpose: it is not among a step's parameters, so it is neither optimised, stored, averaged nor sent
    between processes. It follows the images to their device.

    Args:
        net: the network; it stays as it is.
        size: (H, W) at which it sees the images; by default as they come.
        places: maps to catch on the way, see ``Taps``.
        channels_last: its memory format.
    """

    def __init__(
        self, net: SegmentationNet, size: Size | None = None, places: Sequence[str] = (), channels_last: bool = True
    ) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net.to(memory_format=self.memory_format)
        self.size = size
        self.taps = Taps(self.net, places)

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits ``(B, K, h, w)`` and the caught maps by place, from images ``(B, 3, H, W)`` uint8."""
        if next(self.net.parameters()).device != images.device:
            self.net.to(images.device)
        with torch.no_grad(), self.taps.caught() as maps:
            logits = self.net.logits(seen(self.net, images, self.size, self.memory_format))
        return logits, maps

    def classes(self, images: Tensor, size: Size | torch.Size) -> Tensor:
        """Most likely class of each pixel of a map of ``size`` (H, W): ``(B, H, W)`` int64."""
        logits, _ = self(images)
        return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False).argmax(1)


def seen(
    net: SegmentationNet, images: Tensor, size: Size | torch.Size | None, memory_format: torch.memory_format
) -> Tensor:
    """uint8 images ``(B, 3, H, W)`` as a network takes them: normalised, at ``size`` (antialiased where it differs)."""
    x = net.normalise(images)
    if size is not None and x.shape[-2:] != torch.Size(size):
        x = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return x.contiguous(memory_format=memory_format)


def network_hash(net: SegmentationNet) -> str:
    """A hash of what a network is and of all its weights, 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(net.spec.to_json(), sort_keys=True).encode())
    for name, value in net.state_dict().items():
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def require_same_classes(student: SegmentationNet, *teachers: SegmentationNet) -> None:
    """Raises UsageError when a teacher has another number of classes than the student."""
    for teacher in teachers:
        if teacher.spec.classes != student.spec.classes:
            raise UsageError(
                f"the teacher {teacher.spec.name} tells {teacher.spec.classes} classes apart, the student "
                f"{student.spec.name} {student.spec.classes}: they must have the same"
            )


def load_teacher(path: Path | str, classes: ClassSet) -> SegmentationNet:
    """A teacher from a file that ``train`` or ``fit`` wrote.

    Raises:
        CatchweightError: the file cannot be read.
        UsageError: it was trained on other classes than ``classes``.
    """
    net, meta = load_network(path)
    theirs = meta.get("classes")
    names = ClassSet.from_json(theirs).names if theirs is not None else classes.names
    if tuple(names) != tuple(classes.names):
        raise UsageError(
            f"the teacher {path} knows the classes {', '.join(names)}, but the data set has "
            f"{', '.join(classes.names)}: take a teacher that was trained on the same classes, in the same order"
        )
    return net
